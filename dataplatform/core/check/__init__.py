"""`check`, the fsck: reads everything a volume holds and proves every invariant of it.

It looks at one moment (`picture`), so it may run on a live server under load, and it is one pass
over each kind of row, in pages, beside maps of some sixty bytes per inode (`inodes`):

    keytable    every row belongs to the key table, every stored record can be read
    inodes      each inode by itself
    names       the namespace is a tree: entries, names, links, counts, orphans
    filedata    extended attributes and bytes of files
    tabledata   rows and their counts
    streamdata  topics, partitions, batches, producers, committed offsets
    accounts    segments and what refers to them, the volume's usage and counters
    quotas      what directories with a quota hold
    log         change rows and stored replies

What is found is a `Finding`, in a user's words. What is damaged is reported where it is, and what
follows from the damage is not reported again. `repairs` puts right what follows from other stored
data without guessing; damaged bytes stay as they are.
"""

from __future__ import annotations

from .findings import Finding, Report
from .platforms import check_platform
from .volumes import check_volume

__all__ = ["Finding", "Report", "check_platform", "check_volume"]
