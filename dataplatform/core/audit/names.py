"""The topic of a volume: its mount path, made into a name that Kafka takes.

    /                        root
    /projects/cars           projects.cars
    /my_data/v1.2            my__data.v1_2E2
    /root                    _72oot

Names are joined by `.`. Letters, digits and `-` of ASCII stand for themselves, `_` is doubled, and
every other byte is `_` and two capital hexadecimal digits; so is the first letter of the one path
that would be called `root`. No two paths have the same topic, except that a name that would be too
long is cut, and ends with `_h` and a hash of the path.
"""

from __future__ import annotations

import hashlib
import re

from ...base.limits import TOPIC_NAME_BYTES_MAX

ROOT = "root"
_OTHERS = re.compile(rb"[^a-zA-Z0-9-]")
_HASH_CHARACTERS = 16


def topic_of(path: str) -> str:
    """Of the volume that is mounted at this path, counted from the platform's root."""
    names = [name for name in path.split("/") if name]
    if not names:
        return ROOT
    topic = ".".join(map(_escaped, names))
    if topic == ROOT:
        return "_72oot"
    if len(topic) <= TOPIC_NAME_BYTES_MAX:
        return topic
    digest = hashlib.blake2b(path.encode(), digest_size=_HASH_CHARACTERS // 2).hexdigest()
    return f"{topic[: TOPIC_NAME_BYTES_MAX - _HASH_CHARACTERS - 2]}_h{digest}"


def _escaped(name: str) -> str:
    return _OTHERS.sub(
        lambda found: b"__" if found[0] == b"_" else b"_%02X" % found[0][0], name.encode()
    ).decode()
