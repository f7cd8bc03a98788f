"""Whose IPv6 addresses are whose: which prefixes belong to an uplink, and how LAN prefixes are translated to them.

An address that one provider gave out must not leave by another, who would drop it (BCP 38) or, worse, not. Translation
of prefixes keeps the host's part of an address, so that hosts behind it stay told apart and reachable (RFC 6296; here
with connection tracking, so that checksums need no neutral mapping).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

from mlbd.core.facts import InterfaceFacts
from mlbd.core.settings import Uplink

Network = ipaddress.IPv6Network
_UNIQUE_LOCAL = Network("fc00::/7")


def owned(uplink: Uplink, facts: InterfaceFacts | None, before: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The prefixes that are this uplink's, the one that LAN prefixes are translated to first. A peer's are a LAN's.

    `before`: those it had when it last had an address. While it is gone, its hosts keep theirs.
    """
    if uplink.peer:
        return ()
    fixed = [uplink.prefix6] if uplink.prefix6 is not None else []
    if facts is None or not facts.addresses_of(6):
        return tuple(dict.fromkeys([*fixed, *before]))
    return _owned(tuple(fixed), facts.delegated, facts.addresses_of(6))


@lru_cache(maxsize=512)
def _owned(fixed: tuple[str, ...], delegated: tuple[str, ...], addresses: tuple[str, ...]) -> tuple[str, ...]:
    near = _on_link(addresses)
    # A /128 of DHCPv6 says nothing about its neighbours; it is ours all the same, but nothing can be mapped to it.
    return tuple(dict.fromkeys([*fixed, *delegated, *sorted(near, key=lambda n: int(n.partition("/")[2]))]))


def on_link(facts: InterfaceFacts) -> list[str]:
    """The IPv6 networks of an interface's addresses."""
    return _on_link(facts.addresses_of(6))


def _on_link(addresses: tuple[str, ...]) -> list[str]:
    return [str(ipaddress.ip_interface(a).network) for a in addresses]


@lru_cache(maxsize=512)
def translations(lan: tuple[str, ...], own: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Pairs of a LAN prefix and the prefix of the same length that it becomes. LAN prefixes in `own` stay as they are.

    A LAN's subnet number is kept if no other LAN has the same, else the first free one is taken. Unique local prefixes
    choose first: those of other providers come and go, and must not move the rest. Of a prefix too long for all LANs,
    the first ones get what there is; the others have no pair.
    """
    if not own:
        return ()
    target = Network(own[0])
    pairs: list[tuple[str, str]] = []
    taken: set[Network] = {n for n in map(Network, lan) if n.subnet_of(target)}
    for prefix in sorted(map(Network, lan), key=lambda n: not n.subnet_of(_UNIQUE_LOCAL)):
        if any(prefix.subnet_of(Network(mine)) for mine in own) or prefix.prefixlen < target.prefixlen:
            continue
        for number in _numbers(prefix, target):
            step = 1 << (128 - prefix.prefixlen)
            found = Network((int(target.network_address) + number * step, prefix.prefixlen))
            if not any(found.overlaps(other) for other in taken):
                taken.add(found)
                pairs.append((str(prefix), str(found)))
                break
    return tuple(pairs)


def _numbers(prefix: Network, target: Network) -> Iterable[int]:
    """Subnet numbers to try."""
    count = 1 << (prefix.prefixlen - target.prefixlen)
    kept = (int(prefix.network_address) >> (128 - prefix.prefixlen)) % count
    return [kept, *(n for n in range(min(count, 1024)) if n != kept)]
