"""Deleting connection tracking entries: those of one mark, and those that began before they could be translated.

Of a mark, it is one message that the kernel works through. It walks its whole table for that, up to 40 ms for 60,000
entries, so it runs in a thread with a socket of its own. A message without a mark or a connection would empty the table
(net/netfilter/nf_conntrack_netlink.c, ctnetlink_flush_conntrack), therefore nothing here can be called without one.
"""

from __future__ import annotations

import asyncio
import errno
import struct

from mlbd.kernel.netlink import HEADER, NETLINK_NETFILTER, RefusedError, Requests, attributes, reading

_CT_GET, _CT_DELETE = (1 << 8) | 1, (1 << 8) | 2
"""NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET and _DELETE."""
_CTA_TUPLE_ORIG, _CTA_STATUS, _CTA_MARK, _CTA_ID, _CTA_ZONE, _CTA_MARK_MASK = 1, 3, 8, 12, 18, 21
_NESTED = 0x8000
_ANSWERED_OR_TRANSLATED = 1 << 1 | 1 << 4 | 1 << 5
"""IPS_SEEN_REPLY, IPS_SRC_NAT, IPS_DST_NAT: include/uapi/linux/netfilter/nf_conntrack_common.h."""


async def cut(mark: int, mask: int) -> None:
    """Delete the entries, IPv4 and IPv6, with `ct mark & mask == mark`. ValueError for a mark or mask of 0; OSError."""
    if not 0 < mark <= 0xFFFFFFFF or not 0 < mask <= 0xFFFFFFFF:
        raise ValueError(f"refusing to cut connections by mark {mark:#x}, mask {mask:#x}: it could mean all of them")
    if mark & ~mask:
        raise ValueError(f"mark {mark:#x} has bits outside mask {mask:#x}: no connection can match")
    await asyncio.to_thread(_delete, mark, mask)


async def begin_anew() -> None:
    """See `mlbd.core.ports.Kernel.begin_anew`."""
    await asyncio.to_thread(_delete_unanswered)


def _delete_unanswered() -> None:
    listing, deleting = Requests(NETLINK_NETFILTER), Requests(NETLINK_NETFILTER)
    try:
        for message in listing.stream(_CT_GET, bytes(4)):
            with reading("connections"):
                found = attributes(message, HEADER.size + 4)
                (status,) = struct.unpack("!I", found[_CTA_STATUS])
            if status & _ANSWERED_OR_TRANSLATED:
                continue
            which = ((_CTA_TUPLE_ORIG | _NESTED, _CTA_TUPLE_ORIG), (_CTA_ID, _CTA_ID), (_CTA_ZONE, _CTA_ZONE))
            parts = [_attribute(kind, found[key]) for kind, key in which if key in found]
            try:
                deleting.request(_CT_DELETE, 0, message[HEADER.size : HEADER.size + 4] + b"".join(parts))
            except RefusedError as error:
                if error.errno != errno.ENOENT:  # it has ended by itself
                    raise
    finally:
        listing.close()
        deleting.close()


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)


def _delete(mark: int, mask: int) -> None:
    requests = Requests(NETLINK_NETFILTER)
    try:
        family_all = bytes(4)  # struct nfgenmsg: family 0, version 0, resource id 0
        requests.request(_CT_DELETE, 0, family_all + _number(_CTA_MARK, mark) + _number(_CTA_MARK_MASK, mask))
    finally:
        requests.close()


def _number(kind: int, value: int) -> bytes:
    return struct.pack("=HH", 8, kind) + struct.pack("!I", value)
