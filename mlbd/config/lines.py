"""Where each key of a TOML text stands; `tomllib` does not say.

The text is one that `tomllib` has accepted, so this reads only as much of the grammar (https://toml.io/en/v1.0.0) as
it takes to find the keys: nothing is checked, and nothing about a value is kept but its place.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

from msgspec import Struct, field

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})'  # up to two quotes may stand before the closing three
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]*")


class Place(Struct):
    """Where a table, an array or a value begins, and what is inside it."""

    line: int | None
    """Counted from 1; None for the document as a whole."""
    inside: dict[str | int, Place] = field(default_factory=dict)
    tables: bool = False
    """An array that was written as `[[...]]`: a header means its newest table."""

    def at(self, part: str | int, line: int) -> Place:
        """What is inside under that key, from now on; its line is that of its first mention."""
        return self.inside.setdefault(part, Place(line))

    def line_of(self, path: tuple[str | int, ...]) -> int | None:
        """The line of that value; of the innermost thing around it that has one, if it is not written down."""
        place = self
        for part in path:
            if part not in place.inside:
                break
            place = place.inside[part]
        return place.line


def locate(text: str) -> Place:
    """The places of everything in a text that `tomllib.loads` accepts.

    Raises RecursionError where arrays and inline tables are nested deeper than Python's stack.
    """
    return _Scanner(text).document()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.line = 1

    def document(self) -> Place:
        root = Place(None)
        table = root
        for _ in self.items("", ""):
            if self.take("[["):
                table = self.header(root, tables=True)
            elif self.take("["):
                table = self.header(root, tables=False)
            else:
                self.pair(table)
        return root

    def header(self, root: Place, *, tables: bool) -> Place:
        line = self.line
        *outer, last = self.key()
        self.skip(_SPACE)
        self.take("]]" if tables else "]")
        place = root
        for part in outer:
            place = _newest(place.at(part, line))
        place = place.at(last, line)
        if tables:
            place.tables = True
            return place.at(len(place.inside), line)
        return _newest(place)

    def pair(self, table: Place) -> None:
        line = self.line
        for part in self.key():
            table = table.at(part, line)
        self.skip(_SPACE)
        self.take("=")
        self.value(table)

    def key(self) -> list[str]:
        parts = []
        while True:
            self.skip(_SPACE)
            quoted = self.text[self.position : self.position + 1] in ("'", '"')
            part = self.skip(_STRING if quoted else _BARE_KEY)
            parts.append(str(tomllib.loads(f"key = {part}")["key"]) if quoted else part)
            self.skip(_SPACE)
            if not self.take("."):
                return parts

    def value(self, place: Place) -> None:
        """Pass over a value, noting what is inside it."""
        self.skip(_SPACE)
        if self.take("["):
            for _ in self.items("]", ","):
                self.value(place.at(len(place.inside), self.line))
        elif self.take("{"):
            for _ in self.items("}", ","):
                self.pair(place)
        elif self.text[self.position : self.position + 1] in ("'", '"'):
            self.skip(_STRING)
        else:
            self.skip(_SCALAR)

    def items(self, closing: str, separator: str) -> Iterator[None]:
        """Stop at each item up to the closing token; the caller passes over it. Ends in any case."""
        while True:
            self.skip(_BLANK)
            start = self.position
            if start == len(self.text) or (closing and self.take(closing)):
                return
            yield
            self.skip(_BLANK)
            self.take(separator)
            if self.position == start:
                return

    def skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.position)
        found = match.group() if match else ""
        self.position += len(found)
        self.line += found.count("\n")
        return found

    def take(self, token: str) -> bool:
        if not self.text.startswith(token, self.position):
            return False
        self.position += len(token)
        return True


def _newest(place: Place) -> Place:
    return place.inside[len(place.inside) - 1] if place.tables else place
