"""The configuration: from a TOML text to `mlbd.core.settings.Settings`, or to everything that is wrong with it.

lines          where each key stands in the text
keys           what the schema is made of
schema         every key: type, default, explanation
bundle_schema  those of bonds and TEQL
values         readers: from one value to its meaning
conditions     the readers of the conditions of rules
bundle_values  the readers of bundles' keys
check          the document against the schema, key by key
relations      keys against keys, and the settings that come out
policies       the part of that which is about policies
rules          the part of that which is about rules
bundles        the part of that which is about bonds and TEQL
shadows        which rules never get a turn
problems       what is wrong, and how it is said
reference      the schema as tables for the documentation; nothing here imports it
"""

from __future__ import annotations

import codecs
import re
import tomllib
from pathlib import Path

from msgspec import Struct

from mlbd.config.check import check
from mlbd.config.lines import locate
from mlbd.config.problems import ConfigError, Findings, Problem
from mlbd.config.relations import relate, settings
from mlbd.core.settings import Settings

__all__ = ["ConfigError", "Loaded", "Problem", "load", "parse"]

# A hundred uplinks take a tenth of this. A line holds at most a few hundred dotted names, on which tomllib's time and
# memory grow with the square.
_LARGEST = 256 * 1024
_LONGEST_LINE = 1000

_POSITION = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


class Loaded(Struct, frozen=True):
    """A usable configuration."""

    settings: Settings
    warnings: tuple[Problem, ...]
    """What is probably not meant, in the order of the lines."""


def load(path: Path) -> Loaded:
    """Read and check a file. Raises ConfigError for whatever is wrong with it, and nothing else."""
    name = str(path)
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except IsADirectoryError:
        raise _unreadable(name, "this is a directory, not a file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise _unreadable(name, f"cannot be read: {reason or error}") from None
    if len(data) > _LARGEST:
        raise _unreadable(name, f"larger than {_LARGEST // 1024} KiB, which no configuration is")
    try:
        text = data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise _unreadable(name, f"not UTF-8 text: byte 0x{error.object[error.start]:02x}", line) from None
    return parse(text, name)


def parse(text: str, name: str) -> Loaded:
    """Check a text; `name` is what its problems call the file. Raises ConfigError, and nothing else."""
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > _LONGEST_LINE:
            raise _unreadable(name, f"a line of more than {_LONGEST_LINE} characters; break it", number)
    try:
        document = tomllib.loads(text)
        places = locate(text)
    except RecursionError:
        raise _unreadable(name, "arrays or tables nested too deep") from None
    except ValueError as error:  # also what Python says of a number with thousands of digits
        raise _unreadable(name, *_syntax(str(error), text)) from None
    findings = Findings(name, places)
    tables = check(document, findings)
    relate(tables, findings)
    if findings.errors:
        raise ConfigError(findings.errors)
    return Loaded(settings(tables), findings.warnings)


def _unreadable(file: str, found: str, line: int | None = None) -> ConfigError:
    return ConfigError((Problem(file, line, "", found),))


def _syntax(message: str, text: str) -> tuple[str, int | None]:
    """What tomllib says, and the line it says it of."""
    position = _POSITION.search(message)
    if not position:
        return f"not TOML: {message}", None
    what = f"not TOML: {message[: position.start()]}"
    if position[1] is None:
        return f"{what}, at the end of the file", text.rstrip("\n").count("\n") + 1
    return f"{what}, at column {position[2]}", int(position[1])
