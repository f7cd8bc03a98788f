"""`python -m mlbd.lab.sandbox python -m tests.chaos --seed 7 --events 2000`."""

from __future__ import annotations

import argparse
import sys
import time

from mlbd.lab.network import Network
from tests.chaos.walk import UPLINKS, BrokenError, Walk


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100000, help="what is drawn; else a new one")
    parser.add_argument("--events", type=int, default=2000, help="how many (2000)")
    parser.add_argument("--along", metavar="LEGS", help="no chance: legs such as `silence 1, kill; load-tiers`")
    parser.add_argument("--quiet", action="store_true", help="only say how it ended")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}, {arguments.events} events", flush=True)
    began = time.monotonic()
    with Network(UPLINKS, lans=2) as net:
        try:
            walk = Walk.begin(net)
            if arguments.along:
                walk.along(arguments.along)
            else:
                walk.at_random(arguments.seed, arguments.events, speak=not arguments.quiet)
        except BrokenError as broken:
            print(f"{broken}\nWalk there again: make chaos SEED={arguments.seed} EVENTS={arguments.events}")
            return 1
        counted = ", ".join(f"{count} {what}" for what, count in sorted(walk.counted.items()))
        print(f"All as demanded after {walk.events} events in {len(walk.told)} legs, {time.monotonic() - began:.0f} s.")
        print(counted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
