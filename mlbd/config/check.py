"""Checks a parsed document against the schema, key by key, so that one error hides no other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec import Struct

from mlbd.config import values
from mlbd.config.keys import Absent, Key, Table
from mlbd.config.problems import Findings, Path, Unfit, nearest, shown
from mlbd.config.schema import TABLES

_WRONG = object()
_INNER = re.compile(r"at `\$\[([0-9]+)\]`$")


class Checked(Struct, frozen=True):
    """One table of the file: what its keys mean, as far as they are right."""

    table: Table
    path: Path
    written: Mapping[str, Any]
    """As it stands in the file, unchecked."""
    given: Mapping[str, Any]
    """Meanings of the keys that are written down and right."""
    wrong: frozenset[str]
    """Keys that are written down and wrong, or required and missing: already noted, nothing is known of them."""
    where: Mapping[str, Path]
    """Where the keys stand that are written down."""
    inner: Mapping[str, Checked]

    def sound(self, *names: str) -> bool:
        """Whether the meanings of all of these keys are known."""
        return self.wrong.isdisjoint(names)

    def __getitem__(self, name: str) -> Any:
        """The meaning of a sound key: as given, or its default's; None if it has no default."""
        return self.given[name] if name in self.given else default(self.table.key(name))

    def at(self, name: str) -> Path:
        """Where the key stands, or would stand."""
        return self.where.get(name, (*self.path, name))

    def under(self, over: Checked) -> Checked:
        """The same table with the keys of another of its kind laid over it."""
        return Checked(
            self.table,
            over.path,
            {**self.written, **over.written},
            {**self.given, **over.given},
            (self.wrong - over.given.keys()) | over.wrong,
            {**self.where, **over.where},
            {name: below.under(over.inner[name]) for name, below in self.inner.items()},
        )

    def settings(self) -> dict[str, Any]:
        """Everything by name, once nothing is wrong."""
        return {key.name: self[key.name] for key in self.table.keys}


def default(key: Key) -> Any:
    """What the key means where it is not written down; None if it has no default."""
    if isinstance(key.default, Absent):
        return None
    if key.holds == "array":
        return tuple(key.read(item) for item in key.default)
    return key.read(key.default)


def check(document: Mapping[str, Any], findings: Findings) -> dict[str, tuple[Checked, ...]]:
    """The tables of the document by name; of a table that is written once there is always exactly one."""
    _unknown(document, (), tuple(table.name for table in TABLES), {}, findings)
    return {table.name: _tables(table, document, findings) for table in TABLES}


def _tables(table: Table, document: Mapping[str, Any], findings: Findings) -> tuple[Checked, ...]:
    path: Path = (table.name,)
    value = document.get(table.name, [] if table.many else {})
    if not table.many:
        return (_table(table, path, value, findings),)
    if not isinstance(value, list):
        hint = f"write {table.heading}, in double brackets" if isinstance(value, dict) else ""
        findings.error(path, shown(value), f"{table.heading} tables", hint)
        return ()
    return tuple(_table(table, (*path, index), item, findings) for index, item in enumerate(value))


def _table(table: Table, path: Path, value: Any, findings: Findings) -> Checked:
    if not isinstance(value, dict):
        many = isinstance(value, list) and any(isinstance(item, dict) for item in value)
        hint = f"write {table.heading}, in single brackets" if many else ""
        findings.error(path, "several tables" if many else shown(value), "one table", hint)
    written = value if isinstance(value, dict) else {}
    _unknown(written, path, table.names, _inside(table, path), findings)
    given: dict[str, Any] = {}
    wrong = set() if written is value else {key.name for key in table.keys}
    for key in table.keys:
        if key.name in written:
            meaning = _meaning(key, (*path, key.name), written[key.name], findings)
            if meaning is _WRONG:
                wrong.add(key.name)
            else:
                given[key.name] = meaning
        elif key.default is Absent.REQUIRED and key.name not in wrong:
            findings.error((*path, key.name), "nothing", key.expected)
            wrong.add(key.name)
    where: dict[str, Path] = {key.name: (*path, key.name) for key in table.keys if key.name in written}
    inner = {
        below.name: _table(below, (*path, below.name), written.get(below.name, {}), findings) for below in table.inner
    }
    return Checked(table, path, written, given, frozenset(wrong), where, inner)


def _inside(table: Table, path: Path) -> dict[str, Table]:
    """The tables inside this one, by how a person would call them."""
    outer = ".".join(part for part in path if isinstance(part, str))
    inner = {f"[{outer}.{below.name}]": below for below in table.inner}
    return inner | {f"an element of {key.name}": key.table for key in table.keys if key.table}


def _unknown(
    written: Mapping[str, Any], path: Path, known: tuple[str, ...], inside: Mapping[str, Table], findings: Findings
) -> None:
    for name in written:
        if name in known:
            continue
        if below := [place for place, table in inside.items() if name in table.names]:
            hint = f"it belongs in {below[0]}"
        elif elsewhere := [table.heading for table in TABLES if name in table.names]:
            hint = f"it belongs in {' or '.join(elsewhere)}"
        else:
            hint = nearest(name, known) or f"known here: {', '.join(known)}"
        findings.error((*path, name), "unknown key", hint=hint)


def _meaning(key: Key, path: Path, value: Any, findings: Findings) -> Any:
    """What a key that is written down means, or `_WRONG`."""
    if key.holds == "one":
        return _one(key, path, value, findings)
    if key.holds == "array":
        if key.bare and not isinstance(value, list):
            meaning = _one(key, path, value, findings)
            return meaning if meaning is _WRONG else (meaning,)
        if not isinstance(value, list):
            hint = f"write [{shown(value)}]" if isinstance(value, str) else ""
            findings.error(path, shown(value), f"an array, each element {key.expected}", hint)
            return _WRONG
        meanings = tuple(_one(key, (*path, index), item, findings) for index, item in enumerate(value))
        sound = _WRONG not in meanings
        if key.each_once:
            seen = {_WRONG}
            for index, meaning in enumerate(meanings):
                if meaning in seen and meaning is not _WRONG:
                    findings.error((*path, index), shown(value[index]), "each only once")
                    sound = False
                seen.add(meaning)
        return meanings if sound else _WRONG
    if not isinstance(value, dict):
        findings.error(path, shown(value), f"a table, each value {key.expected}")
        return _WRONG
    by_name = {name: _one(key, (*path, name), item, findings) for name, item in value.items()}
    return _WRONG if _WRONG in by_name.values() else by_name


def _one(key: Key, path: Path, value: Any, findings: Findings) -> Any:
    try:
        found = msgspec.convert(value, key.type)
        return _table(key.table, path, found, findings) if key.table else key.read(found)
    except msgspec.ValidationError as error:
        if inner := _INNER.search(str(error)):
            index = int(inner[1])
            path, value = (*path, index), value[index]
        findings.error(path, shown(value), key.expected, _way_out(key, value))
    except Unfit as unfit:
        findings.error(path, shown(value), unfit.expected or key.expected, unfit.hint)
    return _WRONG


def _way_out(key: Key, value: Any) -> str:
    """How to get from a value of the wrong type to the right one, where it can be guessed."""
    if get_origin(key.type) is Literal and isinstance(value, str):
        return nearest(value, get_args(key.type))
    if values.DURATION in key.expected and isinstance(value, int | float) and not isinstance(value, bool):
        return f'write "{shown(value)}s" for seconds'
    return ""
