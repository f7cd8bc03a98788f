"""Reading the carrier now, instead of waiting to be told.

The kernel gathers the carrier messages of ordinary network cards for up to a second (net/core/link_watch.c). The
ioctl that `ethtool` uses asks the driver itself, takes about a microsecond, and speaks of the network namespace that
the socket belongs to, which /sys/class/net does not unless somebody mounted it anew.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import Self

_SIOCETHTOOL = 0x8946
_ETHTOOL_GLINK = 0x0A
_IFREQ = struct.Struct("16sP16x")
"""struct ifreq: interface name, pointer to the command, the rest of the union."""


class CarrierReader:
    """Asks drivers for their carrier. Owns a socket; close it, or use it in a `with` statement."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._answer = array.array("I", [_ETHTOOL_GLINK, 0])
        pointer = self._answer.buffer_info()[0]
        self._request = lru_cache(maxsize=512)(lambda name: _IFREQ.pack(name.encode()[:15], pointer))

    def read(self, names: Iterable[str]) -> dict[str, bool | None]:
        """Carrier by interface name; False if administratively down, None if it does not exist or can't say."""
        return {name: self._read(name) for name in names}

    def _read(self, name: str) -> bool | None:
        # The answer is written where the command stood, so the command is written anew.
        self._answer[0], self._answer[1] = _ETHTOOL_GLINK, 0
        try:
            fcntl.ioctl(self._socket, _SIOCETHTOOL, self._request(name))
        except OSError:
            return None
        return bool(self._answer[1])

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
