"""The keeper: a small process that holds the kernel's connection while workers come and go.

    python -m dataplatform_clients.fuse.keeper SOURCE MOUNTPOINT OPTIONS_FD READY_FD

It lets a worker load, mounts, and hands it the connection. Then it waits:

- The worker died: a successor gets the same connection and the `Handover`, so open files stay
  open and calls under way are repeated. After DEATHS_MAX quick deaths in a row the keeper gives up,
  unmounts, and says why.
- SIGHUP: upgrade. A successor is loaded from the code now installed; only when that went well does
  the worker drain, and the successor takes its turn. If it does not load, all stays as it was.
- SIGTERM, SIGINT: unmount, let the worker flush, end. A second one does not wait for that.
- The worker ended because the file system was unmounted: end.
- SIGUSR1 goes on to the worker, which logs its counters.

Invariants: at most one worker has been told to go and has not ended; the connection is open in this
process for as long as the mount should live. Memory is small because nothing is imported but the
standard library, and of that little. If the keeper itself is killed, the worker serves on.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType

from . import link, mounting
from .announcer import Announcer
from .handover import Handover
from .options import MountOptions
from .refusals import MountRefused
from .workers import COMMAND, Worker, describe

NAME = "dataplatform_clients.fuse.keeper"

DEATHS_MAX = 5
QUICK_DEATH_S = 2.0
"""A worker that served for longer than this has no trouble with starting, nor with what the kernel
sends again. Nor has one that was killed: somebody did that, or a machine without memory."""
KILLED_PAUSE_S = 0.5
"""Before the successor of one that was killed before it served."""
PAUSES_S = (0.0, 0.1, 0.5, 2.0)
"""Before the successor of the first, second, … worker that died quickly in a row."""

SPAWN_PAUSE_S = 1.0
"""When the machine has no memory or process number left for one."""

LOAD_S_MAX = 60.0
READY_S_MAX = 60.0
"""For the first worker of a mount: to reach the server and answer the kernel."""
DRAIN_EXTRA_S = 60.0
"""A worker that drains gets this on top of the patience with a server that is away."""

SIGNALS = (signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Deaths:
    """How often workers died quickly, one after the other."""

    def __init__(self) -> None:
        self.count = 0

    def pause_s(self, lived_s: float) -> float | None:
        """How long to wait before the next; None: give up."""
        if lived_s >= QUICK_DEATH_S:
            self.count = 0
            return 0.0
        self.count += 1
        return None if self.count >= DEATHS_MAX else PAUSES_S[self.count - 1]


class Keeper:
    """`run` is all that is called; it returns the exit code. One per process: it takes signals."""

    def __init__(
        self,
        options: MountOptions,
        options_descriptor: int,
        announcer: Announcer,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.options = options
        self._options_descriptor = options_descriptor
        self._announcer = announcer
        self._command = command
        self._handover = Handover.create()
        self._kernel = -1  # the connection, once mounted
        self._was_ready = False
        self._worker: Worker | None = None  # serves, or will
        self._successor: Worker | None = None  # of an upgrade
        self._deaths = Deaths()
        self._restart_at_s: float | None = None
        self._stops = 0  # how often it was asked to
        self._unmounter: int | None = None  # a child that unmounts
        self._exit_code: int | None = None

    def run(self) -> int:
        wake, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for number in SIGNALS:
            signal.signal(number, _noted)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        try:
            mounting.check(self.options)
        except MountRefused as refusal:
            return self._refuse(refusal)
        self._worker = self._spawn(is_first=True)
        while self._exit_code is None:
            self._wait(wake)
            self._look_at_the_clock()
        for worker in (self._worker, self._successor):
            if worker is not None:
                worker.signal(signal.SIGKILL)
        return self._exit_code

    def _wait(self, wake: int) -> None:
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        workers = {w.connection.fileno(): w for w in self._workers()}
        for descriptor in workers:
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll(self._timeout_ms()):
            if descriptor in workers:
                self._hear(workers[descriptor])
            else:
                for number in os.read(wake, 512):
                    self._signalled(signal.Signals(number))

    # ------------------------------------------------------------------------------ the clock

    def _workers(self) -> list[Worker]:
        return [w for w in (self._worker, self._successor) if w is not None]

    def _timeout_ms(self) -> int | None:
        times = [w.deadline_s for w in self._workers()] + [self._restart_at_s]
        due = [at for at in times if at is not None]
        return max(0, round((min(due) - time.monotonic()) * 1000) + 1) if due else None

    def _look_at_the_clock(self) -> None:
        now_s = time.monotonic()
        for worker in self._workers():
            if worker.deadline_s is not None and now_s >= worker.deadline_s:
                self._log("ERROR", f"worker {worker.pid} took too long and is killed")
                worker.deadline_s = None
                worker.is_overdue = True
                worker.signal(signal.SIGKILL)
        if self._restart_at_s is not None and now_s >= self._restart_at_s:
            self._restart()

    # -------------------------------------------------------------------------------- workers

    def _spawn(self, *, is_first: bool = False) -> Worker:
        worker = Worker.spawn(
            self._command, self._options_descriptor, self._handover.descriptor, is_first=is_first
        )
        worker.deadline_s = worker.started_s + LOAD_S_MAX
        return worker

    def _restart(self) -> None:
        self._restart_at_s = None
        try:
            self._worker = self._spawn()
        except OSError as error:
            self._log("ERROR", f"cannot start a worker: {error.strerror}")
            self._restart_at_s = time.monotonic() + SPAWN_PAUSE_S

    def _hear(self, worker: Worker) -> None:
        for message in worker.hear():
            word, _, rest = message.partition(b" ")
            if word == link.LOADED:
                self._loaded(worker)
            elif word == link.READY:
                self._ready(worker)
            elif word == link.REFUSED:
                kind, _, text = rest.decode("utf-8", "replace").partition(" ")
                self._refused(worker, MountRefused(kind, text))

    def _loaded(self, worker: Worker) -> None:
        worker.is_loaded = True
        worker.deadline_s = None
        if worker is not self._successor:
            self._go(worker)
        elif self._worker is not None and self._worker.is_serving:
            self._log("INFO", f"worker {worker.pid} is loaded, worker {self._worker.pid} drains")
            self._worker.deadline_s = time.monotonic() + self.options.patience_s + DRAIN_EXTRA_S
            self._worker.drain()
        elif self._worker is None:
            self._promote()

    def _promote(self) -> None:
        """The successor's turn has come."""
        assert self._successor is not None
        self._worker, self._successor = self._successor, None
        self._restart_at_s = None
        if self._worker.is_loaded:
            self._go(self._worker)

    def _go(self, worker: Worker) -> None:
        if self._kernel < 0:
            try:
                self._kernel = mounting.mount(self.options)
            except MountRefused as refusal:
                self._exit_code = self._refuse(refusal)
                return
        else:
            self._handover.succeed()
        if not self._was_ready:
            worker.deadline_s = time.monotonic() + READY_S_MAX
        worker.started_s = time.monotonic()
        worker.go(self._kernel)

    def _ready(self, worker: Worker) -> None:
        worker.is_ready = True
        worker.deadline_s = None
        if not self._was_ready:
            self._was_ready = True
            mounting.raise_readahead(self.options.mountpoint)
            self._announcer.ready()
        number = self._handover.generation
        self._log(
            "INFO",
            f"{self.options.source} is on {self.options.mountpoint}:"
            f" worker {worker.pid}, generation {number}",
        )

    def _refused(self, worker: Worker, refusal: MountRefused) -> None:
        if self._was_ready:
            self._log("ERROR", f"worker {worker.pid} cannot serve: {refusal.message}")
        else:
            self._exit_code = self._refuse(refusal)

    def _refuse(self, refusal: MountRefused) -> int:
        """There will be no mount: say why; the exit code."""
        self._unmount_for_good()
        self._log("ERROR", refusal.message)
        self._announcer.refused(refusal)
        return exit_code(refusal)

    # ----------------------------------------------------------------------------------- ends

    def _ended(self, worker: Worker, status: int) -> None:
        self._hear(worker)
        worker.close()
        if self._exit_code is not None:
            return
        code = os.waitstatus_to_exitcode(status)
        if worker is self._successor:
            self._log(
                "ERROR",
                f"the new worker {worker.pid} {describe(status)} before its turn;"
                " no upgrade was made",
            )
            self._successor = None
            if self._worker is None:
                self._died(worker)
            return
        self._worker = None
        if self._stops or code == 0:
            self._log("INFO", f"{self.options.mountpoint} is unmounted")
            self._exit_code = 0 if code in (0, link.HANDED_OVER) else 1
        elif not self._was_ready:
            where = f": see {self.options.log_file}" if self.options.log_file else ""
            refusal = MountRefused(
                "INTERNAL", f"the worker {describe(status)} before it served{where}"
            )
            self._exit_code = self._refuse(refusal)
        elif self._successor is not None:
            if code != link.HANDED_OVER:
                self._log("ERROR", f"worker {worker.pid} {describe(status)}")
            if self._successor.is_loaded:
                self._promote()
        elif code == link.HANDED_OVER:
            self._restart()
        else:
            self._log("ERROR", f"worker {worker.pid} {describe(status)}")
            self._died(worker, is_killed=code == -signal.SIGKILL and not worker.is_overdue)

    def _died(self, worker: Worker, *, is_killed: bool = False) -> None:
        lived_s = time.monotonic() - worker.started_s if worker.is_serving else 0.0
        pause_s: float | None
        if is_killed:
            pause_s = 0.0 if worker.is_ready else KILLED_PAUSE_S
        else:
            pause_s = self._deaths.pause_s(lived_s)
        if pause_s is not None:
            self._restart_at_s = time.monotonic() + pause_s
            return
        self._log(
            "ERROR",
            f"{self._deaths.count} workers died one after the other:"
            f" giving up {self.options.mountpoint}. The lines above say why",
        )
        self._unmount_for_good()
        self._exit_code = 1

    def _unmount_for_good(self) -> None:
        """Nobody serves it any more, so nothing can be flushed."""
        if self._kernel >= 0:
            kernel, self._kernel = self._kernel, -1
            try:
                mounting.unmount(self.options.mountpoint, is_lazy=True)
            except MountRefused as refusal:
                self._log("ERROR", refusal.message)
            os.close(kernel)

    # -------------------------------------------------------------------------------- signals

    def _signalled(self, number: signal.Signals) -> None:
        if number == signal.SIGCHLD:
            self._reap()
        elif number == signal.SIGHUP:
            self._upgrade()
        elif number == signal.SIGUSR1:
            if self._worker is not None and self._worker.is_ready:
                self._worker.signal(signal.SIGUSR1)
        else:
            self._stop()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._unmounter:
                self._unmounter = None
                self._unmounted(status)
            for worker in self._workers():
                if worker.pid == pid:
                    self._ended(worker, status)

    def _upgrade(self) -> None:
        if self._stops or not self._was_ready:
            return
        if self._successor is not None:
            self._log("INFO", "an upgrade is under way already")
        elif self._worker is None or not self._worker.is_ready:
            self._log("INFO", "a new worker is starting anyway")
        else:
            try:
                self._successor = self._spawn()
            except OSError as error:
                self._log("ERROR", f"cannot start a worker: {error.strerror}")

    def _stop(self) -> None:
        self._stops += 1
        if not self._was_ready:
            self._exit_code = self._refuse(MountRefused("UNAVAILABLE", "stopped before it served"))
        elif self._stops > 1:
            self._log("ERROR", "asked to stop again: not waiting for anything")
            self._unmount_for_good()
            self._exit_code = 1
        else:
            self._announcer.systemd("STOPPING=1")
            if self._successor is not None and self._worker is not None:
                self._successor.signal(signal.SIGKILL)
            if self._worker is None and self._successor is None:
                # Nobody would answer what unmounting asks.
                self._unmount_for_good()
                self._exit_code = 1
                return
            # Unmounting waits for the worker, and while it waits, this process must keep it.
            self._unmounter = os.fork()
            if self._unmounter == 0:
                _unmount_and_exit(self.options.mountpoint)

    def _unmounted(self, status: int) -> None:
        """The child that unmounts ended: 0 if it is done, LAZY if files are still open."""
        if os.waitstatus_to_exitcode(status) not in (0, LAZY):
            self._log("ERROR", f"could not unmount {self.options.mountpoint}")
        if self._worker is not None:
            # After a plain unmount it knows by itself; saying it again does no harm.
            self._worker.deadline_s = time.monotonic() + self.options.patience_s + DRAIN_EXTRA_S
            self._worker.drain()

    def _log(self, level: str, message: str) -> None:
        now = time.time()
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03}"
        line = f"{at}Z {level} {NAME}: {' '.join(message.split())}\n"
        with contextlib.suppress(OSError):  # the log's disk is full: that must not end a mount
            os.write(2, line.encode("utf-8", "backslashreplace"))


LAZY = 1


def _noted(number: int, frame: FrameType | None) -> None:
    """Signals come through the wake-up descriptor; Python asks for a handler all the same."""


def _unmount_and_exit(mountpoint: str) -> None:
    """In a child: never returns."""
    code = 2
    try:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        code = LAZY if mounting.unmount_surely(mountpoint) else 0
    except MountRefused as refusal:
        sys.stderr.write(f"{refusal.message}\n")
    finally:
        os._exit(code)


def exit_code(refusal: MountRefused) -> int:
    """Of the `dp` command. Loads the library, for the only table that says it."""
    from dataplatform.base.errors import KINDS, ErrorKind

    return KINDS[ErrorKind[refusal.kind]].exit_code


def main(arguments: Sequence[str]) -> int:
    """SOURCE and MOUNTPOINT are for those who look at the process; the options say it too."""
    _source, _mountpoint, options_descriptor, ready_descriptor = arguments
    descriptor, ready = int(options_descriptor), int(ready_descriptor)
    for inherited in (descriptor, ready):
        if inherited >= 0:
            os.set_inheritable(inherited, False)
    options = MountOptions.from_json(os.pread(descriptor, 1 << 20, 0))
    os.chdir("/")  # where we stand keeps nobody from unmounting
    if options.log_file:
        log = os.open(options.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        for standard in (1, 2):
            os.dup2(log, standard)
        os.close(log)
    return Keeper(options, descriptor, Announcer(ready)).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
