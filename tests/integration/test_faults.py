"""Bad input and bad places, against a real server: each an error of the right kind that says what
to do, and a server that goes on.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

import dataplatform
from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import ErrorKind, PlatformError
from dataplatform.transport.frames import HEADER, FrameKind
from tests.wires import FramesWire, failure

from .servers import ServerProcess

SESSION = b"faults-16-bytes!"


def at(path: str) -> pb.Target:
    return pb.Target(path=path)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path_factory.mktemp("faults"))
    server.start()
    yield server
    assert server.stop() == 0
    checked = server.check()
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.fixture
def dp(server: ServerProcess) -> Iterator[dataplatform.Client]:
    with dataplatform.connect(server.address, patience_s=5) as client:
        yield client


@pytest.fixture
def wire(server: ServerProcess) -> Iterator[FramesWire]:
    wire = FramesWire(server.address, SESSION)
    yield wire
    wire.socket.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that the test may ruin."""
    server = ServerProcess(tmp_path)
    server.start()
    yield server
    server.stop()


# ---------------------------------------------------------------- names and limits


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("", "below"),
        ("/", "below"),
        ("/.", "cannot be"),
        ("/a/../b", "cannot be"),
        ("/a\0b", "NUL"),
        ("/" + "x" * 256, "too long"),
        ("/" + "é" * 128, "too long"),
        ("/\udcff", "not UTF-8"),
        ("/a" * 257, "too deep"),
        ("/.snapshot", "reserved"),
    ],
)
def test_names(dp: dataplatform.Client, path: str, says: str) -> None:
    with pytest.raises(dataplatform.Invalid, match=says):
        dp.mkdir(path)
    with pytest.raises(dataplatform.Invalid):
        dp.write_file(path, b"x")


def test_the_longest_name_works(dp: dataplatform.Client) -> None:
    for name in ("x" * 255, "é" * 127, "a\nb", " ", "\u202e"):
        dp.write_file(f"/{name}", b"here")
        assert dp.read_file(f"/{name}") == b"here"


@pytest.mark.parametrize(
    ("key", "columns", "says"),
    [
        ("", {"a": 1}, "empty"),
        ("k" * 4097, {"a": 1}, "key is too long"),
        ("k", {"a": b"x" * (4 << 20)}, "row is too large"),
        ("k", {str(i): 1 for i in range(10_001)}, "too many columns"),
        ("k", {"": 1}, "column's name"),
        ("k", {"a": 1 << 64}, "MessagePack"),
    ],
)
def test_rows(dp: dataplatform.Client, key: str, columns: dict[str, Any], says: str) -> None:
    table = dp.table("/rows") if dp.exists("/rows") else dp.create_table("/rows")
    with pytest.raises(dataplatform.Invalid, match=says):
        table.put(key, columns)
    assert list(table.scan()) == []


def test_topics_offsets_and_groups(dp: dataplatform.Client) -> None:
    stream = dp.create_stream("/offsets", partitions=2)
    with stream.producer() as producer:
        producer.send("t", value=b"x", partition=0)
    with pytest.raises(dataplatform.NotFound, match="no such topic"):
        stream.consumer("unknown", start="earliest", follow=False).poll(timeout_s=1)
    with (
        stream.consumer("t", start=1000, follow=False) as consumer,
        pytest.raises(dataplatform.Invalid, match="beyond the end"),
    ):
        consumer.poll(timeout_s=1)
    with pytest.raises(dataplatform.NotFound, match="no such group"):
        stream.group("unknown")
    with (
        pytest.raises(dataplatform.Invalid, match="no such partition"),
        stream.producer() as producer,
    ):
        producer.send("t", value=b"x", partition=9)
    for name in ("", "a b", "x" * 250, ".", "a/b"):
        with pytest.raises(dataplatform.Invalid, match="topic"):
            stream.create_topic(name)


# ---------------------------------------------------------------- the wire


def batch(records: int = 1) -> bytearray:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 20,
    )
    for i in range(records):
        builder.append(i, timestamp=1, key=None, value=b"v", headers=[])
    return bytearray(builder.build())


def changed(offset: int, value: bytes) -> bytes:
    raw = batch()
    raw[offset : offset + len(value)] = value
    return bytes(raw)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (changed(30, b"\x07"), "CRC"),
        (changed(16, b"\x01"), "magic|version|format"),
        (changed(8, struct.pack(">i", 2**31 - 1)), ""),
        (changed(8, struct.pack(">i", -5)), ""),
        (bytes(batch())[:20], ""),
        (b"", ""),
    ],
    ids=["crc", "magic", "length", "negative", "cut", "empty"],
)
def test_damaged_batches(dp: dataplatform.Client, wire: FramesWire, raw: bytes, says: str) -> None:
    if not dp.exists("/damaged"):
        dp.create_stream("/damaged").create_topic("t")
    part = pb.AppendRequest.Part(topic="t", partition=0, length=len(raw))
    kind, message = failure(
        wire.call("Streams.Append", pb.AppendRequest(stream=at("/damaged"), parts=[part]), raw)
    )
    assert kind == "INVALID"
    if says:
        assert any(word in message for word in says.split("|")), message
    assert dp.stream("/damaged").offsets("t", "latest") == {0: 0}


def test_what_is_no_frame(server: ServerProcess, dp: dataplatform.Client) -> None:
    for raw in (
        HEADER.pack(2**32 - 1, FrameKind.REQUEST, 0, 1, 1, 0),
        HEADER.pack(100, FrameKind.REQUEST, 0, 1, 1, 2**31),
        HEADER.pack(0, 0, 0, 0, 0, 0),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ):
        wire = FramesWire(server.address, SESSION)
        wire.socket.sendall(raw)
        reply = wire.receive()
        assert (reply.kind, reply.call) == (FrameKind.ERROR, 0)
        assert failure(pb.ErrorInfo.FromString(reply.message))[0] == "INVALID"
        with pytest.raises(EOFError):
            wire.receive()
    assert dp.stat("/").kind == "directory"


@pytest.mark.parametrize("kind", [-1, 10, 77])
def test_unknown_kind(wire: FramesWire, kind: int) -> None:
    request = pb.CreateRequest(target=at("/unknown-kind"), kind=kind)  # type: ignore[arg-type]
    assert failure(wire.call("Namespace.Create", request))[0] == "INVALID"


def test_request_id_used_for_another_request(wire: FramesWire) -> None:
    request = pb.RequestId(session=SESSION, slot=3, sequence=1)
    table = pb.CreateRequest(target=at("/reused"), kind=pb.TABLE, request=request)
    assert isinstance(wire.call("Namespace.Create", table), pb.Node)
    put = pb.PutRequest(table=at("/reused"), key=b"k", request=request)
    kind, _ = failure(wire.call("Tables.Put", put, msgpack.packb({"n": 1})))
    assert kind == "INVALID"


def test_too_many_partitions(dp: dataplatform.Client) -> None:
    with pytest.raises(dataplatform.Invalid, match="partitions"):
        dp.create_stream("/too-many", partitions=4_000_000_000)


@pytest.mark.parametrize("number", [-1, 2**70])
def test_numbers_out_of_range_are_our_errors(dp: dataplatform.Client, number: int) -> None:
    with pytest.raises(dataplatform.Invalid):
        list(dp.changes("/", since=number))


def test_committed_offset_beyond_the_end_is_no_damage(own: ServerProcess) -> None:
    """Refused, or else nothing that the check complains about."""
    with dataplatform.connect(own.address) as dp:
        with dp.create_stream("/s").producer() as producer:
            producer.send("t", value=b"x")
        try:
            with dp.transaction("/") as tx:
                tx.stream("s").commit_offset("g", "t", partition=0, offset=1000)
        except dataplatform.Invalid:
            pass
    own.stop()
    checked = own.check()
    assert checked.returncode == 0, checked.stdout


def test_a_bad_request_id_does_not_stop_the_next_start(own: ServerProcess) -> None:
    wire = FramesWire(own.address, SESSION)
    good = pb.RequestId(session=SESSION, slot=0, sequence=1)
    wire.call("Volumes.Create", pb.VolumeRequest(target=at("/v"), request=good))
    bad = pb.RequestId(session=SESSION, slot=5000, sequence=1)
    outcome = wire.call("Volumes.Remove", pb.VolumeRequest(target=at("/v"), request=bad))
    assert failure(outcome)[0] == "INVALID"
    own.stop()
    own.start()
    with dataplatform.connect(own.address) as dp:
        assert [v.path for v in dp.volumes()] == ["/", "/v"]


def test_repeated_removal_of_a_volume(own: ServerProcess) -> None:
    wire = FramesWire(own.address, SESSION)
    wire.call("Volumes.Create", pb.VolumeRequest(target=at("/v")))
    request = pb.RequestId(session=SESSION, slot=0, sequence=1)
    message = pb.VolumeRequest(target=at("/v"), request=request)
    assert isinstance(wire.call("Volumes.Remove", message), pb.Empty)
    assert isinstance(wire.call("Volumes.Remove", message), pb.Empty)


# ---------------------------------------------------------------- places


def refused(server: ServerProcess) -> str:
    """What a server that cannot start says."""
    with pytest.raises(RuntimeError) as caught:
        server.start()
    text = str(caught.value)
    assert "Traceback" not in text, text
    return text


def test_second_server(own: ServerProcess) -> None:
    with dataplatform.connect(own.address) as dp:
        dp.write_file("/f", b"x", durable=True)
        second = ServerProcess(own.directory)
        second.socket = own.directory / "second.sock"
        text = refused(second)
        assert "ended with 8" in text
        assert "another server (pid" in text
        assert dp.read_file("/f") == b"x"


def test_newer_format_and_foreign_directories(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path)
    server.start()
    server.stop()
    data = tmp_path / "data"
    file = data / "format.json"
    original = file.read_bytes()

    file.write_text(json.dumps(json.loads(original) | {"format": 99, "written_by": "later 9.9"}))
    text = refused(server)
    assert "newer format" in text
    assert "later 9.9" in text
    for damaged in (b"", b"{}", b"[1]", b"\xff"):
        file.write_bytes(damaged)
        assert "format.json is not readable" in refused(server)
    file.unlink()
    assert "choose an empty one" in refused(server)
    file.write_bytes(original)
    server.start()
    assert server.stop() == 0

    shutil.rmtree(data)
    data.write_text("a file")
    assert "data directory" in refused(server)
    assert data.read_text() == "a file"


def test_sockets(own: ServerProcess, tmp_path: Path) -> None:
    other = ServerProcess(tmp_path / "other")
    other.directory.mkdir()
    other.socket = own.socket
    assert "another server listens on this socket" in refused(other)
    own.kill()
    assert own.socket.exists()  # left behind
    own.start()
    with dataplatform.connect(own.address) as dp:
        assert dp.stat("/").kind == "directory"
    other.socket = tmp_path / "plain-file"
    other.socket.write_text("mine")
    assert "not a socket" in refused(other)
    assert other.socket.read_text() == "mine"


def test_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(dataplatform.Unavailable, match="dp server start"):
        dataplatform.connect(f"dp+unix://{tmp_path}/none.sock", patience_s=0.2)
    with pytest.raises(dataplatform.Invalid, match="not a server address"):
        dataplatform.connect("bogus")


def test_errors_are_typed(dp: dataplatform.Client) -> None:
    with pytest.raises(PlatformError) as caught:
        dp.stat("/not/there")
    assert caught.value.kind is ErrorKind.NOT_FOUND
    assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.allow_warnings("beyond the end")
def test_a_group_offset_beyond_the_end_goes_on_at_the_end(dp: dataplatform.Client) -> None:
    dp.mkdir("/ahead")
    stream = dp.create_stream("/ahead/events")
    stream.append("t", b"0")
    with dp.transaction("/ahead") as tx:
        tx.stream("events").commit_offset("agg", "t", partition=0, offset=42)
    with stream.consumer("t", group="agg") as consumer:
        assert consumer.poll(timeout_s=0.2) == []
        stream.append("t", b"1")
        assert [record.value for record in consumer.poll(timeout_s=5)] == [b"1"]


def test_removing_a_tree_never_reaches_into_a_volume(dp: dataplatform.Client) -> None:
    dp.mkdir("/tree/inside", parents=True)
    dp.write_file("/tree/inside/file", b"x")
    dp.create_volume("/tree/volume")
    dp.write_file("/tree/volume/file", b"y")
    for path in ("/", "/tree", "/tree/volume"):
        with pytest.raises(dataplatform.Invalid, match="dp volume remove"):
            dp.rmtree(path)
    assert dp.read_file("/tree/inside/file") == b"x"
    assert dp.read_file("/tree/volume/file") == b"y"
