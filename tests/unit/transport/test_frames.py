"""The codec: what goes in comes out, whatever the chunks; what is no frame is refused."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dataplatform.base.errors import Exhausted, Invalid
from dataplatform.base.limits import FRAME_BYTES_MAX, MIB
from dataplatform.transport.frames import (
    HEADER,
    HEADER_BYTES,
    READ_BUFFER_BYTES_MAX,
    Decoder,
    Frame,
    FrameKind,
    encode,
    join,
)

frames = st.builds(
    Frame,
    kind=st.sampled_from(FrameKind),
    method=st.integers(0, 2**16 - 1),
    call=st.integers(0, 2**32 - 1),
    message=st.binary(max_size=300),
    data=st.one_of(st.binary(max_size=300), st.integers(0, 200_000).map(bytes)),
)


def encoded(frame: Frame) -> bytes:
    return b"".join(encode(frame.kind, frame.method, frame.call, frame.message, frame.data))


def plain(decoded: list[Frame]) -> list[Frame]:
    return [f._replace(data=bytes(f.data)) for f in decoded]


def test_the_header_is_what_the_wire_says() -> None:
    raw = encoded(Frame(FrameKind.REQUEST, 0x0102, 0x03040506, b"mm", b"ddd"))
    assert raw == b"\x15\0\0\0\x03\0\x02\x01\x06\x05\x04\x03\x02\0\0\0mmddd"


@given(st.lists(frames, max_size=5), st.data())
def test_any_chunks_give_the_same_frames(sent: list[Frame], data: st.DataObject) -> None:
    raw = b"".join(map(encoded, sent))
    decoder, received, position = Decoder(), [], 0
    while position < len(raw):
        size = data.draw(st.integers(1, max(len(raw) - position, 1)))
        received += decoder.feed(raw[position : position + size])
        position += size
    assert plain(received) == sent
    assert not decoder.is_partial


@pytest.mark.parametrize("bulk", [0, 50, 3 * READ_BUFFER_BYTES_MAX])
def test_every_truncation_waits_for_the_rest(bulk: int) -> None:
    frame = Frame(FrameKind.REPLY, 7, 8, b"message", bytes(bulk))
    raw = encoded(frame)
    cuts = range(len(raw)) if bulk < 100 else (0, 1, 15, 16, 20, 23, 24, 70_000, len(raw) - 1)
    for cut in cuts:
        decoder = Decoder()
        assert decoder.feed(raw[:cut]) == []
        assert decoder.is_partial == (cut > 0)
        assert plain(decoder.feed(raw[cut:])) == [frame]


def test_many_small_frames_arrive_in_one_chunk() -> None:
    sent = [Frame(FrameKind.REQUEST, 1, n, b"m" * 40, b"") for n in range(1, 3000)]
    received, decoder = [], Decoder()
    raw = memoryview(b"".join(map(encoded, sent)))
    reads = 0
    while raw:
        buffer = decoder.buffer()
        count = min(len(buffer), len(raw))
        buffer[:count] = raw[:count]
        received += decoder.received(count)
        raw, reads = raw[count:], reads + 1
    assert received == sent
    assert reads < 10  # the read buffer grew


@given(st.lists(st.binary(max_size=200), max_size=20))
@example([b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"])
@example([bytes(16)])
def test_random_bytes_are_refused_or_wait(chunks: list[bytes]) -> None:
    decoder = Decoder(1000)
    try:
        for chunk in chunks:
            decoder.feed(chunk)
    except Invalid:
        with pytest.raises(Invalid):
            decoder.feed(encoded(Frame(FrameKind.REPLY, 1, 1, b"", b"")))
    assert len(decoder.buffer()) > 0
    assert decoder.large_bytes <= 1000


@pytest.mark.parametrize(
    "header",
    [
        HEADER.pack(FRAME_BYTES_MAX + 1, 3, 0, 1, 1, 0),
        HEADER.pack(HEADER_BYTES - 1, 3, 0, 1, 1, 0),
        HEADER.pack(0, 3, 0, 1, 1, 0),
        HEADER.pack(HEADER_BYTES + 9, 3, 0, 1, 1, 10),
        HEADER.pack(HEADER_BYTES, 3, 0, 1, 1, 2**32 - 1),
        HEADER.pack(HEADER_BYTES, 0, 0, 1, 1, 0),
        HEADER.pack(HEADER_BYTES, 7, 0, 1, 1, 0),
        HEADER.pack(HEADER_BYTES, 3, 1, 1, 1, 0),
    ],
    ids=["large", "short", "empty", "message", "message-max", "kind-0", "kind-7", "flags"],
)
def test_a_wrong_header_is_refused_before_its_body(header: bytes) -> None:
    with pytest.raises(Invalid):
        Decoder().feed(header)


def test_frames_before_a_wrong_one_are_delivered() -> None:
    good = Frame(FrameKind.REQUEST, 1, 2, b"m", b"d")
    decoder = Decoder()
    assert plain(decoder.feed(encoded(good) + bytes(16))) == [good]
    assert decoder.error is not None
    with pytest.raises(Invalid):
        decoder.feed(encoded(good))


def test_a_large_frame_is_not_allocated_before_it_is_read() -> None:
    decoder = Decoder()
    raw = encoded(Frame(FrameKind.REQUEST, 1, 2, b"m", bytes(8 * MIB)))
    buffer = decoder.buffer()
    buffer[:100] = raw[:100]
    assert decoder.received(100) == []
    assert decoder.large_bytes == len(raw)
    assert decoder._large is None
    assert len(decoder.buffer()) == len(raw) - 100


def test_bulk_is_copied_at_most_once() -> None:
    bulk = bytearray(MIB)
    parts = encode(FrameKind.REQUEST, 1, 2, b"m", bulk)
    assert parts[1] is bulk
    (frame,) = Decoder().feed(b"".join(parts))
    assert isinstance(frame.data, memoryview)  # of the buffer that the socket filled


def test_encode_takes_several_buffers_of_any_kind() -> None:
    import array

    parts = [b"", b"ab", memoryview(array.array("I", [1, 2])), bytearray(b"c")]
    (frame,) = Decoder().feed(b"".join(encode(FrameKind.REPLY, 1, 2, b"m", parts)))
    assert frame.data == b"ab" + array.array("I", [1, 2]).tobytes() + b"c"


def test_encode_refuses_what_no_frame_can_hold() -> None:
    with pytest.raises(Exhausted):
        encode(FrameKind.REQUEST, 1, 2, b"", bytes(FRAME_BYTES_MAX))
    encode(FrameKind.REQUEST, 1, 2, b"", bytes(FRAME_BYTES_MAX - HEADER_BYTES))


@given(st.lists(st.sampled_from([b"a", b"bc", bytes(20_000), bytes(30_000)]), max_size=12))
def test_join_changes_no_byte(buffers: list[bytes]) -> None:
    joined = join(list(buffers))
    assert b"".join(joined) == b"".join(buffers)
    assert len(joined) <= max(2 * sum(len(b) > 16384 for b in buffers) + 1, 1)
