"""Readers for the keys of bundles, as those of `mlbd.config.values`: bonds and TEQL, their options and addresses."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

from mlbd.config import values
from mlbd.config.problems import Unfit, nearest, shown
from mlbd.core.settings import BOND_MODES, TRANSMIT_HASHES, BondMode, TransmitHash

MODE = ", ".join(f'"{mode}"' for mode in BOND_MODES) + " or their numbers, 0 to 6"
HASH = ", ".join(f'"{policy}"' for policy in TRANSMIT_HASHES[:-1]) + f' or "{TRANSMIT_HASHES[-1]}"'
TEQL = 'the kernel\'s name for a TEQL device, "teql0" to "teql99"'
ADDRESS = 'an address with the length of its network\'s prefix, such as "192.168.1.3/24"'
ADDRESS4 = 'an IPv4 address with the length of its network\'s prefix, such as "10.0.0.0/31"'
NEIGHBOUR = 'an IPv4 address, such as "192.168.1.1"'
MAC = 'the hardware address of one station, such as "02:00:00:00:00:01"'

_LONGEST = 24 * 86_400.0
"""The kernel keeps times of bonds as milliseconds in an int (include/net/bonding.h)."""


def mode(value: int | str) -> BondMode:
    """A mode by its name or its number."""
    number = value if isinstance(value, int) else int(value) if re.fullmatch("[0-9]", value) else None
    for known, name in enumerate(BOND_MODES):
        if number == known or value == name:
            return name
    if value == "802.1ad" or str(value).lower() in ("lacp", "4ad"):
        raise Unfit('LACP is "802.3ad"')
    raise Unfit(nearest(str(value), BOND_MODES))


def transmit_hash(text: str) -> TransmitHash:
    for known in TRANSMIT_HASHES:
        if text == known:
            return known
    raise Unfit(nearest(text, TRANSMIT_HASHES))


def milliseconds(*, least: float = 0.0, zero: str = "") -> Callable[[int | str], float]:
    """A reader of durations that the bonding driver can keep; `zero`: why it must not be none at all."""

    def read(text: int | str) -> float:
        if isinstance(text, int) or text.isdecimal():  # as for the driver itself, ifupdown and ifcfg
            raise Unfit(f'write "{shown(int(text))}ms" for milliseconds')
        seconds = values.duration()(text)
        if seconds < least:
            raise Unfit("" if seconds else zero, expected=f"a duration of at least {values.seconds_text(least)}")
        if seconds > _LONGEST:
            raise Unfit(expected=f"a duration of at most {values.seconds_text(_LONGEST)}")
        whole = round(seconds * 1000) / 1000
        if abs(seconds - whole) > 1e-9:
            raise Unfit("the kernel counts milliseconds", expected="whole milliseconds")
        return whole

    return read


def name(text: str) -> str:
    """What a bond is called."""
    if text == "lo":
        raise Unfit("this is the loopback interface")
    return values.any_interface(text)


def address(text: str) -> str:
    """An address that an interface may have, canonical, with the length of its prefix."""
    try:
        found = ipaddress.ip_interface(text)
    except ValueError:
        raise Unfit from None
    if zone := re.search("%[^/]*", text):
        raise Unfit(f'the interface is known already: leave out "{zone[0]}"')
    ip, network = found.ip, found.network
    if "/" not in text:
        raise Unfit(f'how long is the prefix? write "{ip}/{24 if ip.version == 4 else 64}" or another length')
    if not re.fullmatch("[0-9]+", text.partition("/")[2]):
        raise Unfit(f'write "{ip}/{network.prefixlen}"')
    if (reason := values.unsuitable(ip)) and not ip.is_link_local:
        raise Unfit(reason)
    if not network.prefixlen:
        raise Unfit("a prefix of this length is everybody's network")
    if network.num_addresses > 2 and ip == network.network_address:
        raise Unfit("this is the network, not an address in it")
    if ip.version == 4 and network.num_addresses > 2 and ip == network.broadcast_address:
        raise Unfit("this is the broadcast address of the network")
    return f"{ip}/{network.prefixlen}"


def address4(text: str) -> str:
    """As `address`, of IPv4: by which TEQL was tried."""
    found = address(text)
    if ":" in found:
        raise Unfit("mlbd runs TEQL with IPv4")
    return found


def neighbour(text: str) -> str:
    """Who can be asked by ARP, on the same link."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        raise Unfit("leave out the prefix length" if "/" in text else "") from None
    if isinstance(found, ipaddress.IPv6Address):
        raise Unfit("ARP asks for IPv4 addresses")
    if (reason := values.unsuitable(found)) and not found.is_link_local:
        raise Unfit(reason)
    return str(found)


def peer(text: str) -> str:
    """The far end of a link."""
    try:
        return neighbour(text)
    except Unfit as unfit:
        raise Unfit("mlbd runs TEQL with IPv4" if ":" in text else unfit.hint) from None


def mac(text: str) -> str:
    """A hardware address that one station may have (IEEE 802: bit 0 of the first octet says group)."""
    found = text.lower()
    if re.fullmatch("[0-9a-f]{2}(-[0-9a-f]{2}){5}", found):
        raise Unfit(f'write "{found.replace("-", ":")}"')
    if not re.fullmatch("[0-9a-f]{2}(:[0-9a-f]{2}){5}", found):
        raise Unfit
    if int(found[:2], 16) & 1:
        raise Unfit("this is the address of a group (multicast), which no interface can have")
    if found == "00:00:00:00:00:00":
        raise Unfit("zero is no address")
    return found
