"""Where keys stand in a TOML text."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlbd.config.lines import Place, locate


def places(place: Place, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], int | None]]:
    for part, inner in place.inside.items():
        yield (*path, part), inner.line
        yield from places(inner, (*path, part))


CASES: dict[str, tuple[str, dict[tuple[str | int, ...], int]]] = {
    "nothing": ("", {}),
    "only comments": ("# a = 1\n\n  # [b]", {}),
    "keys and a table": ("a = 1\n\n[t]\nb = 2", {("a",): 1, ("t",): 3, ("t", "b"): 4}),
    "arrays of tables": (
        "[[u]]\nn = 1\n[[u]]\nn = 2",
        {("u",): 1, ("u", 0): 1, ("u", 0, "n"): 2, ("u", 1): 3, ("u", 1, "n"): 4},
    ),
    "a header belongs to the newest table of an array": (
        "[[u]]\n[[u]]\n[u.p]\nk = 1\n[[u.q]]\n[u.q.r]",
        {
            ("u",): 1, ("u", 0): 1, ("u", 1): 2, ("u", 1, "p"): 3, ("u", 1, "p", "k"): 4, ("u", 1, "q"): 5,
            ("u", 1, "q", 0): 5, ("u", 1, "q", 0, "r"): 6,
        },
    ),
    "dotted and quoted keys": (
        "a . \"b.c\" . 'd]' = 1\n\"\\u0061\".x = 2\n\"\" = 3",
        {("a",): 1, ("a", "b.c"): 1, ("a", "b.c", "d]"): 1, ("a", "x"): 2, ("",): 3},
    ),
    "quoted names in headers": (
        '[ "x # y" . z ] # [no]\nk = 1',
        {("x # y",): 1, ("x # y", "z"): 1, ("x # y", "z", "k"): 2},
    ),
    "a table that is mentioned before it is written": ("[a.b]\n[a]\nk = 1", {("a",): 1, ("a", "b"): 1, ("a", "k"): 3}),
    "an array over several lines": (
        'a = [ # ] [\n  1, # "\n  [2,\n   3],\n]\nb = 1',
        {("a",): 1, ("a", 0): 2, ("a", 1): 3, ("a", 1, 0): 3, ("a", 1, 1): 4, ("b",): 6},
    ),
    "multi-line strings": (
        'a = """\n[x]\n"" \\""" b = 1\n"""\nb = \'\'\'\n"""\n[y]\'\'\'\'\'\nc = """q""""\nd = 1',
        {("a",): 1, ("b",): 5, ("c",): 8, ("d",): 9},
    ),
    "strings with brackets, hashes and escapes": (
        'a = "] # \\" ["\nb = \'[ \\\' # c\nc = ["]" , \'"\'\n,]',
        {("a",): 1, ("b",): 2, ("c",): 3, ("c", 0): 3, ("c", 1): 3},
    ),
    "inline tables": (
        'a = { b = 1, c.d = [2, { e = "}" }] }\nf = {}\ng = [{}, {h=1}]',
        {
            ("a",): 1, ("a", "b"): 1, ("a", "c"): 1, ("a", "c", "d"): 1, ("a", "c", "d", 0): 1, ("a", "c", "d", 1): 1,
            ("a", "c", "d", 1, "e"): 1, ("f",): 2, ("g",): 3, ("g", 0): 3, ("g", 1): 3, ("g", 1, "h"): 3,
        },
    ),
    "dates, numbers and Windows line ends": (
        "a = 1979-05-27 07:32:32\r\nb = +1_0.5e3 # x\r\nc = inf\r\n[t]\r\nd = 0xff",
        {("a",): 1, ("b",): 2, ("c",): 3, ("t",): 4, ("t", "d"): 5},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_places(case: str) -> None:
    """Every key and every element has the line on which it is first mentioned, and nothing else has one."""
    text, expected = CASES[case]
    tomllib.loads(text)
    assert dict(places(locate(text))) == expected


def test_line_of_something_that_is_not_written_down() -> None:
    """What is missing stands where its table stands."""
    root = locate("\n[[u]]\nn = 1")
    assert (root.line_of(("u", 0, "interface", "x")), root.line_of(("p",))) == (2, None)


def paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for part, inner in items:
        yield (*path, part)
        yield from paths(inner, (*path, part))


SNIPPETS = st.sampled_from(
    ["a", "b", '"c"', "'d'", " ", "\n", "\r\n", "#", "=", ".", ",", "[", "]", "[[", "]]", "{", "}", '"', "'", '"""',
     "'''", "\\", "1", "true", "a = 1\n", "[a]\n", "[[b]]\n", "[b.a]\n", "= [\n", "= { a = 1 }\n"]
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(SNIPPETS, max_size=40).map("".join) | st.text())
def test_any_text(text: str) -> None:
    """The locator ends on any text, and on a TOML text finds the places of exactly what `tomllib` finds."""
    root = locate_anyway(text)
    try:
        document = tomllib.loads(text)
    except ValueError:
        return
    assert root is not None
    assert {path for path, _ in places(root)} == set(paths(document))


def locate_anyway(text: str) -> Place | None:
    try:
        return locate(text)
    except tomllib.TOMLDecodeError:  # a quoted key that is none
        return None
