"""The check looks at access expressions, users, groups and tokens."""

from __future__ import annotations

import pytest

from dataplatform.api import platform_pb2 as pb
from dataplatform.core.check.platforms import check_platform
from dataplatform.core.units import SYSTEM
from dataplatform.keyspace import keys
from dataplatform.keyspace.records import Inode
from tests.rights import ROOT, Core


async def damaged_core() -> Core:
    core = await Core.start()
    identities = core.platform.identities
    await identities.create_group(SYSTEM, "eng")
    await identities.create_user(SYSTEM, "ana", groups=["eng"])
    await identities.create_token(SYSTEM, "ana", ttl_s=60)
    await core.make_directory("/d", 0o755)
    return core


async def rule(core: Core, **rules: str) -> None:
    await core.call(ROOT, "Access.Set", pb.SetRulesRequest(target=pb.Target(path="/d"), set=rules))


async def said(core: Core) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Findings and warnings."""
    report = await check_platform(core.platform)
    return tuple([(f.path, f.problem) for f in of] for of in (report.findings, report.warnings))  # type: ignore[return-value]


async def test_names_that_nobody_has_are_warnings() -> None:
    core = await damaged_core()
    await rule(core, read="u:ana | g:eng | u:anonymous")
    assert await said(core) == ([], [])
    await rule(core, write="u:bob | (g:legal & !u:ana)")
    assert await said(core) == (
        [],
        [("/d", "no group is called legal"), ("/d", "nobody is called bob")],
    )
    await core.platform.identities.create_user(SYSTEM, "bob")
    assert await said(core) == ([], [("/d", "no group is called legal")])
    await core.close()


async def test_an_expression_that_cannot_be_read_is_found() -> None:
    core = await damaged_core()
    await rule(core, read="u:ana")
    (volume,) = core.platform.volumes
    key = keys.inode(
        (await core.call(ROOT, "Namespace.Stat", pb.StatRequest(target=pb.Target(path="/d")))).inode
    )
    stored = await volume.storage.engine.get(key)
    assert stored is not None
    inode = Inode.unpack(stored)
    inode.access = {"read": "u:ana | | ("}
    await volume.storage.engine.commit({key: inode.pack()})
    findings, _ = await said(core)
    assert findings == [("/d", "the access expression for read cannot be read: it is nobody's")]
    await core.close()


@pytest.mark.parametrize(("prefix", "noun"), [(b"u", "user ana"), (b"G", "group eng")])
async def test_identities_that_cannot_be_read_are_found(prefix: bytes, noun: str) -> None:
    core = await damaged_core()
    (volume,) = core.platform.volumes
    await volume.storage.engine.commit({prefix + noun.split()[1].encode(): b"\x93\xc1"})
    findings, _ = await said(core)
    assert findings == [("/", f"the record of {noun} cannot be read")]
    await core.close()


async def test_a_token_that_cannot_be_read_is_found() -> None:
    core = await damaged_core()
    (volume,) = core.platform.volumes
    start, end = keys.prefix_range(keys.TOKENS)
    ((key, _),) = await volume.storage.engine.scan(start, end)
    await volume.storage.engine.commit({key: b"noise"})
    findings, _ = await said(core)
    name = key.removeprefix(keys.TOKENS).decode()
    assert findings == [("/", f"the record of token {name} cannot be read")]
    await core.close()
