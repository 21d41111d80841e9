"""Secrets are not compared byte by byte: how long that takes tells how much was right.

Tokens are signed and looked up by their digest; where one secret is compared with another it must
be by `hmac.compare_digest`. The test reads the source for `==` and `!=` beside names of secrets.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

SECRET = re.compile(
    r"(^|_)(secret|token|password|passphrase|signature|mac|hmac|authorization|bearer|private_key"
    r"|master_key|digest)$"
)

NO_SECRETS = {
    ("core/identities.py", "principal.token != token_id"): "ids of tokens, which are listed",
    (
        "client/connection.py",
        "self._connections.get(connection) == self._token()",
    ): "one's own token with itself: whether the file has another one by now",
    ("core/clusters.py", "known.token == old"): "what was read from the same record before",
}
"""Comparisons whose names say more than they are."""


def name_of(node: ast.expr) -> str:
    if isinstance(node, ast.Call):
        node = node.func
    if isinstance(node, ast.Subscript):
        node = node.value
    return {ast.Name: "id", ast.Attribute: "attr"}.get(type(node), "") and (
        node.id if isinstance(node, ast.Name) else node.attr  # type: ignore[attr-defined]
    )


def comparisons(source: str) -> list[str]:
    """Of secrets, as they are written."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Compare):
            continue
        sides = [node.left, *node.comparators]
        if not any(isinstance(op, (ast.Eq, ast.NotEq)) for op in node.ops):
            continue
        if any(isinstance(side, ast.Constant) for side in sides):
            continue  # whether there is one at all
        if any(SECRET.search(name_of(side)) for side in sides):
            found.append(ast.unparse(node))
    return found


def test_no_secret_is_compared_byte_by_byte() -> None:
    wrong = []
    for folder in ("dataplatform", "server", "clients"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.name.endswith("_pb2.py"):
                continue
            for text in comparisons(path.read_text()):
                short = "/".join(path.parts[-2:])
                if (short, text) not in NO_SECRETS:
                    wrong.append(f"{path.relative_to(ROOT)}: {text}")
    assert wrong == []


def test_the_test_would_notice() -> None:
    assert comparisons("if given.token == stored: pass") == ["given.token == stored"]
    assert comparisons("x = secret != self._secret") == ["secret != self._secret"]
    assert comparisons("y = hash(a).hexdigest == b; z = a == message_digest()") == [
        "a == message_digest()"
    ]
    assert comparisons("if hmac.compare_digest(token, stored) and token != '': pass") == []
