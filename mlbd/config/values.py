"""Readers: from a value as it stands in the file, of a type already checked, to what the core calls it.

Each takes one value and returns its meaning, or raises `Unfit` with the reason. What only shows when several keys are
seen together is checked in `mlbd.config.relations`.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable
from typing import get_args

from mlbd.config.problems import Unfit, nearest
from mlbd.core.settings import AUTO, Family, GatewaySetting, Method

_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}  # milliseconds
_PART = r"(?:([0-9]{1,9}(?:\.[0-9]{1,6})?)%s)?"
_DURATION = re.compile("".join(_PART % unit for unit in ("d", "h", "m(?!s)", "s", "ms")))
_LONGEST = 365 * 86_400.0

DURATION = 'a duration with its unit (ms, s, m, h, d), such as "200ms", "1s" or "1m30s"'


def duration(*, least: float = 0.0, zero: bool = True) -> Callable[[str], float]:
    """A reader of durations into seconds, of at least `least`; `zero`: or none at all."""

    def read(text: str) -> float:
        match = _DURATION.fullmatch(text)
        if not text or not match:
            raise Unfit("" if not text.isdecimal() else f'{text} of which unit? write "{text}s" for seconds')
        numbers = zip(match.groups(), _UNITS.values(), strict=True)
        seconds = sum(float(number) * unit for number, unit in numbers if number) / 1000
        if seconds > _LONGEST:
            raise Unfit(expected="a duration of at most 365d")
        if seconds < least and not (zero and seconds == 0):
            bound = f"a duration of at least {seconds_text(least)}"
            raise Unfit(expected=bound + (', or "0s"' if zero else ""))
        return seconds

    return read


def seconds_text(seconds: float) -> str:
    """A duration as it could stand in the file: 90.0 is `1m30s`."""
    left = round(seconds * 1000)
    text = ""
    for unit, size in _UNITS.items():
        count, left = divmod(left, size)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


RATIO = 'a share in percent, such as "20%"'


def ratio(text: str) -> float:
    """Of "20%", 0.2."""
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,3})?)%", text)
    if not match:
        raise Unfit(f'write "{text}%"' if re.fullmatch(r"[0-9]{1,3}", text) else "")
    if float(match[1]) > 100:
        raise Unfit("nothing is more than 100%")
    return float(match[1]) / 100


def timeout(text: str) -> float | None:
    """None for "auto"."""
    return None if text == "auto" else duration(least=0.001, zero=False)(text)


def interface(name: str) -> str:
    """What an uplink leaves by."""
    if name == "lo":
        raise Unfit("nothing leaves the router by the loopback interface")
    return any_interface(name)


def any_interface(name: str) -> str:
    """A name that Linux accepts (`dev_valid_name` in net/core/dev.c) and nftables can express literally."""
    if not 1 <= len(name.encode()) <= 15:
        raise Unfit(f"Linux takes names of 1 to 15 bytes, this has {len(name.encode())}")
    if name in (".", "..", "all", "default"):  # the last two would be directories beside those of interfaces
        raise Unfit("Linux has no interface of this name")
    if b"\xa0" in name.encode():  # byte by byte it looks for white space, of Latin-1, where this is a blank
        raise Unfit("Linux takes no letter with the byte 0xa0 in the name of an interface")
    for character in name:
        if character in "/:%" or character.isspace():  # a number takes the place of "%d"
            raise Unfit(f"Linux takes no {_named(character)} in the name of an interface")
        if character in '"\\*' or not character.isprintable():
            raise Unfit(f"nftables cannot express {_named(character)} in the name of an interface")
    return name


def _named(character: str) -> str:
    if character.isspace():
        return "white space"
    return f"`{character}`" if character.isprintable() else "control characters"


def gateway(family: Family) -> Callable[[str], GatewaySetting]:
    """A reader of "auto", "none" and addresses of the family."""

    def read(text: str) -> GatewaySetting:
        if text == "auto":
            return AUTO
        if text == "none":
            return GatewaySetting(source="none")
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            raise Unfit(nearest(text, ("auto", "none"))) from None
        if address.version != family:
            raise Unfit(
                f"an IPv{address.version} address belongs to {'gateway6' if address.version == 6 else 'gateway'}"
            )
        reason = unsuitable(address)
        if reason and not (family == 6 and address.is_link_local):
            raise Unfit(reason)
        return GatewaySetting(source="fixed", address=without_zone(address))

    return read


def prefix6(text: str) -> str | None:
    """A canonical IPv6 prefix that a provider may have given out; None for "auto"."""
    if text == "auto":
        return None
    if "%" in text:
        raise Unfit("a prefix has no interface")
    try:
        found = ipaddress.ip_interface(text)
    except ValueError:
        raise Unfit(nearest(text, ("auto",))) from None
    if found.version == 4:
        raise Unfit("this is an IPv4 prefix")
    if reason := unsuitable(found.ip):
        raise Unfit(reason)
    if not 32 <= found.network.prefixlen <= 64:
        raise Unfit(f"its length is {found.network.prefixlen}")
    if found.ip != found.network.network_address:
        raise Unfit(f'bits behind the prefix are set: write "{found.network}"')
    return str(found.network)


METHODS: tuple[Method, ...] = get_args(Method)
METHOD = '"random", "round-robin", "hash-source", "multipath" or "failover"'
_PER_PACKET = ("per-packet", "per_packet", "packet", "packets", "equalize", "rr", "balance-rr", "nth", "teql")


def method(text: str) -> Method:
    """How a policy spreads connections. What people know from elsewhere for spreading packets gets the reason."""
    for known in METHODS:
        if text == known:
            return known
    if text.lower() in _PER_PACKET:
        raise Unfit(
            "balancing packet by packet breaks connections, as each uplink translates to another address (1+1<1), so "
            'it is not offered; "round-robin" gives connections in turn'
        )
    raise Unfit(nearest(text, METHODS))


def unsuitable(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """Why a next hop or a probe cannot go to that address, or ""."""
    if address.is_loopback:
        return "a loopback address is this router itself"
    if address.is_multicast or address == ipaddress.IPv4Address("255.255.255.255"):
        return "a multicast or broadcast address names nobody in particular"
    if address.is_unspecified:
        return "the unspecified address names nobody"
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return f'an IPv4 address in disguise: write "{address.ipv4_mapped}"'
    if address.is_link_local:
        return "a link-local address means something else on every link"
    return ""


def without_zone(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """Canonical text. Raises Unfit for one with an interface."""
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id:
        raise Unfit(f'the interface is known already: leave out "%{address.scope_id}"')
    return str(address)


HELPERS = ("ftp", "tftp", "sip", "irc", "pptp", "RAS", "Q.931", "amanda", "sane", "snmp", "netbios-ns")
"""Conntrack helpers that Linux can assign by name (net/netfilter/nf_conntrack_*.c); RAS and Q.931 make up H.323."""


def helper(name: str) -> str:
    """A conntrack helper by the kernel's name for it."""
    if name in HELPERS:
        return name
    if name.lower() in ("h323", "h.323"):
        raise Unfit('H.323 takes two helpers, "RAS" and "Q.931"')
    raise Unfit(nearest(name, HELPERS))


def metrics(text: str) -> tuple[str, int] | None:
    """Address and port to listen on; None for "off"."""
    if text == "off":
        return None
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        raise Unfit(
            "names of hosts are not looked up" if colon and host and not bracketed else nearest(text, ("off",))
        ) from None
    if bracketed != (address.version == 6):
        raise Unfit("an IPv6 address stands in brackets, an IPv4 address does not")
    if not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise Unfit("ports are whole numbers from 1 to 65535")
    return str(address), int(port)


def socket_path(text: str) -> str:
    """Where the control socket is; unix(7) leaves room for 107 bytes."""
    if not text.startswith("/"):
        raise Unfit("it must not depend on the directory the daemon was started in")
    if text.endswith("/"):
        raise Unfit("this is a directory")
    if len(os.fsencode(text)) > 107:
        raise Unfit("Linux takes at most 107 bytes for the path of a socket")
    if not text.isprintable():
        raise Unfit("no control characters, please")
    return text


def mask(value: int | str) -> int:
    """Eight bits in a row of the 32 of a mark."""
    number = value if isinstance(value, int) else int(value, 16) if re.fullmatch("0[xX][0-9a-fA-F]{1,8}", value) else 0
    if not 0 < number <= 0xFFFFFFFF:
        raise Unfit
    low = number & -number
    if number == 0xFF * low:
        return number
    if number.bit_count() != 8:
        raise Unfit(f"this mask has {number.bit_count()} bits, not 8")
    raise Unfit("this mask has holes")


_PROTOCOLS = {
    0: "unspecified", 1: "redirect", 2: "kernel", 3: "boot", 4: "static", 8: "gated", 9: "ra", 10: "mrt", 11: "zebra",
    12: "bird", 13: "dnrouted", 14: "xorp", 15: "ntk", 16: "dhcp", 17: "mrouted", 18: "keepalived", 42: "babel",
    84: "ovn", 99: "openr", 186: "bgp", 187: "isis", 188: "ospf", 189: "rip", 192: "eigrp",
}  # fmt: skip


def protocol(number: int) -> int:
    """An rtnetlink protocol number that nobody else uses (RTPROT_* in linux/rtnetlink.h)."""
    if number in _PROTOCOLS:
        raise Unfit(f'it belongs to "{_PROTOCOLS[number]}", whose routes would be taken for ours')
    return number
