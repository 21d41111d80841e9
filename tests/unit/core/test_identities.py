"""Users, groups and tokens: what they make of a caller, and what no token gets past."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dataplatform.base.clock import ManualClock, SeededEntropy
from dataplatform.base.errors import Denied, Exists, Invalid, NotFound
from dataplatform.core.identities import Account, Identities
from dataplatform.core.platform import Platform
from dataplatform.core.principals import NOBODY, OVERFLOW, Principal
from dataplatform.core.units import Request
from dataplatform.engine.memory import MemoryDisk, MemoryStorages
from tests.checking import assert_clean
from tests.principals import admin

HOUR_S = 3600
ROOT = Request(admin("root"))


@contextlib.asynccontextmanager
async def platform(
    disk: MemoryDisk | None = None, clock: ManualClock | None = None, seed: int = 1
) -> AsyncIterator[Platform]:
    made = await Platform.start(
        MemoryStorages(disk), clock=clock or ManualClock(), entropy=SeededEntropy(seed)
    )
    try:
        yield made
        await assert_clean(made)
    finally:
        await made.close()


async def token_of(identities: Identities, user: str, **options: Any) -> str:
    token_id = await identities.create_token(ROOT, user, ttl_s=HOUR_S, **options)
    return identities.text_of(token_id)


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


async def test_users_groups_and_what_they_are_to_others() -> None:
    disk = MemoryDisk()
    async with platform(disk) as p:
        i = p.identities
        await i.create_group(ROOT, "eng")
        await i.create_group(ROOT, "ops", gid=500)
        await i.create_user(ROOT, "ana", groups=["eng", "ops"])
        await i.create_user(ROOT, "bob", uid=1001)
        await i.create_user(ROOT, "carl@example.org")
        await i.set_group(ROOT, "eng", add=["bob"])
        ana = i.principal_of_user("ana")
        assert (ana.uid, ana.groups, ana.gids) == (10_000, {"eng", "ops"}, {10_000, 500})
        assert not ana.is_admin
        assert not ana.may_speak
        assert i.principal_of_user("ana") is ana
        assert i.members("eng") == ["ana", "bob"]
        assert i.user("carl@example.org").uid == 10_001
    async with platform(disk) as p:
        i = p.identities
        assert [name for name, _ in i.users(admin("root"))] == ["ana", "bob", "carl@example.org"]
        await i.remove_group(ROOT, "ops")
        await i.set_user(ROOT, "ana", remove=["eng"], is_admin=True)
        assert i.principal_of_user("ana").is_admin
        assert i.user("ana").groups == []
        await i.remove_user(ROOT, "bob")
        with pytest.raises(Denied):
            i.principal_of_user("bob")


@pytest.mark.parametrize(
    "name", ["", "a b", "a&b", "-a", "é", "anonymous", "system", "a" * 129, "a:b"]
)
async def test_names_that_would_mean_something_else(name: str) -> None:
    async with platform() as p:
        with pytest.raises(Invalid):
            await p.identities.create_user(ROOT, name)
        with pytest.raises(Invalid):
            await p.identities.create_group(ROOT, name)


async def test_numbers_are_given_out_once() -> None:
    async with platform() as p:
        i = p.identities
        await i.create_user(ROOT, "ana", uid=7)
        with pytest.raises(Exists):
            await i.create_user(ROOT, "bob", uid=7)
        with pytest.raises(Exists):
            await i.create_user(ROOT, "ana")
        for uid in (OVERFLOW, NOBODY):
            with pytest.raises(Invalid):
                await i.create_user(ROOT, "bob", uid=uid)
        with pytest.raises(Invalid, match="root"):
            await i.create_user(ROOT, "bob", uid=0)
        await i.create_user(ROOT, "chief", uid=0, is_admin=True)
        with pytest.raises(Invalid, match="root"):
            await i.set_user(ROOT, "chief", is_admin=False)
        with pytest.raises(NotFound):
            await i.create_user(ROOT, "bob", groups=["nothing"])


async def test_only_administrators_with_all_their_rights_change_anything() -> None:
    async with platform() as p:
        i = p.identities
        await i.create_user(ROOT, "ana")
        await i.create_user(ROOT, "boss", is_admin=True)
        limited = [
            i.principal_of_user("ana"),
            Principal("anonymous"),
            i.principal_of_token(await i.create_token(ROOT, "boss", ttl_s=9, is_read_only=True)),
            i.principal_of_token(await i.create_token(ROOT, "boss", ttl_s=9, roots=[(1, 1)])),
        ]
        for principal in limited:
            request = Request(principal)
            for change in (
                i.create_user(request, "x"),
                i.set_user(request, "ana", is_admin=True),
                i.remove_user(request, "boss"),
                i.create_group(request, "x"),
                i.set_group(request, "x", add=["ana"]),
                i.remove_group(request, "x"),
                i.create_token(request, "ana", ttl_s=9),
                i.revoke(request, user="boss"),
                i.revoke(request, token_id="x"),
                i.revoke_all(request),
            ):
                with pytest.raises(Denied):
                    await change
        with pytest.raises(Denied):
            i.users(limited[0])
        await i.create_user(Request(i.principal_of_user("boss")), "x")


async def test_a_token_is_its_user_with_its_limits() -> None:
    async with platform() as p:
        i = p.identities
        await i.create_user(ROOT, "ana")
        full = i.principal_of_token(i.verify(await token_of(i, "ana")))
        limited = i.principal_of_token(
            i.verify(await token_of(i, "ana", is_read_only=True, roots=[(1, 1)], paths=["/"]))
        )
        speaking = i.principal_of_token(i.verify(await token_of(i, "ana", may_speak=True)))
        assert full.name == limited.name == "ana"
        assert (limited.is_read_only, limited.roots) == (True, ((1, 1),))
        assert not full.is_read_only
        assert not full.roots
        assert not full.may_speak
        assert speaking.may_speak
        assert len({p.owner for p in (full, limited, speaking)}) == 3
        renewed = i.principal_of_token(i.verify(await token_of(i, "ana")))
        assert renewed.owner == full.owner
        for text in (await token_of(i, "ana"), repr(full), repr(i.token(full.token))):
            assert "secret" not in text
        assert full.token not in repr(full)


async def test_tokens_end() -> None:
    clock = ManualClock()
    async with platform(clock=clock) as p:
        i = p.identities
        await i.create_user(ROOT, "ana")
        text = await token_of(i, "ana")
        token_id = i.verify(text)
        clock.advance(HOUR_S - 1)
        assert i.verify(text) == token_id
        clock.advance(1)
        with pytest.raises(Denied, match="expired") as caught:
            i.verify(text)
        assert caught.value.facts["credential"] == "expired"
        with pytest.raises(Denied, match="expired"):
            i.principal_of_token(token_id)
        assert await i.run_once() == 0
        clock.advance(24 * HOUR_S + 1)
        assert await i.run_once() == 1
        assert i.tokens(admin("root")) == []
        with pytest.raises(Denied, match="expired"):
            i.verify(text)
        for ttl_s in (0, -1, 11 * 365 * 86_400):
            with pytest.raises(Invalid):
                await i.create_token(ROOT, "ana", ttl_s=ttl_s)


async def test_tokens_are_revoked() -> None:
    disk, clock = MemoryDisk(), ManualClock()
    async with platform(disk, clock) as p:
        i = p.identities
        for name in ("ana", "bob"):
            await i.create_user(ROOT, name)
        texts = [await token_of(i, "ana") for _ in range(3)]
        ids = [i.verify(text) for text in texts]
        ana = Request(i.principal_of_token(ids[0]))
        bob = Request(i.principal_of_user("bob"))
        assert [t for t, _ in i.tokens(ana.principal)] == sorted(ids)
        with pytest.raises(Denied):
            i.tokens(bob.principal, "ana")
        with pytest.raises(Denied):
            await i.revoke(bob, token_id=ids[1])
        generation = i.generation
        assert await i.revoke(ana, token_id=ids[1]) == 1
        assert i.generation > generation
        with pytest.raises(Denied, match="revoked") as caught:
            i.verify(texts[1])
        assert caught.value.facts["credential"] == "revoked"
        assert i.verify(texts[0]) == ids[0]
    async with platform(disk, clock) as p:
        i = p.identities
        with pytest.raises(Denied, match="revoked"):
            i.verify(texts[1])
        assert await i.revoke(ROOT, user="ana") == 2
        for text in texts:
            with pytest.raises(Denied, match="revoked"):
                i.verify(text)
        disabled = await token_of(i, "bob")
        await i.set_user(ROOT, "bob", is_disabled=True)
        await i.set_user(ROOT, "bob", is_disabled=False)
        with pytest.raises(Denied, match="revoked"):
            i.verify(disabled)
        other = await token_of(i, "bob")
        await i.remove_user(ROOT, "bob")
        await i.create_user(ROOT, "bob")
        with pytest.raises(Denied, match="revoked"):
            i.verify(other)
        last = await token_of(i, "bob")
        assert await i.revoke_all(ROOT) == 1
        with pytest.raises(Denied, match="replaced"):
            i.verify(last)
        assert i.verify(await token_of(i, "bob"))


async def test_no_forged_token_is_believed() -> None:
    async with platform(seed=1) as here, platform(seed=2) as there:
        for p in (here, there):
            await p.identities.create_user(ROOT, "ana")
            await p.identities.create_user(ROOT, "boss", is_admin=True)
        i = here.identities
        good = await token_of(i, "ana")
        head, claims, signature = good.split(".")
        said = jwt.decode(good, options={"verify_signature": False})
        header = jwt.get_unverified_header(good)
        (key,) = i._keys.values()
        public = key._public.public_bytes(Encoding.Raw, PublicFormat.Raw)
        pem = key._public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        mine = Ed25519PrivateKey.generate()

        def ours(**changes: Any) -> str:
            """Signed with the right key."""
            changed = {k: v for k, v in {**said, **changes}.items() if v is not None}
            return jwt.encode(changed, key._private, "EdDSA", headers={"kid": key.id})

        def hmac_with(secret: bytes) -> str:
            import hashlib
            import hmac

            start = f"{part({**header, 'alg': 'HS256'})}.{claims}"
            mac = hmac.new(secret, start.encode(), hashlib.sha256).digest()
            return f"{start}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"

        attempts = {
            "another user": (f"{head}.{part({**said, 'sub': 'boss'})}.{signature}", "changed"),
            "a later end": (f"{head}.{part({**said, 'exp': 2**40})}.{signature}", "changed"),
            "no signature": (f"{head}.{claims}.", "changed"),
            "my key": (jwt.encode(said, mine, "EdDSA", headers={"kid": key.id}), "changed"),
            "my key's id": (jwt.encode(said, mine, "EdDSA", headers={"kid": "mine"}), "another"),
            "no key's id": (jwt.encode(said, mine, "EdDSA"), "another"),
            "alg none": (f"{part({**header, 'alg': 'none'})}.{claims}.", "algorithm"),
            "alg None": (f"{part({**header, 'alg': 'None'})}.{claims}.", "algorithm"),
            "alg HS256, raw": (hmac_with(public), "algorithm"),
            "alg HS256, pem": (hmac_with(pem), "algorithm"),
            "another cluster": (await token_of(there.identities, "ana"), "another cluster"),
            "another store": (ours(iss="00", aud="00"), "another cluster"),
            "without an end": (ours(exp=None), "no token"),
            "without an id": (ours(jti=None), "no token"),
            "an odd end": (ours(exp="soon"), "no token"),
            "an unknown id": (ours(jti="0" * 16), "revoked"),
            "my user": (ours(sub="boss"), "not the one"),
            "words": ("let me in", "no token"),
            "nothing": (".", "no token"),
            "dots": ("..", "no token"),
            "not ASCII": ("ä.ö.ü", "no token"),
            "long": ("a" * 100_000, "no token"),
            "five parts": (f"{good}.{head}.{head}", "no token"),
        }
        for name, (text, words) in attempts.items():
            with pytest.raises(Denied) as caught:
                i.verify(text)
            assert words in str(caught.value), name
            assert caught.value.facts["credential"] in ("forged", "foreign", "malformed", "revoked")
            assert len(str(caught.value)) < 200, name
        assert i.verify(good)


async def test_users_of_the_system_are_users_of_the_platform() -> None:
    async with platform() as p:
        i = p.identities
        await i.create_group(ROOT, "eng")
        await i.create_user(ROOT, "ana", uid=1000, groups=["eng"])
        await i.create_user(ROOT, "bob", groups=["eng"])
        by_uid = i.principal_of_account(
            Account("zed", 1000, 1000, frozenset((1000, 4)), frozenset(("adm",)))
        )
        assert (by_uid.name, by_uid.uid, by_uid.groups) == ("ana", 1000, {"adm", "eng"})
        assert by_uid.gids == {1000, 4, 10_000}
        by_name = i.principal_of_account(Account("bob", 1003))
        assert (by_name.name, by_name.uid) == ("bob", i.user("bob").uid)
        assert i.principal_of_account(Account("eve", 1004)).name == "eve"
        for name in ("", "anonymous", "system"):
            assert i.principal_of_account(Account(name, 1005)).name == "uid:1005"
        own = i.principal_of_account(Account("bob", 1003), is_admin=True)
        assert own.is_free
        assert own.may_speak
        assert own.owner != by_name.owner
        await i.set_user(ROOT, "ana", is_disabled=True)
        with pytest.raises(Denied, match="disabled"):
            i.principal_of_account(Account("zed", 1000))


async def test_an_administrators_own_stays_so_whatever_users_there_are() -> None:
    """A mount of root's goes on when there is a user with uid 0."""
    async with platform() as p:
        i = p.identities
        accounts = [
            Account("root", 0),
            Account("dp", 1000),
            Account("", 1001),
            Account("system", 9),
        ]

        def owners() -> list[str]:
            return [i.principal_of_account(a, is_admin=True).owner for a in accounts]

        before = owners()
        own = "the server's own"
        assert before == [f"root ({own})", f"dp ({own})", f"uid:1001 ({own})", f"uid:9 ({own})"]
        for number, account in enumerate(accounts):
            name = f"ana{number}"
            await i.create_user(ROOT, name, uid=account.uid, is_admin=True)
            assert i.principal_of_account(account, is_admin=True).name == name
        assert owners() == before
        await i.remove_user(ROOT, "ana0")
        assert owners() == before
        assert i.principal_of_account(accounts[1]).owner == "ana1"


async def test_a_retry_gives_the_same_token() -> None:
    async with platform() as p:
        i = p.identities
        await i.create_user(ROOT, "ana")
        request = Request(admin("root"), b"s" * 16, 0, 1, 128)
        first = await i.create_token(request, "ana", ttl_s=9)
        assert await i.create_token(request, "ana", ttl_s=9) == first
        assert i.text_of(first) == i.text_of(first)
        assert len(i.tokens(admin("root"))) == 1
