"""Routes and routing rules, as `mlbd.core.layout` numbers them.

The configuration's rules for the router's own connections are routing rules too, since only a routing decision chooses
a source address. Each takes three priorities: conditions that must not hold, which go on to the next rule; the look-up
in the policy's table, for every combination of the conditions that must; and, if that table is empty because the policy
leaves its traffic to `main`, the same combinations again, past everything of ours.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import product
from typing import Literal

from msgspec.structs import replace

from mlbd.core import prefixes, ranges, sharing
from mlbd.core.decision import Decision, Pick, View
from mlbd.core.facts import Gateway
from mlbd.core.layout import Identities, Layout
from mlbd.core.match import OWN, box
from mlbd.core.ranges import Ranges
from mlbd.core.reach import Gateways
from mlbd.core.settings import FAMILIES, MAIN, Family, Settings
from mlbd.core.settings import Rule as Wanted
from mlbd.core.state import Hop, KernelState, Object, Route, Rule

MAIN_TABLE = 254
GATEWAY_METRIC = 1
BACKSTOP_METRIC = 4294967295
"""The largest there is: behind every other route of its table, so that an emptied table never falls through."""

ANY_NEIGHBOUR = "fe80::1"
"""IPv6 refuses hops without a gateway in a multipath route (net/ipv6/route.c, ip6_route_multipath_add). On a
point-to-point link there are no neighbours to ask for, and any link-local address leads to the far end."""


def footing(settings: Settings, identities: Identities, views: Mapping[str, View]) -> Iterator[KernelState]:
    """What facts shape, in parts of which most are the same objects every time."""
    layout = Layout.of(settings.daemon)
    shared = sharing.shared(settings.uplinks)
    facts = [views[u.name].facts for u in settings.uplinks]
    for uplink in settings.uplinks:
        view, number = views[uplink.name], identities.uplinks[uplink.name]
        addresses = sharing.own_addresses(shared, uplink, view.facts, facts)
        addresses = addresses or sharing.last_addresses(shared, uplink, view.addresses, facts)
        own = prefixes.owned(uplink, view.facts, view.prefixes)
        shares = uplink.interface in shared
        sockets = "marked" if uplink.peer else "shared" if shares else "all"
        yield _uplink(layout, uplink.interface, sockets, number, view.routes, view.families, addresses, own)
    first = identities.policies[settings.policies[0].name]
    marking = tuple(family for family in FAMILIES if settings.marks_own(family))
    yield _fixed(layout, first, marking)
    for policy in settings.policies:
        yield _policy_marks(layout, identities.policies[policy.name])
    tables = tuple(_table(layout, identities, rule.use) for rule in settings.rules)
    yield _own_rules(layout, settings.rules, tables, tuple(p.name for p in settings.policies), marking)


def balancing(settings: Settings, identities: Identities, decision: Decision) -> Iterator[Object]:
    """What verdicts shape: the routes of policies, and of uplinks that rules name."""
    layout = Layout.of(settings.daemon)
    for policy in settings.policies:
        for family in FAMILIES:
            chosen = decision.picks[policy.name, family]
            yield from _policy_route(layout, family, chosen, identities, decision, identities.policies[policy.name])
    used = {rule.use for rule in settings.rules}
    yield from (
        Route(family, layout.use_table(identities.uplinks[u.name]), GATEWAY_METRIC, hops=(_hop(u.interface, gateway),))
        for u in settings.uplinks
        if u.name in used
        for family in FAMILIES
        if decision.carries(u.name, family) and (gateway := decision.views[u.name].path(family)) is not None
    )


# What follows from settings and facts alone is kept: it makes up nearly all objects, and seldom changes.


@lru_cache(maxsize=512)
def _uplink(
    layout: Layout,
    interface: str,
    sockets: Literal["all", "shared", "marked"],
    number: int,
    routes: Gateways,
    families: frozenset[Family],
    addresses: tuple[str, ...],
    own_prefixes: tuple[str, ...],
) -> KernelState:
    """`sockets`: which of those that are bound to the interface leave by the uplink."""
    own, probes = layout.table(number), layout.probe_table(number)
    objects: list[Object] = []
    for family, gateway in zip(FAMILIES, routes, strict=True):
        mark = layout.mark(number)
        bound = Rule(family, layout.bound_priority(number), table=probes, oif=interface)
        if sockets == "shared":
            objects.append(replace(bound, priority=layout.shared_priority(number)))
        if sockets != "all":
            bound = replace(bound, mark=mark, mask=layout.code_mask)
        objects.append(bound)
        objects.append(Rule(family, layout.mark_priority(number), table=own, mark=mark, mask=layout.code_mask))
        objects.append(Route(family, own, BACKSTOP_METRIC, "unreachable"))
        if gateway is not None:
            hop = _hop(interface, gateway)
            objects.append(Route(family, own, GATEWAY_METRIC, hops=(hop,)))
            objects.append(Route(family, probes, GATEWAY_METRIC, hops=(hop,)))
        if family in families:
            for prefix in _sources(addresses) if family == 4 else own_prefixes:
                objects.append(Rule(family, layout.source_priority(number), table=own, source=prefix))
    return KernelState(objects)


def _hop(interface: str, gateway: Gateway, weight: int = 1) -> Hop:
    return Hop(interface, gateway.address, weight, gateway.onlink)


def _sources(addresses: tuple[str, ...]) -> list[str]:
    """Single addresses in IPv4. In IPv6 whole prefixes: temporary addresses come and go within them."""
    return sorted({f"{ipaddress.ip_interface(a).ip}/32" for a in addresses})


@lru_cache(maxsize=8)
def _fixed(layout: Layout, first_policy: int, marking: tuple[Family, ...]) -> KernelState:
    own = layout.table(first_policy)
    return KernelState(
        [
            *(Rule(family, layout.main_first, table=MAIN_TABLE, suppress_prefixlen=0) for family in FAMILIES),
            # `wg-quick down` deletes every rule that reads like the one above. Without any, what is for the LAN would
            # leave by uplinks until it is repaired.
            *(Rule(family, layout.main_first + 1, table=MAIN_TABLE, suppress_prefixlen=1) for family in FAMILIES),
            # Where marks choose, the first look-up only has to find some way, best the same one every time: the data
            # connection of an FTP client must have the source address of its control connection.
            *(Rule(family, layout.own_main_priority, table=MAIN_TABLE, iif=OWN) for family in marking),
            *(Rule(family, layout.own_priority, table=own, iif=OWN) for family in FAMILIES),
        ]
    )


@lru_cache(maxsize=64)
def _policy_marks(layout: Layout, code: int) -> KernelState:
    priority, table, mark = layout.mark_priority(code), layout.table(code), layout.mark(code)
    return KernelState(Rule(family, priority, table=table, mark=mark, mask=layout.code_mask) for family in FAMILIES)


def _policy_route(
    layout: Layout, family: Family, chosen: Pick, identities: Identities, decision: Decision, code: int
) -> Iterator[Object]:
    """Weighted next hops, in order of id so that a restart lists them alike."""
    table = layout.table(code)
    if chosen.last_resort in ("unreachable", "blackhole"):
        yield Route(family, table, GATEWAY_METRIC, chosen.last_resort)
        return
    members = sorted(((n, w) for n, w in chosen.weights if n in chosen.chosen), key=lambda m: identities.uplinks[m[0]])
    hops = []
    for name, weight in members:
        view = decision.views[name]
        gateway = view.path(family)
        assert gateway is not None
        assert view.facts is not None
        hop = _hop(view.facts.name, gateway, weight)
        if family == 6 and len(members) > 1 and hop.gateway is None:
            if not view.facts.point_to_point:
                continue
            hop = replace(hop, gateway=ANY_NEIGHBOUR)
        hops.append(hop)
    if not hops and members:
        name = members[0][0]
        found = decision.views[name]
        assert found.facts is not None
        hops = [Hop(found.facts.name)]
    if len(hops) == 1:
        hops = [replace(hops[0], weight=1)]
    if hops:
        yield Route(family, table, GATEWAY_METRIC, hops=tuple(hops))


# The configuration's rules.


def _table(layout: Layout, identities: Identities, use: str) -> int | None:
    """None: `main`."""
    if use in identities.policies:
        return layout.table(identities.policies[use])
    return layout.use_table(identities.uplinks[use]) if use != MAIN else None


@lru_cache(maxsize=8)
def _own_rules(
    layout: Layout,
    rules: Sequence[Wanted],
    tables: tuple[int | None, ...],
    policies: tuple[str, ...],
    marking: tuple[Family, ...],
) -> KernelState:
    objects: list[Object] = []
    for number, (rule, table) in enumerate(zip(rules, tables, strict=True)):
        priority = layout.rule_priority_of(number)
        for family in FAMILIES:
            found = box(rule, family)
            if found is None:
                continue
            # Rules of tunnel programs for their own packets stand before all of ours; these go on at our first one.
            early = Rule(family, layout.early_priority, "goto", target=layout.main_first)
            objects += (replace(early, mark=value, mask=mask) for value, mask in rule.marks.some)
            if found.of_interface(own=True) is None or family in marking:
                continue
            unwanted = list(_unwanted(rule, family, Rule(family, priority, "goto", target=priority + 3, iif=OWN)))
            if unwanted:
                objects += [*unwanted, Rule(family, priority + 3, "nop")]
            for each in _combinations(rule, family, Rule(family, priority + 1, iif=OWN)):
                if table is not None:
                    objects.append(replace(each, table=table))
                if table is None or rule.use in policies:
                    past = replace(each, priority=priority + 2, action="goto", target=layout.past_priority)
                    objects.append(past)
    if objects:
        objects += (Rule(family, layout.past_priority, "nop") for family in FAMILIES)
    return KernelState(objects)


def _unwanted(rule: Wanted, family: Family, skip: Rule) -> Iterator[Rule]:
    """What must not hold, one condition each."""
    yield from (replace(skip, source=p) for p in _prefixes(rule.sources.none, family))
    yield from (replace(skip, destination=p) for p in _prefixes(rule.destinations.none, family))
    yield from (replace(skip, protocol=number) for number in rule.protocols.none)
    yield from (replace(skip, mark=value, mask=mask) for value, mask in rule.marks.none)


def _combinations(rule: Wanted, family: Family, each: Rule) -> Iterator[Rule]:
    """What must hold, in every combination."""
    found = box(rule, family)
    assert found is not None
    anything: tuple[None] = (None,)
    protocols: Sequence[int | None] = rule.protocols.some or anything
    if found.port is not None or found.source_port is not None:
        assert found.protocol is not None
        protocols = [n for low, high in found.protocol for n in range(low, high + 1)]
    for source, destination, protocol, port, source_port, mark in product(
        _prefixes(rule.sources.some, family) or anything,
        _prefixes(rule.destinations.some, family) or anything,
        protocols,
        _ports(found.port) or anything,
        _ports(found.source_port) or anything,
        rule.marks.some or anything,
    ):
        value, mask = mark if mark is not None else (None, None)
        yield replace(
            each,
            source=source,
            destination=destination,
            protocol=protocol,
            ports=port,
            source_ports=source_port,
            mark=value,
            mask=mask,
        )


def _ports(found: Ranges | None) -> Ranges:
    """As far as a routing rule takes them (net/core/fib_rules.c, fib_rule_port_range_valid): from 1 to 65534."""
    return tuple((max(low, 1), min(high, 65534)) for low, high in found or () if low <= 65534 and high >= 1)


def _prefixes(some: Sequence[str], family: Family) -> Sequence[str]:
    """Those of the family, as few as will do; none for all addresses, which the kernel knows as no condition."""
    found = ranges.of_prefixes(some, family)
    return [] if found == ranges.every(ranges.bits(family)) else ranges.prefixes(found, family)
