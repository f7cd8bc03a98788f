"""A peer: the other router of a pair, with lines of its own, as an uplink over a LAN.

Its interface is one that clients come in by, so nothing arrives from outside there, and of the interface only what has
the peer as its next hop leaves by the uplink. Answers to what it forwards for us go straight to our clients: of such a
connection, and of one that began at the peer while that was the clients' gateway, conntrack here sees one direction and
knows nothing (net/netfilter/nf_conntrack_proto_tcp.c: an ACK without its SYN-ACK is invalid). So three things hold:

- TCP of clients that we can't place is the peer's, unless that is DOWN: it may know the connection.
- What the peer sends is never sent back to it: it leaves by a line of ours, as good or bad as those are.
- Where connections are replicated, one that was translated with an address of ours comes back from the peer with that
  address. It leaves by the line that has it, and is not translated again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct

from mlbd.core import prefixes, sharing
from mlbd.core.decision import View
from mlbd.core.layout import WISH, Identities, chain_name
from mlbd.core.settings import FAMILIES, Family, Settings, Uplink
from mlbd.core.state import Chain, Hook, Statement

RAW = -300
"""Before conntrack, at -200 (include/uapi/linux/netfilter_ipv4.h)."""

OF_LAN = {"accept_local": "1"}
"""Of a peer's interface: what comes back from the peer may have an address of ours."""

OF_CONNTRACK = {"nf_conntrack_tcp_be_liberal": "1", "nf_conntrack_tcp_loose": "0"}
"""Of the whole router. Of a connection that both routers carry, one sees the answers only, and would soon find them out
of their window; and one that began elsewhere is not made ours by its next packet, which, replicated, would take the
place of what the other router knows (Documentation/networking/nf_conntrack-sysctl.rst)."""


class Peering(Struct, frozen=True):
    """What peers add to the chains of `mlbd.core.ruleset`, as texts in nft(8)'s words; nothing without a peer."""

    chains: tuple[Chain, ...] = ()
    unplaced: tuple[str, ...] = ()
    """In `prerouting`, for packets of clients: conditions and jumps."""
    forward: tuple[str, ...] = ()
    output: tuple[str, ...] = ()
    postrouting: tuple[str, ...] = ()
    sent: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """Of IPv4 and IPv6: conditions of which one holds where a peer has sent a packet."""


def peers(settings: Settings) -> list[Uplink]:
    return [uplink for uplink in settings.uplinks if uplink.peer]


def slot_name(peer: str, family: Family) -> str:
    """Of the map with the peer's wish while it may know what we can't place: also before it is proven, as when this
    router has just come back.
    """
    return f"peer{family}_{peer}"


def may_know(view: View, family: Family) -> bool:
    return view.path(family) is not None and not view.down


def peering(settings: Settings, identities: Identities, views: Mapping[str, View]) -> Peering:
    found = peers(settings)
    if not found:
        return Peering()
    chains: list[Chain] = []
    unplaced: list[str] = []
    returned: list[str] = []
    guards: list[str] = []
    redirects: list[str] = []
    of_peers = _sent(found, views, 4), _sent(found, views, 6)
    for family, sent in zip(FAMILIES, of_peers, strict=True):
        ours = list(_translated(settings, identities, views, family))
        if sent and ours:
            chains.append(_chain(f"returned{family}", None, ours))
            returned += [f"{text} jump returned{family}" for text in sent]
        served = [peer for peer in found if peer.gateway_setting(family).address is not None]
        if served:
            tries = [f"numgen inc mod 1 vmap @{slot_name(peer.name, family)}" for peer in served]
            chosen = f"goto choose{family}"
            handed = [f"{text} {chosen}" for text in sent]
            chains.append(_chain(f"unplaced{family}", None, [*handed, *tries, chosen]))
            unplaced.append(f"meta nfproto ipv{family} jump unplaced{family}")
        for peer in served:
            for text in sharing.sent_by(peer, views[peer.name].facts, family):
                guards += [f"{text} {back} reject with icmpx no-route" for back in sharing.by_next_hop(peer, family)]
    for interface in dict.fromkeys(peer.interface for peer in found):
        # A client that believed it would send past the address that moves between the routers.
        redirects += [
            f'oifname "{interface}" icmp type redirect drop',
            f'oifname "{interface}" icmpv6 type nd-redirect drop',
        ]
    if returned:
        chains.append(_chain("returned", Hook("filter", "prerouting", RAW), returned))
    return Peering(
        tuple(chains), tuple(unplaced), tuple(guards), tuple(redirects), ("ct state untracked accept",), of_peers
    )


def _sent(found: Sequence[Uplink], views: Mapping[str, View], family: Family) -> tuple[str, ...]:
    return tuple(text for peer in found for text in sharing.sent_by(peer, views[peer.name].facts, family))


def _translated(settings: Settings, identities: Identities, views: Mapping[str, View], family: Family) -> Iterator[str]:
    """Leads what has a source that only translating gives it to the line whose source it is."""
    for uplink in settings.uplinks:
        facts = views[uplink.name].facts
        if uplink.peer or facts is None or not (uplink.masquerade if family == 4 else uplink.nat6 != "none"):
            continue
        own: Sequence[str] = [a.partition("/")[0] for a in facts.addresses_of(family)]
        if uplink.nat6 == "prefix" and family == 6:
            own = prefixes.owned(uplink, facts)
        if own:
            source = f"ip{'6' if family == 6 else ''} saddr {{ {', '.join(sorted(own))} }}"
            yield f"{source} notrack goto {chain_name(WISH, identities.uplinks[uplink.name], uplink.name)}"


def lan_prefixes(uplinks: Iterable[Uplink], views: Mapping[str, View], others: tuple[str, ...]) -> tuple[str, ...]:
    """IPv6 prefixes of LANs, those of peers' interfaces among them; `others`: of interfaces of no uplink."""
    found = [views[u.name].facts for u in uplinks if u.peer]
    own = [prefix for facts in found if facts is not None for prefix in prefixes.on_link(facts)]
    return tuple(sorted({*others, *own})) if own else others


def _chain(name: str, hook: Hook | None, texts: list[str]) -> Chain:
    return Chain(name, hook, tuple(Statement.of(text) for text in texts))
