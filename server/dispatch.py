"""From a request to its handler: one for both transports, since handlers are written once (D6).

    @rpc("Tables.Put")
    async def put(call: Call, message: pb.PutRequest, data: bytes | memoryview) -> pb.VersionReply:

`answer` makes the reply of what the lane keeps for a retry: the handler uses it, and so does the
dispatcher when a retry cannot be carried out any more because what it names has gone meanwhile.

A handler answers with the reply message, or with it and bulk bytes. It raises PlatformError; any
other exception is a defect of ours: logged with its traceback under an incident number, which is
all that the caller gets to see of it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from dataplatform.api.methods import METHODS, Method
from dataplatform.base.errors import ErrorKind, Internal, PlatformError
from dataplatform.core.audit.trail import ALL
from dataplatform.core.globalnames import Elsewhere
from dataplatform.core.platform import Platform
from dataplatform.core.volumes import Volume
from dataplatform.transport.frames import Data

from .callers import Callers
from .calls import FIRST_TARGETS, Call
from .clusters import mirrored
from .clusters.routing import SYNC, Destination, Routes
from .facts import ServerFacts
from .fairness import Fairness
from .identity import Attachment
from .limits import FREE_METHODS, Limits
from .metrics import RequestMetrics
from .observing import READS, observe, observe_login, observe_refusal, observe_stranger

logger = logging.getLogger(__name__)

Handler = Callable[..., Awaitable[Any]]
F = TypeVar("F", bound=Handler)

Answer = Callable[[Call, Any, Volume, Any], Any]
"""(call, message, volume, what the lane keeps for a retry) to the reply, or a coroutine for it."""

HANDLERS: dict[str, Handler] = {}
"""By name of the method: "Tables.Put"."""

ANSWERS: dict[str, Answer] = {}
"""By name, of every method that changes something."""

Gathered = Callable[[Call, Any, bytes], "tuple[asyncio.Future[Any], Callable[[Any], Any]] | None"]
"""(call, message, bulk bytes) to the result to come and what makes the reply of it."""

GATHERED: dict[str, Gathered] = {}
"""By name, of methods whose requests may be carried out together."""

_RETRIED = frozenset({ErrorKind.NOT_FOUND, ErrorKind.INVALID, ErrorKind.EXHAUSTED})
"""How a retry fails before the lane knows it: what it names has gone or is something else, or its
bulk bytes find no room."""


def rpc(name: str, answer: Answer | None = None) -> Callable[[F], F]:
    """The decorated function handles the method "Service.Method"; see the module for `answer`."""

    def register(function: F) -> F:
        assert name in METHODS, f"{name} is not in platform.proto"
        assert name not in HANDLERS, f"{name} has two handlers"
        assert METHODS[name].read_only == (answer is None), f"{name}: what answers a retry?"
        HANDLERS[name] = function
        if answer is not None:
            ANSWERS[name] = answer
        return function

    return register


def gathered(name: str) -> Callable[[Gathered], Gathered]:
    """The decorated function begins a request of the method "Service.Method" that is carried out
    together with others, or gives None for one that goes the ordinary way, to its handler. So does
    a request whose result turns out to be an error: the handler knows what to say about it."""

    def register(function: Gathered) -> Gathered:
        assert name in METHODS, f"{name} is not in platform.proto"
        GATHERED[name] = function
        return function

    return register


class _Served(NamedTuple):
    """How a method is served."""

    handler: Handler
    target: str  # the field that also says whom a request is for; empty: none does
    is_limited: bool  # by the limits of volumes
    gathered: Gathered | None
    answer: Answer | None


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
        self.callers = Callers()
        self.limits = Limits(platform.clock)
        self.routes = Routes(platform)
        self.fairness: Fairness | None = None
        """Told of the volumes that requests lead to."""
        self._platform = platform
        self._server = server
        self._served = {
            method.number: _Served(
                handlers[name],
                FIRST_TARGETS.get(method.request, ""),
                name not in FREE_METHODS,
                GATHERED.get(name),
                ANSWERS.get(name),
            )
            for name, method in METHODS.items()
        }

    async def handle(
        self, attachment: Attachment, method: Method, message: Any, data: bytes | memoryview
    ) -> tuple[Any, Data]:
        """The reply and its bulk bytes. Raises nothing but PlatformError (and CancelledError)."""
        served = self._served[method.number]
        try:
            call = self._call(attachment, method, served, message)
        except PlatformError as e:
            self.metrics.count_error(method, e.kind)
            if e.kind is ErrorKind.DENIED:
                observe_stranger(self._platform, attachment, method, e)
            raise
        if served.is_limited:
            call.limits, call.message, call.data = self.limits, message, data
        started_s = time.perf_counter()
        away: Destination | None = None
        try:
            if self.routes.any:
                away = self.routes.find(call, message)
                if away is not None:
                    outcome = await self.routes.forward(away, call, method, message, data)
                    if outcome is not None:
                        return outcome
                    away = None  # a mirror here has it
            try:
                outcome = await served.handler(call, message, data)
            except Elsewhere as e:
                away = self.routes.turn(call, message, e)
                outcome = await self.routes.forward(away, call, method, message, data)
                if outcome is None:  # a mirror here has it
                    away, outcome = None, await served.handler(call, message, data)
            except PlatformError as e:
                outcome = await self._answer_of_before(call, method, message, e)
            if self.routes.any and method is SYNC and not message.HasField("target"):
                await self.routes.sync(call)
            if not (method.read_only or call.principal.is_free):
                call.note_change()
            about = call.about
            if about is not None and about[0].home.settings.audit == ALL and method.number in READS:
                await observe(call, *READS[method.number], message)
        except PlatformError as e:
            self.metrics.count_error(method, e.kind)
            if away is not None:
                raise
            if e.kind is ErrorKind.DENIED:
                await observe_refusal(call, method, e)
            raise await call.named(e, message) from e.__cause__
        except Exception as e:
            error = _incident(method, call, e)
            self.metrics.count_error(method, error.kind)
            raise error from e
        finally:
            call.end()
            self.metrics.count(method, time.perf_counter() - started_s)
        reply, bulk = outcome if type(outcome) is tuple else (outcome, b"")
        if call.as_of_ns:
            mirrored.mark(reply, call.as_of_ns)
        if call.limiters:
            call.charge(reply, bulk)
        return reply, bulk

    def refused(self, origin: str, error: PlatformError) -> None:
        """A listener let somebody not in."""
        if error.kind is ErrorKind.DENIED:
            observe_login(self._platform, origin, error)

    def gather(
        self, attachment: Attachment, method: Method, message: Any, data: bytes
    ) -> tuple[asyncio.Future[Any], Callable[[asyncio.Future[Any]], Any]] | None:
        """The result to come of a request that is carried out together with others, and what
        makes the reply of it. None, or an exception of either: `handle` it instead."""
        served = self._served[method.number]
        if served.gathered is None:
            return None
        started_s = time.perf_counter()
        call = self._call(attachment, method, served, message)
        if self.routes.any and self.routes.find(call, message) is not None:
            call.end()
            return None
        begun = None
        try:
            begun = served.gathered(call, message, data)
        finally:
            if begun is None:
                call.end()
        if begun is None:
            return None
        result, make_reply = begun

        def finish(result: asyncio.Future[Any]) -> Any:
            if not call.principal.is_free:
                call.note_change()
            call.end()
            reply = make_reply(result.result())
            self.metrics.count(method, time.perf_counter() - started_s)
            return reply

        return result, finish

    def _call(self, attachment: Attachment, method: Method, served: _Served, message: Any) -> Call:
        """DENIED if the caller's credential is not good any more, or if it may not speak for the
        one whom the request is for."""
        call = Call(self._platform, attachment, self._server, method.number)
        if self.fairness is not None:
            call.fairness = self.fairness
        if served.target:
            target = getattr(message, served.target)
            if target.HasField("caller"):
                speaker, caller = attachment.credential.now, target.caller
                call.speak(lambda: self.callers.principal(speaker(), caller))
        return call

    async def _answer_of_before(
        self, call: Call, method: Method, message: Any, error: PlatformError
    ) -> Any:
        """The reply of a request that was done before and cannot even begin again. Raises `error`
        if it was not done."""
        answer = self._served[method.number].answer
        if answer is None or error.kind not in _RETRIED or not message.HasField("request"):
            raise error
        found = await call.find_reply(message)
        if found is None:
            raise error
        outcome = answer(call, message, *found)
        return await outcome if isinstance(outcome, Awaitable) else outcome


def _incident(method: Method, call: Call, error: Exception) -> Internal:
    incident = secrets.token_hex(4)
    logger.error(
        "request failed. incident=`%s`, method=`%s`, principal=`%s`",
        incident,
        method.name,
        call.principal,
        exc_info=error,
    )
    return Internal("the server failed, its log says why", incident=incident, method=method.name)


__all__ = ["HANDLERS", "Call", "Dispatcher", "rpc"]
