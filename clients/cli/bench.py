"""`dp bench`: what this machine gives, against the disk and against others."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from . import connections, outputs
from .apps import SYSTEM, Json, app, command
from .parsing import parse_names

if TYPE_CHECKING:
    from dataplatform_bench.campaigns import Plan


@command(
    app,
    "bench",
    "dp bench",
    "dp bench put get --rounds 5",
    "dp bench --peers --json > figures.jsonl",
    "dp bench put --against redis,nats --scale 0.1",
    "dp bench file-write file-read --against disk --dir /mnt/fast",
    "dp bench --list",
    panel=SYSTEM,
)
def bench(
    workloads: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="WORKLOAD", help="Only these; --list names them.", show_default=False
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="The same as WORKLOAD.", show_default=False),
    ] = None,
    with_peers: Annotated[
        bool, typer.Option("--peers", help="Against the disk and every peer that is installed.")
    ] = False,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            parser=parse_names,
            help="Against the disk and these: disk,redis,nats,kafka,juicefs.",
            show_default=False,
        ),
    ] = None,
    rounds: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Figures are medians of so many turns, or of 3 or 5 times as many short ones.",
        ),
    ] = 3,
    scale: Annotated[
        float, typer.Option(metavar="X", help="How much is done in a turn; 0.1 is a quick look.")
    ] = 1.0,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            metavar="DIR",
            exists=True,
            file_okay=False,
            show_default=False,
            help="Where the servers of a comparison store; the temporary directory.",
        ),
    ] = None,
    lists: Annotated[
        bool, typer.Option("--list", help="Show the workloads and the peers, measure nothing.")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="The table as Markdown.")] = False,
    json: Json = False,
) -> None:
    """Measure the server: each kind of work, with what was on disk when it was acknowledged.

    Alone, the workloads run against the server that `dp` is connected to, in a directory of their
    own, which is removed at the end; `stat`, which makes a million files, only when it is named.
    With --peers or --against they run against a server of their own, beside the local disk and the
    peers, all in turn and on the same disk, and are compared with what is asked of them. A peer
    that is not installed is named, with how to install it; `make bench` in the repository does.
    docs/performance.md says what is measured, and what the words for durability mean.
    """
    from dataplatform_bench.campaigns import Plan
    from dataplatform_bench.peers import PEERS

    if lists:
        _list(json)
        return
    named = [name for names in against or [] for name in names]
    peers = tuple(PEERS) if with_peers and not named else tuple(named) or None
    plan = Plan((*(workloads or ()), *(only or ())), peers, rounds, scale, directory)
    _measure(plan, is_json=json, is_markdown=markdown)


def _measure(plan: Plan, *, is_json: bool, is_markdown: bool) -> None:
    from dataplatform import Unavailable
    from dataplatform_bench import campaigns, results
    from dataplatform_bench.processes import Failed

    # Whoever ends this program ends with it the servers that it has started.
    signal.signal(signal.SIGTERM, _interrupt)
    rows = []
    try:
        server, token, token_file = connections.chosen()
        if token_file:
            os.environ["DP_TOKEN_FILE"] = token_file  # for the drivers' processes
        for result in campaigns.run(plan, server, token, _Teller()):
            if is_json:
                outputs.json_line(results.as_json(result))
                outputs.flush()
            rows += results.rows(result)
    except Failed as error:
        raise Unavailable(str(error)) from None
    finally:
        # What was measured before an interruption is shown.
        if is_markdown and not is_json:
            _markdown(results.HEADERS, rows)
        elif rows and not is_json:
            outputs.table(results.HEADERS, rows)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


class _Teller:
    """Progress, on standard error: with the seconds since the start."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def __call__(self, text: str) -> None:
        sys.stderr.write(f"dp: {time.monotonic() - self._started:4.0f} s  {text}\n")
        sys.stderr.flush()


def _list(is_json: bool) -> None:
    from dataplatform_bench.peers import PEERS
    from dataplatform_bench.results import asked_text
    from dataplatform_bench.works import WORKS

    missing = {name: make().missing() for name, make in PEERS.items()}
    if is_json:
        for name, work in WORKS.items():
            asked = asked_text(work.asked, work.unit, work.is_time)
            outputs.json_line({"work": name, "title": work.title, "asked": asked or None})
        for name, reason in missing.items():
            outputs.json_line({"peer": name, "missing": reason})
        return
    outputs.table(
        ("workload", "what", "asked"),
        [
            (name, work.title, asked_text(work.asked, work.unit, work.is_time))
            for name, work in WORKS.items()
        ],
    )
    outputs.table(
        ("peer", "state"), [(name, reason or "installed") for name, reason in missing.items()]
    )


def _markdown(headers: Any, rows: Any) -> None:
    for row in (headers, ["---"] * len(headers), *rows):
        outputs.line(f"| {' | '.join(row)} |")
