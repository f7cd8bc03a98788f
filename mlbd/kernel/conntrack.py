"""Deleting the connection tracking entries of one mark, with one message that the kernel works through.

The kernel walks its whole table for that, up to 40 ms for 60,000 entries, so it runs in a thread with a socket of its
own. A message without a mark would empty the table (net/netfilter/nf_conntrack_netlink.c, ctnetlink_flush_conntrack),
therefore nothing here can be called without one.
"""

from __future__ import annotations

import asyncio
import struct

from mlbd.kernel.netlink import NETLINK_NETFILTER, Requests

_CT_DELETE = (1 << 8) | 2
"""NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE."""
_CTA_MARK, _CTA_MARK_MASK = 8, 21


async def cut(mark: int, mask: int) -> None:
    """Delete the entries, IPv4 and IPv6, with `ct mark & mask == mark`. ValueError for a mark or mask of 0; OSError."""
    if not 0 < mark <= 0xFFFFFFFF or not 0 < mask <= 0xFFFFFFFF:
        raise ValueError(f"refusing to cut connections by mark {mark:#x}, mask {mask:#x}: it could mean all of them")
    if mark & ~mask:
        raise ValueError(f"mark {mark:#x} has bits outside mask {mask:#x}: no connection can match")
    await asyncio.to_thread(_delete, mark, mask)


def _delete(mark: int, mask: int) -> None:
    requests = Requests(NETLINK_NETFILTER)
    try:
        family_all = bytes(4)  # struct nfgenmsg: family 0, version 0, resource id 0
        requests.request(_CT_DELETE, 0, family_all + _number(_CTA_MARK, mark) + _number(_CTA_MARK_MASK, mask))
    finally:
        requests.close()


def _number(kind: int, value: int) -> bytes:
    return struct.pack("=HH", 8, kind) + struct.pack("!I", value)
