"""`mlbd demo`: a small network in namespaces, the daemon on it, faults, and what they do to traffic, live.

demo          the command: into the sandbox, and the loop that tells the story, draws it and listens for Ctrl-C
demo_story    what happens
demo_traffic  what the LAN sends
demo_outcome  what became of it
demo_screen   how all this looks
pair_demo     another story, of two routers; the loop and the look are these

A terminal gets a picture five times a second, anything else a line for each event; both get the summary.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from mlbd import config
from mlbd.lab import demo_screen, sandbox
from mlbd.lab.demo_outcome import PROMPT
from mlbd.lab.demo_screen import BUCKET, WIDEST, Event, Health, Picture, UplinkRow
from mlbd.lab.demo_story import CONNECTIONS, Fault, Story
from mlbd.lab.demo_traffic import PATIENCE
from mlbd.lab.namespaces import LabError

CONFIG = """\
[probe]
targets = ["203.0.113.253", "203.0.113.254"]

[[uplink]]
name = "fiber"
interface = "eth1"
weight = 3

[[uplink]]
name = "cable"
interface = "eth2"
weight = 2

[[uplink]]
name = "lte"
interface = "eth3"

[[policy]]
name = "balanced"
members = [["fiber", "cable"], ["lte"]]
"""
"""What the demo's daemon runs with if nothing else is asked for: two uplinks share, the third stands by."""

_TICK, _FRAME = 0.05, 0.2
_RECENT = 3.0
"""Seconds of connections that the bars show."""
_UNDER_WAY = 0.1
"""Seconds without an answer after which a new connection is shown as waiting."""
_HESITATES = 1.0
"""Seconds without an answer after which a conversation is shown as waiting."""
_HIDE_CURSOR, _SHOW_CURSOR = "\033[?25l\033[?7l", "\033[?25h\033[?7h"
"""And do not wrap lines, which the terminal may just have become too narrow for."""
_EVENTS = 200
_BETWEEN = 3.0
"""Seconds of calm before another fault, once the story is over."""
_ALL: tuple[Fault, ...] = ("silent", "carrier", "flap")


def demo(options: argparse.Namespace) -> int:
    """`config` (already known to be good; or None), `fault` (or None) and `once`. Returns the exit status."""
    # Ctrl-C is asked for between two steps, not suffered in the middle of one; programs that are started inherit this.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        if sandbox.inside():
            return _show_pair(options) if _is_pair(options) else _show(options)
        return sandbox.run([sys.executable, "-m", "mlbd", *_arguments(options)])
    except (sandbox.SandboxError, LabError) as error:
        print(f"mlbd: {_short(str(error))}", file=sys.stderr)
        return 1
    finally:
        if sys.stdout.isatty():
            print(_SHOW_CURSOR, end="", flush=True)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _is_pair(options: argparse.Namespace) -> bool:
    return options.config is not None and options.config.is_dir()


def _show_pair(options: argparse.Namespace) -> int:
    from mlbd.lab import pair_demo

    return pair_demo.show(options)


def _arguments(options: argparse.Namespace) -> list[str]:
    arguments = ["demo"]
    if options.config is not None:
        arguments += ["--config", str(options.config)]
    if options.fault is not None:
        arguments += ["--fault", options.fault]
    return [*arguments, "--once"] if options.once else arguments


def _short(text: str) -> str:
    """The lab's errors quote commands and logs; the first line says what is wrong and the last what was said of it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"


def _show(options: argparse.Namespace) -> int:
    path: Path | None = options.config
    text = CONFIG if path is None else path.read_text()
    settings = config.parse(text, "the demo's configuration" if path is None else str(path)).settings
    for uplink in settings.uplinks:
        if uplink.gateway.source != "auto":
            raise LabError(
                f'{uplink.name}: the demo has gateways of its own; set gateway = "auto" in a copy of the file.'
            )
    faults: list[Fault] = [options.fault] if options.fault else ["silent", "carrier"]
    with Story(settings, text) as story:
        view = View(story, lambda now: picture(story, now))
        try:
            play(view, story.start())
            for fault in faults:
                play(view, story.break_one(fault))
            _sum_up(story, view)
            while not options.once:
                play(view, story.start_stream())
                play(view, story.wait(_BETWEEN))
                play(view, story.break_one(options.fault or random.choice(_ALL)))  # noqa: S311 (no secret)
        except KeyboardInterrupt:
            _sum_up(story, view)
            if options.once or len(story.outcomes) < len(faults):
                return 130
        return 1 if any(outcome.complaints() for outcome in story.outcomes) else 0


def play(view: View, steps: Iterator[None]) -> None:
    """Raises KeyboardInterrupt between two steps."""
    for _ in steps:
        if signal.sigtimedwait({signal.SIGINT}, _TICK) is not None:
            raise KeyboardInterrupt
        view.show()
    view.show()


def _sum_up(story: Story, view: View) -> None:
    """The summary, if there is anything new in it."""
    if len(story.outcomes) == view.summed_up:
        return
    view.summed_up = len(story.outcomes)
    answered, failed = (story.traffic.answered, story.traffic.failed) if story.traffic else (0, 0)
    view.tell(lambda width, colour: demo_screen.summary(story.outcomes, answered, failed, width, colour=colour))


class Told(Protocol):
    """A story, as far as the view needs it."""

    events: list[Event]

    def look(self) -> None:
        """Take in what is new."""


class View:
    """Stdout, be it a terminal or not."""

    def __init__(self, story: Told, picture: Callable[[float], Picture]) -> None:
        """`picture`: the story at a moment, monotonic seconds."""
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # not every locale has block characters
        self.summed_up = 0
        """Outcomes that a summary has been printed of."""
        self._story, self._picture = story, picture
        self._terminal = sys.stdout.isatty()
        self._colour = self._terminal and "NO_COLOR" not in os.environ
        self._next = 0.0
        self._told = 0
        self._drawn = 0
        self._size = shutil.get_terminal_size()

    def show(self) -> None:
        """What is new, if it is time for it."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _FRAME
        self._story.look()
        if self._terminal:
            self._draw(self._picture(now))
        else:
            for event in self._story.events[self._told :]:
                print(demo_screen.event_line(event), flush=True)
            self._told = len(self._story.events)

    def _draw(self, shown: Picture) -> None:
        size = shutil.get_terminal_size()
        lines = demo_screen.render(shown, size.columns, size.lines - 1, colour=self._colour)
        start = f"\033[{self._drawn}F" if self._drawn else ""
        if size != self._size:
            start, self._size = "\033[2J\033[H", size
        print(_HIDE_CURSOR + start + "".join(f"{line}\033[K\n" for line in lines) + "\033[J", end="", flush=True)
        self._drawn = len(lines)

    def tell(self, lines: Callable[[int, bool], Sequence[str]]) -> None:
        """Print these, given the width and whether in colour; on a terminal below the picture, which stays."""
        self._next = 0.0
        self.show()
        width = self._size.columns if self._terminal else WIDEST
        print("\n".join(["", *lines(width, self._colour), ""]), flush=True)
        self._drawn = 0


def picture(story: Story, now: float) -> Picture:
    """The story at this moment, monotonic seconds."""
    attempts = story.traffic.attempts(now - WIDEST * BUCKET - PATIENCE) if story.traffic else []
    waiting = [since for since in story.traffic.waiting() if since < now - _UNDER_WAY] if story.traffic else []
    hesitant = [a.started for a in attempts if a.took is None or a.took > PROMPT]
    hesitant += [since for since in waiting if since < now - PROMPT]
    arrived = Counter(a.uplink for a in attempts if a.took is not None and a.started + a.took > now - _RECENT)
    states = story.status.get("uplinks", [{}] * len(story.settings.uplinks))
    rows = []
    for number, (uplink, state) in enumerate(zip(story.settings.uplinks, states, strict=True), 1):
        targets = state.get("targets", [])
        rows.append(
            UplinkRow(
                name=uplink.name,
                verdict=state.get("verdict", "-"),
                loss=state.get("loss"),
                rtt=state.get("rtt"),
                gateway="no carrier" if state.get("carrier") is False else state.get("gateway") or "-",
                evidence=targets[0]["evidence"] if targets else "",
                share=arrived[number] / arrived.total() if arrived.total() else None,
                history=history((a.started for a in attempts if a.uplink == number), now),
            )
        )
    lasting = f"  {now - story.now_since:.0f} s" if now - story.now_since >= 1 else ""
    return Picture(
        elapsed=now - story.began,
        title=f"{len(rows)} uplinks, {CONNECTIONS:.0f} new connections/s, {story.rate:.0f} datagrams/s",
        now=story.now + lasting,
        alarm=story.alarm,
        uplinks=tuple(rows),
        trouble=history(hesitant, now),
        marks=marks(story.marks, now),
        health=_health(story, now, len(waiting)),
        events=tuple(story.events[-_EVENTS:]),
    )


def history(moments: Iterable[float], now: float) -> tuple[float, ...]:
    """The whole buckets before now, as ratios of the connections that a bucket has."""
    end = math.floor(now / BUCKET)
    counts = Counter(math.floor(moment / BUCKET) for moment in moments)
    return tuple(counts[bucket] / (CONNECTIONS * BUCKET) for bucket in range(end - WIDEST, end))


def marks(made: Iterable[tuple[float, str]], now: float) -> tuple[str, ...]:
    end = math.floor(now / BUCKET)
    found = {math.floor(at / BUCKET): mark for at, mark in made}
    return tuple(found.get(bucket, " ") for bucket in range(end - WIDEST, end))


def _health(story: Story, now: float, waiting: int) -> Health:
    talks = story.traffic.conversations if story.traffic else ()
    alive = sum(talk.uplink is not None and talk.answered > now - _HESITATES for talk in talks)
    reset, broken = story.breaks()
    return Health(
        answered=story.traffic.answered if story.traffic else 0,
        waiting=waiting,
        failed=story.traffic.failed if story.traffic else 0,
        datagrams=story.datagrams,
        datagrams_lost=story.datagrams_lost,
        stream="" if story.stream_uplink is None else f"by {story.name(story.stream_uplink)}",
        alive=alive,
        stalled=len(talks) - alive,
        reset=story.reset + reset,
        broken=story.broken + broken,
    )
