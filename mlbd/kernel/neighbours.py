"""Neighbours (ARP, neighbour discovery): hardware addresses, and how often their tables were full.

Sources: the kernel's include/uapi/linux/neighbour.h, net/core/neighbour.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from mlbd.kernel.netlink import HEADER, address, attributes, reading

GET = 30
"""RTM_GETNEIGH."""
_NDMSG = struct.Struct("=BxxxiHBB")
"""struct ndmsg: family, device index, state, flags, type."""
_NDA_DST, _NDA_LLADDR, _NDA_IFINDEX = 1, 2, 8
_ETHERNET = 6
"""Bytes of a hardware address that can be told apart."""

GET_TABLE = 66
"""RTM_GETNEIGHTBL."""
TABLE_DUMP_REQUEST = struct.pack("=BxH", 0, 0)
"""struct ndtmsg: family."""
_NDTA_STATS = 7
_STATS = struct.Struct("=80xQ")
"""struct ndt_stats (linux/neighbour.h), of which the eleventh number is wanted: table_fulls. It is one table for all
network namespaces."""


class Neighbour(NamedTuple):
    device: int
    """Its index."""
    address: str
    hardware: str
    """`02:00:5e:10:00:01`."""


def dump_request(index: int) -> bytes:
    """For the neighbours on one device."""
    return _NDMSG.pack(0, 0, 0, 0, 0) + struct.pack("=HHi", 8, _NDA_IFINDEX, index)


@reading("a neighbour")
def read(messages: Iterable[bytes]) -> list[Neighbour]:
    """Those of a dump that have answered, on Ethernets; the kernel shows no hardware address of others.

    Raises OSError for what can't be read.
    """
    found = []
    for message in messages:
        _, device, *_ = _NDMSG.unpack_from(message, HEADER.size)
        shown = attributes(message, HEADER.size + _NDMSG.size)
        hardware = shown.get(_NDA_LLADDR, b"")
        if _NDA_DST in shown and len(hardware) == _ETHERNET:
            found.append(Neighbour(device, address(shown[_NDA_DST]), hardware.hex(":")))
    return found


def overflows(message: bytes) -> int:
    """Of one message of the answer; a table's parameters for each device come without statistics."""
    found = attributes(message, HEADER.size + 4)
    if len(found.get(_NDTA_STATS, b"")) < _STATS.size:
        return 0
    (count,) = _STATS.unpack_from(found[_NDTA_STATS])
    return int(count)
