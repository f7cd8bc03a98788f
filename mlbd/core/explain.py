"""Where a new connection would go, and why: the part of `mlbd explain` that needs nobody's answer.

`choose` says what the rules, the policies and the decision in force make of a packet. What the kernel answers is added
by `mlbd.explaining`, for only the kernel knows the routes of `main` and the rules of other programs; `taken` says who
that is. An `Explanation` is all of it together.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from mlbd.core import prefixes, ranges, sharing
from mlbd.core.decision import Decision
from mlbd.core.diversion import MAIN_TABLE, table_name
from mlbd.core.layout import Layout
from mlbd.core.match import OWN, Packet, box, matching
from mlbd.core.ports import Way
from mlbd.core.question import Question
from mlbd.core.ranges import Ranges
from mlbd.core.settings import MAIN, MAX_UPLINK_ID, Family, Policy, Settings, Uplink
from mlbd.core.settings import Rule as Wanted
from mlbd.core.shares import shares
from mlbd.core.state import Rule
from mlbd.core.steering import pins

LOCAL_TABLE = 255


class Skipped(Struct, frozen=True):
    """A rule that matches but does not decide, since its uplink is not usable."""

    rule: str
    uplink: str


class Choice(Struct, frozen=True, kw_only=True):
    """What becomes of a new connection, as far as it is ours to route."""

    rule: str | None = None
    """None: no rule decides, but the first policy or something said in `notes`."""
    use: str
    """A policy, an uplink, or `main`."""
    policy: str | None = None
    method: str | None = None
    tier: int | None = None
    """0 is the first."""
    last_resort: str | None = None
    shares: tuple[tuple[str, float], ...] = ()
    """The uplinks that it may leave by, with the ratio of connections that do."""
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()


class Candidate(Struct, frozen=True, kw_only=True):
    uplink: str
    share: float
    gateway: str | None
    device: str
    source: str | None
    """The address that its packets leave with."""
    error: str
    """Why the kernel has no route; "" if it has one."""


class Explanation(Struct, frozen=True, kw_only=True):
    """The answer; its fields are the keys of `mlbd explain --json`."""

    asked: Question
    rule: str | None
    use: str
    policy: str | None
    method: str | None
    tier: int | None
    last_resort: str | None
    candidates: tuple[Candidate, ...]
    skipped: tuple[Skipped, ...]
    pinned: str | None
    """The uplink of the connections that exist already; None: there are none, or on several uplinks."""
    connections: dict[str, int]
    """How many exist already, by uplink."""
    route: Way | None
    """The one way it takes; None while there are several candidates."""
    notes: tuple[str, ...]


# What the configuration makes of it.


def choose(settings: Settings, decision: Decision, packet: Packet) -> Choice:
    """For the first packet of a connection."""
    shared = sharing.shared(settings.uplinks)
    for uplink in settings.uplinks:
        if uplink.interface == packet.interface and uplink.interface not in shared:
            text = f"it comes in by {uplink.name}, so what answers it leaves by {uplink.name}, too"
            return _by_uplink(uplink.name, notes=(text,))
    if not decision.settled:
        return Choice(use=MAIN, notes=("start-up still waits for first verdicts; until then main routes it",))
    if packet.interface != OWN and _to_many(packet):
        return Choice(use=MAIN, notes=("it is multicast or broadcast, which mlbd does not steer",))
    owner = _owner(settings, decision, packet)
    lost: tuple[str, ...] = ()
    if owner is not None:
        assert packet.source is not None
        address, usable = ranges.address_text(packet.source, packet.family), decision.carries(owner, packet.family)
        if usable or packet.interface == OWN:
            unusable = () if usable else (f"{owner} is not usable",)
            return _by_uplink(owner, notes=(f"{address} is an address of {owner}, so it leaves by {owner}", *unusable))
        lost = (f"{address} is an address of {owner}, which is not usable",)
    skipped: list[Skipped] = []
    decider: Wanted | None = None
    names = {uplink.name for uplink in settings.uplinks}
    for rule in matching(settings.rules, packet):
        if rule.use in names and not decision.carries(rule.use, packet.family):
            skipped.append(Skipped(rule.name, rule.use))
            continue
        decider = rule
        break
    notes = (*lost, *_by_gateway(settings, shared, packet), *_near_misses(settings.rules, decider, packet))
    if decider is None:
        found = _by_policy(settings, decision, settings.policies[0], packet)
    elif decider.use == MAIN:
        found = Choice(use=MAIN)
    elif decider.use in names:
        found = _by_uplink(decider.use)
    else:
        policy = next(p for p in settings.policies if p.name == decider.use)
        found = _by_policy(settings, decision, policy, packet)
    notes = (*notes, *_strangers(settings, decision, packet, found), *_handed_back(settings, packet, found))
    chosen_by_mark = packet.interface != OWN or settings.marks_own(packet.family)
    if decider is not None and decider.sticky is not None and len(found.shares) > 1 and chosen_by_mark:
        kept = f"a source keeps the uplink that it used in the last {decider.sticky:g} s, if that is still a candidate"
        notes = (*notes, kept)
    return replace(
        found, rule=None if decider is None else decider.name, skipped=tuple(skipped), notes=(*found.notes, *notes)
    )


def _by_gateway(settings: Settings, shared: sharing.Shared, packet: Packet) -> Iterator[str]:
    names = [u.name for u in settings.uplinks if u.interface == packet.interface and not u.peer]
    if names and packet.interface in shared:
        yield f"if it comes from the gateway of {' or '.join(names)}, what answers it leaves by that uplink, too"


def _by_uplink(name: str, notes: tuple[str, ...] = ()) -> Choice:
    return Choice(use=name, shares=((name, 1.0),), notes=notes)


def _to_many(packet: Packet) -> bool:
    address = ipaddress.ip_address(ranges.address_text(packet.destination, packet.family))
    return address.is_multicast or str(address) == "255.255.255.255"


def _owner(settings: Settings, decision: Decision, packet: Packet) -> str | None:
    """The uplink whose address the source is, and by which it therefore leaves.

    Routing rules see to that for the router's own sockets, unless marks choose for them; for IPv6 hosts behind it, the
    pins of `mlbd.core.steering`.
    """
    if packet.source is None:
        return None
    if packet.interface != OWN:
        theirs = list(pins(settings, decision.views)) if packet.family == 6 else []
    elif settings.marks_own(packet.family):
        theirs = []
    else:
        theirs = [
            (uplink.name, prefix) for uplink in settings.uplinks for prefix in _own(settings, uplink, decision, packet)
        ]
    for name, prefix in theirs:
        low, high = ranges.of_prefix(prefix)
        if low <= packet.source <= high:
            return name
    return None


def _own(settings: Settings, uplink: Uplink, decision: Decision, packet: Packet) -> tuple[str, ...]:
    """What routing rules by source address are made for."""
    view = decision.views[uplink.name]
    facts = view.facts
    if packet.family not in view.families:
        return ()
    if packet.family == 6:
        return prefixes.owned(uplink, facts)
    every = [found.facts for found in decision.views.values()]
    found = sharing.own_addresses(sharing.shared(settings.uplinks), uplink, facts, every)
    return tuple(a.partition("/")[0] + "/32" for a in found)


def _strangers(settings: Settings, decision: Decision, packet: Packet, found: Choice) -> Iterator[str]:
    """Uplinks that would be left by with another's address, which is refused (`mlbd.core.ruleset`)."""
    if packet.family == 4 or packet.source is None or packet.interface == OWN:
        return
    whose = {
        uplink.name
        for uplink in settings.uplinks
        if any(
            low <= packet.source <= high
            for low, high in map(ranges.of_prefix, prefixes.owned(uplink, decision.views[uplink.name].facts))
        )
    }
    for name, _ in found.shares:
        if whose and name not in whose and settings.uplink(name).nat6 == "none":
            yield f"{name} does not translate an address of {' and '.join(sorted(whose))}, so it is rejected there"


def _handed_back(settings: Settings, packet: Packet, found: Choice) -> Iterator[str]:
    """Peers that get nothing back which they have sent."""
    for name, _ in found.shares:
        if settings.uplink(name).peer and settings.uplink(name).interface == packet.interface:
            yield f"if {name} has sent it, it is refused: nothing goes back to where it came from"


def _by_policy(settings: Settings, decision: Decision, policy: Policy, packet: Packet) -> Choice:
    pick = decision.picks[policy.name, packet.family]
    found = tuple(shares(pick.slots()).items())
    notes: list[str] = []
    if len(found) > 1 and packet.interface == OWN and not settings.marks_own(packet.family):
        notes.append("the router's own connections are spread by routing, in proportion to the weights")
    elif len(found) > 1 and policy.method == "hash-source":
        notes.append("the source decides which of them; the shares are those of all sources")
    if pick.tier is None:
        had = any(packet.family in decision.views[name].families for name in policy.members)
        why = "is usable" if had else f"ever had an IPv{packet.family} gateway"
        outcome = {
            "best": f"{', '.join(sorted(pick.chosen))} failed last and gets what there is",
            "unreachable": "it is refused as unreachable",
            "blackhole": "it is dropped",
            "main": "main routes it",
        }[pick.last_resort or "main"]
        notes.append(f"no member of {policy.name} {why}: {outcome}")
    return Choice(
        use=policy.name,
        policy=policy.name,
        method=policy.method,
        tier=pick.tier,
        last_resort=pick.last_resort,
        shares=found,
        notes=tuple(notes),
    )


def _near_misses(rules: Sequence[Wanted], decider: Wanted | None, packet: Packet) -> Iterator[str]:
    """Rules before the one that decides which would match if a port had been given."""
    for rule in rules:
        if rule == decider:
            return
        found = box(rule, packet.family)
        if found is None or found.matches(packet):
            continue
        needs = []
        if packet.port is None and found.port is not None:
            needs.append(f"--port {_listed(found.port)}")
            found = replace(found, port=None)
        if packet.source_port is None and found.source_port is not None:
            needs.append(f"--source-port {_listed(found.source_port)}")
            found = replace(found, source_port=None)
        if needs and found.matches(packet):
            yield f"rule {rule.name} matches only with {' and '.join(needs)}"


def _listed(found: Ranges) -> str:
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in found)


# What the kernel makes of it.


def taken(way: Way, layout: Layout, family: Family, foreign: Sequence[Rule]) -> str | None:
    """Who routes the packet although mlbd wants to, as a sentence; None: nobody does."""
    if way.table is None or layout.table_base < way.table <= layout.use_table(MAX_UPLINK_ID):
        return None
    if way.table == LOCAL_TABLE:
        return "it is for the router itself"
    if way.table == MAIN_TABLE:
        return f"main has a route to it, {_path_text(way)}; mlbd's rules do not apply"
    by = next((rule for rule in foreign if rule.family == family and rule.table == way.table), None)
    who = f"routing rule {by.priority} of another program" if by is not None else "a routing rule of another program"
    return f"{who} sends it to table {table_name(way.table)}, {_path_text(way)}; mlbd's rules do not apply"


def route_text(way: Way) -> str:
    """`via 10.1.0.1 dev wan1, source 10.1.0.2`, or the kernel's error."""
    if way.error:
        return way.error
    return _path_text(way) + (f", source {way.source}" if way.source is not None else "")


def _path_text(way: Way) -> str:
    return (f"via {way.gateway} " if way.gateway is not None else "") + f"dev {way.device}"


def source_after_translation(settings: Settings, decision: Decision, way: Way, source: str) -> str | None:
    """The address with which a packet of this source leaves that way; None: masqueraded, so the device's own."""
    uplink = sharing.by_hop(settings.uplinks, way.device, way.gateway)
    family = ranges.family_of(source)
    if uplink is None:
        return source
    if uplink.masquerade if family == 4 else uplink.nat6 == "masquerade":
        return None
    if family == 4 or uplink.nat6 == "none":
        return source
    own = prefixes.owned(uplink, decision.views[uplink.name].facts)
    address = int(ipaddress.IPv6Address(source))
    exchanged = prefixes.translations(decision.lan_prefixes, own)
    for inside, outside in (*((prefix, prefix) for prefix in own), *exchanged):
        low, high = ranges.of_prefix(inside)
        if low <= address <= high:
            return ranges.address_text(address - low + ranges.of_prefix(outside)[0], 6)
    return None
