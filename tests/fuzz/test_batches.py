"""Record batches that are not what they say: to the server, which checks heads and CRCs and never
unpacks them, and to consumers, which have to live with whatever a producer sealed with a CRC."""

from __future__ import annotations

import random
import struct
from collections import Counter
from pathlib import Path

import lz4.frame
import pytest
from crc32c import crc32c

import dataplatform
from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Corrupt, ErrorKind
from dataplatform.base.limits import BATCH_BYTES_MAX, MIB
from dataplatform.client.records import UNPACKED_BYTES_MAX, decode
from dataplatform.core.batches import HEAD_BYTES
from tests.streaming import LZ4, NONE, build_batch
from tests.wires import FramesWire

from .messages import damaged
from .subjects import under_attack

COUNT, DELTA, ATTRIBUTES = 57, 23, 21


def sealed(raw: bytes) -> bytes:
    """With the length and the CRC that belong to the bytes, as a producer that lies would."""
    batch = bytearray(raw)
    struct.pack_into(">i", batch, 8, len(batch) - 12)
    struct.pack_into(">I", batch, 17, crc32c(memoryview(batch)[ATTRIBUTES:]))
    return bytes(batch)


def counted(raw: bytes, records: int) -> bytes:
    """Sealed, with another count of records."""
    batch = bytearray(raw)
    struct.pack_into(">i", batch, COUNT, records)
    struct.pack_into(">i", batch, DELTA, records - 1)
    return sealed(batch)


def bomb(unpacked_bytes: int) -> bytes:
    """A batch whose records unpack to so much."""
    head = bytearray(build_batch([b"x"], compression=LZ4)[:HEAD_BYTES])
    assert head[ATTRIBUTES + 1] == LZ4
    body = lz4.frame.compress(bytes(unpacked_bytes), compression_level=0)
    return sealed(bytes(head) + body)


def append(wire: FramesWire, raw: bytes, partition: int = 0) -> pb.AppendReply | pb.ErrorInfo:
    part = pb.AppendRequest.Part(topic="topic", partition=partition, length=len(raw))
    return wire.call(
        "Streams.Append", pb.AppendRequest(stream=pb.Target(path="/stream"), parts=[part]), raw
    )


def test_damaged_batches_leave_offsets_as_they_were(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    kinds: Counter[str] = Counter()
    with under_attack(tmp_path) as subject, dataplatform.connect(subject.server.address) as dp:
        stream = dp.create_stream("/stream")
        stream.create_topic("topic")
        wire = subject.frames()
        asked = pb.ProducerRequest(stream=pb.Target(path="/stream"))
        known = [wire.call("Streams.InitProducer", asked).producer_id, 99]
        end = 0
        for _ in range(800):
            records = rng.randint(1, 5)
            producer = rng.choice([None, None, (rng.choice(known), rng.randint(0, 2), 0)])
            raw = build_batch([b"v"] * records, producer=producer, compression=rng.choice([0, 3]))
            sent = damaged(rng, raw) if rng.random() < 0.8 else raw
            outcome = append(wire, sent)
            if isinstance(outcome, pb.AppendReply):
                kinds["stored"] += 1
                (part,) = outcome.parts
                if not part.duplicate:
                    assert part.base_offset == end
                    end = stream.offsets("topic", "latest")[0]
                    assert end > part.base_offset
            else:
                kinds[ErrorKind(outcome.kind).name] += 1
                assert outcome.kind not in (9, 10), outcome
                assert outcome.message
                assert stream.offsets("topic", "latest")[0] == end
        wire.close()
    assert kinds["stored"] > 50, kinds
    assert kinds["INVALID"] > 300, kinds


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (counted(build_batch([b"v"]), 2**31 - 1), "more records than it can"),
        (counted(build_batch([b"v"], compression=LZ4), 2**31 - 1), "more records than it can"),
        (counted(build_batch([b"v"]), 0), "count does not fit"),
        (counted(build_batch([b"v"]), -7), "count does not fit"),
    ],
    ids=["huge", "huge-packed", "none", "negative"],
)
def test_wrong_counts(tmp_path: Path, raw: bytes, says: str) -> None:
    with under_attack(tmp_path) as subject, dataplatform.connect(subject.server.address) as dp:
        dp.create_stream("/stream").create_topic("topic")
        wire = subject.frames()
        outcome = append(wire, raw)
        assert isinstance(outcome, pb.ErrorInfo)
        assert outcome.kind == ErrorKind.INVALID.value
        assert says in outcome.message
        assert dp.stream("/stream").offsets("topic", "latest") == {0: 0}
        wire.close()


def test_a_lie_with_a_crc_is_named_and_contained(tmp_path: Path) -> None:
    """Its consumer is told where it is, may go on behind it, and other partitions do not see it."""
    lies = {
        "count": counted(build_batch([b"a", b"b"]), 3),
        "garbage": sealed(build_batch([b"a"])[:HEAD_BYTES] + b"\xff" * 50),
        "bomb": bomb(UNPACKED_BYTES_MAX + 1),
    }
    with under_attack(tmp_path) as subject, dataplatform.connect(subject.server.address) as dp:
        stream = dp.create_stream("/stream", partitions=len(lies) + 1)
        stream.create_topic("topic")
        wire = subject.frames()
        for partition, lie in enumerate(lies.values()):
            assert isinstance(append(wire, lie, partition), pb.AppendReply)
            assert isinstance(append(wire, build_batch([b"good"]), partition), pb.AppendReply)
        good = len(lies)
        assert isinstance(append(wire, build_batch([b"good"]), good), pb.AppendReply)
        for partition in range(len(lies)):
            fetch = pb.FetchRequest.Part(topic="topic", partition=partition, offset=0)
            wire.call(
                "Streams.Fetch",
                pb.FetchRequest(stream=pb.Target(path="/stream"), parts=[fetch], size_bytes=1),
            )
            with pytest.raises(Corrupt) as caught:
                decode(wire.bulk, "topic", partition)
            assert caught.value.facts["partition"] == partition
            assert caught.value.facts["offset"] == 0
        fetch = pb.FetchRequest.Part(topic="topic", partition=good, offset=0)
        wire.call(
            "Streams.Fetch",
            pb.FetchRequest(stream=pb.Target(path="/stream"), parts=[fetch], size_bytes=1),
        )
        assert [record.value for record in decode(wire.bulk, "topic", good)] == [b"good"]
        wire.close()


def test_a_bomb_is_refused_before_it_fills_the_memory() -> None:
    small = bomb(UNPACKED_BYTES_MAX + 1)
    assert len(small) < 1 * MIB < BATCH_BYTES_MAX
    with pytest.raises(Corrupt, match="damaged") as caught:
        decode(small, "topic", 0)
    assert "unpack to more than" in str(caught.value)


def test_decoding_gives_records_or_corrupt(seed: int) -> None:
    rng = random.Random(seed)
    decoded = refused = 0
    for _ in range(5_000):
        count = rng.choice([1, 3, 150])
        values = [rng.randbytes(rng.choice([0, 1, 50])) for _ in range(count)]
        raw = build_batch(values, compression=rng.choice([NONE, LZ4]))
        choice = rng.randrange(3)
        if choice == 0:
            raw = sealed(raw[:HEAD_BYTES] + damaged(rng, raw[HEAD_BYTES:]))
        elif choice == 1:
            raw = counted(raw, rng.choice([1, 2, count, count + 1, 2**20]))
        else:
            batch = bytearray(raw)
            batch[rng.randrange(ATTRIBUTES, HEAD_BYTES)] ^= 1 << rng.randrange(8)
            raw = sealed(batch)
        try:
            decode(raw, "topic", 0)
            decoded += 1
        except Corrupt:
            refused += 1
    assert decoded > 100
    assert refused > 100
