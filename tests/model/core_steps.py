"""What a seed does: random calls of every kind, each with what the model makes of it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from dataplatform.base.errors import PlatformError
from dataplatform.core import group_offsets, streams
from dataplatform.core.namespace import Attributes
from dataplatform.keyspace.records import Kind

from .core_choices import GROUPS, KEYS, NAMES, TOPICS, Calls
from .core_model import Draft
from .core_paths import Found
from .core_state import INVALID, Refused
from .core_transactions import Transactions
from .core_walk import NEVER, Apply
from .platform_driver import assert_clean

KINDS = ["file", "directory", "symlink", "link", "table", "stream"]
NODES_MAX = 14
LOGGERS = ("dataplatform", "asyncio")
"""They tell of every write that was cut short, and of tasks that nobody waits for any more."""


class Steps(Transactions):
    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.weighted: dict[Callable[[], Awaitable[None]], float] = {
            self.create: 10,
            self.remove: 4,
            self.rename: 7,
            self.attributes: 5,
            self.quota: 3,
            self.bytes: 12,
            self.buffered: 8,
            self.row: 14,
            self.rows_together: 5,
            self.topic: 3,
            self.records: 14,
            self.offsets: 5,
            self.transaction: 9,
            self.look: 6,
            self.flush: 2,
            self.time: 4,
            self.background: 12,
            self.check: 0.5,
            self.crash: 1.5,
            self.reopen: 1,
        }

    async def run(self, steps: int) -> None:
        await self.begin()
        for _ in range(6):
            await self.run_step(self.create)
        chosen = self.rng.choices(list(self.weighted), list(self.weighted.values()), k=steps)
        for step in chosen:
            await self.run_step(step)
        self.power.cut_at = NEVER
        await self.end()

    # ---- names

    async def create(self) -> None:
        if len(self.paths()) > NODES_MAX:
            await self.remove()
            return
        path, mode, durable = self.new_path(), self.rng.choice([0o644, 0o600, 0o755]), self.durable
        rare = [kind for kind in ("file", "table", "stream") if len(self.paths(kind)) < 2]
        how = self.rng.choice([*KINDS, *rare * 4])
        settings: dict[str, int] = {}
        target = ""
        if how == "link":
            await self.link(self.path("file", "symlink"), path)
            return
        if how == "symlink":
            mode, target = 0o777, self.rng.choice([*self.paths(), *NAMES, "/none", "a/b"])
        elif how == "table":
            settings = {"ttl_ms": self.rng.choice([0, 2000, 60_000])}
        elif how == "stream":
            settings = {"partitions": self.rng.choice([1, 2]), "ttl_ms": self.rng.choice([0, 5000])}

        def apply(draft: Draft, directory: int, name: str) -> int:
            held = dict(settings)
            return draft.create(directory, name, how, mode, target=target, settings=held)

        def call() -> Awaitable[Any]:
            kind = Kind[how.upper()]
            new = Attributes(kind, mode, symlink=target, settings=dict(settings))
            return self.driver.make(path, new, durable=durable)

        await self.call(self.on_name(path, apply), call, durable=durable)

    async def link(self, existing: str, path: str) -> None:
        def plan() -> tuple[int, list[int], Apply]:
            source = self.find(existing, follow=False)
            at = self.find_name(path)
            self.same_volume(source, at)
            number = source.number or 0

            def apply(draft: Draft) -> int:
                return draft.link(number, at.directory, at.name)

            return at.volume, [number], apply

        async def call() -> int:
            await self.driver.link(existing, path)
            return (await self.driver.stat(path, follow=False)).number

        await self.call(plan, call)

    def same_volume(self, one: Found, other: Found) -> None:
        if one.volume != other.volume:
            raise Refused(INVALID)

    async def remove(self) -> None:
        path, durable = self.path(), self.durable
        directory = self.chance(0.4)

        def apply(draft: Draft, at: int, name: str) -> None:
            draft.remove(at, name, directories=directory, others=not directory)

        def call() -> Awaitable[None]:
            if directory:
                return self.driver.rmdir(path)
            return self.driver.unlink(path, durable=durable)

        durable = durable and not directory
        await self.call(self.on_name(path, apply), call, durable=durable)

    async def rename(self) -> None:
        old, durable = self.path(), self.durable
        new = self.path() if self.chance(0.5) else self.new_path()
        no_replace, exchange = self.rng.choice(
            [(False, False)] * 3 + [(True, False), (False, True)]
        )

        def plan() -> tuple[int, list[int], Apply]:
            source, target = self.find_name(old), self.find_name(new)
            self.same_volume(source, target)

            def apply(draft: Draft) -> None:
                draft.rename(
                    source.directory,
                    source.name,
                    target.directory,
                    target.name,
                    no_replace=no_replace,
                    exchange=exchange,
                )

            return source.volume, [source.number or 0], apply

        def call() -> Awaitable[None]:
            return self.driver.rename(
                old, new, no_replace=no_replace, exchange=exchange, durable=durable
            )

        await self.call(plan, call, durable=durable)

    async def attributes(self) -> None:
        path, driver = self.path(), self.driver
        how = self.rng.choice(["mode", "settings", "set", "set", "remove"])
        name, value = self.rng.choice(["user.a", "user.b"]), self.content()[:100]
        if how == "mode":
            mode = self.rng.choice([0o600, 0o755, 0o1777])
            plan = self.on_node(path, lambda d, n: d.set_attributes(n, mode), flush=True)
            await self.call(plan, lambda: driver.chmod(path, mode))
        elif how == "settings":
            path = self.path("table", "stream")
            settings = {"ttl_ms": self.rng.choice([0, 1000, 60_000])}
            plan = self.on_node(
                path, lambda d, n: d.set_attributes(n, settings=settings), flush=True
            )
            await self.call(plan, lambda: driver.set_attributes(path, settings=settings))
        elif how == "set":
            create, replace = self.rng.choice([(False, False), (True, False), (False, True)])
            plan = self.on_node(
                path, lambda d, n: d.set_xattr(n, name, value, create=create, replace=replace)
            )
            await self.call(
                plan, lambda: driver.set_xattr(path, name, value, create=create, replace=replace)
            )
        else:
            plan = self.on_node(path, lambda d, n: d.remove_xattr(n, name))
            await self.call(plan, lambda: driver.remove_xattr(path, name))

    async def quota(self) -> None:
        """Limits that are never passed: what is counted is what matters here."""
        path, driver = self.path("directory"), self.driver
        if self.chance(0.2):
            plan = self.on_node(path, lambda d, n: d.remove_quota(n))
            await self.call(plan, lambda: driver.remove_quota(path), durable=True)
            return
        name = self.rng.choice(["quota_bytes", "quota_entries", "advisory_entries"])
        limits = {name: self.rng.choice([0, 1 << 40])}
        if name == "advisory_entries":
            limits[name] = self.rng.randrange(4)

        plan = self.on_node(path, lambda d, n: d.set_quota(n, limits))
        await self.call(plan, lambda: driver.set_quota(path, **limits), durable=True)

    # ---- bytes

    async def bytes(self) -> None:
        how = self.rng.choice(["put", "put", "append", "append", "truncate", "punch"])
        path, data, durable, driver = self.path("file"), self.content(), self.durable, self.driver
        offset = self.rng.choice([0, 10, 4096, self.rng.randrange(12_000)])
        if how == "put":
            path = self.new_path() if self.chance(0.5) else path
            no_replace = self.chance(0.2)

            def apply(draft: Draft, directory: int, name: str) -> int:
                return draft.write_file(directory, name, data, no_replace=no_replace)

            def call() -> Awaitable[Any]:
                return driver.write_file(path, data, no_replace=no_replace, durable=durable)

            await self.call(self.on_name(path, apply), call, durable=durable)
        elif how == "append":
            plan = self.on_node(path, lambda d, n: d.append_bytes(n, data), flush=True)
            await self.call(
                plan, lambda: driver.append(path, data, durable=durable), durable=durable
            )
        elif how == "truncate":
            plan = self.on_node(path, lambda d, n: d.truncate(n, offset), flush=True)
            await self.call(
                plan, lambda: driver.truncate(path, offset, durable=durable), durable=durable
            )
        else:
            length = self.rng.choice([1, 5000])
            plan = self.on_node(path, lambda d, n: d.punch(n, offset, length), flush=True)
            await self.call(plan, lambda: driver.punch(path, offset, length))

    async def buffered(self) -> None:
        offset = self.rng.choice([0, 100, 5000, self.rng.randrange(20_000)])
        await self.write(self.path("file"), offset, self.content(), durable=self.chance(0.25))

    async def flush(self) -> None:
        number, line = self.rng.choice(list(self.lines.items()))
        volume = await self.platform.acquire(number)
        try:
            await self.sync(volume, line)
        finally:
            self.platform.release(volume)

    # ---- tables

    async def row(self) -> None:
        path, durable = self.path("table"), self.durable
        core, model = self.row_call()
        await self.call(
            self.on_node(path, model),
            lambda: self.driver.unit(path, core, durable=durable),
            durable=durable,
        )

    async def rows_together(self) -> None:
        wanted = self.paths("table")
        if wanted:
            found = self.find(self.rng.choice(wanted))
            count = self.rng.randrange(1, 5)
            await self.put_together(
                found, [(self.rng.choice(KEYS), self.columns()) for _ in range(count)]
            )

    # ---- streams

    async def topic(self) -> None:
        path, name, durable = self.path("stream"), self.rng.choice(TOPICS), self.durable
        how = self.rng.choice(["create", "create", "delete", "producer", "producer"])
        count, exist_ok = self.rng.randrange(4), self.chance(0.5)
        calls: dict[str, Calls] = {
            "create": (
                lambda u, n: streams.create_topic(u, n, name, count, exist_ok=exist_ok),
                lambda d, n: d.create_topic(n, name, count, exist_ok=exist_ok),
            ),
            "delete": (
                lambda u, n: streams.delete_topic(u, n, name),
                lambda d, n: d.delete_topic(n, name),
            ),
            "producer": (streams.init_producer, lambda d, n: d.init_producer(n)),
        }
        core, model = calls[how]
        await self.call(
            self.on_node(path, model),
            lambda: self.driver.unit(path, core, durable=durable),
            durable=durable,
        )

    async def records(self) -> None:
        path, durable = self.path("stream"), self.chance(0.5)
        parts = [self.part(path)]
        if self.chance(0.2):
            parts.append(self.batch(self.rng.choice(TOPICS), 0, None))
        given = [streams.Part(p.topic, p.partition, p.data) for p in parts]
        minimum = self.rng.choice([1, 1 << 16, 1 << 16])
        await self.call(
            self.on_node(path, lambda d, n: d.append(n, parts)),
            lambda: self.driver.append_records(
                path, given, durable=durable, extent_bytes_min=minimum
            ),
            durable=durable,
        )

    async def offsets(self) -> None:
        path, group, durable = self.path("stream"), self.rng.choice(GROUPS), self.durable
        if self.chance(0.15):
            await self.call(
                self.on_node(path, lambda d, n: d.delete_group(n, group)),
                lambda: self.driver.unit(
                    path, lambda u, n: group_offsets.delete_group(u, n, group), durable=durable
                ),
                durable=durable,
            )
            return
        commits = self.commits(path)
        given = [group_offsets.Commit(*commit) for commit in commits]
        await self.call(
            self.on_node(path, lambda d, n: d.commit_offsets(n, group, commits)),
            lambda: self.driver.unit(
                path, lambda u, n: group_offsets.commit_offsets(u, n, group, given), durable=durable
            ),
            durable=durable,
        )

    # ---- the rest

    async def look(self) -> None:
        """At one thing, as a reader does."""
        path = self.path()
        try:
            found = self.find(path)
        except Refused as refused:
            await self.expect(lambda: self.driver.stat(path), refused)
            return
        number, line = found.number or 0, self.lines[found.volume]
        node = line.seen(number)
        async with self.driver.node(path) as held:
            await self.comparison.node(held.volume, line, node, held.inode)
        if node.kind == "file":
            offset, length = self.rng.randrange(6000), self.rng.randrange(6000)
            data = await self.driver.read(path, offset, length)
            assert data == node.data[offset : offset + length]

    async def time(self) -> None:
        self.clock.advance(
            self.rng.choice([0.001, 0.6, 0.6, 3.0, 70.0, 70.0])
            if self.chance(0.93)
            else self.rng.choice([4000.0, 8 * 24 * 3600.0])
        )

    async def check(self) -> None:
        """The platform's own check, and everything that the model knows."""
        for number, line in self.lines.items():
            volume = await self.platform.acquire(number)
            try:
                await self.sync(volume, line)
            finally:
                self.platform.release(volume)
        await assert_clean(self.platform)
        await self.verify()


async def run(seed: int, steps: int, kind: type[Steps] = Steps) -> Steps:
    """One seed. AssertionError, with the seed and what it did last: a bug was found."""
    walk = kind(seed)
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        await walk.run(steps)
    except (AssertionError, PlatformError) as error:
        done = ", ".join(walk.log[-12:])
        raise AssertionError(f"seed {seed}, step {walk.steps}: {error!r} (last: {done})") from error
    finally:
        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.NOTSET)
    return walk
