"""Requests made up from the descriptors: of every method, with every field, more or less wrong.

How wild a request is varies: in the tame ones all values come from a pool of what exists, so that
calls get deep; in the wild ones most are extremes of their type. A seed gives the same again.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgpack
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS, Method
from dataplatform.base.limits import FRAME_BYTES_MAX, SLOTS_MAX
from tests.sharing import memfd
from tests.streaming import build_batch

_F = FieldDescriptor
_RANGES = {
    _F.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    _F.CPPTYPE_UINT32: (0, 2**32 - 1),
    _F.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    _F.CPPTYPE_UINT64: (0, 2**64 - 1),
}
REQUEST_BYTES_MAX = FRAME_BYTES_MAX - 100
WAITS = {"wait_ms"}
"""A wait that was asked for is no hang: these stay short."""

RARE = {
    "Volumes.Create": 0.1,
    "Volumes.Remove": 0.1,
    "System.Check": 0.05,
    "System.Status": 0.1,
    "Namespace.Watch": 0.1,
    "Volumes.RotateKey": 0.2,  # no volume of the fuzzed server is encrypted
    "Volumes.Lock": 0.2,
    "Volumes.Unlock": 0.2,
    "System.RotateMaster": 0.2,
}
"""Methods that take long, or after which others wait for the caller: their share of calls."""

WILDNESS = [0.0, 0.0, 0.05, 0.15, 0.5, 0.9]
"""How likely a value is not a sensible one; chosen for each request."""

STRINGS = [
    "", ".", "..", "/", "//", "\x00", "a\x00b", "é" * 127, "x" * 255, "x" * 256, "/a" * 300,
    "\u202e", "\ufffd", "\U0001f680", "../..", "*", "%s", "{}", "a" * 70_000,
]  # fmt: skip

AREAS = [1, 2]
AREA_BYTES = 100_000
"""More than `at` and `length` come to together, if they are tame."""

KEYS = [b"k", b"old", b"\x00", b"\xff" * 8]
BYTES = [b"", b"\xff\xfe\xfd", b"k" * 4096, b"k" * 4097]

FILTERS = ["", "n > 1", "n = 'a' and not (m < 3)", "((((n=1))))"]
WRONG_FILTERS = [
    "(" * 500 + "n=1" + ")" * 500, "n >",
    "not " * 300 + "n=1", "n in (" + ",".join("1" * 999) + ")", "'", "n = 1e999", "n like '%%%%'",
]  # fmt: skip


@dataclass
class Pool:
    """What exists, more or less: the attack removes some of it."""

    base: str
    paths: list[str] = field(default_factory=list)
    inodes: list[tuple[int, int]] = field(default_factory=list)  # volume, inode
    producers: list[int] = field(default_factory=lambda: [0, 1])
    topics: list[str] = field(default_factory=lambda: ["topic", "other"])
    groups: list[str] = field(default_factory=lambda: ["g", "h"])
    members: list[str] = field(default_factory=lambda: [""])
    pins: list[int] = field(default_factory=lambda: [1])


class Requests:
    """Random requests of one client. `session` is of its request ids."""

    def __init__(self, rng: random.Random, pool: Pool, session: bytes) -> None:
        self.rng = rng
        self.pool = pool
        self._session = session
        self._methods = list(METHODS.values())
        self._weights = [RARE.get(m.name, 1.0) for m in self._methods]
        self._sequences: dict[int, int] = {}
        self._wildness = 0.0
        self._strings: dict[str, Callable[[], str]] = {
            "topic": lambda: rng.choice(pool.topics),
            "topics": lambda: rng.choice(pool.topics),
            "names": lambda: rng.choice(pool.topics),
            "group": lambda: rng.choice(pool.groups),
            "member": lambda: rng.choice(pool.members),
            "where": lambda: rng.choice(FILTERS),
            "column": lambda: rng.choice(["n", "m"]),
            "columns": lambda: rng.choice(["n", "m"]),
            "compression": lambda: rng.choice(["lz4", "none", ""]),
            "name": lambda: rng.choice(["user.a", "user.b"]),
            "metadata": lambda: "text",
            "program": lambda: "fuzz",
            "symlink": lambda: rng.choice(pool.paths),
            "after": lambda: rng.choice(["", "f", "zzz"]),
        }

    def next(self) -> tuple[Method, Any, bytes]:
        """A method, its request, its bulk bytes; not more than one frame takes."""
        while True:
            method, message, data = self._next()
            if message.ByteSize() + len(data) < REQUEST_BYTES_MAX:
                return method, message, data

    def _next(self) -> tuple[Method, Any, bytes]:
        (method,) = self.rng.choices(self._methods, self._weights)
        self._wildness = self.rng.choice(WILDNESS)
        message = self.fill(method.request())
        data = self.bulk(message) if method.request_bulk and not self._wild() else b""
        if method.request_bulk:
            message.ClearField("data")  # it is beside the message
        if isinstance(message, pb.AppendRequest) and not self._wild():
            self._share_out(message, data)
        if isinstance(message, pb.ShareRequest) and not self._wild():
            message.area, message.descriptor, message.size = (
                self.rng.choice(AREAS),
                _area(),
                AREA_BYTES,
            )
        if isinstance(message, pb.WriteRequest) and self.rng.random() < 0.7:
            message.ClearField("area")
        elif isinstance(message, pb.WriteRequest) and not self._wild():
            message.area, data = self.rng.choice(AREAS), b""
        return method, message, data

    def _wild(self) -> bool:
        return self.rng.random() < self._wildness

    # ------------------------------------------------------------ messages

    def fill(self, message: Message, depth: int = 0) -> Any:
        for descriptor in message.DESCRIPTOR.fields:
            is_target = descriptor.message_type is pb.Target.DESCRIPTOR
            if self.rng.random() < 0.3 and (self._wild() or not is_target):
                continue
            if descriptor.name == "request":
                self._number(message)
            elif is_target and not self._wild():
                self._aim(getattr(message, descriptor.name), descriptor.name)
            elif not self._is_chosen(message, descriptor):
                continue
            elif descriptor.is_repeated:
                self._fill_repeated(message, descriptor, depth)
            elif descriptor.message_type is not None:
                self.fill(getattr(message, descriptor.name), depth + 1)
            else:
                setattr(message, descriptor.name, self.value(descriptor))
        return message

    def _is_chosen(self, message: Message, descriptor: FieldDescriptor) -> bool:
        """Of a oneof, one field: mostly not the first."""
        oneof = descriptor.containing_oneof
        if oneof is None or len(oneof.fields) == 1:
            return True
        is_last = oneof.fields[-1].name == descriptor.name
        return message.WhichOneof(oneof.name) is None and (is_last or self.rng.random() < 0.15)

    def _fill_repeated(self, message: Message, descriptor: FieldDescriptor, depth: int) -> None:
        if descriptor.message_type is not None and descriptor.message_type.GetOptions().map_entry:
            return  # only in replies
        many = 3000 if depth == 0 and self.rng.random() < 0.01 else 3
        values = getattr(message, descriptor.name)
        for _ in range(self.rng.randint(0, many)):
            if descriptor.message_type is not None:
                self.fill(values.add(), depth + 1)
            else:
                values.append(self.value(descriptor))

    def _number(self, message: Message) -> None:
        """A request id: mostly the next of a slot, sometimes one that was used, or none at all."""
        request = message.request  # type: ignore[attr-defined]
        chance = self.rng.random()
        if self._wild():
            self.fill(request, 1)
            request.session = self.rng.choice([b"", b"short", self._session, b"x" * 5000])
        elif chance < 0.8:
            slot = self.rng.randrange(8)
            sequence = self._sequences.get(slot, 0) + (self.rng.random() < 0.9)
            self._sequences[slot] = sequence
            request.session, request.slot, request.sequence = self._session, slot, sequence
            if self._wild():
                request.slot = SLOTS_MAX

    def _aim(self, target: pb.Target, field_name: str) -> None:
        """At something that is of the kind that the field's name calls for."""
        if self.rng.random() < 0.25:
            target.volume, target.inode = self.rng.choice(self.pool.inodes)
            if self.rng.random() < 0.3:
                target.path = self.rng.choice(["f", "n1", "table", "dir/h"])
            return
        paths = self.pool.paths
        if field_name in ("table", "stream"):
            paths = [path for path in paths if path.endswith(field_name)]
        elif field_name in ("source", "existing"):
            paths = [path for path in paths if path.endswith(("f", "g", "h", "large"))]
        elif field_name == "base":
            paths = [self.pool.base, f"{self.pool.base}/volume"]
        elif self.rng.random() < 0.4:
            paths = [f"{path}/n{n}" for n in range(5) for path in paths[:3]]
        target.path = self.rng.choice(paths)

    def _share_out(self, message: pb.AppendRequest, data: bytes) -> None:
        """Lengths that add up."""
        if message.parts:
            for part in message.parts:
                part.length = 0
                part.partition = 0
            message.parts[0].length = len(data)

    # ------------------------------------------------------------ values

    def value(self, descriptor: FieldDescriptor) -> Any:
        rng, kind = self.rng, descriptor.cpp_type
        if kind == _F.CPPTYPE_BOOL:
            return rng.random() < 0.3
        if kind == _F.CPPTYPE_ENUM:
            if self._wild():
                return rng.choice([-1, 99, 2**31 - 1])
            numbers = [v.number for v in descriptor.enum_type.values]
            return rng.choice(numbers[1:] if descriptor.name == "kind" else numbers)
        if kind == _F.CPPTYPE_DOUBLE:
            if self._wild():
                return rng.choice([1e308, float("inf"), float("-inf"), float("nan")])
            return rng.choice([0.0, -1.5])
        if kind == _F.CPPTYPE_STRING:
            if descriptor.type == _F.TYPE_BYTES:
                return self._bytes(descriptor)
            sensible = self._strings.get(descriptor.name)
            if sensible is not None and not self._wild():
                return sensible()
            if descriptor.name == "path":
                return self.path()
            return rng.choice(WRONG_FILTERS if descriptor.name == "where" else STRINGS)
        if descriptor.name in WAITS:
            return rng.choice([0, 0, 1, 3])
        if descriptor.name == "pin" and not self._wild():
            return rng.choice(self.pool.pins[-8:])
        lowest, highest = _RANGES[kind]
        if not self._wild():
            return rng.choice([0, 0, 1, 2, 100])
        return rng.choice(
            [lowest, highest, highest - 1, min(highest, 2**31), rng.randint(lowest, highest)]
        )

    def _bytes(self, descriptor: FieldDescriptor) -> bytes:
        if descriptor.name == "data":
            return self.bulk(None)
        if descriptor.name == "extents" and not self._wild():
            return b""  # made up ones are as good as damage
        if not self._wild():
            return self.rng.choice(KEYS)
        return self.rng.choice([*BYTES, self.rng.randbytes(self.rng.choice([1, 16, 70_000]))])

    def path(self) -> str:
        chance = self.rng.random()
        if chance < 0.6:
            return self.rng.choice(self.pool.paths)
        if chance < 0.8:
            return f"{self.pool.base}/n{self.rng.randrange(20)}"
        if chance < 0.9:
            return f"{self.rng.choice(self.pool.paths)}/n{self.rng.randrange(3)}"
        return f"{self.pool.base}/{self.rng.choice(STRINGS)}"

    def bulk(self, message: Any) -> bytes:
        rng = self.rng
        if self._wild():
            size = rng.choice([0, 1, 3, 100, 70_000, 70_000, 3 << 20])
            return rng.randbytes(min(size, 4096)) * max(1, size // 4096)
        if isinstance(message, pb.AppendRequest) or (message is None and rng.random() < 0.3):
            return damaged(rng, self.batch()) if self._wild() else self.batch()
        values = [1, -1, 1.5, "text", b"\xff"]
        if self._wild():
            values += [2**63, None, [1, [2]], {"a": {"b": 1}}, "y" * 5000, float("nan")]
        columns = {
            rng.choice(["n", "m", "x" * 100]): rng.choice(values) for _ in range(rng.randint(1, 3))
        }
        if isinstance(message, pb.PutManyRequest):
            pairs = [(b"key%d" % n, columns) for n in range(rng.choice([0, 1, 3, 500]))]
            packed = b"".join(msgpack.packb(x) for pair in pairs for x in pair)
        else:
            packed = msgpack.packb(columns)
        return damaged(rng, packed) if self._wild() else packed

    def batch(self) -> bytes:
        rng = self.rng
        producer = None
        if self._wild():
            producer = (
                rng.choice([*self.pool.producers, 10**12, -2]),
                rng.choice([0, 0, 0, 1, -1, 32767]),
                rng.choice([0, 0, 1, 2, 2**31 - 1]),
            )
        values = [rng.randbytes(rng.choice([0, 1, 50])) for _ in range(rng.randint(1, 5))]
        if rng.random() < 0.05:
            values = [b"z" * 100_000]
        return build_batch(values, producer=producer, compression=rng.choice([0, 3]))


@functools.cache
def _area() -> int:
    """A descriptor of memory that a server may map."""
    return memfd(AREA_BYTES)


def damaged(rng: random.Random, raw: bytes) -> bytes:
    """A few bytes changed, cut, doubled or put in."""
    buffer = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(buffer) + 1)
        choice = rng.randrange(6)
        if choice == 0:
            del buffer[at:]
        elif choice == 1:
            buffer[at:at] = rng.randbytes(rng.randint(1, 8))
        elif choice == 2:
            buffer[at : at + 4] = rng.choice([b"\x00" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff"])
        elif choice == 3:
            del buffer[at : at + rng.randint(1, 8)]
        elif choice == 4:
            buffer[at:at] = buffer[: rng.randint(0, 64)]
        elif at < len(buffer):
            buffer[at] ^= 1 << rng.randrange(8)
    return bytes(buffer)


def nested(depth: int) -> bytes:
    """Bytes of a message that holds itself so often: a group in a group, in an unknown field."""
    return b"\xa3\x06" * depth + b"\xa4\x06" * depth  # field 100, start and end of a group


def wrapped(depth: int) -> bytes:
    """Field 1, a message, in field 1 in field 1."""
    raw = b""
    for _ in range(depth):
        raw = b"\x0a" + _varint(len(raw)) + raw
    return raw


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
