"""Every message that names a volume or a path is mapped on its way to another cluster and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS
from dataplatform.base.errors import Invalid, NotFound
from dataplatform_server.calls import TARGETS
from dataplatform_server.clusters import mapping

SLOT = 3
ABOVE = SLOT << 48

NO_NUMBERS = frozenset(("AuditStatus.volumes", "RotateMasterReply.volumes"))
"""Fields with `volume` in their names that count them."""


def messages() -> Iterator[Descriptor]:
    """All that travel, at any depth."""
    seen: set[str] = set()
    todo = [m.DESCRIPTOR for method in METHODS.values() for m in (method.request, method.reply)]
    while todo:
        message = todo.pop()
        if message.full_name not in seen:
            seen.add(message.full_name)
            todo += [f.message_type for f in message.fields if f.message_type is not None]
            yield message


def test_every_number_of_a_volume_is_mapped() -> None:
    """A new field with a volume's number is called `volume`, or this fails."""
    unknown = [
        f"{message.name}.{field.name}"
        for message in messages()
        for field in message.fields
        if "volume" in field.name
        and field.name != mapping.VOLUME
        and field.message_type is None
        and field.type in (FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_INT64)
    ]
    assert set(unknown) <= NO_NUMBERS
    for message in messages():
        field = message.fields_by_name.get(mapping.VOLUME)
        if field is not None and field.type == FieldDescriptor.TYPE_UINT64:
            plan = mapping.plan_of(message)
            opaque = message.full_name in mapping.OPAQUE
            assert opaque or (plan is not None and plan.has_volume), message.full_name


def test_a_planted_field_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Planted:
        name, message_type, type = "the_volume", None, FieldDescriptor.TYPE_UINT64

    class Message:
        name, full_name, fields, fields_by_name = "New", "x.New", [Planted], {}

    monkeypatch.setattr(f"{__name__}.messages", lambda: iter([Message]))
    with pytest.raises(AssertionError):
        test_every_number_of_a_volume_is_mapped()


def furnished(kind: Any, depth: int = 0) -> Any:
    """A message with every volume and path set, as a cluster sends it."""
    message = kind()
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None:
            inner = field.message_type
            if depth > 3 or inner.GetOptions().map_entry:
                continue
            filled = furnished(inner._concrete_class, depth + 1)
            if field.is_repeated:
                getattr(message, field.name).append(filled)
            elif field.containing_oneof is None or not message.WhichOneof(
                field.containing_oneof.name
            ):
                getattr(message, field.name).CopyFrom(filled)
        elif field.name == "volume" and field.type == FieldDescriptor.TYPE_UINT64:
            message.volume = 7
        elif field.name in mapping.PATHS and field.type == FieldDescriptor.TYPE_STRING:
            if field.is_repeated:
                getattr(message, field.name)[:] = ["/a", "/"]
            else:
                setattr(message, field.name, "/a")
    return message


@pytest.mark.parametrize("name", METHODS)
def test_replies_there_and_here(name: str) -> None:
    reply = furnished(METHODS[name].reply)
    mapping.make_global(reply, "east", SLOT)
    for message in walk(reply):
        if message.DESCRIPTOR.full_name in mapping.OPAQUE:
            continue
        fields = message.DESCRIPTOR.fields_by_name
        if "volume" in fields and fields["volume"].type == FieldDescriptor.TYPE_UINT64:
            assert message.volume == ABOVE | 7
        for path in mapping.PATHS.intersection(fields):
            if fields[path].type != FieldDescriptor.TYPE_STRING:
                continue
            value = getattr(message, path)
            if fields[path].is_repeated:
                assert list(value) == ["/east/a", "/east"]
            else:
                assert value == "/east/a"


def walk(message: Any) -> Iterator[Any]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for one in value if field.is_repeated else (value,):
            yield from walk(one)


def place(target: pb.Target) -> tuple[int, str]:
    slot = target.volume >> 48
    if slot or not target.path.startswith("/east"):
        return slot, target.path
    return SLOT, target.path.removeprefix("/east") or "/"


def local(message: Any) -> Any:
    mapping.make_local(message, TARGETS[type(message)], place, "east", SLOT)
    return message


def test_requests() -> None:
    got = local(pb.StatRequest(target=pb.Target(path="/east/a")))
    assert got.target.path == "/a"
    got = local(
        pb.RenameRequest(
            source=pb.Target(volume=ABOVE | 5, inode=9, path="a"),
            target=pb.Target(path="/east"),
        )
    )
    assert (got.source.volume, got.source.inode, got.target.path) == (5, 9, "/")
    for elsewhere in (
        pb.Target(path="/b"),
        pb.Target(volume=5, inode=9, path="b"),
        pb.Target(volume=4 << 48 | 5, inode=9, path="b"),
    ):
        with pytest.raises(Invalid, match="different clusters") as caught:
            local(pb.RenameRequest(source=pb.Target(path="/east/a"), target=elsewhere))
        assert caught.value.os_errno == 18
    inner = pb.TransactionRequest.Operation(
        remove=pb.RemoveRequest(target=pb.Target(volume=ABOVE | 5, inode=3, path="x"))
    )
    relative = pb.TransactionRequest.Operation(
        remove=pb.RemoveRequest(target=pb.Target(path="/east/x"))
    )
    got = local(pb.TransactionRequest(base=pb.Target(path="/east/p"), operations=[inner, relative]))
    assert got.operations[0].remove.target.volume == 5
    assert got.operations[1].remove.target.path == "/east/x", "it counts from the base"


def test_errors_name_global_paths() -> None:
    error = NotFound("no such file or directory", path="/p/x", table="/t", key="/k")
    assert mapping.global_error(error, "east").facts == {
        "path": "/east/p/x",
        "table": "/east/t",
        "key": "/k",
    }
