"""Which packets a rule of the configuration means: the one place that says so.

A rule becomes a `Box` for each family, its conditions as sets of numbers with negation resolved. The nftables chains
(`mlbd.core.classify`), the routing rules (`mlbd.core.routing`), `mlbd explain` and the warnings about shadowed rules
are all made from boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from msgspec import Struct
from msgspec.structs import replace

from mlbd.core import ranges
from mlbd.core.ranges import Ranges
from mlbd.core.settings import Family, Rule, Selector

OWN = "lo"
"""The interface of packets that the router itself sends."""

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
WITH_PORTS = (TCP, UDP, 33, 132, 136)
"""TCP, UDP, DCCP, SCTP and UDP-Lite: what nftables' `th dport` reads."""


class Packet(Struct, frozen=True, kw_only=True):
    """The first of a connection."""

    family: Family
    source: int | None
    """None: the router has not chosen one yet; for routing rules that is the unspecified address, 0.0.0.0 or ::."""
    destination: int
    protocol: int
    port: int | None = None
    source_port: int | None = None
    interface: str = OWN
    mark: int = 0


class Box(Struct, frozen=True, kw_only=True):
    """The conditions of one rule in one family; None: any."""

    source: Ranges | None = None
    destination: Ranges | None = None
    protocol: Ranges | None = None
    port: Ranges | None = None
    source_port: Ranges | None = None
    interfaces: frozenset[str] | None = None
    not_interfaces: frozenset[str] = frozenset()
    marks: tuple[tuple[int, int], ...] = ()
    not_marks: tuple[tuple[int, int], ...] = ()

    def matches(self, packet: Packet) -> bool:
        return (
            _within(self.source, packet.source or 0)
            and _within(self.destination, packet.destination)
            and _within(self.protocol, packet.protocol)
            and _within(self.port, packet.port)
            and _within(self.source_port, packet.source_port)
            and (self.interfaces is None or packet.interface in self.interfaces)
            and packet.interface not in self.not_interfaces
            and (not self.marks or any(packet.mark & mask == value for value, mask in self.marks))
            and not any(packet.mark & mask == value for value, mask in self.not_marks)
        )

    def covers(self, other: Box) -> bool:
        """Whether this matches whatever `other` matches, as far as can be told field by field."""
        return (
            _covers(self.source, other.source)
            and _covers(self.destination, other.destination)
            and _covers(self.protocol, other.protocol)
            and _covers(self.port, other.port)
            and _covers(self.source_port, other.source_port)
            and (self.interfaces is None or (other.interfaces is not None and other.interfaces <= self.interfaces))
            and (
                self.not_interfaces <= other.not_interfaces
                or (other.interfaces is not None and not other.interfaces & self.not_interfaces)
            )
            and (not self.marks or (bool(other.marks) and set(other.marks) <= set(self.marks)))
            and set(self.not_marks) <= set(other.not_marks)
        )

    def of_interface(self, own: bool) -> Box | None:
        """The same for packets that the router itself sent, or that came in elsewhere; None if it has none of them."""
        if self.interfaces is None:
            if own and OWN in self.not_interfaces:
                return None
            left: frozenset[str] = frozenset() if own else self.not_interfaces - {OWN}
            return replace(self, not_interfaces=left)
        some = self.interfaces & {OWN} if own else self.interfaces - {OWN} - self.not_interfaces
        if not some or (own and OWN in self.not_interfaces):
            return None
        return replace(self, interfaces=None if own else some, not_interfaces=frozenset())


def _within(allowed: Ranges | None, number: int | None) -> bool:
    return allowed is None or (number is not None and any(low <= number <= high for low, high in allowed))


def _covers(outer: Ranges | None, inner: Ranges | None) -> bool:
    return outer is None or (inner is not None and ranges.includes(outer, inner))


@lru_cache(maxsize=4096)
def box(rule: Rule, family: Family) -> Box | None:
    """None: the rule matches no packet of the family."""
    source = _addresses(rule.sources, family)
    destination = _addresses(rule.destinations, family)
    port, source_port = _numbers(rule.ports, 16), _numbers(rule.source_ports, 16)
    protocol = _numbers(Selector(*(tuple((n, n) for n in part) for part in _parts(rule.protocols))), 8)
    if port is not None or source_port is not None:
        able = ranges.ranges((n, n) for n in (WITH_PORTS if rule.protocols else (TCP, UDP)))
        protocol = able if protocol is None else ranges.without(able, ranges.without(ranges.every(8), protocol))
    if () in (source, destination, port, source_port, protocol):
        return None
    interfaces = frozenset(rule.interfaces.some) - frozenset(rule.interfaces.none) if rule.interfaces.some else None
    if interfaces is not None and not interfaces:
        return None
    return Box(
        source=source,
        destination=destination,
        protocol=protocol,
        port=port,
        source_port=source_port,
        interfaces=interfaces,
        not_interfaces=frozenset() if interfaces is not None else frozenset(rule.interfaces.none),
        marks=rule.marks.some,
        not_marks=rule.marks.none,
    )


def _parts(selector: Selector[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return selector.some, selector.none


def _addresses(selector: Selector[str], family: Family) -> Ranges | None:
    """None: any; empty: none of this family."""
    unwanted = ranges.of_prefixes(selector.none, family)
    if not selector.some:
        return ranges.without(ranges.every(ranges.bits(family)), unwanted) if unwanted else None
    return ranges.without(ranges.of_prefixes(selector.some, family), unwanted)


def _numbers(selector: Selector[tuple[int, int]], size: int) -> Ranges | None:
    if not selector:
        return None
    wanted = ranges.ranges(selector.some) if selector.some else ranges.every(size)
    return ranges.without(wanted, ranges.ranges(selector.none))


def matching(rules: Sequence[Rule], packet: Packet) -> list[Rule]:
    """The rules that match, in order."""
    return [rule for rule in rules if (found := box(rule, packet.family)) is not None and found.matches(packet)]
