"""How often the tables of neighbours (ARP, neighbour discovery) were full; all network namespaces share them."""

from __future__ import annotations

import struct

from mlbd.kernel.netlink import HEADER, attributes

GET = 66
"""RTM_GETNEIGHTBL."""
DUMP_REQUEST = struct.pack("=BxH", 0, 0)
"""struct ndtmsg: family."""
_NDTA_STATS = 7
_STATS = struct.Struct("=80xQ")
"""struct ndt_stats (linux/neighbour.h), of which the eleventh number is wanted: table_fulls."""


def overflows(message: bytes) -> int:
    """Of one message of the answer; a table's parameters for each device come without statistics."""
    found = attributes(message, HEADER.size + 4)
    if len(found.get(_NDTA_STATS, b"")) < _STATS.size:
        return 0
    (count,) = _STATS.unpack_from(found[_NDTA_STATS])
    return int(count)
