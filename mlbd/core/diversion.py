"""Rules and routes of other programs that take traffic before mlbd's own rules see it.

Nothing is done about them: they are theirs, and may well be what the administrator wants. But who wonders why an uplink
carries nothing must be told. A rule diverts if it stands before the last of ours, restricts nothing and leads to a
table with a route so wide that hardly any address is left; routes that others put beside the default route of `main`
(`0.0.0.0/1` and `128.0.0.0/1`) divert because our first rule lets every route of `main` win but the default one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from mlbd.core import ranges
from mlbd.core.facts import WideRoute
from mlbd.core.layout import Layout
from mlbd.core.settings import FAMILIES, Family
from mlbd.core.state import Rule

MAIN_TABLE = 254
_TABLES = {253: "default", MAIN_TABLE: "main", 255: "local"}
"""The names that everybody knows (rt_tables of iproute2)."""

_ALL_BITS = 0xFFFFFFFF
_INVERTED = "not"
_TAILSCALE, _WG_QUICK = 52, 51820

_WORLD: dict[Family, ranges.Ranges] = {4: ranges.every(32), 6: (ranges.of_prefix("2000::/3"),)}
"""The addresses that matter on the way out: of IPv6 the global unicast ones (RFC 4291); `::/1` is all of them."""


class _Reach(Struct, frozen=True):
    """How much of a family's traffic the wide routes of a table take, and where."""

    whole: bool
    devices: tuple[str, ...]
    destinations: tuple[str, ...]


def diversions(rules: Iterable[Rule], routes: Sequence[WideRoute], layout: Layout) -> tuple[str, ...]:
    """A sentence or two for each, with what to do about it. `rules` are foreign ones, `routes` of foreign tables."""
    found: dict[tuple[str, str, str], list[Family]] = {}
    for family in FAMILIES:
        for text in (*_by_rules(family, rules, routes, layout), *_by_main(family, routes)):
            found.setdefault(text, []).append(family)
    return tuple(f"{who}{_traffic(families)}{way}: {remedy}" for (who, way, remedy), families in found.items())


def _traffic(families: Sequence[Family]) -> str:
    return " and ".join(f"IPv{family}" for family in families) + " traffic"


def _by_rules(
    family: Family, rules: Iterable[Rule], routes: Sequence[WideRoute], layout: Layout
) -> Iterator[tuple[str, str, str]]:
    for rule in rules:
        if rule.family != family or rule.priority > layout.past_priority or not _takes_all(rule):
            continue
        reach = _reach(family, [r for r in routes if r.table == rule.table])
        if reach is None:
            continue
        part = "" if reach.whole else "half of "
        but = "" if rule.mark is None else f" without mark {_mark(rule)}" if rule.mark else " without a mark"
        place = "" if rule.priority < layout.main_first else " that mlbd's rules before it leave"
        yield (
            f"routing rule {rule.priority} of another program sends {part}all ",
            f"{but}{place} to table {table_name(rule.table)}, {_devices(reach)}",
            _remedy(rule, layout),
        )


def _takes_all(rule: Rule) -> bool:
    """It looks up a table for every packet, or for every one without some mark."""
    selectors = (rule.source, rule.destination, rule.iif, rule.oif, rule.protocol, rule.ports, rule.source_ports)
    if rule.action != "lookup" or rule.suppress_prefixlen is not None or any(s is not None for s in selectors):
        return False
    return rule.other == (_INVERTED if rule.mark else "")


def _by_main(family: Family, routes: Sequence[WideRoute]) -> Iterator[tuple[str, str, str]]:
    beside = [r for r in routes if r.table == MAIN_TABLE and r.destination != "default"]
    reach = _reach(family, beside)
    if reach is not None:
        take = "take" if len(reach.destinations) > 1 else "takes"
        part = "" if reach.whole else "half of "
        yield (
            f"{' and '.join(reach.destinations)} in main, {_devices(reach)}, {take} {part}all ",
            "",
            "OpenVPN's redirect-gateway does so; if mlbd is to route, "
            "leave that out of the tunnel's configuration (pull-filter ignore redirect-gateway)",
        )


def _reach(family: Family, routes: Iterable[WideRoute]) -> _Reach | None:
    """None: it leaves everything where it is."""
    world = _WORLD[family]
    taking = [r for r in routes if r.family == family and _left(world, [r], family) != world]
    if not taking:
        return None
    devices, destinations = (r.device for r in taking), (r.destination for r in taking)
    whole = not _left(world, taking, family)
    return _Reach(whole, tuple(dict.fromkeys(devices)), tuple(dict.fromkeys(destinations)))


def _left(world: ranges.Ranges, routes: Sequence[WideRoute], family: Family) -> ranges.Ranges:
    if any(r.destination == "default" for r in routes):
        return ()
    return ranges.without(world, ranges.of_prefixes((r.destination for r in routes), family))


def _devices(reach: _Reach) -> str:
    named = [device for device in reach.devices if device]
    return f"dev {' and '.join(named)}" if named else "to nowhere"


def _mark(rule: Rule) -> str:
    assert rule.mark is not None
    return f"{rule.mark:#x}" + ("" if rule.mask in (None, _ALL_BITS) else f"/{rule.mask:#x}")


def _remedy(rule: Rule, layout: Layout) -> str:
    if rule.table == _WG_QUICK or (rule.mark is not None and rule.mark == rule.table):
        return (
            "wg-quick does so for AllowedIPs = 0.0.0.0/0 or ::/0; if mlbd is to route, narrow AllowedIPs or set "
            "Table = off there"
        )
    if rule.table == _TAILSCALE:
        return "tailscale does so for an exit node; if mlbd is to route, use none (tailscale set --exit-node=)"
    return f"if mlbd is to route, give that rule a priority above {layout.past_priority} or narrow it"


def table_name(table: int | None) -> str:
    return _TABLES.get(table or 0, str(table))
