"""The servers of the lab's internet, TCP and UDP port 7, for every address that is routed here.

They answer with the peer address they see, so a client learns by which uplink its packet came:

    UDP  `100.64.1.2 ` and then the datagram, from the address it was sent to
    TCP  the line `100.64.1.2` at once, then everything that comes, echoed
"""

from __future__ import annotations

import contextlib
import resource
import selectors
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from functools import partial

PORT = 7
_OTHERS_PORT = 8
EVERY_PORT = f"""
table inet every_port {{
  chain arrive_raw {{
    type filter hook prerouting priority raw; policy accept;
    meta l4proto {{ tcp, udp }} th dport {PORT} notrack
  }}
  chain leave_raw {{
    type filter hook output priority raw; policy accept;
    meta l4proto {{ tcp, udp }} th sport {PORT} notrack
  }}
  chain arrive {{
    type nat hook prerouting priority dstnat; policy accept;
    socket wildcard {{ 0, 1 }} accept
    meta l4proto {{ tcp, udp }} dnat to :{_OTHERS_PORT}
  }}
}}
"""
"""Ruleset for nft(8) that brings what nobody listens for to the same servers, on a port that nobody else uses. Whom it
came from and was sent to is left as it is, and so is all of port 7, whose packets many tests count.
"""
_IP_PKTINFO = 8  # linux/in.h; the socket module has it from Python 3.14
_BUFFER = 8 << 20
_BATCH = 64


def start() -> subprocess.Popen[bytes]:
    """Start the servers where this thread is. They answer what was sent from now on."""
    families, ports = (socket.AF_INET, socket.AF_INET6), (PORT, _OTHERS_PORT)
    sockets = [make(family, port) for make in (_udp, _tcp) for family in families for port in ports]
    try:
        descriptors = [s.fileno() for s in sockets]
        command = [sys.executable, "-m", __name__, *map(str, descriptors)]
        return subprocess.Popen(command, pass_fds=descriptors, stdin=subprocess.DEVNULL)
    finally:
        for s in sockets:
            s.close()


def _udp(family: int, port: int) -> socket.socket:
    s = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET:
        s.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    else:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    _grow(s)
    s.bind(("", port))
    return s


def _tcp(family: int, port: int) -> socket.socket:
    s = socket.socket(family, socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind(("", port))
    s.listen(4096)
    return s


def _grow(s: socket.socket) -> None:
    for force in (32, 33):  # SO_SNDBUFFORCE, SO_RCVBUFFORCE of asm-generic/socket.h
        with contextlib.suppress(PermissionError):  # older kernels want privileges outside the sandbox too
            s.setsockopt(socket.SOL_SOCKET, force, _BUFFER)


def _answer_datagrams(s: socket.socket) -> None:
    for _ in range(_BATCH):
        try:
            data, asked, _flags, peer = s.recvmsg(2048, 128)
        except BlockingIOError:
            return
        except OSError:  # an ICMP error for an earlier answer: its client is gone
            continue
        if s.family == socket.AF_INET:
            _interface, _local, destination = struct.unpack("=i4s4s", asked[0][2])
            answer_from = (socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("=i4s4s", 0, destination, bytes(4)))
        else:
            answer_from = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, asked[0][2][:16] + bytes(4))
        with contextlib.suppress(OSError):  # nobody to answer any more, or its way is full
            s.sendmsg([peer[0].encode(), b" ", data], [answer_from], 0, peer)


def _accept(selector: selectors.BaseSelector, listening: socket.socket) -> None:
    for _ in range(_BATCH):
        try:
            connection, peer = listening.accept()
        except OSError:
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(connection, selectors.EVENT_READ, partial(_echo, selector, connection))
        with contextlib.suppress(OSError):
            connection.send(peer[0].encode() + b"\n")


def _echo(selector: selectors.BaseSelector, connection: socket.socket) -> None:
    try:
        data = connection.recv(65536)
        if data:
            connection.send(data)
            return
    except BlockingIOError:
        return
    except OSError:
        pass
    selector.unregister(connection)
    connection.close()


def serve(sockets: list[socket.socket]) -> None:
    """Answer for ever."""
    selector = selectors.DefaultSelector()
    for s in sockets:
        s.setblocking(False)
        answer: Callable[[], None]
        answer = partial(_accept, selector, s) if s.type == socket.SOCK_STREAM else partial(_answer_datagrams, s)
        selector.register(s, selectors.EVENT_READ, answer)
    while True:
        for key, _ in selector.select():
            key.data()


def main() -> None:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    serve([socket.socket(fileno=int(descriptor)) for descriptor in sys.argv[1:]])


if __name__ == "__main__":
    main()
