"""What the kernel would do with one packet, and the connections that it knows: for `mlbd explain`.

Sources: rtnetlink(7); the kernel's net/ipv4/route.c and net/ipv6/route.c (inet_rtm_getroute, inet6_rtm_getroute),
include/uapi/linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

from mlbd.core.ports import Connection, Way
from mlbd.core.settings import Family
from mlbd.kernel.netlink import HEADER, NETLINK_NETFILTER, RefusedError, Requests, address, attributes, number, reading
from mlbd.kernel.routes import address_family, device_index

_GET_ROUTE = 26
_RTMSG = struct.Struct("=BBBBBBBBI")
_LOOKUP_TABLE = 0x1000
"""RTM_F_LOOKUP_TABLE: IPv4 says which table it was then. IPv6 always does, and refuses the flag."""
_RTA_DST, _RTA_SRC, _RTA_IIF, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC, _RTA_TABLE, _RTA_MARK = 1, 2, 3, 4, 5, 7, 15, 16
_RTA_VIA, _RTA_IP_PROTO, _RTA_SPORT, _RTA_DPORT = 18, 27, 28, 29
_TCP, _UDP = 6, 17
_ASKED = (1, _TCP, _UDP, 58)
"""Protocols that the kernel lets us ask for; others are taken for UDP, and no rule by protocol is found for them."""

_GET_CONNECTIONS = 1 << 8 | 1
"""NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET."""
_CTA_ORIGINAL, _CTA_MARK = 1, 8
_TUPLE_IP, _TUPLE_PROTOCOL = 1, 2
_IP_FIRST: dict[Family, int] = {4: 1, 6: 3}
"""CTA_IP_V4_SRC, CTA_IP_V6_SRC; the destination is the next."""
_PROTOCOL_NUMBER, _PROTOCOL_SOURCE, _PROTOCOL_DESTINATION = 1, 2, 3


def way(
    requests: Requests,
    family: Family,
    destination: str,
    *,
    source: str | None = None,
    interface: str | None = None,
    mark: int = 0,
    protocol: int | None = None,
    port: int | None = None,
    source_port: int | None = None,
) -> Way:
    """Where a packet goes that comes in by `interface`, or that the router itself sends; what `ip route get` shows.

    Raises OSError if the kernel can't be asked, as about an interface that does not exist.
    """
    af = address_family(family)
    parts = [_attribute(_RTA_DST, socket.inet_pton(af, destination)), _attribute(_RTA_MARK, struct.pack("=I", mark))]
    if source is not None:
        parts.append(_attribute(_RTA_SRC, socket.inet_pton(af, source)))
    if interface is not None:
        parts.append(_attribute(_RTA_IIF, struct.pack("=I", device_index(interface))))
    if protocol in _ASKED:
        parts.append(_attribute(_RTA_IP_PROTO, bytes([protocol])))
    if protocol in (_TCP, _UDP):
        ports = ((_RTA_SPORT, source_port), (_RTA_DPORT, port))
        parts += [_attribute(kind, struct.pack("!H", value)) for kind, value in ports if value]
    bits = 32 if family == 4 else 128
    flags = _LOOKUP_TABLE if family == 4 else 0
    header = _RTMSG.pack(af, bits, 0 if source is None else bits, 0, 0, 0, 0, 0, flags)
    try:
        message = requests.get(_GET_ROUTE, header + b"".join(parts))
    except RefusedError as error:
        return Way(table=None, device="", gateway=None, source=source, error=os.strerror(error.errno or 0))
    with reading("a route"):
        found = attributes(message, HEADER.size + _RTMSG.size)
        gateway = found.get(_RTA_GATEWAY) or found.get(_RTA_VIA, b"")[2:]
        return Way(
            table=number(found[_RTA_TABLE]),
            device=socket.if_indextoname(number(found[_RTA_OIF])),
            gateway=address(gateway) if gateway else None,
            source=address(found[_RTA_PREFSRC]) if _RTA_PREFSRC in found else source,
            error="",
        )


def connections(
    family: Family,
    protocol: int,
    source: str | None,
    destination: str | None,
    port: int | None,
    source_port: int | None,
) -> list[Connection]:
    """The connections whose first packet was such a one; None is any. Raises OSError.

    It reads the whole table of the kernel, tens of milliseconds for thousands of entries: call it in a thread.
    """
    af = address_family(family)
    wanted = tuple(None if text is None else socket.inet_pton(af, text) for text in (source, destination))
    requests = Requests(NETLINK_NETFILTER)
    try:
        with reading("connections"):
            return list(_matching(requests, family, protocol, wanted, (source_port, port)))
    finally:
        requests.close()


def _matching(
    requests: Requests,
    family: Family,
    protocol: int,
    addresses: tuple[bytes | None, ...],
    ports: tuple[int | None, int | None],
) -> Iterator[Connection]:
    rare = next((each for each in reversed(addresses) if each is not None), b"")
    first = _IP_FIRST[family]
    for message in requests.stream(_GET_CONNECTIONS, struct.pack("=BBH", address_family(family), 0, 0)):
        if rare not in message:
            continue
        found = attributes(message, HEADER.size + 4)
        original = attributes(found[_CTA_ORIGINAL], 0)
        ends, transport = attributes(original[_TUPLE_IP], 0), attributes(original[_TUPLE_PROTOCOL], 0)
        source, destination = ends[first], ends[first + 1]
        source_port, port = _port(transport, _PROTOCOL_SOURCE), _port(transport, _PROTOCOL_DESTINATION)
        said = (transport[_PROTOCOL_NUMBER][0], source, destination, source_port, port)
        if all(wanted in (None, it) for wanted, it in zip((protocol, *addresses, *ports), said, strict=True)):
            mark = int.from_bytes(found.get(_CTA_MARK, b""), "big")
            yield Connection(family, protocol, address(source), source_port, address(destination), port, mark)


def _port(transport: dict[int, bytes], kind: int) -> int | None:
    return int.from_bytes(transport[kind], "big") if kind in transport else None


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)
