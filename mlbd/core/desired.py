"""What the kernel should hold, given settings, identities and a decision.

Facts shape an uplink's own tables, verdicts only the balancing: maps, policy tables, the set of dead uplinks. So an
uplink that is down keeps the very path through which probes will see it recover.

The nftables table works by one principle: the packet's mark is a wish, decided on a connection's first packet; the
connection's mark is a fact, the uplink that the connection really left by or came in on. `prerouting` restores the
fact or, for a new connection, makes a wish; routing rules turn a mark into a table; `postrouting` records the fact.
Where an established connection's way is restored there are comparisons only, no set or map: a look-up can miss in the
moment in which nftables changes generations, and a restored mark must never.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

from mlbd.core.decision import Decision, Pick, View
from mlbd.core.facts import Gateway
from mlbd.core.layout import ARRIVE, FACT, WISH, Identities, Layout, chain_name
from mlbd.core.reach import Gateways
from mlbd.core.settings import FAMILIES, Family, Policy, Settings, Uplink
from mlbd.core.shares import SLOTS
from mlbd.core.state import (
    Chain,
    Counter,
    Helper,
    Hook,
    Hop,
    KernelState,
    MarkSet,
    Object,
    Route,
    Rule,
    Saved,
    SlotMap,
    Statement,
    Sysctl,
)

MAIN_TABLE = 254
GATEWAY_METRIC = 1
BACKSTOP_METRIC = 4294967295
"""The largest there is: behind every other route of its table, so that an emptied table never falls through."""

SYSCTLS = ("ignore_routes_with_linkdown", "promote_secondaries", "src_valid_mark")
"""Set to 1 on every uplink's interface: a dead route is skipped; a changed address keeps its successors; the reverse
path of a marked packet is looked up with its mark, so that the administrator's rp_filter may be what it is."""

HASH_SEED = 0x6D6C6264
"""Fixed: without a seed nftables chooses one at every load, and sources would change uplinks."""

MANGLE = -150
FILTER = 0
SRCNAT = 100

HELPERS: dict[str, tuple[tuple[str, int], ...]] = {
    "RAS": (("udp", 1719),),
    "Q.931": (("tcp", 1720),),
    "amanda": (("udp", 10080),),
    "ftp": (("tcp", 21),),
    "irc": (("tcp", 6667),),
    "netbios-ns": (("udp", 137),),
    "pptp": (("tcp", 1723),),
    "sane": (("tcp", 6566),),
    "sip": (("udp", 5060),),
    "snmp": (("udp", 161),),
    "tftp": (("udp", 69),),
}
"""The kernel's conntrack helpers and the ports of their control connections (net/netfilter/nf_conntrack_*.c)."""


def desired(settings: Settings, identities: Identities, decision: Decision, observed: KernelState) -> KernelState:
    """Everything we want to own. `observed` only tells what sysctls were before us."""
    layout = Layout.of(settings.daemon)
    numbers = tuple(identities.uplinks[u.name] for u in settings.uplinks)
    parts: list[KernelState] = []
    objects: list[Object] = []
    for number, uplink in zip(numbers, settings.uplinks, strict=True):
        view = decision.views[uplink.name]
        addresses = () if view.facts is None else view.facts.addresses
        parts.append(_uplink_tables(layout, uplink.interface, number, view.routes, view.families, addresses))
        parts.append(_uplink_chains(layout, uplink.name, number))
        objects += _sysctls(uplink.interface, view, observed)
    parts.append(_fixed_rules(layout, identities.policies[settings.policies[0].name]))
    for policy in settings.policies:
        code = identities.policies[policy.name]
        parts.append(_policy_rules(layout, policy.name, code))
        for family in FAMILIES:
            chosen = decision.picks[policy.name, family]
            objects.append(_slot_map(policy.name, family, chosen, identities, code))
            objects += _policy_route(layout, family, chosen, identities, decision, code)
    codes = frozenset(layout.mark(identities.uplinks[name]) for name in decision.dead)
    objects.append(MarkSet("dead", codes))
    parts.append(_base_chains(layout, numbers, settings.uplinks, settings.policies[0], settings.conntrack.helpers))
    objects += _restored({u.interface for u in settings.uplinks}, observed)
    return KernelState.merged([*parts, KernelState(objects)])


def released(observed: KernelState) -> KernelState:
    """Nothing of ours; sysctls as they were."""
    return KernelState(_restored(set(), observed))


# Routing.


# What follows from settings and facts alone is kept: it makes up nearly all objects, and seldom changes.


@lru_cache(maxsize=512)
def _uplink_tables(
    layout: Layout,
    interface: str,
    number: int,
    routes: Gateways,
    families: frozenset[Family],
    addresses: tuple[str, ...],
) -> KernelState:
    own, probes = layout.table(number), layout.probe_table(number)
    objects: list[Object] = []
    for family, gateway in zip(FAMILIES, routes, strict=True):
        mark = layout.mark(number)
        objects.append(Rule(family, layout.bound_priority(number), table=probes, oif=interface))
        objects.append(Rule(family, layout.mark_priority(number), table=own, mark=mark, mask=layout.code_mask))
        objects.append(Route(family, own, BACKSTOP_METRIC, "unreachable"))
        if gateway is not None:
            hop = _hop(interface, gateway)
            objects.append(Route(family, own, GATEWAY_METRIC, hops=(hop,)))
            objects.append(Route(family, probes, GATEWAY_METRIC, hops=(hop,)))
        if family in families:
            for prefix in _sources(addresses, family):
                objects.append(Rule(family, layout.source_priority(number), table=own, source=prefix))
    return KernelState(objects)


def _hop(interface: str, gateway: Gateway, weight: int = 1) -> Hop:
    return Hop(interface, gateway.address, weight, gateway.onlink)


def _sources(addresses: tuple[str, ...], family: Family) -> list[str]:
    """IPv4 addresses, IPv6 prefixes: temporary addresses come and go within the prefix."""
    interfaces = [ipaddress.ip_interface(a) for a in addresses]
    return sorted({f"{i.ip}/32" if family == 4 else str(i.network) for i in interfaces if i.version == family})


@lru_cache(maxsize=8)
def _fixed_rules(layout: Layout, first_policy: int) -> KernelState:
    own = layout.table(first_policy)
    main = [Rule(family, layout.main_first, table=MAIN_TABLE, suppress_prefixlen=0) for family in FAMILIES]
    return KernelState([*main, *(Rule(family, layout.own_priority, table=own, iif="lo") for family in FAMILIES)])


@lru_cache(maxsize=64)
def _policy_rules(layout: Layout, name: str, code: int) -> KernelState:
    priority, table, mark = layout.mark_priority(code), layout.table(code), layout.mark(code)
    rules = [Rule(family, priority, table=table, mark=mark, mask=layout.code_mask) for family in FAMILIES]
    return KernelState([*rules, _wish(layout, code, name)])


def _policy_route(
    layout: Layout, family: Family, chosen: Pick, identities: Identities, decision: Decision, code: int
) -> Iterator[Object]:
    """The router's own connections: weighted next hops, in order of id so that a restart lists them alike."""
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
        hops.append(_hop(view.facts.name, gateway, weight))
    if family == 6 and len(hops) > 1:  # the kernel refuses a multipath hop without a gateway (net/ipv6/route.c)
        hops = [hop for hop in hops if hop.gateway is not None] or hops[:1]
    if len(hops) == 1:
        hops = [replace(hops[0], weight=1)]
    if hops:
        yield Route(family, table, GATEWAY_METRIC, hops=tuple(hops))


# Sysctls.


def _sysctls(interface: str, view: View, observed: KernelState) -> Iterator[Object]:
    before = observed.get(("saved", interface))
    if before is not None:
        yield before
    if view.facts is None:
        return
    present = [s for n in SYSCTLS if isinstance(s := observed.get(("sysctl", interface, n)), Sysctl)]
    if before is None and present:
        yield Saved(interface, tuple((s.name, s.value) for s in present))
    for item in present:
        yield Sysctl(interface, item.name, "1")


def _restored(interfaces: set[str], observed: KernelState) -> Iterator[Object]:
    """Sysctls of interfaces that are no uplinks any more, as they were before."""
    for item in observed.values():
        if isinstance(item, Saved) and item.interface not in interfaces:
            for name, value in item.values:
                if ("sysctl", item.interface, name) in observed:
                    yield Sysctl(item.interface, name, value)


# nftables.


def _wish(layout: Layout, code: int, name: str) -> Chain:
    text = f"meta mark set meta mark & {layout.others_mask:#010x} | {layout.mark(code):#010x}"
    return Chain(chain_name(WISH, code, name), None, (Statement.of(text),))


def counter_name(uplink: str) -> str:
    """Of the connections assigned to an uplink."""
    return f"uplink_{uplink}"


@lru_cache(maxsize=512)
def _uplink_chains(layout: Layout, name: str, number: int) -> KernelState:
    wish, fact = chain_name(WISH, number, name), chain_name(FACT, number, name)
    record = f"ct mark set ct mark & {layout.others_mask:#010x} | {layout.mark(number):#010x}"
    return KernelState(
        [
            Counter(counter_name(name)),
            _wish(layout, number, name),
            _chain(fact, None, [record, f'counter name "{counter_name(name)}"']),
            _chain(chain_name(ARRIVE, number, name), None, [f"jump {fact}", f"goto {wish}"]),
        ]
    )


def map_name(policy: str, family: Family) -> str:
    return f"pick{family}_{policy}"


def _slot_map(policy: str, family: Family, chosen: Pick, identities: Identities, code: int) -> SlotMap:
    """Slots without an element leave a connection unmarked: to `main`."""
    if chosen.chosen:
        chains = {name: chain_name(WISH, identities.uplinks[name], name) for name in chosen.chosen}
        return SlotMap(map_name(policy, family), tuple(chains[name] for name in chosen.slots()))
    refused = chosen.last_resort in ("unreachable", "blackhole")
    return SlotMap(map_name(policy, family), (chain_name(WISH, code, policy) if refused else "",) * SLOTS)


@lru_cache(maxsize=8)
def _base_chains(
    layout: Layout, numbers: tuple[int, ...], configured: tuple[Uplink, ...], first: Policy, helpers: tuple[str, ...]
) -> KernelState:
    uplinks = tuple(zip(numbers, configured, strict=True))
    known = f"ct mark & {layout.code_mask:#010x} != 0"
    flag = f"{layout.flag:#010x}"
    interfaces = "{ " + ", ".join(f'"{u.interface}"' for _, u in uplinks) + " }"
    prerouting = [
        f"{known} goto restore",
        "ct state != new accept",
        *(f'iifname "{u.interface}" goto {chain_name(ARRIVE, n, u.name)}' for n, u in uplinks),
        # Not `type unicast`: of an IPv6 address without a route, which is one we may have to refuse, it is not true.
        f"meta mark & {layout.code_mask:#010x} == 0 fib daddr type != {{ local, broadcast, multicast, anycast }} "
        "goto choose",
    ]
    restore = [
        f"ct mark & {layout.code_mask:#010x} == {layout.mark(n):#010x} goto {chain_name(WISH, n, u.name)}"
        for n, u in uplinks
    ]
    # Also connections that began before us are recorded, hence no `ct state new`.
    postrouting = [
        f"{known} accept",
        *(f'oifname "{u.interface}" goto {chain_name(FACT, n, u.name)}' for n, u in uplinks),
    ]
    forward = [
        # A FIN of a connection that conntrack has forgotten would leave with the LAN's address.
        f"ct state invalid oifname {interfaces} drop",
        f"ct mark & {layout.code_mask:#010x} == 0 accept",
        "meta l4proto != tcp accept",
        f"ct mark & {flag} == 0 ct state established ct mark set ct mark | {flag}",
        f"iifname != {interfaces} tcp flags & (syn | rst) == 0 ct mark & {layout.code_mask:#010x} @dead "
        "reject with tcp reset",
    ]
    srcnat = [
        f'oifname "{u.interface}" meta nfproto {family} masquerade'
        for _, u in uplinks
        for family, wanted in (("ipv4", u.masquerade), ("ipv6", u.nat6 == "masquerade"))
        if wanted
    ]
    chains: list[Object] = [
        _chain("prerouting", Hook("filter", "prerouting", MANGLE), prerouting),
        _chain("output", Hook("route", "output", MANGLE), [f"{known} goto restore"]),
        _chain("postrouting", Hook("filter", "postrouting", MANGLE), postrouting),
        _chain("forward", Hook("filter", "forward", MANGLE), forward),
        _chain("srcnat", Hook("nat", "postrouting", SRCNAT), srcnat),
        _chain("restore", None, restore),
        _chain("choose", None, _draw(first)),
    ]
    if helpers:
        controls = []
        for name in helpers:
            for protocol, port in HELPERS[name]:
                chains.append(Helper(name, "tcp" if protocol == "tcp" else "udp"))
                controls.append(f'ct state new {protocol} dport {port} ct helper set "{name}"')
        chains.append(_chain("helper_forwarded", Hook("filter", "prerouting", FILTER), controls))
        chains.append(_chain("helper_own", Hook("filter", "output", FILTER), controls))
    return KernelState(chains)


def _chain(name: str, hook: Hook | None, texts: list[str]) -> Chain:
    return Chain(name, hook, tuple(Statement.of(text) for text in texts))


def _draw(policy: Policy) -> list[str]:
    """The statements that draw a slot."""

    def draw(family: Family) -> str:
        if policy.method == "hash-source":
            return f"jhash {'ip' if family == 4 else 'ip6'} saddr mod {SLOTS} seed {HASH_SEED:#010x}"
        return f"numgen {'inc' if policy.method == 'round-robin' else 'random'} mod {SLOTS}"

    return [f"meta nfproto ipv{family} {draw(family)} vmap @{map_name(policy.name, family)}" for family in FAMILIES]
