"""Commands over a client that answers what it is told: options, output, help."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

import dataplatform
from dataplatform.base import limits
from dataplatform_clients.cli import main, server, streams

from .fakes import STAT, Answers, Command

Make = Callable[..., Command]


# ------------------------------------------------------------------------------------- help


def commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        yield from (
            commands(command, (*words, name))
            if hasattr(command, "commands")
            else [((*words, name), command)]
        )


def test_every_command_has_an_example_of_itself() -> None:
    found = dict(commands(get_command(main.load())))
    assert len(found) > 35
    for words, command in found.items():
        name = " ".join(("dp", *words))
        assert "Example" in command.help, name
        assert f"{name}" in command.help.split("Example")[1], name


def test_brackets_stand_once_around_what_may_be_left_out() -> None:
    for words, command in commands(get_command(main.load())):
        for parameter in command.params:
            assert not str(parameter.metavar or "").startswith("["), words


def test_the_table_of_modules_is_right() -> None:
    registered = set(get_command(main.load()).commands)  # type: ignore[attr-defined]
    assert registered == {name for names in main.MODULES.values() for name in names}


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_without_a_command_it_shows_help(dp: Make, arguments: tuple[str, ...]) -> None:
    code, out, err = dp()(*arguments)
    assert code == 0
    assert "Usage: dp [OPTIONS] COMMAND" in out
    assert "List a directory" in out
    assert not err


def test_help_says_what_to_write_and_not_its_type() -> None:
    for words, command in commands(get_command(main.load())):
        context = typer.Context(command)
        for parameter in command.get_params(context):
            assert "<" not in parameter.display_type_rich(context), (words, parameter.name)


def test_a_noun_alone_shows_help(dp: Make) -> None:
    code, out, _ = dp()("table")
    assert code == 0
    assert "scan" in out


def test_help_needs_neither_the_client_nor_rich() -> None:
    """Start-up time: what is not needed is not loaded."""
    program = (
        "import sys; from dataplatform_clients.cli.main import run; run(['--help']);"
        "sys.exit(bool({'dataplatform', 'rich', 'asyncio'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0


# ------------------------------------------------------------------------- global options


@pytest.mark.parametrize(
    "arguments",
    [
        ("--server", "dp://h:1", "--token", "x", "ls", "/"),
        ("ls", "--server=dp://h:1", "/", "--token", "x"),
        ("ls", "/", "--token=x", "--server", "dp://h:1"),
    ],
)
def test_global_options_stand_anywhere(dp: Make, arguments: tuple[str, ...]) -> None:
    command = dp(lstat=STAT)
    assert command(*arguments)[0] == 0
    assert command.connected == [("dp://h:1", "x")]


def test_global_options_from_the_environment(dp: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    command = dp(lstat=STAT)
    monkeypatch.setenv("DP_SERVER", "dp://e:1")
    assert command("ls", "/")[0] == 0
    assert command.connected == [("dp://e:1", None)]


def test_options_after_two_dashes_are_left_alone() -> None:
    assert main.hoist(["touch", "--", "--server", "x"]) == (
        ["touch", "--", "--server", "x"],
        "touch",
    )


# ------------------------------------------------------------------------------ outputs


def entry(name: str, **changes: Any) -> dataplatform.Entry:
    known = {f: getattr(STAT, f) for f in dataplatform.Stat.__slots__} | changes
    return dataplatform.Entry(name=name, path=f"/a/{name}", **known)


def test_ls_in_a_pipe(dp: Make) -> None:
    directory = entry("a", kind="directory")
    names = [entry("f"), entry("g\n"), entry("l", kind="symlink", symlink="f")]
    command = dp(lstat=directory, scandir=lambda path: iter(names))
    assert command("ls", "/a")[1] == 'f\n"g\\n"\nl\n'
    long = command("ls", "-l", "/a")[1].splitlines()
    assert long[0] == "file\trw-r--r--\t1\t2\t5\t2023-11-14T22:13:20.123456789Z\tf"
    assert long[2].endswith("\tl -> f")
    listed = [json.loads(line) for line in command("ls", "--json", "/a")[1].splitlines()]
    assert [(e["name"], e["kind"], e["size"]) for e in listed] == [
        ("f", "file", 5),
        ("g\n", "file", 5),
        ("l", "symlink", 5),
    ]


def test_table_put_parses_values(dp: Make) -> None:
    table = Answers(put=9)
    code, out, _ = dp(table=table)(
        "table", "put", "/t", "k", "model=ES8", "km=12", "--if-version", "3", "--json"
    )
    assert (code, json.loads(out)) == (0, {"key": "k", "version": 9})
    assert table.last() == (
        "put",
        ("k", {"model": "ES8", "km": 12}),
        {"if_version": 3, "replace": False},
    )


def test_table_scan(dp: Make) -> None:
    rows = [
        dataplatform.Row("k1", {"a": 1, "b": "x y"}, 3),
        dataplatform.Row(b"\xff", {"a": "1"}, 4),
    ]
    table = Answers(scan_pages=lambda *args: iter([rows]))
    command = dp(table=table)
    assert command("table", "scan", "/t")[1] == 'k1\ta=1\tb=x y\n{"base64": "/w=="}\ta="1"\n'
    assert command("table", "scan", "/t", "--columns", "b,a")[1].startswith("k1\tx y\t1\n")
    _, out, _ = command(
        "table", "scan", "/t", "--prefix", "k", "--start", "a", "--end", "z", "--columns", "a,b",
        "--where", "km > 10", "--limit", "5", "--json",
    )  # fmt: skip
    assert table.last()[1] == ("k", "a", "z", ["a", "b"], "km > 10", 5, False)
    assert json.loads(out.splitlines()[0]) == {
        "key": "k1",
        "columns": {"a": 1, "b": "x y"},
        "version": 3,
    }


def test_table_increment_takes_negative_amounts(dp: Make) -> None:
    table = Answers(increment=lambda key, column, amount: amount)
    command = dp(table=table)
    assert command("table", "increment", "/t", "k", "n")[1] == "1\n"
    assert command("table", "increment", "/t", "k", "n", "-5")[1] == "-5\n"
    assert command("table", "increment", "/t", "k", "n", "-1.5")[1] == "-1.5\n"
    assert command("table", "increment", "/t", "k", "n", "--", "-5")[1] == "-5\n"
    assert command("table", "increment", "/t", "k", "n", "--foo")[0] == 2
    assert command("table", "increment", "/t", "k", "n", "x")[0] == 2


@pytest.mark.parametrize("partitions", ["0", "10001", "99999999999"])
def test_partitions_have_a_range(dp: Make, partitions: str) -> None:
    code, _, err = dp()("stream", "create", "/s", "--partitions", partitions)
    assert code == 2
    assert "--partitions" in err
    assert streams.PARTITIONS_MAX == limits.PARTITIONS_MAX


def test_stream_create(dp: Make) -> None:
    command = dp()
    assert command("stream", "create", "/s", "--partitions", "4", "--ttl", "7d")[0] == 0
    name, args, options = command.client.last()
    assert (name, args) == ("create_stream", ("/s",))
    assert options["partitions"] == 4
    assert options["ttl"] == timedelta(days=7)
    assert options["compression"] == "lz4"


def produced(dp: Make, data: bytes, tmp_path: Path, *options: str) -> list[tuple[Any, Any]]:
    sent: list[tuple[Any, Any]] = []

    def send_many(topic: str, values: list[bytes], keys: Any, partition: Any) -> int:
        assert topic == "t"
        sent.extend(zip(keys or [None] * len(values), values, strict=True))
        return len(values)

    file = tmp_path / "lines"
    file.write_bytes(data)
    stream = Answers(producer=Answers(send_many=send_many))
    code, out, err = dp(stream=stream)("stream", "produce", "/s:t", str(file), "--json", *options)
    assert code == 0, err
    assert json.loads(out) == {"topic": "t", "records": len(sent)}
    return sent


def test_produce_sends_a_record_per_line(dp: Make, tmp_path: Path) -> None:
    assert produced(dp, b"a\n\nb\r\nc", tmp_path) == [
        (None, b"a"),
        (None, b""),
        (None, b"b\r"),
        (None, b"c"),
    ]
    assert produced(dp, b"", tmp_path) == []
    assert produced(dp, b"a\n", tmp_path, "--key", "k") == [(b"k", b"a")]
    assert produced(dp, b"k=v\nv\n", tmp_path, "--key-separator", "=") == [
        (b"k", b"v"),
        (None, b"v"),
    ]


def test_produce_puts_long_lines_together_again(dp: Make, tmp_path: Path) -> None:
    lines = [b"x" * 3_000_000, b"y", b"z" * 1_500_000]
    assert [value for _, value in produced(dp, b"\n".join(lines), tmp_path)] == lines


def test_consume_commits_behind_what_it_printed(dp: Make) -> None:
    records = [dataplatform.Record("t", 0, n, 5, None, b"v%d" % n, {}) for n in range(5)]
    consumer = Answers(records=records)
    stream = Answers(consumer=consumer)
    command = dp(stream=stream)
    assert command("stream", "consume", "/s:t", "--group", "g", "--max", "2")[1] == "v0\nv1\n"
    assert [name for name, _, _ in consumer.asked] == ["commit"]
    assert stream.last()[1] == ("t", "g", "earliest")
    _, out, _ = command("stream", "consume", "/s:t", "--from", "3", "--json")
    assert stream.last()[1] == ("t", None, 3)
    assert len(out.splitlines()) == 5


def test_check_that_found_something_is_corrupt(dp: Make) -> None:
    finding = dataplatform.Finding("/a", "a size is wrong", True, False)
    report = dataplatform.CheckReport(3, (finding,), {"files": 3})
    code, out, _ = dp(check=report)("check")
    assert code == 10
    assert out == "repairable: /a: a size is wrong\nchecked 3 files: 1 problems\n"
    code, out, _ = dp(check=report)("check", "/a", "--json")
    assert code == 10
    found = json.loads(out)
    assert found["ok"] is False
    assert found["findings"][0]["problem"] == "a size is wrong"


def test_version(dp: Make) -> None:
    command = dp()
    assert command("version") == command("--version")
    assert "version" in json.loads(command("version", "--json")[1])
    assert not command.connected


# ----------------------------------------------------------------------------- the server


def test_server_start_becomes_the_server(dp: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[list[str]] = []

    def execv(program: str, command_line: list[str]) -> None:
        became.append(command_line)
        raise typer.Exit

    monkeypatch.setattr(server.os, "execv", execv)
    command = dp()
    start = ("server", "start", "--data", "D", "--log-level", "debug", "--insecure", "--new", "x")
    assert command(*start)[0] == 0
    assert command("check", "--data", "D", "--repair")[0] == 0
    assert [line[3:] for line in became] == [
        [
            "dataplatform_server",
            "start",
            "--data=D",
            "--log-level=debug",
            "--insecure",
            "--new",
            "x",
        ],
        ["dataplatform_server", "check", "--data=D", "--repair"],
    ]


# ------------------------------------------------------------------------------ transfers


def test_get_replaces_the_local_file_only_when_all_is_there(dp: Make, tmp_path: Path) -> None:
    class Broken(Answers):
        def read(self, size: int) -> bytes:
            raise dataplatform.Unavailable("gone")

    local = tmp_path / "f"
    local.write_text("old")
    code, _, err = dp(stat=STAT, open=Broken())("get", "/f", str(local))
    assert (code, err) == (8, "dp: gone\n")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert local.read_text() == "old"


def test_a_path_is_completed(monkeypatch: pytest.MonkeyPatch, dp: Make) -> None:
    from dataplatform_clients.cli.completion import complete_path

    dp(scandir=lambda path: iter([entry("abc"), entry("abd", kind="directory"), entry("x")]))

    class Context:
        def __init__(self) -> None:
            self.params: dict[str, str] = {}

        def find_root(self) -> Context:
            return self

    assert complete_path(Context(), "/a/ab") == ["/a/abc", "/a/abd/"]  # type: ignore[arg-type]
    assert complete_path(Context(), "relative") == []  # type: ignore[arg-type]
    topics = [dataplatform.TopicInfo(name, ()) for name in ("alerts", "app", "b")]
    dp(stream=Answers(topics=topics))
    assert complete_path(Context(), "/s:a") == ["/s:alerts", "/s:app"]  # type: ignore[arg-type]
    dp(scandir=dataplatform.Unavailable("no server"))
    assert complete_path(Context(), "/") == []  # type: ignore[arg-type]
