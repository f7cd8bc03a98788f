"""What `mlbd explain` is asked: a packet, described on the command line."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from msgspec import Struct

from mlbd.core.match import OWN, WITH_PORTS, Packet
from mlbd.core.settings import Family

_PROTOCOLS: Mapping[str, tuple[int, int]] = {
    "tcp": (6, 6), "udp": (17, 17), "icmp": (1, 58), "icmpv6": (58, 58), "ipv6-icmp": (58, 58), "gre": (47, 47),
    "esp": (50, 50), "ah": (51, 51), "sctp": (132, 132), "udplite": (136, 136), "dccp": (33, 33),
}  # fmt: skip
"""Numbers over IPv4 and IPv6 (IANA's protocol numbers)."""


class Question(Struct, frozen=True, kw_only=True):
    """The packet that is asked about, as far as it was described."""

    family: Family
    destination: str
    """Canonical, like `source`."""
    source: str | None = None
    """None: the router's own connection, whose source address is not chosen yet."""
    interface: str | None = None
    """None: to be found out. `lo`: the router itself sends it."""
    protocol: int = 6
    port: int | None = None
    source_port: int | None = None
    mark: int = 0

    def packet(self) -> Packet:
        return Packet(
            family=self.family,
            source=None if self.source is None else int(ipaddress.ip_address(self.source)),
            destination=int(ipaddress.ip_address(self.destination)),
            protocol=self.protocol,
            port=self.port,
            source_port=self.source_port,
            interface=self.interface or OWN,
            mark=self.mark,
        )


def question(
    destination: str,
    *,
    source: str | None = None,
    interface: str | None = None,
    protocol: str | None = None,
    port: str | None = None,
    source_port: str | None = None,
    mark: str | None = None,
) -> Question:
    """All as typed. Raises ValueError, with one sentence, for what can't be asked."""
    to = _address("destination", destination)
    sender = None if source is None else _address("--from", source)
    if sender is not None and sender.version != to.version:
        raise ValueError(f"--from {sender} is IPv{sender.version}, but the destination {to} is IPv{to.version}")
    if sender is None and interface not in (None, OWN):
        raise ValueError(f"what comes in by {interface} has a source address; add --from")
    number = _protocol(protocol or "tcp", to.version == 6)
    for option, value in (("--port", port), ("--source-port", source_port)):
        if value is not None and number not in WITH_PORTS:
            raise ValueError(f"{option} {value}: protocol {protocol} has no ports; tcp and udp have")
    return Question(
        family=6 if to.version == 6 else 4,
        destination=str(to),
        source=None if sender is None else str(sender),
        interface=interface,
        protocol=number,
        port=None if port is None else _number("--port", port, 1, 65535),
        source_port=None if source_port is None else _number("--source-port", source_port, 1, 65535),
        mark=0 if mark is None else _number("--mark", mark, 0, 0xFFFFFFFF),
    )


def _address(place: str, text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{place} {text!r} is not an address; names are not looked up") from None


def _protocol(text: str, six: bool) -> int:
    if text.lower() in _PROTOCOLS:
        return _PROTOCOLS[text.lower()][six]
    try:
        return _number("--protocol", text, 0, 255)
    except ValueError:
        names = ", ".join(_PROTOCOLS)
        raise ValueError(f"--protocol {text!r} is neither a number from 0 to 255 nor one of {names}") from None


def _number(option: str, text: str, low: int, high: int) -> int:
    try:
        number = int(text, 0)
    except ValueError:
        number = -1
    if not low <= number <= high:
        raise ValueError(f"{option} {text!r} is not a number from {low} to {high}")
    return number
