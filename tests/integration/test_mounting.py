"""`dp mount` as people use it: the real kernel, a real server, processes that are killed.

What a mounted file system does is proved in `tests/mount`; here it is how a mount comes, goes on
and goes, and what is said when it cannot.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import dataplatform
from dataplatform import Client
from dataplatform.transport.addresses import parse
from dataplatform_clients.fuse import keepers, mountinfo
from dataplatform_clients.fuse.keepers import workers
from dataplatform_clients.fuse.stats import parse_stats

from ..certificates import authority
from .servers import ServerProcess

DP = str(Path(sys.executable).with_name("dp"))
TIMEOUT_S = 30.0


def _reason_to_skip() -> str:
    if not os.path.exists("/dev/fuse"):
        return "no /dev/fuse here"
    if os.geteuid() != 0:
        return "mounting in these tests needs root"
    probe = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    return "" if probe.returncode == 0 else "no right to mount here (CAP_SYS_ADMIN)"


pytestmark = pytest.mark.skipif(bool(_reason_to_skip()), reason=_reason_to_skip() or "-")

Result = subprocess.CompletedProcess[str]


class Ground:
    """A server, a mountpoint, and `dp` for both."""

    def __init__(self, directory: Path, server: ServerProcess, client: Client) -> None:
        self.directory = directory
        self.server = server
        self.client = client
        self.mountpoint = directory / "mnt"
        self.mountpoint.mkdir()
        self.log = directory / "mount.log"

    def dp(self, *arguments: object, **environment: str) -> Result:
        return subprocess.run(
            [DP, *map(str, arguments)],
            env={**os.environ, "DP_SERVER": self.server.address, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def mount(self, *options: object, path: str = "/tree") -> None:
        done = self.dp("mount", path, self.mountpoint, "--log-file", self.log, *options)
        assert (done.returncode, done.stderr) == (0, ""), done

    def content(self, name: str) -> str:
        """Of a file, as the server has it."""
        return self.client.read_file(f"/tree/{name}").decode()

    def umount(self, *options: object) -> Result:
        return self.dp("umount", *options, self.mountpoint)

    @property
    def keeper(self) -> int:
        found = keepers.find(str(self.mountpoint))
        assert found is not None
        return found

    @property
    def worker(self) -> int:
        (found,) = workers(self.keeper)
        return found

    def stats(self) -> dict[str, str]:
        return parse_stats((self.mountpoint / ".stats").read_text())

    def is_mounted(self) -> bool:
        return mountinfo.find(str(self.mountpoint)) is not None


def wait(condition: Callable[[], object]) -> None:
    ends = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    assert server.stop() == 0
    assert server.check().returncode == 0


@pytest.fixture
def ground(tmp_path: Path, server: ServerProcess) -> Iterator[Ground]:
    with dataplatform.connect(server.address) as client:
        client.mkdir("/tree")
        yield from _ground(Ground(tmp_path, server, client))
        client.rmtree("/tree")


def _ground(made: Ground) -> Iterator[Ground]:
    yield made
    keeper = keepers.find(str(made.mountpoint))
    while made.is_mounted():
        subprocess.run(["umount", "-l", made.mountpoint], check=False)
    if keeper is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(keeper, signal.SIGTERM)
        wait(lambda: not keepers.is_alive(keeper))


# ---------------------------------------------------------------------------------- it comes


def test_a_mount_works_when_the_command_returns(ground: Ground) -> None:
    ground.mount()
    (ground.mountpoint / "file").write_text("hello")
    assert ground.dp("cat", "/tree/file").stdout == "hello"
    mounted = mountinfo.find(str(ground.mountpoint))
    assert mounted is not None
    assert mounted.kind == "fuse.dp"
    assert mounted.source == f"{ground.server.address}:/tree"
    assert {"rw", "relatime", "default_permissions", "allow_other"} <= mounted.options
    assert not {"nosuid", "nodev"} & mounted.options, "root may have set-user-ID files there"
    readahead = Path(f"/sys/class/bdi/{mounted.device}/read_ahead_kb")
    assert readahead.read_text().strip() == "4096"
    assert ground.stats()["pid"] == str(ground.worker)
    assert ground.stats()["keeper_pid"] == str(ground.keeper)
    assert ground.umount().returncode == 0
    assert not ground.is_mounted()
    assert os.listdir(ground.mountpoint) == []
    assert ground.content("file") == "hello"


def test_options_reach_the_kernel(ground: Ground) -> None:
    ground.client.write_file("/tree/file", "x")
    ground.mount("--read-only", "-o", "noatime,nosuid", "-o", "nodev,noexec,_netdev")
    mounted = mountinfo.find(str(ground.mountpoint))
    assert mounted is not None
    assert {"ro", "noatime", "nosuid", "nodev", "noexec"} <= mounted.options
    assert (ground.mountpoint / "file").read_text() == "x"
    with pytest.raises(OSError, match="Read-only"):
        (ground.mountpoint / "file").write_text("y")


def test_the_list_of_mounts(ground: Ground) -> None:
    ground.mount()
    lines = ground.dp("mount", "--json").stdout.splitlines()
    found = {line["mountpoint"]: line for line in map(json.loads, lines)}
    mine = found[str(ground.mountpoint)]
    assert mine["state"] == "ok"
    assert mine["stats"]["pid"] == ground.worker
    assert str(ground.mountpoint) in ground.dp("mount").stdout


def test_in_the_foreground_it_logs_and_ends_with_control_c(ground: Ground) -> None:
    process = subprocess.Popen(
        [DP, "mount", "/tree", ground.mountpoint, "--foreground"],
        env={**os.environ, "DP_SERVER": ground.server.address},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    wait(ground.is_mounted)
    assert "generation 0" in process.stderr.readline()
    (ground.mountpoint / "late").write_text("flushed")
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT_S) == 0
    process.stderr.close()
    assert not ground.is_mounted()
    assert ground.content("late") == "flushed"


def test_by_the_helper_of_fstab(ground: Ground) -> None:
    spec = f"{ground.server.address}:/tree"
    helper = [sys.executable, "-m", "dataplatform_clients.fuse.fstab", spec, ground.mountpoint]
    options = f"rw,_netdev,log_file={ground.log}"
    done = subprocess.run([*helper, "-o", options], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    mounted = mountinfo.find(str(ground.mountpoint))
    assert mounted is not None
    assert mounted.source == spec
    (ground.mountpoint / "a").touch()
    subprocess.run([*helper, "-o", "remount,ro"], check=True)
    with pytest.raises(OSError, match="Read-only"):
        (ground.mountpoint / "b").touch()
    subprocess.run(["umount", ground.mountpoint], check=True)
    wait(lambda: keepers.find(str(ground.mountpoint)) is None)


# ------------------------------------------------------------------------------ it cannot come


def refused(done: Result, code: int, says: str) -> None:
    assert says in done.stderr
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("dp: ")


def test_refusals_say_what_to_do(ground: Ground) -> None:
    where = ground.mountpoint
    (ground.directory / "file").touch()
    ground.client.write_file("/tree/file", "x")
    dp = ground.dp
    log = ["--log-file", ground.log]
    refused(dp("mount", "/nowhere", where, *log), 3, "`dp mkdir -p /nowhere`")
    refused(dp("mount", "/tree/file", where, *log), 2, "/tree/file is no directory but a file")
    missing = ground.directory / "missing"
    refused(dp("mount", "/tree", missing, *log), 3, f"`mkdir -p {missing}` first")
    file = ground.directory / "file"
    refused(dp("mount", "/tree", file, *log), 2, f"{file} is not a directory")
    gone = f"dp+unix://{ground.directory}/gone"
    refused(dp("mount", "/tree", where, *log, DP_SERVER=gone), 8, "`dp server start`")
    refused(dp("mount", "/tree", where, "-o", "fast"), 2, "unknown option 'fast'; known are ro,")
    refused(dp("mount", "/tree"), 2, "dp mount PATH MOUNTPOINT")
    refused(dp("umount", where), 3, f"nothing of ours is mounted on {where}")
    assert not ground.is_mounted()
    ground.mount()
    refused(dp("mount", "/tree", where, *log), 4, f"`dp umount {where}` first")
    with (where / "held").open("w"):
        refused(ground.umount(), 6, f"in use by {Path('/proc/self/comm').read_text().strip()} (")


def test_without_the_device_it_says_how_to_get_it(ground: Ground) -> None:
    """In a mount namespace of its own, where /dev is another."""
    line = f"mount -t tmpfs none /dev && {DP} mount /tree {ground.mountpoint} --foreground"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", line],
        env={**os.environ, "DP_SERVER": ground.server.address},
        stdin=subprocess.PIPE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 8, done.stderr
    assert done.stderr.splitlines()[-1].startswith("dp: this machine has no /dev/fuse: run `modpr")


# ------------------------------------------------------------------------------------ it goes on


def test_open_files_outlive_a_killed_worker(ground: Ground) -> None:
    ground.mount()
    path = ground.mountpoint / "held"
    with path.open("w+b") as file:
        file.write(b"before")
        file.flush()
        os.fsync(file.fileno())
        killed = ground.worker
        os.kill(killed, signal.SIGKILL)
        file.write(b" after")
        file.flush()
        os.fsync(file.fileno())
        assert os.pread(file.fileno(), 100, 0) == b"before after"
        assert ground.worker != killed
    assert ground.stats()["generation"] == "1"
    assert ground.content("held") == "before after"
    assert f"worker {killed} was killed by SIGKILL" in ground.log.read_text()
    assert ground.umount().returncode == 0


def test_open_files_outlive_an_upgrade(ground: Ground) -> None:
    ground.mount()
    with (ground.mountpoint / "held").open("w+b") as file:
        file.write(b"before")
        file.flush()
        old = ground.worker
        done = ground.dp("mount", "--upgrade", ground.mountpoint)
        assert (done.returncode, done.stderr) == (0, "")
        assert ground.worker != old
        file.write(b" after")
        file.flush()
        os.fsync(file.fileno())
        assert os.pread(file.fileno(), 100, 0) == b"before after"
    assert ground.content("held") == "before after"


def test_a_dead_mount_is_mounted_over(ground: Ground) -> None:
    ground.mount()
    (ground.mountpoint / "file").write_text("x")
    keeper, worker = ground.keeper, ground.worker
    os.kill(keeper, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    wait(lambda: not keepers.is_alive(keeper))

    def is_dead() -> bool:
        try:
            os.stat(ground.mountpoint / f"not-cached-{time.monotonic_ns()}")
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    wait(is_dead)
    assert '"dead"' in ground.dp("mount", "--json").stdout
    ground.mount()
    assert (ground.mountpoint / "file").read_text() == "x"
    assert sum(m.mountpoint == str(ground.mountpoint) for m in mountinfo.mounts()) == 1


def test_counters_come_into_the_log(ground: Ground) -> None:
    ground.mount()
    os.kill(ground.keeper, signal.SIGUSR1)
    wait(lambda: "stats: source=" in ground.log.read_text())


# -------------------------------------------------------------------------------------- it goes


def test_lazily_it_goes_when_the_last_file_is_closed(ground: Ground) -> None:
    ground.mount()
    keeper = ground.keeper
    with (ground.mountpoint / "held").open("w") as file:
        assert ground.umount("--lazy").returncode == 0
        assert not ground.is_mounted()
        assert keepers.is_alive(keeper)
        file.write("written late")
    wait(lambda: not keepers.is_alive(keeper))
    assert ground.content("held") == "written late"


def test_asked_to_stop_it_does_so_even_in_use(ground: Ground) -> None:
    ground.mount()
    keeper = ground.keeper
    file = os.open(ground.mountpoint / "held", os.O_WRONLY | os.O_CREAT)
    os.write(file, b"written")
    os.kill(keeper, signal.SIGTERM)
    wait(lambda: not keepers.is_alive(keeper))
    assert not ground.is_mounted()
    with pytest.raises(OSError, match=r"not connected|connection abort"):
        os.write(file, b"more")
    with contextlib.suppress(OSError):
        os.close(file)
    assert ground.content("held") == "written"


# ---------------------------------------------------------------------------- without being root

# The device is for everybody in a mount namespace of its own only. The right to read files stays,
# as the tests' Python may lie in a directory of root's.
AS_USER = """
mknod "$1/fuse" c 10 229 && chmod 666 "$1/fuse" && mount --bind "$1/fuse" /dev/fuse || exit 99
shift
exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps +dac_read_search \
    --ambient-caps +dac_read_search "$@"
"""

USER_PROGRAM = """
set -e
"$1" mount "$2:/tree" "$3"
echo hello > "$3/file"
cat "$3/file"
grep "$3" /proc/self/mountinfo
"$1" umount "$3"
! "$1" mount "$2:/tree" "$3" -o allow_other
! "$1" mount "$2:/tree" "$3" -o suid
! PATH=/nowhere "$1" mount "$2:/tree" "$3"
cat "$HOME"/.local/state/dataplatform/*.log >&2
"""


@pytest.mark.skipif(not shutil.which("fusermount3"), reason="no fusermount3 (fuse3) here")
@pytest.mark.skipif(not shutil.which("setpriv"), reason="no setpriv (util-linux) here")
def test_a_user_mounts_through_fusermount(ground: Ground) -> None:
    ground.client.chown("/tree", 65534, 65534)
    home = ground.directory / "home"
    home.mkdir()
    for owned in (home, ground.mountpoint):
        os.chown(owned, 65534, 65534)
    for directory in (ground.server.directory, *ground.directory.parents, ground.directory):
        if directory.stat().st_uid == 0 and directory.is_relative_to("/tmp/"):
            directory.chmod(directory.stat().st_mode | 0o055)
    ground.server.socket.chmod(0o666)
    line = ["unshare", "-m", "sh", "-c", AS_USER, "-", str(ground.directory), "sh", "-c"]
    line += [USER_PROGRAM, "-", DP, ground.server.address, str(ground.mountpoint)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("XDG_")}
    done = subprocess.run(
        line,
        env={**environment, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    hello, mounted = done.stdout.splitlines()
    assert hello == "hello"
    assert "nosuid,nodev" in mounted
    assert "fuse.dp" in mounted
    assert "allow_other" not in mounted
    assert "user_allow_other into /etc/fuse.conf" in done.stderr
    assert "only root may mount with the options suid and dev" in done.stderr
    assert "`apt-get install fuse3`" in done.stderr
    assert "is unmounted" in done.stderr


def test_set_user_id_and_devices_work_for_root(ground: Ground) -> None:
    ground.mount()
    program = ground.mountpoint / "id"
    shutil.copy("/usr/bin/id", program)
    os.chown(program, 65534, 65534)
    program.chmod(0o4755)
    done = subprocess.run([program, "-u"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "65534"
    null = ground.mountpoint / "null"
    os.mknod(null, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    null.write_text("gone")
    assert null.read_text() == ""


# ------------------------------------------------------------------- by a token, over the network

TOKEN_PROGRAM = """
set -e
"$1" mount "$2" "$3" -o "token_file=$4"
cat "$3/open"
if cat "$3/closed" 2>/dev/null; then exit 3; fi
if (echo x > "$3/open") 2>/dev/null; then exit 4; fi
echo mine > "$3/own/file"
cat "$3/own/file"
grep "$3" /proc/self/mountinfo
"$1" umount "$3"
"""


@pytest.mark.skipif(not shutil.which("fusermount3"), reason="no fusermount3 (fuse3) here")
@pytest.mark.skipif(not shutil.which("setpriv"), reason="no setpriv (util-linux) here")
def test_a_user_mounts_with_a_token_over_tls(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nobody's own mount, through fusermount3 and dps://: what its token's user may, it may."""
    directory = tmp_path_factory.mktemp("tls")
    certs = authority(directory / "certs")
    server = ServerProcess(
        directory,
        "rocks",
        *("--listen", "localhost:0"),
        *("--tls-cert", str(certs / "server.pem"), "--tls-key", str(certs / "server.key")),
    )
    ready = server.start()
    said = parse(str(ready["frames"]))
    assert said.scheme == "dps"
    home, mountpoint = directory / "home", directory / "mnt"
    token, ca = home / "bob.token", home / "ca.pem"
    try:
        with dataplatform.connect(server.address) as admin:
            admin.create_user("bob")
            admin.mkdir("/own")
            admin.acl.set("/own", create="u:bob", write="u:bob", read="u:bob")
            admin.write_file("/open", b"for everybody\n")
            admin.write_file("/closed", b"for nobody\n")
            admin.acl.set("/closed", read="")
            for path in (home, mountpoint):
                path.mkdir()
            token.write_text(admin.create_token("bob").token)
            token.chmod(0o600)
            shutil.copy(certs / "ca.pem", ca)
            for path in (home, mountpoint, token, ca):
                os.chown(path, 65534, 65534)
            for path in (directory, *directory.parents):
                if path.stat().st_uid == 0 and path.is_relative_to("/tmp/"):
                    path.chmod(path.stat().st_mode | 0o055)
            line = ["unshare", "-m", "sh", "-c", AS_USER, "-", str(directory), "sh", "-c"]
            line += [TOKEN_PROGRAM, "-", DP, f"dps://localhost:{said.port}/", str(mountpoint)]
            line += [str(token)]
            environment = {k: v for k, v in os.environ.items() if not k.startswith("XDG_")}
            environment |= {"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1", "DP_CA": str(ca)}
            done = subprocess.run(
                line, env=environment, capture_output=True, text=True, check=False, timeout=120
            )
            assert done.returncode == 0, done.stdout + done.stderr
            opened, mine, mounted = done.stdout.splitlines()
            assert (opened, mine) == ("for everybody", "mine")
            assert "nosuid,nodev" in mounted
            assert "allow_other" not in mounted
            made = admin.stat("/own/file")
            (bob,) = [user for user in admin.users() if user.name == "bob"]
            assert made.uid == bob.uid
            assert admin.read_file("/open") == b"for everybody\n"
        assert server.stop() == 0
    finally:
        server.kill()
