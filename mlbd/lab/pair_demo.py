"""`mlbd demo --config DIRECTORY`: two routers, each the other's standby, by the files of the directory.

pair_demo     what is asked for, and the picture of a moment; the loop and the look are those of `demo`
pair_story    what happens, in the network of `pair`
pair_outcome  what became of the traffic
"""

from __future__ import annotations

import argparse
import functools
from collections import Counter
from pathlib import Path
from typing import Any

from mlbd import config
from mlbd.lab.demo import View, history, marks, play
from mlbd.lab.demo_outcome import PROMPT
from mlbd.lab.demo_screen import BUCKET, WIDEST, Health, Picture, UplinkRow
from mlbd.lab.demo_traffic import PATIENCE
from mlbd.lab.namespaces import LabError
from mlbd.lab.pair import BOTH
from mlbd.lab.pair_outcome import table
from mlbd.lab.pair_programs import missing
from mlbd.lab.pair_story import CONNECTIONS, RATE, PairStory

FILES = ("mlbd.toml", "keepalived.conf", "conntrackd.conf")
_RECENT, _UNDER_WAY, _HESITATES = 3.0, 0.1, 1.0
"""Seconds: of the bars' connections, and without an answer until a new connection and a conversation are waiting."""
_EVENTS = 200


def complaint(directory: Path, fault: str | None) -> str:
    """Why this directory, or this fault, is none for the demo; "" if nothing is wrong."""
    if fault == "flap":
        return "--fault flap: the demo of two routers knows silent and carrier"
    wanted = [f"router{n}/{name}" for n in BOTH for name in FILES]
    lacking = [name for name in wanted if not (directory / name).is_file()]
    if not lacking:
        return ""
    there = ", ".join(sorted(path.name for path in directory.iterdir())) or "nothing"
    return (
        f"{directory}: no pair of routers: {', '.join(lacking)} missing, found {there}. A pair is a directory with "
        f"router1/ and router2/, each with {', '.join(FILES[:-1])} and {FILES[-1]}."
    )


def show(options: argparse.Namespace) -> int:
    """In the sandbox; `config` is a directory without a `complaint`. Returns the exit status. Raises LabError."""
    if missing():
        raise LabError(f"{' and '.join(missing())}: not installed. apt-get install {' '.join(missing())}")
    files = {n: {name: (options.config / f"router{n}" / name).read_text() for name in FILES} for n in BOTH}
    lines = {n: _own_line(files[n]["mlbd.toml"], f"{options.config}/router{n}/mlbd.toml") for n in BOTH}
    told = False
    with PairStory(files, lines) as story:
        view = View(story, functools.partial(picture, story))
        try:
            play(view, story.start())
            while True:
                play(view, story.tell(options.fault))
                told = True
                view.tell(lambda _width, colour: table(story.outcomes, colour=colour))
                if options.once:
                    break
        except KeyboardInterrupt:
            if not told:
                return 130
        return 1 if any(outcome.complaints() for outcome in story.outcomes) else 0


def _own_line(text: str, path: str) -> str:
    """The name of the router's own uplink."""
    found = [uplink.name for uplink in config.parse(text, path).settings.uplinks if uplink.interface == "wan"]
    if len(found) != 1:
        count = len(found) or "no"
        raise LabError(
            f'{path}: {count} uplinks with interface = "wan": the demo\'s routers have one line each, there.'
        )
    return found[0]


def picture(story: PairStory, now: float) -> Picture:
    """The story at this moment, monotonic seconds: a row for each line, of which its own router says how it is."""
    attempts = [a for traffic in story.traffic.values() for a in traffic.attempts(now - WIDEST * BUCKET - PATIENCE)]
    waiting = [since for traffic in story.traffic.values() for since in traffic.waiting() if since < now - _UNDER_WAY]
    hesitant = [a.started for a in attempts if a.took is None or a.took > PROMPT]
    hesitant += [since for since in waiting if since < now - PROMPT]
    arrived = Counter(a.uplink for a in attempts if a.took is not None and a.started + a.took > now - _RECENT)
    rows = []
    for n in BOTH:
        uplinks = story.status.get(n, {}).get("uplinks", [])
        state: dict[str, Any] = next((uplink for uplink in uplinks if uplink["name"] == story.lines[n]), {})
        targets = state.get("targets", [])
        held = " ".join(str(k) for k in BOTH if n in story.holders.get(k, []))
        rows.append(
            UplinkRow(
                name=story.lines[n],
                verdict=state.get("verdict", "-"),
                loss=state.get("loss"),
                rtt=state.get("rtt"),
                gateway=f"router {n} has {held or 'none'}",
                evidence=targets[0]["evidence"] if targets else "",
                share=arrived[n] / arrived.total() if arrived.total() else None,
                history=history((a.started for a in attempts if a.uplink == n), now),
            )
        )
    lasting = f"  {now - story.now_since:.0f} s" if now - story.now_since >= 1 else ""
    return Picture(
        elapsed=now - story.began,
        title=f"2 routers; {CONNECTIONS:.0f} new connections/s, {RATE:.0f} datagrams/s per segment",
        now=story.now + lasting,
        alarm=story.alarm,
        uplinks=tuple(rows),
        trouble=history(hesitant, now),
        marks=marks(story.marks, now),
        health=_health(story, now, len(waiting)),
        events=tuple(story.events[-_EVENTS:]),
    )


def _health(story: PairStory, now: float, waiting: int) -> Health:
    talks = [talk for traffic in story.traffic.values() for talk in traffic.conversations]
    alive = sum(talk.uplink is not None and talk.answered > now - _HESITATES for talk in talks)
    reset, broken = story.breaks()
    sent, lost = story.datagrams()
    return Health(
        answered=sum(traffic.answered for traffic in story.traffic.values()),
        waiting=waiting,
        failed=sum(traffic.failed for traffic in story.traffic.values()),
        datagrams=sent,
        datagrams_lost=lost,
        stream="",
        alive=alive,
        stalled=len(talks) - alive,
        reset=reset,
        broken=broken,
    )
