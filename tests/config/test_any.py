"""Whatever is in the file, it is settings or problems."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mlbd.config import ConfigError, Loaded, load, parse
from mlbd.config.problems import shown
from mlbd.config.schema import TABLES

WORDS = sorted(
    {name for each in TABLES for table in (each, *each.below) for name in (table.name, *table.names)}
)  # fmt: skip
VALUES = [
    "gateway", "auto", "none", "a", "b", "main", "192.0.2.1", "fe80::1", "1s", "0s", "off", "[::1]:1", "failover",
    "bond0", "teql0", "10.0.0.0/31", "10.0.0.1",
]  # fmt: skip

scalars = (
    st.sampled_from(VALUES)
    | st.text(max_size=8)
    | st.integers(-(2**70), 2**70)
    | st.integers(0, 300)
    | st.booleans()
    | st.floats()
    | st.dates()
    | st.times()
    | st.datetimes()
)
keys = st.sampled_from(WORDS) | st.text(max_size=4)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5), max_leaves=20
)
tables = st.fixed_dictionaries(
    {},
    optional={
        table.name: st.dictionaries(st.sampled_from(table.names), anything, max_size=6)
        if not table.many
        else st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from(["a", "b", "c"])}, optional=dict.fromkeys(table.names[1:], anything)
            ),
            max_size=3,
        )
        for table in TABLES
    },
)
documents = tables | st.dictionaries(keys, anything, max_size=5)


def toml(value: Any) -> str:
    """The value as TOML, tables inline."""
    match value:
        case str():
            return '"' + "".join(c if c.isalnum() and c.isascii() else f"\\U{ord(c):08x}" for c in value) + '"'
        case dict():
            return "{" + ", ".join(f"{toml(key)} = {toml(item)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ",\n".join(map(toml, value)) + "]"
        case float() if math.isinf(value) or math.isnan(value):
            return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
        case bool() | int() | float():
            return str(value).lower()
    return str(value.isoformat())


def outcome(attempt: Callable[[], Loaded]) -> Loaded | ConfigError:
    try:
        return attempt()
    except ConfigError as error:
        return error


@settings(max_examples=300, deadline=None)
@given(documents)
def test_any_document(document: dict[str, Any]) -> None:
    """A document gives settings, or problems whose lines exist and rise and whose text is harmless and short."""
    text = "".join(f"{toml(key)} = {toml(value)}\n" for key, value in document.items())
    found = outcome(lambda: parse(text, "f"))
    problems = found.warnings if isinstance(found, Loaded) else found.problems
    lines = [problem.line or 0 for problem in problems]
    assert lines == sorted(lines)
    assert all(line <= text.count("\n") + 1 for line in lines)
    assert all(str(problem).isprintable() and len(str(problem)) < 500 for problem in problems)
    assert isinstance(found, Loaded) or problems


@settings(deadline=None)
@given(st.text() | st.text(alphabet="[]{}\"'=.,#\n \\a1u"))
def test_any_text(text: str) -> None:
    """A text gives settings or problems."""
    found = outcome(lambda: parse(text, "f"))
    assert isinstance(found, Loaded) or found.problems


def test_any_bytes(tmp_path_factory: Any) -> None:
    """A file of any bytes gives settings or problems."""
    path: Path = tmp_path_factory.mktemp("any") / "f"

    @settings(deadline=None)
    @given(st.binary(max_size=64))
    def holds(data: bytes) -> None:
        path.write_bytes(data)
        found = outcome(lambda: load(path))
        assert isinstance(found, Loaded) or found.problems

    holds()


@settings(deadline=None)
@given(st.text())
def test_text_is_shown_harmlessly(text: str) -> None:
    """What is shown of a file never moves the cursor of a terminal."""
    assert shown(text).isprintable()
