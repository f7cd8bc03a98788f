"""The schema as Markdown tables. `python -m mlbd.config.reference FILE` renews those of a document.

A table stands between `<!-- keys: uplink -->` and `<!-- end -->`; the text around it is written by hand.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mlbd.config.keys import Absent, Key, Table
from mlbd.config.schema import TABLES

_BLOCK = re.compile(r"<!-- keys: (\w+) -->\n.*?<!-- end -->", re.DOTALL)


def renewed(document: str) -> str:
    """The document with its tables as the schema has them; KeyError for a table that the schema does not have."""
    tables = {table.name: table for each in TABLES for table in (each, *each.below)}
    return _BLOCK.sub(lambda block: f"<!-- keys: {block[1]} -->\n{markdown(tables[block[1]])}<!-- end -->", document)


def markdown(table: Table) -> str:
    """The keys of one table, with what they accept, their defaults, and what they mean."""
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    rows += [f"| `{key.name}` | {_accepts(key)} | {_default(key)} | {key.explanation} |" for key in table.keys]
    return "\n".join(rows) + "\n"


def _accepts(key: Key) -> str:
    array = "one or an array, each " if key.bare else "an array, each element "
    kind = {"one": "", "array": array, "table": "a table, by uplink, each value "}[key.holds]
    return kind + key.expected


def _default(key: Key) -> str:
    if key.default is Absent.REQUIRED:
        return "must be given"
    return "" if key.default is Absent.NONE else f"`{_toml(key)}`"


def _toml(key: Key) -> str:
    if key.name == "fwmark_mask":
        return hex(key.default)
    return _literal(key.default)


def _literal(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case list():
            return f"[{', '.join(map(_literal, value))}]"
        case dict():
            return (
                "{ " + ", ".join(f"{name} = {_literal(item)}" for name, item in value.items()) + " }" if value else "{}"
            )
        case str():
            return f'"{value}"'
    return str(value)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(renewed(path.read_text(encoding="utf-8")), encoding="utf-8")
