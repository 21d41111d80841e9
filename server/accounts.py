"""What this machine's system knows about its users and groups: pwd, grp, getgrouplist(3)."""

from __future__ import annotations

import grp
import os
import pwd

from dataplatform.core.identities import Account


class SystemAccounts:
    """For `Identities.accounts`."""

    def uid_of(self, name: str) -> int | None:
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            return None

    def gid_of(self, name: str) -> int | None:
        try:
            return grp.getgrnam(name).gr_gid
        except KeyError:
            return None

    def has_uid(self, uid: int) -> bool:
        try:
            pwd.getpwuid(uid)
        except KeyError:
            return False
        return True

    def has_gid(self, gid: int) -> bool:
        return _group_name(gid) is not None


def account_of(uid: int) -> Account:
    """The user with this uid; without a name if there is none."""
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return Account("", uid)
    gids = frozenset(os.getgrouplist(user.pw_name, user.pw_gid))
    names = map(_group_name, gids)
    groups = frozenset(name for name in names if name is not None)
    return Account(user.pw_name, uid, user.pw_gid, gids, groups)


def _group_name(gid: int) -> str | None:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return None
