"""Records with fields for journald, by its native protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/).

The socket does not block: journald's queue holds few datagrams, and a journald that hangs must not stop a failover.
What it does not take is dropped, and the next record that gets through says how many were, in MLBD_DROPPED.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping

SOCKET = "/run/systemd/journal/socket"

_LONGEST = 16384
"""Bytes of a field's value that are kept. All fields together must fit into one datagram."""


def stderr_is_journal() -> bool:
    """Whether fd 2 is the stream that systemd connected to journald: JOURNAL_STREAM, systemd.exec(5)."""
    try:
        there = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{there.st_dev}:{there.st_ino}"


class Journal:
    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self.dropped = 0
        """Records lost since the last one that got through."""

    def send(self, fields: Mapping[str, str]) -> None:
        """Write one record; never blocks, never raises. Names are [A-Z][A-Z0-9_]*."""
        if self.dropped:
            fields = {**fields, "MLBD_DROPPED": str(self.dropped)}
        datagram = b"".join(_field(name, value) for name, value in fields.items())
        try:
            # Not connected: journald may be restarted, and its new socket is another one.
            self._socket.sendto(datagram, self._path)
        except OSError:
            self.dropped += 1
        else:
            self.dropped = 0


def _field(name: str, value: str) -> bytes:
    data = value.encode(errors="replace")[:_LONGEST]
    if b"\n" in data:
        return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
    return name.encode() + b"=" + data + b"\n"
