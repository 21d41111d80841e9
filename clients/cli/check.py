"""`dp check`: is what the server stores whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from . import outputs
from .apps import SYSTEM, Json, app, command
from .completion import complete_path
from .connections import connect
from .progress import Progress
from .server import become_server

if TYPE_CHECKING:
    from dataplatform import CheckProgress, CheckReport


@command(app, "check", "dp check", "dp check --data /var/lib/dataplatform --repair", panel=SYSTEM)
def check(
    path: Annotated[
        str | None,
        typer.Argument(metavar="PATH", autocompletion=complete_path, show_default=False),
    ] = None,
    is_repairing: Annotated[
        bool, typer.Option("--repair", help="Mend what can be mended without guessing.")
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="A data directory that no server is using."),
    ] = None,
    json: Json = False,
) -> None:
    """Read all that is stored and prove that it is whole.

    Checks the volume that holds PATH, or all. Exit code 10 if something is wrong and was not
    repaired.
    """
    if data is not None:
        if json or path:
            raise typer.BadParameter("--data takes neither a PATH nor --json")
        become_server("check", f"--data={data}", *["--repair"] * is_repairing)
    with connect() as client, Progress("check", unit="checked") as progress:

        def tell(state: CheckProgress) -> None:
            progress.tell(f"check: {state.stage}", state.checked)

        report = client.check(path, repair=is_repairing, progress=tell)
    if json:
        outputs.json_line({"ok": report.ok, **outputs.as_mapping(report)})
    else:
        _show(report)
    if not report.ok:
        from dataplatform.base.errors import KINDS, ErrorKind

        raise typer.Exit(KINDS[ErrorKind.CORRUPT].exit_code)


def _show(report: CheckReport) -> None:
    """The same words as the server's own check of a data directory."""
    left = 0
    for finding in report.findings:
        state = "repaired" if finding.repaired else "repairable" if finding.repairable else "found"
        left += not finding.repaired
        outputs.line(f"{state}: {finding.path}: {finding.problem}")
    for warning in report.warnings:
        outputs.line(f"warning: {warning.path}: {warning.problem}")
    counts = ", ".join(f"{count} {name}" for name, count in sorted(report.counts.items()))
    outputs.line(f"checked {counts or 'nothing'}: {left} problems")
