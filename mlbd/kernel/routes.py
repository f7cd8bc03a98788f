"""Codec: `Route` <-> rtnetlink route message (struct rtmsg and its attributes, rtnetlink(7)).

What the kernel adds by itself is taken away on reading:

- IPv6 has no metric 0, the kernel makes it 1024; so 1024 is read as 0, and only 0 is ever written.
- IPv6 unreachable and blackhole routes claim to leave by `lo`.
- A multipath route of one hop is an ordinary route; its weight has no meaning and is 1.
- An IPv4 route without any gateway has scope link, as ip(8) does it; the scope follows from the hops and is not kept.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from ipaddress import ip_network
from math import inf
from typing import Literal, NamedTuple

from msgspec import Struct, field
from msgspec.structs import replace

from mlbd.core.facts import WideRoute
from mlbd.core.settings import Family
from mlbd.core.state import Hop, Key, Route
from mlbd.kernel.netlink import (
    HEADER,
    address,
    attribute,
    attributes,
    number,
    packed,
    packed_address,
    prefix,
    reading,
)

NEW, DELETE, GET = 24, 25, 26
"""RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE."""
MAIN, LOCAL = 254, 255
_COMPAT = 252
"""RT_TABLE_COMPAT: what the header says for tables from 256, so for all of ours."""
_FAMILIES: dict[int, Family] = {socket.AF_INET: 4, socket.AF_INET6: 6}
_KINDS: dict[int, Literal["unicast", "unreachable", "blackhole"]] = {1: "unicast", 6: "blackhole", 7: "unreachable"}
_NUMBERS = {kind: number for number, kind in _KINDS.items()}
_UNICAST = 1
REFUSING = (6, 7, 8)
"""RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT."""
WIDE: dict[int, int] = {socket.AF_INET: 1, socket.AF_INET6: 4}
"""Lengths of prefixes that take half of all addresses or more; in IPv6 of 2000::/3, what is given out (RFC 4291)."""
_DELEGATED_LENGTHS = range(40, 65)
_SCOPE_LINK, _SCOPE_NOWHERE = 253, 255
_DEAD, _ONLINK = 1, 4
_CLONED = 0x200
_IP6_DEFAULT_METRIC = 1024
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_MULTIPATH = 1, 4, 5, 6, 9
_RTA_CACHEINFO, _RTA_TABLE, _RTA_VIA, _RTA_PREF = 12, 15, 18, 20
_OURS = {
    _RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_MULTIPATH, _RTA_CACHEINFO, _RTA_TABLE, _RTA_PREF,
}  # fmt: skip
"""What a route that we wrote is read back with. One with more behaves in another way and counts as foreign."""
_HEADER = struct.Struct("=BBBBBBBBI")
_NEXTHOP = struct.Struct("=HBBi")
"""struct rtnexthop: length, flags, weight - 1, device index."""
_TICKS = os.sysconf("SC_CLK_TCK")
_EXPIRES = struct.Struct("=8xi")
"""struct rta_cacheinfo, as far as it matters: ticks until the route expires, 0 for never."""


class _Header(NamedTuple):
    """struct rtmsg."""

    family: int
    length: int
    source_length: int
    tos: int
    table: int
    protocol: int
    scope: int
    type: int
    flags: int


def dump_request(family: Family) -> bytes:
    return _HEADER.pack(address_family(family), 0, 0, 0, 0, 0, 0, 0, 0)


def address_family(family: Family) -> int:
    return socket.AF_INET if family == 4 else socket.AF_INET6


class DefaultHop(Struct, frozen=True):
    """One hop of somebody else's default route in `main`."""

    family: Family
    metric: int
    hop: Hop
    dead: bool
    """The kernel does not use it: its link is down or without carrier, or its address was removed."""


class Found(Struct):
    """What matters of a dump."""

    owned: list[Route] = field(default_factory=list)
    defaults: list[DefaultHop] = field(default_factory=list)
    """The hops of others' default routes in `main`."""
    wide: list[WideRoute] = field(default_factory=list)
    expires: float = inf
    """Seconds until the first of `defaults` runs out: the kernel says nothing then (net/ipv6/ip6_fib.c)."""
    delegated: list[str] = field(default_factory=list)
    """See `InterfaceFacts.delegated`; of all interfaces."""


class RouteReader:
    """Picks the routes that matter out of a dump.

    A router with a full table has a million that don't, so what the fixed header tells already is not decoded.
    """

    def __init__(self, protocol: int, tables: range, names: Mapping[int, str]) -> None:
        self._protocol, self._tables, self._names = protocol, tables, names

    @reading("a route")
    def read(self, messages: Iterable[bytes]) -> Found:
        """Raises OSError for what can't be read."""
        result = Found()
        routes: dict[Key, Route] = {}
        for message in messages:
            header = _Header._make(_HEADER.unpack_from(message, HEADER.size))
            ours = header.protocol == self._protocol
            leads = header.table != LOCAL and header.type in (_UNICAST, *REFUSING)
            wide = leads and header.length <= WIDE[header.family]
            delegated = (
                header.family == socket.AF_INET6
                and header.length in _DELEGATED_LENGTHS
                and header.type in REFUSING
                and header.table == MAIN
            )
            if header.flags & _CLONED or header.tos or not (ours or wide or delegated or header.table == _COMPAT):
                continue
            found = attributes(message, HEADER.size + _HEADER.size)
            if ours or number(found[_RTA_TABLE]) in self._tables:
                route = self._route(header, found, ours)
                twin = routes.get(route.key)
                # Several routes of one key: others' doing, by `ip route append` or IPv6 routes without a gateway.
                routes[route.key] = route if twin is None else replace(twin, hops=twin.hops + route.hops, foreign=True)
            elif delegated:
                result.delegated.append(prefix(found[_RTA_DST], header.length))
            elif wide:
                self._read_wide(header, found, result)
        result.owned = list(routes.values())
        return result

    def _read_wide(self, header: _Header, found: dict[int, bytes], result: Found) -> None:
        # An expired route of a router advertisement stays listed for a while, but is not used any more.
        expires = _EXPIRES.unpack_from(found[_RTA_CACHEINFO])[0] if _RTA_CACHEINFO in found else 0
        if expires < 0:
            return
        if expires and header.table == MAIN and not header.length:
            result.expires = min(result.expires, expires / _TICKS)
        family, table = _FAMILIES[header.family], number(found[_RTA_TABLE])
        destination = str(ip_network((found[_RTA_DST], header.length))) if header.length else "default"
        if header.type != _UNICAST:
            result.wide.append(WideRoute(family, table, destination, ""))
            return
        metric = number(found.get(_RTA_PRIORITY, b""))
        for hop, flags in self._hops(header, found):
            result.wide.append(WideRoute(family, table, destination, hop.device))
            if table == MAIN and not header.length and _RTA_VIA not in found:
                result.defaults.append(DefaultHop(family, metric, hop, bool(flags & _DEAD)))

    def foreign(self, messages: Iterable[bytes], key: Key) -> list[bytes]:
        """What the kernel sent, without the netlink header, for each foreign route of that key."""
        found = ((message, self.read((message,)).owned) for message in messages)
        return [
            message[HEADER.size :]
            for message, routes in found
            if any(route.key == key and route.foreign for route in routes)
        ]

    def _route(self, header: _Header, found: dict[int, bytes], ours: bool) -> Route:
        family = _FAMILIES[header.family]
        kind = _KINDS.get(header.type)
        metric = number(found.get(_RTA_PRIORITY, b""))
        return Route(
            family=family,
            table=number(found[_RTA_TABLE]),
            metric=0 if family == 6 and metric == _IP6_DEFAULT_METRIC else metric,
            kind=kind or "unreachable",
            hops=tuple(hop for hop, _ in self._hops(header, found)) if kind == "unicast" else (),
            destination=prefix(found[_RTA_DST], header.length) if header.length else "default",
            foreign=not ours or kind is None or not found.keys() <= _OURS,
        )

    def _hops(self, header: _Header, found: dict[int, bytes]) -> Iterator[tuple[Hop, int]]:
        """Hops with their flags."""
        several = found.get(_RTA_MULTIPATH)
        if several is None:
            yield self._hop(number(found.get(_RTA_OIF, b"")), found, 1, header.flags), header.flags
            return
        start = 0
        while start + _NEXTHOP.size <= len(several):
            length, flags, weight, index = _NEXTHOP.unpack_from(several, start)
            inner = attributes(several, start + _NEXTHOP.size, start + length)
            yield self._hop(index, inner, weight + 1 if length < len(several) else 1, flags), flags
            start += max(length, _NEXTHOP.size)

    def _hop(self, index: int, found: dict[int, bytes], weight: int, flags: int) -> Hop:
        gateway = found.get(_RTA_GATEWAY)
        device = self._names.get(index, f"#{index}")
        return Hop(device, None if gateway is None else address(gateway), weight, bool(flags & _ONLINK))


def encode(route: Route, protocol: int) -> bytes:
    """The message that adds or replaces the route. Raises OSError if a device does not exist."""
    near = route.family == 4 and route.kind == "unicast" and all(hop.gateway is None for hop in route.hops)
    return _encoded(route, protocol, _SCOPE_LINK if near else 0, route.hops)


def encode_deletion(route: Route, protocol: int) -> bytes:
    """The message that deletes exactly this route of ours: the kernel takes what is not said for "any"."""
    if route.family == 4:
        return _encoded(route, protocol, _SCOPE_NOWHERE, route.hops)
    return _encoded(route, protocol, 0, ())  # with several it would delete one hop after the other


def _encoded(route: Route, protocol: int, scope: int, hops: Sequence[Hop]) -> bytes:
    if route.family == 6 and route.metric == _IP6_DEFAULT_METRIC:
        raise ValueError("metric 1024 is what IPv6 makes of 0: use 0")
    metric = _IP6_DEFAULT_METRIC if route.family == 6 and route.metric == 0 else route.metric
    parts = [attribute(_RTA_TABLE, packed(route.table)), attribute(_RTA_PRIORITY, packed(metric))]
    length, flags = 0, 0
    if route.destination != "default":
        start, _, bits = route.destination.partition("/")
        length = int(bits)
        parts.append(attribute(_RTA_DST, packed_address(start)))
    if len(hops) == 1:
        (hop,) = hops
        flags = _ONLINK if hop.onlink else 0
        parts += [attribute(_RTA_OIF, packed(known_index(hop.device))), _gateway(hop)]
    elif hops:
        parts.append(attribute(_RTA_MULTIPATH, b"".join(map(_nexthop, hops))))
    header = _HEADER.pack(
        address_family(route.family), length, 0, 0, 0, protocol, scope, _NUMBERS[route.kind], flags
    )  # fmt: skip
    return header + b"".join(parts)


def _nexthop(hop: Hop) -> bytes:
    gateway = _gateway(hop)
    flags = _ONLINK if hop.onlink else 0
    return _NEXTHOP.pack(_NEXTHOP.size + len(gateway), flags, hop.weight - 1, known_index(hop.device)) + gateway


def _gateway(hop: Hop) -> bytes:
    return b"" if hop.gateway is None else attribute(_RTA_GATEWAY, packed_address(hop.gateway))


def device_index(device: str) -> int:
    """OSError, which names it, if there is no such interface."""
    try:
        return socket.if_nametoindex(device)
    except (OSError, ValueError):  # ValueError: no interface can have this name
        raise OSError(errno.ENODEV, f"there is no interface {device}") from None


known_index = lru_cache(maxsize=1024)(device_index)
"""For changes that belong together; then `cache_clear`, for a device may be made anew under its name."""
