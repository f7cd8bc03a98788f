"""Several uplinks behind one interface: what of it is whose, and how their packets are told apart.

Where an uplink has an interface of its own, the interface tells. Where several share one, each has a fixed gateway of
its own: what leaves is told apart by the next hop of its route, what comes in by the gateway's hardware address, and
probes leave by their mark. Routes of others and router advertisements do not say whose they are, so only one of the
uplinks can have IPv6, by a fixed gateway as well (`mlbd.config.relations`).

A peer (`mlbd.core.peers`) shares its interface with clients: nothing of that is its own but what has it as next hop.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Collection, Iterable, Iterator

from msgspec.structs import replace

from mlbd.core.facts import InterfaceFacts
from mlbd.core.settings import FAMILIES, Family, Uplink

Shared = frozenset[str]


def shared(uplinks: Iterable[Uplink]) -> Shared:
    """Interfaces of more than one uplink, or of a peer; the others of these functions want to know."""
    count = Counter(name for u in uplinks for name in [u.interface] * (2 if u.peer else 1))
    return frozenset(name for name, users in count.items() if users > 1)


def serves(shared: Shared, uplink: Uplink, family: Family) -> bool:
    """Whether it may have the family at all."""
    return uplink.interface not in shared or uplink.gateway_setting(family).source == "fixed"


def gateways(shared: Shared, uplinks: Iterable[Uplink]) -> Collection[str]:
    """Addresses of the gateways whose hardware addresses tell uplinks apart."""
    settings = [u.gateway_setting(family) for u in uplinks if u.interface in shared for family in FAMILIES]
    return [setting.address for setting in settings if setting.address is not None]


def by_hop(uplinks: Iterable[Uplink], device: str, gateway: str | None) -> Uplink | None:
    """The uplink that a route to this next hop leaves by."""
    found = [u for u in uplinks if u.interface == device]
    named = [u for u in found if gateway is not None and gateway in (u.gateway.address, u.gateway6.address)]
    return next(iter(named or found), None)


def narrowed(shared: Shared, uplink: Uplink, facts: InterfaceFacts | None) -> InterfaceFacts | None:
    """What of an interface's facts is this uplink's.

    IPv4 addresses in a network with its own gateway are, or all if none is: two gateways may share one network.
    """
    if facts is None or uplink.interface not in shared:
        return facts
    gateway, both = uplink.gateway.address, [a for a in facts.addresses if ":" not in a]
    near = [a for a in both if gateway and ipaddress.ip_address(gateway) in ipaddress.ip_interface(a).network]
    keeps6 = serves(shared, uplink, 6)
    return replace(
        facts,
        addresses=(*(near or both), *(a for a in facts.addresses if ":" in a and keeps6)),
        deprecated=facts.deprecated if keeps6 else (),
        delegated=facts.delegated if keeps6 else (),
        gateway4=None,
        gateway6=None,
    )


def own_addresses(
    shared: Shared, uplink: Uplink, facts: InterfaceFacts | None, others: Iterable[InterfaceFacts | None]
) -> tuple[str, ...]:
    """IPv4 addresses of this uplink that no other one behind the interface has too; `others`: all uplinks' facts."""
    found = () if facts is None or uplink.peer else facts.addresses_of(4)
    if uplink.interface not in shared:
        return found
    count = Counter(a for each in others if each is not None and each.name == uplink.interface for a in each.addresses)
    return tuple(address for address in found if count[address] == 1)


def last_addresses(
    shared: Shared, uplink: Uplink, last: tuple[str, ...], others: Iterable[InterfaceFacts | None]
) -> tuple[str, ...]:
    """Those of the IPv4 addresses that an uplink without any had `last` that no uplink has now: a line may come back
    with the one it had, and what is sent from it in that moment must not leave by another.
    """
    if uplink.peer or uplink.interface in shared:
        return ()
    taken = {a.partition("/")[0] for each in others if each is not None for a in each.addresses_of(4)}
    return tuple(a for a in last if a.partition("/")[0] not in taken)


def leaving(shared: Shared, uplink: Uplink) -> Iterator[str]:
    """Conditions in nft(8)'s words of which one holds where a packet leaves by the uplink, after routing."""
    if uplink.interface not in shared:
        yield f'oifname "{uplink.interface}"'
    else:
        yield from (text for family in FAMILIES for text in by_next_hop(uplink, family))


def by_next_hop(uplink: Uplink, family: Family) -> Iterator[str]:
    """The condition that a packet leaves by the uplink's fixed gateway, if it has one."""
    address = uplink.gateway_setting(family).address
    if address is not None:
        ip = "ip6" if family == 6 else "ip"
        through = f" {ip} daddr != {address}" if uplink.peer else ""
        yield f'oifname "{uplink.interface}" meta nfproto ipv{family} rt {ip} nexthop {address}{through}'


def arriving(shared: Shared, uplink: Uplink, facts: InterfaceFacts | None) -> Iterator[str]:
    """Conditions of which one holds where a packet has come in by the uplink; none while its gateways are unknown."""
    if uplink.peer:
        return
    if uplink.interface not in shared:
        yield from (f'iifname "{name}"' for name in (uplink.interface, *uplink.members))
        return
    yield from (text for family in FAMILIES for text in sent_by(uplink, facts, family))


def sent_by(uplink: Uplink, facts: InterfaceFacts | None, family: Family) -> Iterator[str]:
    """The condition that the uplink's fixed gateway has sent a packet, if its hardware address is known."""
    known = dict(() if facts is None else facts.neighbours)
    address = uplink.gateway_setting(family).address
    if address is not None and address in known:
        yield f'iifname "{uplink.interface}" meta nfproto ipv{family} ether saddr {known[address]}'
