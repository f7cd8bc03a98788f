"""One raw ICMP socket, opened the way probes need it: on one device, deaf to everybody else's pings.

icmplib opens the socket and builds the requests. Its receive path is not used: it blocks, asks the clock in user
space, when the event loop gets to it, and matches by identifier and sequence only.

- SO_BINDTODEVICE, and not a mark or a source address, is what guarantees the way out; it binds to the interface's
  index, so an interface deleted and made again needs a new socket. Where uplinks share the device, a mark chooses
  among their routes.
- ICMP_FILTER and ICMP6_FILTER (raw(7), RFC 3542 section 3.2) drop all types but echo replies and errors. A packet
  filter on top drops replies to, and errors about, other people's pings. Both only spare wake-ups; whatever gets in
  is still checked by the prober.
- SO_TIMESTAMPNS (socket(7)) notes the arrival in the kernel, so that a busy event loop does not lengthen round trips.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

from icmplib import ICMPv4Socket, ICMPv6Socket
from icmplib.exceptions import ICMPSocketError

from mlbd.core.settings import Family
from mlbd.probe import filters as f
from mlbd.probe.timing import STAMP_SIZE, stamp, stamped

_SOL_RAW = 255
_ICMP_FILTER = 1
_ICMP6_FILTER = 1
_BIGGEST = 2048
"""More than any reply to our requests and any quotation of them."""

_LOAD_IDENTIFIER4: list[f.Instruction] = [
    (f.LDX_IP_HEADER_LENGTH, 0, 0, 0),
    (f.LD_BYTE_AT_X, 0, 0, 0),
    (f.JUMP_IF_EQUAL, 6, 0, 0),  # an echo reply has its own identifier; an error has it in the request it quotes
    (f.LD_BYTE_AT_X, 0, 0, 8),
    (f.AND, 0, 0, 15),
    (f.SHIFT_LEFT, 0, 0, 2),
    (f.ADD_X, 0, 0, 0),
    (f.ADD, 0, 0, 8),
    (f.TO_X, 0, 0, 0),
    (f.LD_HALF_AT_X, 0, 0, 4),
]
_LOAD_IDENTIFIER6: list[f.Instruction] = [
    (f.LD_BYTE, 0, 0, 0),
    (f.JUMP_IF_EQUAL, 0, 2, 129),
    (f.LD_HALF, 0, 0, 4),
    (f.JUMP, 0, 0, 1),
    (f.LD_HALF, 0, 0, 8 + 40 + 4),
]


class _RawSocket4(ICMPv4Socket):  # type: ignore[misc]
    """icmplib's socket, made ready before anything can be sent."""

    def __init__(self, device: str, mark: int) -> None:
        self.place = device, mark
        super().__init__()

    def _create_socket(self, type: int) -> socket.socket:  # noqa: A002  (icmplib's name)
        blocked = 0xFFFFFFFF & ~(1 << 0 | 1 << 3 | 1 << 11)
        made = socket.socket(socket.AF_INET, type, socket.IPPROTO_ICMP)
        return _prepared(made, self.place, _SOL_RAW, _ICMP_FILTER, struct.pack("@I", blocked))

    def _checksum(self, data: bytes) -> int:
        # RFC 1071: a sum of 16-bit words with end-around carry is a remainder by 65535. icmplib adds byte by byte.
        return 0xFFFF - int.from_bytes(data + bytes(len(data) % 2)) % 0xFFFF


class _RawSocket6(ICMPv6Socket):  # type: ignore[misc]
    """As `_RawSocket4`; the kernel computes the checksum (RFC 3542 section 3.1)."""

    def __init__(self, device: str, mark: int) -> None:
        self.place = device, mark
        super().__init__()

    def _create_socket(self, type: int) -> socket.socket:  # noqa: A002  (icmplib's name)
        blocked = [0xFFFFFFFF] * 8
        for passed in (1, 3, 129):
            blocked[passed >> 5] &= ~(1 << (passed & 31))
        made = socket.socket(socket.AF_INET6, type, socket.IPPROTO_ICMPV6)
        return _prepared(made, self.place, socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("@8I", *blocked))

    def _checksum(self, data: bytes) -> int:
        return 0


def _prepared(made: socket.socket, place: tuple[str, int], level: int, option: int, types: bytes) -> socket.socket:
    device, mark = place
    try:
        made.setsockopt(level, option, types)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        stamp(made)
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made


class EchoSocket:
    """A non-blocking raw socket of one family on one device."""

    def __init__(self, family: Family, device: str, mark: int = 0) -> None:
        """Raises OSError: ENODEV without such a device, EPERM without CAP_NET_RAW."""
        try:
            self._icmp = _RawSocket4(device, mark) if family == 4 else _RawSocket6(device, mark)
        except ICMPSocketError as error:
            # icmplib replaces the system's error by its own; the number is needed to say what to do.
            cause = error.__context__
            raise cause if isinstance(cause, OSError) else OSError(str(error)) from error
        self._load = _LOAD_IDENTIFIER4 if family == 4 else _LOAD_IDENTIFIER6
        self._socket: socket.socket = self._icmp.sock

    def fileno(self) -> int:
        return self._socket.fileno()

    def listen_for(self, identifiers: Iterable[int]) -> None:
        """Let in only what concerns echo requests with these identifiers (at most 200). Replaces the filter before."""
        f.let_in(self._socket, self._load, identifiers)

    def send(self, identifier: int, sequence: int, payload: bytes, address: str) -> None:
        """Send an echo request; a link-local address is meant on the device. Raises OSError."""
        self._socket.sendto(self._icmp._create_packet(identifier, sequence, payload), (address, 0))

    def receive(self) -> tuple[bytes, str, int]:
        """A received message, its source without scope, and when it came: Unix time in ns, 0 if the kernel didn't say.

        Raises BlockingIOError when there is nothing.
        """
        data, ancillary, _flags, source = self._socket.recvmsg(_BIGGEST, STAMP_SIZE)
        return data, source[0].partition("%")[0], stamped(ancillary)

    def close(self) -> None:
        self._icmp.close()
