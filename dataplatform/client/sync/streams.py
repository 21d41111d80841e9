"""Streams: topics of partitions of records; producers and consumers. Synchronous."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..paths import Path
from ..runtime import iterate, run
from ..streams import BATCH_BYTES, LINGER_S
from ..streams import Stream as AsyncStream
from ..values import GroupInfo, Position, Record, StreamInfo, TopicInfo
from .base import Operations

if TYPE_CHECKING:  # see streams.py
    from ..batching import Batch
    from ..consumers import Consumer as AsyncConsumer
    from ..producers import Producer as AsyncProducer

Bytes = bytes | bytearray | memoryview | str
Headers = Mapping[str, bytes | None]


class Delivery:
    """The fate of one record that was handed to a producer."""

    __slots__ = ("_batch", "_index", "_timestamp")

    def __init__(self, batch: Batch, index: int, timestamp: int) -> None:
        self._batch = batch
        self._index = index
        self._timestamp = timestamp

    def result(self, timeout_s: float | None = None) -> Position:
        """Wait until the record is stored; where it is. Raises what went wrong, or Unavailable
        after `timeout_s`. Does not wait for other records to fill a batch."""
        from ..producers import position_of

        return run(position_of(self._batch, self._index, self._timestamp, timeout_s))

    def done(self) -> bool:
        """Whether `result` would return at once."""
        return self._batch.is_done


class Producer:
    """Sends records in batches, in the background, in order within a partition, each exactly once.

    A batch leaves when it is full or its first record has waited for the linger time. A record is
    stored, and durable unless the producer was made with `durable=False`, when its
    `Delivery.result()` or a `flush()` returns. What went wrong is raised by the next `send`,
    `flush` or `close`. May be shared by threads.
    """

    def __init__(self, producer: AsyncProducer) -> None:
        self._aio = producer
        # In the place of the method, which would be one more call for every record.
        self.send = producer.sender(Delivery, self._put)  # type: ignore[method-assign]

    def _put(self, *record: Any) -> Delivery:
        delivery: Delivery = run(self._aio.put(*record))
        return delivery

    def send(
        self,
        topic: str,
        value: Bytes | None,
        key: Bytes | None = None,
        headers: Headers | None = None,
        timestamp: int | datetime | None = None,
        partition: int | None = None,
    ) -> Delivery:
        """Hand over one record; waits only while too much is under way.

        Records with the same `key` go to the same partition (Kafka's murmur2); without a key,
        batches go to the partitions in turn. A topic that does not exist is created. `timestamp` is
        milliseconds since the epoch or a datetime, default now. A str is sent as UTF-8.

        Example: `p.send("telemetry", b"42", key=b"vin-1").result().offset`
        """
        return self._put(topic, value, key, headers, timestamp, partition)

    def send_many(
        self,
        topic: str,
        values: Iterable[Bytes | None],
        keys: Iterable[Bytes | None] | None = None,
        timestamp: int | datetime | None = None,
        partition: int | None = None,
    ) -> int:
        """Hand over many records at once, much faster than one by one; their number.

        `keys`, if given, go with the values pairwise. `flush()` tells whether all were stored.
        """
        return run(self._aio.send_many(topic, values, keys, timestamp, partition))

    def flush(self) -> None:
        """Send everything now, wait until it is stored, and raise what went wrong."""
        run(self._aio.flush())

    def close(self) -> None:
        """`flush`, and end the background work."""
        run(self._aio.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            run(self._aio.abandon())


class Consumer:
    """Reads records of one or more topics, in order within each partition.

    Without a group it reads every partition (or those given) from `start`. In a group the
    partitions are shared among the members, reading goes on from the committed offsets, and
    `start` counts only where there is none. Not for use by several threads at once.
    """

    def __init__(self, consumer: AsyncConsumer) -> None:
        self._aio = consumer

    def __iter__(self) -> Iterator[Record]:
        """Records as they come. Waits for more for ever, unless made with `follow=False`."""
        return chain.from_iterable(iterate(self._aio.chunks()))

    def poll(self, timeout_s: float = 1.0, max_records: int | None = None) -> list[Record]:
        """The next records that are there, at most 500 unless `max_records` says otherwise: waits
        up to `timeout_s` for the first; may be empty."""
        return run(self._aio.poll(timeout_s, max_records))

    @property
    def is_ended(self) -> bool:
        """Whether nothing follows, ever: the stream is in a snapshot, and all of it was read."""
        return self._aio.is_ended

    def commit(self, offsets: Mapping[tuple[str, int], int] | None = None) -> None:
        """Remember for the group how far it is: behind the last record handed out, or `offsets`,
        a map of (topic, partition) to the offset to read next.

        Raises Invalid without a group, Stale when the partition belongs to another member by now.
        """
        run(self._aio.commit(offsets))

    def seek(self, topic: str, partition: int, offset: int | str | datetime) -> None:
        """Go on at an offset, at "earliest" or "latest", or at the first record of a time."""
        run(self._aio.seek(topic, partition, offset))

    def position(self, topic: str, partition: int) -> int:
        """The offset of the next record that will be handed out."""
        return run(self._aio.position(topic, partition))

    def assignment(self) -> list[tuple[str, int]]:
        """The (topic, partition) pairs that this consumer reads at the moment."""
        return self._aio.assignment()

    def close(self) -> None:
        """Stop, and leave the group so that others take over at once. Commits nothing."""
        run(self._aio.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Stream:
    """A stream: topics, each of one or more partitions."""

    def __init__(self, stream: AsyncStream) -> None:
        self._aio = stream

    @property
    def path(self) -> str:
        """The path it was opened by."""
        return self._aio.path

    def __repr__(self) -> str:
        return f"<dataplatform.Stream {self.path!r}>"

    # -------------------------------------------------------------------------------- topics

    def topics(self) -> list[TopicInfo]:
        """Every topic with its partitions and their offsets."""
        return run(self._aio.topics())

    def topic(self, name: str) -> TopicInfo:
        """One topic. Raises NotFound."""
        return run(self._aio.topic(name))

    def create_topic(
        self, name: str, partitions: int | None = None, *, exist_ok: bool = False
    ) -> TopicInfo:
        """Create a topic, with the stream's number of partitions unless given.

        With `exist_ok`, a topic that has fewer partitions gets more. Raises Exists otherwise.
        """
        return run(self._aio.create_topic(name, partitions, exist_ok=exist_ok))

    def delete_topic(self, name: str) -> None:
        """Remove a topic with all its records."""
        run(self._aio.delete_topic(name))

    def info(self) -> StreamInfo:
        """Settings and topics."""
        return run(self._aio.info())

    def offsets(self, topic: str, at: str | datetime = "latest") -> dict[int, int]:
        """For each partition the offset of the "earliest" record, of the end ("latest"), or of the
        batch with the first record at or after a time (which may begin with older records)."""
        return run(self._aio.offsets(topic, at))

    # ------------------------------------------------------------------------------- records

    def append(
        self,
        topic: str,
        value: Bytes | None,
        key: Bytes | None = None,
        headers: Headers | None = None,
        timestamp: int | datetime | None = None,
        partition: int | None = None,
        *,
        durable: bool | None = None,
    ) -> Position:
        """Store one record and return where: one round trip, nothing in the background.

        For many records a `producer` is faster. Arguments as in `Producer.send`.
        """
        return run(
            self._aio.append(topic, value, key, headers, timestamp, partition, durable=durable)
        )

    def producer(
        self,
        *,
        linger_s: float = LINGER_S,
        batch_bytes: int = BATCH_BYTES,
        durable: bool | None = None,
        compression: str | None = None,
    ) -> Producer:
        """A producer. `compression` is "lz4" or "none", by default the stream's.

        with s.producer() as p:
            for line in lines:
                p.send("telemetry", line)
        """
        return Producer(
            run(
                self._aio.producer(
                    linger_s=linger_s,
                    batch_bytes=batch_bytes,
                    durable=durable,
                    compression=compression,
                )
            )
        )

    def consumer(
        self,
        topics: str | Iterable[str],
        group: str | None = None,
        start: str | int | datetime = "earliest",
        *,
        partitions: Iterable[int] | None = None,
        follow: bool = True,
        session_timeout_s: float = 30.0,
    ) -> Consumer:
        """A consumer of one or several topics.

        `start` is "earliest", "latest", an offset, or a datetime. `partitions` limits a consumer
        without a group to some of them. With `follow=False` iteration ends at the records that are
        the last when it gets there. `session_timeout_s`: a member silent for so long loses its
        partitions.

            with s.consumer("telemetry", group="agg") as c:
                for record in c:
                    work(record)
                    c.commit()
        """
        return Consumer(
            run(
                self._aio.consumer(
                    topics,
                    group,
                    start,
                    partitions=partitions,
                    follow=follow,
                    session_timeout_s=session_timeout_s,
                )
            )
        )

    # -------------------------------------------------------------------------------- groups

    def groups(self) -> list[GroupInfo]:
        """Every consumer group: members, committed offsets, and how far behind."""
        return run(self._aio.groups())

    def group(self, name: str) -> GroupInfo:
        """One consumer group. Raises NotFound."""
        return run(self._aio.group(name))

    def commit_offsets(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        """Set a group's offsets from outside: partition → the offset to read next."""
        run(self._aio.commit_offsets(group, topic, offsets))

    def delete_group(self, name: str) -> None:
        """Forget a group and its offsets. Raises Conflict while it has members."""
        run(self._aio.delete_group(name))


class StreamOperations(Operations):
    def create_stream(
        self,
        path: Path,
        *,
        partitions: int = 1,
        ttl: timedelta | None = None,
        compression: str = "lz4",
        bytes_max: int | None = None,
        mode: int = 0o644,
        parents: bool = False,
        exist_ok: bool = False,
    ) -> Stream:
        """Create a stream.

        `partitions` is what its topics get unless they say otherwise; records older than `ttl`, or
        beyond `bytes_max` in a partition, are dropped (None: kept for ever); `compression` is what
        producers use, "lz4" or "none". Raises Exists unless `exist_ok`, NotFound when the directory
        is missing and `parents` is not set.

        Example: `dp.create_stream("/cars/events", partitions=4, ttl=timedelta(days=7))`
        """
        return Stream(
            run(
                self._aio.create_stream(
                    path,
                    partitions=partitions,
                    ttl=ttl,
                    compression=compression,
                    bytes_max=bytes_max,
                    mode=mode,
                    parents=parents,
                    exist_ok=exist_ok,
                )
            )
        )

    def stream(self, path: Path) -> Stream:
        """Open a stream. Raises NotFound, or Invalid when `path` is something else."""
        return Stream(run(self._aio.stream(path)))
