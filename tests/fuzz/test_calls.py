"""Every request message of every method, over both transports, filled at random: each call is
answered in time with a reply or a typed error that is not a defect of ours."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS
from dataplatform.base.errors import ErrorKind
from tests.wires import FramesWire, GrpcWire

from .messages import RARE, Requests, damaged, nested, wrapped
from .subjects import Subject, furnish, under_attack

FRESH_EVERY = 400
"""Calls after which there are new things to attack."""

DEFECTS = {ErrorKind.INTERNAL.value, ErrorKind.CORRUPT.value}


def look(method: str, message: Any, outcome: Any) -> str:
    """The kind of the outcome, in words; fails for an answer that is a defect of ours."""
    if not isinstance(outcome, pb.ErrorInfo):
        return "OK"
    assert outcome.kind not in DEFECTS, f"{method}: {outcome}\n{str(message)[:3000]}"
    assert outcome.message, f"{method}: an error that says nothing"
    return ErrorKind(outcome.kind).name


def attack(subject: Subject, seed: int, calls: int) -> Counter[str]:
    """So many calls in turn over both transports; how each ended."""
    rng = random.Random(seed)
    wires: list[FramesWire | GrpcWire] = [subject.frames(), subject.frames(), subject.grpc()]
    outcomes: Counter[str] = Counter()
    answered: Counter[str] = Counter()
    for number in range(calls):
        if number % FRESH_EVERY == 0:
            pool = furnish(subject, f"/z{seed}-{number}")
            fuzz = {w.session: Requests(rng, pool, w.session) for w in wires}
            subject.sample()
        wire = rng.choice(wires)
        method, message, data = fuzz[wire.session].next()
        if rng.random() < 0.05:
            raw = damaged(rng, message.SerializeToString())
            outcome = wire.call_raw(method.name, raw, b"")
        else:
            outcome = wire.call(method.name, message, data)
        kind = look(method.name, message, outcome)
        outcomes[kind] += 1
        answered[method.name] += kind == "OK"
        if isinstance(outcome, pb.ProducerReply):
            pool.producers.append(outcome.producer_id)
        elif isinstance(outcome, pb.MembershipReply) and outcome.member:
            pool.members.append(outcome.member)
        elif isinstance(outcome, pb.SourceInfo) and outcome.pin:
            pool.pins.append(outcome.pin)
    for wire in wires:
        wire.close()
    outcomes.update({f"{name} OK": count for name, count in answered.items()})
    return outcomes


def test_any_request_is_answered(tmp_path: Path, seed: int) -> None:
    with under_attack(tmp_path) as subject:
        outcomes = attack(subject, seed, 2_000)
    assert outcomes["OK"] > 200, outcomes  # else nothing gets deep
    assert outcomes["INVALID"] > 100, outcomes


@pytest.mark.system
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(4))
def test_very_many_requests_are_answered(tmp_path: Path, seed: int, part: int) -> None:
    with under_attack(tmp_path) as subject:
        outcomes = attack(subject, seed + part, 12_000)
        print(subject.memory_bytes_max >> 20, "MiB at most;", dict(outcomes))  # noqa: T201
    never = {m for m in METHODS if not outcomes[f"{m} OK"] and m not in RARE}
    assert not never, f"no call of these got through: {never}"


@pytest.mark.parametrize("transport", ["frames", "grpc"])
def test_deeply_nested_messages_are_refused_or_read(tmp_path: Path, transport: str) -> None:
    with under_attack(tmp_path) as subject:
        wire: Any = subject.frames() if transport == "frames" else subject.grpc()
        for name in METHODS:
            for depth in (50, 101, 10_000):
                for raw in (nested(depth), wrapped(min(depth, 2000))):
                    outcome = wire.call_raw(name, raw)
                    assert look(name, raw, outcome) in ("INVALID", "NOT_FOUND", "OK"), (name, depth)
