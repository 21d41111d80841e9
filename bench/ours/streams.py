"""Records produced and consumed, by one synchronous producer and one synchronous consumer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import count

from dataplatform import Stream

from ..sides import Sizes, Way, way
from ..timing import median_us, timed
from .context import DURABLE, Context

VALUE = b"x" * 100
MANY = 10_000
POLL_S = 10.0


class Streams:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._names = count()
        self._produced = 0

    def ways(self) -> Sequence[Way]:
        return (
            way("produce-many", "send_many", DURABLE, self.produce_many),
            way("produce", "send", DURABLE, self.produce),
            way("consume", "poll", "–", self.consume),
            way("append", "append", DURABLE, self.append),
        )

    @cached_property
    def _stream(self) -> Stream:
        return self._context.dp.create_stream(self._context.directory("streams") + "/stream")

    @contextmanager
    def _topic(self) -> Iterator[str]:
        """A new topic for this turn alone."""
        name = f"t{next(self._names)}"
        self._stream.create_topic(name)
        yield name
        self._stream.delete_topic(name)

    def produce_many(self, sizes: Sizes) -> float:
        with self._topic() as topic:
            return self._send_many(topic, sizes.count(1_000_000, MANY))

    def _send_many(self, topic: str, total: int) -> float:
        values = [VALUE] * MANY
        calls = total // MANY
        with self._stream.producer() as producer, timed() as watch:
            for _ in range(calls):
                producer.send_many(topic, values)
            producer.flush()
        return calls * MANY / watch.seconds

    def produce(self, sizes: Sizes) -> float:
        total = sizes.count(200_000)
        with self._topic() as topic, self._stream.producer() as producer:
            with timed() as watch:
                for _ in range(total):
                    producer.send(topic, VALUE)
                producer.flush()
            return total / watch.seconds

    def consume(self, sizes: Sizes) -> float:
        total = sizes.count(1_000_000, MANY) // MANY * MANY
        if self._produced < total:
            topic = f"consumed{next(self._names)}"
            self._stream.create_topic(topic)
            self._send_many(topic, total)
            self._produced, self._consumed = total, topic
        with self._stream.consumer(self._consumed, start="earliest") as consumer:
            read = 0
            with timed() as watch:
                while read < total:
                    records = consumer.poll(POLL_S)
                    if not records:
                        raise TimeoutError(f"no record within {POLL_S:.0f} s")
                    read += len(records)
            return read / watch.seconds

    def append(self, sizes: Sizes) -> float:
        stream = self._stream
        return median_us(lambda _: stream.append("one", VALUE), sizes.count(100, 20))
