"""The embedded engine: RocksDB through rocksdict, one database per volume (D2).

Commits are written to the operating system at once (so a killed process loses nothing) and made
durable by `flush_wal(True)`, one for all who wait; see groups.py. Those of which nobody is told
before they are durable are gathered: one write for all of them, right before the sync. A write
costs more than what is in it, and most while a sync is running. Reads run on the loop: a cached
one takes about a microsecond, and rocksdict holds the GIL anyway. What takes long (open, close,
checkpoint) runs in threads.

A checkpoint holds what was committed when it began; of commits made while it is being taken, it
holds a prefix.

All databases of a process share one block cache, one limit on unwritten rows, and one look at the
disk's free space.
"""

from .engine import RocksEngine
from .storages import RocksStorages

__all__ = ["RocksEngine", "RocksStorages"]
