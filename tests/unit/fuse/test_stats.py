"""Counters, and how they are shown."""

from __future__ import annotations

from dataplatform_clients.fuse.options import MountOptions
from dataplatform_clients.fuse.stats import LATENCIES, Stats, parse_stats


def test_latency_is_of_the_last_calls() -> None:
    stats = Stats(MountOptions(mountpoint="/m"))
    assert stats.latency_us() == (0, 0)
    for number in range(3 * LATENCIES):
        stats.answered(1.0 if number < 2 * LATENCIES else (number - 2 * LATENCIES) / 1e6)
    median_us, p99_us = stats.latency_us()
    assert (median_us, p99_us) == (LATENCIES // 2, LATENCIES * 99 // 100)
    assert stats.calls == 3 * LATENCIES


def test_the_text_and_the_report_say_the_same() -> None:
    stats = Stats(MountOptions(mountpoint="/m", path="/p"), session=b"\x01" * 16, generation=2)
    stats.operations["lookup"] += 3
    stats.operations["read"] += 1
    stats.cache_hits = 2
    stats.dirty_bytes = 4096
    stats.answered(0.001)
    rows = parse_stats(stats.text())
    report = stats.report()
    assert rows["requests"] == str(report.requests) == "4"
    assert rows["requests.lookup"] == "3"
    assert rows["hit_percent"] == "50.0"
    assert rows["dirty_bytes"] == str(report.dirty_bytes) == "4096"
    assert rows["latency_us_p99"] == str(report.latency_us_p99) == "1000"
    assert rows["session"] == report.session == "01" * 16
    assert report.path == "/p"
    assert report.memory_bytes > 1 << 20
