"""What is wrong with a configuration, where, and what would be right.

ConfigError          the file cannot be used; carries every `Problem` that was found
Problem              one of them, or a warning; `str()` is what a person reads
Findings             collects them while a file is being checked; the only mutable thing in this package
Unfit                raised by a reader of `mlbd.config.values`; becomes a `Problem` once the place is known
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from mlbd.config.lines import Place

Path = tuple[str | int, ...]
"""Where a value stands: table and key names, and positions in arrays, counted from 0."""

_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")
_LONGEST = 60


class Problem(Struct, frozen=True):
    file: str
    line: int | None
    """Counted from 1; None where no line is to blame."""
    key: str
    """`uplink[1].probe.fall`; positions are counted from 0. "" where the file as a whole is meant."""
    found: str
    """The offending value as it is written in TOML; or, where `expected` is "", what is the matter."""
    expected: str = ""
    hint: str = ""
    """The reason, or the nearest known name."""

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        what = f"found {self.found}, expected {self.expected}" if self.expected else self.found
        return ": ".join(part for part in (where, self.key, what) if part) + (f"; {self.hint}" if self.hint else "")


class ConfigError(Exception):
    """The configuration cannot be used. `problems` are all that were found, in the order of their lines."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class Unfit(Exception):  # noqa: N818 - a verdict on one value, not an error of the program
    """A value of the right type that cannot be used. `expected` replaces the key's own text if it is given."""

    def __init__(self, hint: str = "", *, expected: str = "") -> None:
        super().__init__(hint)
        self.hint = hint
        self.expected = expected


class Findings:
    """Problems and warnings of one file."""

    def __init__(self, file: str, root: Place) -> None:
        self._file = file
        self._root = root
        self._errors: dict[Problem, None] = {}
        self._warnings: dict[Problem, None] = {}

    def error(self, path: Path, found: str, expected: str = "", hint: str = "") -> None:
        """Note an error; the same one twice counts once, as uplinks share what stands under [probe]."""
        self._errors[Problem(self._file, self.line(path), key_text(path), found, expected, hint)] = None

    def warn(self, path: Path, text: str) -> None:
        self._warnings[Problem(self._file, self.line(path), key_text(path), text)] = None

    def line(self, path: Path) -> int | None:
        """The line of the value, or of the nearest table around it that is written down."""
        return self._root.line_of(path)

    @property
    def errors(self) -> tuple[Problem, ...]:
        return _in_line_order(self._errors)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        return _in_line_order(self._warnings)


def _in_line_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(problems, key=lambda problem: problem.line or 0))


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean "weight"?`, or "" if nothing known resembles the word."""
    close = difflib.get_close_matches(word[:_LONGEST], list(known), n=1)
    return f'did you mean "{close[0]}"?' if close else ""


def key_text(path: Path) -> str:
    """The path as a person would write it; parts that TOML would need quotes for are quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _BARE.match(part) else shown(part))
    return text


def shown(value: Any) -> str:
    """The value as TOML would have it, on one line, shortened, and harmless on a terminal."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():  # a hexadecimal number may have more digits than Python prints
            return str(value) if abs(value) < 10**30 else "a number of more than 30 digits"
        case str():
            cut = value if len(value) <= _LONGEST else value[:_LONGEST] + "..."
            return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in json.dumps(cut, ensure_ascii=False))
        case list():
            return "an array" if value else "an empty array"
        case dict():
            return "a table"
        case float():
            return repr(value)
    return str(value)  # dates and times
