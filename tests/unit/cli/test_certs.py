"""`dp certs`: what is made, with which rights, and that nothing is overwritten."""

import datetime
import json
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from dataplatform.base.errors import KINDS, ErrorKind, Exists, Invalid, NotFound
from dataplatform_clients.cli import authority
from dataplatform_clients.cli.authority import Authority
from dataplatform_clients.cli.main import run


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_init_client_and_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "certs"
    arguments = ["certs", "init", str(home), "--host", "dp.example.org", "--host", "10.0.0.7"]
    assert run([*arguments, "--client", "ana"]) == 0
    assert run(["certs", "client", str(home), "bob"]) == 0
    assert run(["certs", "server", str(home), "east", "--host", "east.example.org"]) == 0
    capsys.readouterr()
    assert run(["certs", "show", str(home), "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = {Path(s["file"]).name: s for s in map(json.loads, lines)}
    assert {n: s["kind"] for n, s in shown.items()} == {
        "ana.pem": "client",
        "bob.pem": "client",
        "ca.pem": "authority",
        "east.pem": "server",
        "server.pem": "server",
    }
    assert shown["ana.pem"]["subject"] == "ana"
    assert shown["server.pem"]["names"] == ["dp.example.org", "10.0.0.7"]
    assert all(s["valid"] for s in shown.values())
    for key in home.glob("*.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = {p: p.read_bytes() for p in home.iterdir()}
    assert run(arguments) == KINDS[ErrorKind.EXISTS].exit_code
    assert run(["certs", "client", str(home), "ana"]) == KINDS[ErrorKind.EXISTS].exit_code
    assert {p: p.read_bytes() for p in home.iterdir()} == before


def test_uses_and_lifetimes(tmp_path: Path) -> None:
    made = Authority.create(tmp_path)
    server, client = (
        certificate(made.server().certificate),
        certificate(made.client("a").certificate),
    )
    for leaf, use in (
        (server, ExtendedKeyUsageOID.SERVER_AUTH),
        (client, ExtendedKeyUsageOID.CLIENT_AUTH),
    ):
        extensions = leaf.extensions
        assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [use]
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        assert usage.digital_signature
        assert not usage.key_cert_sign
        assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        life = leaf.not_valid_after_utc - leaf.not_valid_before_utc
        assert life <= datetime.timedelta(days=398)
    own = certificate(tmp_path / "ca.pem")
    basic = own.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    own.verify_directly_issued_by(own)
    server.verify_directly_issued_by(own)


def test_the_names_of_this_machine(tmp_path: Path) -> None:
    Authority.create(tmp_path).server()
    (shown,) = authority.show(tmp_path / "server.pem")
    assert {"localhost", "127.0.0.1", "::1"} < set(shown.names)


@pytest.mark.parametrize("name", ["", "../evil", "a/b", "ca", "server", ".hidden", "x" * 65, "a b"])
def test_names_that_are_refused(tmp_path: Path, name: str) -> None:
    made = Authority.create(tmp_path / "c")
    with pytest.raises(Invalid):
        made.client(name)


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="certs init"):
        Authority(tmp_path)
    with pytest.raises(NotFound):
        authority.show(tmp_path / "none.pem")
    (tmp_path / "x.pem").write_text("nothing")
    with pytest.raises(Invalid):
        authority.show(tmp_path / "x.pem")
    with pytest.raises(Invalid):
        Authority.create(tmp_path).server(["no host"])
    with pytest.raises(Exists):
        Authority.create(tmp_path)
