"""`python -m dataplatform_server start | check`: the process around a `Server`.

The only place that picks an engine. SIGTERM and SIGINT stop in order, a second one at once.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from dataplatform.base.errors import KINDS, ErrorKind, NotFound, PlatformError
from dataplatform.base.logs import start_logging
from dataplatform.core.check import check_platform
from dataplatform.core.keys import Masters
from dataplatform.core.platform import Platform
from dataplatform.engine.stores import open_storages

from . import notify
from .masters import master_keys, take_variable
from .servers import Server
from .settings import (
    Settings,
    add_arguments,
    add_key_arguments,
    default_data,
    file_of,
    read_settings,
)

logger = logging.getLogger(__name__)

PROGRAM = "dp-server"

OURS_ALONE = 0o077


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code, which follows the error's kind."""
    options = _parser().parse_args(arguments)
    os.umask(OURS_ALONE)  # whatever we write is for nobody else to read: data, logs of the engine
    variable = take_variable()
    try:
        if options.command == "check":
            start_logging("warning")
            file = options.master_key_file or os.environ.get("DP_MASTER_KEY_FILE")
            command = options.master_key_command or os.environ.get("DP_MASTER_KEY_COMMAND", "")
            masters = master_keys(file_of(file), command, variable)
            return uvloop.run(_check(Path(options.data), options.store, options.repair, masters))
        settings = read_settings(vars(options))
        start_logging(settings.log_level)
        masters = master_keys(settings.master_key_file, settings.master_key_command, variable)
        if masters:
            _dump_no_core()
        return uvloop.run(_start(settings, masters, options.ready_file, options.ready_fd))
    except PlatformError as e:
        sys.stderr.write(f"{PROGRAM}: {e}\n")
        return KINDS[e.kind].exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(PROGRAM, description="The data platform's server.")
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("start", help="serve until SIGTERM or SIGINT")
    add_arguments(start)
    start.add_argument(
        "--ready-file", metavar="FILE", type=Path, help="written when ready, as JSON"
    )
    start.add_argument("--ready-fd", metavar="N", type=int, help="the same to a descriptor")
    check = commands.add_parser("check", help="check the stored data while no server runs")
    check.add_argument("--data", metavar="DIR", default=str(default_data()))
    check.add_argument("--store", metavar="URL")
    add_key_arguments(check)
    check.add_argument("--repair", action="store_true", help="repair what needs no guessing")
    return parser


COLLECT_AFTER = (20_000, 20, 100)
"""Objects, and collections of the younger generations, before the garbage collector looks. What a
request makes is freed by its reference counts; Python's 700 would look after every few requests."""


def _calm_collector() -> None:
    """What is there by now stays: modules, the volume list. The collector need not look at it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


def _raise_file_limit() -> None:
    """Each open volume takes about six descriptors, each client one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _dump_no_core() -> None:
    """Keys are in our memory."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


async def _start(
    settings: Settings, masters: Masters, ready_file: Path | None, ready_fd: int | None
) -> int:
    _raise_file_limit()
    stop = asyncio.Event()
    _stop_on_signals(stop)
    storages = await open_storages(settings.store or settings.data)
    server = await Server.start(settings, storages, masters=masters)
    if server.certificates is not None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, server.certificates.reload)
    _calm_collector()
    logger.info(
        "started. version=`%s`, engine=`%s`, data=`%s`, cluster=`%s`",
        server.facts.version,
        server.facts.engine,
        server.facts.data,
        settings.cluster,
    )
    text = notify.ready_json(server.endpoints, settings.cluster)
    if ready_file is not None:
        notify.write_ready_file(ready_file, text)
    if ready_fd is not None:
        notify.write_ready_fd(ready_fd, text)
    sys.stdout.write(notify.ready_line(server.endpoints) + "\n")
    sys.stdout.flush()
    notify.tell_systemd("READY=1")
    await stop.wait()
    notify.tell_systemd("STOPPING=1")
    logger.info("stopping")
    await server.stop()
    logger.info("stopped")
    return 0


def _stop_on_signals(stop: asyncio.Event) -> None:
    def received(number: signal.Signals) -> None:
        if stop.is_set():
            os._exit(128 + number)  # told twice: what is durable is on the disk
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received, number)


async def _check(data: Path, store: str | None, repair: bool, masters: Masters) -> int:
    """0 if nothing is wrong, or everything was repaired; else the exit code of CORRUPT."""
    if store is None and not (data / "format.json").exists():
        raise NotFound("no server has stored here: name the directory it was given", data=data)
    _raise_file_limit()
    platform = await Platform.start(await open_storages(store or data), masters=masters)
    try:
        report = await check_platform(platform, repair=repair)
    finally:
        await platform.close()
    left = 0
    for finding in report.findings:
        state = "repaired" if finding.repaired else "repairable" if finding.repairable else "found"
        left += not finding.repaired
        sys.stdout.write(f"{state}: {finding.path}: {finding.problem}\n")
    for warning in report.warnings:
        sys.stdout.write(f"warning: {warning.path}: {warning.problem}\n")
    counts = ", ".join(f"{count} {name}" for name, count in sorted(report.counts.items()))
    sys.stdout.write(f"checked {counts or 'nothing'}: {left} problems\n")
    return KINDS[ErrorKind.CORRUPT].exit_code if left else 0
