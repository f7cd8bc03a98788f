"""Which rules never get a turn, because an earlier one takes all that they mean."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from msgspec.structs import replace

from mlbd.core import ranges
from mlbd.core.match import Box, box
from mlbd.core.ranges import Ranges
from mlbd.core.settings import FAMILIES, Rule

Boxes = tuple[Box | None, ...]
"""Of one rule, by family."""

_ANYTHING: Boxes = (Box(), Box())
_EVERYTHING = (ranges.every(32), ranges.every(128))


def boxes(rule: Rule) -> Boxes:
    """Addresses that mean all of a family, as 0.0.0.0/0, count as no condition."""
    return tuple(_opened(box(rule, family)) for family in FAMILIES)


def _opened(found: Box | None) -> Box | None:
    if found is None:
        return None
    return replace(
        found,
        source=None if found.source in _EVERYTHING else found.source,
        destination=None if found.destination in _EVERYTHING else found.destination,
    )


def takes_everything(found: Boxes) -> bool:
    return found == _ANYTHING


def shadows(rules: Sequence[Boxes], deciding: Sequence[bool]) -> list[int | None]:
    """For each rule the first of the earlier ones that covers it by itself; only `deciding` ones leave nothing."""
    # Comparing each with each takes seconds for the greatest number of rules, so look up whom to compare with.
    families = [_Family([found[n] if decides else None for found, decides in zip(rules, deciding, strict=True)])
                for n in range(len(FAMILIES))]  # fmt: skip
    found: list[int | None] = []
    earlier = 0
    for number, (mine, decides) in enumerate(zip(rules, deciding, strict=True)):
        found.append(_first(rules, families, mine, earlier))
        earlier |= decides << number
    return found


def _first(rules: Sequence[Boxes], families: Sequence[_Family], mine: Boxes, candidates: int) -> int | None:
    for family, one in zip(families, mine, strict=True):
        candidates &= family.candidates(one) if one is not None else -1
    while candidates:
        number = (candidates & -candidates).bit_length() - 1
        pairs = zip(rules[number], mine, strict=True)
        if all(one is None or (earlier is not None and earlier.covers(one)) for earlier, one in pairs):
            return number
        candidates &= candidates - 1
    return None


class _Family:
    """Sets of rules, each the bits of a whole number, by what they match in one family."""

    def __init__(self, found: Sequence[Box | None]) -> None:
        there = [(1 << number, one) for number, one in enumerate(found) if one is not None]
        self._source = _Field([(bit, one.source) for bit, one in there])
        self._destination = _Field([(bit, one.destination) for bit, one in there])
        self._port = _Field([(bit, one.port) for bit, one in there])
        self._source_port = _Field([(bit, one.source_port) for bit, one in there])

    def candidates(self, one: Box) -> int:
        """Those that may cover it: each of their conditions contains the least that it wants."""
        return (
            self._source.containing(one.source)
            & self._destination.containing(one.destination)
            & self._port.containing(one.port)
            & self._source_port.containing(one.source_port)
        )


class _Field:
    def __init__(self, found: Sequence[tuple[int, Ranges | None]]) -> None:
        self._unconditional = sum(bit for bit, wanted in found if wanted is None)
        edges: dict[int, int] = {0: 0}
        for bit, wanted in found:
            for low, high in wanted or ():
                edges[low] = edges.get(low, 0) ^ bit
                edges[high + 1] = edges.get(high + 1, 0) ^ bit
        self._starts = sorted(edges)
        self._sets: list[int] = []
        current = 0
        for start in self._starts:
            current ^= edges[start]
            self._sets.append(current)

    def containing(self, wanted: Ranges | None) -> int:
        if wanted is None:
            return self._unconditional
        return self._unconditional | self._sets[bisect_right(self._starts, wanted[0][0]) - 1]
