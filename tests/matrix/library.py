"""Every public operation of the Python library, as something to be asked of a cell.

A name that the library has and that is neither in `OPERATIONS` nor in `LOCAL` fails the matrix. The
same operations are asked of `dataplatform.Client` and of `dataplatform.aio.Client`.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from enum import Enum
from typing import Any, NamedTuple

import dataplatform
from dataplatform import aio
from dataplatform.client import values
from dataplatform.client.access import Access
from dataplatform.client.modes import Mode
from dataplatform.client.sync.access import Access as BlockingAccess

from .cells import STAFF_GID

Ask = Callable[[Any, str], Any]
"""Of a client, or what was opened of it, and the directory of a cell."""


class Operation(NamedTuple):
    about: str  # as in requests.py
    ask: Ask
    opened: tuple[Ask, ...] = ()  # what it is asked of: of the client, then of each other
    changes: bool = False
    is_sure: bool = True


def reads(ask: Ask, *opened: Ask, about: str = "things", **more: Any) -> Operation:
    return Operation(about, ask, opened, **more)


def changes(ask: Ask, *opened: Ask, about: str = "things", **more: Any) -> Operation:
    return Operation(about, ask, opened, changes=True, **more)


def reach(ask: Ask, *opened: Ask, **more: Any) -> Operation:
    return Operation("reach", ask, opened, **more)


def admins(ask: Ask, **more: Any) -> Operation:
    return Operation("admins", ask, changes=True, **more)


def anybody(ask: Ask) -> Operation:
    return Operation("anybody", ask)


def _acl(c: Any, p: str) -> Any:
    return c.acl


def _table(c: Any, p: str) -> Any:
    return c.table(f"{p}/t")


def _stream(c: Any, p: str) -> Any:
    return c.stream(f"{p}/s")


def _producer(s: Any, p: str) -> Any:
    return s.producer(linger_s=0)


def _delivery(s: Any, p: str) -> Any:
    return s.send("a", b"x")


def _consumer(s: Any, p: str) -> Any:
    return s.consumer("a", follow=False)


def _member(s: Any, p: str) -> Any:
    return s.consumer("a", "members", follow=False)


def _to_read(c: Any, p: str) -> Any:
    return c.open(f"{p}/f", "rb")


def _to_write(c: Any, p: str) -> Any:
    return c.open(f"{p}/f", "r+b")


def _transaction(c: Any, p: str) -> Any:
    return c.transaction(p)


def _its_table(t: Any, p: str) -> Any:
    return t.table("t")


def _its_stream(t: Any, p: str) -> Any:
    return t.stream("s")


IN_TABLE = (_transaction, _its_table)
IN_STREAM = (_transaction, _its_stream)
PRODUCER = (_stream, _producer)
CONSUMER = (_stream, _consumer)
MEMBER = (_stream, _member)

OPERATIONS: dict[str, Operation] = {
    # ---- names and attributes
    "Client.chmod": changes(lambda c, p: c.chmod(f"{p}/f", 0o640)),
    "Client.chown": changes(lambda c, p: c.chown(f"{p}/f", gid=STAFF_GID)),
    "Client.copy": changes(lambda c, p: c.copy(f"{p}/f", f"{p}/d/new")),
    "Client.exists": reach(lambda c, p: c.exists(f"{p}/f")),
    "Client.getxattr": reads(lambda c, p: c.getxattr(f"{p}/f", "user.x")),
    "Client.link": changes(lambda c, p: c.link(f"{p}/f", f"{p}/d/new")),
    "Client.listdir": reads(lambda c, p: c.listdir(f"{p}/d")),
    "Client.listxattr": reach(lambda c, p: c.listxattr(f"{p}/f")),
    "Client.lstat": reach(lambda c, p: c.lstat(f"{p}/f")),
    "Client.mkdir": changes(lambda c, p: c.mkdir(f"{p}/d/new")),
    "Client.readlink": reach(lambda c, p: c.readlink(f"{p}/l")),
    "Client.remove": changes(lambda c, p: c.remove(f"{p}/d/old")),
    "Client.removexattr": changes(lambda c, p: c.removexattr(f"{p}/f", "user.x")),
    "Client.rename": changes(lambda c, p: c.rename(f"{p}/d/old", f"{p}/d/new")),
    "Client.rmdir": changes(lambda c, p: c.rmdir(f"{p}/d/empty")),
    "Client.rmtree": changes(lambda c, p: c.rmtree(f"{p}/d")),
    "Client.scandir": reads(lambda c, p: c.scandir(f"{p}/d")),
    "Client.setxattr": changes(lambda c, p: c.setxattr(f"{p}/f", "user.y", b"v")),
    "Client.stat": reach(lambda c, p: c.stat(f"{p}/f")),
    "Client.symlink": changes(lambda c, p: c.symlink("f", f"{p}/d/new")),
    "Client.truncate": changes(lambda c, p: c.truncate(f"{p}/f", 1)),
    "Client.unlink": changes(lambda c, p: c.unlink(f"{p}/d/old")),
    "Client.usage": reach(lambda c, p: c.usage(f"{p}/f")),
    "Client.utime": changes(lambda c, p: c.utime(f"{p}/f", (1, 1))),
    "Client.walk": reads(lambda c, p: c.walk(f"{p}/d")),
    "Client.changes": reach(lambda c, p: c.changes(f"{p}/d")),
    "Client.publish_changes": changes(lambda c, p: c.publish_changes(f"{p}/d", f"{p}/s", "feed")),
    "Client.unpublish_changes": changes(
        lambda c, p: c.unpublish_changes(f"{p}/s", "none"), is_sure=False
    ),
    "Client.publications": anybody(lambda c, p: c.publications()),
    # ---- files
    "Client.open": reads(_to_read),
    "Client.open_handle": reads(lambda c, p: c.open_handle(f"{p}/f", Mode.parse("rb"))),
    "Client.read_file": reads(lambda c, p: c.read_file(f"{p}/f")),
    "Client.write_file": changes(lambda c, p: c.write_file(f"{p}/d/new", b"x")),
    "Client.sync": anybody(lambda c, p: c.sync()),
    "File.read": reads(lambda f, p: f.read(1), _to_read),
    "File.read1": reads(lambda f, p: f.read1(1), _to_read),
    "File.read_some": reads(lambda f, p: f.read_some(1), _to_read),
    "File.readall": reads(lambda f, p: f.readall(), _to_read),
    "File.readinto": reads(lambda f, p: f.readinto(memoryview(bytearray(1))), _to_read),
    "File.readinto1": reads(lambda f, p: f.readinto1(bytearray(1)), _to_read),
    "File.readline": reads(lambda f, p: f.readline(), _to_read),
    "File.readlines": reads(lambda f, p: f.readlines(), _to_read),
    "File.peek": reads(lambda f, p: f.peek(1), _to_read),
    "File.pread": reads(lambda f, p: f.pread(1, 0), _to_read),
    "File.seek": reads(lambda f, p: f.seek(0, 2), _to_read),
    "File.tell": reads(lambda f, p: f.tell(), _to_read),
    "File.stat": reads(lambda f, p: f.stat(), _to_read),
    "File.close": reads(lambda f, p: f.close(), _to_read),
    "File.write": changes(lambda f, p: f.write(b"x"), _to_write),
    "File.writelines": changes(lambda f, p: f.writelines([b"x"]), _to_write),
    "File.pwrite": changes(lambda f, p: f.pwrite(b"x", 0), _to_write),
    "File.flush": changes(lambda f, p: f.flush(), _to_write),
    "File.sync": changes(lambda f, p: f.sync(), _to_write),
    "File.truncate": changes(lambda f, p: f.truncate(1), _to_write),
    # ---- tables
    "Client.create_table": changes(lambda c, p: c.create_table(f"{p}/d/new")),
    "Client.table": reach(_table),
    "Table.delete": changes(lambda t, p: t.delete("k"), _table),
    "Table.get": reads(lambda t, p: t.get("k"), _table),
    "Table.get_many": reads(lambda t, p: t.get_many(["k"]), _table),
    "Table.increment": changes(lambda t, p: t.increment("k", "n"), _table),
    "Table.info": reach(lambda t, p: t.info(), _table),
    "Table.load": changes(
        lambda t, p: t.load(io.BytesIO(b"k,n\na,1\n"), "k", format="csv"), _table
    ),
    "Table.put": changes(lambda t, p: t.put("k", {"n": 1}), _table),
    "Table.put_many": changes(lambda t, p: t.put_many({"k": {"n": 1}}), _table),
    "Table.scan": reads(lambda t, p: t.scan(), _table),
    "Table.scan_pages": reads(lambda t, p: t.scan_pages(), _table),
    "Table.to_arrow": reads(lambda t, p: t.to_arrow(), _table),
    # ---- streams
    "Client.create_stream": changes(lambda c, p: c.create_stream(f"{p}/d/new")),
    "Client.stream": reach(_stream),
    "Stream.append": changes(lambda s, p: s.append("a", b"x"), _stream),
    "Stream.commit_offsets": changes(lambda s, p: s.commit_offsets("g", "a", {0: 0}), _stream),
    "Stream.consumer": reads(_consumer, _stream),
    "Stream.create_topic": changes(lambda s, p: s.create_topic("b"), _stream),
    "Stream.delete_group": changes(lambda s, p: s.delete_group("g"), _stream),
    "Stream.delete_topic": changes(lambda s, p: s.delete_topic("a"), _stream),
    "Stream.group": reads(lambda s, p: s.group("g"), _stream),
    "Stream.groups": reads(lambda s, p: s.groups(), _stream),
    "Stream.info": reads(lambda s, p: s.info(), _stream),
    "Stream.offsets": reads(lambda s, p: s.offsets("a"), _stream),
    "Stream.producer": changes(_producer, _stream),
    "Stream.topic": reads(lambda s, p: s.topic("a"), _stream),
    "Stream.topics": reads(lambda s, p: s.topics(), _stream),
    "Producer.send": changes(_delivery, *PRODUCER),
    "Producer.send_many": changes(lambda x, p: x.send_many("a", [b"x"]), *PRODUCER),
    "Producer.flush": changes(lambda x, p: x.flush(), *PRODUCER),
    "Producer.close": changes(lambda x, p: x.close(), *PRODUCER),
    "Delivery.result": changes(lambda d, p: d.result(10), *PRODUCER, _delivery),
    "Consumer.poll": reads(lambda x, p: x.poll(0), *CONSUMER),
    "Consumer.position": reads(lambda x, p: x.position("a", 0), *CONSUMER),
    "Consumer.seek": reads(lambda x, p: x.seek("a", 0, "latest"), *CONSUMER),
    "Consumer.close": reads(lambda x, p: x.close(), *CONSUMER),
    "Consumer.commit": changes(lambda x, p: x.commit(), *MEMBER),
    # ---- transactions
    "Transaction.expect": reach(lambda t, p: t.expect("f", 1), _transaction, is_sure=False),
    "Transaction.link": changes(lambda t, p: t.link("f", "d/new"), _transaction),
    "Transaction.mkdir": changes(lambda t, p: t.mkdir("d/new"), _transaction),
    "Transaction.remove": changes(lambda t, p: t.remove("d/old"), _transaction),
    "Transaction.rename": changes(lambda t, p: t.rename("d/old", "d/new"), _transaction),
    "Transaction.symlink": changes(lambda t, p: t.symlink("f", "d/new"), _transaction),
    "Transaction.write_file": changes(lambda t, p: t.write_file("d/new", b"x"), _transaction),
    "TransactionTable.delete": changes(lambda t, p: t.delete("k"), *IN_TABLE),
    "TransactionTable.expect": reads(lambda t, p: t.expect("k", 1), *IN_TABLE, is_sure=False),
    "TransactionTable.get": reads(lambda t, p: t.get("k"), *IN_TABLE),
    "TransactionTable.increment": changes(lambda t, p: t.increment("k", "n"), *IN_TABLE),
    "TransactionTable.put": changes(lambda t, p: t.put("k", {"n": 2}), *IN_TABLE),
    "TransactionStream.append": changes(lambda s, p: s.append("a", b"x"), *IN_STREAM),
    "TransactionStream.commit_offset": changes(
        lambda s, p: s.commit_offset("g", "a", 0, 0), *IN_STREAM
    ),
    # ---- rules, volumes, quotas
    "Access.check": reach(lambda a, p: a.check(f"{p}/f"), _acl),
    "Access.copy": changes(lambda a, p: a.copy(f"{p}/g", f"{p}/f"), _acl),
    "Access.get": reach(lambda a, p: a.get(f"{p}/f"), _acl),
    "Access.set": changes(lambda a, p: a.set(f"{p}/f", read="u:ana"), _acl),
    "Client.create_volume": changes(lambda c, p: c.create_volume(f"{p}/d/vol")),
    "Client.remove_volume": changes(lambda c, p: c.remove_volume(f"{p}/v", recursive=True)),
    "Client.volume_info": reach(lambda c, p: c.volume_info(f"{p}/f")),
    "Client.volumes": anybody(lambda c, p: c.volumes()),
    "Client.set_volume": admins(lambda c, p: c.set_volume(f"{p}/v", quota_bytes=1 << 30)),
    "Client.create_snapshot": changes(lambda c, p: c.create_snapshot(f"{p}/v", "new")),
    "Client.snapshots": reach(lambda c, p: c.snapshots(f"{p}/v", sizes=True)),
    "Client.snapshot_info": reach(lambda c, p: c.snapshot_info(f"{p}/v", "old")),
    "Client.remove_snapshot": changes(lambda c, p: c.remove_snapshot(f"{p}/v", "old")),
    "Client.clone_snapshot": changes(lambda c, p: c.clone_snapshot(f"{p}/v", "old", f"{p}/d/new")),
    "Client.restore_snapshot": changes(lambda c, p: c.restore_snapshot(f"{p}/v", "old")),
    "Client.promote_clone": changes(lambda c, p: c.promote_clone(f"{p}/c/x")),
    "Client.set_snapshot_schedule": changes(
        lambda c, p: c.set_snapshot_schedule(f"{p}/v", every=timedelta(days=1), keep=7)
    ),
    "Client.remove_snapshot_schedule": changes(
        lambda c, p: c.remove_snapshot_schedule(f"{p}/v", "yearly")
    ),
    "Client.snapshot_schedules": reach(lambda c, p: c.snapshot_schedules(f"{p}/v")),
    "Client.lock_volume": admins(lambda c, p: c.lock_volume(f"{p}/v")),
    "Client.unlock_volume": admins(lambda c, p: c.unlock_volume(f"{p}/v")),
    "Client.rotate_volume_key": admins(lambda c, p: c.rotate_volume_key(f"{p}/v")),
    "Client.rotate_master_key": admins(lambda c, p: c.rotate_master_key()),
    "Client.quota": reach(lambda c, p: c.quota(f"{p}/d"), is_sure=False),
    "Client.quotas": reach(lambda c, p: c.quotas(f"{p}/d")),
    "Client.quotas_over": anybody(lambda c, p: c.quotas_over()),
    "Client.set_quota": admins(lambda c, p: c.set_quota(f"{p}/d", quota_bytes=1 << 30)),
    "Client.remove_quota": admins(lambda c, p: c.remove_quota(f"{p}/d")),
    # ---- the server, and who is who
    "Client.check": admins(lambda c, p: c.check(p)),
    "Client.ping": anybody(lambda c, p: c.ping()),
    "Client.status": anybody(lambda c, p: c.status()),
    "Client.whoami": anybody(lambda c, p: c.whoami()),
    "Client.create_user": admins(lambda c, p: c.create_user("new")),
    "Client.remove_user": admins(lambda c, p: c.remove_user("bob")),
    "Client.set_user": admins(lambda c, p: c.set_user("bob", add=["eng"])),
    "Client.users": admins(lambda c, p: c.users()),
    "Client.create_group": admins(lambda c, p: c.create_group("new")),
    "Client.remove_group": admins(lambda c, p: c.remove_group("eng")),
    "Client.set_group": admins(lambda c, p: c.set_group("eng", add=["bob"])),
    "Client.groups": admins(lambda c, p: c.groups()),
    "Client.create_token": admins(lambda c, p: c.create_token("bob")),
    "Client.revoke_tokens": admins(lambda c, p: c.revoke_tokens(user="bob")),
    "Client.gather": admins(lambda c, p: c.gather(f"{p}/s", "a", ["/east/s:a"])),
    "Client.gathers": admins(lambda c, p: c.gathers()),
    "Client.pause_gather": admins(lambda c, p: c.pause_gather(f"{p}/s", "a")),
    "Client.end_gather": admins(lambda c, p: c.end_gather(f"{p}/s", "a")),
    "Client.add_cluster": admins(lambda c, p: c.add_cluster("east", "dp://127.0.0.1:1")),
    "Client.set_cluster": admins(lambda c, p: c.set_cluster("east", access="p")),
    "Client.clusters": admins(lambda c, p: c.clusters()),
    "Client.remove_cluster": admins(lambda c, p: c.remove_cluster("east")),
    "Client.create_mirror": admins(
        lambda c, p: c.create_mirror(f"{p}/d/new", "dp://127.0.0.1:1/v"), is_sure=False
    ),
    "Client.mirrors": anybody(lambda c, p: c.mirrors()),
    "Client.mirror_info": reach(lambda c, p: c.mirror_info(f"{p}/f"), is_sure=False),
    "Client.set_mirror": admins(lambda c, p: c.set_mirror(f"{p}/v", bandwidth=0), is_sure=False),
    "Client.pause_mirror": admins(lambda c, p: c.pause_mirror(f"{p}/v"), is_sure=False),
    "Client.resume_mirror": admins(lambda c, p: c.resume_mirror(f"{p}/v"), is_sure=False),
    "Client.promote_mirror": admins(lambda c, p: c.promote_mirror(f"{p}/v"), is_sure=False),
    "Client.remove_mirror": admins(lambda c, p: c.remove_mirror(f"{p}/v"), is_sure=False),
    "Client.tokens": Operation("own", lambda c, p: c.tokens()),
}

LOCAL = {
    "Client.acl": "its methods are in the matrix",
    "Client.address": "known here",
    "Client.as_of_ns": "known here",
    "Client.channel": "what the methods go through",
    "Client.close": "ends the connection",
    "Client.transaction": "nothing is asked before the end: its methods are in the matrix",
    "Consumer.assignment": "known here",
    "Consumer.begin": "what `Stream.consumer` does",
    "Consumer.chunks": "what iterating does, which polls",
    "Consumer.is_ended": "known here",
    "Consumer.join": "what `Stream.consumer` does",
    "Consumer.records": "what iterating does, which polls",
    "Delivery.done": "known here",
    "File.closed": "known here",
    "File.fileno": "there is none",
    "File.isatty": "known here",
    "File.readable": "known here",
    "File.seekable": "known here",
    "File.writable": "known here",
    "Producer.abandon": "asks nothing",
    "Producer.begin": "what `Stream.producer` does",
    "Producer.end_with_program": "asks nothing",
    "Producer.put": "what `send` does",
    "Producer.sender": "what `send` is made of",
    "Producer.wait_for": "what `Delivery.result` does",
    "Stream.path": "known here",
    "Table.path": "known here",
    "Transaction.absolute": "asks nothing",
    "Transaction.add": "what its methods do",
    "Transaction.add_expect": "what its methods do",
    "Transaction.check_open": "asks nothing",
    "Transaction.commit": "ends every transaction of the matrix",
    "Transaction.commit_number": "known here",
    "Transaction.place_later": "what `append` does",
    "Transaction.stream": "its methods are in the matrix",
    "Transaction.table": "its methods are in the matrix",
}
"""What asks no server by itself, and why."""

SURFACES = {"library": dataplatform, "aio": aio}
ACCESS = {"library": BlockingAccess, "aio": Access}

_VALUES = frozenset(name for name, _ in inspect.getmembers(values, inspect.isclass))


def names(surface: str) -> set[str]:
    """Every public name of the classes of `dataplatform` or `dataplatform.aio` that do something:
    neither values nor errors."""
    module = SURFACES[surface]
    classes: dict[str, type] = {"Access": ACCESS[surface]}
    for name in module.__all__:
        found = getattr(module, name)
        if not inspect.isclass(found) or name in _VALUES or issubclass(found, Exception | Enum):
            continue
        classes[name] = found
    return {
        f"{name}.{member}"
        for name, found in classes.items()
        for member in dir(found)
        if not member.startswith("_")
    }


# ------------------------------------------------------------------------------------ asking

_CLOSED = (
    dataplatform.File
    | dataplatform.Producer
    | dataplatform.Consumer
    | aio.File
    | aio.Producer
    | aio.Consumer
)


def ask_blocking(client: dataplatform.Client, operation: Operation, path: str) -> None:
    """Raises what went wrong."""
    things: list[Any] = [client]
    with contextlib.ExitStack() as stack:
        for step in (*operation.opened, operation.ask):
            thing = step(things[-1], path)
            if isinstance(thing, dataplatform.Transaction | _CLOSED):
                stack.enter_context(thing)
            elif isinstance(thing, Iterator):
                list(thing)
            things.append(thing)


async def ask_async(client: aio.Client, operation: Operation, path: str) -> None:
    """Raises what went wrong."""
    things: list[Any] = [client]
    async with contextlib.AsyncExitStack() as stack:
        for step in (*operation.opened, operation.ask):
            thing = step(things[-1], path)
            if inspect.isawaitable(thing):
                thing = await thing
            if inspect.isasyncgen(thing):
                async for _ in thing:
                    pass
            elif isinstance(thing, aio.Transaction | _CLOSED):
                await stack.enter_async_context(thing)
            things.append(thing)


class Blocking:
    """`dataplatform.Client`, in a thread of its own."""

    name = "library"

    def __init__(self, address: str) -> None:
        self._address = address
        self._clients: dict[str, dataplatform.Client] = {}
        self._thread = ThreadPoolExecutor(1)

    async def ask(self, token: str, operation: Operation, path: str) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._ask, token, operation, path)

    def _ask(self, token: str, operation: Operation, path: str) -> None:
        client = self._clients.get(token)
        if client is None:
            client = self._clients[token] = dataplatform.connect(self._address, token)
        ask_blocking(client, operation, path)

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        for client in self._clients.values():
            await loop.run_in_executor(self._thread, client.close)
        self._thread.shutdown()


class Async:
    """`dataplatform.aio.Client`."""

    name = "aio"

    def __init__(self, address: str) -> None:
        self._address = address
        self._clients: dict[str, aio.Client] = {}

    async def ask(self, token: str, operation: Operation, path: str) -> None:
        client = self._clients.get(token)
        if client is None:
            client = self._clients[token] = await aio.connect(self._address, token)
        await ask_async(client, operation, path)

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()
