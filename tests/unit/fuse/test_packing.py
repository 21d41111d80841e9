"""The kernel's layouts: sizes as in <linux/fuse.h>, bytes as in a hand-made reply."""

from __future__ import annotations

import struct

import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform_clients.fuse.door import kernel, packing
from dataplatform_clients.fuse.listings import Item
from dataplatform_clients.fuse.nodes import Node

SIZES = {
    # fuse_in_header, fuse_out_header, fuse_attr, fuse_entry_out, …: sizeof on any 64-bit machine
    "IN_HEADER": 40,
    "OUT_HEADER": 16,
    "INIT_IN": 16,  # as far as 7.35; then flags2 and 44 bytes unused
    "INIT_IN_FLAGS2": 4,
    "INIT_OUT": 64,
    "ATTRIBUTES": 88,
    "ENTRY_OUT": 40,  # then fuse_attr: 128 together
    "ATTRIBUTES_OUT": 16,  # then fuse_attr: 104 together
    "GETATTR_IN": 16,
    "SETATTR_IN": 88,
    "MKNOD_IN": 16,
    "MKDIR_IN": 8,
    "RENAME_IN": 8,
    "RENAME2_IN": 16,
    "LINK_IN": 8,
    "OPEN_IN": 8,
    "OPEN_OUT": 16,
    "CREATE_IN": 16,
    "READ_IN": 40,
    "WRITE_IN": 40,
    "WRITE_OUT": 8,
    "RELEASE_IN": 24,
    "FLUSH_IN": 24,
    "FSYNC_IN": 16,
    "SETXATTR_IN_BEFORE_33": 8,
    "SETXATTR_IN": 16,  # with FUSE_SETXATTR_EXT
    "GETXATTR_IN": 8,
    "GETXATTR_OUT": 8,
    "STATFS_OUT": 80,
    "INTERRUPT_IN": 8,
    "FORGET_ONE": 16,
    "BATCH_FORGET_IN": 8,
    "FALLOCATE_IN": 32,
    "LSEEK_IN": 24,
    "LSEEK_OUT": 8,
    "COPY_IN": 56,
    "DIRECTORY_ENTRY": 24,
    "INVAL_INODE_OUT": 24,
    "INVAL_ENTRY_OUT": 16,
}

OPCODES = {
    "lookup": 1,
    "forget": 2,
    "getattr": 3,
    "setattr": 4,
    "readlink": 5,
    "symlink": 6,
    "mknod": 8,
    "mkdir": 9,
    "unlink": 10,
    "rmdir": 11,
    "rename": 12,
    "link": 13,
    "open": 14,
    "read": 15,
    "write": 16,
    "statfs": 17,
    "release": 18,
    "fsync": 20,
    "setxattr": 21,
    "getxattr": 22,
    "listxattr": 23,
    "removexattr": 24,
    "flush": 25,
    "init": 26,
    "opendir": 27,
    "readdir": 28,
    "releasedir": 29,
    "fsyncdir": 30,
    "create": 35,
    "interrupt": 36,
    "destroy": 38,
    "batch_forget": 42,
    "fallocate": 43,
    "readdirplus": 44,
    "rename2": 45,
    "lseek": 46,
    "copy_file_range": 47,
    "syncfs": 50,
}


def test_every_layout_has_the_size_of_the_kernels() -> None:
    layouts = {name: s.size for name, s in vars(kernel).items() if isinstance(s, struct.Struct)}
    assert layouts == SIZES


def test_opcodes_have_their_numbers() -> None:
    assert {name: number for number, name in kernel.NAMES.items()} == OPCODES


def _node(**fields: int) -> Node:
    node = Node(0x1234, 1, 0x1234)
    node.kind, node.mode, node.links = pb.FILE, 0o4755, 2
    node.size, node.used_bytes = 5000, 5001
    node.uid, node.gid, node.rdev = 10, 20, 30
    node.atime_ns, node.mtime_ns, node.ctime_ns = 1_000_000_001, 2_000_000_002, 3_000_000_003
    for name, value in fields.items():
        setattr(node, name, value)
    return node


def test_attributes_are_where_the_kernel_looks() -> None:
    assert packing.attributes(_node()) == struct.pack(
        "<QQQqqqIIIIIIIIII",
        *(0x1234, 5000, 10),  # 10 sectors hold 5001 bytes
        *(1, 2, 3),
        *(1, 2, 3),
        *(0o104755, 2, 10, 20, 30, 4096, 0),
    )


def test_times_before_1970_have_positive_nanoseconds() -> None:
    packed = packing.attributes(_node(mtime_ns=-1))
    values = kernel.ATTRIBUTES.unpack(packed)
    assert (values[4], values[7]) == (-1, 999_999_999)


def test_attributes_are_packed_once_and_anew_after_a_change() -> None:
    node = _node()
    first = packing.attributes(node)
    assert packing.attributes(node) is first
    node.take(pb.Node(kind=pb.FILE, size=7))
    assert kernel.ATTRIBUTES.unpack(packing.attributes(node))[1] == 7


@pytest.mark.parametrize(("known", "promised"), [(True, True), (True, False), (False, True)])
def test_the_kernel_keeps_what_is_promised_only(known: bool, promised: bool) -> None:
    entry = packing.entry(_node(known=known, promised=promised), 77)
    number, generation, entry_s, attributes_s, _, _ = kernel.ENTRY_OUT.unpack_from(entry)
    assert (number, generation, entry_s) == (0x1234, 0, 77)
    assert attributes_s == (packing.VALID_S if known and promised else 0)
    assert len(entry) == 128
    assert entry[40:] == packing.attributes(_node())


def test_no_entry_is_an_entry_of_node_0() -> None:
    assert packing.no_entry(9) == struct.pack("<QQQQII", 0, 0, 9, 0, 0, 0) + bytes(88)


@pytest.mark.parametrize("plus", [False, True])
def test_a_page_of_names_as_the_kernel_reads_it(plus: bool) -> None:
    node = _node(known=1, promised=1)
    items = [Item(b"n" * length, length, 0o100000, node) for length in range(1, 256)]
    items[6] = items[6]._replace(node=None)
    for size in (0, 100, 4096, 100_000):
        page = packing.directory_page(items, 2, size, plus=plus, name_valid_s=5)
        assert len(page) <= size
        found = _parse(page, plus)
        assert found == [
            (item.number, 3 + index, item.name, 8) for index, item in enumerate(items[: len(found)])
        ]
        if len(found) < len(items):
            following = kernel.DIRECTORY_ENTRY.size + 128 * plus + len(items[len(found)].name)
            assert len(page) + -(-following // 8) * 8 > size


def _parse(page: bytes, plus: bool) -> list[tuple[int, int, bytes, int]]:
    """fuse_dirent, or fuse_direntplus: each padded to 8."""
    found = []
    at = 0
    while at < len(page):
        start = at
        if plus:
            number = struct.unpack_from("<Q", page, at)[0]
            assert number in (0, 0x1234)
            at += 128
        inode, position, length, kind = struct.unpack_from("<QQII", page, at)
        at += 24
        found.append((inode, position, page[at : at + length], kind))
        at = start + -(-(at + length - start) // 8) * 8
    assert at == len(page)
    return found
