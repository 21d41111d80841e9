"""Access expressions: who may do what, by path; and why. Synchronous."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ..access import Access as AsyncAccess
from ..paths import Path
from ..runtime import run
from ..values import AccessRules, Verdict
from .base import Operations


class Access:
    """`client.acl`. An expression is text such as `u:ana | (g:eng & !u:bob)`: users, groups, `p`
    for everybody, `""` for nobody. Verbs are "read", "write", "execute", "list", "create",
    "delete", "admin", of streams "produce", "consume", "topics"; "read:COLUMN" and "write:COLUMN"
    of tables."""

    def __init__(self, access: AsyncAccess) -> None:
        self._aio = access

    def get(self, path: Path) -> AccessRules:
        """What is set on `path`, and what it inherits."""
        return run(self._aio.get(path))

    def set(
        self,
        path: Path,
        rules: Mapping[str, str | None] | None = None,
        /,
        *,
        unset: Iterable[str] = (),
        recursive: bool = False,
        progress: Callable[[int], None] | None = None,
        **verbs: str | None,
    ) -> int:
        """Set expressions by verb; None, or a name in `unset`, takes one away, so that the nearest
        directory above that sets the verb decides again, else the mode. How many things changed.

            dp.acl.set("/projects", read="g:eng", write="u:ana")
            dp.acl.set("/projects/cars/vehicles", {"read:owner": "u:ana"})

        `recursive` also takes the same verbs away from everything below, so that what is set here
        holds there; `progress` is called with how many more things that changed. Raises Invalid
        for an expression that cannot be read, Denied without `admin`.
        """
        return run(
            self._aio.set(path, rules, unset=unset, recursive=recursive, progress=progress, **verbs)
        )

    def check(self, path: Path, user: str | None = None, *verbs: str) -> list[Verdict]:
        """What `user` (you, if None) may do with `path`, and why: a verdict for each verb (none:
        all that it knows). Asking about others needs `admin` of it."""
        return run(self._aio.check(path, user, *verbs))

    def copy(self, source: Path, target: Path) -> None:
        """Set on `target` what is set on `source`."""
        run(self._aio.copy(source, target))


class AccessOperations(Operations):
    @property
    def acl(self) -> Access:
        """Access expressions: `get`, `set`, `check`."""
        return Access(self._aio.acl)
