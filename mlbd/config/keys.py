"""What the schema is made of: tables, their keys, and the types that several keys share."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct


class Absent(Enum):
    """What it means that a key has no default."""

    REQUIRED = "required"
    NONE = "none"
    """Something is then found out or decided by the program, as the key's explanation says."""


def _as_is(value: Any) -> Any:
    return value


class Key(Struct, frozen=True, kw_only=True):
    name: str
    type: Any
    """What `msgspec.convert` accepts; of one element, or one value, if the key holds several."""
    default: Any
    """As it would stand in the file; or `Absent`."""
    expected: str
    """What would be right, as in "expected a whole number from 1 to 256"; for arrays and tables, what is in them."""
    explanation: str
    """What the key is for, one sentence or two."""
    read: Callable[[Any], Any] = _as_is
    """From the value to its meaning; raises `mlbd.config.problems.Unfit`."""
    holds: Literal["one", "array", "table"] = "one"
    """Whether it is one value, an array of such values, or a table of them by name."""
    each_once: bool = False
    """No two elements of the array may mean the same."""
    bare: bool = False
    """An array of one element may be written without brackets."""
    table: Table | None = None
    """What is in an element that is a table; its meaning then is `mlbd.config.check.Checked`."""


class Table(Struct, frozen=True, kw_only=True):
    name: str
    many: bool
    """Written `[[name]]`, once for each of them."""
    explanation: str
    keys: tuple[Key, ...]
    inner: tuple[Table, ...] = ()
    """Tables inside it, `[name.inner]`."""

    def key(self, name: str) -> Key:
        """The key of that name; KeyError if there is none."""
        return {key.name: key for key in self.keys}[name]

    @property
    def heading(self) -> str:
        """As it is written in a file, `[[uplink]]` or `[probe]`."""
        return f"[[{self.name}]]" if self.many else f"[{self.name}]"

    @property
    def below(self) -> tuple[Table, ...]:
        """The tables inside it, also those that are elements of its arrays."""
        return (*self.inner, *(key.table for key in self.keys if key.table))

    @property
    def names(self) -> tuple[str, ...]:
        """Of everything that may stand in it."""
        return (*(key.name for key in self.keys), *(table.name for table in self.inner))


Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,14}\Z")]
NAME = "a name of up to 15 lower-case letters, digits, _ and -, beginning with a letter"
Weight = Annotated[int, Meta(ge=1, le=256)]
WEIGHT = "a whole number from 1 to 256"
Count = Annotated[int, Meta(ge=1, le=1000)]
COUNT = "a whole number from 1 to 1000"
