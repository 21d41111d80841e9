"""A real server process for tests: started, killed, started again on the same data."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path


class ServerProcess:
    """`python -m dataplatform_server start` on a directory, listening on a Unix socket.

    `engine`: "rocks" keeps its data in the directory, "slate" in a file:// object store there.
    """

    def __init__(self, directory: Path, engine: str = "rocks", *options: str) -> None:
        self.directory = directory
        self.engine = engine
        self.options = options
        self.socket = directory / "dp.sock"
        self.address = f"dp+unix://{self.socket}"
        self.log = directory / "server.log"
        self.prefix: tuple[str, ...] = ()
        """What the command begins with: another network, say."""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def storage(self) -> list[str]:
        options = ["--data", str(self.directory / "data")]
        if self.engine == "slate":
            options += ["--store", f"file://{self.directory / 'objects'}"]
        return options

    def start(self) -> dict[str, object]:
        """Start it and wait until it serves; what it says of itself (addresses, pid)."""
        reader, writer = os.pipe()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self.prefix,
                    sys.executable,
                    *("-m", "dataplatform_server", "start", *self.storage),
                    *("--socket", str(self.socket), "--ready-fd", str(writer)),
                    *self._listeners(),
                    *self.options,
                ],
                stdout=log,
                stderr=log,
                pass_fds=[writer],
            )
        os.close(writer)
        with os.fdopen(reader) as ready:
            line = ready.read()  # ends when the server wrote it, or died
        if not line:
            code = self._process.wait()
            raise RuntimeError(f"server ended with {code}:\n{self.log.read_text()[-3000:]}")
        return dict(json.loads(line))

    def admin_token(self) -> str:
        """Of an administrator who may speak for others, for whoever comes over TCP."""
        import dataplatform

        with dataplatform.connect(self.address) as dp:
            if "tester" not in {user.name for user in dp.users()}:
                dp.create_user("tester", admin=True)
            return dp.create_token("tester", speak=True).token

    def _listeners(self) -> list[str]:
        given = set(self.options)
        return [
            word
            for option in ("--listen", "--grpc", "--http")
            if option not in given
            for word in (option, "none")
        ]

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        return self._end(signal.SIGTERM)

    def signal(self, sign: signal.Signals) -> None:
        """Without waiting for anything."""
        assert self._process is not None
        self._process.send_signal(sign)

    def _end(self, sign: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(sign)
        return process.wait(60)

    def check(self) -> subprocess.CompletedProcess[str]:
        """The offline check; call it while the server is down."""
        return subprocess.run(
            [sys.executable, "-m", "dataplatform_server", "check", *self.storage],
            capture_output=True,
            text=True,
            timeout=120,
        )
