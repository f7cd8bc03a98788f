"""Codec: `Rule` <-> rtnetlink rule message (struct fib_rule_hdr and its attributes, linux/fib_rules.h).

The kernel deletes the first rule that has what the request says, and takes what the request does not say for "any". So
a rule is deleted by sending back the very message by which the kernel showed it, after a look whether an earlier rule
of ours has the same and more.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal

from msgspec import Struct

from mlbd.core.settings import FAMILIES, Family
from mlbd.core.state import Rule
from mlbd.kernel.netlink import (
    HEADER,
    attribute,
    attributes,
    number,
    packed,
    packed_address,
    prefix,
    reading,
    text,
)
from mlbd.kernel.routes import LOCAL, MAIN, address_family

NEW, DELETE, GET = 32, 33, 34
"""RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE."""
_FAMILIES: dict[int, Family] = {socket.AF_INET: 4, socket.AF_INET6: 6}
_ACTIONS: dict[int, Literal["lookup", "goto", "nop"]] = {1: "lookup", 2: "goto", 3: "nop"}
_NUMBERS = {action: number for number, action in _ACTIONS.items()}
_INVERT = 2
_INVERTED = "not"
_COMMA = ", "
_UNSET = b"\xff" * 4
_HEADER = struct.Struct("=BBBBBBBBI")
"""struct fib_rule_hdr: family, destination length, source length, TOS, table, two reserved, action, flags."""
_PORTS = struct.Struct("=HH")
"""struct fib_rule_port_range: first and last."""
_FRA_DST, _FRA_SRC, _FRA_IIFNAME, _FRA_GOTO, _FRA_PRIORITY, _FRA_FWMARK = 1, 2, 3, 4, 6, 10
_FRA_SUPPRESS_IFGROUP, _FRA_SUPPRESS_PREFIXLEN, _FRA_TABLE, _FRA_FWMASK, _FRA_OIFNAME = 13, 14, 15, 16, 17
_FRA_PAD, _FRA_PROTOCOL, _FRA_IP_PROTO, _FRA_SPORT_RANGE, _FRA_DPORT_RANGE = 18, 21, 22, 23, 24
_FRA_SPORT_MASK, _FRA_DPORT_MASK = 28, 29
_OURS = {
    _FRA_DST, _FRA_SRC, _FRA_IIFNAME, _FRA_GOTO, _FRA_PRIORITY, _FRA_FWMARK, _FRA_SUPPRESS_IFGROUP,
    _FRA_SUPPRESS_PREFIXLEN, _FRA_TABLE, _FRA_FWMASK, _FRA_OIFNAME, _FRA_PAD, _FRA_PROTOCOL, _FRA_IP_PROTO,
    _FRA_SPORT_RANGE, _FRA_DPORT_RANGE,
}  # fmt: skip
_WHOLE_PORT = {(_FRA_SPORT_MASK, b"\xff\xff"), (_FRA_DPORT_MASK, b"\xff\xff")}
"""What Linux from 6.15 adds by itself to a rule of one port."""
_STANDARD = {
    Rule(family, priority, table=table)
    for family in FAMILIES
    for priority, table in ((0, LOCAL), (32766, MAIN), (32767, 253))
}
"""The kernel's own rules."""


class ListedRule(Struct, frozen=True):
    rule: Rule
    payload: bytes
    """What the kernel sent, without the netlink header."""


def dump_request(family: Family) -> bytes:
    return _HEADER.pack(address_family(family), 0, 0, 0, 0, 0, 0, 0, 0)


@reading("a routing rule")
def read(messages: Iterable[bytes], protocol: int) -> tuple[list[ListedRule], list[Rule]]:
    """The rules that carry the protocol number, and those of others but the kernel's own; in the kernel's order.

    Raises OSError for what can't be read.
    """
    ours: list[ListedRule] = []
    others: list[Rule] = []
    for message in messages:
        listed, who = _listed(message[HEADER.size :])
        if who == protocol:
            ours.append(listed)
        elif listed.rule not in _STANDARD:
            others.append(listed.rule)
    return ours, others


@lru_cache(maxsize=4096)
def _listed(payload: bytes) -> tuple[ListedRule, int]:
    """The rule, and the protocol number of who made it. Look after look shows the same."""
    found = attributes(payload, _HEADER.size)
    return ListedRule(_rule(payload, found), payload), number(found.get(_FRA_PROTOCOL, b""))


def _rule(payload: bytes, found: dict[int, bytes]) -> Rule:
    family, length, source_length, tos, table, _, _, action, flags = _HEADER.unpack_from(payload)
    others = [
        f"attribute {kind} {value.hex()}"
        for kind, value in found.items()
        if kind not in _OURS and (kind, value) not in _WHOLE_PORT
    ]
    if found.get(_FRA_SUPPRESS_IFGROUP, _UNSET) != _UNSET:
        others.append(f"suppress_ifgroup {number(found[_FRA_SUPPRESS_IFGROUP])}")
    if flags & _INVERT:
        others.append(_INVERTED)
    if tos:
        others.append(f"tos {tos}")
    if action not in _ACTIONS:
        others.append(f"action {action}")
    suppress = found.get(_FRA_SUPPRESS_PREFIXLEN, _UNSET)
    return Rule(
        family=_FAMILIES[family],
        priority=number(found.get(_FRA_PRIORITY, b"")),
        action=_ACTIONS.get(action, "nop"),
        table=(number(found[_FRA_TABLE]) if _FRA_TABLE in found else table) or None,
        target=number(found[_FRA_GOTO]) if _FRA_GOTO in found else None,
        mark=number(found.get(_FRA_FWMARK, b"")) if _FRA_FWMASK in found else None,
        mask=number(found[_FRA_FWMASK]) if _FRA_FWMASK in found else None,
        source=prefix(found[_FRA_SRC], source_length) if _FRA_SRC in found else None,
        oif=text(found[_FRA_OIFNAME]) if _FRA_OIFNAME in found else None,
        iif=text(found[_FRA_IIFNAME]) if _FRA_IIFNAME in found else None,
        suppress_prefixlen=None if suppress == _UNSET else number(suppress),
        destination=prefix(found[_FRA_DST], length) if _FRA_DST in found else None,
        protocol=number(found[_FRA_IP_PROTO]) if _FRA_IP_PROTO in found else None,
        source_ports=_PORTS.unpack(found[_FRA_SPORT_RANGE]) if _FRA_SPORT_RANGE in found else None,
        ports=_PORTS.unpack(found[_FRA_DPORT_RANGE]) if _FRA_DPORT_RANGE in found else None,
        other=_COMMA.join(sorted(others)),
    )


def encode(rule: Rule, protocol: int) -> bytes:
    """The message that adds the rule. ValueError for one that would not be read back as it is."""
    if rule.other:
        raise ValueError(f"a rule with {rule.other} is not ours to make")
    if (rule.mark is None) != (rule.mask is None):
        raise ValueError("a rule has a mark and a mask, or neither")
    if rule.protocol == 0:
        raise ValueError("a rule's protocol 0 would mean any")
    numbers = (
        (_FRA_PRIORITY, rule.priority),
        (_FRA_TABLE, rule.table),
        (_FRA_GOTO, rule.target),
        (_FRA_FWMARK, rule.mark),
        (_FRA_FWMASK, rule.mask),
        (_FRA_SUPPRESS_PREFIXLEN, rule.suppress_prefixlen),
    )
    bytes_ = ((_FRA_PROTOCOL, protocol), (_FRA_IP_PROTO, rule.protocol))
    names = ((_FRA_OIFNAME, rule.oif), (_FRA_IIFNAME, rule.iif))
    ranges = ((_FRA_SPORT_RANGE, rule.source_ports), (_FRA_DPORT_RANGE, rule.ports))
    parts = [
        *(attribute(kind, packed(value)) for kind, value in numbers if value is not None),
        *(attribute(kind, bytes([value])) for kind, value in bytes_ if value is not None),
        *(attribute(kind, name.encode() + b"\0") for kind, name in names if name is not None),
        *(attribute(kind, _port_range(*ports)) for kind, ports in ranges if ports is not None),
    ]
    lengths = {_FRA_SRC: 0, _FRA_DST: 0}
    for kind, written in ((_FRA_SRC, rule.source), (_FRA_DST, rule.destination)):
        if written is not None:
            start, _, bits = written.partition("/")
            lengths[kind] = int(bits)
            parts.append(attribute(kind, packed_address(start)))
    family, action = address_family(rule.family), _NUMBERS[rule.action]
    return _HEADER.pack(family, lengths[_FRA_DST], lengths[_FRA_SRC], 0, 0, 0, 0, action, 0) + b"".join(parts)


def _port_range(first: int, last: int) -> bytes:
    if not 0 < first <= last < 0xFFFF:
        raise ValueError(f"a routing rule can't have ports {first}-{last}: the kernel takes 1 to 65534")
    return _PORTS.pack(first, last)


class Listing:
    """The rules of ours as they were listed, kept right while they are deleted one by one."""

    def __init__(self, listed: Iterable[ListedRule]) -> None:
        self._rules: set[Rule] = set()
        self._by_priority: dict[int, list[ListedRule]] = {}
        for each in listed:
            self._rules.add(each.rule)
            self._by_priority.setdefault(each.rule.priority, []).append(each)

    def __contains__(self, rule: Rule) -> bool:
        return rule in self._rules

    def deletable(self, rule: Rule) -> ListedRule | None:
        """What to send back to delete the rule; None if it is gone. LookupError if that would delete another first."""
        if rule not in self._rules:
            return None
        for each in self._of(rule):
            if rule.source not in (None, each.rule.source) or rule.destination not in (None, each.rule.destination):
                continue  # the usual case of many rules of one priority, at once
            if each.rule == rule:
                return each
            if _says_the_same_or_more(each.rule, rule):
                raise LookupError(f"the kernel would delete another rule of priority {rule.priority} in its place")
        return None

    def remove(self, listed: ListedRule) -> None:
        self._rules.discard(listed.rule)
        same_priority = self._by_priority[listed.rule.priority]
        del same_priority[next(i for i, each in enumerate(same_priority) if each is listed)]

    def _of(self, rule: Rule) -> list[ListedRule]:
        return self._by_priority.get(rule.priority, [])


def _says_the_same_or_more(candidate: Rule, rule: Rule) -> bool:
    """Whether the kernel's comparison (net/core/fib_rules.c, rule_find) would take `candidate` for `rule`.

    It compares what `rule` says, but neither a mark of 0, nor where a goto leads, nor whether the rule is inverted.
    """
    names = (
        "action", "table", "mask", "source", "oif", "iif", "suppress_prefixlen",
        "destination", "protocol", "source_ports", "ports",
    )  # fmt: skip
    return (
        candidate.priority == rule.priority
        and all(getattr(rule, name) in (None, getattr(candidate, name)) for name in names)
        and rule.mark in (None, 0, candidate.mark)
        and set(filter(None, rule.other.split(_COMMA))) - {_INVERTED} <= set(candidate.other.split(_COMMA))
    )
