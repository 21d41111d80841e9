"""Encryption at rest with real servers: what lies on the disk, keys, kills during a rotation."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

import dataplatform
from dataplatform import Client

from .servers import ServerProcess

DP = str(Path(sys.executable).with_name("dp"))


def dp(*arguments: str, server: ServerProcess | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DP_SERVER": server.address if server else ""}
    return subprocess.run(
        [DP, *arguments], capture_output=True, text=True, timeout=60, env=environment
    )


def key_file(directory: Path) -> Path:
    path = directory / "master.key"
    made = dp("keys", "create-master", str(path))
    assert made.returncode == 0, made.stderr
    assert path.stat().st_mode & 0o777 == 0o600
    return path


def encrypted_server(directory: Path, engine: str = "rocks", *options: str) -> ServerProcess:
    key = key_file(directory)
    return ServerProcess(directory, engine, "--master-key-file", str(key), *options)


def put(client: Client, path: str, data: bytes) -> None:
    with client.open(path, "wb") as file:
        file.write(data)
        file.sync()


def get(client: Client, path: str) -> bytes:
    with client.open(path, "rb") as file:
        return file.read()


class Planted:
    """Secrets in every kind of value. None of them compresses."""

    def __init__(self, rng: random.Random) -> None:
        self.words: dict[str, str] = {}
        self._rng = rng

    def word(self, what: str) -> str:
        return self.words.setdefault(what, self._rng.randbytes(16).hex())

    def bulk(self, what: str, size: int) -> bytes:
        """A large secret whose word comes up again and again, among noise."""
        word = self.word(what).encode()
        parts, length = [], 0
        while length < size:
            parts.append(word + self._rng.randbytes(1000))
            length += len(parts[-1])
        return b"".join(parts)

    def plant(self, client: Client, at: str, turn: int = 0) -> None:
        put(client, f"{at}/small", self.word("small file").encode())
        put(client, f"{at}/large", self.bulk("large file", 3 << 20))
        put(client, f"{at}/middle", self.bulk("middle file", 100_000))
        client.setxattr(f"{at}/small", "user.note", self.word("xattr").encode())
        if not turn:
            client.symlink(self.word("link target"), f"{at}/link")
            client.create_table(f"{at}/table")
            client.create_stream(f"{at}/stream", partitions=1)
        table = client.table(f"{at}/table")
        for number in range(20):
            table.put(f"row{number}", {"column": self.word("row value"), "n": number + turn})
        with client.stream(f"{at}/stream").producer() as producer:
            for _ in range(10):
                producer.send("topic", value=self.word("record value").encode(), key=b"k")
            producer.send("topic", value=self.bulk("large record", 300_000))

    def found(self, directory: Path) -> dict[str, list[str]]:
        """Which secrets stand in which files."""
        found: dict[str, list[str]] = {}
        for path in sorted(directory.rglob("*")):
            if path.is_file() and not path.is_symlink():
                data = path.read_bytes()
                for what, word in self.words.items():
                    if word.encode() in data or bytes.fromhex(word) in data:
                        found.setdefault(what, []).append(str(path.relative_to(directory)))
        return found


@pytest.mark.parametrize("engine", ["rocks", "slate"])
@pytest.mark.parametrize("is_root", [False, True])
def test_nothing_planted_is_found_in_the_store(
    tmp_path: Path, engine: str, is_root: bool, seed: int
) -> None:
    rng = random.Random(seed)
    secret, plain = Planted(rng), Planted(rng)
    options = ["--encrypt-root"] if is_root else []
    server = encrypted_server(tmp_path, engine, *options)
    server.start()
    at = ""
    with dataplatform.connect(server.address) as client:
        if not is_root:
            at = "/v"
            client.create_volume("/v", encrypt=True)
            client.create_volume("/open")
            plain.plant(client, "/open")
        secret.plant(client, at)
    server.kill()
    stored = tmp_path / ("objects" if engine == "slate" else "data")
    log = {"server.log": server.log.read_text()}
    assert secret.found(tmp_path) == {}
    if engine == "rocks":  # names and row keys stay readable: the docs say so
        for name in (b"small", b"row11"):
            assert any(name in path.read_bytes() for path in stored.rglob("*") if path.is_file())
    if not is_root:  # the same search finds all of it where nothing is encrypted
        assert set(plain.found(stored)) == set(plain.words)
    server.start()
    with dataplatform.connect(server.address) as client:
        assert get(client, f"{at}/small").decode() == secret.word("small file")
        assert client.readlink(f"{at}/link") == secret.word("link target")
        for turn in range(3):
            secret.plant(client, at, turn + 1)
        assert client.check().ok
    assert server.stop() == 0
    assert secret.found(tmp_path) == {}
    assert not any(word in text for text in log.values() for word in secret.words.values())


def check_offline(server: ServerProcess, key: Path) -> None:
    result = subprocess.run(
        [
            *(sys.executable, "-m", "dataplatform_server", "check", *server.storage),
            *("--master-key-file", str(key)),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_rotation_under_load_with_kills(tmp_path: Path, seed: int) -> None:
    """Whatever was acknowledged is there, with the old key gone in the end."""
    rng = random.Random(seed)
    server = encrypted_server(tmp_path)
    server.start()
    written: dict[str, bytes] = {}
    with dataplatform.connect(server.address) as client:
        client.create_volume("/v", encrypt=True)
        table = client.create_table("/v/t")
        for number in range(12):
            data = rng.randbytes(1 << 20)
            put(client, f"/v/old{number}", data)
            written[f"/v/old{number}"] = data
        table.put_many({f"r{n}": {"n": n} for n in range(5000)})
        stream = client.create_stream("/v/s", partitions=1)
        with stream.producer() as producer:
            records = [rng.randbytes(200_000) for _ in range(3)]
            for record in records:
                producer.send("topic", value=record)
        assert client.rotate_volume_key("/v").key == 2
    acknowledged: dict[str, int] = {}
    for _ in range(3):
        stop = threading.Event()

        def load(stop: threading.Event = stop) -> None:
            with dataplatform.connect(server.address) as client:
                table = client.table("/v/t")
                number = 0
                try:
                    while not stop.is_set():
                        key = f"r{number % 500}"
                        table.put(key, {"n": number})
                        acknowledged[key] = number
                        number += 1
                except dataplatform.PlatformError:
                    return  # the server was killed

        thread = threading.Thread(target=load)
        before = len(acknowledged)
        thread.start()
        deadline = time.monotonic() + 30
        while len(acknowledged) < before + rng.randint(1, 100) and time.monotonic() < deadline:
            if len(acknowledged) >= 500:
                break
            stop.wait(0.01)
        server.kill()
        stop.set()
        server.start()
        thread.join(60)
        assert not thread.is_alive()
        with dataplatform.connect(server.address) as client:
            rows = client.table("/v/t")
            for key, number in acknowledged.items():
                row = rows.get(key)
                assert row is not None
                assert row.columns["n"] >= number
    with dataplatform.connect(server.address) as client:
        deadline = time.monotonic() + 120
        while client.volume_info("/v").rotating:
            assert time.monotonic() < deadline, client.volume_info("/v")
            threading.Event().wait(0.1)
        info = client.volume_info("/v")
        assert (info.key, info.encryption) == (2, "aes-256-gcm")
        for path, data in written.items():
            assert get(client, path) == data
        with client.stream("/v/s").consumer("topic", start="earliest") as consumer:
            assert [r.value for r in itertools.islice(consumer, len(records))] == records
    assert server.stop() == 0
    check_offline(server, tmp_path / "master.key")


def test_the_master_key_is_replaced(tmp_path: Path) -> None:
    server = encrypted_server(tmp_path)
    server.start()
    assert dp("volume", "create", "/v", "--encrypt", server=server).returncode == 0
    assert dp("volume", "create", "/w", "--encrypt", server=server).returncode == 0
    assert dp("volume", "lock", "/w", server=server).returncode == 0
    path = tmp_path / "master.key"
    old = path.read_text()
    made = dp("keys", "create-master", "--rotate", str(path))
    assert made.returncode == 0, made.stderr
    new = path.read_text().splitlines()[0]
    for _ in range(2):
        done = dp("keys", "rotate-master", server=server)
        assert done.returncode == 0, done.stderr
    path.write_text(new)
    server.kill()
    server.start()
    shown = dp("volume", "info", "/v", server=server).stdout
    assert made.stdout.split()[-1] in shown
    assert dp("volume", "unlock", "/w", server=server).returncode == 0
    assert dp("ls", "/w", server=server).returncode == 0
    server.kill()
    path.write_text(old)  # of no use any more
    server.start()
    denied = dp("ls", "/v", server=server)
    assert denied.returncode != 0
    assert "--master-key-file" in denied.stderr
    assert dp("volume", "ls", server=server).returncode == 0
    server.kill()


def test_a_locked_volume(tmp_path: Path) -> None:
    server = encrypted_server(tmp_path)
    server.start()
    with dataplatform.connect(server.address) as client:
        client.create_volume("/v", encrypt=True)
        client.create_volume("/open")
        put(client, "/v/f", b"secret")
        stream = client.create_stream("/v/s")
        with client.open("/v/f", "rb") as opened, stream.producer() as producer:
            producer.send("topic", value=b"x").result()
            assert client.lock_volume("/v").state == "locked"
            with pytest.raises(dataplatform.Denied, match="locked"):
                opened.read()
        for _ in range(2):
            with pytest.raises(dataplatform.Denied, match="locked"):
                get(client, "/v/f")
            with pytest.raises(dataplatform.Denied):
                client.volume_info("/v/f")
            assert client.volume_info("/v").state == "locked"
            put(client, "/open/f", b"as always")
            assert client.check().ok
            server.kill()
            server.start()
        with pytest.raises(dataplatform.PlatformError):
            client.lock_volume("/open")
        assert client.unlock_volume("/v").state == "ready"
        assert get(client, "/v/f") == b"secret"
    assert server.stop() == 0


def environ_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def test_the_key_in_the_environment_is_wiped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = key_file(tmp_path).read_text().strip()
    monkeypatch.setenv("DP_MASTER_KEY", key)
    server = ServerProcess(tmp_path)
    pid = int(str(server.start()["pid"]))
    secret = key.split(":")[2].encode()
    assert secret not in environ_of(pid)
    assert b"DP_MASTER_KEY=" in environ_of(pid)  # zeros behind it
    monkeypatch.delenv("DP_MASTER_KEY")
    made = dp("volume", "create", "/v", "--encrypt", server=server)
    assert made.returncode == 0, made.stderr
    status = Path(f"/proc/{pid}/limits").read_text()
    (core,) = [line for line in status.splitlines() if line.startswith("Max core file size")]
    assert core.split()[4] == "0"
    assert server.stop() == 0
    assert secret.decode() not in server.log.read_text()


def refused(server: ServerProcess) -> str:
    with pytest.raises(RuntimeError) as caught:
        server.start()
    return str(caught.value)


def test_a_master_key_file_is_ours_alone(tmp_path: Path) -> None:
    server = encrypted_server(tmp_path)
    path = tmp_path / "master.key"
    for mode in (0o644, 0o640, 0o602):
        path.chmod(mode)
        assert f"chmod 600 {path}" in refused(server)
    path.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
        assert f"chown 0 {path}" in refused(server)
        os.chown(path, 0, -1)
    secret = path.read_text().split(":")[2].strip()
    for damaged in ("", "nonsense", path.read_text()[:-4]):
        path.write_text(damaged)
        said = refused(server)
        assert "dp keys create-master" in said or "fingerprint" in said
        assert secret[:20] not in said
    path.unlink()
    assert f"dp keys create-master {path}" in refused(server)


KMS = """import base64, hashlib, sys
verb, context = sys.argv[1:3]
data = base64.b64decode(sys.stdin.readline())
mask = hashlib.sha256(b"of the KMS" + bytes.fromhex(context)).digest()
print(base64.b64encode(bytes(a ^ b for a, b in zip(data, mask))).decode())
"""


def commands(tmp_path: Path, bodies: Iterable[tuple[str, str]]) -> dict[str, str]:
    found = {}
    for name, body in bodies:
        path = tmp_path / f"{name}.py"
        path.write_text(body)
        found[name] = f"{sys.executable} {path}"
    return found


def test_a_command_keeps_the_master_key(tmp_path: Path) -> None:
    told = commands(
        tmp_path,
        [
            ("kms", KMS),
            ("fails", "import sys; sys.exit('no such key')"),
            ("silent", ""),
            ("echo", "print(input())"),
        ],
    )
    server = ServerProcess(tmp_path, "rocks", "--master-key-command", told["kms"])
    server.start()
    made = dp("volume", "create", "/v", "--encrypt", server=server)
    assert made.returncode == 0, made.stderr
    server.kill()
    server.start()
    assert dp("ls", "/v", server=server).returncode == 0
    server.kill()
    for name, said in (("fails", "no such key"), ("silent", "base64")):
        server.options = ("--master-key-command", told[name])
        server.start()
        denied = dp("ls", "/v", server=server)
        assert denied.returncode != 0
        assert said in denied.stderr
        server.kill()
    server.options = ("--master-key-command", told["echo"])
    server.start()
    made = dp("volume", "create", "/w", "--encrypt", server=server)
    assert "did not wrap" in made.stderr
    server.kill()


def test_without_a_master_key_there_is_no_encryption(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path)
    server.start()
    made = dp("volume", "create", "/v", "--encrypt", server=server)
    assert made.returncode != 0
    assert "dp keys create-master" in made.stderr
    assert "/v" not in dp("volume", "ls", server=server).stdout
    server.kill()
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    assert "dp keys create-master" in refused(ServerProcess(fresh, "rocks", "--encrypt-root"))
