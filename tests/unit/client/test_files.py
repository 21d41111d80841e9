"""Open files behave as local ones, whatever is gathered, read ahead and under way."""

from __future__ import annotations

import asyncio
import io
import random
from pathlib import Path
from typing import Any

import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Exhausted, Exists, Invalid, NotFound
from dataplatform.client import handles
from dataplatform.client.clients import Client as AsyncClient
from dataplatform.client.sync import Client, File

from .fakes import (
    LOST_AFTER,
    LOST_BEFORE,
    FakeConnection,
    FakeServer,
    async_channel,
    blocking_channel,
)

KIB = 1024


class Disk(FakeServer):
    """One directory of files in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, int] = {}
        self.contents: dict[int, bytearray] = {}
        self.replies: dict[tuple[bytes, int, int], Any] = {}
        for service, methods in {
            "Namespace": ("Create", "SetAttributes", "Stat", "Rename", "Remove"),
            "Files": ("Open", "Close", "Read", "Write", "Sync", "WriteFile"),
        }.items():
            for method in methods:
                handler = getattr(self, method.lower())
                self.handlers[f"{service}.{method}"] = self.once(handler)

    def once(self, handler: Any) -> Any:
        """As the server does: a request id that was answered gets the same answer."""

        def handle(message: Any, data: bytes) -> Any:
            request = getattr(message, "request", None)
            if request is None:
                return handler(message, data)
            key = request.session, request.slot, request.sequence
            if key not in self.replies:
                self.replies[key] = handler(message, data)
            return self.replies[key]

        return handle

    def find(self, target: pb.Target) -> int:
        number = target.inode or self.names.get(target.path, 0)
        if number not in self.contents:
            raise NotFound("no such file", path=target.path)
        return number

    def node(self, number: int) -> pb.Node:
        size = len(self.contents[number])
        return pb.Node(volume=1, inode=number, kind=pb.FILE, size=size, mode=0o644)

    def create(self, message: pb.CreateRequest, data: bytes) -> pb.Node:
        path = message.target.path
        if path in self.names:
            if not message.exist_ok:
                raise Exists("there is one", path=path)
        else:
            self.names[path] = len(self.contents) + 1
            self.contents[self.names[path]] = bytearray()
        return self.node(self.names[path])

    def open(self, message: pb.OpenRequest, data: bytes) -> pb.Node:
        number = self.find(message.target)
        if message.truncate:
            self.contents[number] = type(self.contents[number])()
        return self.node(number)

    def stat(self, message: pb.StatRequest, data: bytes) -> pb.Node:
        return self.node(self.find(message.target))

    def close(self, message: pb.StatRequest, data: bytes) -> pb.Empty:
        return pb.Empty()

    def sync(self, message: pb.SyncRequest, data: bytes) -> pb.SyncReply:
        return pb.SyncReply()

    def read(self, message: pb.ReadRequest, data: bytes) -> tuple[pb.ReadReply, bytes]:
        content = self.contents[self.find(message.target)]
        part = content[message.offset : message.offset + message.length]
        return pb.ReadReply(size=len(content)), bytes(part)

    def write(self, message: pb.WriteRequest, data: bytes) -> pb.WriteReply:
        content = self.contents[self.find(message.target)]
        offset = len(content) if message.append else message.offset
        content.extend(bytes(max(offset - len(content), 0)))
        content[offset : offset + len(data)] = data
        return pb.WriteReply(offset=offset, size=len(content))

    def setattributes(self, message: pb.SetAttributesRequest, data: bytes) -> pb.Node:
        number = self.find(message.target)
        content = self.contents[number]
        if message.HasField("size"):
            del content[message.size :]
            content.extend(bytes(message.size - len(content)))
        return self.node(number)

    def writefile(self, message: pb.WriteFileRequest, data: bytes) -> pb.Node:
        number = self.names[message.target.path] = len(self.contents) + 1
        self.contents[number] = bytearray(data)
        return self.node(number)

    def rename(self, message: pb.RenameRequest, data: bytes) -> pb.Empty:
        self.names[message.target.path] = self.names.pop(message.source.path)
        return pb.Empty()

    def remove(self, message: pb.RemoveRequest, data: bytes) -> pb.Empty:
        self.names.pop(message.target.path, None)
        return pb.Empty()

    def content(self, path: str) -> bytes:
        return bytes(self.contents[self.names[path]])


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def dp(disk: Disk) -> Client:
    return Client(AsyncClient(blocking_channel(disk)))


@pytest.fixture
def small_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few KiB are many calls."""
    monkeypatch.setattr(handles, "CALL_BYTES", 1 * KIB)
    monkeypatch.setattr(handles, "FETCH_BYTES_MIN", 2 * KIB)
    monkeypatch.setattr(handles, "AHEAD_BYTES_MAX", 8 * KIB)
    monkeypatch.setattr(handles, "WRITES_UNDER_WAY", 3)


def step(randomness: random.Random) -> tuple[str, tuple[Any, ...]]:
    size = randomness.choice([0, 1, 10, 700, 1024, 5000])
    at = randomness.randrange(12_000)
    return randomness.choice(
        [
            ("read", (size,)),
            ("read", (size,)),
            ("read", ()),
            ("readinto", (size,)),
            ("write", (randomness.randbytes(size),)),
            ("write", (randomness.randbytes(size),)),
            ("seek", (at,)),
            ("seek", (-min(at, 50), 2)),
            ("seek", (size, 1)),
            ("tell", ()),
            ("truncate", (at,)),
            ("truncate", ()),
            ("flush", ()),
            ("readline", (300,)),
        ]
    )


def do(file: Any, name: str, arguments: tuple[Any, ...]) -> Any:
    try:
        if name == "readinto":
            buffer = bytearray(arguments[0])
            count = file.readinto(buffer)
            return bytes(buffer[:count])
        return getattr(file, name)(*arguments)
    except (OSError, ValueError):
        return "refused"  # a seek before the start


@pytest.mark.usefixtures("small_calls")
@pytest.mark.parametrize("buffering", [-1, 0])
@pytest.mark.parametrize("faulty", [False, True])
def test_a_random_walk_as_a_local_file(
    dp: Client, disk: Disk, tmp_path: Path, seed: int, buffering: int, faulty: bool
) -> None:
    randomness = random.Random(seed)
    local = tmp_path / "f"
    with (
        dp.open("/f", "w+b", buffering=buffering) as file,
        open(local, "w+b", buffering=0) as model,
    ):
        for _ in range(400):
            if faulty and randomness.random() < 0.2:
                name = randomness.choice(["Files.Read", "Files.Write", "Namespace.Stat"])
                disk.fail(name, randomness.choice([LOST_BEFORE, LOST_AFTER]))
            name, arguments = step(randomness)
            assert do(file, name, arguments) == do(model, name, arguments), (name, arguments)
    assert disk.content("/f") == local.read_bytes()


@pytest.mark.usefixtures("small_calls")
def test_sequential_reads_fetch_ahead_and_not_beyond_the_end(dp: Client, disk: Disk) -> None:
    disk.names["/f"], disk.contents[1] = 1, bytearray(random.Random(0).randbytes(20 * KIB))
    with dp.open("/f", "rb") as file:
        parts = []
        while part := file.read(300):
            parts.append(part)
    assert b"".join(parts) == disk.content("/f")
    asked = [(m.offset, m.length) for m in disk.received("Files.Read")]
    # The last one asks whether the file has grown.
    assert asked == [(n * KIB, KIB) for n in range(21)]


def test_small_files_take_one_read(dp: Client, disk: Disk) -> None:
    disk.names["/f"], disk.contents[1] = 1, bytearray(b"small")
    assert dp.read_file("/f") == b"small"
    assert [name for name, _, _ in disk.calls] == ["Files.Read"]
    with dp.open("/f", "rb") as file:
        assert file.read() == b"small"
    assert len(disk.received("Files.Read")) == 2


@pytest.mark.usefixtures("small_calls")
def test_writes_are_gathered_and_split(dp: Client, disk: Disk) -> None:
    with dp.open("/f", "wb") as file:
        for _ in range(50):
            file.write(b"x" * 50)
        file.write(b"y" * 3000)
    sizes = [len(data) for name, _, data in disk.calls if name == "Files.Write"]
    assert sizes == [KIB] * 5 + [380]
    assert disk.content("/f") == b"x" * 2500 + b"y" * 3000


def test_what_is_written_may_change_afterwards(dp: Client, disk: Disk) -> None:
    buffer = bytearray(b"a" * (3 << 20))
    with dp.open("/f", "wb") as file:
        file.write(buffer)
        buffer[:] = b"b" * len(buffer)
    assert disk.content("/f") == b"a" * (3 << 20)


@pytest.mark.usefixtures("small_calls")
@pytest.mark.parametrize("ending", ["write", "flush", "close"])
def test_a_failed_write_surfaces_at_the_next_call(dp: Client, disk: Disk, ending: str) -> None:
    file = dp.open("/f", "wb")
    disk.fail("Files.Write", Exhausted("no space"))
    for _ in range(4):  # the fourth awaits the first
        file.write(b"x" * KIB)
    with pytest.raises(Exhausted):
        file.write(b"z") if ending == "write" else getattr(file, ending)()
    file.close()
    assert file.closed


def test_append_mode_writes_at_the_end(dp: Client, disk: Disk) -> None:
    dp.write_file("/f", b"start")
    with dp.open("/f", "ab") as one, dp.open("/f", "ab") as other:
        one.write(b" one")
        one.flush()
        other.write(b" two")
        other.flush()
        one.write(b" three")
        assert one.tell() == len(b"start one two three")
    assert dp.read_file("/f") == b"start one two three"


def test_modes(dp: Client, disk: Disk) -> None:
    with pytest.raises(FileNotFoundError):
        dp.open("/f")
    with dp.open("/f", "x") as text:
        text.write("ä\nb\n")
    with pytest.raises(FileExistsError):
        dp.open("/f", "x")
    with dp.open("/f") as text:
        assert text.readlines() == ["ä\n", "b\n"]
        assert text.mode == "r"
    with dp.open("/f", "a", newline="\r\n") as text:
        text.write("c\n")
    with dp.open("/f", newline="") as text:
        assert list(text) == ["ä\n", "b\n", "c\r\n"]
    with dp.open("/f", "r+") as text:
        assert text.readline() == "ä\n"
        text.seek(0)
        text.write("o")
    assert dp.read_file("/f").startswith(b"o")
    with dp.open("/f", "w"):
        pass
    assert dp.read_file("/f") == b""
    assert isinstance(dp.open("/f", "rb"), io.RawIOBase)


def test_what_a_mode_does_not_allow(dp: Client) -> None:
    dp.write_file("/f", "x")
    with dp.open("/f", "rb") as reader:
        with pytest.raises(io.UnsupportedOperation):
            reader.write(b"x")
        with pytest.raises(io.UnsupportedOperation):
            reader.truncate(0)
    with dp.open("/f", "wb") as writer, pytest.raises(io.UnsupportedOperation):
        writer.read()
    with pytest.raises(ValueError, match="closed"):
        reader.read()
    with pytest.raises(Invalid):
        dp.open("/f", "rw")


def test_io_classes_wrap_it(dp: Client) -> None:
    dp.write_file("/f", b"1,2\n3,4\n" * 1000)
    with io.BufferedReader(dp.open("/f", "rb")) as buffered:
        assert sum(1 for _ in buffered) == 2000
    file = dp.open("/f", "rb")
    assert isinstance(file, File)
    assert file.peek(3).startswith(b"1,2")
    assert len(list(file)) == 2000
    assert file.read1(10) == b""


def test_pread_and_pwrite_leave_the_position(dp: Client) -> None:
    with dp.open("/f", "w+b") as file:
        file.write(b"0123456789")
        file.pwrite(b"XX", 3)
        assert file.tell() == 10
        assert file.pread(4, 2) == b"2XX5"
        assert file.pread(40, 8) == b"89"
        file.seek(0)
        assert file.read() == b"012XX56789"


def test_large_content_is_written_beside_and_renamed(dp: Client, disk: Disk) -> None:
    content = b"z" * (9 << 20)
    dp.write_file("/big", content, durable=True)
    assert disk.content("/big") == content
    assert list(disk.names) == ["/big"]
    assert len(disk.received("Files.Sync")) == 1
    disk.fail("Namespace.Rename", Exists("there is one"))
    with pytest.raises(Exists):
        dp.write_file("/big", content, no_replace=True)
    assert list(disk.names) == ["/big"]


def test_a_handle_on_a_file_that_is_gone_names_its_path(dp: Client, disk: Disk) -> None:
    dp.write_file("/gone", b"")
    file = dp.open("/gone", "rb")
    del disk.contents[1]
    with pytest.raises(NotFound, match="path=`/gone`"):
        file.read()


@pytest.mark.parametrize("path", ["/\udcff", b"/bytes"])
def test_paths_that_are_not_text(dp: Client, path: Any) -> None:
    with pytest.raises(Invalid, match="path"):
        dp.read_file(path)


async def test_tasks_share_a_handle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each write lands where it belongs, and is read by the task that made it, though any of them
    may have to wait until its bytes have left."""

    async def drain(self: FakeConnection) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(FakeConnection, "drain", drain)
    disk = Disk()
    size, tasks = 600 * KIB, 6
    async with AsyncClient(async_channel(disk)).open("/f", "w+b") as file:

        async def work(number: int) -> None:
            data = bytes([65 + number]) * size
            for place in (number, number + tasks):
                await file.pwrite(data, 2 * place * size)
            await asyncio.sleep(0)  # it is gathered while others write
            for place in (number, number + tasks):
                assert await file.pread(size, 2 * place * size) == data

        await asyncio.gather(*map(work, range(tasks)))
    once = b"".join(bytes([65 + n]) * size + bytes(size) for n in range(tasks))
    assert disk.contents[disk.names["/f"]] == (once + once)[:-size]
