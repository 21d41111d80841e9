"""Files written whole and in parts, read, renamed and deleted, in a few directories."""

from __future__ import annotations

from .parts import Part, expect

DIRECTORIES = 8
FILES_MAX = 200
SIZES = (0, 100, 4096, 65536, 1 << 20)
WEIGHTS = (2, 48, 30, 17, 3)
PATCH_BYTES = 4096


class Files(Part):
    share = 0.3

    async def begin(self) -> None:
        await super().begin()
        self._contents: dict[str, bytes] = {}
        self._pool = self.chance.randbytes(4 << 20)
        for number in range(DIRECTORIES):
            await self.dp.mkdir(f"{self.base}/{number}")

    async def step(self) -> None:
        choice = self.chance.random()
        if not self._contents or (choice < 0.3 and len(self._contents) < FILES_MAX):
            await self._write(self._new_path())
        elif choice < 0.5:
            await self._write(self._some_path())
        elif choice < 0.6:
            await self._patch(self._some_path())
        elif choice < 0.8:
            path = self._some_path()
            expect(await self.dp.read_file(path), self._contents[path], path)
        elif choice < 0.9:
            source, target = self._some_path(), self._new_path()
            await self.dp.rename(source, target)
            self._contents[target] = self._contents.pop(source)
        else:
            path = self._some_path()
            await self.dp.remove(path)
            del self._contents[path]

    async def _write(self, path: str) -> None:
        content = self._some_bytes(self.chance.choices(SIZES, WEIGHTS)[0])
        await self.dp.write_file(path, content, durable=self.chance.random() < 0.2)
        self._contents[path] = content

    async def _patch(self, path: str) -> None:
        """Through a handle, somewhere in the file or beyond its end."""
        old, patch = self._contents[path], self._some_bytes(PATCH_BYTES)
        offset = self.chance.randint(0, min(len(old), 1 << 20))
        async with self.dp.open(path, "r+b") as file:
            await file.pwrite(patch, offset)
            if self.chance.random() < 0.2:
                await file.sync()
        self._contents[path] = old[:offset] + patch + old[offset + len(patch) :]

    async def finish(self) -> None:
        for number in range(DIRECTORIES):
            directory = f"{self.base}/{number}"
            names = {
                path.rpartition("/")[2] for path in self._contents if path.startswith(directory)
            }
            expect(set(await self.dp.listdir(directory)), names, directory)
        for path, content in self._contents.items():
            expect(await self.dp.read_file(path), content, path)

    def _some_bytes(self, size: int) -> bytes:
        start = self.chance.randint(0, len(self._pool) - size)
        return self._pool[start : start + size]

    def _some_path(self) -> str:
        return self.chance.choice(list(self._contents))

    def _new_path(self) -> str:
        return f"{self.base}/{self.chance.randrange(DIRECTORIES)}/{self.chance.getrandbits(64):x}"
