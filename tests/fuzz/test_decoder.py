"""What is no frame, nearly a frame, or half a frame: to the decoder alone, and to a server."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplatform.api import platform_pb2 as pb
from dataplatform.api.methods import METHODS_BY_NUMBER
from dataplatform.base.errors import Invalid
from dataplatform.base.limits import FRAME_BYTES_MAX, KIB
from dataplatform.transport.frames import (
    HEADER,
    READ_BUFFER_BYTES_MAX,
    Decoder,
    Frame,
    FrameKind,
    encode,
)
from tests.wires import FramesWire

from .messages import damaged
from .subjects import Subject, under_attack

LIMIT = 256 * KIB


def some_frames(rng: random.Random) -> bytes:
    """A few whole frames, small and large, one behind the other."""
    raw = b""
    for _ in range(rng.randint(1, 5)):
        size = rng.choice([0, 1, 100, 9_000, 70_000])
        raw += b"".join(
            encode(
                rng.choice(list(FrameKind)),
                rng.choice([*METHODS_BY_NUMBER, 0, 65535]),
                rng.choice([0, 1, 2**32 - 1]),
                rng.randbytes(rng.choice([0, 3, 200])),
                bytes(size),
            )
        )
    return raw


def feed(raw: bytes, rng: random.Random) -> list[Frame]:
    """Decode in pieces of any size, as a socket gives them; holds what a decoder promises."""
    decoder = Decoder(LIMIT)
    frames: list[Frame] = []
    at = 0
    while at < len(raw):
        count = rng.choice([1, 3, 20, 4096, 100_000])
        try:
            frames += decoder.feed(raw[at : at + count])
        except Invalid:
            with pytest.raises(Invalid):
                decoder.feed(b"x")  # it stays in error
            break
        at += count
        assert len(decoder._buffer) <= READ_BUFFER_BYTES_MAX
        assert decoder.large_bytes <= LIMIT
    for frame in frames:
        assert FrameKind.HELLO <= frame.kind <= FrameKind.CANCEL
        assert len(frame.message) + len(frame.data) <= LIMIT
    return frames


def test_mutated_frames(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(3_000):
        feed(damaged(rng, some_frames(rng)), rng)


@given(raw=st.binary(max_size=300), seed=st.integers(0, 2**32))
def test_any_bytes(raw: bytes, seed: int) -> None:
    feed(raw, random.Random(seed))


@given(
    header=st.tuples(*[st.integers(0, 2**bits - 1) for bits in (32, 8, 8, 16, 32, 32)]),
    tail=st.binary(max_size=64),
)
def test_any_header(header: tuple[int, ...], tail: bytes) -> None:
    feed(HEADER.pack(*header) + tail, random.Random(0))


def test_a_cut_at_every_byte_waits_for_the_rest(seed: int) -> None:
    rng = random.Random(seed)
    raw = b"".join(encode(FrameKind.REQUEST, 50, 7, b"message" * 3, b"bulk" * 50))
    raw += b"".join(encode(FrameKind.REPLY, 50, 8, b"", b"z" * 10_000))
    whole = Decoder(LIMIT).feed(raw)
    assert len(whole) == 2
    for cut in range(len(raw)):
        decoder = Decoder(LIMIT)
        frames = decoder.feed(raw[:cut])
        assert decoder.is_partial == (cut not in (0, HEADER.unpack_from(raw)[0]))
        assert frames + decoder.feed(raw[cut:]) == whole
    del rng


# ---------------------------------------------------------------- a server


def ended(wire: FramesWire) -> list[Frame]:
    """What the server says until it closes the connection."""
    frames = []
    try:
        while True:
            frames.append(wire.receive())
    except (EOFError, ConnectionError):
        return frames


def attack(subject: Subject, seed: int, connections: int) -> None:
    """Connections that send damaged frames and then nothing more: each is answered with frames, the
    last of them an error if the bytes were none, and closed."""
    rng = random.Random(seed)
    read_only = [m.number for m in METHODS_BY_NUMBER.values() if m.read_only]
    for number in range(connections):
        wire = subject.frames(rng.randbytes(16))
        raw = b""
        for call in range(1, rng.randint(2, 6)):
            message = rng.choice([b"", rng.randbytes(rng.randint(1, 50))])
            method = rng.choice([*read_only, 50, 51, 74, 0, 65535])
            raw += b"".join(encode(FrameKind.REQUEST, method, call, message))
        choice = rng.randrange(4)
        if choice == 0:
            raw = raw[: rng.randrange(len(raw))]
        elif choice == 1:
            raw = rng.randbytes(rng.randint(1, 200))
        elif choice == 2:
            length = rng.choice([0, 15, FRAME_BYTES_MAX + 1, 2**32 - 1])
            raw += HEADER.pack(length, FrameKind.REQUEST, 0, 1, 99, rng.choice([0, 2**32 - 1]))
        else:
            raw = damaged(rng, raw)
        try:
            wire.socket.sendall(raw)
            wire.socket.shutdown(1)  # nothing more will come
        except OSError:
            pass  # it was closed already
        for frame in ended(wire):
            assert frame.kind in (FrameKind.REPLY, FrameKind.ERROR)
            if frame.kind == FrameKind.ERROR:
                error = pb.ErrorInfo.FromString(frame.message)
                assert error.kind not in (9, 10), error
        wire.close()
        if number % 100 == 0:
            subject.sample()


def test_a_server_answers_or_closes(tmp_path: Path, seed: int) -> None:
    with under_attack(tmp_path) as subject:
        attack(subject, seed, 400)


@pytest.mark.system
@pytest.mark.timeout(1800)
def test_a_server_answers_or_closes_very_often(tmp_path: Path, seed: int) -> None:
    with under_attack(tmp_path) as subject:
        attack(subject, seed, 20_000)
