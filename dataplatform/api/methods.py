"""The method table, read from the descriptors: what a frame's method number means.

One `Method` per rpc in `platform.proto`. Both transports, the client and the dispatcher use this
table, so a method that is declared is known everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.message_factory import GetMessageClass

from . import platform_pb2 as pb

BULK_FIELD = "data"

_RULE: Any = pb.rule
"""The generated stub does not know that this is an extension of MethodOptions."""


@dataclass(frozen=True, slots=True)
class Method:
    """One rpc. `name` is "Service.Method", `grpc_path` what gRPC calls it."""

    name: str
    number: int
    read_only: bool
    urgent: bool
    request: type[Any]
    reply: type[Any]
    request_bulk: bool
    reply_bulk: bool
    grpc_path: str


def _methods() -> dict[str, Method]:
    table: dict[str, Method] = {}
    for service in pb.DESCRIPTOR.services_by_name.values():
        for rpc in service.methods:
            rule: pb.MethodRule = rpc.GetOptions().Extensions[_RULE]
            assert rule.number, f"{rpc.full_name} has no number"
            name = f"{service.name}.{rpc.name}"
            table[name] = Method(
                name=name,
                number=rule.number,
                read_only=rule.read_only,
                urgent=rule.urgent,
                request=GetMessageClass(rpc.input_type),
                reply=GetMessageClass(rpc.output_type),
                request_bulk=BULK_FIELD in rpc.input_type.fields_by_name,
                reply_bulk=BULK_FIELD in rpc.output_type.fields_by_name,
                grpc_path=f"/{service.full_name}/{rpc.name}",
            )
    return table


METHODS: dict[str, Method] = _methods()
"""By name: "Tables.Put"."""

METHODS_BY_NUMBER: dict[int, Method] = {m.number: m for m in METHODS.values()}
assert len(METHODS_BY_NUMBER) == len(METHODS), "two methods share a number"
