"""What a provider says on the link to its customer: router advertisements, RFC 4861."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
from ipaddress import IPv6Address, IPv6Network

from msgspec import Struct

_ALL_NODES = "ff02::1"
_SOLICITATION, _ADVERTISEMENT = 133, 134
_ICMP6_FILTER = 1  # linux/icmpv6.h
_ONLY_SOLICITATIONS = struct.pack("=8I", *(0xFFFFFFFF ^ (1 << 5 if word == 4 else 0) for word in range(8)))
_ON_LINK_AUTONOMOUS = 0xC0
_VALID, _PREFERRED = 86400, 14400
_DEPRECATED_VALID = 7200  # RFC 4862 5.5.3 e: hosts believe in no less


class Advertisement(Struct, frozen=True):
    source: str
    """The gateway's link-local address."""
    prefixes: tuple[str, ...]
    """The last one is in use, those before it are deprecated."""
    lifetime: int
    """Of the default route, seconds; 0: this is no default router (any more)."""

    def packet(self) -> bytes:
        """ICMPv6 type 134 (RFC 4861 4.2) with prefix options (4.6.2). The kernel fills in the checksum."""
        found = struct.pack("!BBHBBHII", _ADVERTISEMENT, 0, 0, 64, 0, self.lifetime, 0, 0)
        for prefix in self.prefixes:
            network, current = IPv6Network(prefix), prefix == self.prefixes[-1]
            valid, preferred = (_VALID, _PREFERRED) if current else (_DEPRECATED_VALID, 0)
            found += struct.pack("!BBBBIII", 3, 4, network.prefixlen, _ON_LINK_AUTONOMOUS, valid, preferred, 0)
            found += network.network_address.packed
        return found


class Advertiser:
    """Advertises until it is closed: at once, when it is asked, and at least three times in each lifetime."""

    def __init__(self, interface: str) -> None:
        """On this interface of the place where this thread is; silent as long as it has nothing to `say`."""
        self._said: Advertisement | None = None
        self._index = socket.if_nametoindex(interface)
        self._socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        self._socket.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, _ONLY_SOLICITATIONS)
        self._socket.setblocking(False)
        self._woken, self._wake = os.pipe()
        self._closing = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def say(self, said: Advertisement | None) -> None:
        """From now on this, or nothing."""
        self._said = said
        self._send()
        os.write(self._wake, b"x")  # the pace may be another

    def _send(self) -> None:
        said = self._said
        if said is None:
            return
        source = IPv6Address(said.source).packed + struct.pack("=i", self._index)
        with contextlib.suppress(OSError):  # the cable is pulled
            to = (_ALL_NODES, 0, 0, self._index)
            self._socket.sendmsg([said.packet()], [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, source)], 0, to)

    def _serve(self) -> None:
        while not self._closing:
            said = self._said
            interval = min(max(said.lifetime / 3, 0.3), 5) if said else 5
            ready, _, _ = select.select([self._socket.fileno(), self._woken], [], [], interval)
            if self._woken in ready:
                os.read(self._woken, 100)
                continue
            if ready:
                with contextlib.suppress(OSError):
                    self._socket.recv(2048)
            self._send()

    def close(self) -> None:
        self._closing = True
        os.write(self._wake, b"x")
        self._thread.join()
        self._socket.close()
        os.close(self._woken)
        os.close(self._wake)
