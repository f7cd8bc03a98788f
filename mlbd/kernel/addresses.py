"""Codec: `Address` <-> rtnetlink address message (struct ifaddrmsg, linux/if_addr.h)."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Collection, Iterable, Mapping

from mlbd.core.state import Address
from mlbd.kernel.netlink import HEADER, attribute, attributes, number, prefix, reading

NEW, DELETE = 20, 21
"""RTM_NEWADDR, RTM_DELADDR."""
_IFADDRMSG = struct.Struct("=BBBBI")
"""struct ifaddrmsg: family, prefix length, flags, scope, device index."""
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_PROTO = 1, 2, 4, 11
_WITHOUT_BROADCAST = 31
"""Prefix length from which on IPv4 has none (RFC 3021)."""


@reading("an address")
def read(messages: Iterable[bytes], names: Mapping[int, str], asked: Collection[int], protocol: int) -> list[Address]:
    """All of the interfaces `asked`, by index, and ours on all others; no link-local ones. `names`: by index.

    Raises OSError for what can't be read.
    """
    ours = attribute(_IFA_PROTO, bytes([protocol]))
    found = []
    for message in messages if asked else [message for message in messages if ours in message]:
        family, length, _, _, index = _IFADDRMSG.unpack_from(message, HEADER.size)
        if (index not in asked and ours not in message) or index not in names:
            continue
        shown = attributes(message, HEADER.size + _IFADDRMSG.size)
        value = shown.get(_IFA_LOCAL) or shown[_IFA_ADDRESS]
        owned = number(shown.get(_IFA_PROTO, b"")) == protocol
        if (owned or index in asked) and not _is_link_local(family, value):
            found.append(Address(names[index], prefix(value, length), owned))
    return found


def _is_link_local(family: int, value: bytes) -> bool:
    return family == socket.AF_INET6 and ipaddress.IPv6Address(value).is_link_local


def encode(wanted: Address, index: int, protocol: int) -> bytes:
    """The message that adds it, or that deletes it."""
    each = ipaddress.ip_interface(wanted.address)
    length = each.network.prefixlen
    packed = each.ip.packed
    content = attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)
    content += attribute(_IFA_PROTO, bytes([protocol if wanted.owned else 0]))
    if each.version == 4 and length < _WITHOUT_BROADCAST:
        content += attribute(_IFA_BROADCAST, each.network.broadcast_address.packed)
    family = socket.AF_INET if each.version == 4 else socket.AF_INET6
    return _IFADDRMSG.pack(family, length, 0, 0, index) + content
