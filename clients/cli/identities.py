"""Who there is: `dp user`, `dp group`, `dp token`, `dp whoami`."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import outputs
from .apps import SYSTEM, Json, app, command, group
from .connections import connect
from .outputs import Time
from .parsing import parse_duration

if TYPE_CHECKING:
    from dataplatform import TokenInfo, UserInfo

user = group(app, "user", "Users of the cluster.", SYSTEM)
groups = group(app, "group", "Groups of users.", SYSTEM)
token = group(app, "token", "Tokens, by which programs are users over a network.", SYSTEM)

USER_HEADERS = ("user", "uid", "groups", "right", "state")
GROUP_HEADERS = ("group", "gid", "users")
TOKEN_HEADERS = ("id", "user", "state", "expires", "limits")

Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]
Groups = Annotated[
    list[str] | None,
    typer.Option("--group", metavar="GROUP", show_default=False, help="May be repeated."),
]


# ------------------------------------------------------------------------------------- users


@command(user, "create", "dp user create ana", "dp user create ana --group eng --uid 1000")
def create_user(
    name: Name,
    groups: Groups = None,
    uid: Annotated[
        int | None,
        typer.Option(
            "--uid",
            metavar="N",
            show_default=False,
            help="Instead of that of the server's system for this name, or the next free one.",
        ),
    ] = None,
    admin: Annotated[
        bool, typer.Option("--admin", help="An administrator: may do everything.")
    ] = False,
    json: Json = False,
) -> None:
    """Create a user. A name has letters, digits and . _ - @"""
    with connect() as client:
        made = client.create_user(name, uid=uid, groups=groups or (), admin=admin)
        if json:
            outputs.json_line(made)


@command(user, "ls", "dp user ls")
def list_users(json: Json = False) -> None:
    """List every user: uid, groups, whether an administrator, whether disabled."""
    with connect() as client:
        if json:
            for found in client.users():
                outputs.json_line(found)
        else:
            outputs.table(USER_HEADERS, map(_user, client.users()))


def _user(found: UserInfo) -> tuple[Any, ...]:
    state = "disabled" if found.disabled else "good"
    right = "administrator" if found.admin else None
    return found.name, str(found.uid), " ".join(found.groups) or None, right, state


@command(
    user,
    "set",
    "dp user set ana --add-group ops --remove-group eng",
    "dp user set ana --disable",
)
def set_user(
    name: Name,
    add: Annotated[
        list[str] | None,
        typer.Option("--add-group", metavar="GROUP", show_default=False, help="May be repeated."),
    ] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option(
            "--remove-group", metavar="GROUP", show_default=False, help="May be repeated."
        ),
    ] = None,
    admin: Annotated[
        bool | None,
        typer.Option("--admin/--no-admin", show_default=False, help="An administrator, or not."),
    ] = None,
    disabled: Annotated[
        bool | None,
        typer.Option(
            "--disable/--enable",
            show_default=False,
            help="A disabled user may do nothing; the tokens are revoked.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Change a user; what is not named stays. It has effect at once, on open connections too."""
    if not add and not remove and admin is None and disabled is None:
        raise typer.BadParameter("nothing to set: see --help")
    with connect() as client:
        changed = client.set_user(
            name, add=add or (), remove=remove or (), admin=admin, disabled=disabled
        )
        if json:
            outputs.json_line(changed)


@command(user, "remove", "dp user remove ana")
def remove_user(name: Name) -> None:
    """Remove a user and the tokens. What the user owns stays, and belongs to the uid."""
    with connect() as client:
        client.remove_user(name)


# ------------------------------------------------------------------------------------ groups


@command(groups, "create", "dp group create eng", "dp group create eng --gid 500")
def create_group(
    name: Name,
    gid: Annotated[
        int | None,
        typer.Option(
            "--gid",
            metavar="N",
            show_default=False,
            help="Instead of that of the server's system for this name, or the next free one.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Create a group of users."""
    with connect() as client:
        made = client.create_group(name, gid=gid)
        if json:
            outputs.json_line(made)


@command(groups, "ls", "dp group ls")
def list_groups(json: Json = False) -> None:
    """List every group: gid, users."""
    with connect() as client:
        if json:
            for found in client.groups():
                outputs.json_line(found)
        else:
            rows = ((g.name, str(g.gid), " ".join(g.users) or None) for g in client.groups())
            outputs.table(GROUP_HEADERS, rows)


Users = Annotated[list[str], typer.Argument(metavar="USER...", show_default=False)]


@command(groups, "add", "dp group add eng ana bob")
def add_to_group(name: Name, users: Users, json: Json = False) -> None:
    """Put users into a group. It has effect at once, on open connections too."""
    with connect() as client:
        changed = client.set_group(name, add=users)
        if json:
            outputs.json_line(changed)


@command(groups, "drop", "dp group drop eng bob")
def drop_from_group(name: Name, users: Users, json: Json = False) -> None:
    """Take users out of a group. It has effect at once, on open connections too."""
    with connect() as client:
        changed = client.set_group(name, remove=users)
        if json:
            outputs.json_line(changed)


@command(groups, "remove", "dp group remove eng")
def remove_group(name: Name) -> None:
    """Remove a group; its users stay."""
    with connect() as client:
        client.remove_group(name)


# ------------------------------------------------------------------------------------ tokens

UserOption = Annotated[
    str | None, typer.Option("--user", metavar="NAME", show_default=False, help="Whose.")
]


@command(
    token,
    "create",
    "dp token create --user ana --ttl 12h",
    "dp token create --user ana --read-only --path /projects > ana.token",
)
def create_token(
    name: Annotated[
        str, typer.Option("--user", metavar="NAME", show_default=False, help="Whose it is.")
    ],
    ttl: Annotated[
        timedelta | None,
        typer.Option("--ttl", parser=parse_duration, metavar="12h", help="Until it expires."),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="It allows no change.")] = False,
    paths: Annotated[
        list[str] | None,
        typer.Option(
            "--path",
            metavar="PATH",
            show_default=False,
            help="It is good for this subtree only. May be repeated.",
        ),
    ] = None,
    speak: Annotated[
        bool,
        typer.Option("--speak", help="Its holder may say whom a request is for: a shared mount."),
    ] = False,
    json: Json = False,
) -> None:
    """Create a token. It stands alone on the last line, and cannot be shown again.

    Keep it in a file with mode 0600 and name that with --token-file or DP_TOKEN_FILE.
    """
    with connect() as client:
        options = {} if ttl is None else {"ttl": ttl}
        made = client.create_token(
            name, read_only=read_only, paths=paths or (), speak=speak, **options
        )
        if json:
            outputs.json_line(outputs.as_mapping(made.info) | {"token": made.token})
            return
        outputs.note(f"token {made.info.id} of {name}, good until {made.info.expires:%F %T %Z}")
        outputs.line(made.token)


@command(token, "ls", "dp token ls", "dp token ls --user ana")
def list_tokens(name: UserOption = None, json: Json = False) -> None:
    """List tokens: of everybody, or of one user; without an administrator's right, your own."""
    with connect() as client:
        found = client.tokens(name)
        if json:
            for item in found:
                outputs.json_line(item)
        else:
            outputs.table(TOKEN_HEADERS, map(_token, found))


def _token(found: TokenInfo) -> tuple[Any, ...]:
    return found.id, found.user, found.state, Time(found.expires_ns), _limits(found)


def _limits(found: Any) -> str | None:
    """Of a token, or of who one is."""
    limits = ["read-only"] if found.read_only else []
    limits += ["may speak for others"] if found.speak else []
    limits += [f"below {path}" for path in found.paths]
    return ", ".join(limits) or None


@command(
    token,
    "revoke",
    "dp token revoke 3f2a9c0d1e4b5a67",
    "dp token revoke --user ana",
    "dp token revoke --all",
)
def revoke(
    token_id: Annotated[str | None, typer.Argument(metavar="ID", show_default=False)] = None,
    name: UserOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every token of the cluster, by a new signing key.")
    ] = False,
    json: Json = False,
) -> None:
    """Revoke a token, or all of a user. It has effect at once, on open connections too."""
    if bool(token_id) + bool(name) + everything != 1:
        raise typer.BadParameter("give one: the ID of a token, --user NAME, or --all")
    with connect() as client:
        count = client.revoke_tokens(token_id, user=name, everything=everything)
        if json:
            outputs.json_line({"revoked": count})


@command(app, "whoami", "dp whoami", panel=SYSTEM)
def whoami(json: Json = False) -> None:
    """Show who you are to the server, and by what."""
    with connect() as client:
        found = client.whoami()
        if json:
            outputs.json_line(found)
            return
        outputs.fields(
            {
                "user": found.name,
                "by": f"token {found.token}" if found.token else found.by,
                "right": "administrator" if found.admin else None,
                "uid": str(found.uid),
                "gids": " ".join(map(str, found.gids)) or None,
                "groups": " ".join(found.groups) or None,
                "limits": _limits(found),
                "expires": Time(found.expires_ns) if found.expires_ns else None,
            }
        )
