"""The shape of the program, as docs/how-it-works.md tells it, and as nobody can forget it.

Imports go down only, adapters never import each other, the core imports itself and a few pure modules, files can be
read in one sitting, and the diagram of verdicts is drawn from the table of verdicts.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlbd.core.machine import CARRIES, TABLE, Signal, Verdict

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "mlbd").rglob("*.py"))
OWN = sorted(path for directory in ("mlbd", "tests", "bench") for path in (ROOT / directory).rglob("*.py"))

MAY: dict[str, set[str]] = {
    "core": set(),
    "config": {"core"},
    "kernel": {"core"},
    "probe": {"core"},
    "report": {"core"},
    "control": {"core"},
    "hooks": {"core"},
    "release": {"core"},
    "loop": {"core", "release"},
    "explaining": {"core", "control"},
    "planning": {"core"},
    "maintenance": {"core", "config", "control", "loop"},
    "suspicion": set(),
    "miimon": {"loop"},
    "daemon": {
        "core",
        "config",
        "kernel",
        "probe",
        "report",
        "control",
        "hooks",
        "loop",
        "release",
        "explaining",
        "planning",
        "maintenance",
        "miimon",
        "suspicion",
    },
    "lab": {"core", "config"},
    "cli": {
        "core",
        "config",
        "kernel",
        "probe",
        "report",
        "control",
        "hooks",
        "loop",
        "release",
        "explaining",
        "planning",
        "maintenance",
        "miimon",
        "suspicion",
        "daemon",
        "lab",
    },
}
"""What each layer may import of the others; the version in `mlbd` itself, everybody."""

REASON = {
    "core": "the core is pure: no sockets, no clock, no files, no asyncio; time is an argument",
    "config": "the configuration turns text into settings of the core, and needs nothing else",
    "kernel": "an adapter translates between one outside and the core; siblings meet in the daemon",
    "probe": "an adapter translates between one outside and the core; siblings meet in the daemon",
    "report": "an adapter translates between one outside and the core; siblings meet in the daemon",
    "control": "an adapter translates between one outside and the core; siblings meet in the daemon",
    "hooks": "an adapter translates between one outside and the core; siblings meet in the daemon",
    "loop": "the loop knows the core and the protocol `Kernel`, no adapter",
    "release": "taking away needs the plan and the protocol `Kernel`, no adapter",
    "explaining": "answers of the daemon are composed of the core and what the kernel is asked by a protocol",
    "planning": "a plan is made by the core from what the protocol `Kernel` shows",
    "miimon": "it tells the loop what it is given a way to read",
    "suspicion": "it is given counters and asks nobody itself",
    "maintenance": "what people ask of an uplink is carried out by the loop",
    "daemon": "the composition root is below the commands, and the lab is theirs",
    "lab": "the lab stands beside the program: it reads its configuration and runs it, but is no part of it",
    "cli": "commands may import everything",
}

PURE = {
    "__future__", "bisect", "collections", "collections.abc", "enum", "functools", "hashlib", "heapq",
    "ipaddress", "itertools", "math", "msgspec", "msgspec.structs", "operator", "typing",
}  # fmt: skip
"""What the core may import: nothing in it can wait, look at a clock, or reach outside. Of msgspec it has values."""


def layer(path: Path) -> str:
    """`core` for mlbd/core/plan.py, `loop` for mlbd/loop.py; "" for mlbd/__init__.py."""
    first = path.relative_to(ROOT / "mlbd").parts[0].removesuffix(".py")
    return "cli" if first == "__main__" else "" if first == "__init__" else first


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every import, wherever it stands: in functions and under conditions, too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).with_suffix("").parts[: -node.level] if node.level else ()
            module = ".".join([*package, *([node.module] if node.module else [])])
            if module == "mlbd" or (node.level and not node.module):
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module


def forbidden(path: Path) -> Iterator[str]:
    own = layer(path)
    for line, name in imports(path):
        what = ""
        top, _, rest = name.partition(".")
        if top == "mlbd":
            other = rest.partition(".")[0]
            if other not in ("", "__version__", own) and other not in MAY.get(own, set()):
                what = f"{own or 'mlbd'} may not import {other}"
        elif top == "tests":
            what = "the program may not import its tests"
        elif own == "core" and name not in PURE:
            what = "the core may not import this"
        if what:
            yield f"{path.relative_to(ROOT)}:{line}: import {name}: {what}: {REASON.get(own, 'nothing is above it')}"


def test_imports_go_down_only() -> None:
    """Each layer imports what the architecture lets it, and every forbidden import is named with the reason."""
    assert [problem for path in MODULES for problem in forbidden(path)] == []


def test_every_module_has_a_layer() -> None:
    """A new package needs a place in the architecture first."""
    assert {layer(path) for path in MODULES} <= {"", *MAY}
    assert set(MAY) == set(REASON)


@pytest.mark.parametrize(
    ("path", "text", "problem"),
    [
        ("mlbd/core/x.py", "import time", "the core may not import this: the core is pure"),
        ("mlbd/core/x.py", "def f():\n    from asyncio import sleep", "x.py:2: import asyncio: the core may not"),
        ("mlbd/core/x.py", "from mlbd.config import parse", "core may not import config"),
        ("mlbd/core/x.py", "from ..kernel import watch", "core may not import kernel"),
        ("mlbd/core/x.py", "from .. import loop", "core may not import loop"),
        ("mlbd/probe/x.py", "import mlbd.report.log", "probe may not import report: an adapter"),
        ("mlbd/loop.py", "from mlbd.kernel import LinuxKernel", "loop may not import kernel: the loop knows"),
        ("mlbd/daemon.py", "from mlbd import lab", "daemon may not import lab"),
        ("mlbd/lab/x.py", "from mlbd.cli import main", "lab may not import cli"),
        ("mlbd/cli/x.py", "from tests.conftest import network", "may not import its tests"),
        ("mlbd/core/x.py", "from mlbd import __version__\nfrom .plan import plan\nimport math", ""),
        ("mlbd/cli/x.py", "from mlbd.lab import network\nimport asyncio", ""),
    ],
)
def test_the_guard_guards(path: str, text: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forbidden import is found in every way it can be written, an allowed one is not."""
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(text)
    found = list(forbidden(file))
    assert (len(found), problem in "".join(found)) == (1 if problem else 0, True)


def test_files_can_be_read_in_one_sitting() -> None:
    """About 300 lines, never above 400."""
    long = {str(path.relative_to(ROOT)): n for path in OWN if (n := len(path.read_text().splitlines())) > 400}
    assert long == {}


def test_there_is_no_drawer_for_odds_and_ends() -> None:
    """A function without a home means that a noun is missing."""
    assert [str(path) for path in OWN if path.stem in ("utils", "util", "helpers", "common", "misc")] == []


# The diagram.


def diagram() -> str:
    """The table of verdicts as a mermaid state diagram; `python -m tests.test_architecture` prints it."""
    lines = ["stateDiagram-v2", "    [*] --> UNKNOWN"]
    for verdict, row in TABLE.items():
        arrows: dict[Verdict, list[Signal]] = {}
        for signal, target in row.items():
            if target != verdict:
                arrows.setdefault(target, []).append(signal)
        lines += [f"    {verdict} --> {target}: {', '.join(signals)}" for target, signals in arrows.items()]
    lines.append("    classDef carries stroke-width:3px")
    lines += [f"    class {verdict} carries" for verdict in TABLE if verdict in CARRIES]
    return "\n".join(lines)


def test_diagram_is_the_table() -> None:
    """The diagram in the documentation is drawn from the table that the program runs by."""
    page = (ROOT / "docs" / "how-it-works.md").read_text()
    _, _, rest = page.partition("```mermaid\nstateDiagram-v2")
    drawn = "stateDiagram-v2" + rest.partition("\n```")[0]
    assert drawn == diagram(), "draw it anew: python -m tests.test_architecture"


if __name__ == "__main__":
    print(diagram())
