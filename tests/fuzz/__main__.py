"""The long run: `python -m tests.fuzz [--inputs N] [--seed N] [--record] [TARGET ..]`, or `make fuzz`.

Each target in turn, in a process of its own; a table at the end. It stops at the first input that fails, and keeps it.
Run it in the sandbox (`mlbd.lab.sandbox`): nothing is sent anywhere, but sockets are opened.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.catalogue import TARGETS
from tests.fuzz.child import atheris
from tests.fuzz.target import Target

RECORD = Path(__file__).parents[2] / "docs" / "decisions" / "fuzzing.md"
_TABLE = re.compile(r"(?<=<!-- the run -->\n).*?(?=<!-- end of the run -->)", re.DOTALL)
_DONE = re.compile(r"^#\d+\s+(\w+)\s+cov: (\d+) ft: \d+ corp: (\d+)/", re.MULTILINE)
_GROWTH = 2000
"""Python blocks that may still be filled after a quarter of the inputs; a leak is one for each input."""


@dataclass(frozen=True, slots=True)
class Row:
    """What a target's run came to."""

    name: str
    inputs: int
    seconds: float
    slowest_ms: float
    rss_growth_kib: int
    block_growth: int
    coverage: str
    """Edges after the seeds and at the end."""
    corpus: str

    def cells(self) -> tuple[str, ...]:
        return (
            self.name, f"{self.inputs:,}", f"{self.seconds:.0f}", self.coverage, self.corpus, f"{self.slowest_ms:.1f}",
            str(self.block_growth), f"{self.rss_growth_kib / 1024:.1f}",
        )  # fmt: skip


_HEAD = (
    "target", "inputs", "time, s", "edges: seeds, end", "corpus: seeds, end", "slowest, ms", "blocks grown",
    "RSS grown, MiB",
)  # fmt: skip


def main() -> int:
    options = _options()
    if atheris() is None:
        print("atheris is not installed, so inputs are changed at random, and no coverage guides them.", flush=True)
    chosen = [t for t in TARGETS if not options.targets or t.name in options.targets]
    share = 1.0 if options.inputs is None else options.inputs / sum(target.inputs for target in chosen)
    rows = []
    print(" | ".join(_HEAD), flush=True)
    for target in chosen:
        row = _run(target, max(1000, round(target.inputs * share)), options.seed)
        if row is None:
            return 1
        rows.append(row)
        if options.record:
            _record(row)
        print(" | ".join(row.cells()), flush=True)
    print(f"{sum(row.inputs for row in rows):,} inputs, no failure")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, help="in sum; more than a million without it")
    parser.add_argument("--seed", type=int, default=1, help="repeats a run")
    parser.add_argument("--record", action="store_true", help=f"write what came of each target into {RECORD.name}")
    parser.add_argument("targets", nargs="*", choices=[[], *(target.name for target in TARGETS)], metavar="TARGET")
    return parser.parse_args()


def _run(target: Target, inputs: int, seed: int) -> Row | None:
    """None, and said, if an input failed."""
    place = Path(tempfile.mkdtemp(prefix=f"mlbd-fuzz-{target.name}-"))
    command = [sys.executable, "-m", "tests.fuzz.child", target.name, str(inputs), str(seed), str(place)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    report = place / "report.json"
    found = json.loads(report.read_text()) if report.exists() else {}
    if done.returncode or not found or found["block_growth"] > _GROWTH:
        why = f"it grew by {found['block_growth']} blocks" if found else done.stdout[-4000:] + done.stderr[-1000:]
        print(f"{target.name} failed; what it was given is in {place}:\n{why}", file=sys.stderr)
        return None
    steps = {step: (edges, corpus) for step, edges, corpus in _DONE.findall(done.stderr)}
    (before, small), (after, large) = steps.get("INITED", ("-", "-")), steps.get("DONE", ("-", "-"))
    return Row(target.name, **found, coverage=f"{before}, {after}", corpus=f"{small}, {large}")


def _record(row: Row) -> None:
    RECORD.write_text(_TABLE.sub(lambda found: _merged(found[0], row), RECORD.read_text()))


def _merged(table: str, row: Row) -> str:
    """The table with this row, which takes the place of the target's former one."""
    parted = (line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| "))
    rows = {cells[0]: tuple(cells) for cells in parted} | {row.name: row.cells()}
    known = [rows[target.name] for target in TARGETS if target.name in rows]
    total = sum(int(cells[1].replace(",", "")) for cells in known)
    lines = [_HEAD, ("---",) * len(_HEAD), *known]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{total:,} inputs, none failed.\n"


if __name__ == "__main__":
    sys.exit(main())
