"""TLS 1.3 on frames: what both ends trust and show. No older version is spoken, on either side.

A client trusts the system's authorities, or those of one file instead; it verifies the server's
host name always. A server asks clients for a certificate if it was given an authority to verify it
by. Files are read for every new connection (clients) or when asked (servers), so certificates that
were renewed are found. A key that others may read is refused: it is no secret any more.
"""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dataplatform.base.errors import Denied, Invalid

HANDSHAKE_RECORD = 0x16
"""The first byte of whoever begins TLS (RFC 8446 §5.1)."""


@dataclass(frozen=True, slots=True)
class Trust:
    """A client's side: PEM files, "" where there is none."""

    ca: str = ""
    certificate: str = ""
    key: str = field(default="", repr=False)
    authorities: str = ""
    """The same as `ca`, as the text that would stand in the file."""

    @classmethod
    def from_environment(
        cls,
        ca: str | None = None,
        certificate: str | None = None,
        key: str | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> Trust:
        """What is given, else DP_CA; DP_CERT and DP_KEY, which belong together."""
        if certificate is None and key is None:
            certificate, key = environment.get("DP_CERT"), environment.get("DP_KEY")
        if ca is None:
            ca = environment.get("DP_CA")
        return cls(ca or "", certificate or "", key or "")

    def context(self) -> ssl.SSLContext:
        """INVALID or DENIED, with the file, if one cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies names and certificates
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if self.ca:
            _load_authorities(context, self.ca)
        elif self.authorities:
            _load_authorities(context, "", self.authorities)
        else:
            context.load_default_certs()
        if self.certificate and not self.key:
            raise Invalid(
                "a certificate without its key: name that, too (DP_KEY, key=)",
                certificate=self.certificate,
            )
        if self.certificate:
            _load_certificate(context, self.certificate, self.key)
        elif self.key:
            raise Invalid("a key without a certificate: give both", key=self.key)
        return context


@dataclass(frozen=True, slots=True)
class ServerTls:
    """A server's side: PEM files. `ca` verifies clients; "": they are not asked."""

    certificate: str
    key: str = field(repr=False)
    ca: str = ""
    requires_certificate: bool = False

    def context(self) -> ssl.SSLContext:
        """INVALID or DENIED, with the file, if one cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0  # nobody resumes; each costs a write after the handshake
        _load_certificate(context, self.certificate, self.key)
        if self.ca:
            _load_authorities(context, self.ca)
            context.verify_mode = (
                ssl.CERT_REQUIRED if self.requires_certificate else ssl.CERT_OPTIONAL
            )
        return context


def check_key(path: str) -> None:
    """DENIED if anybody but its owner may read the key; INVALID if it cannot be read."""
    try:
        status = os.stat(path)
    except OSError as e:
        raise Invalid("the key cannot be read", path=path, reason=e.strerror) from None
    if not stat.S_ISREG(status.st_mode):
        raise Invalid("the key is no regular file", path=path)
    if status.st_mode & 0o077:
        raise Denied(f"others may read the key: chmod 600 {path}", path=path)


def user_of(certificate: Mapping[str, Any] | None) -> str:
    """The user that a verified certificate (`getpeercert`) names: its subject's common name.
    "" without one, and for a subject with several, of which none is *the* name."""
    names = [
        value
        for part in (certificate or {}).get("subject", ())
        for name, value in part
        if name == "commonName"
    ]
    return str(names[0]) if len(names) == 1 else ""


def _load_certificate(context: ssl.SSLContext, certificate: str, key: str) -> None:
    check_key(key or certificate)
    try:
        # Without a password function OpenSSL would ask for one on the terminal.
        context.load_cert_chain(certificate, key or None, password=_no_password)
    except ssl.SSLError as e:
        raise Invalid(
            "certificate and key are no PEM files that belong together",
            certificate=certificate,
            key=key or None,
            reason=e.reason,
        ) from e
    except OSError as e:
        raise Invalid("the certificate cannot be read", path=certificate, reason=e.strerror) from e


def _load_authorities(context: ssl.SSLContext, path: str, text: str = "") -> None:
    try:
        context.load_verify_locations(path or None, cadata=text or None)
    except ssl.SSLError as e:
        raise Invalid("no certificates in PEM there", path=path or None, reason=e.reason) from e
    except OSError as e:
        raise Invalid("the authority's certificate cannot be read", path=path) from e


def _no_password() -> str:
    raise Invalid("the key is encrypted: decrypt it, and keep the file to yourself")


def read_pem(path: str) -> bytes:
    """A file for those who want its bytes (gRPC). INVALID."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as e:
        raise Invalid("the file cannot be read", path=path, reason=e.strerror) from None
