"""Room on the disk: some peers need many times what is written, and others use this machine too."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..processes import Failed

FREE_BYTES_MIN = 15_000_000_000


def check(directory: Path) -> None:
    """Raises processes.Failed where a load would leave too little to everybody else."""
    free = shutil.disk_usage(directory).free
    if free < FREE_BYTES_MIN:
        raise Failed(f"only {free / 1e9:.0f} GB are left on the disk")
