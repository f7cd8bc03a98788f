"""From rules in order, the first that matches decides, to nftables statements that find it without trying each.

Rules that follow one another and all constrain the same field (sources, mostly) are looked up in one map over that
field: its values are cut where any rule begins or ends, and each piece leads to the rules that are left for it, which
are again looked up by another field, or tried in turn when they are few. So a connection costs some look-ups, not a
comparison for each of hundreds of rules. Where rules have no field in common, or overlap so much that such maps would
grow out of proportion, they are tried in turn: by quarters of quarters, each passed over if none of it can match.

A verdict ends the evaluation (`goto` a chain that accepts, or `accept`), except for one of an entry that is not
`final`, which may fall through to what comes after it. Hence maps `jump`: what was not decided returns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from mlbd.core.match import Box
from mlbd.core.ranges import Ranges, address_text, prefixes, ranges
from mlbd.core.settings import Family

_FIELDS = ("source", "destination", "interfaces", "protocol", "port", "source_port")
_SELECTIVE = ("source", "destination", "port", "source_port", "protocol")
_FEW = 3
"""So many rules are tried in turn."""
_MANY = 8
"""More are tried only after a look whether any of them can match."""
_GROWTH = 16
"""A map may repeat a rule so many times on average, or the rules are tried in turn."""
_ANY = Box()

Cells = list[tuple[str, tuple[int, ...]]]
"""nftables' words for a piece of a field's values, and the positions of the rules that match there."""


class Entry(Struct, frozen=True):
    box: Box
    verdict: str
    """An nftables statement."""
    final: bool = True
    """Nothing behind it is reached by what it matches."""

    @property
    def unconditional(self) -> bool:
        return self.final and self.box == _ANY


class Classifier:
    """Compiles for one family; collects the chains that the statements refer to."""

    def __init__(self, family: Family) -> None:
        self.chains: dict[str, tuple[str, ...]] = {}
        """Statements by chain name. The name follows from the contents, so what stays the same keeps its chain."""
        self._family: Family = family

    def statements(self, entries: Sequence[Entry], passed: frozenset[str] = frozenset()) -> list[str]:
        """What to evaluate in turn; packets that nothing matches come out at the end. No maps over fields `passed`."""
        out: list[str] = []
        left: list[Entry] = []
        for run, fields in _runs(_reachable(entries), passed):
            if len(run) <= _FEW or not fields:
                left += run
                continue
            found = self._mapped(run, fields) or self.statements(run, passed.union(fields))
            out += [*self._in_turn(left), *found]
            left = []
        return out + self._in_turn(left)

    def _in_turn(self, entries: Sequence[Entry]) -> list[str]:
        if len(entries) > _MANY:
            return [f"jump {self._chain([*self._unless_any(entries), *self._quarters(entries)])}"]
        return [statement for entry in entries for statement in self._tried(entry)]

    def _quarters(self, entries: Sequence[Entry]) -> list[str]:
        size = -(-len(entries) // 4)
        parts = [entries[at : at + size] for at in range(0, len(entries), size)]
        if size > _MANY:
            return [statement for part in parts for statement in self._in_turn(part)]
        tried = [[s for entry in part for s in self._tried(entry)] for part in parts]
        return [f"jump {self._chain([*self._unless_any(p), *s])}" for p, s in zip(parts, tried, strict=True)]

    def _unless_any(self, entries: Sequence[Entry]) -> list[str]:
        """Leaves the chain if no entry can match. Of each it looks at one field; nothing if one has none to look at.

        What has no ports is taken for what has some, and at worst goes through the chain in vain.
        """
        wanted: dict[str, list[Any]] = {}
        for entry in entries:
            field = next((f for f in _SELECTIVE if getattr(entry.box, f) is not None), None)
            if field is None:
                return []
            wanted.setdefault(field, []).extend(getattr(entry.box, field))
        conditions = [
            f"{self._key(field)} != {_set([self._words(field, *each) for each in ranges(found)])}"
            for field, found in sorted(wanted.items())
        ]
        return [" ".join([*conditions, "return"])]

    def _mapped(self, run: Sequence[Entry], fields: Sequence[str]) -> list[str]:
        """A map over the best of the fields; nothing if there is none that is worth it."""
        best: tuple[int, int, str, Cells] | None = None
        for field in fields:
            cells = self._cells(run, field)
            groups = {positions for _, positions in cells}
            size, longest = sum(map(len, groups)), max(map(len, groups), default=0)
            tells = longest < len(run) or len(groups) == 1
            if tells and size <= _GROWTH * len(run) and (best is None or (longest, size) < best[:2]):
                best = longest, size, field, cells
        if best is None:
            return []
        _, _, field, cells = best
        verdicts: dict[tuple[int, ...], str] = {}
        for _, positions in cells:
            if positions not in verdicts:
                left = [replace(run[i], box=_without(run[i].box, field)) for i in positions]
                verdicts[positions] = self._verdict(left)
        elements = ", ".join(f"{words} : {verdicts[positions]}" for words, positions in cells)
        return [f"{self._key(field)} vmap {{ {elements} }}"]

    def _verdict(self, entries: Sequence[Entry]) -> str:
        first = entries[0]
        if first.unconditional and (first.verdict == "accept" or first.verdict.startswith("goto ")):
            return first.verdict
        return f"jump {self._chain(self.statements(entries))}"

    def _chain(self, statements: Sequence[str]) -> str:
        name = f"match_{hashlib.sha256(chr(10).join(statements).encode()).hexdigest()[:12]}"
        self.chains[name] = tuple(statements)
        return name

    def _cells(self, run: Sequence[Entry], field: str) -> Cells:
        if field == "interfaces":
            names = dict.fromkeys(name for entry in run for name in sorted(entry.box.interfaces or ()))
            return [
                (f'"{name}"', tuple(i for i, entry in enumerate(run) if name in (entry.box.interfaces or ())))
                for name in names
            ]
        return [(self._words(field, low, high), at) for low, high, at in _cut([getattr(e.box, field) for e in run])]

    def _tried(self, entry: Entry) -> Iterator[str]:
        box = entry.box
        conditions = (
            [f"iifname {_set([chr(34) + n + chr(34) for n in sorted(box.interfaces)])}"] if box.interfaces else []
        )
        if box.not_interfaces:
            conditions.append(f"iifname != {_set([chr(34) + n + chr(34) for n in sorted(box.not_interfaces)])}")
        for field in _FIELDS:
            found: Ranges | None = None if field == "interfaces" else getattr(box, field)
            if found is not None:
                conditions.append(f"{self._key(field)} {_set([self._words(field, low, high) for low, high in found])}")
        conditions += [f"meta mark & {mask:#010x} != {value:#010x}" for value, mask in box.not_marks]
        marks = [f"meta mark & {mask:#010x} == {value:#010x}" for value, mask in box.marks]
        for mark in marks or [""]:
            yield " ".join([*conditions, *([mark] if mark else []), entry.verdict])

    def _key(self, field: str) -> str:
        ip = "ip" if self._family == 4 else "ip6"
        return {
            "source": f"{ip} saddr",
            "destination": f"{ip} daddr",
            "interfaces": "iifname",
            "protocol": "meta l4proto",
            "port": "th dport",
            "source_port": "th sport",
        }[field]

    def _words(self, field: str, low: int, high: int) -> str:
        if field not in ("source", "destination"):
            return str(low) if low == high else f"{low}-{high}"
        if low == high:
            return address_text(low, self._family)
        found = prefixes(((low, high),), self._family)
        if len(found) == 1:
            return found[0]
        return f"{address_text(low, self._family)}-{address_text(high, self._family)}"


def _without(box: Box, field: str) -> Box:
    gone: dict[str, Any] = {field: None}
    return replace(box, **gone)


def _set(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else "{ " + ", ".join(words) + " }"


def _reachable(entries: Sequence[Entry]) -> Iterator[Entry]:
    for entry in entries:
        yield entry
        if entry.unconditional:
            return


def _runs(entries: Iterator[Entry], passed: frozenset[str]) -> Iterator[tuple[list[Entry], list[str]]]:
    """Entries in a row that constrain a field in common but for those passed over, with those fields."""
    run: list[Entry] = []
    common: list[str] = []
    for entry in entries:
        constrained = [f for f in _FIELDS if f not in passed and getattr(entry.box, f) is not None]
        both = [field for field in common if field in constrained]
        if run and not both:
            yield run, common
            run = []
        common = both if run else constrained
        run.append(entry)
    if run:
        yield run, common


def _cut(all_ranges: Sequence[Ranges]) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """Disjoint ranges, in order, with the positions of what covers them; adjacent ones differ in that."""
    edges: dict[int, list[tuple[bool, int]]] = {}
    for position, found in enumerate(all_ranges):
        for low, high in found:
            edges.setdefault(low, []).append((True, position))
            edges.setdefault(high + 1, []).append((False, position))
    active: set[int] = set()
    pending: tuple[int, int, tuple[int, ...]] | None = None
    for at, end in pairwise(sorted(edges)):
        for begins, position in edges[at]:
            (active.add if begins else active.discard)(position)
        covering = tuple(sorted(active))
        if pending is not None and pending[1] + 1 == at and pending[2] == covering:
            pending = pending[0], end - 1, covering
        else:
            if pending is not None and pending[2]:
                yield pending
            pending = at, end - 1, covering
    if pending is not None and pending[2]:
        yield pending
