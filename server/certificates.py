"""The server's certificates as they are now: read at the start, and again on SIGHUP.

New connections get what was read last; those that are there keep what they shook hands with. If the
files are wrong, the old ones stay in use and the log says what is wrong.
"""

from __future__ import annotations

import logging
import ssl

import grpc

from dataplatform.base.errors import PlatformError
from dataplatform.transport.tls import ServerTls, read_pem

logger = logging.getLogger(__name__)


class Certificates:
    """Contexts for the listeners. INVALID or DENIED, with the file, if one cannot be used."""

    def __init__(self, settings: ServerTls) -> None:
        self._settings = settings
        self._context = settings.context()
        self._grpc = self._grpc_configuration()

    def context(self) -> ssl.SSLContext:
        """For the next connection of frames or HTTP."""
        return self._context

    def reload(self) -> None:
        """Read the files again."""
        try:
            context, configuration = self._settings.context(), self._grpc_configuration()
        except PlatformError as error:
            logger.error("certificates not reloaded, the old ones stay. reason=`%s`", error)
            return
        self._context, self._grpc = context, configuration
        logger.info("certificates reloaded. certificate=`%s`", self._settings.certificate)

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """gRPC for Python requires client certificates or does not ask for them; there is no third.
        So it asks only if they are required; else its clients come with tokens."""
        return grpc.dynamic_ssl_server_credentials(
            self._grpc, lambda: self._grpc, self._settings.requires_certificate
        )

    def _grpc_configuration(self) -> grpc.ServerCertificateConfiguration:
        settings = self._settings
        pair = read_pem(settings.key), read_pem(settings.certificate)
        authorities = read_pem(settings.ca) if settings.ca else None
        return grpc.ssl_server_certificate_configuration([pair], authorities)
