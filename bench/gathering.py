"""Many streams into one: topics of several clusters gathered into one, all records looked at.

    python -m bench.gathering [--clusters 4] [--streams 25] [--records 100000] [--partitions 8]

Every cluster is a server of its own with so many streams, and so many records are produced into
each. Then all are gathered into one topic of another server; printed is how long that takes, and
what it costs that server's processor. At the end every record is read, and has to be there exactly
once, in the order of its source.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import dataplatform

from .audit import cpu_ns

VALUE = b"%d from here, and some more of what events are made of"
SEND = 5000


@contextlib.contextmanager
def server(directory: Path, name: str) -> Iterator[tuple[str, str, int]]:
    """Its socket's address, its address and its process."""
    directory.mkdir()
    address = f"dp+unix://{directory}/dp.sock"
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "dataplatform_server", "start", "--cluster", name]
    command += ["--data", str(directory / "data"), "--socket", f"{directory}/dp.sock"]
    command += ["--listen", "127.0.0.1:0", "--grpc", "none", "--http", "none"]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--ready-fd", str(writer)], stdout=log, stderr=log, pass_fds=[writer]
        )
    os.close(writer)
    try:
        with os.fdopen(reader) as ready:
            said = json.loads(ready.read())
        yield address, str(said["frames"]), process.pid
    finally:
        process.terminate()
        process.wait()


def fill(address: str, streams: int, count: int) -> str:
    """Streams with records; a token for whoever gathers them."""
    with dataplatform.connect(address) as dp:
        dp.create_user("gatherer", admin=True)
        for number in range(streams):
            with dp.create_stream(f"/s{number}").producer() as producer:
                for first in range(0, count, SEND):
                    values = [VALUE % n for n in range(first, min(first + SEND, count))]
                    producer.send_many("t", values)
        return dp.create_token("gatherer").token


def check(address: str, partitions: int, sources: int, count: int) -> None:
    """Every record of every source, once, in its order."""
    found: dict[bytes, int] = {}
    with dataplatform.connect(address) as dp:
        stream = dp.stream("/all")
        total = sum(p.end_offset for p in stream.topic("t").partitions)
        assert total == sources * count, (total, sources * count)
        with stream.consumer("t", start="earliest") as consumer:
            for _, record in zip(range(total), consumer, strict=False):
                origin = bytes(record.headers["dp-origin"] or b"")
                source, _, offset = origin.rpartition(b"/")
                expected = found.get(source, 0)
                assert int(offset) == expected, (origin, expected)
                assert record.value == VALUE % expected, origin
                found[source] = expected + 1
    assert len(found) == sources, len(found)
    assert set(found.values()) == {count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clusters", type=int, default=4)
    parser.add_argument("--streams", type=int, default=25)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--partitions", type=int, default=8)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        home, _, pid = stack.enter_context(server(Path(directory) / "home", "home"))
        names = [f"c{number}" for number in range(given.clusters)]
        sources = []
        with dataplatform.connect(home) as dp:
            for name in names:
                near, far, _ = stack.enter_context(server(Path(directory) / name, name))
                began_s = time.monotonic()
                token = fill(near, given.streams, given.records)
                print(f"{name} filled in {time.monotonic() - began_s:.1f} s", flush=True)
                dp.add_cluster(name, far, token=token)
                sources += [f"/{name}/s{number}:t" for number in range(given.streams)]
            dp.create_stream("/all", partitions=given.partitions)
            total = len(sources) * given.records
            began_s, began_ns = time.monotonic(), cpu_ns(pid)
            dp.gather("/all", "t", sources)
            while sum(one.records for item in dp.gathers() for one in item.sources) < total:
                time.sleep(0.2)
            took_s, cpu_s = time.monotonic() - began_s, (cpu_ns(pid) - began_ns) / 1e9
        print(
            f"{total} records of {len(sources)} sources in {took_s:.1f} s: {total / took_s:,.0f} "
            f"records/s, {cpu_s:.1f} s of processor, {cpu_s / total * 1e6:.2f} µs each"
        )
        check(home, given.partitions, len(sources), given.records)
        print("each is there once, in the order of its source")


if __name__ == "__main__":
    main()
