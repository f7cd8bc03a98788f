"""The table `inet mlbd`: its base chains, and what they need of each uplink and policy.

It works by one principle: the packet's mark is a wish, decided on a connection's first packet; the connection's mark is
a fact, the uplink that the connection really left by or came in on. `prerouting` restores the fact or, for a new
connection, makes a wish (`mlbd.core.steering`); routing rules turn a mark into a table; `postrouting` records the fact.
Where an established connection's way is restored there are comparisons only, no set or map: a look-up can miss in the
moment in which nftables changes generations, and a restored mark must never.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from mlbd.core import prefixes
from mlbd.core.decision import Decision
from mlbd.core.layout import ARRIVE, FACT, WISH, Identities, Layout, chain_name
from mlbd.core.settings import FAMILIES, Settings, Uplink
from mlbd.core.state import Chain, Counter, Helper, Hook, KernelState, MarkSet, Object, Statement
from mlbd.core.steering import SAMPLED, renewals, steering

MANGLE = -150
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


def ruleset(settings: Settings, identities: Identities, decision: Decision) -> Iterator[KernelState]:
    """All of it, in parts of which most are the same objects every time."""
    layout = Layout.of(settings.daemon)
    numbers = tuple(identities.uplinks[u.name] for u in settings.uplinks)
    for number, uplink in zip(numbers, settings.uplinks, strict=True):
        yield _uplink(layout, uplink.name, number)
    for policy in settings.policies:
        yield _policy(layout, policy.name, identities.policies[policy.name])
    own = tuple(prefixes.owned(u, decision.views[u.name].facts) for u in settings.uplinks)
    marking = tuple(f"ipv{family}" for family in FAMILIES if settings.marks_own(family))
    renew = tuple(renewals(settings, layout, identities))
    yield _base(layout, numbers, settings.uplinks, own, marking, renew)
    yield _translation(settings.uplinks, own, decision.lan_prefixes)
    yield _helpers(settings.conntrack.helpers)
    yield from steering(settings, identities, decision)
    dead = (layout.mark(identities.uplinks[name]) for name in decision.dead)
    yield KernelState([MarkSet("dead", frozenset(dead))])


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
def _base(
    layout: Layout,
    numbers: tuple[int, ...],
    configured: tuple[Uplink, ...],
    own_prefixes: tuple[tuple[str, ...], ...],
    marking: tuple[str, ...],
    renew: tuple[Chain, ...],
) -> KernelState:
    uplinks = tuple(zip(numbers, configured, strict=True))
    known = f"ct mark & {layout.code_mask:#010x} != 0"
    unmarked = f"meta mark & {layout.code_mask:#010x} == 0 {_SOMEWHERE}"
    flag = f"{layout.flag:#010x}"
    interfaces = "{ " + ", ".join(f'"{u.interface}"' for _, u in uplinks) + " }"
    prerouting = [
        *([SAMPLED] if renew else []),
        f"{known} goto restore",
        "ct state != new accept",
        *(f'iifname "{u.interface}" goto {chain_name(ARRIVE, n, u.name)}' for n, u in uplinks),
        f"{unmarked} goto choose",
    ]
    restore = [
        f"ct mark & {layout.code_mask:#010x} == {layout.mark(n):#010x} goto {chain_name(WISH, n, u.name)}"
        for n, u in uplinks
    ]
    choosing = [f"ct state new meta nfproto {family} {unmarked} goto own{family[-1]}" for family in marking]
    # Also connections that began before us are recorded, hence no `ct state new`.
    postrouting = [
        f"{known} accept",
        *(
            f"{_strangers(u, own_prefixes, configured)} drop"
            for _, u in uplinks
            if _strangers(u, own_prefixes, configured)
        ),
        *(f'oifname "{u.interface}" goto {chain_name(FACT, n, u.name)}' for n, u in uplinks),
    ]
    forward = [
        # A FIN of a connection that conntrack has forgotten would leave with the LAN's address.
        f"ct state invalid oifname {interfaces} drop",
        # RFC 4443: "source address failed ingress/egress policy"; a host with several addresses tries the next.
        *(
            f"{_strangers(u, own_prefixes, configured)} reject with icmpv6 policy-fail"
            for _, u in uplinks
            if _strangers(u, own_prefixes, configured)
        ),
        f"ct mark & {layout.code_mask:#010x} == 0 accept",
        "meta l4proto != tcp accept",
        f"ct mark & {flag} == 0 ct state established ct mark set ct mark | {flag}",
        f"iifname != {interfaces} tcp flags & (syn | rst) == 0 ct mark & {layout.code_mask:#010x} @dead "
        "reject with tcp reset",
    ]
    return KernelState(
        [
            _chain("prerouting", Hook("filter", "prerouting", MANGLE), prerouting),
            _chain("output", Hook("route", "output", MANGLE), [f"{known} goto restore", *choosing]),
            _chain("postrouting", Hook("filter", "postrouting", MANGLE), postrouting),
            _chain("forward", Hook("filter", "forward", MANGLE), forward),
            _chain("restore", None, restore),
            _chain("choose", None, ["meta nfproto ipv4 goto choose4", "goto choose6"]),
            *renew,
        ]
    )


def _strangers(uplink: Uplink, own_prefixes: tuple[tuple[str, ...], ...], configured: tuple[Uplink, ...]) -> str:
    """The condition that a new connection would leave here with another uplink's address; "" where it can't be."""
    mine = {p for u, owned in zip(configured, own_prefixes, strict=True) if u == uplink for p in owned}
    theirs = sorted({p for owned in own_prefixes for p in owned} - mine)
    if uplink.nat6 != "none" or not theirs:
        return ""
    return f'oifname "{uplink.interface}" ct state new ip6 saddr {{ {", ".join(theirs)} }}'


@lru_cache(maxsize=8)
def _translation(
    configured: tuple[Uplink, ...], own_prefixes: tuple[tuple[str, ...], ...], lan: tuple[str, ...]
) -> KernelState:
    """Source addresses become the uplink's; with prefixes also back, so that hosts can be reached."""
    srcnat, dstnat = [], []
    for uplink, own in zip(configured, own_prefixes, strict=True):
        out = f'oifname "{uplink.interface}"'
        if uplink.masquerade:
            srcnat.append(f"{out} meta nfproto ipv4 masquerade")
        if uplink.nat6 == "prefix":
            if own:
                srcnat.append(f"{out} ip6 saddr {{ {', '.join(own)} }} accept")
            for inside, outside in prefixes.translations(lan, own):
                srcnat.append(f"{out} ip6 saddr {inside} snat ip6 prefix to {outside}")
                dstnat.append(f'iifname "{uplink.interface}" ip6 daddr {outside} dnat ip6 prefix to {inside}')
        if uplink.nat6 != "none":  # also what has no prefix of its own to go by
            srcnat.append(f"{out} meta nfproto ipv6 masquerade")
    chains = [_chain("srcnat", Hook("nat", "postrouting", SRCNAT), srcnat)]
    if dstnat:
        to_the_router = "fib daddr type local accept"
        chains.append(_chain("dstnat", Hook("nat", "prerouting", DSTNAT), [to_the_router, *dstnat]))
    return KernelState(chains)


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
