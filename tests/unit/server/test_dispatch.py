"""Every method has a handler; what goes wrong in one is told apart; nothing stays in use."""

import asyncio
import logging
from typing import Any

import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS
from dataplatform.base.errors import ErrorKind, Internal, Invalid, NotFound
from dataplatform.core.platform import Platform
from dataplatform.engine.memory import MemoryStorages
from dataplatform_server import handlers as _handlers  # noqa: F401  registers them
from dataplatform_server.dispatch import HANDLERS, Call, Dispatcher
from dataplatform_server.facts import ServerFacts
from dataplatform_server.identity import Attachment
from dataplatform_server.sessions import Session
from tests.principals import Shown, admin

SESSION = Attachment(Session(b"s" * 16, admin("ana")), Shown(admin("ana")))
STAT = METHODS["Namespace.Stat"]


class Fixture:
    def __init__(self, platform: Platform, handler: Any = None) -> None:
        self.platform = platform
        facts = ServerFacts(engine="memory", data="")
        handlers = HANDLERS | ({"Namespace.Stat": handler} if handler else {})
        self.dispatcher = Dispatcher(platform, facts, handlers)

    async def stat(self, path: str = "/") -> Any:
        request = pb.StatRequest(target=pb.Target(path=path))
        return await self.dispatcher.handle(SESSION, STAT, request, b"")

    @property
    def users(self) -> int:
        return sum(v.users for v in self.platform.volumes)


async def test_a_method_without_a_handler_is_noticed_at_the_start() -> None:
    platform = await Platform.start(MemoryStorages())
    fewer = {n: h for n, h in HANDLERS.items() if n != "Tables.Put"}
    with pytest.raises(LookupError, match=r"Tables\.Put"):
        Dispatcher(platform, ServerFacts(engine="memory", data=""), fewer)
    await platform.close()


async def test_volumes_are_let_go_however_a_call_ends() -> None:
    platform = await Platform.start(MemoryStorages())
    f = Fixture(platform)
    reply, data = await f.stat()
    assert (reply.inode, data) == (1, b"")
    with pytest.raises(NotFound):
        await f.stat("/missing")
    assert f.users == 0

    holding = asyncio.Event()

    async def wait(call: Call, message: Any, data: Any) -> None:
        await call.node(message.target)
        holding.set()
        await asyncio.Event().wait()

    waiting = Fixture(platform, wait)
    task = asyncio.create_task(waiting.stat())
    await holding.wait()
    assert f.users == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert f.users == 0
    await platform.close()


@pytest.mark.allow_warnings("request failed. incident=")
async def test_a_defect_is_internal_and_logged_under_its_incident(
    caplog: pytest.LogCaptureFixture,
) -> None:
    platform = await Platform.start(MemoryStorages())

    async def fail(call: Call, message: Any, data: Any) -> None:
        raise ZeroDivisionError("secret")

    f = Fixture(platform, fail)
    with caplog.at_level(logging.ERROR), pytest.raises(Internal) as caught:
        await f.stat()
    assert "secret" not in str(caught.value)
    (record,) = caplog.records
    assert caught.value.facts["incident"] in record.getMessage()
    assert record.exc_info is not None
    counters = f.dispatcher.metrics.counters()
    assert counters == {"requests.Namespace.Stat": 1, "errors.INTERNAL": 1}
    await platform.close()


async def test_request_ids_and_durability() -> None:
    platform = await Platform.start(MemoryStorages())
    call = Call(platform, SESSION, ServerFacts(engine="memory", data=""))
    message = pb.PutRequest()
    assert call.request(message).session is None
    assert call.request(message).principal.name == "ana"
    message.request.CopyFrom(pb.RequestId(session=b"r" * 16, slot=2, sequence=3))
    request = call.request(message)
    assert (request.session, request.slot, request.sequence) == (b"r" * 16, 2, 3)
    message.request.session = b"short"
    with pytest.raises(Invalid):
        call.request(message)
    wanted = [(pb.CUSTOMARY, (True, False)), (pb.DURABLE, (True,) * 2), (pb.LAZY, (False,) * 2)]
    for durability, expected in wanted:
        message.durability = durability
        assert tuple(call.durable(message, customary=c) for c in (True, False)) == expected
    message.durability = 9
    with pytest.raises(Invalid):
        call.durable(message, customary=True)
    await platform.close()


def test_metrics_are_prometheus_text() -> None:
    from dataplatform_server.metrics import RequestMetrics, gauge

    metrics = RequestMetrics(METHODS)
    for seconds in (0.0, 3e-6, 1e-3, 100.0):
        metrics.count(STAT, seconds)
    metrics.count_error(STAT, ErrorKind.CONFLICT)
    lines = list(metrics.lines())
    label = 'method="Namespace.Stat"'
    assert f'dp_request_seconds_bucket{{{label},le="0.000001"}} 1' in lines
    assert f'dp_request_seconds_bucket{{{label},le="0.000004"}} 2' in lines
    assert f'dp_request_seconds_bucket{{{label},le="+Inf"}} 4' in lines
    assert f"dp_request_seconds_count{{{label}}} 4" in lines
    assert f'dp_request_errors_total{{{label},kind="CONFLICT"}} 1' in lines
    assert list(gauge("g", "t", {"": 1, 'a="b"': 2}))[2:] == ["g 1", 'g{a="b"} 2']
