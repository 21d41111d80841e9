"""Transactions of the walk: operations of all kinds in one volume, all of them or none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from dataplatform.base.errors import NotFound
from dataplatform.core import files, group_offsets, namespace, streams, tables, transactions
from dataplatform.core.namespace import Attributes
from dataplatform.core.transactions import Operation
from dataplatform.core.units import Unit
from dataplatform.core.volumes import Volume
from dataplatform.keyspace.records import ROOT_VOLUME, Kind

from .core_choices import GROUPS, KEYS, NAMES, Choices
from .core_model import Draft
from .core_paths import Found, resolve
from .core_state import NOT_FOUND, ROOT, Refused
from .core_walk import Apply

Parted = tuple[Callable[[Volume], Awaitable[Operation]], Apply]
"""An operation of a transaction: how the core's is made, and the model's."""


class Transactions(Choices):
    async def transaction(self) -> None:
        """Some operations in one volume, all or none of them."""
        volume, durable = self.rng.choice(list(self.lines)), self.durable
        base = self.mounted(volume) or "/"
        makers = {
            self.tx_rename: "",
            self.tx_file: "",
            self.tx_row: "table",
            self.tx_expect: "table",
            self.tx_records: "stream",
            self.tx_offsets: "stream",
        }
        kinds = {node.kind for node in self.lines[volume].state.nodes.values()} | {""}
        possible = [make for make, kind in makers.items() if kind in kinds or self.chance(0.02)]
        chosen = [self.rng.choice(possible)(volume) for _ in range(self.rng.randrange(1, 4))]

        def plan() -> tuple[int, list[int], Apply]:
            found = self.find(base)

            def apply(draft: Draft) -> int:
                for _, model in chosen:
                    model(draft)
                return draft.commit if draft.changed else draft.commit - 1

            return found.volume, list(self.lines[found.volume].buffered), apply

        async def prepare(held: Volume) -> Sequence[Operation]:
            return [await make(held) for make, _ in chosen]

        await self.call(
            plan,
            lambda: self.driver.transaction(base, prepare, durable=durable),
            durable=durable,
        )

    def mounted(self, volume: int) -> str:
        """Where the volume's root is; nothing for the root volume."""
        root = self.lines[ROOT_VOLUME].state
        return next((p for p, n in root.paths() if root.nodes[n].volume == volume), "")

    def inside(self, volume: int, *kinds: str) -> str:
        """A path from the volume's root."""
        state = self.lines[volume].state
        found = [p for p, n in state.paths() if not kinds or state.nodes[n].kind in kinds]
        if not found or self.chance(0.05):
            return f"/{self.rng.choice(NAMES)}"
        return self.rng.choice(found)

    def within(self, draft: Draft, volume: int, path: str, *, follow: bool = True) -> Found:
        states = {**self.states, volume: draft.state()}
        return resolve(states, ROOT_VOLUME, path, follow=follow, start=volume)

    def number_within(self, draft: Draft, volume: int, path: str) -> int:
        number = self.within(draft, volume, path).number
        if number is None:
            raise Refused(NOT_FOUND)
        return number

    def name_within(self, draft: Draft, volume: int, path: str) -> Found:
        found = self.within(draft, volume, path, follow=False)
        if found.missing:
            raise Refused(NOT_FOUND)
        found.check_name()
        return found

    def _on(
        self,
        volume: int,
        path: str,
        core: Callable[[Unit, int], Awaitable[Any]],
        model: Callable[[Draft, int], Any],
    ) -> Parted:
        async def make(held: Volume) -> Operation:
            async def operation(unit: Unit) -> None:
                inode = await transactions.resolve(unit, ROOT, path)
                await core(unit, inode.number)

            return operation

        return make, lambda draft: model(draft, self.number_within(draft, volume, path))

    def tx_row(self, volume: int) -> Parted:
        return self._on(volume, self.inside(volume, "table"), *self.row_call())

    def tx_expect(self, volume: int) -> Parted:
        key, path = self.rng.choice(KEYS), self.inside(volume, "table")
        state = self.lines[volume].state
        rows = state.nodes[state.find(path) or ROOT].alive(self.clock.now_ns() // 1_000_000)
        version = rows[key].version if key in rows else 0
        if self.chance(0.2):
            version = self.any_version()
        return self._on(
            volume,
            path,
            lambda u, n: tables.expect_version(u, n, key, version),
            lambda d, n: d.expect_row(n, key, version),
        )

    def tx_offsets(self, volume: int) -> Parted:
        group, path = self.rng.choice(GROUPS), self.inside(volume, "stream")
        commits = self.commits(self.mounted(volume) + path)
        given = [group_offsets.Commit(*commit) for commit in commits]
        return self._on(
            volume,
            path,
            lambda u, n: group_offsets.commit_offsets(u, n, group, given),
            lambda d, n: d.commit_offsets(n, group, commits),
        )

    def tx_records(self, volume: int) -> Parted:
        path = self.inside(volume, "stream")
        part = self.part(self.mounted(volume) + path)

        async def make(held: Volume) -> Operation:
            given = [streams.Part(part.topic, part.partition, part.data)]
            prepared = await streams.prepare(held, given)

            async def operation(unit: Unit) -> None:
                inode = await transactions.resolve(unit, ROOT, path)
                await streams.append(unit, inode.number, prepared)

            return operation

        return make, lambda draft: draft.append(self.number_within(draft, volume, path), [part])

    def tx_rename(self, volume: int) -> Parted:
        old = self.inside(volume)
        new = self.inside(volume) if self.chance(0.3) else f"/{self.rng.choice(NAMES)}"

        async def make(held: Volume) -> Operation:
            async def operation(unit: Unit) -> None:
                source, name = await _place(unit, old)
                target, new_name = await _place(unit, new)
                await namespace.rename(unit, source, name.encode(), target, new_name)

            return operation

        def apply(draft: Draft) -> None:
            source, target = (self.name_within(draft, volume, p) for p in (old, new))
            draft.rename(source.directory, source.name, target.directory, target.name)

        return make, apply

    def tx_file(self, volume: int) -> Parted:
        path, data = self.inside(volume, "file"), self.content()

        async def make(held: Volume) -> Operation:
            content = await files.prepare(held, data)

            async def operation(unit: Unit) -> None:
                directory, name = await _place(unit, path)
                new = Attributes(Kind.FILE)
                await files.put(unit, directory, name, content, len(data), new)

            return operation

        def apply(draft: Draft) -> None:
            at = self.name_within(draft, volume, path)
            draft.write_file(at.directory, at.name, data, no_replace=False)

        return make, apply


async def _place(unit: Unit, path: str) -> tuple[int, str]:
    directory, name, missing = await transactions.resolve_name(unit, ROOT, path)
    if missing:
        raise NotFound("no such directory", path=path)
    return directory, name
