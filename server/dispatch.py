"""From a request to its handler: one for both transports, since handlers are written once (D6).

    @rpc("Tables.Put")
    async def put(call: Call, message: pb.PutRequest, data: bytes | memoryview) -> pb.VersionReply:

A handler answers with the reply message, or with it and bulk bytes. It raises PlatformError; any
other exception is a defect of ours: logged with its traceback under an incident number, which is
all that the caller gets to see of it.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from dataplatform.api.methods import METHODS, Method
from dataplatform.base.errors import Internal, PlatformError
from dataplatform.core.platform import Platform
from dataplatform.transport.frames import Data

from .calls import Call
from .facts import ServerFacts
from .metrics import RequestMetrics
from .sessions import Session

logger = logging.getLogger(__name__)

Handler = Callable[..., Awaitable[Any]]
F = TypeVar("F", bound=Handler)

HANDLERS: dict[str, Handler] = {}
"""By name of the method: "Tables.Put"."""


def rpc(name: str) -> Callable[[F], F]:
    """The decorated function handles the method "Service.Method"."""

    def register(function: F) -> F:
        assert name in METHODS, f"{name} is not in platform.proto"
        assert name not in HANDLERS, f"{name} has two handlers"
        HANDLERS[name] = function
        return function

    return register


class Dispatcher:
    """Calls handlers. Raises at once if a method has none."""

    def __init__(
        self,
        platform: Platform,
        server: ServerFacts,
        handlers: Mapping[str, Handler] = HANDLERS,
    ) -> None:
        missing = sorted(METHODS.keys() - handlers.keys())
        if missing:
            raise LookupError(f"methods without a handler: {', '.join(missing)}")
        self.metrics = RequestMetrics(METHODS)
        self._platform = platform
        self._server = server
        self._handlers = {METHODS[name].number: handlers[name] for name in METHODS}

    async def handle(
        self, session: Session, method: Method, message: Any, data: bytes | memoryview
    ) -> tuple[Any, Data]:
        """The reply and its bulk bytes. Raises nothing but PlatformError (and CancelledError)."""
        call = Call(self._platform, session, self._server, method.number)
        started_s = time.perf_counter()
        try:
            outcome = await self._handlers[method.number](call, message, data)
        except PlatformError as e:
            self.metrics.count_error(method, e.kind)
            raise
        except Exception as e:
            error = _incident(method, session, e)
            self.metrics.count_error(method, error.kind)
            raise error from e
        finally:
            call.end()
            self.metrics.count(method, time.perf_counter() - started_s)
        return outcome if type(outcome) is tuple else (outcome, b"")


def _incident(method: Method, session: Session, error: Exception) -> Internal:
    incident = secrets.token_hex(4)
    logger.error(
        "request failed. incident=`%s`, method=`%s`, principal=`%s`",
        incident,
        method.name,
        session.principal,
        exc_info=error,
    )
    return Internal("the server failed, its log says why", incident=incident, method=method.name)


__all__ = ["HANDLERS", "Call", "Dispatcher", "rpc"]
