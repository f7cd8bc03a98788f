"""The table `inet mlbd`: its base chains, and what they need of each uplink and policy.

It works by one principle: the packet's mark is a wish, decided on a connection's first packet; the connection's mark is
a fact, the uplink that the connection really left by or came in on. `prerouting` restores the fact or, for a new
connection, makes a wish (`mlbd.core.steering`); routing rules turn a mark into a table; `postrouting` records the fact.
Where an established connection's way is restored there are comparisons only, no set or map: a look-up can miss in the
moment in which nftables changes generations, and a restored mark must never.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from mlbd.core import peers, prefixes, ranges, sharing, steering
from mlbd.core.decision import Decision, View
from mlbd.core.layout import ARRIVE, FACT, WISH, Identities, Layout, chain_name
from mlbd.core.peers import Peering
from mlbd.core.settings import FAMILIES, Settings, Uplink
from mlbd.core.state import Chain, Counter, Helper, Hook, KernelState, MarkSet, Object, Statement
from mlbd.core.steering import SAMPLED, Pins, renewals

MANGLE = -150
STEER = -149
"""After others who mark at `mangle`: of two chains of one priority the younger comes first (net/netfilter/core.c,
nf_hook_entries_grow), and wg-quick's would overwrite a wish with the connection's mark, a fact with its own mark."""
DSTNAT = -100
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

# Not `type unicast`: of an IPv6 address without a route, which is one we may have to refuse, it is not true.
_SOMEWHERE = "fib daddr type != { local, broadcast, multicast, anycast }"

_RENEWAL = "meta nfproto ipv4 udp sport 68 udp dport 67 jump leases"


def footing(
    settings: Settings, identities: Identities, views: Mapping[str, View], pinned: Pins, lan_prefixes: tuple[str, ...]
) -> Iterator[KernelState]:
    """What facts shape, in parts of which most are the same objects every time."""
    layout = Layout.of(settings.daemon)
    numbers = tuple(identities.uplinks[u.name] for u in settings.uplinks)
    for number, uplink in zip(numbers, settings.uplinks, strict=True):
        yield _uplink(layout, uplink.name, number)
    for policy in settings.policies:
        yield _policy(layout, policy.name, identities.policies[policy.name])
    own = tuple(prefixes.owned(u, views[u.name].facts, views[u.name].prefixes) for u in settings.uplinks)
    marking = tuple(f"ipv{family}" for family in FAMILIES if settings.marks_own(family))
    renew = tuple(renewals(settings, layout, identities))
    shared = sharing.shared(settings.uplinks)
    found = [(u, views[u.name].facts) for u in settings.uplinks]
    arrivals = tuple(tuple(sharing.arriving(shared, uplink, facts)) for uplink, facts in found)
    peering = peers.peering(settings, identities, views)
    yield _base(layout, numbers, settings.uplinks, own, arrivals, marking, renew, peering)
    every = [facts for _, facts in found]
    addresses = tuple(sharing.own_addresses(shared, uplink, facts, every) for uplink, facts in found)
    yield _leases(numbers, settings.uplinks, addresses)
    yield _translation(settings.uplinks, own, peers.lan_prefixes(settings.uplinks, views, lan_prefixes))
    yield _guard(settings.uplinks, addresses)
    yield _helpers(settings.conntrack.helpers)
    yield steering.footing(settings, identities, pinned, peering.sent)


def balancing(settings: Settings, identities: Identities, decision: Decision, pinned: Pins) -> Iterator[Object]:
    """What verdicts shape: elements of maps and sets, and nothing else."""
    yield from steering.balancing(settings, identities, decision, pinned)
    layout = Layout.of(settings.daemon)
    for family in FAMILIES:
        dead = (layout.mark(identities.uplinks[name]) for name, of in decision.dead if of == family)
        yield MarkSet(f"dead{family}", frozenset(dead))


def counter_name(uplink: str) -> str:
    """Of the connections assigned to an uplink."""
    return f"uplink_{uplink}"


def _chain(name: str, hook: Hook | None, texts: list[str]) -> Chain:
    return Chain(name, hook, tuple(Statement.of(text) for text in texts))


def _wish(layout: Layout, code: int, name: str) -> Chain:
    text = f"meta mark set meta mark & {layout.others_mask:#010x} | {layout.mark(code):#010x}"
    return _chain(chain_name(WISH, code, name), None, [text, "accept"])


@lru_cache(maxsize=512)
def _uplink(layout: Layout, name: str, number: int) -> KernelState:
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


@lru_cache(maxsize=64)
def _policy(layout: Layout, name: str, code: int) -> KernelState:
    return KernelState([_wish(layout, code, name)])


@lru_cache(maxsize=8)
def _leases(
    numbers: tuple[int, ...], configured: tuple[Uplink, ...], addresses: tuple[tuple[str, ...], ...]
) -> KernelState:
    """A DHCP client's renewal leaves by the uplink that has the address it asks for again, `ciaddr` (RFC 2131 2).

    Some clients, as dhclient, send it from a socket that is bound to no address and no interface.
    """
    uplinks = zip(numbers, configured, addresses, strict=True)
    texts = [
        f"@th,160,32 {int(ipaddress.IPv4Interface(address).ip):#010x} goto {chain_name(WISH, number, uplink.name)}"
        for number, uplink, found in uplinks
        for address in found
    ]
    return KernelState([_chain("leases", None, texts)])


@lru_cache(maxsize=8)
def _base(
    layout: Layout,
    numbers: tuple[int, ...],
    configured: tuple[Uplink, ...],
    own_prefixes: tuple[tuple[str, ...], ...],
    arrivals: tuple[tuple[str, ...], ...],
    marking: tuple[str, ...],
    renew: tuple[Chain, ...],
    peering: Peering,
) -> KernelState:
    uplinks = tuple(zip(numbers, configured, strict=True))
    shared = sharing.shared(configured)
    known = f"ct mark & {layout.code_mask:#010x} != 0"
    unmarked = f"meta mark & {layout.code_mask:#010x} == 0 {_SOMEWHERE}"
    flag = f"{layout.flag:#010x}"
    names = dict.fromkeys(name for u in configured if not u.peer for name in (u.interface, *u.members))
    interfaces = "{ " + ", ".join(f'"{name}"' for name in names) + " }"
    strange = _strangers(configured, own_prefixes)
    not_begun = "tcp flags & (fin | syn | rst | ack) != syn"
    strange_tcp = f"iifname != {interfaces} ct state invalid meta l4proto tcp {not_begun}"
    prerouting = [
        *([SAMPLED] if renew else []),
        f"{known} goto restore",
        *(f"{strange_tcp} {unmarked} {text}" for text in peering.unplaced),
        "ct state != new accept",
        *(
            f"{condition} goto {chain_name(ARRIVE, n, u.name)}"
            for (n, u), conditions in zip(uplinks, arrivals, strict=True)
            for condition in conditions
        ),
        f"{unmarked} goto choose",
    ]
    restore = [
        f"ct mark & {layout.code_mask:#010x} == {layout.mark(n):#010x} goto {chain_name(WISH, n, u.name)}"
        for n, u in uplinks
    ]
    choosing = [f"ct state new meta nfproto {family} {unmarked} goto own{family[-1]}" for family in marking]
    # A tunnel's own packets, which routing sends right by their source: wg-quick's rule, `not fwmark 51820`, compares
    # the whole mark, and would lead one that carries ours too back into the tunnel.
    marked = [
        f"meta nfproto ipv{family} meta mark & {layout.others_mask:#010x} != 0 fib saddr . oif type local accept"
        for family in FAMILIES
        if f"ipv{family}" not in marking
    ]
    established = f"ct mark & {flag} == 0 ct state established ct mark set ct mark | {flag}"
    resets = [
        f"meta nfproto ipv{family} tcp flags & (syn | rst) == 0 ct mark & {layout.code_mask:#010x} @dead{family} "
        "reject with tcp reset"
        for family in FAMILIES
    ]
    own_tcp = [
        established,
        # Probes, which carry a mark, are to find out that it works. To an address that is gone a reset would leave.
        *(f"meta mark & {layout.code_mask:#010x} == 0 ct direction original fib saddr type local {r}" for r in resets),
    ]
    tcp = f"meta l4proto tcp {known} jump own_tcp"
    # What left by an uplink that was removed must not leave by another with its address.
    orphaned = f'meta l4proto tcp {known} oifname != "lo"'
    orphans = [f"{orphaned} fib saddr type local reject with tcp reset", f"{orphaned} drop"]
    output = [*peering.output, *marked, _RENEWAL, tcp, f"{known} jump restore", *orphans, *choosing]
    # Also connections that began before us are recorded, hence no `ct state new`.
    postrouting = [
        *peering.postrouting,
        *marked,
        f"{known} accept",
        *(["meta nfproto ipv6 ct state new jump strange_own"] if strange else []),
        *(
            f"{condition} goto {chain_name(FACT, n, u.name)}"
            for n, u in uplinks
            for condition in sharing.leaving(shared, u)
        ),
    ]
    forward = [
        *peering.forward,
        # Of a connection that neither router knows: that no peer has taken it shows where it is about to leave.
        *(
            f"{strange_tcp} oifname {interfaces} tcp flags & rst == 0 reject with tcp reset"
            for _ in peering.postrouting
        ),
        # A FIN of a connection that conntrack has forgotten would leave with the LAN's address.
        f"ct state invalid oifname {interfaces} drop",
        *(["meta nfproto ipv6 ct state new jump strange_forwarded"] if strange else []),
        f"ct mark & {layout.code_mask:#010x} == 0 accept",
        "meta l4proto != tcp accept",
        established,
        # Who came in may well get through, whatever the probes say, and could not choose another uplink.
        *(f"iifname != {interfaces} ct direction original {reset}" for reset in resets),
    ]
    return KernelState(
        [
            _chain("prerouting", Hook("filter", "prerouting", STEER), prerouting),
            _chain("output", Hook("route", "output", STEER), output),
            _chain("postrouting", Hook("filter", "postrouting", STEER), postrouting),
            _chain("forward", Hook("filter", "forward", MANGLE), forward),
            _chain("own_tcp", None, own_tcp),
            _chain("restore", None, restore),
            _chain("choose", None, ["meta nfproto ipv4 goto choose4", "goto choose6"]),
            *renew,
            *strange,
            *peering.chains,
        ]
    )


def _strangers(configured: tuple[Uplink, ...], own_prefixes: tuple[tuple[str, ...], ...]) -> list[Chain]:
    """What stops new connections, own and forwarded ones, that would leave with another uplink's address."""
    shared = sharing.shared(configured)
    having = [
        (u, p) for u, p in zip(configured, own_prefixes, strict=True) if sharing.serves(shared, u, 6) and not u.peer
    ]
    owned = {u.interface: p for u, p in having}
    natural = [u.interface for u, _ in having if u.nat6 == "none"]
    if not any(p for interface, p in owned.items() if natural != [interface]) or not natural:
        return []
    of_nobody = f"ip6 saddr != {_networks([p for found in owned.values() for p in found])} return"
    at_home = [f'oifname "{name}" ip6 saddr {_networks(owned[name])} return' for name in natural if owned[name]]
    leaving = "oifname { " + ", ".join(f'"{name}"' for name in natural) + " }"
    return [
        _chain("strange_own", None, [of_nobody, *at_home, f"{leaving} drop"]),
        # RFC 4443: "source address failed ingress/egress policy"; a host with several addresses tries the next.
        _chain("strange_forwarded", None, [of_nobody, *at_home, f"{leaving} reject with icmpv6 policy-fail"]),
    ]


def _networks(found: Sequence[str]) -> str:
    return "{ " + ", ".join(ranges.prefixes(ranges.of_prefixes(found, 6), 6)) + " }"


@lru_cache(maxsize=8)
def _translation(
    configured: tuple[Uplink, ...], own_prefixes: tuple[tuple[str, ...], ...], lan: tuple[str, ...]
) -> KernelState:
    """Source addresses become the uplink's; with prefixes also back, so that hosts can be reached."""
    srcnat, dstnat = [], []
    shared = sharing.shared(configured)
    for uplink, own in zip(configured, own_prefixes, strict=True):
        out = f'oifname "{uplink.interface}"'
        if uplink.masquerade and sharing.serves(shared, uplink, 4):
            srcnat.append(f"{out} meta nfproto ipv4 masquerade")
        if not sharing.serves(shared, uplink, 6):
            continue
        if uplink.nat6 == "prefix":
            if own:
                srcnat.append(f"{out} ip6 saddr {_networks(own)} accept")
            for inside, outside in prefixes.translations(lan, own):
                srcnat.append(f"{out} ip6 saddr {inside} snat ip6 prefix to {outside}")
                dstnat.append(f'iifname "{uplink.interface}" ip6 daddr {outside} dnat ip6 prefix to {inside}')
        if uplink.nat6 != "none":  # also what has no prefix of its own to go by
            srcnat.append(f"{out} meta nfproto ipv6 masquerade")
    chains = [_chain("srcnat", Hook("nat", "postrouting", SRCNAT), list(dict.fromkeys(srcnat)))]
    if dstnat:
        to_the_router = "fib daddr type local accept"
        chains.append(_chain("dstnat", Hook("nat", "prerouting", DSTNAT), [to_the_router, *dstnat]))
    return KernelState(chains)


PRIVATE = ("10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16")
"""RFC 1918, 3927, 6598."""


@lru_cache(maxsize=8)
def _guard(configured: tuple[Uplink, ...], addresses: tuple[tuple[str, ...], ...]) -> KernelState:
    """Where an interface has no address at this moment, the kernel masquerades with, or sends from, one of another
    interface (net/ipv4/devinet.c, inet_select_addr). Such a packet would be another uplink's, or the LAN's.
    """
    translating = list(dict.fromkeys(f'"{u.interface}"' for u in configured if u.masquerade))
    if not translating:
        return KernelState()
    of_uplinks = [f"{ipaddress.IPv4Interface(address).ip}/32" for found in addresses for address in found]
    sources = "{ " + ", ".join(ranges.prefixes(ranges.of_prefixes([*PRIVATE, *of_uplinks], 4), 4)) + " }"
    strange = f"fib saddr type local fib saddr . oif type != local ip saddr {sources} drop"
    text = f"ct state != established meta nfproto ipv4 oifname {{ {', '.join(translating)} }} {strange}"
    return KernelState([_chain("guard", Hook("filter", "postrouting", SRCNAT + 1), [text])])


@lru_cache(maxsize=8)
def _helpers(names: tuple[str, ...]) -> KernelState:
    """Assigning conntrack helpers by the ports of control connections, whether forwarded or the router's own."""
    objects: list[Object] = []
    controls = []
    for name in names:
        for protocol, port in HELPERS[name]:
            objects.append(Helper(name, "tcp" if protocol == "tcp" else "udp"))
            controls.append(f'ct state new {protocol} dport {port} ct helper set "{name}"')
    if controls:
        objects.append(_chain("helper_forwarded", Hook("filter", "prerouting", FILTER), controls))
        objects.append(_chain("helper_own", Hook("filter", "output", FILTER), controls))
    return KernelState(objects)
