"""`python -m bench.long_life [OUTCOMES TRANSITIONS]`: what the daemon's parts hold after a million probe results.

The parts are the daemon's own, kernel and network are in memory, and time is virtual; see tests/faults/life.py. Exits
with 1 if memory grew by a megabyte, or anything else is held that was not before.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.faults.life import live

OUTCOMES, TRANSITIONS = 1_000_000, 100_000


def main() -> int:
    outcomes, transitions = map(int, sys.argv[1:3]) if len(sys.argv) > 2 else (OUTCOMES, TRANSITIONS)
    with tempfile.TemporaryDirectory() as directory:
        lived = live(Path(directory), outcomes, transitions)
    print(lived)
    for problem in lived.problems():
        print(problem, file=sys.stderr)
    return 1 if lived.problems() else 0


if __name__ == "__main__":
    sys.exit(main())
