"""Reading interfaces: links, addresses and others' default routes become `InterfaceFacts`.

`watch` reads link notifications by the same function as a look does.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct

from mlbd.core.facts import Gateway, InterfaceFacts
from mlbd.core.settings import Family
from mlbd.kernel.netlink import HEADER, address, attribute, attributes, number, prefix, reading, text
from mlbd.kernel.routes import DefaultHop

NEW, DELETE, GET = 16, 17, 18
"""RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK."""
GET_ADDRESS = 22
_IFINFOMSG = struct.Struct("=BxHiII")
"""struct ifinfomsg: family, type, index, flags, change."""
_IFLA_IFNAME, _IFLA_AF_SPEC, _IFLA_EXT_MASK, _IFLA_CARRIER = 3, 26, 29, 33
_SKIP_STATISTICS = 1 << 3
_IFF_UP, _IFF_LOOPBACK, _IFF_POINTOPOINT, _IFF_LOWER_UP = 0x1, 0x8, 0x10, 0x10000
_SCOPE_UNIVERSE, _SCOPE_HOST = 0, 254
_IFADDRMSG = struct.Struct("=BBBBI")
"""struct ifaddrmsg: family, prefix length, flags, scope, device index."""
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_UNUSABLE = 0x08 | 0x40
"""IFA_F_DADFAILED, IFA_F_TENTATIVE."""
_DEPRECATED = 0x20
"""IFA_F_DEPRECATED."""
_LAN_PREFIX = 64
_OF_ONE_PROVIDER = 32
"""Bits: what a registry gives a provider at least (RIPE-738)."""

_WITHOUT_STATISTICS = struct.pack("=HHI", 8, _IFLA_EXT_MASK, _SKIP_STATISTICS)
DUMP_REQUEST = _IFINFOMSG.pack(0, 0, 0, 0, 0) + _WITHOUT_STATISTICS
ADDRESS_DUMP_REQUEST = _IFADDRMSG.pack(0, 0, 0, 0, 0)


class Link(Struct, frozen=True):
    name: str
    index: int
    up: bool
    carrier: bool
    """False while it is administratively down, whatever the driver says."""
    point_to_point: bool
    loopback: bool
    shown: Mapping[int, bytes] = {}
    """All that the kernel says of it: values by type (IFLA_*, linux/if_link.h)."""


@reading("an interface")
def configurations(messages: Iterable[bytes], indexes: Collection[int]) -> list[bytes]:
    """What the interfaces' settings are (net.ipv4.conf and net.ipv6.conf), for comparison only: one dump has them all,
    which are seven files of each interface.
    """
    return [
        attributes(message, HEADER.size + _IFINFOMSG.size).get(_IFLA_AF_SPEC, b"")
        for message in messages
        if _IFINFOMSG.unpack_from(message, HEADER.size)[2] in indexes
    ]


@reading("an interface")
def read_link(message: bytes) -> Link | None:
    """An RTM_NEWLINK message, header included; None if it is a bridge's or another family's view of a link.

    Raises OSError for what can't be read.
    """
    family, _, index, flags, _ = _IFINFOMSG.unpack_from(message, HEADER.size)
    if family:
        return None
    found = attributes(message, HEADER.size + _IFINFOMSG.size)
    up = bool(flags & _IFF_UP)
    carrier = bool(number(found[_IFLA_CARRIER])) if _IFLA_CARRIER in found else bool(flags & _IFF_LOWER_UP)
    kinds = bool(flags & _IFF_POINTOPOINT), bool(flags & _IFF_LOOPBACK)
    return Link(text(found.get(_IFLA_IFNAME, b"")), index, up, up and carrier, *kinds, found)


def get_request(name: str) -> bytes:
    """For the one interface of that name."""
    return _IFINFOMSG.pack(0, 0, 0, 0, 0) + _WITHOUT_STATISTICS + attribute(_IFLA_IFNAME, name.encode() + b"\0")


def encode(index: int = 0, content: bytes = b"", *, name: str = "", up: bool | None = None) -> bytes:
    """The message that makes the interface `name`, or changes, or deletes, the one with that index.

    `up` None: as it is. The kernel does that first, and what `content` has afterwards, in an order of its own.
    """
    flags, change = (0, 0) if up is None else (_IFF_UP * up, _IFF_UP)
    named = attribute(_IFLA_IFNAME, name.encode() + b"\0") if name else b""
    return _IFINFOMSG.pack(0, 0, index, flags, change) + named + content


@reading("an address")
def read_facts(
    links: Iterable[Link],
    addresses: Iterable[bytes],
    defaults: Iterable[DefaultHop],
    delegated: Collection[str],
    interfaces: Collection[str],
) -> tuple[dict[str, InterfaceFacts], tuple[str, ...]]:
    """The facts of those of `interfaces` that exist, and the IPv6 prefixes of the others, from whole dumps.

    Raises OSError for what can't be read.
    """
    by_index = {link.index: link for link in links}
    wanted = {index: link for index, link in by_index.items() if link.name in interfaces}
    usable: dict[int, list[str]] = {index: [] for index in wanted}
    deprecated: dict[int, list[str]] = {index: [] for index in wanted}
    peers: dict[int, str] = {}
    lan: set[str] = set()
    for message in addresses:
        family, length, flags, scope, index = _IFADDRMSG.unpack_from(message, HEADER.size)
        link = by_index.get(index)
        if link is None or (index not in wanted and (family != socket.AF_INET6 or length > _LAN_PREFIX)):
            continue
        found = attributes(message, HEADER.size + _IFADDRMSG.size)
        far = found[_IFA_ADDRESS]
        near = found.get(_IFA_LOCAL, far)
        state = number(found.get(_IFA_FLAGS, bytes([flags])))
        if family == socket.AF_INET6:
            if scope != _SCOPE_UNIVERSE or state & _UNUSABLE:
                continue
        elif scope == _SCOPE_HOST:
            continue
        elif link.point_to_point and far != near:
            peers.setdefault(index, address(far))
        if family == socket.AF_INET6 and state & _DEPRECATED:
            if index in wanted:
                deprecated[index].append(prefix(near, length))
        elif index in wanted:
            usable[index].append(prefix(near, length))
        elif link.up and not link.loopback:
            lan.add(str(ipaddress.IPv6Network((near, length), strict=False)))
    gateways = _gateways(defaults, wanted.values())
    prefixes = _prefixes(delegated, {index: usable[index] + deprecated[index] for index in wanted})
    facts = {
        link.name: InterfaceFacts(
            name=link.name,
            index=link.index,
            up=link.up,
            carrier=link.carrier,
            point_to_point=link.point_to_point,
            addresses=tuple(sorted(usable[link.index])),
            deprecated=tuple(sorted(deprecated[link.index])),
            peer=peers.get(link.index),
            gateway4=gateways.get((link.name, 4)),
            gateway6=gateways.get((link.name, 6)),
            delegated=tuple(sorted(prefixes.get(link.index, ()))),
        )
        for link in wanted.values()
    }
    return facts, tuple(sorted(lan))


def _prefixes(delegated: Iterable[str], addresses: Mapping[int, Iterable[str]]) -> dict[int, list[str]]:
    """Each prefix to the interface that shares most bits with it; to none if two do or it is another provider's."""
    numbers = {
        index: [int(ipaddress.IPv6Interface(a).ip) for a in of_one if ":" in a] for index, of_one in addresses.items()
    }
    given: dict[int, list[str]] = {}
    for each in delegated:
        network = ipaddress.IPv6Network(each)
        start, length = int(network.network_address), network.prefixlen
        shared = sorted(
            (max((min(length, 128 - (start ^ own).bit_length()) for own in of_one), default=0), index)
            for index, of_one in numbers.items()
        )
        best = [index for bits, index in shared if bits == shared[-1][0] and bits >= _OF_ONE_PROVIDER]
        if len(best) == 1:
            given.setdefault(best[0], []).append(str(network))
    return given


def _gateways(defaults: Iterable[DefaultHop], links: Iterable[Link]) -> dict[tuple[str, Family], Gateway]:
    """The gateway by device and family: of the lowest metric, of those the first that the kernel lists.

    A hop that is dead although its link works leads nowhere; one whose link is down will be as good as before.
    """
    working = {link.name for link in links if link.carrier}
    best: dict[tuple[str, Family], tuple[int, Gateway]] = {}
    for default in defaults:
        key = (default.hop.device, default.family)
        if default.dead and default.hop.device in working:
            continue
        if key not in best or default.metric < best[key][0]:
            best[key] = (default.metric, Gateway(default.hop.gateway, default.hop.onlink))
    return {key: gateway for key, (_, gateway) in best.items()}
