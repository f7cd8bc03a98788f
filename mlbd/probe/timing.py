"""When a probe left and when its answer came: two clocks, and the kernel's word.

Round trips are the difference of two CLOCK_REALTIME readings, ours before sending and the kernel's on arrival. If
the clock was set in between, that difference is negative or longer than what the monotonic clock says; then the
monotonic difference, which includes the time until the event loop read the reply, is reported instead.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("@ll")
STAMP_SIZE = socket.CMSG_SPACE(_TIMESPEC.size)
"""Bytes of ancillary data that a stamp takes."""


class Sent(NamedTuple):
    """A probe that is on its way."""

    round: int
    address: str
    realtime: int
    """ns"""
    monotonic: int
    """ns"""


def stamp(made: socket.socket) -> None:
    """Have the kernel note when packets arrive (SO_TIMESTAMPNS, socket(7)). Raises OSError."""
    made.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)


def stamped(ancillary: list[tuple[int, int, bytes]]) -> int:
    """When the packet came: Unix time in ns, 0 if the kernel didn't say."""
    for level, kind, value in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS and len(value) == _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack(value)
            return int(seconds * 1_000_000_000 + nanoseconds)
    return 0


def round_trip(sent: Sent, at: int, now: int) -> int:
    """Ns between sending and arrival; `at` is the kernel's stamp, `now` the monotonic clock."""
    most = now - sent.monotonic
    measured = at - sent.realtime
    # Slewing by adjtime(3) lets the clocks drift apart by at most 0.05 %.
    return measured if 0 <= measured <= most + most // 1000 else most
