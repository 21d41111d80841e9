"""Programs that people run all day: git, tar, rsync, a compiler, fio, SQLite's neighbours."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from .mounts import wait_until
from .programs import need, run, started

PARTS = ["/usr/share/perl5", "/usr/share/perl", "/usr/share/common-licenses", "/usr/share/doc"]
FILES_MAX = 600


# ------------------------------------------------------------------------------------- git


def _git(repository: Path, *words: str) -> str:
    who = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    safe = ("-c", "safe.directory=*", "-c", "gc.auto=0")
    return run(["git", *who, *safe, *words], cwd=repository).stdout


def test_git(place: Path, seed: int) -> None:
    """A repository is made, committed to, cloned, pushed to, collected, and proven whole."""
    need("git")
    rng = random.Random(seed)
    origin = place / "origin"
    origin.mkdir()
    _git(origin, "init", "-q", "-b", "main")
    for number in range(8):
        for name in rng.sample(range(60), 12):
            path = origin / f"d{name % 5}" / f"f{name}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(rng.randbytes(rng.choice([0, 10, 3000, 30_000])))
        _git(origin, "add", "-A")
        _git(origin, "commit", "-q", "-m", f"commit {number}")
    _git(place, "clone", "-q", str(origin), "clone")
    clone = place / "clone"
    _git(clone, "checkout", "-q", "-b", "work")
    (clone / "d0" / "new").write_text("new\n")
    _git(clone, "add", "-A")
    _git(clone, "commit", "-q", "-m", "work")
    _git(clone, "push", "-q", "origin", "work")
    _git(origin, "merge", "-q", "work")
    for repository in (origin, clone):
        _git(repository, "gc", "-q", "--prune=now")
        assert "dangling" not in _git(repository, "fsck", "--full", "--strict")
        assert _git(repository, "status", "--porcelain") == ""
    assert (origin / "d0" / "new").read_text() == "new\n"
    assert len(_git(origin, "log", "--oneline").splitlines()) == 9


# ----------------------------------------------------------------------------- whole trees


def _digest(tree: Path) -> dict[str, tuple[object, ...]]:
    """Everything that a copy must keep."""
    found: dict[str, tuple[object, ...]] = {}
    for directory, directories, files in os.walk(tree):
        for name in directories + files:
            path = Path(directory, name)
            status = path.lstat()
            content = ""
            if path.is_symlink():
                content = os.readlink(path)
            elif path.is_file():
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            key = str(path.relative_to(tree))
            found[key] = (status.st_mode, status.st_uid, status.st_gid, content)
            if not path.is_dir():
                found[key] += (status.st_mtime_ns, status.st_size)
    return found


@pytest.fixture
def sample(local: Path) -> Path:
    """Some of what /usr/share has here: small files, links, directories."""
    tree = local / "sample"
    tree.mkdir()
    left = FILES_MAX
    for part in map(Path, PARTS):
        for directory, _, files in os.walk(part):
            if left <= 0:
                break
            inside = tree / directory.lstrip("/")
            inside.mkdir(parents=True, exist_ok=True)
            for name in files[:left]:
                shutil.copy2(Path(directory, name), inside / name, follow_symlinks=False)
            left -= len(files)
    (tree / "executable").write_text("#!/bin/sh\n")
    (tree / "executable").chmod(0o755)
    os.link(tree / "executable", tree / "second name")
    return tree


def test_rsync(place: Path, sample: Path) -> None:
    need("rsync")
    run(["rsync", "-aHX", "--checksum", f"{sample}/", place / "copy"])
    assert _digest(place / "copy") == _digest(sample)
    again = run(["rsync", "-aHX", "--checksum", "--itemize-changes", f"{sample}/", place / "copy"])
    assert again.stdout == ""
    run(["rsync", "-aHX", "--checksum", f"{place}/copy/", place / "copy of the copy"])
    assert _digest(place / "copy of the copy") == _digest(sample)


def test_tar(place: Path, sample: Path) -> None:
    need("tar")
    run(["tar", "--format=posix", "-cf", place / "all.tar", "-C", sample, "."])
    (place / "out").mkdir()
    run(["tar", "-xpf", place / "all.tar", "-C", place / "out"])
    run(["tar", "-df", place / "all.tar", "-C", place / "out"])
    assert _digest(place / "out") == _digest(sample)
    run(["tar", "-cSzf", place / "again.tgz", "-C", place / "out", "."])
    run(["tar", "-tzf", place / "again.tgz"])


def test_cp_and_find_and_du(place: Path, sample: Path) -> None:
    run(["cp", "-a", sample, place / "copy"])
    assert _digest(place / "copy") == _digest(sample)
    run(["cp", "-a", "--reflink=auto", "--sparse=auto", place / "copy", place / "copy 2"])
    run(["diff", "-r", "--no-dereference", sample, place / "copy 2"])
    count = run(["find", place / "copy 2"]).stdout.count("\n")
    assert count == run(["find", sample]).stdout.count("\n")
    run(["du", "-s", place])
    run(["mv", place / "copy", place / "moved"])
    run(["chmod", "-R", "u+rwX,go-w", place / "moved"])
    run(["rm", "-r", place / "moved", place / "copy 2"])
    assert os.listdir(place) == []


@pytest.mark.system
@pytest.mark.timeout(3600)
def test_rsync_of_all_of_usr_share(place: Path) -> None:
    need("rsync")
    run(["rsync", "-a", "--checksum", "/usr/share/", place / "share"], limit_s=1800)
    again = ["rsync", "-a", "--checksum", "--itemize-changes", "--dry-run"]
    assert run([*again, "/usr/share/", place / "share"], limit_s=1800).stdout == ""


# ---------------------------------------------------------------------------------- compile

HEADER = "int f%d(int);\n"
SOURCE = '#include "all.h"\nint f%d(int x) { return x * %d + 1; }\n'
MAKEFILE = """
OBJECTS = $(patsubst %.c,%.o,$(wildcard *.c))
program: $(OBJECTS)
\tgcc -o $@ $^
%.o: %.c all.h
\tgcc -c -O1 -o $@ $<
"""


def test_a_c_program_is_built_and_run_in_the_tree(place: Path) -> None:
    need("gcc", "make")
    count = 20
    (place / "all.h").write_text("".join(HEADER % n for n in range(count)))
    for number in range(count):
        (place / f"f{number}.c").write_text(SOURCE % (number, number))
    calls = "".join(f"sum += f{n}({n});" for n in range(count))
    main = f'#include <stdio.h>\n#include "all.h"\nint main() {{ int sum = 0; {calls}'
    (place / "main.c").write_text(main + 'printf("%d\\n", sum); return 0; }\n')
    (place / "Makefile").write_text(MAKEFILE)
    run(["make", "-s", "-j2"], cwd=place)
    expected = sum(n * n + 1 for n in range(count))
    assert run([place / "program"]).stdout == f"{expected}\n"
    assert "up to date" in run(["make"], cwd=place).stdout  # times are in order
    (place / "f3.c").write_text(SOURCE % (3, 4))
    made = run(["make"], cwd=place).stdout
    assert "f3.o" in made
    assert "f4.o" not in made.replace("gcc -o", "").split("program")[0]
    assert run([place / "program"]).stdout == f"{expected + 3}\n"


# -------------------------------------------------------------------------------------- fio

FIO = """
[global]
directory={directory}
size={size}
verify=crc32c
verify_fatal=1
verify_dump=0
do_verify=1
group_reporting=1
randseed={seed}
[sequential]
rw=write
bs=128k
fsync=16
[random]
rw=randwrite
bs=4k
fsync=64
[mixed-sizes]
rw=randrw
bssplit=512/10:4k/40:13k/20:64k/20:300k/10
[mapped]
ioengine=mmap
rw=randwrite
bs=4k
[direct]
rw=randwrite
bs=4k
direct=1
[many]
rw=write
bs=4k
nrfiles=64
filesize=16k
size=1m
"""


def _fio(place: Path, seed: int, size: str, limit_s: float) -> None:
    need("fio")
    (place / "fio").mkdir()
    job = FIO.format(directory=place / "fio", size=size, seed=seed)
    run(["fio", "--minimal", "-"], stdin=job, limit_s=limit_s)


def test_fio_verifies_what_it_wrote(place: Path, seed: int) -> None:
    _fio(place, seed, "8m", 100)


@pytest.mark.system
@pytest.mark.timeout(3600)
def test_fio_verifies_much(place: Path, seed: int) -> None:
    _fio(place, seed, "512m", 3000)


# --------------------------------------------------------------------------------- the rest


def test_tail_follows(place: Path, tmp_path: Path) -> None:
    need("tail")
    (place / "log").write_text("first\n")
    with started(["tail", "-n", "+1", "-F", place / "log"], tmp_path / "out") as tail:
        wait_until(lambda: "first" in (tmp_path / "out").read_text(), 30, "the first line")
        with open(place / "log", "a") as file:
            file.write("second\n")
        wait_until(lambda: "second" in (tmp_path / "out").read_text(), 30, "what was appended")
        (place / "log").rename(place / "log.1")
        (place / "log").write_text("third\n")
        wait_until(lambda: "third" in (tmp_path / "out").read_text(), 30, "after a rotation")
        assert tail.poll() is None


def test_sed_and_sort_in_place(place: Path) -> None:
    lines = [f"{n * 7919 % 10_000:05} value\n" for n in range(10_000)]
    (place / "f").write_text("".join(lines))
    run(["sed", "-i", "s/value/other/", place / "f"])
    run(["sort", "-T", place, "-S", "64k", "-o", place / "f", place / "f"])
    expected = sorted(line.replace("value", "other") for line in lines)
    assert (place / "f").read_text() == "".join(expected)
    run(["dd", f"if={place}/f", f"of={place}/g", "bs=777", "conv=fsync", "status=none"])
    run(["cmp", place / "f", place / "g"])
    assert run(["wc", "-c", place / "g"]).stdout.split()[0] == str(sum(map(len, lines)))


def test_a_disk_image_with_a_file_system_inside(place: Path) -> None:
    """A loop device: reads and writes through the kernel, at any block."""
    need("mkfs.ext4", "e2fsck")
    run(["truncate", "-s", "64M", place / "disk"])
    run(["mkfs.ext4", "-q", "-F", place / "disk"])
    run(["e2fsck", "-f", "-n", place / "disk"])


def test_python_packages_are_imported_from_the_tree(place: Path) -> None:
    package = place / "package"
    package.mkdir()
    (package / "__init__.py").write_text("from .part import answer\n")
    (package / "part.py").write_text("answer = 42\n")
    code = f"import sys; sys.path.insert(0, {str(place)!r}); import package; print(package.answer)"
    for _ in range(2):  # the second reads the compiled files
        assert run(["env", "-u", "PYTHONDONTWRITEBYTECODE", "python3", "-c", code]).stdout == "42\n"
    assert sorted(p.name.split(".")[0] for p in (package / "__pycache__").iterdir()) == [
        "__init__",
        "part",
    ]
    assert (
        subprocess.run(["python3", "-m", "compileall", "-q", package], timeout=60).returncode == 0
    )
