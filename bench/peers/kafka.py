"""Apache Kafka, one node in KRaft mode, through confluent-kafka with acks=all.

With one node, acks=all waits for the page cache, not for the disk: Kafka leaves syncing to the
kernel unless `flush.messages=1`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from itertools import count as numbers
from pathlib import Path
from typing import Any

from ..processes import Running, run
from ..sides import Driver, MakeDriver, Side, Sizes, Way, way
from ..timing import timed
from .tools import answers, find_program, free_port, has_module

VALUE = b"x" * 100
FETCH = 10_000
CALL_S = 60.0
CLUSTER = "dGhlIGJlbmNobWFyayBjbA"
UNSYNCED = "page cache"
JAVA = ("-Xms512m", "-Xmx512m", "-Dlog4j2.level=WARN")
HOME_VARIABLE = "KAFKA_HOME"
CONFIG = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={directory}
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
"""


def home() -> Path:
    """Where Kafka is: the folder whose `libs` holds its jars."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get(HOME_VARIABLE) or cache / "dataplatform-bench" / "kafka")


class Kafka(Side):
    name = "kafka"
    works = frozenset(("produce-many", "produce", "consume"))
    _running: Running | None = None

    def missing(self) -> str | None:
        if find_program("java") is None:
            return "no Java 17: apt-get install openjdk-17-jre-headless"
        if not list((home() / "libs").glob("kafka_2.13-*.jar")):
            return (
                f"no Kafka in {home()}: unpack a release from kafka.apache.org and set"
                f" {HOME_VARIABLE}, or, with Maven, run `make bench`"
            )
        if not has_module("confluent_kafka"):
            return "no confluent-kafka: pip install confluent-kafka"
        return None

    def start(self, directory: Path) -> Sequence[MakeDriver]:
        port = free_port()
        config = directory / "server.properties"
        logs = directory / "logs"
        config.write_text(CONFIG.format(port=port, controller=free_port(), directory=logs))
        java = [find_program("java") or "java", *JAVA, "-cp", f"{home() / 'libs'}/*"]
        run([*java, "kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", str(config)])
        self._running = Running([*java, "kafka.Kafka", str(config)], directory / "kafka.log")
        self._running.wait_until(lambda: answers(port))
        return (partial(KafkaDriver, port),)

    def stop(self) -> None:
        if self._running is not None:
            self._running.stop()


class KafkaDriver(Driver):
    def __init__(self, port: int) -> None:
        import confluent_kafka
        from confluent_kafka.admin import AdminClient

        self._kafka = confluent_kafka
        self._servers = {"bootstrap.servers": f"127.0.0.1:{port}"}
        self._admin = AdminClient(self._servers)
        self._names = numbers()
        self._filled: set[str] = set()

    def ways(self) -> Sequence[Way]:
        return (
            way("produce-many", "produce, acks=all", UNSYNCED, self.produce),
            way("produce", "produce, acks=all", UNSYNCED, self.produce),
            way("consume", f"consume of {FETCH}", "–", self.consume),
        )

    def produce(self, sizes: Sizes) -> float:
        """confluent-kafka has no call for many records: both works are the same here."""
        topic = f"produced{next(self._names)}"
        self._create(topic)
        figure = self._produce(topic, sizes.count(200_000))
        self._admin.delete_topics([topic])[topic].result(CALL_S)
        return figure

    def _create(self, topic: str) -> None:
        from confluent_kafka.admin import NewTopic

        made = self._admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
        made[topic].result(CALL_S)

    def _produce(self, topic: str, count: int) -> float:
        failures: list[Any] = []
        producer = self._kafka.Producer(
            {
                **self._servers,
                "acks": "all",
                "linger.ms": 5,
                "compression.type": "lz4",
                "queue.buffering.max.messages": 1_000_000,
                "delivery.timeout.ms": int(CALL_S * 1000),
                # Called only for records that were not stored.
                "error_cb": failures.append,
                "delivery.report.only.error": True,
                "on_delivery": lambda error, _: failures.append(error),
            }
        )
        with timed() as watch:
            for _ in range(count):
                producer.produce(topic, VALUE)
            left = producer.flush(CALL_S)
        if left or failures:
            raise TimeoutError(f"{left} records not delivered: {failures[:1]}")
        return count / watch.seconds

    def consume(self, sizes: Sizes) -> float:
        count = sizes.count(200_000)
        topic = f"consumed{count}"
        if topic not in self._filled:
            self._create(topic)
            self._produce(topic, count)
            self._filled.add(topic)
        consumer = self._kafka.Consumer(
            {**self._servers, "group.id": topic, "enable.auto.commit": False}
        )
        place = self._kafka.TopicPartition(topic, 0, self._kafka.OFFSET_BEGINNING)
        consumer.assign([place])
        read = 0
        with timed() as watch:
            while read < count:
                messages = consumer.consume(FETCH, CALL_S)
                if not messages:
                    raise TimeoutError("no message")
                read += sum(1 for message in messages if message.error() is None)
        consumer.close()
        return read / watch.seconds

    def close(self) -> None:
        pass
