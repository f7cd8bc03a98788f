"""ARP (RFC 826) on one Ethernet device: requests out, replies to us in.

A packet socket (packet(7)) works without any address on the device, and no packet filter of this router is asked. The
request carries an address of the interface, or, where there is none, 0.0.0.0 as in a probe (RFC 5227 section 2.1.1);
that of a port of a bond is always such a probe.
"""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Iterable, Sequence

from mlbd.probe import filters as f
from mlbd.probe import interface
from mlbd.probe.timing import STAMP_SIZE, stamp, stamped

_ETH_P_ARP = 0x0806
_PACKET = struct.Struct("!HHBBH6s4s6s4s")
_ETHERNET, _IPV4, _REQUEST, _REPLY = 1, 0x0800, 1, 2
_BROADCAST = b"\xff" * 6
_HEADER = struct.Struct("!6s6sH")
"""Of an Ethernet frame."""
_SOL_PACKET, _ADD_MEMBERSHIP, _DROP_MEMBERSHIP, _UNICAST = 263, 1, 2, 3
_MEMBERSHIP = struct.Struct("@iHH8s")


def _load_sender_of_reply(start: int) -> list[f.Instruction]:
    """Of an ARP packet that starts at this byte."""
    return [
        (f.LD_HALF, 0, 0, start + 6),
        (f.JUMP_IF_EQUAL, 1, 0, _REPLY),
        (f.RETURN, 0, 0, 0),
        (f.LD_WORD, 0, 0, start + 14),
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
        f.let_in(self._socket, _load_sender_of_reply(0), _numbers(addresses))

    def send(self, address: str) -> None:
        """Raises OSError."""
        source = interface.ipv4_source(self._device, address)
        self._socket.sendto(_request(self._own, source, address), (self._device, _ETH_P_ARP, 0, _ETHERNET, _BROADCAST))

    def receive(self) -> tuple[str | None, int]:
        """Who replied, None if it was no reply to us; and when: Unix time in ns, 0 if the kernel didn't say.

        Raises BlockingIOError when there is nothing, OSError.
        """
        data, ancillary, _flags, _source = self._socket.recvmsg(_PACKET.size, STAMP_SIZE)
        return parse(data, self._own), stamped(ancillary)

    def close(self) -> None:
        self._socket.close()


class PortSocket:
    """The same for a port of a bond, which has another Ethernet address now: `sources` ask in turn."""

    def __init__(self, device: str, sources: Sequence[bytes]) -> None:
        """Raises OSError."""
        self.sources = sources
        self._turn = itertools.cycle(sources)
        self._expected: frozenset[bytes] = frozenset()
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # deaf until it is bound
        try:
            self._socket.setblocking(False)
            stamp(self._socket)
            self.listen_for([])
            self._socket.bind((device, _ETH_P_ARP))
            self._index = socket.if_nametoindex(device)
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def listen_for(self, addresses: Iterable[str]) -> None:
        """Let in only replies of these (at most 200)."""
        f.let_in(self._socket, _load_sender_of_reply(_HEADER.size), _numbers(addresses))

    def receive_for(self, sources: Iterable[bytes]) -> None:
        """Have the card take in frames to these, and no more to those said before. Raises OSError."""
        wanted = frozenset(sources)
        for option, which in ((_ADD_MEMBERSHIP, wanted - self._expected), (_DROP_MEMBERSHIP, self._expected - wanted)):
            for address in sorted(which):
                self._socket.setsockopt(
                    _SOL_PACKET, option, _MEMBERSHIP.pack(self._index, _UNICAST, len(address), address)
                )
        self._expected = wanted

    def send(self, address: str) -> None:
        """Raises OSError."""
        source = next(self._turn)
        header = _HEADER.pack(_BROADCAST, source, _ETH_P_ARP)
        self._socket.send(header + _request(source, bytes(4), address))

    def receive(self) -> tuple[tuple[str, bytes] | None, int]:
        """Who replied to a probe and to which Ethernet address, None if nobody did; and when, as of `ArpSocket`.

        Raises BlockingIOError when there is nothing, OSError.
        """
        data, ancillary, _flags, _source = self._socket.recvmsg(_HEADER.size + _PACKET.size, STAMP_SIZE)
        return parse_probed(data[_HEADER.size :]), stamped(ancillary)

    def close(self) -> None:
        self._socket.close()


def parse(data: bytes, own: bytes) -> str | None:
    """The IPv4 address that an ARP reply to the Ethernet address `own` comes from; None for anything else."""
    found = _reply(data)
    return found[0] if found is not None and found[1] == own else None


def parse_probed(data: bytes) -> tuple[str, bytes] | None:
    """The IPv4 address that an ARP reply to a probe comes from, and the Ethernet address it is for; None for anything
    else: what the bond itself asks, perhaps by another port with the same address, is answered to its IPv4 address.
    """
    found = _reply(data)
    return found[:2] if found is not None and found[2] == bytes(4) else None


def _reply(data: bytes) -> tuple[str, bytes, bytes] | None:
    """The IPv4 address that an ARP reply comes from, and those of Ethernet and IPv4 that it is for."""
    if len(data) < _PACKET.size:
        return None
    hardware, protocol, *sizes, operation, _, sender, target, target_address = _PACKET.unpack_from(data)
    if (hardware, protocol, *sizes, operation) != (_ETHERNET, _IPV4, 6, 4, _REPLY):
        return None
    return socket.inet_ntoa(sender), target, target_address


def _request(own: bytes, source: bytes, address: str) -> bytes:
    return _PACKET.pack(_ETHERNET, _IPV4, 6, 4, _REQUEST, own, source, bytes(6), socket.inet_aton(address))


def _numbers(addresses: Iterable[str]) -> list[int]:
    return [int.from_bytes(socket.inet_aton(address), "big") for address in addresses]
