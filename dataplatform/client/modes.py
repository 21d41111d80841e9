"""What the builtin `open` means by "r", "w", "a", "x", "+", "b" and "t"."""

from __future__ import annotations

from dataclasses import dataclass

from ..base.errors import Invalid


@dataclass(frozen=True, slots=True)
class Mode:
    """A parsed mode. Exactly one of the builtin's four ways to open, and what follows from it."""

    name: str
    read: bool
    write: bool
    append: bool = False
    create: bool = False
    exclusive: bool = False
    truncate: bool = False
    text: bool = False

    @classmethod
    def parse(
        cls,
        mode: str,
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Mode:
        """As the builtin does; Invalid, which is a ValueError, where that raises ValueError."""
        letters = set(mode)
        way = letters & set("rwax")
        if letters - set("rwaxbt+") or len(mode) > len(letters) or len(way) != 1:
            raise Invalid("a mode is one of r, w, a, x, with +, and b or t", mode=mode)
        if {"b", "t"} <= letters:
            raise Invalid("a mode is binary or text, not both", mode=mode)
        text = "b" not in letters
        if not text and (encoding or errors or newline is not None):
            raise Invalid("a binary mode takes no encoding, errors or newline", mode=mode)
        if text and buffering == 0:
            raise Invalid("a text mode cannot be unbuffered", mode=mode)
        update = "+" in letters
        return cls(
            name=mode,
            read=update or "r" in letters,
            write=update or "r" not in letters,
            append="a" in letters,
            create="r" not in letters,
            exclusive="x" in letters,
            truncate="w" in letters,
            text=text,
        )
