"""`dp` as people type it: real processes, a real server, every command of interface.md.

Most command lines run in forks of one process that has loaded the program (`dp_forks.py`), the
others by the installed script: starting that a hundred times would take a minute. Whatever happened
here, `dp check` finds nothing at the end.
"""

from __future__ import annotations

import json
import os
import selectors
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .servers import ServerProcess

DP = str(Path(sys.executable).with_name("dp"))
TIMEOUT_S = 60

Result = subprocess.CompletedProcess[bytes]


class Forks:
    """`dp_forks.py`, running."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("dp_forks.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, arguments: list[str], stdin: bytes, cwd: Path, env: dict[str, str]) -> Result:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory() as directory:
            files = {name: Path(directory) / name for name in ("stdin", "stdout", "stderr")}
            files["stdin"].write_bytes(stdin)
            request = {name: str(path) for name, path in files.items()}
            request |= {"arguments": arguments, "directory": str(cwd), "environment": env}
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            code = int(self._process.stdout.readline())
            out, errors = files["stdout"].read_bytes(), files["stderr"].read_bytes()
            return subprocess.CompletedProcess(["dp", *arguments], code, out, errors)

    def close(self) -> None:
        self._process.communicate()


class Shell:
    """Command lines, run in a directory, against one server."""

    def __init__(self, directory: Path, address: str, forks: Forks | None = None) -> None:
        self.directory = directory
        self.environment = {**os.environ, "DP_SERVER": address}
        self.environment.pop("DP_DEBUG", None)
        self._forks = forks

    def run(self, command: str, stdin: bytes = b"") -> Result:
        """A command line as in a shell, but without one."""
        program, *arguments = shlex.split(command)
        assert program == "dp"
        if self._forks is not None:
            return self._forks.run(arguments, stdin, self.directory, self.environment)
        return subprocess.run(
            [DP, *arguments],
            input=stdin,
            capture_output=True,
            cwd=self.directory,
            env=self.environment,
            timeout=TIMEOUT_S,
        )

    def __call__(self, command: str, stdin: bytes = b"") -> str:
        """The output of a command that goes well and has nothing to complain about."""
        result = self.run(command, stdin)
        assert (result.returncode, result.stderr) == (0, b""), (command, result)
        return result.stdout.decode()

    def json(self, command: str) -> list[Any]:
        """The values of a command with --json, one per line."""
        return [json.loads(line) for line in self(command + " --json").splitlines()]

    def fails(self, command: str, code: int, *words: str, stdin: bytes = b"") -> None:
        """It ends with this code and one line, which holds these words."""
        result = self.run(command, stdin)
        error = result.stderr.decode()
        assert result.returncode == code, (command, result)
        assert error.startswith("dp: "), error
        assert error.count("\n") == 1, error
        for word in words:
            assert word in error, error

    def start(self, command: str, **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [DP, *shlex.split(command)[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.directory,
            env=self.environment,
            **options,
        )


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    # A socket's path is short; pytest's directories are not always.
    with tempfile.TemporaryDirectory(prefix="dp-cli-") as directory:
        server = ServerProcess(Path(directory))
        server.start()
        try:
            yield server
            shell = Shell(Path(directory), server.address)
            assert ": 0 problems" in shell("dp check")
        finally:
            server.stop()
        offline = shell(f"dp check --data {directory}/data")
        assert ": 0 problems" in offline


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    forks = Forks()
    try:
        yield forks
    finally:
        forks.close()


@pytest.fixture
def dp(server: ServerProcess, forks: Forks, tmp_path: Path) -> Shell:
    return Shell(tmp_path, server.address, forks)


def read_lines(process: subprocess.Popen[bytes], count: int) -> list[bytes]:
    """So many lines of a process's output, as soon as they are there."""
    assert process.stdout is not None
    data = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while data.count(b"\n") < count:
            assert selector.select(TIMEOUT_S), f"nothing more came after {data!r}"
            part = os.read(process.stdout.fileno(), 1 << 16)
            assert part, f"it ended after {data!r}"
            data += part
    return data.splitlines()


# ----------------------------------------------------------------------------------- server


def test_server_start_is_the_server() -> None:
    with tempfile.TemporaryDirectory(prefix="dp-cli-") as directory:
        reader, writer = os.pipe()
        shell = Shell(Path(directory), f"dp+unix://{directory}/dp.sock")
        process = shell.start(
            "dp server start --data data --socket dp.sock --listen none --grpc none --http none"
            f" --cluster east --ready-fd {writer}",
            pass_fds=[writer],
        )
        os.close(writer)
        try:
            with os.fdopen(reader) as ready:
                said = json.loads(ready.read())
            assert said["pid"] == process.pid
            [status] = shell.json("dp status")
            assert status["cluster"] == "east"
            assert status["pid"] == process.pid
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=TIMEOUT_S)
            assert process.returncode == 0, errors
        finally:
            process.kill()
            process.communicate()
        result = shell.run("dp server start --data data --listen 0.0.0.0:0 --socket none")
        assert result.returncode == 5, result  # the server's own code


def test_no_server(dp: Shell) -> None:
    dp.environment["DP_SERVER"] = f"dp+unix://{dp.directory}/none.sock"
    dp.fails("dp ls /", 8, "dp server start", "none.sock")
    dp.fails("dp ls / --server nonsense", 2, "dp://HOST:PORT")


def test_status_and_version(dp: Shell, server: ServerProcess) -> None:
    status = dict(line.split("\t")[:2] for line in dp("dp status").splitlines())
    assert status["server"] == server.address
    assert status["engine"] == "rocks"
    [found] = dp.json("dp status")
    assert found["volumes"][0]["path"] == "/"
    assert isinstance(found["counters"], dict)
    assert dp("dp version").startswith("dp ")


# ------------------------------------------------------------------------------------ files


def test_files_and_directories(dp: Shell) -> None:
    (dp.directory / "front.jpg").write_bytes(b"\xff\xd8picture")
    dp("dp mkdir -p /files/cars/incoming")
    dp("dp mkdir -p /files/cars/incoming")
    dp.fails("dp mkdir /files/cars", 4)
    dp.fails("dp mkdir /files/none/below", 3, "/files/none")
    dp("dp put front.jpg /files/cars/")
    dp("dp put front.jpg /files/cars/back.jpg")
    dp("dp put - /files/cars/notes.txt", stdin=b"one\ntwo\n")
    assert dp("dp ls /files/cars") == "back.jpg\nfront.jpg\nincoming\nnotes.txt\n"
    long = [line.split("\t") for line in dp("dp ls -l /files/cars").splitlines()]
    assert [(line[0], line[4], line[-1]) for line in long] == [
        ("file", "9", "back.jpg"),
        ("file", "9", "front.jpg"),
        ("directory", "0", "incoming"),
        ("file", "8", "notes.txt"),
    ]
    assert dp("dp ls -R /files") == (
        "/files:\ncars\n\n/files/cars:\nback.jpg\nfront.jpg\nincoming\nnotes.txt\n"
        "\n/files/cars/incoming:\n"
    )
    assert [e["path"] for e in dp.json("dp ls -R /files")] == [
        "/files/cars",
        "/files/cars/back.jpg",
        "/files/cars/front.jpg",
        "/files/cars/incoming",
        "/files/cars/notes.txt",
    ]
    [entry] = dp.json("dp ls /files/cars/front.jpg")
    assert list(entry)[:3] == ["name", "kind", "size"]
    [found] = dp.json("dp stat /files/cars/front.jpg")
    assert (found["kind"], found["size"], found["path"]) == ("file", 9, "/files/cars/front.jpg")
    assert "kind\tfile\n" in dp("dp stat /files/cars/front.jpg")
    assert dp("dp cat /files/cars/notes.txt") == "one\ntwo\n"
    assert dp.run("dp cat /files/cars/front.jpg").stdout == b"\xff\xd8picture"
    [content] = dp.json("dp cat /files/cars/front.jpg")
    assert content["content"] == {"base64": "/9hwaWN0dXJl"}
    assert dp("dp tree /files") == (
        "/files\n└── cars/\n    ├── back.jpg\n    ├── front.jpg\n    ├── incoming/\n"
        "    └── notes.txt\n\n2 directories, 3 others\n"
    )
    assert dp("dp du /files") == "26\t6\t/files\n"
    assert dp.json("dp du --depth 1 /files")[0]["path"] == "/files/cars"

    dp("dp get /files/cars/front.jpg .")
    dp("dp get /files/cars/front.jpg copy.jpg")
    assert (dp.directory / "copy.jpg").read_bytes() == b"\xff\xd8picture"
    assert dp("dp get /files/cars/notes.txt -") == "one\ntwo\n"

    dp("dp cp /files/cars/notes.txt /files/cars/incoming")
    dp("dp cp -r /files/cars /files/old")
    assert dp("dp ls /files/old") == dp("dp ls /files/cars")
    dp("dp mv /files/old/back.jpg /files/old/incoming")
    dp("dp mv /files/old/notes.txt /files/old/read.txt")
    assert dp("dp ls /files/old/incoming") == "back.jpg\nnotes.txt\n"
    dp.fails("dp mv -n /files/old/read.txt /files/old/front.jpg", 4)
    dp.fails("dp rm /files/old", 2, "-r")
    dp("dp rm /files/old/read.txt")
    dp("dp rm -r /files/old")
    dp.fails("dp rm /files/old", 3)
    dp.fails("dp rm -r /files/old", 3)
    dp("dp rm -f /files/old")

    dp("dp ln -s notes.txt /files/cars/link")
    dp("dp ln /files/cars/notes.txt /files/cars/second")
    assert dp("dp cat /files/cars/link /files/cars/second") == "one\ntwo\n" * 2
    assert dp("dp ls -l /files/cars").count("link -> notes.txt\n") == 1
    [linked] = dp.json("dp stat -L /files/cars/link")
    assert linked["links"] == 2
    dp("dp touch /files/cars/ready /files/cars/notes.txt")
    assert dp.json("dp stat /files/cars/ready")[0]["size"] == 0
    assert dp("dp cat /files/cars/notes.txt") == "one\ntwo\n"

    dp.fails("dp cat /files/cars", 2, "dp ls")
    dp.fails("dp ls /files/none", 3, "path=`/files/none`")
    dp.fails("dp put front.jpg /files/no/x", 3, "`dp mkdir -p /files/no`")
    dp.fails("dp touch /files/no/x", 3, "`dp mkdir -p /files/no`")
    dp.fails("dp get /files/cars/front.jpg no/x", 3, "local=`no/x`")
    dp.fails("dp put none.jpg /files/x", 3, "local=`none.jpg`")
    dp.fails("dp get /files/cars out", 2, "-r")
    dp.fails("dp put . /files/x", 2, "-r")
    dp.fails("dp cp /files/cars /files/x", 2, "-r")


def test_trees_go_there_and_back(dp: Shell) -> None:
    photos = dp.directory / "photos"
    (photos / "raw").mkdir(parents=True)
    (photos / "empty").mkdir()
    (photos / "a.jpg").write_bytes(b"a")
    (photos / "run.sh").write_text("echo")
    (photos / "run.sh").chmod(0o750)
    (photos / "raw" / "großes bild.raw").write_bytes(os.urandom(9 << 20))  # over one request
    (photos / "latest").symlink_to("a.jpg")
    dp("dp mkdir /trees")
    dp("dp put -r photos /trees/new")
    dp("dp put -r photos /trees")
    assert dp("dp ls /trees") == "new\nphotos\n"
    assert dp("dp ls /trees/new") == dp("dp ls /trees/photos")
    assert dp.json("dp stat /trees/new/run.sh")[0]["mode"] == "0750"
    dp("dp get -r /trees/new back")
    assert subprocess.run(["diff", "-r", photos, dp.directory / "back"]).returncode == 0
    assert (dp.directory / "back" / "latest").readlink() == Path("a.jpg")
    assert (dp.directory / "back" / "run.sh").stat().st_mode & 0o100
    dp("dp table create /trees/new/t")
    dp.fails("dp get -r /trees/new again", 2, "left_out=`/trees/new/t`")
    assert (dp.directory / "again" / "a.jpg").read_bytes() == b"a"
    dp.fails("dp cp -r /trees/new /trees/copy", 2, "left_out=`/trees/new/t`")
    dp("dp get -r /trees/copy copy")
    assert subprocess.run(["diff", "-r", photos, dp.directory / "copy"]).returncode == 0
    assert dp.json("dp stat /trees/copy/run.sh")[0]["mode"] == "0750"
    dp.fails("dp cp -r /trees /trees/new/below", 2, "into itself")


def test_a_large_file_from_standard_input(dp: Shell) -> None:
    data = os.urandom(10 << 20)
    assert dp.run("dp put - /large", stdin=data).returncode == 0
    assert dp.run("dp cat /large").stdout == data
    assert not [name for name in dp("dp ls /").splitlines() if name.endswith(".tmp")]


# ----------------------------------------------------------------------------------- tables


def test_tables(dp: Shell) -> None:
    dp("dp mkdir /tables")
    path = "/tables/vehicles"
    dp(f"dp table create {path} --ttl 30d")
    dp.fails(f"dp table create {path}", 4)
    dp(f"dp table put {path} vin-1 model=ES8 km=12")
    dp(f"""dp table put {path} vin-2 model=ET5 km=4 'tags=["new", "blue"]' owner=null""")
    [version] = dp.json(f'dp table put {path} vin-3 \'raw={{"base64": "AAH/"}}\'')
    assert dp(f"dp table get {path} vin-1") == "model\tES8\nkm\t12\n"
    [row] = dp.json(f"dp table get {path} vin-2")
    assert row.keys() == {"key", "columns", "version"}
    assert row["columns"] == {"model": "ET5", "km": 4, "tags": ["new", "blue"], "owner": None}
    [raw] = dp.json(f"dp table get {path} vin-3")
    assert raw == {
        "key": "vin-3",
        "columns": {"raw": {"base64": "AAH/"}},
        "version": version["version"],
    }
    dp.fails(f"dp table get {path} vin-9", 3, f"dp: row not found. table=`{path}`, key=`vin-9`")
    dp.fails(f"dp table put {path} vin-1 km=1 --if-version 0", 6)
    assert dp(f"dp table increment {path} vin-1 km 5") == "17\n"
    assert dp(f"dp table increment {path} vin-1 km -2") == "15\n"

    assert (
        dp(f"dp table scan {path} --prefix vin- --where 'km > 10'") == "vin-1\tmodel=ES8\tkm=15\n"
    )
    assert (
        dp(f"dp table scan {path} --columns km,model --limit 2")
        == "vin-1\t15\tES8\nvin-2\t4\tET5\n"
    )
    assert [r["key"] for r in dp.json(f"dp table scan {path} --start vin-2 --end vin-3")] == [
        "vin-2"
    ]
    assert [r["key"] for r in dp.json(f"dp table scan {path} --reverse")] == [
        "vin-3",
        "vin-2",
        "vin-1",
    ]
    dp.fails(f"dp table scan {path} --where 'km >'", 2)
    assert [json.loads(line)["key"] for line in dp(f"dp cat {path}").splitlines()] == [
        "vin-1",
        "vin-2",
        "vin-3",
    ]

    dp(f"dp table delete {path} vin-2 --columns tags,owner")
    assert dp(f"dp table get {path} vin-2") == "model\tET5\nkm\t4\n"
    dp(f"dp table delete {path} vin-3")
    dp.fails(f"dp table delete {path} vin-3", 3)
    [info] = dp.json(f"dp table info {path}")
    assert (info["path"], info["rows"], info["ttl"]) == (path, 2, "30d")
    assert "rows\t2\n" in dp(f"dp table info {path}")
    dp.fails("dp table get /tables vin-1", 2)
    dp.fails("dp table get /tables/none vin-1", 3, "`dp table create /tables/none`")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_table_load(dp: Shell, kind: str) -> None:
    rows = [{"vin": f"vin-{n}", "km": n, "model": "ES8"} for n in range(1000)]
    file = dp.directory / f"rows.{kind}"
    if kind == "csv":
        file.write_text("vin,km,model\n" + "".join(f"{r['vin']},{r['km']},ES8\n" for r in rows))
    elif kind == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    result = dp.run(f"dp table load /loaded-{kind} rows.{kind} --key vin")
    assert result.stdout == b"1000 rows\n"
    assert result.stderr == f"dp: created the table /loaded-{kind}\n".encode()
    assert dp(f"dp table load /loaded-{kind} rows.{kind} --key vin") == "1000 rows\n"
    [row] = dp.json(f"dp table get /loaded-{kind} vin-7")
    assert row["columns"] == {"km": 7, "model": "ES8"}
    dp.fails(f"dp table load /loaded-{kind} rows.{kind} --key nothing", 2, "`vin, km, model`")
    dp.fails(f"dp table load /loaded-{kind} none.{kind} --key vin", 3, "local=")


# ---------------------------------------------------------------------------------- streams


def test_streams(dp: Shell) -> None:
    dp("dp mkdir /streams")
    path = "/streams/events"
    topic = f"{path}:telemetry"
    dp(f"dp stream create {path} --partitions 2 --ttl 7d --compression lz4")
    dp.fails(f"dp stream create {path}", 4)
    dp(f"dp stream topic create {path}:status --partitions 3")
    dp.fails(f"dp stream topic create {path}", 2, "PATH:TOPIC")
    dp.fails(f"dp stream topic create {path}:a/b", 2, "letters, digits")
    (dp.directory / "lines").write_bytes(b"one\ntwo\n\xff\xfe\n")
    dp(f"dp stream produce {topic} lines --key vin-1")
    dp(f"dp stream produce {topic} --key vin-1", stdin=b"four\nfive")

    result = dp.run(f"dp stream consume {topic}")
    assert result.stdout == b"one\ntwo\n\xff\xfe\nfour\nfive\n"
    records = dp.json(f"dp stream consume {topic} --from earliest --max 3")
    assert records[0].keys() == {
        "topic",
        "partition",
        "offset",
        "timestamp",
        "key",
        "value",
        "headers",
    }
    assert [(r["key"], r["offset"], r["value"]) for r in records] == [
        ("vin-1", 0, "one"),
        ("vin-1", 1, "two"),
        ("vin-1", 2, {"base64": "//4="}),
    ]
    partition = records[0]["partition"]
    assert dp(f"dp stream consume {topic} --from 3 --partition {partition}") == "four\nfive\n"
    assert dp(f"dp stream consume {topic} --from latest") == ""
    assert dp(f"dp stream consume {topic} --group agg --max 2") == "one\ntwo\n"
    rest = dp.run(f"dp stream consume {topic} --group agg --from 4 --max 3")
    assert rest.stdout == b"\xff\xfe\nfour\nfive\n"  # the group knows better than --from
    assert dp(f"dp stream consume {topic} --group agg") == ""

    assert dp(f"dp cat {topic} --json").count("\n") == 5
    assert dp.run(f"dp cat {path}").stdout == result.stdout
    topics = {t["name"]: t for t in dp.json(f"dp stream topics {path}")}
    assert topics["telemetry"]["records"] == 5
    assert len(topics["status"]["partitions"]) == 3
    assert "status\t3\t0\t0\n" in dp(f"dp stream topics {path}")
    groups = [line.split("\t") for line in dp(f"dp stream groups {path}").splitlines()]
    assert ["agg", "0", "telemetry", str(partition), "5", "0"] in groups
    assert dp.json(f"dp stream groups {path}")[0]["name"] == "agg"
    [info] = dp.json(f"dp stream info {path}")
    assert (info["partitions"], info["ttl"], info["compression"]) == (2, "7d", "lz4")
    assert "records\t5\n" in dp(f"dp stream info {path}")
    dp(f"dp stream group delete {path} agg")
    assert dp(f"dp stream groups {path}") == ""
    dp.fails(f"dp stream group delete {path} agg", 3)
    dp(f"dp stream topic delete {path}:status")
    assert [t["name"] for t in dp.json(f"dp stream topics {path}")] == ["telemetry"]
    dp.fails(f"dp stream consume {path}:none", 3)
    dp.fails("dp stream topics /streams", 2)
    dp.fails("dp stream topics /streams/none", 3, "`dp stream create /streams/none`")


def test_following_shows_every_record_at_once_and_ends_with_ctrl_c(dp: Shell) -> None:
    dp("dp stream create /followed")
    dp("dp stream produce /followed:t", stdin=b"first\n")
    follower = dp.start("dp stream consume /followed:t --follow")
    try:
        assert read_lines(follower, 1) == [b"first"]
        dp("dp stream produce /followed:t", stdin=b"second\nthird\n")
        assert read_lines(follower, 2) == [b"second", b"third"]
        follower.send_signal(signal.SIGINT)
        out, errors = follower.communicate(timeout=TIMEOUT_S)
        assert (follower.returncode, out, errors) == (130, b"", b"")
    finally:
        follower.kill()
        follower.communicate()


def test_a_closed_pipe_ends_quietly(dp: Shell) -> None:
    dp("dp stream create /long")
    dp("dp stream produce /long:t", stdin=b"line\n" * 200_000)
    process = dp.start("dp cat /long")
    assert process.stdout is not None
    assert process.stdout.readline() == b"line\n"
    process.stdout.close()
    assert process.wait(TIMEOUT_S) == 141
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == b""


# ---------------------------------------------------------------------- changes and volumes


def test_changes(dp: Shell) -> None:
    dp("dp mkdir /changed")
    dp("dp touch /changed/a")
    events = dp.json("dp changes /changed")
    assert [(e["event"], e["path"]) for e in events][:2] == [
        ("created", "/changed"),
        ("created", "/changed/a"),
    ]
    last = events[-1]["commit"]
    assert dp(f"dp changes /changed --since {last}") == ""
    follower = dp.start(f"dp changes /changed --since {last} --follow")
    try:
        dp("dp mv /changed/a /changed/b")
        [line] = read_lines(follower, 1)
        assert line.split(b"\t")[2] == b"renamed"
        follower.send_signal(signal.SIGINT)
        _, errors = follower.communicate(timeout=TIMEOUT_S)
        assert (follower.returncode, errors) == (130, b"")
    finally:
        follower.kill()
        follower.communicate()


def test_filtered_changes(dp: Shell) -> None:
    dp("dp mkdir /filtered")
    dp("dp touch /filtered/a")
    dp("dp mv /filtered/a /filtered/b")
    found = dp.json("dp changes /filtered --kinds file --events created,renamed")
    assert [(e["event"], e["path"]) for e in found] == [
        ("created", "/filtered/a"),
        ("renamed", "/filtered/b"),
    ]
    assert dp("dp changes /filtered --kinds table") == ""
    dp.fails("dp changes /filtered --kinds tables", 2, "knows no such kind", "did you mean 'table'")


def test_volumes(dp: Shell) -> None:
    dp("dp volume create /volume --quota 1MiB --compression lz4")
    dp.fails("dp volume create /volume", 4, "cannot become a volume", "path=`/volume`")
    assert [v["path"] for v in dp.json("dp volume ls")] == ["/", "/volume"]
    assert "/volume\tready\t0\t1048576\t" in dp("dp volume ls")
    [info] = dp.json("dp volume info /volume")
    assert (info["quota_bytes"], info["compression"], info["state"]) == (1 << 20, "lz4", "ready")
    assert "quota\t1048576\n" in dp("dp volume info /volume")
    dp.fails("dp put - /volume/big", 9, stdin=os.urandom(2 << 20))
    dp("dp volume set /volume --quota 10MiB")
    dp("dp put - /volume/big", stdin=os.urandom(2 << 20))
    dp("dp volume set /volume --quota none")
    assert dp.json("dp volume info /volume")[0]["quota_bytes"] is None
    dp("dp touch /outside")
    dp.fails("dp mv /outside /volume/inside", 2, "`dp cp -r /outside /volume/inside`")
    assert "0 problems" in dp("dp check /volume")
    dp.fails("dp volume remove /volume", 2, "not empty")
    dp("dp volume remove -r /volume")
    assert [v["path"] for v in dp.json("dp volume ls")] == ["/"]
    dp.fails("dp volume info /none", 3)


def test_quotas(dp: Shell) -> None:
    dp("dp mkdir -p /home/ana/deep")
    dp("dp put - /home/ana/before", stdin=b"x" * 1000)
    [quota] = dp.json("dp quota set /home/ana --bytes 100KiB --entries 5 --advisory-bytes 50KiB")
    assert (quota["path"], quota["used_bytes"], quota["entries"]) == ("/home/ana", 1000, 2)
    dp("dp put - /home/ana/f", stdin=b"x" * 60_000)
    dp.fails("dp put - /home/ana/deep/g", 9, "quota", "path=`/home/ana`", stdin=b"x" * 60_000)
    dp("dp table create /home/ana/t")
    dp("dp stream create /home/ana/s")
    dp.fails("dp mkdir /home/ana/one-too-many", 9, "quota of entries")
    dp.fails(f"dp table put /home/ana/t row text={'y' * 50_000}", 9, "quota")
    dp.fails("dp stream produce /home/ana/s:a", 9, "quota", stdin=os.urandom(60_000).hex().encode())
    [found] = dp.json("dp quota ls /")
    assert (found["path"], found["over_bytes"], found["over_entries"]) == ("/home/ana", True, False)
    assert "above advisory\tbytes\n" in dp("dp quota get /home/ana")
    [status] = dp.json("dp status")
    assert [quota["path"] for quota in status["over"]] == ["/home/ana"]
    assert "over\t/home/ana\t" in dp("dp status")
    assert "advisory limit passed" in dp("dp changes /home")
    dp("dp rm /home/ana/f")
    dp("dp put - /home/ana/deep/g", stdin=b"x" * 60_000)  # free again at once
    dp("dp rm /home/ana/deep/g")
    assert dp.json("dp status")[0]["over"] == []
    dp("dp put - /outside", stdin=b"x" * 102_000)
    dp.fails("dp mv /outside /home/ana/outside", 9, "quota")
    dp("dp quota set /home/ana --bytes none --entries none")
    dp("dp mv /outside /home/ana/outside")
    assert "0 problems" in dp("dp check /")
    dp("dp quota remove /home/ana")
    dp.fails("dp quota get /home/ana", 3, "dp quota ls")
    dp.fails("dp quota set /home/ana", 2, "nothing to set")
    dp.fails("dp quota set / --bytes 1GiB", 2, "dp volume set")
    dp("dp volume create /limited --quota-entries 1 --advisory 1KiB --advisory-entries 10")
    [info] = dp.json("dp volume info /limited")
    limits = (info["quota_entries"], info["advisory_bytes"], info["advisory_entries"])
    assert limits == (1, 1024, 10)
    assert "quota of entries\t1\n" in dp("dp quota get /limited") + dp("dp volume info /limited")
    dp("dp put - /limited/a", stdin=b"x" * 2000)
    dp.fails("dp touch /limited/b", 9, "volume's quota of entries")
    assert [quota["path"] for quota in dp.json("dp status")[0]["over"]] == ["/limited"]
    dp("dp volume remove -r /limited")
    dp("dp rm -r /home")


def test_removing_stays_in_its_volume(dp: Shell) -> None:
    dp("dp mkdir -p /kept/deep")
    dp("dp volume create /kept/deep/volume")
    dp("dp touch /kept/a /kept/deep/b /kept/deep/volume/c")
    names = dp("dp ls -R /")
    dp.fails("dp rm -r /", 2, "volume")
    dp.fails("dp rm -r /kept", 2, "/kept/deep/volume")
    dp.fails("dp rm -rf /kept/deep/volume", 2, "dp volume remove")
    assert dp("dp ls -R /") == names
    dp("dp volume remove -r /kept/deep/volume")
    dp("dp rm -r /kept")
    dp.fails("dp ls /kept", 3)


def test_check(dp: Shell) -> None:
    [report] = dp.json("dp check")
    assert report["ok"] is True
    assert report["findings"] == []
    assert dp("dp check --repair / ").endswith(": 0 problems\n")
