"""Medians, ratios, and whether it is what is asked."""

from __future__ import annotations

import pytest

from dataplatform_bench import results
from dataplatform_bench.results import Figure, Result, asked_text, judge
from dataplatform_bench.sides import DISK, OURS, Label
from dataplatform_bench.works import NOTHING, WORKS, Asked, Work


def figure(side: str, *values: float, label: str = "way", is_baseline: bool = False) -> Figure:
    return Figure(side, Label("work", label, "synced", is_baseline), list(values))


@pytest.mark.parametrize(
    ("asked", "value", "ratio", "is_time", "verdict"),
    [
        (NOTHING, 5.0, 2.0, False, None),
        (Asked(at_least=5), 5.0, None, False, True),
        (Asked(at_least=5), 4.9, None, False, False),
        (Asked(at_most=5), 5.1, None, True, False),
        (Asked(times=2), 1.0, 2.0, False, True),
        (Asked(times=2), 1.0, 1.9, False, False),
        (Asked(times=2), 1.0, 1.9, True, True),
        (Asked(times=2), 1.0, 2.1, True, False),
        (Asked(times=2), 1.0, None, False, None),  # the peer is not there
        (Asked(at_least=5, times=2), 4.0, None, False, False),  # missed, whatever the peer does
        (Asked(at_least=5, times=2), 6.0, None, False, None),
        (Asked(at_least=5, times=2), 6.0, 3.0, False, True),
        (Asked(at_least=5), None, None, False, None),
    ],
)
def test_verdicts(
    asked: Asked, value: float | None, ratio: float | None, is_time: bool, verdict: bool | None
) -> None:
    assert judge(asked, value, ratio, is_time) is verdict


def test_a_rate_is_compared_with_the_best_rival() -> None:
    work = Work("w", "/s", Asked(times=5, of=("redis", "nats")))
    rivals = [figure("redis", 10), figure("nats", 30), figure("kafka", 1000)]
    assert Result("w", work, [figure(OURS, 149), *rivals]).is_reached() is False
    assert Result("w", work, [figure(OURS, 150), *rivals]).is_reached() is True


def test_a_time_is_compared_with_the_best_rival() -> None:
    work = Work("w", "µs", Asked(times=2, of=("redis", DISK)), is_time=True)
    rivals = [figure("redis", 100), figure(DISK, 50)]
    assert Result("w", work, [figure(OURS, 101), *rivals]).is_reached() is False
    assert Result("w", work, [figure(OURS, 100), *rivals]).is_reached() is True


def test_only_the_named_way_of_a_rival_counts() -> None:
    work = Work("w", "/s", Asked(times=2, of=("redis",), way="slow"))
    rivals = [figure("redis", 10, label="slow way"), figure("redis", 100, label="fast way")]
    assert Result("w", work, [figure(OURS, 20), *rivals]).is_reached() is True


def test_a_baseline_of_ours_is_a_rival() -> None:
    work = Work("w", "µs", Asked(times=1.5, of=(OURS,)), is_time=True)
    result = Result("w", work, [figure(OURS, 16), figure(OURS, 10, is_baseline=True)])
    assert result.is_reached() is False
    assert [rival.median for rival in result.rivals] == [10]


def test_figures_are_medians_and_a_failed_one_is_none() -> None:
    assert figure(OURS, 1, 100, 3).median == 3
    assert figure(OURS).median is None
    failed = figure("redis", 1)
    failed.problem = "failed: why"
    assert failed.median is None
    result = Result("w", Work("w", "/s", Asked(times=5, of=("redis",))), [figure(OURS, 1), failed])
    assert result.is_reached() is None
    assert results.as_json(result)["peers"][0]["problem"] == "failed: why"
    assert "failed: why" in results.rows(result)[0]


def test_the_lines_of_the_table() -> None:
    work = Work("put", "/s", Asked(at_least=1000, times=2, of=("redis",)))
    rivals = [figure("redis", 2000), figure("nats", 4)]
    first, second = results.rows(Result("put", work, [figure(OURS, 1234.6), *rivals]))
    assert first == (
        *("put (put)", "1,235 /s", "synced", "redis: way", "2,000 /s", "synced", "0.62×"),
        *("≥ 1,000 /s and ≥ 2× redis", "NO"),
    )
    assert second == ("", "", "", "nats: way", "4 /s", "synced", "308.65×", "", "")
    assert len(results.HEADERS) == len(first)


def test_what_is_asked_in_words() -> None:
    texts = {name: asked_text(w.asked, w.unit, w.is_time) for name, w in WORKS.items()}
    assert texts["put"] == "≤ 2.5× disk"
    assert texts["stat"] == "≤ 1.5× small directory"
    assert texts["file-read"] == "≥ 900 MB/s and ≥ 0.6× disk"
    assert texts["file-write-sync"] == ""
