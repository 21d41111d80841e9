"""Access expressions: who may do what, by path; and why."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping

from ..api import platform_pb2 as pb
from ..api.methods import METHODS
from ..base.errors import Invalid
from .base import Operations
from .connection import Channel
from .messages import build
from .paths import Path, target
from .values import AccessRule, AccessRules, Verdict

CHECK = METHODS["Access.Check"]
GET = METHODS["Access.Get"]
SET = METHODS["Access.Set"]

ROOT_INODE = 1
"""Of every volume."""


class Access:
    """`client.acl`."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def get(self, path: Path) -> AccessRules:
        reply, _ = await self._channel.call(GET, build(pb.RulesRequest, target=target(path)))
        return AccessRules(
            path=reply.path,
            own={rule.verb: rule.expression for rule in reply.own},
            inherited=tuple(
                AccessRule(rule.verb, rule.expression, rule.path) for rule in reply.inherited
            ),
        )

    async def set(
        self,
        path: Path,
        rules: Mapping[str, str | None] | None = None,
        /,
        *,
        unset: Iterable[str] = (),
        recursive: bool = False,
        progress: Callable[[int], None] | None = None,
        **verbs: str | None,
    ) -> int:
        wanted = {**(rules or {}), **verbs, **dict.fromkeys(unset)}
        request = build(
            pb.SetRulesRequest,
            target=target(path),
            set={verb: text for verb, text in wanted.items() if text is not None},
            unset=[verb for verb, text in wanted.items() if text is None],
            recursive=recursive,
        )
        reply, _ = await self._channel.call(SET, request)
        changed: int = reply.changed
        if recursive:
            changed += await self._clear_below(target(path), list(wanted), progress)
        return changed

    async def _clear_below(
        self, start: pb.Target, verbs: list[str], progress: Callable[[int], None] | None
    ) -> int:
        """Take the verbs' expressions away from everything below; how many things had one."""
        changed = 0
        left = deque([start])
        while left:
            directory = left.popleft()
            if directory is not start and directory.inode == ROOT_INODE:
                request = build(pb.SetRulesRequest, target=directory, unset=verbs)
                changed += (await self._channel.call(SET, request))[0].changed
            after, end = "", False
            while not end:
                request = build(
                    pb.SetRulesRequest, target=directory, unset=verbs, below=True, after=after
                )
                try:
                    reply, _ = await self._channel.call(SET, request)
                except Invalid:
                    if directory is start and not after:
                        return changed  # no directory: nothing is below
                    raise
                changed += reply.changed
                left.extend(reply.directories)
                after, end = reply.after, reply.end
                if progress is not None:
                    progress(reply.changed)
        return changed

    async def check(self, path: Path, user: str | None = None, *verbs: str) -> list[Verdict]:
        request = build(pb.VerdictsRequest, target=target(path), user=user, verbs=verbs)
        reply, _ = await self._channel.call(CHECK, request)
        return [
            Verdict(
                user=reply.user,
                path=reply.path,
                verb=verdict.verb,
                allowed=verdict.allowed,
                by=verdict.by,
                expression=verdict.expression if verdict.HasField("expression") else None,
                rule_path=verdict.path or None,
                is_known=not reply.unknown,
            )
            for verdict in reply.verdicts
        ]

    async def copy(self, source: Path, target: Path) -> None:
        own = (await self.get(source)).own
        if own:
            await self.set(target, own)


class AccessOperations(Operations):
    @property
    def acl(self) -> Access:
        return Access(self._channel)
