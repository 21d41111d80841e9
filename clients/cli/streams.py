"""Streams: `dp stream create | topics | topic | produce | consume | groups | group | info`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from . import outputs
from .apps import DATA, Json, RemotePath, app, command, group
from .completion import complete_path
from .connections import connect
from .outputs import Size
from .parsing import parse_duration, parse_size, parse_start, parse_topic

if TYPE_CHECKING:
    from dataplatform import Client, Consumer, Record, Stream, TopicInfo

stream = group(app, "stream", "Topics of records, in the order in which they came.", DATA)
topic = group(stream, "topic", "Topics of a stream.")
members = group(stream, "group", "Consumer groups of a stream.")

COMMIT_RECORDS = 1000
"""Between two commits of a group that reads what is there; a follower commits what it printed."""

PARTITIONS_MAX = 10_000
"""As `dataplatform.base.limits` has it, which `--help` does not load."""

POLL_S = 1.0
READ_BYTES = 1 << 20

Topic = Annotated[
    Any,
    typer.Argument(
        parser=parse_topic, metavar="PATH:TOPIC", autocompletion=complete_path, show_default=False
    ),
]
Partitions = Annotated[
    int | None,
    typer.Option("--partitions", min=1, max=PARTITIONS_MAX, metavar="N", help="Of each topic."),
]


def open_stream(client: Client, path: str) -> Stream:
    """The stream at `path`; NotFound says how to create it."""
    import dataplatform

    try:
        return client.stream(path)
    except dataplatform.NotFound as error:
        raise dataplatform.NotFound(
            f"no such stream: create it with `dp stream create {shlex.quote(path)}`", path=path
        ) from error


@command(stream, "create", "dp stream create /projects/cars/events --partitions 4 --ttl 7d")
def create(
    path: RemotePath,
    partitions: Partitions = None,
    ttl: Annotated[
        timedelta | None,
        typer.Option(parser=parse_duration, metavar="7d", help="Records are kept so long."),
    ] = None,
    bytes_max: Annotated[
        int | None,
        typer.Option(
            "--max-bytes", parser=parse_size, metavar="10GiB", help="Kept in each partition."
        ),
    ] = None,
    compression: Annotated[str, typer.Option(metavar="lz4|none", help="Of the records.")] = "lz4",
    has_parents: Annotated[
        bool, typer.Option("-p", "--parents", help="Directories above it too; it may exist.")
    ] = False,
) -> None:
    """Create a stream. Its topics come into being when they are first written."""
    with connect() as client:
        client.create_stream(
            path,
            partitions=partitions or 1,
            ttl=ttl,
            compression=compression,
            bytes_max=bytes_max,
            parents=has_parents,
            exist_ok=has_parents,
        )


# ----------------------------------------------------------------------------------- topics


@command(stream, "topics", "dp stream topics /projects/cars/events")
def topics(path: RemotePath, json: Json = False) -> None:
    """List the topics of a stream: name, partitions, records, bytes."""
    with connect() as client:
        found = open_stream(client, path).topics()
        if json:
            for item in found:
                outputs.json_line(_topic_json(item))
        else:
            rows = ((t.name, len(t.partitions), t.records, Size(t.size_bytes)) for t in found)
            outputs.table(("topic", "partitions", "records", "size"), rows)


def _topic_json(item: TopicInfo) -> dict[str, Any]:
    totals = {"records": item.records, "size_bytes": item.size_bytes}
    return {"name": item.name, **totals, "partitions": item.partitions}


@command(topic, "create", "dp stream topic create /projects/cars/events:telemetry --partitions 8")
def topic_create(place: Topic, partitions: Partitions = None) -> None:
    """Create a topic, with the stream's number of partitions unless --partitions says another."""
    path, name = place
    with connect() as client:
        open_stream(client, path).create_topic(name, partitions)


@command(topic, "delete", "dp stream topic delete /projects/cars/events:telemetry")
def topic_delete(place: Topic) -> None:
    """Delete a topic with all its records."""
    path, name = place
    with connect() as client:
        open_stream(client, path).delete_topic(name)


# ---------------------------------------------------------------------------------- produce


@command(
    stream,
    "produce",
    "dp stream produce /projects/cars/events:telemetry readings.jsonl",
    "echo hello | dp stream produce /projects/cars/events:telemetry --key vin-1",
)
def produce(
    place: Topic,
    file: Annotated[str, typer.Argument(metavar="FILE", show_default=False)] = "-",
    key: Annotated[str | None, typer.Option(metavar="K", help="Of every record.")] = None,
    separator: Annotated[
        str | None,
        typer.Option("--key-separator", metavar="S", help="A line is KEY, S, and the value."),
    ] = None,
    partition: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="All into this partition.")
    ] = None,
    json: Json = False,
) -> None:
    """Append a record per line, from FILE or standard input.

    Lines are sent as they come. Records with the same key go to the same partition, in order. When
    the command ends, every record is on the server's disk. With --json their number is printed.
    """
    if key is not None and separator is not None:
        raise typer.BadParameter("--key and --key-separator exclude each other")
    path, name = place
    count = 0
    with (
        _input(file) as source,
        connect() as client,
        open_stream(client, path).producer() as producer,
    ):
        for lines in _batches(source):
            keys: list[bytes | None] | None = None if key is None else [key.encode()] * len(lines)
            if separator is not None:
                keys, lines = _split(lines, separator.encode())
            count += producer.send_many(name, lines, keys, partition=partition)
    if json:
        outputs.json_line({"topic": name, "records": count})


@contextmanager
def _input(file: str) -> Iterator[IO[bytes]]:
    if file == "-":
        yield sys.stdin.buffer
    else:
        with open(file, "rb") as opened:
            yield opened


def _batches(source: IO[bytes]) -> Iterator[list[bytes]]:
    """Lines without their ends, as many at a time as are there."""
    read = getattr(source, "read1", source.read)
    rest: list[bytes] = []
    while data := read(READ_BYTES):
        lines = data.split(b"\n")
        rest.append(lines[0])
        if len(lines) > 1:
            lines[0] = b"".join(rest)
            rest = [lines.pop()]
            yield lines
    if last := b"".join(rest):
        yield [last]


def _split(lines: list[bytes], separator: bytes) -> tuple[list[bytes | None], list[bytes]]:
    keys: list[bytes | None] = []
    values: list[bytes] = []
    for line in lines:
        key, found, value = line.partition(separator)
        keys.append(key if found else None)
        values.append(value if found else line)
    return keys, values


# ---------------------------------------------------------------------------------- consume


@command(
    stream,
    "consume",
    "dp stream consume /projects/cars/events:telemetry --from latest --follow",
    "dp stream consume /projects/cars/events:telemetry --group agg --max 100 --json",
)
def consume(
    place: Topic,
    start: Annotated[
        Any,
        typer.Option(
            "--from",
            parser=parse_start,
            metavar="earliest|latest|OFFSET",
            help="Where to begin; a time such as 2026-01-31T12:00 too.",
        ),
    ] = "earliest",
    group: Annotated[
        str | None,
        typer.Option(metavar="G", help="Go on where group G was; --from counts if it is new."),
    ] = None,
    is_following: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait for more, for ever.")
    ] = False,
    count_max: Annotated[
        int | None, typer.Option("--max", min=0, metavar="N", help="So many at most.")
    ] = None,
    partition: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Only this one; not with --group.")
    ] = None,
    json: Json = False,
) -> None:
    """Print the values of records, one per line; with --json whole records.

    Without --follow it ends with the last record there is. A group's offsets are committed behind
    what was printed.
    """
    if group is not None and partition is not None:
        raise typer.BadParameter("--group and --partition exclude each other")
    if count_max == 0:
        return
    path, name = place
    with connect() as client:
        consumer = open_stream(client, path).consumer(
            name,
            group,
            start,
            partitions=None if partition is None else [partition],
            follow=is_following,
        )
        with consumer:
            is_member = group is not None
            if is_following:
                follow_records(consumer, count_max, json=json, is_member=is_member)
            else:
                print_records(consumer, count_max, json=json, is_member=is_member)


def print_records(
    consumer: Consumer, count_max: int | None = None, *, json: bool, is_member: bool = False
) -> None:
    """Every record until the end, or so many."""
    for count, record in enumerate(consumer, 1):
        _print(record, json=json)
        is_enough = count == count_max
        if is_member and (is_enough or count % COMMIT_RECORDS == 0):
            outputs.flush()
            consumer.commit()
        if is_enough:
            return
    if is_member:
        outputs.flush()
        consumer.commit()


def follow_records(
    consumer: Consumer, count_max: int | None, *, json: bool, is_member: bool
) -> None:
    """Records as they come, each shown at once."""
    left = count_max
    while left is None or left > 0:
        records = consumer.poll(POLL_S, left)
        for record in records:
            _print(record, json=json)
            outputs.flush()
        if records and is_member:
            consumer.commit()
        if left is not None:
            left -= len(records)
        if not records and consumer.is_ended:  # in a snapshot nothing follows
            return


def _print(record: Record, *, json: bool) -> None:
    if json:
        outputs.json_line(outputs.record_json(record))
    else:
        outputs.write((record.value or b"") + b"\n")


# ------------------------------------------------------------------------------------ looks


@command(stream, "groups", "dp stream groups /projects/cars/events")
def groups(path: RemotePath, json: Json = False) -> None:
    """List the consumer groups of a stream: how far each is, and how far behind.

    A line for each partition holds group, members, topic, partition, offset and lag.
    """
    with connect() as client:
        found = open_stream(client, path).groups()
        if json:
            for item in found:
                outputs.json_line(item)
            return
        rows = (
            (g.name, len(g.members), o.topic, o.partition, o.offset, o.lag)
            for g in found
            for o in g.offsets
        )
        outputs.table(("group", "members", "topic", "partition", "offset", "lag"), rows)


@command(members, "delete", "dp stream group delete /projects/cars/events agg")
def group_delete(
    path: RemotePath, name: Annotated[str, typer.Argument(metavar="GROUP", show_default=False)]
) -> None:
    """Delete a consumer group with its committed offsets. Fails while somebody is in it."""
    with connect() as client:
        open_stream(client, path).delete_group(name)


@command(stream, "info", "dp stream info /projects/cars/events")
def info(path: RemotePath, json: Json = False) -> None:
    """Show the settings of a stream, and how much it holds."""
    with connect() as client:
        found = open_stream(client, path).info()
        if json:
            outputs.json_line(found)
            return
        outputs.fields(
            {
                "path": found.path,
                "topics": len(found.topics),
                "records": sum(t.records for t in found.topics),
                "size": Size(sum(t.size_bytes for t in found.topics)),
                "partitions": found.partitions,
                "ttl": found.ttl,
                "max bytes": None if found.bytes_max is None else Size(found.bytes_max),
                "compression": found.compression,
                "version": str(found.stat.version),
            }
        )
