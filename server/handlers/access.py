"""Access.*: unpack, one core call, pack."""

from __future__ import annotations

from typing import Any

from dataplatform.api import platform_pb2 as pb
from dataplatform.base.errors import Invalid
from dataplatform.core.access import settings
from dataplatform.core.units import Request, Unit
from dataplatform.core.volumes import Volume

from ..dispatch import Call, rpc


@rpc("Access.Check")
async def check(call: Call, message: pb.VerdictsRequest, data: Any) -> pb.VerdictsReply:
    volume, inode = await call.node(message.target)
    asker = Request(call.principal, caller=call.session.id, origin=call.origin)
    found = await settings.explain(call.platform, volume, inode, asker, message.user, message.verbs)
    verdicts = [
        pb.VerdictsReply.Verdict(
            verb=word,
            allowed=verdict.allowed,
            by=verdict.by,
            expression=verdict.rule,
            path=verdict.path,
        )
        for word, verdict in found.answers
    ]
    path = await call.platform.path_of(volume, inode.number)
    return pb.VerdictsReply(
        user=found.user, path=path, verdicts=verdicts, unknown=not found.is_known
    )


@rpc("Access.Get")
async def get(call: Call, message: pb.RulesRequest, data: Any) -> pb.RulesReply:
    volume, inode = await call.node(message.target)
    found = await settings.rules_of(volume, inode)
    return pb.RulesReply(
        path=await call.platform.path_of(volume, inode.number),
        own=[_rule(rule) for rule in found.own],
        inherited=[_rule(rule) for rule in found.inherited],
    )


def _rule(rule: settings.SetRule) -> pb.Rule:
    return pb.Rule(verb=rule.word, expression=rule.text, path=rule.path)


def _set(call: Call, message: Any, volume: Volume, stored: list[Any]) -> pb.SetRulesReply:
    changed, directories, after, end = stored
    return pb.SetRulesReply(
        changed=changed,
        directories=[pb.Target(volume=volume_id, inode=inode) for volume_id, inode in directories],
        after=after,
        end=end,
    )


@rpc("Access.Set", answer=_set)
async def set_(call: Call, message: pb.SetRulesRequest, data: Any) -> pb.SetRulesReply:
    node = await call.node(message.target)
    number = node.inode.number
    if message.below and message.set:
        raise Invalid("below a directory rules are only taken away")
    wanted: dict[str, str | None] = dict(message.set)
    for word in message.unset:
        if word in wanted:
            raise Invalid("a verb is set and taken away at once", verb=word)
        wanted[word] = None

    async def work(unit: Unit) -> list[Any]:
        if message.below:
            words = list(message.unset)
            page = await settings.clear_page(unit, number, words, message.after, message.limit)
            return [page.changed, [list(one) for one in page.directories], page.after, page.end]
        changed = await settings.set_rules(unit, number, wanted, recursive=message.recursive)
        return [changed, [], "", True]

    stored = await node.volume.run(
        call.request(message), work, durable=call.durable(message, customary=True)
    )
    return _set(call, message, node.volume, stored)
