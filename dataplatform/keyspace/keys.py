"""THE key table: every key that an engine holds, for one volume. On disk: never change a line.

Keys sort as their parts do: integers are big-endian and fixed in width, a name stands last, or is
ended by NUL where something follows it (names cannot contain NUL).

    key                                       value            one per
    M "state"                                 VolumeState      volume: counters and usage
    M "settings"                              VolumeSettings   volume
    V volume:8                                VolumeRecord     volume (in the root volume)
    u name                                    UserRecord       user (in the root volume)
    G name                                    GroupRecord      group of users (in the root volume)
    k "token/" id                             TokenRecord      token (in the root volume)
    k "key/" id                               SigningKeyRecord key of tokens (in the root volume)
    I inode:8                                 Inode            file, directory, table, stream, …
    E directory:8 name                        Entry            name in a directory
    H inode:8 directory:8 name                (empty)          further hard link of an inode
    X inode:8 name                            bytes            extended attribute
    D inode:8 offset:8                        Piece            range of a file's bytes
    O inode:8                                 time_ns:8        inode without a name, to be swept
    N inode:8                                 Statistics       table, stream
    T table:8 row-key                         Row              row
    t stream:8 topic-name                     Topic            topic
    P stream:8 topic:4 partition:4            Partition        partition
    S stream:8 topic:4 partition:4 offset:8   StoredBatch      record batch, by its first offset
    Q stream:8 topic:4 partition:4 producer:8 Producer         idempotent producer in a partition
    g stream:8 group NUL topic:4 partition:4  GroupOffset      committed offset
    Z segment:8                               Segment          segment that something refers to
    Y segment:8 key                           (empty)          key whose value refers to the segment
    R session:16 slot:4                       StoredReply      last write of a client's slot
    C commit:8                                ChangeRow        commit
    a volume:8                                AuditCursor      audited volume (in the root volume)
    L directory:8                             DirectoryQuota   directory with a quota
    s volume:8 name                           SnapshotRecord   snapshot (in the root volume)
    z segment:8                               commit:8         dead segment that a snapshot needs
    m "cursor"                                MirrorCursor     volume that is a mirror
    m "copy"                                  CopyCursor       copy for a mirror, under way
    x key                                     SourceExtent     of a mirror's value, at its source
    c name                                    ClusterRecord    known cluster (in the root volume)
    c                                         ClusterRecord    the highest slot of one so far
    p name                                    Publication      change feed copied to a stream
    w name                                    GatherRecord     stream here that others flow into
                                                               (in the root volume)
    w name NUL source                         GatherCursor     how far one of these was gathered
"""

from __future__ import annotations

from struct import Struct

META = b"M"
VOLUME = b"V"
USER = b"u"
GROUP = b"G"
TOKEN = b"k"
INODE = b"I"
ENTRY = b"E"
LINK = b"H"
XATTR = b"X"
PIECE = b"D"
ORPHAN = b"O"
STATISTICS = b"N"
ROW = b"T"
TOPIC = b"t"
PARTITION = b"P"
BATCH = b"S"
PRODUCER = b"Q"
GROUP_OFFSET = b"g"
SEGMENT = b"Z"
REFERENCE = b"Y"
REPLY = b"R"
CHANGE = b"C"
AUDIT_CURSOR = b"a"
QUOTA = b"L"
SNAPSHOT = b"s"
DEAD_SEGMENT = b"z"
MIRROR = b"m"
MIRRORED = b"x"
CLUSTER = b"c"
PUBLICATION = b"p"
GATHER = b"w"

TOKENS = TOKEN + b"token/"
SIGNING_KEYS = TOKEN + b"key/"

STATE_KEY = META + b"state"
SETTINGS_KEY = META + b"settings"
MIRROR_CURSOR_KEY = MIRROR + b"cursor"
MIRROR_COPY_KEY = MIRROR + b"copy"

_Q = Struct(">cQ")
_QQ = Struct(">cQQ")
_QII = Struct(">cQII")
_QIIQ = Struct(">cQIIQ")
_II = Struct(">II")
_U64 = Struct(">Q")
_U32 = Struct(">I")


def after_prefix(prefix: bytes) -> bytes:
    """The end of the half-open range of all keys that start with `prefix`."""
    stripped = prefix.rstrip(b"\xff")
    assert stripped, "no key follows this prefix"
    return stripped[:-1] + bytes([stripped[-1] + 1])


def prefix_range(prefix: bytes) -> tuple[bytes, bytes]:
    return prefix, after_prefix(prefix)


def volume(volume_id: int) -> bytes:
    return _Q.pack(VOLUME, volume_id)


def user(name: str) -> bytes:
    return USER + name.encode()


def group(name: str) -> bytes:
    return GROUP + name.encode()


def token(token_id: str) -> bytes:
    return TOKENS + token_id.encode()


def signing_key(key_id: str) -> bytes:
    return SIGNING_KEYS + key_id.encode()


def inode(number: int) -> bytes:
    return _Q.pack(INODE, number)


def entry(directory: int, name: bytes) -> bytes:
    return _Q.pack(ENTRY, directory) + name


def entries(directory: int) -> bytes:
    return _Q.pack(ENTRY, directory)


def link(number: int, directory: int, name: bytes) -> bytes:
    return _QQ.pack(LINK, number, directory) + name


def links(number: int) -> bytes:
    return _Q.pack(LINK, number)


def xattr(number: int, name: bytes) -> bytes:
    return _Q.pack(XATTR, number) + name


def xattrs(number: int) -> bytes:
    return _Q.pack(XATTR, number)


def piece(number: int, offset: int) -> bytes:
    return _QQ.pack(PIECE, number, offset)


def pieces(number: int) -> bytes:
    return _Q.pack(PIECE, number)


def orphan(number: int) -> bytes:
    return _Q.pack(ORPHAN, number)


def statistics(number: int) -> bytes:
    return _Q.pack(STATISTICS, number)


def row(table: int, key: bytes) -> bytes:
    return _Q.pack(ROW, table) + key


def rows(table: int) -> bytes:
    return _Q.pack(ROW, table)


def topic(stream: int, name: bytes) -> bytes:
    return _Q.pack(TOPIC, stream) + name


def topics(stream: int) -> bytes:
    return _Q.pack(TOPIC, stream)


def partition(stream: int, topic_id: int, number: int) -> bytes:
    return _QII.pack(PARTITION, stream, topic_id, number)


def partitions(stream: int) -> bytes:
    return _Q.pack(PARTITION, stream)


def batch(stream: int, topic_id: int, number: int, base_offset: int) -> bytes:
    return _QIIQ.pack(BATCH, stream, topic_id, number, base_offset)


def batches(stream: int, topic_id: int, number: int) -> bytes:
    return _QII.pack(BATCH, stream, topic_id, number)


def producer(stream: int, topic_id: int, number: int, producer_id: int) -> bytes:
    return _QIIQ.pack(PRODUCER, stream, topic_id, number, producer_id)


def producers(stream: int, topic_id: int, number: int) -> bytes:
    return _QII.pack(PRODUCER, stream, topic_id, number)


def group_offset(stream: int, group: bytes, topic_id: int, number: int) -> bytes:
    return _Q.pack(GROUP_OFFSET, stream) + group + b"\x00" + _II.pack(topic_id, number)


def group_offsets(stream: int, group: bytes | None = None) -> bytes:
    prefix = _Q.pack(GROUP_OFFSET, stream)
    return prefix if group is None else prefix + group + b"\x00"


def segment(number: int) -> bytes:
    return _Q.pack(SEGMENT, number)


def reference(segment_number: int, key: bytes) -> bytes:
    return _Q.pack(REFERENCE, segment_number) + key


def references(segment_number: int) -> bytes:
    return _Q.pack(REFERENCE, segment_number)


def reply(session: bytes, slot: int) -> bytes:
    return REPLY + session + _U32.pack(slot)


def replies(session: bytes) -> bytes:
    return REPLY + session


def change(commit: int) -> bytes:
    return _Q.pack(CHANGE, commit)


def audit_cursor(volume_id: int) -> bytes:
    return _Q.pack(AUDIT_CURSOR, volume_id)


def quota(directory: int) -> bytes:
    return _Q.pack(QUOTA, directory)


def snapshot(volume_id: int, name: str) -> bytes:
    return _Q.pack(SNAPSHOT, volume_id) + name.encode()


def snapshots(volume_id: int) -> bytes:
    return _Q.pack(SNAPSHOT, volume_id)


def dead_segment(number: int) -> bytes:
    return _Q.pack(DEAD_SEGMENT, number)


def mirrored(key: bytes) -> bytes:
    return MIRRORED + key


def cluster(name: str) -> bytes:
    """Without a name: of the record that holds the highest slot that a cluster ever had."""
    return CLUSTER + name.encode()


def publication(name: str) -> bytes:
    return PUBLICATION + name.encode()


def gather(name: str) -> bytes:
    return GATHER + name.encode()


def gather_cursor(name: str, source: str) -> bytes:
    return GATHER + name.encode() + b"\x00" + source.encode()


def gather_cursors(name: str) -> bytes:
    return GATHER + name.encode() + b"\x00"


def number_of(key: bytes) -> int:
    """The first integer of a key: inode, segment, commit, volume."""
    return int(_U64.unpack_from(key, 1)[0])


def last_number_of(key: bytes) -> int:
    """The last eight bytes: a piece's offset, a batch's base offset, a producer."""
    return int(_U64.unpack_from(key, len(key) - 8)[0])


def name_of(key: bytes) -> bytes:
    """What stands after the first integer: a name, a row key."""
    return key[9:]


def topic_and_partition_of(key: bytes) -> tuple[int, int]:
    """Of a partition, batch or producer key."""
    topic_id, number = _II.unpack_from(key, 9)
    return int(topic_id), int(number)
