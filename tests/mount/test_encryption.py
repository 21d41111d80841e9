"""A mount of an encrypted volume: nothing of it is read near, nor kept on the client's disk."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import dataplatform
from tests.integration.servers import ServerProcess
from tests.integration.test_encryption import encrypted_server

from .mounts import Mount, ground

SIZE = 3 << 20


def test_a_mount_keeps_no_plaintext_on_disk(tmp_path: Path) -> None:
    server: ServerProcess = encrypted_server(tmp_path)
    server.start()
    place = ground()
    cache = place / "cache"
    data = random.Random(1).randbytes(SIZE)
    plain = random.Random(2).randbytes(SIZE)
    try:
        with dataplatform.connect(server.address) as client:
            client.create_volume("/v", encrypt=True)
        options = ("-o", f"cache_dir={cache},cache_size=64MiB")
        for near in ("", ",nonear"):
            for _ in range(3):
                with Mount(
                    server.address, place / "m", "/", options[0], options[1] + near
                ) as mount:
                    for name, content in (("v/secret", data), ("plain", plain)):
                        file = mount.mountpoint / name
                        if not file.exists():
                            file.write_bytes(content)
                        assert file.read_bytes() == content
                with dataplatform.connect(server.address) as client:
                    client.sync()
        kept = b"".join(path.read_bytes() for path in cache.rglob("*") if path.is_file())
        assert not any(data[at : at + 64] in kept for at in range(0, SIZE, 4096))
        assert server.stop() == 0
        stored = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
        assert not any(data[:64] in content for content in stored)
        assert any(plain[:64] in content for content in stored)
    finally:
        server.kill()
        shutil.rmtree(place)
