"""ARP (RFC 826) on one Ethernet device: requests out, replies to us in.

A packet socket (packet(7)) works without any address on the device, and no packet filter of this router is asked. The
request carries an address of the interface, or, where there is none, 0.0.0.0 as in a probe (RFC 5227 section 2.1.1).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

from mlbd.probe import filters as f
from mlbd.probe import interface
from mlbd.probe.timing import STAMP_SIZE, stamp, stamped

_ETH_P_ARP = 0x0806
_PACKET = struct.Struct("!HHBBH6s4s6s4s")
_ETHERNET, _IPV4, _REQUEST, _REPLY = 1, 0x0800, 1, 2
_BROADCAST = b"\xff" * 6

_LOAD_SENDER_OF_REPLY: list[f.Instruction] = [
    (f.LD_HALF, 0, 0, 6),
    (f.JUMP_IF_EQUAL, 1, 0, _REPLY),
    (f.RETURN, 0, 0, 0),
    (f.LD_WORD, 0, 0, 14),
]


class ArpSocket:
    """A non-blocking packet socket for ARP on one device."""

    def __init__(self, device: str, index: int, own: bytes) -> None:
        """`own`: the device's Ethernet address. Raises OSError."""
        self._device = device
        self._own = own
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)  # deaf until it is bound
        try:
            self._socket.setblocking(False)
            stamp(self._socket)
            self.listen_for([])
            self._socket.bind((device, _ETH_P_ARP))
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def listen_for(self, addresses: Iterable[str]) -> None:
        """Let in only replies of these (at most 200)."""
        wanted = [int.from_bytes(socket.inet_aton(address), "big") for address in addresses]
        f.let_in(self._socket, _LOAD_SENDER_OF_REPLY, wanted)

    def send(self, address: str) -> None:
        """Raises OSError."""
        source = interface.ipv4_source(self._device, address)
        asked = socket.inet_aton(address)
        request = _PACKET.pack(_ETHERNET, _IPV4, 6, 4, _REQUEST, self._own, source, bytes(6), asked)
        self._socket.sendto(request, (self._device, _ETH_P_ARP, 0, _ETHERNET, _BROADCAST))

    def receive(self) -> tuple[str | None, int]:
        """Who replied, None if it was no reply to us; and when: Unix time in ns, 0 if the kernel didn't say.

        Raises BlockingIOError when there is nothing, OSError.
        """
        data, ancillary, _flags, _source = self._socket.recvmsg(_PACKET.size, STAMP_SIZE)
        return parse(data, self._own), stamped(ancillary)

    def close(self) -> None:
        self._socket.close()


def parse(data: bytes, own: bytes) -> str | None:
    """The IPv4 address that an ARP reply to the Ethernet address `own` comes from; None for anything else."""
    if len(data) < _PACKET.size:
        return None
    hardware, protocol, *sizes, operation, _, sender, target, _ = _PACKET.unpack_from(data)
    if (hardware, protocol, *sizes, operation, target) != (_ETHERNET, _IPV4, 6, 4, _REPLY, own):
        return None
    return socket.inet_ntoa(sender)
