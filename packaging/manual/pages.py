"""What stands in the manual pages: of commands what the parser knows, of the configuration what the reference says."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import roff

from mlbd import __version__

HERE = Path(__file__).parent
REFERENCE = HERE.parents[1] / "docs/configuration.md"

_SOURCE = f"mlbd {__version__}"
_ADMINISTRATION, _FORMATS = "System Administration", "File Formats"
_INSTALLED = {
    "`etc/examples/": "`/usr/share/doc/mlbd/examples/",
    "`etc/mlbd.toml`": "`/usr/share/doc/mlbd/mlbd.toml`",
}
"""What the reference names, and where it is when the package is installed."""
_FOR_AUTHORS = "The tables in this document are derived"
"""With this begins the last paragraph of the reference, which is for those who change it."""


def commands(parser: argparse.ArgumentParser, date: str) -> str:
    """mlbd(8)."""
    frame = (HERE / "mlbd.8.md").read_text(encoding="utf-8")
    parsers = subcommands(parser)
    counted = Counter(action for each in parsers.values() for action in each._actions)
    common = [action for action, count in counted.items() if count > 1]  # parents= shares them
    parts = {
        "<!-- synopsis -->": "\n\n".join(f"`{_usage(each)}`" for each in parsers.values()),
        "<!-- commands -->": "\n".join(
            part for name, each in parsers.items() for part in _command(name, each, set(common))
        ),
        "<!-- options -->": _options([*common, *parser._actions]),
    }
    for place, text in parts.items():
        frame = frame.replace(place, text)
    return roff.page("mlbd", 8, date, _SOURCE, _ADMINISTRATION, frame)


def configuration(date: str) -> str:
    """mlbd.toml(5)."""
    reference = REFERENCE.read_text(encoding="utf-8").partition(_FOR_AUTHORS)[0]
    for ours, installed in _INSTALLED.items():
        reference = reference.replace(ours, installed)
    frame = (HERE / "mlbd.toml.5.md").read_text(encoding="utf-8")
    return roff.page(
        "mlbd.toml", 5, date, _SOURCE, _FORMATS, frame.replace("<!-- reference -->", reference.partition("\n")[2])
    )


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """In the parser's order."""
    (found,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


def _command(name: str, parser: argparse.ArgumentParser, common: set[argparse.Action]) -> Iterable[str]:
    yield f"### {name}\n"
    yield f"`{_usage(parser)}`\n"
    yield f"{parser.description}\n"
    own = [a for a in parser._actions if a not in common and not isinstance(a, argparse._HelpAction)]
    yield _options(own)


def _usage(parser: argparse.ArgumentParser) -> str:
    """In one line, without the option that shows it."""
    return " ".join(parser.format_usage().split()).removeprefix("usage: ").replace(" [-h]", "")


def _options(actions: Iterable[argparse.Action]) -> str:
    """A table of two columns."""
    rows = ["| option | meaning |", "|---|---|"]
    for action in actions:
        if isinstance(action, argparse._SubParsersAction):
            continue
        value = "" if action.nargs == 0 else _value(action)
        named = ", ".join(f"{option} {value}".strip() for option in action.option_strings) or value
        text = (action.help or "") % {**vars(action), "prog": "mlbd"}
        rows.append(f"| `{named}` | {_plain(text)} |")
    return "\n".join(rows) + "\n" if len(rows) > 2 else ""


def _value(action: argparse.Action) -> str:
    return str(action.metavar or "|".join(action.choices or ()) or action.dest).replace("|", "\\|")


def _plain(text: str) -> str:
    """Help is no Markdown."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|" else c for c in text)
