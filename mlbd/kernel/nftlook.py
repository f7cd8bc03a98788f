"""Reading the table `inet mlbd`, by netlink itself.

libnftables would read every element of every set, decode every rule and write it all out as JSON: with prefixes and
ports by the thousand in rules a tenth of a second, in which nothing else happens. Of a rule only its comment matters
here, of a set that packets fill only its shape.

How objects that nft does not have look in it:

- A `SlotMap` is a verdict map keyed by `numgen`; slot i is the element `i : goto CHAIN`. A slot that leads nowhere is
  `i : continue`, so the number of slots can be read back; the kernel's type does not depend on it.
- `Saved` objects are elements of the set `saved`, keyed by interface name, their values in the element's comment.
- A rule of ours carries its digest as its comment.
- What lies in our table but is of a kind or shape that we never make is shown as a `Chain` named by nft's words for
  it, `set blocked` or `ct timeout slow`. No chain can have such a name, so it is never desired and will be retired.

Sources: the kernel's include/uapi/linux/netfilter/nf_tables.h; what nft keeps for itself (data types, comments),
include/datatype.h of nftables and include/libnftnl/udata.h of libnftnl.
"""

from __future__ import annotations

import errno
import re
import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

from mlbd.core.settings import Family
from mlbd.core.state import AddressSet, Chain, Counter, Helper, Hook, MarkSet, Nft, Saved, SlotMap, Statement
from mlbd.kernel.netlink import (
    HEADER,
    NETLINK_NETFILTER,
    RefusedError,
    Requests,
    attributes,
    each_attribute,
    reading,
    text,
)
from mlbd.kernel.netlink import number as host_number
from mlbd.kernel.nftext import ADDRESSES, ODD, SHORT

_SUBSYSTEM = 10 << 8
"""NFNL_SUBSYS_NFTABLES."""
_GET_TABLE, _GET_CHAIN, _GET_RULE, _GET_SET, _GET_ELEMENTS, _GET_GENERATION, _GET_OBJECT, _GET_FLOWTABLE = (
    _SUBSYSTEM | kind for kind in (1, 4, 7, 10, 13, 16, 19, 23)
)
_FAMILY_INET = struct.pack("!BBH", 1, 0, 0)
"""struct nfgenmsg."""
_START = HEADER.size + len(_FAMILY_INET)
_TABLE = 1
"""NFTA_TABLE_NAME, and NFTA_*_TABLE of everything else."""
_TABLE_IS_OURS = _FAMILY_INET + struct.pack("=HH", 9, _TABLE) + b"mlbd\0\0\0\0"
_OURS = b"mlbd\0"
_GENERATION_ID = 1
_TRIES = 5

_CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE, _CHAIN_FLAGS = 3, 4, 5, 7, 10
_CHAIN_IS_BINDING = 4
"""It is part of a rule."""
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2
_ACCEPT = 1
_TYPES: dict[str, Literal["filter", "route", "nat"]] = {"filter": "filter", "route": "route", "nat": "nat"}
_HOOKS: tuple[Literal["prerouting", "input", "forward", "output", "postrouting"], ...] = (
    "prerouting", "input", "forward", "output", "postrouting",
)  # fmt: skip

_RULE_CHAIN, _RULE_USERDATA = 2, 7
_COMMENT = 0
"""NFTNL_UDATA_RULE_COMMENT, NFTNL_UDATA_SET_ELEM_COMMENT."""
_DIGEST = re.compile(r"[0-9a-f]{12}")

_SET_NAME, _SET_FLAGS, _SET_KEY_TYPE, _SET_DATA_TYPE, _SET_POLICY, _SET_DESCRIPTION = 2, 3, 4, 6, 8, 9
_SET_TIMEOUT, _SET_GC_INTERVAL, _SET_OBJECT_TYPE, _SET_EXPRESSION, _SET_EXPRESSIONS = 11, 12, 15, 17, 18
_DESCRIPTION_SIZE = 1
_ANONYMOUS, _MAP, _TIMEOUT, _DYNAMIC = 0x1, 0x8, 0x10, 0x20
_INTEGER, _MARK, _IFNAME = 4, 19, 41
_ADDRESSES: dict[int, Family] = {7: 4, 8: 6}
_VERDICT = 0xFFFFFF00

_LIST_SET, _LIST_ELEMENTS = 2, 3
_ELEMENT_KEY, _ELEMENT_DATA, _ELEMENT_USERDATA = 1, 2, 6
_PLAIN_ELEMENT = {_ELEMENT_KEY, _ELEMENT_DATA}
_DATA_VALUE, _DATA_VERDICT = 1, 2
_VERDICT_CODE, _VERDICT_CHAIN = 1, 2
_CONTINUE, _GOTO = -1, -4

_OBJECT_NAME, _OBJECT_TYPE, _OBJECT_DATA = 2, 3, 4
_COUNTER, _HELPER = 1, 3
_COUNTER_PACKETS = 2
_HELPER_NAME, _HELPER_FAMILY, _HELPER_PROTOCOL = 1, 2, 3
_IPV4, _BOTH = 2, 1
_OF_IPV4 = {"irc", "netbios-ns", "pptp", "snmp"}
"""Helpers that the kernel has for IPv4 only: asked for both families, it shows that one."""
_PROTOCOLS: dict[int, Literal["tcp", "udp"]] = {6: "tcp", 17: "udp"}
_WORDS = {
    1: "counter", 2: "quota", 3: "ct helper", 4: "limit", 7: "ct timeout", 8: "secmark", 9: "ct expectation",
    10: "synproxy",
}  # fmt: skip


class TableReader:
    """A socket for reading our table. Every method raises OSError."""

    def __init__(self) -> None:
        self._requests = Requests(NETLINK_NETFILTER)
        self._last: tuple[int, list[Nft] | None] | None = None
        """What was read, and of which generation."""

    def close(self) -> None:
        self._requests.close()

    @reading("nftables")
    def generation(self) -> int:
        """A number that changes with every transaction of anybody on any table of this namespace."""
        return _number(attributes(self._requests.get(_GET_GENERATION, _FAMILY_INET), _START)[_GENERATION_ID])

    @reading("nftables")
    def read(self) -> list[Nft] | None:
        """Everything in the table, as it was at one moment; None if there is no table. It is read only when it may have
        changed.
        """
        before = self.generation()
        if self._last is not None and self._last[0] == before:
            return self._last[1]
        for _ in range(_TRIES):
            try:
                found = list(self._objects()) if self._exists() else None
            except RefusedError as error:
                if error.errno != errno.ENOENT or self.generation() == before:
                    raise
                found = None
            after = self.generation()
            if after == before:
                self._last = after, found
                return found
            before = after
        raise OSError(errno.EINTR, "nftables changes faster than it can be read")

    @reading("nftables")
    def counters(self) -> dict[str, int]:
        """Packets by counter name."""
        counters = (o for o in self._dump(_GET_OBJECT) if _number(o[_OBJECT_TYPE]) == _COUNTER)
        return {text(o[_OBJECT_NAME]): _number(attributes(o[_OBJECT_DATA], 0)[_COUNTER_PACKETS]) for o in counters}

    def _exists(self) -> bool:
        try:
            self._requests.get(_GET_TABLE, _TABLE_IS_OURS)
        except RefusedError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        return True

    def _dump(self, kind: int) -> Iterator[dict[int, bytes]]:
        """The attributes of all of a kind in our table; older kernels show all tables."""
        for message in self._requests.dump(kind, _TABLE_IS_OURS):
            found = attributes(message, _START)
            if found[_TABLE] == _OURS:
                yield found

    def _objects(self) -> Iterator[Nft]:
        for each in self._dump(_GET_SET):
            if not _number(each.get(_SET_FLAGS, b"")) & _ANONYMOUS:
                yield from self._set(each)
        for each in self._dump(_GET_OBJECT):
            yield _object(each)
        for each in self._dump(_GET_FLOWTABLE):
            yield Chain(f"flowtable {text(each[_OBJECT_NAME])}")
        chains: dict[bytes, tuple[Hook | None, list[Statement]]] = {}
        for each in self._dump(_GET_CHAIN):
            if not _number(each.get(_CHAIN_FLAGS, b"")) & _CHAIN_IS_BINDING:
                chains[each[_CHAIN_NAME]] = _hook(each), []
        for each in self._dump(_GET_RULE):
            if each[_RULE_CHAIN] in chains:
                comment = _comment(each.get(_RULE_USERDATA, b""))
                chains[each[_RULE_CHAIN]][1].append(Statement(comment if _DIGEST.fullmatch(comment) else ""))
        for name, (hook, statements) in chains.items():
            yield Chain(text(name), hook, tuple(statements))

    def _set(self, found: dict[int, bytes]) -> Iterator[Nft]:
        name, key = text(found[_SET_NAME]), _number(found[_SET_KEY_TYPE])
        flags, data = _number(found.get(_SET_FLAGS, b"")), _number(found.get(_SET_DATA_TYPE, b""))
        size = _number(attributes(found.get(_SET_DESCRIPTION, b""), 0).get(_DESCRIPTION_SIZE, b""))
        seconds, rest = divmod(_number(found.get(_SET_TIMEOUT, b"")), 1000)
        simple = not found.keys() & {_SET_POLICY, _SET_GC_INTERVAL, _SET_EXPRESSION, _SET_EXPRESSIONS}
        plain = simple and not size and not seconds and not rest
        if key in _ADDRESSES and simple and flags == _TIMEOUT | _DYNAMIC and size == ADDRESSES and seconds and not rest:
            yield AddressSet(name, _ADDRESSES[key], seconds)
        elif (key, flags, data) == (_INTEGER, _MAP, _VERDICT) and plain:
            yield SlotMap(name, _slots(self._elements(found[_SET_NAME])))
        elif (key, flags, name) == (_IFNAME, 0, "saved") and plain:
            yield from map(_saved, self._elements(found[_SET_NAME]))
        elif (key, flags) == (_MARK, 0) and plain:
            elements = self._elements(found[_SET_NAME])
            if all(each.keys() == {_ELEMENT_KEY} for each in elements):
                yield MarkSet(name, frozenset(host_number(_key(each)) for each in elements))
            else:
                yield Chain(f"set {name}")
        else:
            yield Chain(f"{'map' if found.keys() & {_SET_DATA_TYPE, _SET_OBJECT_TYPE} else 'set'} {name}")

    def _elements(self, name: bytes) -> list[dict[int, bytes]]:
        """Each once. A dump in pieces shows some twice and others not at all while the set's hash table is resized:
        nft_rhash_walk() skips as many as were shown, in an order that is another one by then.
        """
        request = _TABLE_IS_OURS + struct.pack("=HH", 4 + len(name), _LIST_SET) + name + bytes(-len(name) % 4)
        for _ in range(_TRIES):
            found = [
                attributes(element, 0)
                for message in self._requests.dump(_GET_ELEMENTS, request)
                for element in each_attribute(attributes(message, _START).get(_LIST_ELEMENTS, b""))
            ]
            if len({each.get(_ELEMENT_KEY) for each in found}) == len(found):
                return found
        raise OSError(errno.EINTR, f"the elements of {text(name)} move faster than they can be read")


def _number(value: bytes) -> int:
    """Nearly everything in nftables is in network byte order."""
    return int.from_bytes(value, "big")


def _hook(chain: dict[int, bytes]) -> Hook | None:
    """None for a regular chain, and for a base chain that we would not make, so that it differs from one we would."""
    if _CHAIN_HOOK not in chain or _number(chain.get(_CHAIN_POLICY, b"")) != _ACCEPT:
        return None
    place = attributes(chain[_CHAIN_HOOK], 0)
    number, kind = _number(place[_HOOK_NUMBER]), _TYPES.get(text(chain.get(_CHAIN_TYPE, b"")))
    if kind is None or number >= len(_HOOKS):
        return None
    return Hook(kind, _HOOKS[number], int.from_bytes(place[_HOOK_PRIORITY], "big", signed=True))


def _comment(userdata: bytes) -> str:
    """What nft keeps with a rule or an element: type, length, value, each of the first two in a byte."""
    start = 0
    while start + 2 <= len(userdata):
        kind, length = userdata[start : start + 2]
        if kind == _COMMENT:
            return text(userdata[start + 2 : start + 2 + length])
        start += 2 + length
    return ""


def _key(element: dict[int, bytes]) -> bytes:
    return attributes(element[_ELEMENT_KEY], 0)[_DATA_VALUE]


def _slots(elements: list[dict[int, bytes]]) -> tuple[str, ...]:
    found = {}
    for element in elements:
        if element.keys() != _PLAIN_ELEMENT:
            return (ODD,)
        found[host_number(_key(element))] = _slot(element[_ELEMENT_DATA])
    highest = max(found, default=-1)
    if highest >= len(found):
        return (ODD,)  # not as many as it takes to get there: it may be the 4 billionth
    return tuple(found[i] for i in range(highest + 1))


@lru_cache(maxsize=256)
def _slot(data: bytes) -> str:
    verdict = attributes(attributes(data, 0).get(_DATA_VERDICT, b""), 0)
    code = int.from_bytes(verdict.get(_VERDICT_CODE, b""), "big", signed=True)
    if code == _GOTO:
        return text(verdict[_VERDICT_CHAIN])
    return "" if code == _CONTINUE else ODD


_LONG = {short: name for name, short in SHORT.items()}


def _saved(element: dict[int, bytes]) -> Saved:
    pairs = (part.partition("=") for part in _comment(element.get(_ELEMENT_USERDATA, b"")).split())
    return Saved(text(_key(element)), tuple(sorted((_LONG.get(name, name), value) for name, _, value in pairs)))


def _object(found: dict[int, bytes]) -> Nft:
    name, kind = text(found[_OBJECT_NAME]), _number(found[_OBJECT_TYPE])
    if kind == _COUNTER:
        return Counter(name)
    data = attributes(found[_OBJECT_DATA], 0)
    family = _IPV4 if name in _OF_IPV4 else _BOTH
    if kind == _HELPER and text(data[_HELPER_NAME]) == name and _number(data[_HELPER_FAMILY]) == family:
        protocol = _PROTOCOLS.get(_number(data[_HELPER_PROTOCOL]))
        if protocol is not None:
            return Helper(name, protocol)
    return Chain(f"{_WORDS.get(kind, f'object {kind}')} {name}")
