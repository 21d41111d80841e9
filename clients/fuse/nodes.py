"""What the mount knows of nodes: a cache, exact for as long as the server promised to tell.

A node's number, which the kernel knows it by, is made of its volume and inode: nothing has to be
remembered for it, so a mount process that takes over from another understands the kernel at once,
and a node may be forgotten at any time. Views (rows, topics, partitions) have numbers of their own,
with the highest bit set, which mean nothing to a successor: the kernel looks them up each time.

Invariants: `known` (attributes) and `entries` (names of a directory) are only believed while
`promised`. A name in `entries` means a number, or 0 for "there is no such name"; `complete` says
that a name which is not in there does not exist.
"""

from __future__ import annotations

import itertools
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from dataplatform.api import platform_pb2 as pb

if TYPE_CHECKING:
    from .views.base import ViewNode
    from .writing import Writing

ROOT_NUMBER = 1
ROOT_VOLUME = 1
INODE_BITS = 44
INODE_MASK = (1 << INODE_BITS) - 1
VIEW_BIT = 1 << 62
"""Numbers stay below 2^63: some programs take them for signed."""

NODES_MAX = 40_000
"""Nodes in memory, some 600 bytes each; those in use are kept whatever their number."""

NAMES_MAX = 100_000
"""Names in the directories' maps, all together: some 120 bytes each."""

ALL_VERBS = 1023
"""As bits: those of `core/access/verbs.py`."""

SNAPSHOT_NAME = b".snapshot"

_SNAPSHOTS_BIT = 1 << 43
"""On the wire: of the inode that stands for `.snapshot` in a directory."""

NEAR_VOLUMES = 1 << 16
"""Volumes from this number on have another one within this mount."""

FAR_BIT = 1 << 60
"""Of the number of something in such a volume."""

Key = tuple[int, int]
"""(volume, inode)."""

_TYPES: dict[int, int] = {
    pb.FILE: stat.S_IFREG,
    pb.DIRECTORY: stat.S_IFDIR,
    pb.SYMLINK: stat.S_IFLNK,
    pb.TABLE: stat.S_IFDIR,
    pb.STREAM: stat.S_IFDIR,
    pb.FIFO: stat.S_IFIFO,
    pb.SOCKET: stat.S_IFSOCK,
    pb.CHARACTER_DEVICE: stat.S_IFCHR,
    pb.BLOCK_DEVICE: stat.S_IFBLK,
}
"""What a kind looks like from outside."""

KIND_WORDS = {number: name.lower() for name, number in pb.Kind.items() if number}


_turns = itertools.count(1)
"""Turns are never used again: a node that was forgotten and comes back has new ones."""


def type_bits(kind: int) -> int:
    """S_IFMT bits of a kind."""
    return _TYPES.get(kind, stat.S_IFREG)


class Content(NamedTuple):
    """A name for the bytes of a file that no other bytes of it ever have: the commit that left them
    so, the time of their last change, and how many they are."""

    version: int
    mtime_ns: int
    size: int


class Node:
    """A file, directory, symbolic link or special node; or a table or stream, seen as a view."""

    __slots__ = (
        "_content",
        "atime_ns",
        "changed_turn",
        "complete",
        "ctime_ns",
        "data_turn",
        "entries",
        "gid",
        "governed",
        "governed_turn",
        "held",
        "inode",
        "invalidating",
        "is_ours",
        "is_snapshot",
        "key",
        "kind",
        "known",
        "links",
        "mode",
        "mtime_ns",
        "names_turn",
        "number",
        "opens",
        "packed",
        "pages_kept",
        "promised",
        "rdev",
        "scattered_s",
        "size",
        "symlink",
        "trust_turn",
        "uid",
        "used_bytes",
        "version",
        "view",
        "volume",
        "writing",
        "written_s",
        "xattrs",
    )

    def __init__(self, number: int, volume: int, inode: int) -> None:
        self.number = number
        self.volume = volume
        self.inode = inode
        self.key = (volume, inode)
        self.kind = 0
        self.promised = False  # the server tells before anything of it changes
        self.known = False  # the attributes below are what the server would say
        self.mode = 0
        self.uid = 0
        self.gid = 0
        self.governed = 0  # verbs that the server has to be asked about: see `rights`
        self.governed_turn = -1  # of `rights`, at which that was so
        self.links = 0
        self.size = 0
        self.used_bytes = 0
        self.rdev = 0
        self.atime_ns = 0
        self.mtime_ns = 0
        self.ctime_ns = 0
        self.symlink = ""
        self.version = 0
        self.data_turn = next(_turns)  # moves whenever the bytes change
        self.changed_turn = 0  # of `calls`, at which a change of ours was last answered
        self._content: tuple[int, Content] | None = None  # and the data_turn that it is of
        self.trust_turn = self.data_turn  # the same, but for writes of ours
        self.scattered_s = 0.0  # until then small reads ask the server (the loop's time)
        self.written_s = 0.0  # when we wrote last (the loop's time)
        self.xattrs: dict[str, bytes] | None = None  # all of them, if that is known
        self.packed: bytes | None = None  # the attributes as the door packs them
        self.entries: dict[bytes, int] | None = None
        self.complete = False
        self.names_turn = 0  # moves whenever names come or go through this mount
        self.opens = 0  # open handles here
        self.held = False  # opened for our session at the server: its last name may go
        self.is_snapshot = False  # it is in a snapshot: nothing of it ever changes
        self.is_ours = False  # created by this process: who has it open is known here
        self.invalidating = 0  # the kernel's pages of it are being dropped
        self.pages_kept = False  # what the kernel has of its pages came under this promise
        self.writing: Writing | None = None
        self.view: ViewNode | None = None

    @property
    def is_used(self) -> bool:
        return bool(self.opens or self.held or (self.writing and self.writing.is_busy))

    @property
    def asked(self) -> int:
        """Verbs that the server is asked about: in a snapshot all, for it depends on what holds
        today, which the kernel knows nothing of."""
        return ALL_VERBS if self.is_snapshot else self.governed

    @property
    def is_directory(self) -> bool:
        return self.kind == pb.DIRECTORY

    @property
    def content(self) -> Content | None:
        """What the bytes are right now, if that is known."""
        known = self._content
        return known[1] if known is not None and known[0] == self.data_turn else None

    @content.setter
    def content(self, content: Content) -> None:
        self._content = self.data_turn, content

    def open_pages(self) -> bool:
        """Whether the kernel may keep its pages when the file is opened now. If not it drops them,
        and those that come then are of the promise that there is."""
        keeps = self.promised and self.pages_kept and not self.invalidating
        self.pages_kept = self.promised
        return keeps

    def take(self, message: pb.Node) -> None:
        """The attributes as the server has just said them."""
        self.kind = message.kind
        self.mode = message.mode
        self.uid = message.uid
        self.gid = message.gid
        self.links = message.links
        self.size = message.size
        self.used_bytes = message.used_bytes
        self.rdev = message.rdev
        self.atime_ns = message.atime_ns
        self.mtime_ns = message.mtime_ns
        self.ctime_ns = message.ctime_ns
        self.symlink = message.symlink
        self.version = message.version
        self.is_snapshot = message.snapshot
        self.packed = None
        self.known = True

    def moved(self) -> None:
        """The bytes may be others by now."""
        self.data_turn = self.trust_turn = next(_turns)

    def wrote(self) -> None:
        """A write of ours changed some bytes."""
        self.data_turn = next(_turns)

    def distrust(self) -> None:
        """Nothing that was remembered may be believed any more."""
        self.promised = False
        self.pages_kept = False
        self.known = False
        self.entries = None
        self.complete = False
        self.xattrs = None
        self.moved()
        self.packed = None


class FarVolumes:
    """Numbers for volumes whose own are too large: late ones, snapshots (which are numbered like
    volumes), and those of other clusters. They are given in the order in which the volumes are met;
    `known` and `remember` are the memory that a successor shares."""

    def __init__(
        self, known: Iterable[int] = (), remember: Callable[[int, int], None] | None = None
    ) -> None:
        self._volumes = list(known)
        self._places = {volume: place for place, volume in enumerate(self._volumes)}
        self._remember = remember

    def place_of(self, volume: int) -> int:
        place = self._places.get(volume)
        if place is None:
            place = len(self._volumes)
            if self._remember is not None:
                self._remember(place, volume)
            self._places[volume] = place
            self._volumes.append(volume)
        return place

    def at(self, place: int) -> int:
        """0, which is no volume, for one that nobody knows."""
        return self._volumes[place] if place < len(self._volumes) else 0


class Nodes:
    """The nodes in memory, by number; the least recently made go first when there are too many."""

    def __init__(self, root: Key, far: FarVolumes | None = None) -> None:
        self.root = root
        self._far = far if far is not None else FarVolumes()
        self._nodes: dict[int, Node] = {}
        self._names = 0
        self._view_numbers = 0
        self.let_go: Callable[[Node], None] = lambda node: None
        """Of what is held, once the kernel has forgotten it."""

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(list(self._nodes.values()))

    def number_of(self, key: Key) -> int:
        volume, inode = key
        if key == self.root:
            return ROOT_NUMBER
        if volume >= NEAR_VOLUMES:
            return FAR_BIT | self._far.place_of(volume) << INODE_BITS | inode
        number = (volume - ROOT_VOLUME) << INODE_BITS | inode
        # What has the root's number here is the platform's own root; below another one it is
        # never met.
        return number if number != ROOT_NUMBER else VIEW_BIT - 1

    def key_of(self, number: int) -> Key:
        if number == ROOT_NUMBER:
            return self.root
        if number == VIEW_BIT - 1:
            number = ROOT_NUMBER
        if number & FAR_BIT:
            place = (number ^ FAR_BIT) >> INODE_BITS
            return self._far.at(place), number & INODE_MASK
        return (number >> INODE_BITS) + ROOT_VOLUME, number & INODE_MASK

    def find(self, number: int) -> Node | None:
        return self._nodes.get(number)

    def get(self, number: int) -> Node:
        """The node, made if it is not in memory: then nothing of it is known yet."""
        node = self._nodes.get(number)
        if node is None:
            node = self._add(Node(number, *self.key_of(number)))
        return node

    def of(self, message: pb.Node) -> Node:
        """The node that a message is about; what the message says is not taken yet."""
        return self.get(self.number_of((message.volume, message.inode)))

    def snapshots_of(self, directory: Node) -> Node:
        """`.snapshot` in a directory."""
        return self.get(self.number_of((directory.volume, directory.inode | _SNAPSHOTS_BIT)))

    def add_view(self, view: ViewNode, volume: int) -> Node:
        """A number for something below a table or stream."""
        self._view_numbers += 1
        node = Node(VIEW_BIT | self._view_numbers, volume, 0)
        node.view = view
        return self._add(node)

    def _add(self, node: Node) -> Node:
        if len(self._nodes) >= NODES_MAX:
            self._make_room()
        self._nodes[node.number] = node
        return node

    def _make_room(self) -> None:
        """Let go of some of the oldest; those in use become the youngest."""
        for node in list(self._nodes.values())[: NODES_MAX // 20]:
            del self._nodes[node.number]
            if node.is_used or node.number == ROOT_NUMBER:
                self._nodes[node.number] = node
            else:
                self.forget_names(node)

    def forget(self, number: int) -> None:
        """The kernel has let go of it. What the server promised to tell of may be asked for again
        soon: it stays until there is no room."""
        node = self._nodes.get(number)
        if node is None or number == ROOT_NUMBER:
            return
        if node.held and not node.opens:
            self.let_go(node)
        if node.is_used:
            return
        if number & VIEW_BIT or not (node.promised and node.known):
            self.forget_names(node)
            del self._nodes[number]

    # ---- names

    def name(self, directory: Node, name: bytes, number: int) -> None:
        """The directory is known to have this name (0: not to have it)."""
        if not directory.promised:
            return
        if self._names >= NAMES_MAX:
            self._forget_some_names(directory)
        entries = directory.entries
        if entries is None:
            entries = directory.entries = {}
        if name not in entries:
            self._names += 1
        entries[name] = number

    def doubt(self, directory: Node, names: Iterable[bytes]) -> None:
        """These names of the directory may stand for something else by now; all others do not."""
        directory.known = False
        directory.packed = None
        directory.xattrs = None
        directory.names_turn += 1
        entries = directory.entries
        if entries is None:
            return
        for name in names:
            directory.complete = False
            if entries.pop(name, None) is not None:
                self._names -= 1

    def unname(self, directory: Node, name: bytes) -> None:
        """The directory is known not to have this name any more."""
        if directory.entries is None:
            return
        if directory.complete:
            if directory.entries.pop(name, None) is not None:
                self._names -= 1
        elif name in directory.entries:
            directory.entries[name] = 0

    def forget_names(self, directory: Node) -> None:
        if directory.entries is not None:
            self._names -= len(directory.entries)
        directory.entries = None
        directory.complete = False

    def _forget_some_names(self, spared: Node) -> None:
        for node in self._nodes.values():
            if node.entries and node is not spared:
                self.forget_names(node)
                if self._names < NAMES_MAX // 2:
                    return
        self.forget_names(spared)

    def distrust(self, node: Node) -> None:
        self.forget_names(node)
        node.distrust()
