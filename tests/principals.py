"""Principals for tests that are not about rights."""

import functools

from dataplatform.core.principals import Principal


@functools.cache
def admin(name: str) -> Principal:
    """The same one for the same name, who may do everything."""
    return Principal(name, uid=0, gids=frozenset((0,)), is_admin=True)


class Shown:
    """A credential of somebody who stays who he is."""

    by = "nothing"

    def __init__(self, principal: Principal) -> None:
        self._principal = principal

    def now(self) -> Principal:
        return self._principal
