"""`python -m bench [--quick] [NAME...]`, inside the sandbox: run the benchmarks, a line for each row as it comes.

A whole run writes docs/performance.md; with `--quick` or names it only prints. Exits with 1 if something wanted was
missed, 2 if it was asked for what there is not.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator

from bench import (
    carrier,
    decision,
    flaps,
    flush,
    footprint,
    forwarding,
    idle_cycle,
    many,
    outage,
    page,
    probes,
    rules,
    shares,
    silent,
    starting,
)
from bench.row import Row
from mlbd.lab import sandbox
from mlbd.lab.namespaces import LabError

MOST_MINUTES = 25
"""When a run is ended, whatever it waits for. The sandbox removes what it leaves."""

BENCHMARKS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "carrier": carrier.run,
    "silent": silent.run,
    "flaps": flaps.run,
    "shares": shares.run,
    "outage": outage.run,
    "decision": decision.run,
    "probes": probes.run,
    "footprint": footprint.run,
    "many": many.run,
    "starting": starting.run,
    "idle_cycle": idle_cycle.run,
    "forwarding": forwarding.run,
    "rules": rules.run,
    "flush": flush.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure mlbd in the lab.")
    parser.add_argument("--quick", action="store_true", help="few repetitions, nothing written")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these: {', '.join(BENCHMARKS)}")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    if not sandbox.inside():
        parser.error("run it inside the sandbox: python -m mlbd.lab.sandbox python -m bench")
    signal.alarm(MOST_MINUTES * 60)
    circumstances = page.Circumstances.now()
    rows: dict[str, list[Row]] = {}
    for name in arguments.names or BENCHMARKS:
        began = time.monotonic()
        rows[name] = []
        for row in _measured(name, arguments.quick):
            rows[name].append(row)
            print(line(row), flush=True)
        print(f"   {name} took {time.monotonic() - began:.0f} s", flush=True)
    if not arguments.quick and not arguments.names:
        page.write(rows, circumstances.ended())
        print(f"{page.PATH} is written.")
    return 1 if any(row.missed for found in rows.values() for row in found) else 0


def _measured(name: str, quick: bool) -> Iterator[Row]:
    """The benchmark's rows; a benchmark that breaks is a row that misses."""
    try:
        yield from BENCHMARKS[name](quick)
    except (LabError, OSError) as error:
        traceback.print_exc()
        yield Row(f"{name} as a whole", str(error).splitlines()[0], "an end", "it broke")


def line(row: Row) -> str:
    mark = "!!" if row.missed else "ok" if row.wanted else "  "
    parts = [row.figure]
    if row.wanted:
        parts.append(f"wanted {row.wanted}: {row.met}")
    if row.reference:
        parts.append(f"{row.reference}" + (f", ratio {row.ratio}" if row.ratio else ""))
    return f"{mark} {row.what}\n     " + "\n     ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
