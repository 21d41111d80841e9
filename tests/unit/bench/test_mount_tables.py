"""The record, its file, the verdicts and the table of the mounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataplatform_bench.mounts import records, tables
from dataplatform_bench.mounts.places import Durability
from dataplatform_bench.mounts.records import About, Figure, Record
from dataplatform_bench.mounts.rounds import MEMORY, PARTS
from dataplatform_bench.mounts.works import AHEAD, WORKS, Goal, Work, disk, juicefs, known
from dataplatform_bench.sides import DISK, OURS

SIDES = (OURS, "juicefs-always", "juicefs-memory", "seaweedfs", DISK)


def record(work: str, *values: float) -> Record:
    """Values of ours, of both JuiceFS, of SeaweedFS and of the disk."""
    made = Record("2 CPUs", 3)
    for side, value in zip(SIDES, values, strict=False):
        made.places[side] = About(side.title(), Durability("later", f"synced by {side}"))
        made.figure(work, side).values.append(value)
    return made


def verdict(made: Record, name: str, *goals: Goal) -> list[bool | None]:
    return [tables.verdict(made, name, Work("", "", goals), goal)[0] for goal in goals]


def test_ahead_is_measured_against_the_best_of_the_peers() -> None:
    assert verdict(record("create", 31, 10, 20, 30, 1000), "create", AHEAD) == [True]
    assert verdict(record("create", 29, 10, 20, 30, 1000), "create", AHEAD) == [False]


def test_times_juicefs_and_a_part_of_the_disk() -> None:
    made = record("write-fsync", 60, 10, 20, 999, 240)
    goals = (juicefs(3), juicefs(3.1), disk(0.25, ""), disk(0.3, ""))
    assert verdict(made, "write-fsync", *goals) == [True, False, True, False]


def test_many_processes_are_measured_against_one_of_ours() -> None:
    made = record("create", 100)
    made.figure("create-4", OURS).values.append(101)
    assert verdict(made, "create-4", Goal(times=1, work="create")) == [True]
    assert verdict(made, "create-4", Goal(times=1.1, work="create")) == [False]


def test_limits() -> None:
    made = record("store-ratio", 2.9)
    assert verdict(made, "store-ratio", Goal(at_most=3)) == [True]
    assert verdict(made, "store-ratio", Goal(at_most=2)) == [False]
    assert verdict(made, "store-ratio", Goal(at_least=3)) == [False]


@pytest.mark.parametrize("values", [(), (5,)])
def test_what_is_not_there_cannot_be_told(values: tuple[float, ...]) -> None:
    assert verdict(record("create", *values), "create", AHEAD) == [None]


def test_a_record_is_the_same_after_its_file(tmp_path: Path) -> None:
    made = record("create", 3, 1, 2)
    made.figure("unlink", OURS).problem = "failed: it hung"
    made.growth["ours"] = [{"seconds": 1.0, "stored_bytes": 5}]
    made.save(tmp_path / "record.json")
    assert records.load(tmp_path / "record.json") == made


def test_a_work_measured_again_replaces_all_its_figures() -> None:
    older, newer = record("create", 3, 1, 2, 4), record("create", 5, 6)
    older.figure("unlink", OURS).values.append(1)
    older.update(newer)
    assert older.works["create"] == newer.works["create"]
    assert older.median("unlink", OURS) == 1


def test_the_table_has_every_side_its_durability_and_what_is_reached() -> None:
    made = record("create", 3000, 1000, 2000)
    made.works["create"]["seaweedfs"] = Figure(problem="failed: it hung | for ever")
    made.places["seaweedfs"] = About("SeaweedFS", Durability("unsynced", "unsynced"))
    lines = tables.table(made).splitlines()
    assert lines[0].startswith("2 CPUs; median of 3 rounds")
    widths = {line.count("|") for line in lines if line.startswith("|")}
    assert widths == {8}
    assert "synced by ours" in lines[5]
    assert lines[6] == (
        "| create + close, files/s | 3,000 | 1,000 | 2,000 | failed: it hung / for ever "
        "| ahead of all peers | yes (1.50×) |"
    )


def test_the_section_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "performance.md"
    path.write_text("# Performance\n\ntext\n")
    tables.write(record("create", 1111), path)
    path.write_text(path.read_text() + "\nafter it\n")
    tables.write(record("create", 2222), path)
    text = path.read_text()
    assert text.count("## The mount") == text.count(tables.BEGIN) == text.count(tables.END) == 1
    assert "2,222" in text
    assert "1,111" not in text
    assert text.startswith("# Performance\n\ntext\n")
    assert text.endswith("\nafter it\n")


def test_every_work_is_done_by_a_part_and_every_part_is_in_the_table() -> None:
    done = {work for part in PARTS for work in part.works} | set(MEMORY)
    assert done == set(WORKS)


def test_works_by_name_and_by_beginning() -> None:
    assert known(["mkdir", "create"]) == ["create", "mkdir"]
    assert known(["pgbench*"]) == ["pgbench-1", "pgbench-8"]
    assert known(["nothing"]) == []
