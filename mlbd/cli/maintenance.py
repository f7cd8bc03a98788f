"""`mlbd drain`, `resume` and `drill`."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any

from mlbd.control import NoDaemon, Refused, follow, request


def ask(options: argparse.Namespace, control: str) -> int:
    """`drain` and `resume`: what the daemon says to it."""
    asked = {"uplink": options.uplink}
    if getattr(options, "for_", None) is not None:
        asked["for"] = options.for_
    try:
        print(request(control, options.command, **asked))
    except (NoDaemon, Refused) as error:
        print(f"mlbd: {error}", file=sys.stderr)
        return 1
    return 0


def drill(options: argparse.Namespace, control: str) -> int:
    """Tells what happens as it does; interrupted, it ends the drill."""
    back = False
    try:
        with contextlib.closing(follow(control, "drill", uplink=options.uplink, **{"for": options.for_})) as steps:
            for step in steps:
                back = step["step"] == "back" and step["after"] is not None
                for line in [json.dumps(step)] if options.json else _lines(step):
                    print(line, flush=True)
                if step["step"] in ("not-detected", "back"):
                    break
    except (NoDaemon, Refused) as error:
        print(f"mlbd: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("The drill is ended.", file=sys.stderr)
        return 1
    return 0 if back else 1


def _lines(step: dict[str, Any]) -> Iterator[str]:
    name = step["uplink"]
    match step["step"]:
        case "begun":
            yield f"{name} is treated as dead for {step['for']:g} s: no probe of it counts as answered."
        case "not-detected":
            yield "That was not noticed in time: probes are further apart than the drill is long."
        case "moved":
            took = "" if step["took_ms"] is None else f", and the kernel changed in {step['took_ms']:.1f} ms"
            yield f"Detected after {step['detected_after']:.2f} s ({step['reason']}){took}."
            yield f"New connections go by {', '.join(step['usable']) or 'the last resort'}."
            yield f"{step['connections_meanwhile']} new connections had still gone by {name}."
        case "ended":
            yield f"About {step['cut']} connections were cut loose. The drill is over; {name} has to prove itself."
        case "back" if step["after"] is None:
            yield f"{name} is not back yet: {step['reason']}"
        case "back":
            yield f"{name} is back {step['after']:.2f} s after that."
