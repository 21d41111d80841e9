"""Counts and times of requests, cheap enough for every one of them, and their Prometheus text.

Buckets of the histogram are powers of two of a microsecond, so that finding one is `bit_length`.
Format: https://prometheus.io/docs/instrumenting/exposition_formats, version 0.0.4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from dataplatform.api.methods import Method
from dataplatform.base.errors import ErrorKind

BUCKETS = 27
"""The last finite one ends at 2**25 µs = 34 s: above the longest poll."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _MethodMetrics:
    __slots__ = ("buckets", "errors", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * BUCKETS
        self.seconds = 0.0
        self.errors: Counter[ErrorKind] = Counter()


class RequestMetrics:
    """Of one server, since its start."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._methods = dict(methods)
        self._by_number = {m.number: _MethodMetrics() for m in methods.values()}

    def count(self, method: Method, seconds: float) -> None:
        metrics = self._by_number[method.number]
        metrics.seconds += seconds
        metrics.buckets[min(int(seconds * 1e6).bit_length(), BUCKETS - 1)] += 1

    def count_error(self, method: Method, kind: ErrorKind) -> None:
        self._by_number[method.number].errors[kind] += 1

    def counters(self) -> dict[str, int]:
        """Those that are not zero: `requests.Tables.Put`, `errors.CONFLICT`."""
        counted: Counter[str] = Counter()
        for name, method in self._methods.items():
            metrics = self._by_number[method.number]
            counted[f"requests.{name}"] = sum(metrics.buckets)
            for kind, count in metrics.errors.items():
                counted[f"errors.{kind.name}"] += count
        return {name: count for name, count in counted.items() if count}

    def lines(self) -> Iterable[str]:
        used = [
            (name, metrics)
            for name, method in self._methods.items()
            if any((metrics := self._by_number[method.number]).buckets)
        ]
        yield "# HELP dp_request_seconds Time from a request's arrival to its reply."
        yield "# TYPE dp_request_seconds histogram"
        for name, metrics in used:
            yield from _histogram("dp_request_seconds", f'method="{name}"', metrics)
        yield "# HELP dp_request_errors_total Requests answered with an error."
        yield "# TYPE dp_request_errors_total counter"
        for name, metrics in used:
            for kind, count in metrics.errors.items():
                labels = f'method="{name}",kind="{kind.name}"'
                yield f"dp_request_errors_total{{{labels}}} {count}"


def _histogram(name: str, label: str, metrics: _MethodMetrics) -> Iterable[str]:
    total = 0
    for bucket, count in enumerate(metrics.buckets[:-1]):
        total += count
        yield f'{name}_bucket{{{label},le="{(1 << bucket) / 1e6:.6f}"}} {total}'
    total += metrics.buckets[-1]
    yield f'{name}_bucket{{{label},le="+Inf"}} {total}'
    yield f"{name}_sum{{{label}}} {metrics.seconds:.6f}"
    yield f"{name}_count{{{label}}} {total}"


def gauge(name: str, text: str, values: Mapping[str, float]) -> Iterable[str]:
    """A gauge; keys of `values` are labels as they are written, "" for none."""
    return _samples("gauge", name, text, values)


def counter(name: str, text: str, values: Mapping[str, float]) -> Iterable[str]:
    """A counter, likewise."""
    return _samples("counter", name, text, values)


def _samples(kind: str, name: str, text: str, values: Mapping[str, float]) -> Iterable[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    for labels, value in values.items():
        yield f"{name}{{{labels}}} {value}" if labels else f"{name} {value}"
