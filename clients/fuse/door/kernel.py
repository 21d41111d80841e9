"""The kernel's protocol: numbers and layouts of <linux/fuse.h>, version 7.

Only what this door speaks. Layouts are little-endian here, as every machine that we run on; the
kernel writes its own byte order.
"""

from __future__ import annotations

import struct

MAJOR, MINOR = 7, 45
MINOR_MIN = 31
"""Linux 5.4: what came later is used where the kernel has it."""

ROOT_NODE = 1

# ------------------------------------------------------------------------------------ opcodes

LOOKUP = 1
FORGET = 2
GETATTR = 3
SETATTR = 4
READLINK = 5
SYMLINK = 6
MKNOD = 8
MKDIR = 9
UNLINK = 10
RMDIR = 11
RENAME = 12
LINK = 13
OPEN = 14
READ = 15
WRITE = 16
STATFS = 17
RELEASE = 18
FSYNC = 20
SETXATTR = 21
GETXATTR = 22
LISTXATTR = 23
REMOVEXATTR = 24
FLUSH = 25
INIT = 26
OPENDIR = 27
READDIR = 28
RELEASEDIR = 29
FSYNCDIR = 30
CREATE = 35
INTERRUPT = 36
DESTROY = 38
BATCH_FORGET = 42
FALLOCATE = 43
READDIRPLUS = 44
RENAME2 = 45
LSEEK = 46
COPY_FILE_RANGE = 47
SYNCFS = 50

NAMES = {
    number: name.lower()
    for name, number in list(globals().items())
    if name.isupper()
    and isinstance(number, int)
    and name not in ("MAJOR", "MINOR", "MINOR_MIN", "ROOT_NODE")
}
"""What to call a request in statistics and logs."""

# ------------------------------------------------------------------------------------ flags

INIT_ASYNC_READ = 1 << 0
INIT_ATOMIC_O_TRUNC = 1 << 3
INIT_BIG_WRITES = 1 << 5
INIT_DO_READDIRPLUS = 1 << 13
INIT_READDIRPLUS_AUTO = 1 << 14
INIT_ASYNC_DIO = 1 << 15
INIT_PARALLEL_DIROPS = 1 << 18
INIT_MAX_PAGES = 1 << 22
INIT_CACHE_SYMLINKS = 1 << 23
INIT_HANDLE_KILLPRIV_V2 = 1 << 28
INIT_SETXATTR_EXT = 1 << 29
INIT_EXT = 1 << 30
INIT2_HAS_RESEND = 1 << (39 - 32)

OPEN_DIRECT_IO = 1 << 0
OPEN_KEEP_CACHE = 1 << 1
OPEN_NONSEEKABLE = 1 << 2
OPEN_CACHE_DIR = 1 << 3
OPEN_NOFLUSH = 1 << 5

SET_MODE = 1 << 0
SET_UID = 1 << 1
SET_GID = 1 << 2
SET_SIZE = 1 << 3
SET_ATIME = 1 << 4
SET_MTIME = 1 << 5
SET_KILL_SUIDGID = 1 << 11

WRITE_CACHE = 1 << 0
WRITE_KILL_SUIDGID = 1 << 2
OPEN_KILL_SUIDGID = 1 << 0

UNIQUE_RESEND = 1 << 63
"""Set in `unique` of a request that a process before this one had read and not answered."""

# ------------------------------------------------------------------------------------ layouts

IN_HEADER = struct.Struct("<IIQQIIIHH")  # len opcode unique node uid gid pid extensions padding
OUT_HEADER = struct.Struct("<IiQ")  # len error unique
INIT_IN = struct.Struct("<IIII")  # major minor max_readahead flags
INIT_IN_FLAGS2 = struct.Struct("<I")
INIT_OUT = struct.Struct("<IIIIHHIIHHI28x")
# major minor max_readahead flags max_background congestion max_write time_gran max_pages align
# flags2
ATTRIBUTES = struct.Struct("<3Q3q10I")
# ino size blocks atime mtime ctime atimensec mtimensec ctimensec mode nlink uid gid rdev blksize
# flags
ENTRY_OUT = struct.Struct("<4Q2I")  # node generation entry_valid attr_valid entry_nsec attr_nsec
ATTRIBUTES_OUT = struct.Struct("<QII")  # attr_valid nsec dummy
GETATTR_IN = struct.Struct("<IIQ")  # flags dummy handle
SETATTR_IN = struct.Struct("<IIQQQqqqIIIIIIII")
# valid pad handle size owner atime mtime ctime atimensec mtimensec ctimensec mode unused uid gid
# unused
MKNOD_IN = struct.Struct("<IIII")  # mode rdev umask padding
MKDIR_IN = struct.Struct("<II")  # mode umask
RENAME_IN = struct.Struct("<Q")
RENAME2_IN = struct.Struct("<QII")  # directory flags padding
LINK_IN = struct.Struct("<Q")
OPEN_IN = struct.Struct("<II")  # flags open_flags
OPEN_OUT = struct.Struct("<QII")  # handle open_flags padding
CREATE_IN = struct.Struct("<IIII")  # flags mode umask open_flags
READ_IN = struct.Struct("<QQIIQII")  # handle offset size read_flags owner flags padding
WRITE_IN = struct.Struct("<QQIIQII")  # handle offset size write_flags owner flags padding
WRITE_OUT = struct.Struct("<II")
RELEASE_IN = struct.Struct("<QIIQ")  # handle flags release_flags owner
FLUSH_IN = struct.Struct("<QIIQ")
FSYNC_IN = struct.Struct("<QII")  # handle fsync_flags padding
SETXATTR_IN_BEFORE_33 = struct.Struct("<II")
SETXATTR_IN = struct.Struct("<IIII")  # size flags setxattr_flags padding
GETXATTR_IN = struct.Struct("<II")
GETXATTR_OUT = struct.Struct("<II")
STATFS_OUT = struct.Struct("<5Q4I24x")  # blocks bfree bavail files ffree bsize namelen frsize pad
INTERRUPT_IN = struct.Struct("<Q")
FORGET_ONE = struct.Struct("<QQ")  # node lookups
BATCH_FORGET_IN = struct.Struct("<II")
FALLOCATE_IN = struct.Struct("<QQQII")  # handle offset length mode padding
LSEEK_IN = struct.Struct("<QQII")  # handle offset whence padding
LSEEK_OUT = struct.Struct("<Q")
COPY_IN = struct.Struct(
    "<QQQQQQQ"
)  # handle offset target_node target_handle target_offset len flags
DIRECTORY_ENTRY = struct.Struct("<QQII")  # ino offset name_length type, then the name, padded to 8

# ------------------------------------------------------------------------------------ notices

NOTIFY_INVAL_INODE = 2
NOTIFY_INVAL_ENTRY = 3
NOTIFY_RESEND = 7
NOTIFY_INC_EPOCH = 8

INVAL_INODE_OUT = struct.Struct("<Qqq")  # node offset length
INVAL_ENTRY_OUT = struct.Struct("<QII")  # directory name_length flags

INC_EPOCH_MINOR = 44
SETXATTR_EXT_MINOR = 33
RESEND_MINOR = 40
