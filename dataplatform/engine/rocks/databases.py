"""Databases of volumes: their options, what they share, and how one is made and opened."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    WriteBufferManager,
)

from ...base.errors import Corrupt
from ...base.limits import KIB, MIB
from .. import manifests, wal
from ..directories import sync_directory
from ..files import Descriptors, Threads
from ..space import Space
from .errors import errors

BLOCK_CACHE_BYTES = 128 * MIB
"""Blocks, indexes and filters of all volumes."""

WRITE_BUFFERS_BYTES = 96 * MIB
"""Rows of all volumes not yet in sorted files; beyond this the largest buffer is written out."""

WRITE_BUFFER_BYTES = 32 * MIB
"""The same for one volume. Also how much log one volume replays when it opens."""

OPEN_FILES_MAX = 128
"""Sorted files held open per volume: hundreds of volumes share one process's limit."""

RESERVE_BYTES = 64 * MIB
"""Free space below which writes are refused: what is committed must still be written out, once
from the log into sorted files, and compacted. A RocksDB that runs out of it stops."""

RESERVE_SHARE = 16
"""No more than one part in so many of the file system: small ones are of use, too."""

SYNC_THREADS = 4
DISK_THREADS = 8


class Shared(NamedTuple):
    """What the volumes of one process have in common."""

    cache: Cache
    buffers: WriteBufferManager
    threads: Threads
    descriptors: Descriptors
    space: Space

    @staticmethod
    def make(directory: Path, cache_bytes: int, buffers_bytes: int) -> Shared:
        return Shared(
            Cache(cache_bytes),
            WriteBufferManager(buffers_bytes, False),
            Threads(
                ThreadPoolExecutor(SYNC_THREADS, "sync"), ThreadPoolExecutor(DISK_THREADS, "disk")
            ),
            Descriptors(),
            Space(directory, RESERVE_BYTES, share=RESERVE_SHARE),
        )


def database_options(shared: Shared) -> Options:
    """Options of every database, a checkpoint's included. None is needed to read old data."""
    options = Options(raw_mode=True)
    options.create_if_missing(False)
    # The torn end of a log is handled in open_database.
    options.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    options.set_write_buffer_manager(shared.buffers)
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(4)
    options.set_arena_block_size(256 * KIB)  # what an idle volume's buffer takes
    options.set_compression_type(DBCompressionType.lz4())
    options.set_level_compaction_dynamic_level_bytes(True)
    options.set_bytes_per_sync(MIB)  # compaction must not make a commit's sync wait for gigabytes
    options.set_max_background_jobs(2)
    options.set_max_open_files(OPEN_FILES_MAX)
    options.set_level_zero_slowdown_writes_trigger(40)
    options.set_level_zero_stop_writes_trigger(60)
    options.set_max_log_file_size(MIB)
    options.set_keep_log_file_num(2)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    options.set_manifest_preallocation_size(64 * KIB)
    options.set_skip_stats_update_on_db_open(True)
    tables = BlockBasedOptions()
    tables.set_block_cache(shared.cache)
    tables.set_block_size(16 * KIB)
    tables.set_bloom_filter(10, False)
    tables.set_cache_index_and_filter_blocks(True)
    tables.set_pin_l0_filter_and_index_blocks_in_cache(True)
    tables.set_format_version(5)
    options.set_block_based_table_factory(tables)
    return options


def open_database(path: Path, shared: Shared, *, is_brief: bool = False) -> Rdict:
    """`is_brief`: no compaction begins, which closing would wait for."""
    with errors(path.parent):
        if cause := manifests.problem(path):
            raise Corrupt("database is damaged", path=path.parent, cause=cause)
        try:
            options = database_options(shared)
            options.set_disable_auto_compactions(is_brief)
            return Rdict(str(path), options)
        except Exception as error:
            if "Corruption" not in str(error) or not wal.is_torn(path):
                raise
        options = database_options(shared)
        options.set_wal_recovery_mode(DBRecoveryMode.point_in_time())
        return Rdict(str(path), options)


def open_checkpoint(path: Path, shared: Shared) -> Rdict:
    with errors(path):
        return Rdict(str(path), database_options(shared), None, AccessType.read_only(False))


def make_volume(path: Path, shared: Shared) -> None:
    """Fill the directory of a new volume."""
    for name in ("db", "checkpoints", "segments"):
        (path / name).mkdir()
    options = database_options(shared)
    options.create_if_missing(True)
    with errors(path):
        Rdict(str(path / "db"), options).close()
    for name in ("db", "checkpoints", "segments"):
        sync_directory(path / name)
