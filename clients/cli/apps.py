"""The Typer application, and how a command is registered: with an example, always.

@command(app, "ls", "dp ls -l /projects", panel=FILES)
def ls(path: RemotePath = "/", json: Json = False) -> None:
    '''List a directory.'''
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from . import connections
from .completion import complete_path

Function = TypeVar("Function", bound=Callable[..., Any])

FILES = "Files and directories"
DATA = "Tables and streams"
SYSTEM = "Server and volumes"

# On a terminal help is set by Rich; in a pipe it is plain text.
IS_RICH = sys.stdout.isatty()

Json = Annotated[bool, typer.Option("--json", help="One JSON value per line.")]
RemotePath = Annotated[
    str,
    typer.Argument(metavar="PATH", autocompletion=complete_path, show_default=False),
]
RemotePaths = Annotated[
    list[str],
    typer.Argument(metavar="PATH", autocompletion=complete_path, show_default=False),
]


def untyped(parameters: list[Any]) -> list[Any]:
    """The same without `<str>` or `<bool>` in the help: what to write is said by metavars."""
    for parameter in parameters:
        if not isinstance(parameter, TyperOption) or parameter.metavar is None:
            parameter.display_type_rich = lambda ctx: ""
    return parameters


class Command(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:
        return untyped(super().get_params(ctx))


class Group(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:
        return untyped(super().get_params(ctx))


app = typer.Typer(
    name="dp",
    cls=Group,
    rich_markup_mode="rich" if IS_RICH else None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def text(paragraphs: str, *examples: str) -> str:
    """A docstring as help text, with examples whose lines stay as they are."""
    parts = [" ".join(part.split()) for part in inspect.cleandoc(paragraphs).split("\n\n")]
    if examples:
        block = "\n".join(f"  {example}" for example in examples)
        parts += ["Examples:" if len(examples) > 1 else "Example:"]
        # \b keeps click from joining lines; Rich keeps them anyway but reads [] as markup.
        parts += [block if IS_RICH else f"\b\n{block}"]
    joined = "\n\n".join(parts)
    return joined.replace("[", "\\[") if IS_RICH else joined


def command(
    parent: typer.Typer, name: str, *examples: str, panel: str | None = None, **settings: Any
) -> Callable[[Function], Function]:
    """Register a function as the command `name`; its docstring is the help."""
    assert examples, "every command has an example"

    def register(function: Function) -> Function:
        described = text(function.__doc__ or "", *examples)
        parent.command(name, cls=Command, help=described, rich_help_panel=panel, **settings)(
            function
        )
        return function

    return register


def group(
    parent: typer.Typer, name: str, description: str, panel: str | None = None
) -> typer.Typer:
    """A noun with commands of its own: `dp NAME COMMAND`. Alone, it shows its help."""
    made = typer.Typer(cls=Group, rich_markup_mode=app.rich_markup_mode)

    @made.callback(invoke_without_command=True)
    def show_help(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            typer.echo(context.get_help())

    parent.add_typer(made, name=name, help=text(description), rich_help_panel=panel)
    return made


@app.callback(
    invoke_without_command=True,
    help=text(
        """Files, tables and streams side by side in one namespace.

        `dp COMMAND --help` explains a command with an example. --server, --token-file and --token
        may also follow the command. For dps:// the environment has DP_CA (the authority of the
        server's certificate) and, for a certificate of your own, DP_CERT and DP_KEY: PEM files."""
    ),
)
def root(
    context: typer.Context,
    server: Annotated[
        str,
        typer.Option(
            envvar="DP_SERVER",
            metavar="ADDRESS",
            show_default=False,
            help="dp://HOST:PORT, dps://HOST:PORT or dp+unix:///PATH. Without it: the socket of a"
            " server that you run, then /run/dataplatform/dp.sock, then dp://127.0.0.1:7222.",
        ),
    ] = "",
    token: Annotated[
        str,
        typer.Option(
            envvar="DP_TOKEN",
            metavar="TOKEN",
            show_default=False,
            help="Who you are. Others on this machine can see it (ps): rather use a file.",
        ),
    ] = "",
    token_file: Annotated[
        str,
        typer.Option(
            "--token-file",
            envvar="DP_TOKEN_FILE",
            metavar="FILE",
            show_default=False,
            help="The same from a file, read at every connection.",
        ),
    ] = "",
    stale_ok: Annotated[
        bool,
        typer.Option(
            "--stale-ok",
            help="Read from a mirror here what cannot be asked of its cluster; it says how old.",
        ),
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """What comes before every command."""
    if _is_given(context, "token_file") and not _is_given(context, "token"):
        token = ""  # the file was named here, $DP_TOKEN was not
    connections.choose(
        server or None, token or None, token_file if not token else None, stale_ok=stale_ok
    )
    if version:
        from .status import version as show_version

        show_version()
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


def _is_given(context: typer.Context, option: str) -> bool:
    """On the command line, and not by the environment."""
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"
