"""`mlbd status --exit-code NAME`: what the files for keepalived say, for programs that run others."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from mlbd.config.problems import nearest
from mlbd.control import NoDaemon, Refused, request
from mlbd.report.screen import clean


def carrying(options: argparse.Namespace, control: str) -> int:
    """One line. 0: it carries traffic; 3: it does not, or that is not known yet; 2: there is no such name; 1: no
    daemon answers.
    """
    name: str = options.exit_code
    if options.json or options.watch:
        print("mlbd: --exit-code goes with neither --json nor --watch", file=sys.stderr)
        return 2
    try:
        answer = request(control, "status")
    except (NoDaemon, Refused) as error:
        print(f"mlbd: {error}", file=sys.stderr)
        return 1
    known = {one["name"]: one for one in (*answer["uplinks"], *answer["policies"])}
    if name not in known:
        hint = nearest(name, known) or "there are " + ", ".join(known)
        print(f"mlbd: there is no uplink or policy {name!r}; {hint}", file=sys.stderr)
        return 2
    carries = known[name]["carries"]
    print(clean(f"{name} {_sentence(known, name)}"))
    return 0 if carries else 3


def _sentence(known: Mapping[str, Mapping[str, Any]], name: str) -> str:
    one = known[name]
    if one["carries"] is None:
        return "has no verdict yet"
    if one["carries"]:
        return "carries traffic"
    uplinks = [known[member["uplink"]] for member in one["members"]] if "members" in one else [one]
    idle = [u for u in uplinks if not u["carries"]]
    why = ", ".join(("" if u is one else f"{u['name']} ") + f"{u['verdict']} ({u['reason']})" for u in idle)
    return f"does not carry traffic: {why or 'only another router does'}"
