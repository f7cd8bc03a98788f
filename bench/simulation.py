"""`python -m bench.simulation`: years of generated link behaviour in virtual time, judged by the core and by others.

Writes the table of docs/health.md. Needs no sandbox and no privileges. Exits with 1 if something wanted was missed.
"""

from __future__ import annotations

import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from bench.simulation_scenarios import JUDGES, SCENARIOS

PATH = Path(__file__).parent.parent / "docs" / "health.md"
MARKS = ("<!-- python -m bench.simulation writes from here -->", "<!-- to here -->")
PROCESSES = 2

WANTED = {
    ("Silent outages of a minute, one a day", "found after, median, s"): 1.5,
    ("Silent outages of a minute, one a day", "found after, p99, s"): 2.0,
    ("1 % of packets lost at random", "false alarms a year"): 1.0,
    ("Full link: 20 to 800 ms at once, 20 times a day", "false alarms a year"): 1.0,
    ("50 % lost for an hour, once a week", "transitions, most"): 6.0,
}
"""At most, with mlbd's defaults."""

Figures = dict[tuple[int, str], list[str]]
"""By the scenario's number and the judge's name."""


def job(number: int, judge: str) -> list[str]:
    return SCENARIOS[number].tell(judge)


def main() -> int:
    began = time.monotonic()
    with ProcessPoolExecutor(PROCESSES) as pool:
        jobs = {(n, judge): pool.submit(job, n, judge) for n in range(len(SCENARIOS)) for judge in JUDGES}
        found: Figures = {key: future.result() for key, future in jobs.items()}
    text = table(found)
    page = PATH.read_text()
    begin, end = (re.escape(mark) for mark in MARKS)
    PATH.write_text(re.sub(f"({begin}\n).*({end})", lambda m: f"{m[1]}\n{text}\n{m[2]}", page, flags=re.DOTALL))
    print(text)
    missed = misses(found)
    print("\n".join(missed) or "All that is wanted is met.", f"It took {time.monotonic() - began:.0f} s.", sep="\n")
    return 1 if missed else 0


def table(found: Figures) -> str:
    lines = [f"| | wanted | {' | '.join(JUDGES)} |", f"|---|{'---|' * (len(JUDGES) + 1)}"]
    for number, scenario in enumerate(SCENARIOS):
        lines.append(f"| **{scenario.title}** | |{' |' * len(JUDGES)}")
        for place, what in enumerate(scenario.figures):
            limit = WANTED.get((scenario.title, what))
            wanted = "" if limit is None else f"{limit:g}"
            figures = " | ".join(found[number, judge][place] for judge in JUDGES)
            lines.append(f"| {what} | {wanted} | {figures} |")
    return "\n".join(lines) + "\n"


def misses(found: Figures) -> list[str]:
    out = []
    for number, scenario in enumerate(SCENARIOS):
        for what, figure in zip(scenario.figures, found[number, "mlbd"], strict=True):
            limit = WANTED.get((scenario.title, what))
            if limit is not None and not float(figure) <= limit:
                out.append(f"Missed: {scenario.title}: {what} is {figure}, wanted at most {limit:g}.")
    return out


if __name__ == "__main__":
    sys.exit(main())
