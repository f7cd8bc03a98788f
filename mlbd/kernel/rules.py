"""Codec: `Rule` <-> rtnetlink rule message (struct fib_rule_hdr and its attributes, linux/fib_rules.h).

The kernel deletes the first rule that has what the request says, and takes what the request does not say for "any". So
a rule is deleted by sending back the very message by which the kernel showed it, after a look whether an earlier rule
of ours has the same and more.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mlbd.core.settings import Family
from mlbd.core.state import Rule
from mlbd.kernel.netlink import HEADER, RuleMessage, address, attributes, body, number, text
from mlbd.kernel.routes import address_family

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
_FRA_SRC, _FRA_IIFNAME, _FRA_GOTO, _FRA_PRIORITY, _FRA_FWMARK = 2, 3, 4, 6, 10
_FRA_SUPPRESS_IFGROUP, _FRA_SUPPRESS_PREFIXLEN, _FRA_TABLE, _FRA_FWMASK, _FRA_OIFNAME = 13, 14, 15, 16, 17
_FRA_PAD, _FRA_PROTOCOL = 18, 21
_OURS = {
    _FRA_SRC, _FRA_IIFNAME, _FRA_GOTO, _FRA_PRIORITY, _FRA_FWMARK, _FRA_SUPPRESS_IFGROUP, _FRA_SUPPRESS_PREFIXLEN,
    _FRA_TABLE, _FRA_FWMASK, _FRA_OIFNAME, _FRA_PAD, _FRA_PROTOCOL,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ListedRule:
    rule: Rule
    payload: bytes
    """What the kernel sent, without the netlink header."""


def dump_request(family: Family) -> bytes:
    return _HEADER.pack(address_family(family), 0, 0, 0, 0, 0, 0, 0, 0)


def read(messages: Iterable[bytes], protocol: int) -> list[ListedRule]:
    """The rules that carry the protocol number, in the kernel's order."""
    listed = []
    for message in messages:
        found = attributes(message, HEADER.size + _HEADER.size)
        if number(found.get(_FRA_PROTOCOL, b"")) == protocol:
            listed.append(ListedRule(_rule(message, found), message[HEADER.size :]))
    return listed


def _rule(message: bytes, found: dict[int, bytes]) -> Rule:
    family, _, source_length, tos, table, _, _, action, flags = _HEADER.unpack_from(message, HEADER.size)
    others = [f"attribute {kind} {value.hex()}" for kind, value in found.items() if kind not in _OURS]
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
        source=f"{address(found[_FRA_SRC])}/{source_length}" if _FRA_SRC in found else None,
        oif=text(found[_FRA_OIFNAME]) if _FRA_OIFNAME in found else None,
        iif=text(found[_FRA_IIFNAME]) if _FRA_IIFNAME in found else None,
        suppress_prefixlen=None if suppress == _UNSET else number(suppress),
        other=_COMMA.join(sorted(others)),
    )


def encode(rule: Rule, protocol: int) -> bytes:
    """The message that adds the rule. ValueError for one that would not be read back as it is."""
    if rule.other:
        raise ValueError(f"a rule with {rule.other} is not ours to make")
    if (rule.mark is None) != (rule.mask is None):
        raise ValueError("a rule has a mark and a mask, or neither")
    message = RuleMessage()
    message["family"] = address_family(rule.family)
    message["action"] = _NUMBERS[rule.action]
    message["attrs"] = [["FRA_PRIORITY", rule.priority], ["FRA_PROTOCOL", protocol]]
    optional = (
        ("FRA_TABLE", rule.table),
        ("FRA_GOTO", rule.target),
        ("FRA_FWMARK", rule.mark),
        ("FRA_FWMASK", rule.mask),
        ("FRA_OIFNAME", rule.oif),
        ("FRA_IIFNAME", rule.iif),
        ("FRA_SUPPRESS_PREFIXLEN", rule.suppress_prefixlen),
    )
    message["attrs"] += [[name, value] for name, value in optional if value is not None]
    if rule.source is not None:
        prefix, _, length = rule.source.partition("/")
        message["src_len"] = int(length)
        message["attrs"].append(["FRA_SRC", prefix])
    return body(message)


def deletable(rule: Rule, listed: Iterable[ListedRule]) -> ListedRule | None:
    """What to send back to delete the rule; None if it is gone. LookupError if that would delete another first."""
    for candidate in listed:
        if candidate.rule == rule:
            return candidate
        if _says_the_same_or_more(candidate.rule, rule):
            raise LookupError(f"the kernel would delete another rule of priority {rule.priority} in its place")
    return None


def _says_the_same_or_more(candidate: Rule, rule: Rule) -> bool:
    """Whether the kernel's comparison (net/core/fib_rules.c, rule_find) would take `candidate` for `rule`.

    It compares what `rule` says, but neither a mark of 0, nor where a goto leads, nor whether the rule is inverted.
    """
    names = ("action", "table", "mask", "source", "oif", "iif", "suppress_prefixlen")
    return (
        candidate.priority == rule.priority
        and all(getattr(rule, name) in (None, getattr(candidate, name)) for name in names)
        and rule.mark in (None, 0, candidate.mark)
        and set(filter(None, rule.other.split(_COMMA))) - {_INVERTED} <= set(candidate.other.split(_COMMA))
    )
