"""Two and three real servers that know each other: by name, and by who they are."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dataplatform
from dataplatform.base.errors import Denied, Exists, Invalid, PlatformError, Unavailable
from tests.certificates import authority
from tests.integration.servers import ServerProcess

DP = "from dataplatform_clients.cli.main import main; main()"
LISTEN = ("--listen", "127.0.0.1:0")


class Cluster:
    """A server with a name, reached over TCP, and a client of its administrator."""

    def __init__(self, directory: Path, name: str, *options: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.process = ServerProcess(directory, "rocks", "--cluster", name, *LISTEN, *options)
        self.start()

    def start(self, port: int | None = None) -> None:
        if port is not None:
            options = list(self.process.options)
            options[options.index("--listen") + 1] = f"127.0.0.1:{port}"
            self.process.options = tuple(options)
        said = self.process.start()
        self.address = str(said["frames"])
        self.port = int(self.address.rsplit(":", 1)[1])

    def connect(self) -> dataplatform.Client:
        return dataplatform.connect(self.process.address)

    def token(self, user: str = "link", *, speak: bool = True, admin: bool = True) -> str:
        """A token for another cluster."""
        with self.connect() as dp:
            with contextlib.suppress(Exists):
                dp.create_user(user, admin=admin)
            return dp.create_token(user, speak=speak).token

    def dp(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-c", DP, "--server", self.process.address, *words],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done.stdout if not code else done.stderr


@contextlib.contextmanager
def clusters(directory: Path, *names: str) -> Iterator[list[Cluster]]:
    made: list[Cluster] = []
    try:
        for name in names:
            made.append(Cluster(directory / name, name))
        yield made
    finally:
        for cluster in made:
            cluster.process.stop()


def test_known_by_name_and_identity(tmp_path: Path) -> None:
    with clusters(tmp_path, "home", "east", "west") as (home, east, west):
        token = east.token()
        with home.connect() as dp:
            with pytest.raises(Invalid, match="another cluster answers there"):
                dp.add_cluster("east", west.address)
            with pytest.raises(Invalid, match="this cluster itself"):
                dp.add_cluster("home2", home.address)
            with pytest.raises(Denied):
                dp.add_cluster("east", east.address, token="no.such.token")
            dp.mkdir("/east")
            with pytest.raises(Exists):
                dp.add_cluster("east", east.address, token=token)
            dp.rmdir("/east")
            added = dp.add_cluster("east", east.address, token=token)
            assert added.access == "p"
            with pytest.raises(PlatformError):
                dp.mkdir("/east", exist_ok=True)
            (found,) = dp.clusters()
            assert (found.error, found.user, found.speaks) == ("", "link", True)
            assert found.latency_s > 0
            assert abs(found.clock_s) < 1
            # Another store behind the address of the one that was added.
            east.process.kill()
            impostor = Cluster(tmp_path / "impostor", "east", "--listen", f"127.0.0.1:{east.port}")
            try:
                (found,) = dp.clusters("east")
                assert "another store" in found.error or "token" in found.error
            finally:
                impostor.process.stop()
            (found,) = dp.clusters("east")
            assert "no server listens" in found.error
            with pytest.raises(Unavailable, match="unchecked"):
                dp.add_cluster("north", "dp://127.0.0.1:1")
            dp.add_cluster("north", "dp://127.0.0.1:1", unchecked=True)
            dp.remove_cluster("north")
            east.start(port=east.port)
            assert not dp.clusters("east")[0].error


def test_the_command(tmp_path: Path) -> None:
    with clusters(tmp_path, "home", "east") as (home, east):
        file = tmp_path / "east.token"
        file.write_text(east.token() + "\n")
        home.dp("cluster", "add", "east", east.address, "--with-token", str(file))
        (line,) = home.dp("cluster", "ls").splitlines()
        assert line.split("\t")[:3] == ["east", east.address, "reachable"]
        found = json.loads(home.dp("cluster", "ls", "east", "--json"))
        assert (found["name"], found["has_token"], found["error"]) == ("east", True, "")
        assert file.read_text().strip() not in json.dumps(found)
        home.dp("cluster", "set", "east", "--access", "g:eng")
        assert json.loads(home.dp("cluster", "ls", "--json"))["access"] == "g:eng"
        wrong = home.dp("cluster", "add", "eats", east.address, code=2)
        assert "another cluster answers there" in wrong
        home.dp("cluster", "remove", "east")
        assert home.dp("cluster", "ls") == ""
        assert file.read_text().strip() not in home.process.log.read_text()
        home.process.stop()
        checked = home.process.check()
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_over_tls(tmp_path: Path) -> None:
    """The other cluster's certificate must be signed by the authority that was given."""
    keys, others = authority(tmp_path / "keys"), authority(tmp_path / "others")
    tls = ("--tls-cert", str(keys / "server.pem"), "--tls-key", str(keys / "server.key"))
    with clusters(tmp_path, "home") as (home,):
        east = Cluster(tmp_path / "east", "east", *tls)
        try:
            assert east.address.startswith("dps://")
            address = east.address.replace("127.0.0.1", "localhost")
            token = east.token()
            with home.connect() as dp:
                for wrong in (None, (others / "ca.pem").read_text()):
                    with pytest.raises(Denied, match="not trusted"):
                        dp.add_cluster("east", address, token=token, ca=wrong)
                with pytest.raises(Invalid):
                    dp.add_cluster("east", address, token=token, ca="no certificate")
                with pytest.raises(Invalid, match="unencrypted"):
                    dp.add_cluster("east", "dp://east.example.org", token=token)
                dp.add_cluster("east", address, token=token, ca=(keys / "ca.pem").read_text())
                dp.write_file("/east/f", b"over TLS")
                assert dp.read_file("/east/f") == b"over TLS"
                assert dp.clusters()[0].has_authority
        finally:
            east.process.stop()
