"""Names of users, groups and clusters.

ASCII letters, digits and `. _ - @`, beginning with a letter, a digit or `_`; case counts. So a
name needs no quotes in an access expression, on a command line or in a file of settings, and no two
names look the same.
"""

from __future__ import annotations

import re

from .errors import Invalid
from .limits import USER_NAME_CHARACTERS_MAX

USER_NAME_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9._@-]*"
"""Of a user or a group. Names stand in stored expressions: it may only ever allow more."""

_USER_NAME = re.compile(USER_NAME_PATTERN)


def check_user_name(name: str, what: str = "user") -> str:
    """The name of a user (or group, by `what`) as it is. INVALID, saying why, if it is none."""
    if not name:
        raise Invalid(f"the name of a {what} is empty")
    if len(name) > USER_NAME_CHARACTERS_MAX:
        raise Invalid(
            f"the name of a {what} is too long",
            characters=len(name),
            characters_max=USER_NAME_CHARACTERS_MAX,
        )
    if not _USER_NAME.fullmatch(name):
        raise Invalid(
            f"the name of a {what} has letters (a-z), digits and . _ - @, "
            "and begins with a letter, a digit or _",
            name=name,
        )
    return name


_CLUSTER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")  # a name in paths: /cluster/path


def check_cluster_name(name: str) -> str:
    """The name of a cluster as it is. INVALID if it is none."""
    if not _CLUSTER.fullmatch(name):
        raise Invalid(
            "a cluster's name is 1 to 63 letters, digits, dots, dashes and underscores",
            cluster=name,
        )
    return name
