"""Neighbour discovery (RFC 4861) on one Ethernet device: solicitations out, solicited advertisements in.

The destination is the target's solicited-node multicast address, of link-local scope, so the kernel sends from the
link-local address of the device (RFC 6724 section 5, rule 2), and computes the checksum (RFC 3542 section 3.1).
"""

from __future__ import annotations

import array
import ipaddress
import socket
import struct
from collections.abc import Iterable

from mlbd.probe import filters as f
from mlbd.probe.timing import STAMP_SIZE, stamp, stamped

_SOLICITATION, _ADVERTISEMENT = 135, 136
_SOURCE_LINK_LAYER_ADDRESS = 1
_SOLICITED = 0x40
_ICMP6_FILTER = 1
_HOPS = 255
"""Of what has passed no router (RFC 4861 section 7.1)."""
_HOPS_SIZE = socket.CMSG_SPACE(4)
_BIGGEST = 2048
_TARGET = slice(8, 24)

_LOAD_END_OF_TARGET: list[f.Instruction] = [(f.LD_WORD, 0, 0, 20)]


class SolicitationSocket:
    """A non-blocking raw socket for neighbour discovery on one device."""

    def __init__(self, device: str, index: int, own: bytes) -> None:
        """`own`: the device's Ethernet address. Raises OSError."""
        self._index = index
        self._option = bytes([_SOURCE_LINK_LAYER_ADDRESS, 1]) + own
        self._socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        blocked = array.array("I", [0xFFFFFFFF] * 8)
        blocked[_ADVERTISEMENT >> 5] &= ~(1 << (_ADVERTISEMENT & 31))
        try:
            self._socket.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, blocked.tobytes())
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _HOPS)
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
            self._socket.setblocking(False)
            stamp(self._socket)
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def listen_for(self, addresses: Iterable[str]) -> None:
        """Let in only advertisements about these (at most 200), as far as their last 32 bits tell."""
        wanted = {int(ipaddress.IPv6Address(address)) & 0xFFFFFFFF for address in addresses}
        f.let_in(self._socket, _LOAD_END_OF_TARGET, wanted)

    def send(self, address: str) -> None:
        """Raises OSError."""
        target = ipaddress.IPv6Address(address).packed
        group = socket.inet_ntop(socket.AF_INET6, bytes.fromhex("ff0200000000000000000001ff") + target[13:])
        packet = struct.pack("!BBHI", _SOLICITATION, 0, 0, 0) + target + self._option
        self._socket.sendto(packet, (group, 0, 0, self._index))

    def receive(self) -> tuple[str | None, int]:
        """Who advertised itself, None if nobody did; and when: Unix time in ns, 0 if the kernel didn't say.

        Raises BlockingIOError when there is nothing, OSError.
        """
        data, ancillary, _flags, _source = self._socket.recvmsg(_BIGGEST, STAMP_SIZE + _HOPS_SIZE)
        hops = [
            struct.unpack("@i", value)[0]
            for level, kind, value in ancillary
            if (level, kind, len(value)) == (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT, 4)
        ]
        return parse(data, hops[0] if hops else 0), stamped(ancillary)

    def close(self) -> None:
        self._socket.close()


def parse(data: bytes, hops: int) -> str | None:
    """The target of a solicited neighbour advertisement that passed no router; None for anything else."""
    if len(data) < _TARGET.stop or data[:2] != bytes([_ADVERTISEMENT, 0]) or not data[4] & _SOLICITED or hops != _HOPS:
        return None
    return socket.inet_ntop(socket.AF_INET6, data[_TARGET])
