"""A small certificate authority: one key that signs the certificates of servers and clients.

A directory holds `ca.pem`, `ca.key`, and `NAME.pem`, `NAME.key` for everybody else. Keys are P-256:
Python's ssl and gRPC's BoringSSL both take them (BoringSSL verifies no Ed25519 unless told). A
client's subject has its user's name as the common name (CN), which is how the server knows it; a
server's certificate can't be shown as a client's, nor the other way round (RFC 5280 §4.2.1.12).

Nothing is overwritten. A key is made with mode 0600, before anything is in it.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dataplatform.base.errors import Exists, Invalid, NotFound

CA_DAYS = 3650
LEAF_DAYS = 397
"""Of servers and clients: what browsers allow at most, so that renewing is a habit."""

CLOCKS_APART = datetime.timedelta(minutes=5)
"""Certificates are valid from a little before they were made."""

COMMON_NAME_MAX = 64
"""RFC 5280, appendix A.1: ub-common-name."""

AUTHORITY = "ca"
SERVER = "server"
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]*")

_SERVER_USE = ExtendedKeyUsageOID.SERVER_AUTH
_CLIENT_USE = ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True, slots=True)
class Files:
    """Where a certificate and its key are."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Shown:
    """What people want to know of a certificate."""

    file: str
    kind: str
    subject: str
    names: tuple[str, ...]
    issuer: str
    begins: datetime.datetime
    ends: datetime.datetime
    serial: str
    sha256: str

    def is_valid(self, now: datetime.datetime) -> bool:
        return self.begins <= now < self.ends


class Authority:
    """The authority of one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        pair = _files(directory, AUTHORITY)
        try:
            self._certificate = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
            key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
        except FileNotFoundError as error:
            raise NotFound(
                "no authority there: make one with `dp certs init`", path=error.filename
            ) from None
        except ValueError as error:
            raise Invalid("the authority's files are damaged", path=directory) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise Invalid("the authority's key is no elliptic curve's", path=pair.key)
        self._key = key

    @classmethod
    def create(
        cls, directory: Path, name: str = "", *, now: datetime.datetime | None = None
    ) -> Authority:
        """A new one. EXISTS if there is one."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        pair = _files(directory, AUTHORITY)
        _refuse_existing(pair)
        begins = now or _now()
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject(name or f"dataplatform CA of {socket.gethostname()}"[:COMMON_NAME_MAX])
        certificate = (
            _builder(subject, subject, key.public_key(), begins, CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        _write(pair, key, certificate)
        return cls(directory)

    def server(
        self,
        hosts: Iterable[str] = (),
        *,
        name: str = SERVER,
        now: datetime.datetime | None = None,
        days: int = LEAF_DAYS,
    ) -> Files:
        """A certificate of a server that is reached as `hosts` (names, addresses, `*.example.org`);
        without any, by the names that this machine has for itself. EXISTS."""
        names = [_general_name(h) for h in hosts or default_hosts()]
        common = next((str(n.value) for n in names), name)[:COMMON_NAME_MAX]
        return self._issue(
            name, common, _SERVER_USE, x509.SubjectAlternativeName(names), now or _now(), days
        )

    def client(
        self, user: str, *, now: datetime.datetime | None = None, days: int = LEAF_DAYS
    ) -> Files:
        """A certificate by which its holder is `user`. EXISTS."""
        if user in (AUTHORITY, SERVER):
            raise Invalid("that is the name of another file there: choose another", name=user)
        return self._issue(user, user, _CLIENT_USE, None, now or _now(), days)

    def _issue(
        self,
        name: str,
        common_name: str,
        use: x509.ObjectIdentifier,
        names: x509.SubjectAlternativeName | None,
        begins: datetime.datetime,
        days: int,
    ) -> Files:
        if not _FILE_NAME.fullmatch(name) or len(name) > COMMON_NAME_MAX:
            raise Invalid(
                "a name is 1 to 64 letters, digits, dots, dashes, underscores and @", name=name
            )
        pair = _files(self._directory, name)
        _refuse_existing(pair)
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = self._certificate.subject
        builder = (
            _builder(_subject(common_name), issuer, key.public_key(), begins, days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        _write(pair, key, builder.sign(self._key, hashes.SHA256()))
        return pair


def default_hosts() -> list[str]:
    """What a server on this machine is called: its loopback names, and its host name."""
    hosts = ["localhost", "127.0.0.1", "::1"]
    return list(dict.fromkeys([socket.gethostname(), socket.getfqdn(), *hosts]))


def show(path: Path) -> list[Shown]:
    """The certificates of a file, or of every `*.pem` of a directory. NOT_FOUND, INVALID."""
    files = sorted(path.glob("*.pem")) if path.is_dir() else [path]
    return [shown for file in files for shown in _show(file)]


def _show(file: Path) -> list[Shown]:
    try:
        certificates = x509.load_pem_x509_certificates(file.read_bytes())
    except FileNotFoundError:
        raise NotFound("no such file", path=file) from None
    except ValueError as error:
        raise Invalid("not a certificate in PEM", path=file) from error
    return [
        Shown(
            str(file),
            _kind(certificate),
            _common_name(certificate.subject),
            _names(certificate),
            _common_name(certificate.issuer),
            certificate.not_valid_before_utc,
            certificate.not_valid_after_utc,
            f"{certificate.serial_number:x}",
            certificate.fingerprint(hashes.SHA256()).hex(),
        )
        for certificate in certificates
    ]


def _kind(certificate: x509.Certificate) -> str:
    extensions = certificate.extensions
    try:
        if extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return "authority"
    except x509.ExtensionNotFound:
        pass
    try:
        uses = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return "any"
    known = {_SERVER_USE: "server", _CLIENT_USE: "client"}
    return " ".join(known[use] for use in uses if use in known) or "other"


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in names)


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else name.rfc4514_string()


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    try:
        if not host or any(c.isspace() or c in "/:" for c in host):
            raise ValueError
        return x509.DNSName(host.encode("idna").decode() if not host.isascii() else host)
    except ValueError:
        raise Invalid("neither a host name nor an address", host=host) from None


def _subject(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    begins: datetime.datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins - CLOCKS_APART)
        .not_valid_after(begins + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _files(directory: Path, name: str) -> Files:
    return Files(directory / f"{name}.pem", directory / f"{name}.key")


def _refuse_existing(pair: Files) -> None:
    for path in (pair.certificate, pair.key):
        if path.exists():
            raise Exists("there is one already, and nothing is overwritten: move it", path=path)


def _write(pair: Files, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    encoded = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _write_new(pair.key, encoded, 0o600)
    _write_new(pair.certificate, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _write_new(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise Exists(
            "there is one already, and nothing is overwritten: move it", path=path
        ) from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
