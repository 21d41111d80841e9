"""A master key for tests that run encrypted, too."""

from __future__ import annotations

from dataplatform.base.clock import SeededEntropy
from dataplatform.base.masterkeys import master_key
from dataplatform.core.keys import LocalMaster, Masters

KEY = master_key(b"m" * 32)


def masters(seed: int) -> Masters:
    """What they draw follows from the seed."""
    entropy = SeededEntropy(seed)
    return Masters(lambda: [LocalMaster(KEY, entropy)], entropy)
