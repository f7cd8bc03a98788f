"""Datagrams sent fast: many in each system call, so that the sender costs little beside the router that forwards."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Sequence

_libc = ctypes.CDLL(None, use_errno=True)
_ADDRESS = struct.Struct("=H2s4s8x")
_MOST = 1024
"""UIO_MAXIOV, which a call takes at most."""


class _Part(ctypes.Structure):
    """struct iovec of readv(2)."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """struct msghdr of sendmsg(2)."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("parts", ctypes.POINTER(_Part)),
        ("part_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """struct mmsghdr of sendmmsg(2)."""

    _fields_ = (("header", _Header), ("sent", ctypes.c_uint))


class Datagrams:
    """One byte each, prepared once: to these IPv4 addresses and ports, or `count` of them to where a socket leads."""

    def __init__(self, addresses: Sequence[tuple[str, int]] = (), *, count: int = 0) -> None:
        self._data = ctypes.create_string_buffer(b"x")
        self._part = _Part(ctypes.addressof(self._data), 1)
        packed = b"".join(
            _ADDRESS.pack(socket.AF_INET, port.to_bytes(2, "big"), socket.inet_aton(host)) for host, port in addresses
        )
        self._names = ctypes.create_string_buffer(packed)
        self._messages = (_Message * (len(addresses) or count))()
        for number, message in enumerate(self._messages):
            header = message.header
            header.parts, header.part_count = ctypes.pointer(self._part), 1
            if addresses:
                header.name = ctypes.addressof(self._names) + number * _ADDRESS.size
                header.name_length = _ADDRESS.size

    def send(self, s: socket.socket) -> None:
        """Send them all. Raises OSError."""
        done = 0
        while done < len(self._messages):
            left = min(_MOST, len(self._messages) - done)
            sent = _libc.sendmmsg(s.fileno(), ctypes.byref(self._messages, done * ctypes.sizeof(_Message)), left, 0)
            if sent < 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), "sendmmsg")
            done += sent
