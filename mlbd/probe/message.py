"""ICMP messages as a raw socket receives them (RFC 792, RFC 4443), reduced to what a prober wants to know.

The kernel hands raw IPv4 sockets the packet with its IP header, raw IPv6 sockets only the ICMPv6 message (raw(7),
RFC 3542 section 3). IPv4 messages arrive here before the kernel has checked their checksum; the payload is compared
with what was sent, so a damaged reply does not count.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from mlbd.core.settings import Family

_ID_AND_SEQUENCE = struct.Struct("!HH")

_UNREACHABLE4 = {
    0: "network unreachable",
    1: "host unreachable",
    2: "protocol unreachable",
    3: "port unreachable",
    4: "fragmentation needed",
    5: "source route failed",
    6: "network unknown",
    7: "host unknown",
    9: "network administratively prohibited",
    10: "host administratively prohibited",
    11: "network unreachable for this type of service",
    12: "host unreachable for this type of service",
    13: "communication administratively prohibited",
}
"""Codes of ICMP type 3 (RFC 1122 section 3.2.2.1, RFC 1812 section 5.2.7.1)."""

_UNREACHABLE6 = {
    0: "no route to destination",
    1: "communication administratively prohibited",
    2: "beyond scope of source address",
    3: "address unreachable",
    4: "port unreachable",
    5: "source address failed ingress policy",
    6: "route to destination rejected",
}
"""Codes of ICMPv6 type 1 (RFC 4443 section 3.1)."""

_EXCEEDED = {0: "time to live exceeded", 1: "fragment reassembly time exceeded"}
"""Codes of ICMP type 11 and ICMPv6 type 3."""


class Message(NamedTuple):
    """An echo reply, or an ICMP error about an echo request."""

    identifier: int
    sequence: int
    payload: bytes
    """Of the reply; of the quoted request as far as it was quoted, possibly nothing."""
    error: str
    """What went wrong, such as `host unreachable`; "" for an echo reply."""
    destination: str
    """Where the quoted request was going; "" for an echo reply."""


def parse(family: Family, data: bytes) -> Message | None:
    """Take apart what a raw ICMP socket received; None if it is neither of the two, or cut short."""
    try:
        return _parse4(data) if family == 4 else _parse6(data)
    except (IndexError, struct.error):
        return None


def _parse4(data: bytes) -> Message | None:
    start = (data[0] & 15) * 4
    kind, code = data[start], data[start + 1]
    if kind == 0:
        identifier, sequence = _ID_AND_SEQUENCE.unpack_from(data, start + 4)
        return Message(identifier, sequence, data[start + 8 :], "", "")
    if kind == 3:
        error = _UNREACHABLE4.get(code, f"destination unreachable (code {code})")
    elif kind == 11:
        error = _EXCEEDED.get(code, f"time exceeded (code {code})")
    else:
        return None
    quoted = start + 8
    request = quoted + (data[quoted] & 15) * 4
    if data[quoted + 9] != socket.IPPROTO_ICMP or data[request] != 8:
        return None
    identifier, sequence = _ID_AND_SEQUENCE.unpack_from(data, request + 4)
    destination = socket.inet_ntop(socket.AF_INET, data[quoted + 16 : quoted + 20])
    return Message(identifier, sequence, data[request + 8 :], error, destination)


def _parse6(data: bytes) -> Message | None:
    kind, code = data[0], data[1]
    if kind == 129:
        identifier, sequence = _ID_AND_SEQUENCE.unpack_from(data, 4)
        return Message(identifier, sequence, data[8:], "", "")
    if kind == 1:
        error = _UNREACHABLE6.get(code, f"destination unreachable (code {code})")
    elif kind == 3:
        error = _EXCEEDED.get(code, f"time exceeded (code {code})")
    else:
        return None
    # Our requests carry no extension headers, so the quoted one has its ICMPv6 header right behind the IPv6 header.
    if data[8 + 6] != socket.IPPROTO_ICMPV6 or data[48] != 128:
        return None
    identifier, sequence = _ID_AND_SEQUENCE.unpack_from(data, 52)
    destination = socket.inet_ntop(socket.AF_INET6, data[32:48])
    return Message(identifier, sequence, data[56:], error, destination)
