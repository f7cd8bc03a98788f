"""One raw ICMP socket, opened the way probes need it: on one device, deaf to everybody else's pings.

icmplib opens the socket and builds the requests. Its receive path is not used: it blocks, asks the clock in user
space, when the event loop gets to it, and matches by identifier and sequence only.

- SO_BINDTODEVICE, and not a mark or a source address, is what guarantees the way out; it binds to the interface's
  index, so an interface deleted and made again needs a new socket.
- ICMP_FILTER and ICMP6_FILTER (raw(7), RFC 3542 section 3.2) drop all types but echo replies and errors. A packet
  filter on top drops replies to, and errors about, other people's pings. Both only spare wake-ups; whatever gets in
  is still checked by the prober.
- SO_TIMESTAMPNS (socket(7)) notes the arrival in the kernel, so that a busy event loop does not lengthen round trips.
"""

from __future__ import annotations

import array
import socket
import struct
from collections.abc import Iterable

from icmplib import ICMPv4Socket, ICMPv6Socket
from icmplib.exceptions import ICMPSocketError

from mlbd.core.settings import Family

_SOL_RAW = 255
_ICMP_FILTER = 1
_ICMP6_FILTER = 1
_SO_ATTACH_FILTER = 26
_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("@ll")
_ANCILLARY_SIZE = socket.CMSG_SPACE(_TIMESPEC.size)
_BIGGEST = 2048
"""More than any reply to our requests and any quotation of them."""

# Classic BPF (Linux: Documentation/networking/filter.rst), as (code, jump if true, jump if false, operand).
_Instruction = tuple[int, int, int, int]
_LDX_IP_HEADER_LENGTH, _LD_BYTE_AT_X, _LD_HALF_AT_X, _LD_BYTE, _LD_HALF = 0xB1, 0x50, 0x48, 0x30, 0x28
_AND, _SHIFT_LEFT, _ADD, _ADD_X, _TO_X, _JUMP_IF_EQUAL, _JUMP, _RETURN = 0x54, 0x64, 0x04, 0x0C, 0x07, 0x15, 0x05, 0x06

_LOAD_IDENTIFIER4: list[_Instruction] = [
    (_LDX_IP_HEADER_LENGTH, 0, 0, 0),
    (_LD_BYTE_AT_X, 0, 0, 0),
    (_JUMP_IF_EQUAL, 6, 0, 0),  # an echo reply has its own identifier; an error has it in the request it quotes
    (_LD_BYTE_AT_X, 0, 0, 8),
    (_AND, 0, 0, 15),
    (_SHIFT_LEFT, 0, 0, 2),
    (_ADD_X, 0, 0, 0),
    (_ADD, 0, 0, 8),
    (_TO_X, 0, 0, 0),
    (_LD_HALF_AT_X, 0, 0, 4),
]
_LOAD_IDENTIFIER6: list[_Instruction] = [
    (_LD_BYTE, 0, 0, 0),
    (_JUMP_IF_EQUAL, 0, 2, 129),
    (_LD_HALF, 0, 0, 4),
    (_JUMP, 0, 0, 1),
    (_LD_HALF, 0, 0, 8 + 40 + 4),
]


class _RawSocket4(ICMPv4Socket):  # type: ignore[misc]
    """icmplib's socket, made ready before anything can be sent."""

    def __init__(self, device: str) -> None:
        self.device = device
        super().__init__()

    def _create_socket(self, type: int) -> socket.socket:  # noqa: A002  (icmplib's name)
        blocked = 0xFFFFFFFF & ~(1 << 0 | 1 << 3 | 1 << 11)
        made = socket.socket(socket.AF_INET, type, socket.IPPROTO_ICMP)
        return _prepared(made, self.device, _SOL_RAW, _ICMP_FILTER, struct.pack("@I", blocked))


class _RawSocket6(ICMPv6Socket):  # type: ignore[misc]
    """As `_RawSocket4`; the kernel computes the checksum (RFC 3542 section 3.1)."""

    def __init__(self, device: str) -> None:
        self.device = device
        super().__init__()

    def _create_socket(self, type: int) -> socket.socket:  # noqa: A002  (icmplib's name)
        blocked = [0xFFFFFFFF] * 8
        for passed in (1, 3, 129):
            blocked[passed >> 5] &= ~(1 << (passed & 31))
        made = socket.socket(socket.AF_INET6, type, socket.IPPROTO_ICMPV6)
        return _prepared(made, self.device, socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("@8I", *blocked))


def _prepared(made: socket.socket, device: str, level: int, option: int, types: bytes) -> socket.socket:
    try:
        made.setsockopt(level, option, types)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        made.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made


class EchoSocket:
    """A non-blocking raw socket of one family on one device."""

    def __init__(self, family: Family, device: str) -> None:
        """Raises OSError: ENODEV without such a device, EPERM without CAP_NET_RAW."""
        try:
            self._icmp = _RawSocket4(device) if family == 4 else _RawSocket6(device)
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
        wanted = list(identifiers)
        program = [*self._load]
        program += [(_JUMP_IF_EQUAL, len(wanted) - n, 0, identifier) for n, identifier in enumerate(wanted)]
        program += [(_RETURN, 0, 0, 0), (_RETURN, 0, 0, 0xFFFF)]
        code = array.array("B", b"".join(struct.pack("@HBBI", *instruction) for instruction in program))
        address, _ = code.buffer_info()
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), address))

    def send(self, identifier: int, sequence: int, payload: bytes, address: str) -> None:
        """Send an echo request; a link-local address is meant on the device. Raises OSError."""
        self._socket.sendto(self._icmp._create_packet(identifier, sequence, payload), (address, 0))

    def receive(self) -> tuple[bytes, str, int]:
        """A received message, its source without scope, and when it came: Unix time in ns, 0 if the kernel didn't say.

        Raises BlockingIOError when there is nothing.
        """
        data, ancillary, _flags, source = self._socket.recvmsg(_BIGGEST, _ANCILLARY_SIZE)
        at = 0
        for level, kind, value in ancillary:
            if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS and len(value) == _TIMESPEC.size:
                seconds, nanoseconds = _TIMESPEC.unpack(value)
                at = seconds * 1_000_000_000 + nanoseconds
        return data, source[0].partition("%")[0], at

    def close(self) -> None:
        self._icmp.close()
