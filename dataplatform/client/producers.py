"""Producers: records in batches, in order within a partition, each exactly once.

`send` puts a record into the open batch of its partition. Background work takes batches that are
full, or have lingered, and appends them, several requests under way at a time. Batches carry the
producer's id and sequence numbers, so that the server stores a repeated one only once and refuses
one whose predecessor is missing.

Nearly every record joins a batch that is open already: that is what `sender` makes, which awaits
nothing. It asks for no error and no room, because a batch is opened only where there is room and no
error to be told, and none stays open when there is one.

Order survives a lost connection because of two rules: a request is not sent on another connection
than the one before it while that is under way, and replies are awaited oldest first, which repeats
the lost ones in order.

After an error that is not a matter of patience, the producer asks for a new id, with which sequence
numbers begin at 0 again; until it has one, it sends nothing: under the old id, a batch that begins
at 0 would be taken for the first one come again. What was under way behind the error may fail with
it. Every failed record is told through its `Delivery`, and the first error by the next `send`,
`flush` or `close`.
"""

from __future__ import annotations

import atexit
import logging
import os
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import islice
from time import time_ns
from types import NoneType, TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from ..api import platform_pb2 as pb
from ..api.methods import METHODS
from ..base.errors import Conflict, Internal, Invalid, NotFound, PlatformError, Stale, Unavailable
from ..base.limits import BATCH_BYTES_MAX, MIB
from ..base.partitioner import key_hash, partition_of
from ..transport.connections import Bulk
from .batching import RECORD_BYTES_MAX, SEQUENCES, SPENT, Batch, Batches, Partition
from .connection import Channel, Pending
from .messages import whole_number
from .nodes import durability
from .records import (
    NO_HEADERS,
    RECORD_OVERHEAD_BYTES,
    BatchBuilder,
    Bytes,
    Headers,
    as_bytes,
    as_headers,
    as_timestamp,
)
from .runtime import Task, run
from .streams import BATCH_BYTES, COUNT_S, LINGER_S, count_partitions
from .values import Position

D = TypeVar("D")

REQUESTS_UNDER_WAY = 5
PAIRS_AT_ONCE = 1000
BUFFER_BYTES = 32 * MIB
"""Handed over and not stored yet: beyond it, `send` waits."""

log = logging.getLogger(__name__)

APPEND = METHODS["Streams.Append"]
INIT_PRODUCER = METHODS["Streams.InitProducer"]


class Delivery:
    """The fate of one record."""

    __slots__ = ("_batch", "_index", "_timestamp")

    def __init__(self, batch: Batch, index: int, timestamp: int) -> None:
        self._batch = batch
        self._index = index
        self._timestamp = timestamp

    def done(self) -> bool:
        """Whether `result` would return at once."""
        return self._batch.is_done

    async def result(self, timeout_s: float | None = None) -> Position:
        """Where the record is, once it is stored."""
        return await position_of(self._batch, self._index, self._timestamp, timeout_s)


async def position_of(
    batch: Batch, index: int, timestamp: int, timeout_s: float | None
) -> Position:
    """Where a record of a batch is, once it is stored."""
    if not batch.is_done:
        await batch.partition.producer.wait_for(batch, timeout_s)
    if batch.error is not None:
        raise batch.error
    partition = batch.partition
    return Position(partition.topic, partition.number, batch.base_offset + index, timestamp)


class _Topic:
    """A topic's partitions, and the one that takes records without a key at the moment."""

    def __init__(self, producer: Producer, name: str, count: int, now_s: float, first: int) -> None:
        self.name = name
        self.counted_s = now_s
        self._producer = producer
        self.count = count
        self.partitions: dict[int, Partition] = {}  # that records went to
        self.current = self._at(first)  # of records without a key

    def set_count(self, count: int, now_s: float) -> None:
        """Partitions were added, or the topic was made anew."""
        self.count = count
        self.counted_s = now_s
        if self.current.number >= count:
            self.current = self._at(0)

    def of(self, key: bytes | None, partition: int | None) -> Partition:
        if partition is None:
            return self.current if key is None else self._at(partition_of(key, self.count))
        if whole_number("partition", partition) >= self.count:
            raise Invalid(
                "there is no such partition",
                topic=self.name,
                partition=partition,
                partitions=self.count,
            )
        return self._at(partition)

    def _at(self, number: int) -> Partition:
        partition = self.partitions.get(number)
        if partition is None:
            partition = self.partitions[number] = Partition(self._producer, self.name, number)
        return partition

    def next_turn(self) -> None:
        """Records without a key go to the next partition from now on."""
        self.current = self._at((self.current.number + 1) % self.count)

    def begin_sequences(self) -> None:
        """With a new producer id they count from 0."""
        for partition in self.partitions.values():
            partition.sequence = 0


class _Request(NamedTuple):
    pending: Pending
    message: pb.AppendRequest
    data: list[Bulk]
    parts: list[list[Batch]]


class Producer:
    """What the methods mean is said at `dataplatform.Producer`."""

    def __init__(
        self,
        channel: Channel,
        stream: pb.Target,
        path: str,
        *,
        linger_s: float = LINGER_S,
        batch_bytes: int = BATCH_BYTES,
        durable: bool | None = None,
        compression: str | None = None,
    ) -> None:
        if not 0 < batch_bytes <= RECORD_BYTES_MAX:
            raise Invalid("a batch has 1 byte to 8 MiB", batch_bytes=batch_bytes)
        self._channel = channel
        self._stream = stream
        self._path = path
        self._durability = durability(durable)
        self._compression = compression
        self._producer_id = -1
        self._epoch = 0
        self._topics: dict[str, _Topic] = {}
        self._batches = Batches(batch_bytes, linger_s, self._take_turns)
        self._under_way: deque[_Request] = deque()
        self._changed = channel.runtime.condition()  # guards all that follows, and _batches
        self._error: PlatformError | None = None
        self._needs_id = False
        self._is_closing = False
        self._is_closed = False
        self._process = os.getpid()
        self._delivery: Callable[[Batch, int, int], Any] = Delivery  # what `send` returns
        self._offer = self.sender(Delivery, _cannot)
        self._task: Task | None = None

    async def begin(self) -> Self:
        """Get an id and start the background work."""
        await self._init()
        self._task = self._channel.runtime.spawn(self._work, "dataplatform producer")
        if self._channel.runtime.blocking:
            _not_closed.add(self)
        return self

    async def _init(self) -> None:
        reply: pb.ProducerReply
        try:
            reply, _ = await self._channel.call(
                INIT_PRODUCER, pb.ProducerRequest(stream=self._stream)
            )
        except NotFound as error:
            raise NotFound(error.message, **{**error.facts, "path": self._path}) from error
        self._producer_id, self._epoch = reply.producer_id, reply.epoch
        self._needs_id = False
        if self._compression is None:
            self._compression = reply.options.compression or "lz4"

    # ------------------------------------------------------------------------------- sending

    async def send(
        self,
        topic: str,
        value: Bytes | None,
        key: Bytes | None = None,
        headers: Headers | None = None,
        timestamp: int | datetime | None = None,
        partition: int | None = None,
    ) -> Any:
        sent = self._offer(topic, value, key, headers, timestamp, partition)
        return sent or await self.put(topic, value, key, headers, timestamp, partition)

    def sender(
        self, delivery: Callable[[Batch, int, int], D], otherwise: Callable[..., D]
    ) -> Callable[..., D]:
        """A `send` for records that can join an open batch as they are, `otherwise` for the others.

        It runs for every record, so it is one call that calls as little as possible, and what it
        needs of the producer is at hand.
        """
        self._delivery = delivery
        find, acquire, release = self._topics.get, self._changed.acquire, self._changed.release

        def send(
            topic: str,
            value: Bytes | None,
            key: Bytes | None = None,
            headers: Headers | None = None,
            timestamp: int | datetime | None = None,
            partition: int | None = None,
        ) -> D:
            known = find(topic)
            if known is None or headers or timestamp is not None:
                return otherwise(topic, value, key, headers, timestamp, partition)
            stored = value if type(value) is bytes else as_bytes(value)
            place: Partition | None
            if partition is not None:
                place = known.partitions.get(partition)
            elif key is None:
                place = known.current
            else:
                key = key if type(key) is bytes else as_bytes(key)
                place = known.partitions.get(key_hash(key) % known.count)
            when = time_ns() // 1_000_000
            acquire()
            try:
                batch = None if place is None else place.open
                if batch is not None:
                    builder = batch.builder
                    index = builder.count
                    if builder.append(index, when, key, stored, NO_HEADERS) is not None:
                        builder.count = index + 1
                        return delivery(batch, index, when)
            finally:
                release()
            return otherwise(topic, value, key, headers, timestamp, partition)

        return send

    async def put(
        self,
        topic: str,
        value: Bytes | None,
        key: Bytes | None,
        headers: Headers | None,
        timestamp: int | datetime | None,
        partition: int | None,
    ) -> Any:
        """`send`, also where it has to wait or to open a batch."""
        stored_key, stored_value = as_bytes(key), as_bytes(value)
        listed = as_headers(headers)
        when = as_timestamp(timestamp, self._channel.runtime.now_ms())
        _check_size(topic, stored_key, stored_value, listed)
        known = await self._topic(topic)
        async with self._changed:
            await self._have_room()
            now_s = self._channel.runtime.monotonic()
            batch = self._add(known, when, stored_key, stored_value, partition, now_s, listed)
            index = batch.builder.count - 1
            if index == 0:
                self._changed.notify_all()  # there is something new to wait for
            return self._delivery(batch, index, when)

    async def send_many(
        self,
        topic: str,
        values: Iterable[Bytes | None],
        keys: Iterable[Bytes | None] | None = None,
        timestamp: int | datetime | None = None,
        partition: int | None = None,
    ) -> int:
        known = await self._topic(topic)
        if keys is None:
            return await self._send_values(known, _stored(values), timestamp, partition)
        pairs = zip(_stored(keys), _stored(values), strict=True)
        return await self._send_pairs(known, pairs, timestamp, partition)

    async def _send_pairs(
        self,
        topic: _Topic,
        pairs: Iterator[tuple[bytes | None, bytes | None]],
        timestamp: int | datetime | None,
        partition: int | None,
    ) -> int:
        """Into the open batches, some pairs at a time so that those that are full can leave."""
        runtime = self._channel.runtime
        count = 0
        while taken := list(islice(pairs, PAIRS_AT_ONCE)):
            when = as_timestamp(timestamp, runtime.now_ms())
            for key, value in taken:
                _check_size(topic.name, key, value)
            async with self._changed:
                await self._have_room()
                now_s = runtime.monotonic()
                for key, value in taken:
                    self._add(topic, when, key, value, partition, now_s)
                self._changed.notify_all()
            count += len(taken)
        return count

    def _add(
        self,
        topic: _Topic,
        when: int,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        now_s: float,
        headers: list[tuple[str, bytes | None]] = NO_HEADERS,
    ) -> Batch:
        """Put a record into the open batch of its partition, which is its last one then."""
        while True:
            batch = self._batches.open(topic.of(key, partition), now_s)
            if batch.builder.add(when, key, value, headers):
                return batch
            self._batches.make_ready(batch)

    def _take_turns(self, partition: Partition) -> None:
        """Records without a key stay with a partition until its batch leaves, full or not."""
        topic = self._topics.get(partition.topic)
        if topic is not None and topic.current is partition:
            topic.next_turn()

    async def _have_room(self) -> None:
        """Wait while too much is under way. Raises what went wrong before. With the lock held."""
        self._check()
        while self._batches.unfinished_bytes > BUFFER_BYTES:
            await self._changed.wait()
            self._check()

    async def _send_values(
        self,
        topic: _Topic,
        values: Iterator[bytes | None],
        timestamp: int | datetime | None,
        partition: int | None,
    ) -> int:
        """Fill batches of our own, without the lock, and hand over each as a whole."""
        runtime = self._channel.runtime
        count = 0
        rest: bytes | bool | None = False
        while rest is not True:
            when = as_timestamp(timestamp, runtime.now_ms())
            builder = BatchBuilder(self._batches.batch_bytes)
            if rest is not False:
                builder.add(when, None, rest)
            rest = builder.add_many(when, values)
            count += builder.count
            if builder.size_bytes > BATCH_BYTES_MAX:
                raise _too_large(topic.name, builder.size_bytes)
            if builder.count:
                await self._hand_over(topic, builder, partition)
        return count

    async def _hand_over(self, topic: _Topic, builder: BatchBuilder, partition: int | None) -> None:
        async with self._changed:
            await self._have_room()
            place = topic.of(None, partition)
            self._batches.make_partition_ready(place)
            batch = Batch(place, builder, self._channel.runtime.monotonic())
            self._batches.make_ready(batch)
            self._changed.notify_all()

    def _check(self) -> None:
        if self._is_closed or self._is_closing:
            raise ValueError("the producer is closed")
        self._raise_error()

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    async def _topic(self, name: str) -> _Topic:
        """Its partitions, counted anew from time to time."""
        now_s = self._channel.runtime.monotonic()
        known = self._topics.get(name)
        if known is not None and now_s < known.counted_s + COUNT_S:
            return known
        try:
            count = await count_partitions(
                self._channel, self._stream, name, patience_s=None if known is None else 0.0
            )
        except Unavailable:
            if known is None:
                raise
            count = known.count  # records gather meanwhile; it is asked again in a while
        async with self._changed:
            known = self._topics.get(name)
            if known is None:
                known = self._topics[name] = _Topic(
                    self, name, count, now_s, int(self._channel.runtime.random() * count) % count
                )
            known.set_count(count, now_s)
            return known

    # ------------------------------------------------------------------------------- waiting

    async def wait_for(self, batch: Batch, timeout_s: float | None) -> None:
        """Until a batch is stored or has failed. For `Delivery`."""
        runtime = self._channel.runtime
        end_s = None if timeout_s is None else runtime.monotonic() + timeout_s
        async with self._changed:
            if batch.number == 0:
                self._batches.make_ready(batch)
                self._changed.notify_all()
            while not batch.is_done:
                left_s = None if end_s is None else end_s - runtime.monotonic()
                if left_s is not None and left_s <= 0:
                    raise Unavailable("the record is not stored yet", timeout_s=timeout_s)
                await self._changed.wait(left_s)

    async def flush(self) -> None:
        """Send everything now, wait until it is stored, and raise what went wrong."""
        async with self._changed:
            last = self._batches.make_all_ready()
            self._changed.notify_all()
            while not self._batches.is_done_up_to(last):
                await self._changed.wait()
            self._raise_error()

    async def close(self) -> None:
        """`flush`, and end the background work."""
        if self._is_closed:
            return
        try:
            await self.flush()
        finally:
            await self._end()

    async def abandon(self) -> None:
        """End without sending what has not left yet: the program failed on its way."""
        async with self._changed:
            for batch in self._batches.drop_waiting():
                batch.error = Unavailable("the producer was closed before the record was sent")
                self._batches.done(batch)
        await self._end()

    async def _end(self) -> None:
        async with self._changed:
            self._is_closing = True
            self._batches.make_all_ready()
            self._changed.notify_all()
        if self._task is not None:
            await self._task.join()
        self._is_closed = True
        _not_closed.discard(self)

    def end_with_program(self) -> None:
        """`close` at the end of a program that did not. Not in a child: it is the parent's."""
        if self._process == os.getpid():
            message = f"a producer of {self._path} was not closed"
            warnings.warn(message, ResourceWarning, stacklevel=2, source=self)
            try:
                run(self.close())
            except PlatformError as error:
                log.error("records were not stored: %s", error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            await self.close()
        else:
            await self.abandon()

    # ----------------------------------------------------------------------- background work

    async def _work(self) -> None:
        try:
            while True:
                batches = await self._next_batches()
                if batches:
                    await self._start(batches)
                elif self._under_way:
                    await self._finish_oldest()
                else:
                    return
                while len(self._under_way) >= REQUESTS_UNDER_WAY:
                    await self._finish_oldest()
        except BaseException as error:
            await self._fail_all(error)
            if not isinstance(error, Exception):
                raise

    async def _next_batches(self) -> dict[Partition, list[Batch]]:
        """What is to be sent next. Waits for it only if nothing is under way; empty at the end."""
        runtime = self._channel.runtime
        async with self._changed:
            while True:
                now_s = runtime.monotonic()
                batches = self._batches.due(now_s)
                if batches or self._under_way or self._is_closing:
                    return batches
                await self._changed.wait(self._batches.next_due_s(now_s))

    async def _start(self, batches: dict[Partition, list[Batch]]) -> None:
        if self._needs_id:
            try:
                await self._init()
            except PlatformError as error:
                async with self._changed:
                    self._tell(error)
                    self._failed(list(batches.values()), error)
                return
        message = pb.AppendRequest(stream=self._stream, durability=self._durability)
        data: list[Bulk] = []
        for partition, listed in batches.items():
            for batch in listed:
                self._encode(batch)
                data.append(batch.encoded)
            message.parts.add(
                topic=partition.topic,
                partition=partition.number,
                length=sum(len(batch.encoded) for batch in listed),
            )
        previous = self._under_way[-1].pending if self._under_way else None
        pending = await self._channel.start(
            APPEND, message, data, after=previous, is_numbered=False
        )
        self._under_way.append(_Request(pending, message, data, list(batches.values())))

    def _encode(self, batch: Batch) -> None:
        batch.encoded = batch.builder.build(
            self._compression or "none", self._producer_id, self._epoch, batch.partition.sequence
        )
        batch.builder = SPENT
        batch.partition.sequence = (batch.partition.sequence + batch.count) % SEQUENCES

    async def _finish_oldest(self) -> None:
        request = self._under_way.popleft()
        error: PlatformError | None = None
        reply = pb.AppendReply()
        try:
            reply = await self._reply(request)
        except PlatformError as reason:
            error = reason
        if error is not None:
            await self._renew(request)
        async with self._changed:
            if error is None:
                for part, listed in zip(reply.parts, request.parts, strict=True):
                    self._stored(part, listed)
            else:
                self._tell(error)
                self._failed(request.parts, error)
            self._changed.notify_all()

    async def _reply(self, request: _Request) -> pb.AppendReply:
        reply: pb.AppendReply
        try:
            reply, _ = await request.pending
        except (Conflict, Stale):
            # Its predecessor was put off by the server and has been stored since: try again.
            reply, _ = await self._channel.call(
                APPEND, request.message, request.data, is_numbered=False
            )
        return reply

    def _stored(self, part: pb.AppendReply.Part, batches: list[Batch]) -> None:
        offset = part.base_offset
        for batch in batches:
            batch.base_offset = offset
            offset += batch.count
            self._batches.done(batch)

    def _tell(self, error: PlatformError) -> None:
        """The next call raises it; no batch stays open meanwhile."""
        self._error = self._error or error
        self._batches.make_all_ready()

    def _failed(self, parts: list[list[Batch]], error: PlatformError) -> None:
        for batches in parts:
            for batch in batches:
                batch.error = error
                self._batches.done(batch)
        self._changed.notify_all()

    async def _renew(self, failed: _Request) -> None:
        """Settle all that is under way behind a failure; what comes next needs a new id."""
        while self._under_way:
            request = self._under_way.popleft()
            try:
                reply, _ = await request.pending
            except PlatformError as error:
                async with self._changed:
                    self._failed(request.parts, error)
            else:
                async with self._changed:
                    for part, listed in zip(reply.parts, request.parts, strict=True):
                        self._stored(part, listed)
        for topic in self._topics.values():
            topic.begin_sequences()
        self._needs_id = True

    async def _fail_all(self, reason: BaseException) -> None:
        error = (
            reason
            if isinstance(reason, PlatformError)
            else Internal("the producer's background work ended", reason=repr(reason))
        )
        async with self._changed:
            self._error = self._error or error
            self._is_closing = True
            self._batches.make_all_ready()
            lost = sum(batch.count for batch in self._batches.unfinished.values())
            if lost:
                log.warning(
                    "a producer ended with records that were not known to be stored: close it. "
                    "path=`%s`, records=`%d`",
                    self._path,
                    lost,
                )
            while self._under_way:
                self._failed(self._under_way.popleft().parts, error)
            for batch in [*self._batches.drop_waiting(), *self._batches.unfinished.values()]:
                batch.error = error
                self._batches.done(batch)
            self._changed.notify_all()


_not_closed: weakref.WeakSet[Producer] = weakref.WeakSet()
"""Those of programs without an event loop, whose background threads end with them unfinished."""


@atexit.register
def _end_with_program() -> None:
    for producer in list(_not_closed):
        producer.end_with_program()


def _cannot(*_: object) -> None:
    return


def _stored(values: Iterable[Bytes | None]) -> Iterator[bytes | None]:
    """Values as bytes. A list of bytes, the usual case, is passed as it is."""
    if isinstance(values, (list, tuple)) and set(map(type, values)) <= {bytes, NoneType}:
        return iter(values)
    return map(as_bytes, values)


def _check_size(
    topic: str,
    key: bytes | None,
    value: bytes | None,
    headers: list[tuple[str, bytes | None]] = NO_HEADERS,
) -> None:
    size = RECORD_OVERHEAD_BYTES + len(key or b"") + len(value or b"")
    if headers:
        size += sum(len(name) * 4 + len(content or b"") + 10 for name, content in headers)
    if size > RECORD_BYTES_MAX:
        raise _too_large(topic, size)


def _too_large(topic: str, size: int) -> Invalid:
    return Invalid("the record is too large", topic=topic, bytes=size, bytes_max=RECORD_BYTES_MAX)
