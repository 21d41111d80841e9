"""Verbs: what somebody may or may not do with a thing (D10).

Files and directories know `read write execute list create delete admin`, streams `produce consume
topics admin`, tables `read write admin`. An expression is stored under its verb's word.
"""

from __future__ import annotations

import enum

from ...base.errors import Invalid
from ...keyspace.records import Kind


class Verb(enum.IntFlag):
    """Numbers are on the wire (`Access.Check`, `Node.governed`): never change one."""

    READ = 1
    WRITE = 2
    EXECUTE = 4  # run a file; pass through a directory
    LIST = 8  # the names in a directory
    CREATE = 16  # names in a directory
    DELETE = 32  # names in a directory
    ADMIN = 64  # modes, owners, expressions, settings
    PRODUCE = 128
    CONSUME = 256
    TOPICS = 512  # make and remove topics of a stream

    @property
    def word(self) -> str:
        """As expressions are stored and errors say it: "read"; several as "read+write"."""
        return WORDS.get(int(self)) or "+".join(WORDS[int(one)] for one in self)


REACH = Verb(0)
"""Asks for no more than that the thing can be reached."""
ALL = Verb(1023)

NUMBERS = {str(verb.name).lower(): verb for verb in Verb}

WORDS = {int(verb): str(verb.name).lower() for verb in Verb}

CHANGING = Verb.WRITE | Verb.CREATE | Verb.DELETE | Verb.ADMIN | Verb.PRODUCE | Verb.TOPICS
"""What a token that allows no change does not cover."""

CHANGING_BITS = int(CHANGING)

MODE_BITS = {
    int(verb): bits
    for bits, verbs in (
        (4, (Verb.READ, Verb.LIST, Verb.CONSUME)),
        # Of a directory, and x, which passing through it asks for.
        (2, (Verb.WRITE, Verb.PRODUCE, Verb.TOPICS, Verb.CREATE, Verb.DELETE)),
        (1, (Verb.EXECUTE,)),
    )
    for verb in verbs
}
"""What POSIX modes say of each; ADMIN belongs to the owner (POSIX.1-2017 §4.5)."""

OF_KIND: dict[int, Verb] = {
    Kind.TABLE: Verb.READ | Verb.WRITE | Verb.ADMIN,
    Kind.STREAM: Verb.PRODUCE | Verb.CONSUME | Verb.TOPICS | Verb.ADMIN,
    Kind.DIRECTORY: Verb(1023),  # what it sets holds for everything below, of whatever kind
}
OF_FILES = (
    Verb.READ | Verb.WRITE | Verb.EXECUTE | Verb.LIST | Verb.CREATE | Verb.DELETE | Verb.ADMIN
)


def verbs_of(kind: int) -> Verb:
    """What can be set on a thing of this kind."""
    return OF_KIND.get(kind, OF_FILES)


def verb_of(word: str) -> Verb:
    """INVALID, with the words there are."""
    for verb in Verb:
        if WORDS[int(verb)] == word:
            return verb
    raise Invalid("no such verb", verb=word, verbs=" ".join(WORDS.values()))
