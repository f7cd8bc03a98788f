"""Which uplink a new connection gets: the chains from the configuration's rules to a slot of a policy's map.

    choose4, choose6       the rules for forwarded connections, then the first policy
    own4, own6             the same for the router's own, where marks choose
    match_<digest>         parts of both that maps lead to (`mlbd.core.classify`)
    draw4_<policy>         draws a slot of the map `pick4_<policy>`, which leads to an uplink's wish; for what a peer
                           has sent, of `line4_<policy>`, which leads to no peer
    sticky4_<rule>         for a rule with `sticky`: the uplink the source had, if the policy still uses it; else a draw
    stick4_<rule>_<code>   remembers the uplink for the source, and goes on to the uplink's wish

A wish accepts, and so ends all of this; a draw that leads nowhere leaves the connection to `main`. What a failover
changes is in maps: `pick`, `line` and `fresh` (240 slots), `keep` (a slot for each member) and `use` (one slot: the
uplink, or nothing).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

from msgspec.structs import replace

from mlbd.core import prefixes
from mlbd.core.classify import Classifier, Entry
from mlbd.core.decision import Decision, Pick, View, decide_one
from mlbd.core.layout import WISH, Identities, Layout, chain_name
from mlbd.core.match import Box, box
from mlbd.core.peers import may_know, peers, slot_name
from mlbd.core.ranges import family_of, of_prefix
from mlbd.core.settings import FAMILIES, MAIN, Family, Policy, Rule, Settings
from mlbd.core.shares import SLOTS
from mlbd.core.state import AddressSet, Chain, KernelState, Object, SlotMap, Statement

HASH_SEED = 0x6D6C6264
"""Fixed: without a seed nftables chooses one at every load, and sources would change uplinks."""

_SAMPLE = 8
"""One packet of so many renews what a source sticks to: each would be as good, but for the work."""


def chain(name: str, texts: list[str]) -> Chain:
    return Chain(name, None, tuple(Statement.of(text) for text in texts))


def map_name(policy: str, family: Family) -> str:
    return f"pick{family}_{policy}"


Pins = tuple[tuple[str, str], ...]
"""Uplinks with the IPv6 prefixes whose hosts must leave by them, because another uplink would not translate."""


Handed = tuple[tuple[str, ...], tuple[str, ...]]
"""Of IPv4 and IPv6: conditions of which one holds where a peer has sent a packet."""


def footing(settings: Settings, identities: Identities, pinned: Pins, handed: Handed) -> KernelState:
    """The chains, which facts shape."""
    codes = tuple(identities.uplinks.items())
    marks = settings.marks_own(4), settings.marks_own(6)
    with_peers = tuple(policy.name for policy in settings.policies if _lines(settings, policy) != policy)
    return _chains(settings.rules, settings.policies, codes, pinned, handed, with_peers, *marks)


def renewals(settings: Settings, layout: Layout, identities: Identities) -> list[Chain]:
    """The chain by which packets of a connection renew what its source sticks to; none without sticky rules."""
    texts = []
    for rule, policy, family in _sticky(settings):
        for member in policy.members:
            name, code = set_name(rule, family, identities.uplinks[member]), identities.uplinks[member]
            fact = f"ct mark & {layout.code_mask:#010x} == {layout.mark(code):#010x}"
            source = _source(family)
            texts.append(f"{fact} ct direction original {source} @{name} update @{name} {{ {source} }}")
    return [chain("renew", texts)] if texts else []


SAMPLED = f"numgen random mod {_SAMPLE} == 0 jump renew"


# Maps.


def balancing(settings: Settings, identities: Identities, decision: Decision, pinned: Pins) -> Iterator[Object]:
    """The maps, which verdicts shape."""
    for policy in settings.policies:
        for family in FAMILIES:
            chosen, code = decision.picks[policy.name, family], identities.policies[policy.name]
            wishes = _wishes(policy, tuple(identities.uplinks[name] for name in policy.members))
            yield _slot_map(map_name(policy.name, family), policy, chosen, wishes, code)
            lines = _lines(settings, policy)
            if lines != policy:
                chosen = decide_one(lines, family, decision.views, decision.settled)
                yield _slot_map(_line_map(policy.name, family), lines, chosen, wishes, code)
    for rule, policy, family in _sticky(settings):
        chosen, code = decision.picks[policy.name, family], identities.policies[policy.name]
        wishes = {name: _stick_name(rule, family, identities.uplinks[name]) for name in policy.members}
        yield _slot_map(f"fresh{family}_{rule.name}", policy, chosen, wishes, code)
        keeps = tuple(wishes[name] if name in chosen.chosen else "" for name in policy.members)
        yield SlotMap(f"keep{family}_{rule.name}", keeps)
    used = {rule.use for rule in settings.rules}
    used6 = used.union(name for name, _ in pinned)
    for uplink in settings.uplinks:
        for family in FAMILIES:
            if uplink.name in (used if family == 4 else used6):
                carries = decision.carries(uplink.name, family)
                yield SlotMap(_use_name(uplink.name, family), (_wish(identities, uplink.name) if carries else "",))
    for peer in peers(settings):
        for family in FAMILIES:
            known = may_know(decision.views[peer.name], family)
            yield SlotMap(slot_name(peer.name, family), (_wish(identities, peer.name) if known else "",))


@lru_cache(maxsize=64)
def _wishes(policy: Policy, codes: tuple[int, ...]) -> Mapping[str, str]:
    return {name: chain_name(WISH, code, name) for name, code in zip(policy.members, codes, strict=True)}


def _slot_map(name: str, policy: Policy, chosen: Pick, wishes: Mapping[str, str], code: int) -> SlotMap:
    """Slots without an element leave a connection unmarked: to `main`."""
    whole = chain_name(WISH, code, policy.name)
    refused = chosen.last_resort in ("unreachable", "blackhole")
    if policy.method == "multipath":
        return SlotMap(name, (whole if chosen.chosen or refused else "",))
    if chosen.chosen:
        return SlotMap(name, tuple(map(wishes.__getitem__, chosen.slots())))
    return SlotMap(name, (whole if refused else "",) * SLOTS)


def _line_map(policy: str, family: Family) -> str:
    return f"line{family}_{policy}"


def _lines(settings: Settings, policy: Policy) -> Policy:
    """The policy without peers. By chance where it would be `multipath`: that goes by the one route of all members."""
    away = {peer.name for peer in peers(settings)} & {*policy.members}
    if not away:
        return policy
    tiers = tuple(tier for names in policy.tiers if (tier := tuple(name for name in names if name not in away)))
    weights = tuple((name, weight) for name, weight in policy.weights if name not in away)
    method = "random" if policy.method == "multipath" else policy.method
    return replace(policy, method=method, tiers=tiers, weights=weights)


# Chains.


@lru_cache(maxsize=8)
def _chains(
    rules: tuple[Rule, ...],
    policies: tuple[Policy, ...],
    uplink_codes: tuple[tuple[str, int], ...],
    pins: Pins,
    handed: Handed,
    with_peers: tuple[str, ...],
    *marking: bool,
) -> KernelState:
    identities = Identities(dict(uplink_codes), {})
    by_name = {policy.name: policy for policy in policies}
    objects: list[Object] = []
    for family, marks_own, sent in zip(FAMILIES, marking, handed, strict=True):
        for policy in policies:
            draw = _draw(policy, map_name(policy.name, family), family)
            if policy.name in with_peers:
                lines = _draw(policy, _line_map(policy.name, family), family)
                draw = [*(f"{condition} {each}" for condition in sent for each in lines), *draw]
            objects.append(chain(_draw_name(policy.name, family), draw))
        for rule in rules:
            if rule.sticky is not None:
                objects += _sticky_chains(rule, by_name[rule.use], family, identities, sent)
        classifier = Classifier(family)
        last = f"goto {_draw_name(policies[0].name, family)}"
        pinned = [
            Entry(Box(source=(of_prefix(prefix),)), _use(name, family), final=False)
            for name, prefix in pins
            if family_of(prefix) == family
        ]
        chosen = classifier.statements([*pinned, *_entries(rules, by_name, family, own=False)])
        objects.append(chain(f"choose{family}", [*chosen, last]))
        if marks_own:
            chosen = classifier.statements([*pinned, *_entries(rules, by_name, family, own=True)])
            objects.append(chain(f"own{family}", [*chosen, last]))
        objects += (chain(name, list(texts)) for name, texts in classifier.chains.items())
    return KernelState(objects)


def _entries(rules: tuple[Rule, ...], policies: dict[str, Policy], family: Family, *, own: bool) -> list[Entry]:
    entries = []
    for rule in rules:
        found = box(rule, family)
        if found is None or (found := found.of_interface(own)) is None:
            continue
        if rule.use == MAIN:
            entries.append(Entry(found, "accept"))
        elif rule.use in policies:
            sticky = rule.sticky is not None
            entries.append(
                Entry(found, f"goto {_sticky_name(rule, family) if sticky else _draw_name(rule.use, family)}")
            )
        else:
            entries.append(Entry(found, _use(rule.use, family), final=False))
    return entries


def _draw_name(policy: str, family: Family) -> str:
    return f"draw{family}_{policy}"


def _draw(policy: Policy, map_of_slots: str, family: Family) -> list[str]:
    """The statements that draw a slot; without one that leads anywhere, all is said."""
    if policy.method == "multipath":
        slot = "numgen inc mod 1"
    elif policy.method == "hash-source":
        slot = f"jhash {_source(family)} mod {SLOTS} seed {HASH_SEED:#010x}"
    else:
        slot = f"numgen {'inc' if policy.method == 'round-robin' else 'random'} mod {SLOTS}"
    return [f"{slot} vmap @{map_of_slots}", "accept"]


def _source(family: Family) -> str:
    return "ip saddr" if family == 4 else "ip6 saddr"


def _wish(identities: Identities, uplink: str) -> str:
    return chain_name(WISH, identities.uplinks[uplink], uplink)


def _use_name(uplink: str, family: Family) -> str:
    return f"use{family}_{uplink}"


def _use(uplink: str, family: Family) -> str:
    """The uplink while it is usable; else what comes after."""
    return f"numgen inc mod 1 vmap @{_use_name(uplink, family)}"


# Sticky rules.


def _sticky(settings: Settings) -> Iterator[tuple[Rule, Policy, Family]]:
    policies = {policy.name: policy for policy in settings.policies}
    return ((r, policies[r.use], family) for r in settings.rules if r.sticky is not None for family in FAMILIES)


def set_name(rule: Rule, family: Family, code: int) -> str:
    """Of the sources that stick to an uplink. The timeout is part of it: nftables can't change that of a set."""
    assert rule.sticky is not None
    return f"stuck{family}_{rule.name}_{round(rule.sticky)}_{code}"


def _sticky_name(rule: Rule, family: Family) -> str:
    return f"sticky{family}_{rule.name}"


def _stick_name(rule: Rule, family: Family, code: int) -> str:
    return f"stick{family}_{rule.name}_{code}"


def _sticky_chains(
    rule: Rule, policy: Policy, family: Family, identities: Identities, sent: tuple[str, ...]
) -> Iterator[Object]:
    """`sent`: as of `Handed`; what a peer has sent does not stick to where our own packets of that source leave."""
    source = _source(family)
    codes = [identities.uplinks[member] for member in policy.members]
    sets = {code: set_name(rule, family, code) for code in codes}
    looks = []
    for position, (code, name) in enumerate(sets.items()):
        assert rule.sticky is not None
        yield AddressSet(name, family, round(rule.sticky))
        looks.append(f"{source} @{name} numgen inc mod 1 offset {position} vmap @keep{family}_{rule.name}")
        forgets = [f"delete @{other} {{ {source} }}" for other in sets.values() if other != name]
        uplink = next(member for member in policy.members if identities.uplinks[member] == code)
        stick = [*forgets, f"update @{name} {{ {source} }}", f"goto {_wish(identities, uplink)}"]
        yield chain(_stick_name(rule, family, code), stick)
    drawn = [f"{condition} goto {_draw_name(policy.name, family)}" for condition in sent]
    yield chain(_sticky_name(rule, family), [*drawn, *looks, *_draw(policy, f"fresh{family}_{rule.name}", family)])


# IPv6 prefixes.


def pins(settings: Settings, views: Mapping[str, View]) -> Pins:
    natural = [u.name for u in settings.uplinks if u.nat6 == "none"]
    owned = {u.name: prefixes.owned(u, views[u.name].facts, views[u.name].prefixes) for u in settings.uplinks}
    return tuple(
        (name, prefix)
        for name, own in owned.items()
        if any(other != name for other in natural)
        for prefix in own
        if not any(prefix in theirs for other, theirs in owned.items() if other != name)
    )
