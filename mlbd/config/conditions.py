"""Readers for the conditions of a rule, as those of `mlbd.config.values`: one element, which "!" in front negates.

What comes out is a pair: whether it is wanted, and what it means to `mlbd.core.settings.Rule`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any, TypeVar

from mlbd.config import values
from mlbd.config.problems import Unfit, nearest
from mlbd.core.match import WITH_PORTS

T = TypeVar("T")

PREFIX = 'a prefix or an address, such as "192.168.1.0/24" or "!2001:db8::1"'
PORTS = 'a port or a range of ports, such as 80, "6660-6669" or "!80"'
MARK = 'a mark, with or without a mask, such as "0x80000/0xff0000" or 51820'


def _negatable(read: Callable[[Any], T]) -> Callable[[Any], tuple[bool, T]]:
    def with_negation(value: Any) -> tuple[bool, T]:
        if not isinstance(value, str):
            return True, read(value)
        if value in ("any", "all", "*"):
            raise Unfit("without the key anything matches")
        if "," in value:
            raise Unfit("several go into an array, each by itself")
        negated = value.startswith("!")
        return not negated, read(value[1:].strip() if negated else value)

    return with_negation


def _prefix(text: str) -> str:
    """Canonical, with length."""
    if "%" in text:
        raise Unfit("an address has no interface here: that is the key `interface`")
    try:
        found = ipaddress.ip_interface(text)
    except ValueError:
        host = ":" not in text and any(character.isalpha() for character in text)
        raise Unfit("names of hosts are not looked up" if host else "") from None
    if isinstance(found, ipaddress.IPv6Interface) and found.ip.ipv4_mapped:
        raise Unfit(f'an IPv4 address in disguise: write "{found.ip.ipv4_mapped}"')
    if found.ip != found.network.network_address:
        raise Unfit(f'bits behind the prefix are set: the network is "{found.network}", the host "{found.ip}"')
    return str(found.network)


PROTOCOLS = {
    "icmp": 1, "igmp": 2, "ipip": 4, "tcp": 6, "udp": 17, "dccp": 33, "ipv6": 41, "gre": 47, "esp": 50, "ah": 51,
    "icmpv6": 58, "ospf": 89, "pim": 103, "vrrp": 112, "l2tp": 115, "sctp": 132, "udplite": 136,
}  # fmt: skip
"""Names of IP protocols, most as in /etc/protocols (https://www.iana.org/assignments/protocol-numbers)."""

PROTOCOL = 'an IP protocol by name or number, such as "tcp", "icmpv6", "!gre" or 47'

WITH_PORTS_TEXT = ", ".join(name for name, number in PROTOCOLS.items() if number in WITH_PORTS)


def _protocol(value: int | str) -> int:
    if isinstance(value, str):
        if value.lower() in PROTOCOLS:
            return PROTOCOLS[value.lower()]
        if not re.fullmatch("[0-9]{1,3}", value):
            raise Unfit(nearest(value.lower(), PROTOCOLS))
    if not 0 <= int(value) <= 255:
        raise Unfit("numbers of protocols are 0 to 255")
    return int(value)


def _ports(value: int | str) -> tuple[int, int]:
    """The first and the last."""
    match = re.fullmatch("([0-9]{1,5})(?:( *[-:] *)([0-9]{1,5}))?", value) if isinstance(value, str) else None
    if match:
        first, last = int(match[1]), int(match[3] or match[1])
    elif isinstance(value, int):
        first = last = value
    else:
        raise Unfit("names of services are not looked up" if re.fullmatch("[a-z].*", value) else "")
    if match and ":" in (match[2] or ""):
        raise Unfit(f'write "{first}-{last}"')
    if not 1 <= first <= 65535 or not 1 <= last <= 65535:
        raise Unfit("ports are whole numbers from 1 to 65535")
    if first > last:
        raise Unfit(f'the first port is greater than the last: write "{last}-{first}"')
    return first, last


_NUMBER = "0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10}"
_MARK = re.compile(f"({_NUMBER})(?:/({_NUMBER}))?")


def _mark(value: int | str) -> tuple[int, int | None]:
    """Value and mask; None for a mask that is not given, as what is ours of a mark stands elsewhere in the file."""
    if isinstance(value, int):
        number, mask = value, None
    else:
        match = _MARK.fullmatch(value)
        if not match:
            raise Unfit
        number, mask = _number(match[1]), _number(match[2]) if match[2] else None
    if not 0 <= number <= 0xFFFFFFFF or not 0 < (1 if mask is None else mask) <= 0xFFFFFFFF:
        raise Unfit("marks have 32 bits" + (", and an empty mask compares nothing" if mask == 0 else ""))
    if mask is not None and number & ~mask:
        raise Unfit(f"it can never match: {number & ~mask:#x} is outside the mask")
    return number, mask


def _number(text: str) -> int:
    return int(text, 16 if text[:2] in ("0x", "0X") else 10)


prefix = _negatable(_prefix)
interface = _negatable(values.any_interface)
protocol = _negatable(_protocol)
ports = _negatable(_ports)
mark = _negatable(_mark)
