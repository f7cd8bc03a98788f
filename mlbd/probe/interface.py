"""What an interface has that a probe needs: its hardware address, and addresses to send from.

The core knows them too, as of its last look; a probe is built from what is true at this moment (netdevice(7)).
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from pathlib import Path

_SIOCGIFADDR = 0x8915
_SIOCGIFHWADDR = 0x8927
_ARPHRD_ETHER = 1
_IFREQ_SIZE = 40
_NOT_USABLE = 0x40 | 0x08  # IFA_F_TENTATIVE, IFA_F_DADFAILED of linux/if_addr.h


def ethernet_address(name: str) -> bytes | None:
    """Six bytes; None for an interface that is not of the Ethernet kind. Raises OSError without an interface."""
    found = _asked(_SIOCGIFHWADDR, name)
    (kind,) = struct.unpack_from("@H", found, 16)
    return found[18:24] if kind == _ARPHRD_ETHER else None


def has_ipv4(name: str) -> bool:
    try:
        _asked(_SIOCGIFADDR, name)
    except OSError:
        return False
    return True


def has_ipv6(index: int) -> bool:
    """A global address that can be sent from."""
    try:
        # The process's own `/proc/net` would be that of its first thread.
        lines = Path("/proc/thread-self/net/if_inet6").read_text().splitlines()
    except OSError:  # a kernel without IPv6
        return False
    fields = (line.split() for line in lines)
    return any(int(f[1], 16) == index and f[3] == "00" and not int(f[4], 16) & _NOT_USABLE for f in fields)


def ipv4_source(name: str, to: str) -> bytes:
    """The address of the interface from which the kernel would send there; 0.0.0.0 if it has none. Raises OSError."""
    if not has_ipv4(name):
        return bytes(4)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode())
        try:
            asked.connect((to, 9))
        except OSError as error:
            if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL):
                return bytes(4)  # no route to a neighbour is no obstacle to ask for it
            raise
        return socket.inet_aton(asked.getsockname()[0])


def _asked(request: int, name: str) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        return fcntl.ioctl(asked, request, struct.pack(f"@16s{_IFREQ_SIZE - 16}x", name.encode()))
