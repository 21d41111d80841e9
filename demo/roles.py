"""What runs in processes of its own: producers, and the members of a consumer group."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable

import dataplatform
from dataplatform import Record

from . import dataset

GROUP = "delays"


def produce(address: str, base: str, origin: str) -> int:
    """Send one airport's flights, keyed by carrier; how many. Durable when this returns."""
    frame = dataset.flights()
    frame = frame[frame["origin"] == origin]
    sent = 0
    with dataplatform.connect(address) as dp, dp.stream(f"{base}/events").producer() as producer:
        for key, value in dataset.records(frame):
            producer.send("departures", value=value, key=key)
            sent += 1
    return sent


def aggregate(address: str, base: str, total: int) -> int:
    """Keep each carrier's statistics until the group has read `total` records; how many this
    member read.

    The rows and the offsets go in one transaction, so every flight counts exactly once, whatever
    fails in between.
    """
    read = 0
    with dataplatform.connect(address) as dp:
        stream, table = dp.stream(f"{base}/events"), dp.table(f"{base}/carriers")
        with stream.consumer("departures", group=GROUP, start="earliest") as consumer:
            while counted(table) < total:
                records = consumer.poll(timeout_s=0.5, max_records=20_000)
                if records:
                    _store(dp, base, records)
                    read += len(records)
    return read


def counted(table: dataplatform.Table) -> int:
    return sum(int(row.columns["flights"]) for row in table.scan(columns=["flights"]))


def _store(dp: dataplatform.Client, base: str, records: Iterable[Record]) -> None:
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    offsets: dict[tuple[str, int], int] = {}
    for record in records:
        flight = json.loads(record.value or b"{}")
        carrier = sums[flight["carrier"]]
        carrier["flights"] += 1
        carrier["cancelled"] += "dep_time" not in flight
        carrier["departed"] += "dep_delay" in flight
        carrier["delay_minutes"] += flight.get("dep_delay", 0)
        carrier["distance"] += flight["distance"]
        offsets[record.topic, record.partition] = record.offset + 1
    with dp.transaction(base) as tx:
        for name, columns in sums.items():
            for column, amount in columns.items():
                tx.table("carriers").increment(name, column, int(amount))
        for (topic, partition), offset in offsets.items():
            tx.stream("events").commit_offset(GROUP, topic, partition=partition, offset=offset)
