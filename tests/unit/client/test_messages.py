"""What callers pass and no request can hold: Invalid, which names the argument."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import dataplatform
from dataplatform.api import platform_pb2 as pb
from dataplatform.base.limits import PARTITIONS_MAX
from dataplatform.client.clients import Client as AsyncClient
from dataplatform.client.connection import Channel
from dataplatform.client.messages import build, whole_number
from dataplatform.client.producers import Producer, _Topic
from dataplatform.client.runtime import BlockingRuntime, run
from dataplatform.client.sync import Client
from tests.unit.transport.fakes import FETCH, PING, ServerThread

from .fakes import FakeServer, blocking_channel
from .streaming import Streaming

HUGE = 2**70


@pytest.fixture
def server() -> FakeServer:
    server = Streaming(t=2)
    server.answer("Namespace.Create", pb.Node(volume=1, inode=5, kind=pb.FILE))
    server.answer("Files.Open", pb.Node(volume=1, inode=5, kind=pb.FILE))
    server.answer("Files.Close", pb.Empty())
    return server


@pytest.fixture
def dp(server: FakeServer) -> Client:
    return Client(AsyncClient(blocking_channel(server)))


def test_a_field_is_named() -> None:
    target = pb.Target(path="/a")
    assert build(pb.ChangesRequest, target=target, since=3).since == 3
    with pytest.raises(dataplatform.Invalid, match="since is out of range") as caught:
        build(pb.ChangesRequest, target=target, since=-1)
    assert isinstance(caught.value, ValueError)
    assert caught.value.facts["since"] == -1
    with pytest.raises(dataplatform.Invalid, match="since has a wrong type"):
        build(pb.ChangesRequest, target=target, since="1")  # type: ignore[arg-type]


def test_whole_numbers() -> None:
    assert whole_number("n", 0) == 0
    for value in (-1, 2**63, 1.5, "1", None):
        with pytest.raises(dataplatform.Invalid, match="n is"):
            whole_number("n", value)


def open_file(dp: Client) -> Any:
    return dp.open("/f", "r+b", buffering=0)


CALLS: list[tuple[str, Callable[[Client], Any]]] = [
    ("since", lambda dp: list(dp.changes("/", since=-1))),
    ("since", lambda dp: list(dp.changes("/", since=HUGE))),
    ("mode", lambda dp: dp.chmod("/f", -1)),
    ("uid", lambda dp: dp.chown("/f", HUGE)),
    ("atime_ns", lambda dp: dp.utime("/f", ns=(HUGE, 0))),
    ("times", lambda dp: dp.utime("/f", (float("inf"), 0))),
    ("size", lambda dp: dp.truncate("/f", -1)),
    ("size", lambda dp: dp.truncate("/f", HUGE)),
    ("path", lambda dp: dp.stat(7)),  # type: ignore[arg-type]
    ("offset", lambda dp: open_file(dp).pread(10, -1)),
    ("size", lambda dp: open_file(dp).pread(-1, 10)),
    ("offset", lambda dp: open_file(dp).pread(10, HUGE)),
    ("offset", lambda dp: open_file(dp).pwrite(b"x", -1)),
    ("offset", lambda dp: open_file(dp).seek(-1)),
    ("size", lambda dp: open_file(dp).truncate(-1)),
    ("quota_bytes", lambda dp: dp.create_volume("/v", quota_bytes=-1)),
    ("partitions", lambda dp: dp.create_stream("/s", partitions=0)),
    ("partitions", lambda dp: dp.create_stream("/s", partitions=PARTITIONS_MAX + 1)),
    ("partitions", lambda dp: dp.create_stream("/s", partitions="2")),  # type: ignore[arg-type]
    ("bytes_max", lambda dp: dp.create_stream("/s", bytes_max=-1)),
    ("time to live", lambda dp: dp.create_stream("/s", ttl=7)),  # type: ignore[arg-type]
    ("partitions", lambda dp: dp.stream("/s").create_topic("t", -1)),
    ("topic", lambda dp: dp.stream("/s").create_topic(7)),  # type: ignore[arg-type]
    ("offset", lambda dp: dp.stream("/s").consumer("t", start=2**64)),
    ("offset", lambda dp: dp.stream("/s").consumer("t", start=-1)),
    ("place", lambda dp: dp.stream("/s").consumer("t", start=["t"])),  # type: ignore[arg-type]
    ("max_records", lambda dp: dp.stream("/s").consumer("t").poll(0, max_records=-1)),
    ("offset", lambda dp: dp.stream("/s").commit_offsets("g", "t", {0: -1})),
    ("partition", lambda dp: dp.stream("/s").append("t", b"x", partition=-1)),
    ("partition", lambda dp: dp.stream("/s").producer().send("t", b"x", partition=-1)),
    ("header", lambda dp: dp.stream("/s").append("t", b"x", headers={1: b"2"})),  # type: ignore[dict-item]
    ("type", lambda dp: dp.stream("/s").append("t", b"x", headers={"a": 2})),  # type: ignore[dict-item]
    ("headers", lambda dp: dp.stream("/s").append("t", b"x", headers=[1])),  # type: ignore[arg-type]
    ("timestamp", lambda dp: dp.stream("/s").append("t", b"x", timestamp=10**30)),
    ("timestamp", lambda dp: dp.stream("/s").append("t", b"x", timestamp="x")),  # type: ignore[arg-type]
    ("offset", lambda dp: dp.transaction().stream("s").commit_offset("g", "t", 0, -1)),
    ("partition", lambda dp: dp.transaction().stream("s").append("t", b"x", partition=-1)),
    ("version", lambda dp: dp.transaction().expect("/f", -1)),
]


@pytest.mark.parametrize(("says", "call"), CALLS)
def test_calls(dp: Client, says: str, call: Callable[[Client], Any]) -> None:
    with pytest.raises(dataplatform.Invalid, match=says):
        call(dp)


TABLE_CALLS: list[tuple[str, Callable[[Any], Any]]] = [
    ("limit", lambda t: list(t.scan(limit=-1))),
    ("limit", lambda t: list(t.scan(limit=HUGE))),
    ("columns", lambda t: t.put("k", None)),
    ("columns", lambda t: t.put("k", 5)),
    ("columns", lambda t: t.put_many([("k", None)])),
    ("column", lambda t: t.get("k", [1])),
    ("if_version", lambda t: t.put("k", {}, if_version=-1)),
    ("if_version", lambda t: t.delete("k", if_version=HUGE)),
    ("amount", lambda t: t.increment("k", "n", "1")),
    ("filter", lambda t: list(t.scan(where=5))),
]


@pytest.mark.parametrize(("says", "call"), TABLE_CALLS)
def test_table_calls(server: FakeServer, says: str, call: Callable[[Any], Any]) -> None:
    server.answer("Namespace.Stat", pb.Node(volume=1, inode=5, kind=pb.TABLE))
    with pytest.raises(dataplatform.Invalid, match=says):
        call(Client(AsyncClient(blocking_channel(server))).table("/t"))


def test_a_scan_of_no_rows_asks_for_nothing(server: FakeServer) -> None:
    server.answer("Namespace.Stat", pb.Node(volume=1, inode=5, kind=pb.TABLE))
    assert list(Client(AsyncClient(blocking_channel(server))).table("/t").scan(limit=0)) == []


def test_times_before_the_epoch_are_times(dp: Client) -> None:
    stream = dp.stream("/s")
    assert stream.append("t", b"x", timestamp=datetime(1960, 1, 1)).timestamp < 0


def test_a_producer_makes_partitions_as_it_needs_them(server: FakeServer) -> None:
    producer = Producer(blocking_channel(server), pb.Target(), "/s")
    topic = _Topic(producer, "t", 4_000_000_000, 0.0, 0)
    assert topic.of(None, 3_999_999_999) is topic.of(None, 3_999_999_999)
    assert 0 <= topic.of(b"key", None).number < 4_000_000_000
    topic.next_turn()
    assert topic.of(None, None).number == 1


def test_ctrl_c_ends_a_call_that_is_not_answered(tmp_path: Path) -> None:
    main, is_noticed = threading.get_ident(), threading.Event()

    def interrupted(*_: object) -> None:
        if not is_noticed.is_set():
            is_noticed.set()
            raise KeyboardInterrupt

    def interrupt() -> None:
        # Again until it is noticed: a signal just before the system call does not end it.
        while not is_noticed.wait(0.05):
            if thread.handler.started:
                signal.pthread_kill(main, signal.SIGINT)

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        with ServerThread(tmp_path) as thread:
            channel = Channel(thread.address, BlockingRuntime())
            run(channel.connect())
            threading.Thread(target=interrupt).start()
            with pytest.raises(KeyboardInterrupt):
                run(channel.call(FETCH, pb.FetchRequest()))
            run(channel.call(PING, pb.Empty()))  # the client goes on
            run(channel.close())
    finally:
        is_noticed.set()
        signal.signal(signal.SIGINT, before)
