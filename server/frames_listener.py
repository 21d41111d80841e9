"""Frames on TCP and on a Unix socket: a connection's handshake, its session, its requests."""

from __future__ import annotations

import os
import socket
import stat
import time
from pathlib import Path

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Denied, Exists, Invalid, PlatformError, Unavailable
from dataplatform.transport.addresses import (
    UNIX_SCHEME,
    Address,
    check_socket_path,
    default_socket_path,
    make_private_directory,
)
from dataplatform.transport.serving import FrameServer, ServerConnection, ServingLimits
from dataplatform.transport.tls_listening import Context
from dataplatform.transport.turns import Turns

from .dispatch import Dispatcher
from .facts import ServerFacts
from .fairness import Fairness
from .identity import Attachment, Credential, Credentials
from .sessions import Sessions

PROBE_TIMEOUT_S = 1.0

PROGRAM_CHARACTERS_MAX = 64
"""Of a program's name in an origin: clients say it, and it stands in every change row."""


class FramesListener:
    """Belongs to the running loop."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        sessions: Sessions,
        facts: ServerFacts,
        cluster: str,
        credentials: Credentials,
        limits: ServingLimits | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._sessions = sessions
        self._facts = facts
        self._cluster = cluster
        self._credentials = credentials
        self._socket_path: Path | None = None
        self._server = FrameServer(
            lambda connection, *request: dispatcher.handle(connection.session, *request),
            self._welcome,
            self._farewell,
            limits,
            gather=lambda connection, *request: dispatcher.gather(connection.session, *request),
            group_of=lambda connection: connection.session.session.volume,
        )
        dispatcher.fairness = Fairness(self._contended, self._server.loop.call_later)

    def _contended(self, is_contended: bool) -> None:
        self._server.turns.is_contended = is_contended

    @property
    def turns(self) -> Turns:
        """Whose turn it is while volumes contend."""
        return self._server.turns

    @property
    def connections(self) -> int:
        return len(self._server.connections)

    @property
    def charged_bytes(self) -> int:
        return self._server.budget.used_bytes

    async def listen_tcp(self, host: str, port: int, tls: Context | None = None) -> Address:
        """With `tls`, nothing else is spoken there."""
        try:
            chosen_host, chosen_port = await self._server.listen_tcp(host, port, tls)
        except OSError as e:
            raise cannot_listen(f"{host}:{port}", "--listen", e) from e
        return Address("dps" if tls else "dp", host=chosen_host, port=chosen_port)

    async def listen_unix(self, path: Path, *, is_shared: bool = False) -> Address:
        """A socket that only its owner may use or, if it is shared, everybody on this machine, who
        is known by the kernel (SO_PEERCRED). EXISTS if another server answers there."""
        check_socket_path(str(path))
        if path == default_socket_path():
            make_private_directory(path.parent)
        _remove_stale_socket(path)
        # From the first moment, hence no chmod afterwards.
        old_mask = os.umask(0o111 if is_shared else 0o177)
        try:
            await self._server.listen_unix(str(path))
        except OSError as e:
            raise cannot_listen(str(path), "--socket", e) from e
        finally:
            os.umask(old_mask)
        self._socket_path = path
        return Address(UNIX_SCHEME, path=str(path))

    async def close(self, grace_s: float) -> None:
        """See `FrameServer.close`."""
        if self._socket_path is not None:
            self._socket_path.unlink(missing_ok=True)
        await self._server.close(grace_s)

    async def _welcome(self, connection: ServerConnection, hello: pb.Hello) -> pb.HelloReply:
        origin = _origin(connection, hello.program)
        try:
            credential = self._credential(connection, hello)
            principal = credential.now()
            session = self._sessions.attach(
                hello.session,
                principal,
                hello.program,
                connection.peer_pid,
                connection.peer_uid or 0,
            )
        except PlatformError as error:
            self._dispatcher.refused(origin, error)
            raise
        connection.session = Attachment(session, credential, origin, hello.cluster)
        return pb.HelloReply(
            server=self._facts.program,
            cluster=self._cluster,
            instance=self._facts.instance,
            store=self._facts.store,
            user=principal.name,
            uid=principal.uid,
            may_speak=principal.may_speak,
            grpc_port=self._facts.grpc_port,
            now_ns=time.time_ns(),
        )

    def _credential(self, connection: ServerConnection, hello: pb.Hello) -> Credential:
        """What the caller has shown: a token goes before all else. DENIED."""
        if hello.token:
            return self._credentials.of_token(hello.token)
        if connection.peer_uid is not None:
            return self._credentials.of_uid(connection.peer_uid)
        if connection.certificate_user:
            return self._credentials.of_certificate(connection.certificate_user)
        return self._credentials.nobody

    def review(self) -> None:
        """End the connections whose credential is not good any more, and the waiting requests of
        those that act for somebody else now: they are asked again, by whoever that is."""
        for connection in list(self._server.connections):
            attachment: Attachment | None = connection.session
            if attachment is None:
                continue
            try:
                if attachment.has_changed():
                    connection.stop()
            except Denied as error:
                connection.refuse(error)

    def _farewell(self, connection: ServerConnection) -> None:
        attachment: Attachment = connection.session
        self._sessions.detach(attachment.session, by_client=connection.is_closed_by_peer)


def _origin(connection: ServerConnection, program: str) -> str:
    """From where, and what the program says that it is: for the audit."""
    if connection.peer_uid is None:
        place = f"tcp {connection.peer}"
    else:
        place = f"unix pid {connection.peer_pid} uid {connection.peer_uid}"
    said = "".join(c for c in program[:PROGRAM_CHARACTERS_MAX] if c.isprintable())
    return f"{place} ({said})" if said else place


def cannot_listen(where: str, option: str, error: Exception) -> PlatformError:
    """What to say when a listening socket cannot be had."""
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return Unavailable(
        f"cannot listen there: does another server run? Choose another with {option}",
        address=where,
        reason=reason,
    )


def _remove_stale_socket(path: Path) -> None:
    """What a killed server left behind goes; anything else stays and is named."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Invalid("not a socket, so it is left alone: choose another --socket", path=path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except OSError:
            pass  # somebody is there, if too busy to answer
    raise Exists("another server listens on this socket: choose another --socket", path=path)
