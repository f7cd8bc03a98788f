"""Changing nothing but elements of maps and sets, by netlink itself: all that a failover needs of nftables.

libnftables 1.0.6 reads every interval set of the machine before it deletes an element: beside a blocklist of 50,000
addresses that takes 170 ms, this half a millisecond. The most urgent of all changes does without it.

Sources: the kernel's include/uapi/linux/netfilter/nf_tables.h and nfnetlink.h, net/netfilter/nfnetlink.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache

from mlbd.core.plan import Change
from mlbd.core.state import MarkSet, SlotMap
from mlbd.kernel.netlink import CREATE, NETLINK_NETFILTER, Requests
from mlbd.kernel.nftext import ODD

_SUBSYSTEM = 10
"""NFNL_SUBSYS_NFTABLES."""
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEW, _DELETE = _SUBSYSTEM << 8 | 12, _SUBSYSTEM << 8 | 14
"""NFT_MSG_NEWSETELEM, NFT_MSG_DELSETELEM."""
_INET = 1
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3
_ELEMENT, _ELEMENT_KEY, _ELEMENT_DATA = 1, 1, 2
_DATA_VALUE, _DATA_VERDICT = 1, 2
_VERDICT_CODE, _VERDICT_CHAIN = 1, 2
_CONTINUE, _GOTO = -1, -4
_NESTED = 0x8000
_KEYED = struct.Struct("=HHHHHHI")
_AT_MOST = 500
"""Elements in a message: an attribute holds 64 KiB, an element takes less than 100 bytes of it with our names."""


def only_elements(changes: Sequence[Change]) -> bool:
    """Whether nothing but elements of maps and sets that exist, and are known, changes."""
    return all(
        (isinstance(change.old, SlotMap) and isinstance(change.new, SlotMap) and ODD not in change.old.slots)
        or (isinstance(change.old, MarkSet) and isinstance(change.new, MarkSet))
        for change in changes
    )


class Elements:
    """A socket for element changes. Raises OSError when made."""

    def __init__(self) -> None:
        self._requests = Requests(NETLINK_NETFILTER)

    def close(self) -> None:
        self._requests.close()

    def change(self, changes: Sequence[Change]) -> None:
        """Make changes of which `only_elements` holds, in one transaction. Raises OSError; then nothing has changed."""
        messages = [message for change in changes for message in _messages(change)]
        if messages:
            begin, end = ((kind, 0, struct.pack("!BBH", 0, 0, _SUBSYSTEM)) for kind in (_BATCH_BEGIN, _BATCH_END))
            self._requests.batch(begin, messages, end)


def _messages(change: Change) -> Iterator[tuple[int, int, bytes]]:
    """Type, flags and payload of each message: deletions first, for an element can't be replaced."""
    match change.old, change.new:
        case SlotMap(name, old), SlotMap(_, new):
            moved = [i for i, (was, now) in enumerate(zip(old, new, strict=False)) if was != now]
            gone = [_element(i) for i in (*moved, *range(len(new), len(old)))]
            come = [_element(i, _verdict(new[i])) for i in (*moved, *range(len(old), len(new)))]
        case MarkSet(name, before), MarkSet(_, after):
            gone = [_element(mark) for mark in sorted(before - after)]
            come = [_element(mark) for mark in sorted(after - before)]
        case _:
            raise ValueError(f"{change} changes more than elements")
    for kind, flags, elements in ((_DELETE, 0, gone), (_NEW, CREATE, come)):
        for start in range(0, len(elements), _AT_MOST):
            payload = struct.pack("!BBH", _INET, 0, 0) + _text(_LIST_TABLE, "mlbd") + _text(_LIST_SET, name)
            yield kind, flags, payload + _nested(_LIST_ELEMENTS, *elements[start : start + _AT_MOST])


def _element(key: int, data: bytes = b"") -> bytes:
    """NFTA_LIST_ELEM { NFTA_SET_ELEM_KEY { NFTA_DATA_VALUE }, data }; at once, since a failover makes 480 of them."""
    # Slots and marks are numbers in the host's byte order, unlike nearly everything else in nftables.
    kinds = _ELEMENT | _NESTED, _ELEMENT_KEY | _NESTED, _DATA_VALUE
    return _KEYED.pack(16 + len(data), kinds[0], 12, kinds[1], 8, kinds[2], key) + data


@lru_cache(maxsize=256)
def _verdict(slot: str) -> bytes:
    code = _attribute(_VERDICT_CODE, struct.pack("!i", _GOTO if slot else _CONTINUE))
    chain = _text(_VERDICT_CHAIN, slot) if slot else b""
    return _nested(_ELEMENT_DATA, _nested(_DATA_VERDICT, code, chain))


def _nested(kind: int, *parts: bytes) -> bytes:
    return _attribute(kind | _NESTED, b"".join(parts))


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)
