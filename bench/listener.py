"""The reference for a pulled cable: a bare netlink socket; when a link's carrier changes, one route is replaced.

    python -m bench.listener FIRST_INDEX FIRST_GATEWAY SECOND_INDEX SECOND_GATEWAY

The IPv4 default route goes by the first interface while it has carrier, else by the second. No verdicts, no marks, no
connection kept where it is: the least that can be done, in the same language. It prints a line when it is ready.

Sources: rtnetlink(7), linux/rtnetlink.h, linux/if.h (IFF_LOWER_UP).
"""

from __future__ import annotations

import socket
import struct
import sys

_NEWLINK, _NEWROUTE = 16, 24
_REQUEST, _REPLACE, _CREATE = 1, 0x100, 0x400
_GATEWAY, _OIF = 5, 4
_LOWER_UP = 0x10000
_MAIN, _STATIC, _UNIVERSE, _UNICAST = 254, 4, 0, 1


def default_route(index: int, gateway: str) -> bytes:
    """The request that makes this the default route, in place of the one that is there."""
    body = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, _MAIN, _STATIC, _UNIVERSE, _UNICAST, 0)
    body += struct.pack("=HH4s", 8, _GATEWAY, socket.inet_aton(gateway)) + struct.pack("=HHI", 8, _OIF, index)
    return struct.pack("=IHHII", 16 + len(body), _NEWROUTE, _REQUEST | _CREATE | _REPLACE, 1, 0) + body


def carriers(datagram: bytes) -> list[tuple[int, bool]]:
    """Index and carrier of each link that a notification is about."""
    found = []
    while len(datagram) >= 16:
        length, kind = struct.unpack_from("=IH", datagram)
        if kind == _NEWLINK:
            _family, _type, index, flags = struct.unpack_from("=BxHiI", datagram, 16)
            found.append((index, bool(flags & _LOWER_UP)))
        datagram = datagram[(length + 3) & ~3 :]
    return found


def main() -> None:
    first = int(sys.argv[1])
    routes = {True: default_route(first, sys.argv[2]), False: default_route(int(sys.argv[3]), sys.argv[4])}
    requests = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    events.bind((0, 1))
    requests.send(routes[True])
    print("ready", flush=True)
    while True:
        for index, carrier in carriers(events.recv(65536)):
            if index == first:
                requests.send(routes[carrier])


if __name__ == "__main__":
    main()
