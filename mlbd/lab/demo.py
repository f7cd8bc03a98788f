"""`mlbd demo`: a small network in namespaces, the daemon on it, faults, and what they do to traffic, live.

demo          the command: into the sandbox, and the loop that tells the story, draws it and listens for Ctrl-C
demo_story    what happens
demo_traffic  what the LAN sends
demo_outcome  what became of it
demo_screen   how all this looks

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
from collections.abc import Iterable, Iterator
from pathlib import Path

from mlbd import config
from mlbd.lab import demo_screen, sandbox
from mlbd.lab.demo_outcome import PROMPT
from mlbd.lab.demo_screen import BUCKET, WIDEST, Health, Picture, UplinkRow
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
            return _show(options)
        return sandbox.run([sys.executable, "-m", "mlbd", *_arguments(options)])
    except (sandbox.SandboxError, LabError) as error:
        print(f"mlbd: {_short(str(error))}", file=sys.stderr)
        return 1
    finally:
        if sys.stdout.isatty():
            print(_SHOW_CURSOR, end="", flush=True)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # not every locale has block characters
    faults: list[Fault] = [options.fault] if options.fault else ["silent", "carrier"]
    view = _View()
    with Story(settings, text) as story:
        try:
            _play(story, view, story.start())
            for fault in faults:
                _play(story, view, story.break_one(fault))
            view.sum_up(story)
            while not options.once:
                _play(story, view, story.start_stream())
                _play(story, view, story.wait(_BETWEEN))
                _play(story, view, story.break_one(options.fault or random.choice(_ALL)))  # noqa: S311 (no secret)
        except KeyboardInterrupt:
            view.sum_up(story)
            if options.once or len(story.outcomes) < len(faults):
                return 130
        return 1 if any(outcome.complaints() for outcome in story.outcomes) else 0


def _play(story: Story, view: _View, steps: Iterator[None]) -> None:
    """Raises KeyboardInterrupt between two steps."""
    for _ in steps:
        if signal.sigtimedwait({signal.SIGINT}, _TICK) is not None:
            raise KeyboardInterrupt
        view.show(story)
    view.show(story)


class _View:
    """Stdout, be it a terminal or not."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._colour = self._terminal and "NO_COLOR" not in os.environ
        self._next = 0.0
        self._told = 0
        self._drawn = 0
        self._summed_up = 0
        self._size = shutil.get_terminal_size()

    def show(self, story: Story) -> None:
        """What is new, if it is time for it."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _FRAME
        story.look()
        if self._terminal:
            self._draw(picture(story, now))
        else:
            for event in story.events[self._told :]:
                print(demo_screen.event_line(event), flush=True)
            self._told = len(story.events)

    def _draw(self, shown: Picture) -> None:
        size = shutil.get_terminal_size()
        lines = demo_screen.render(shown, size.columns, size.lines - 1, colour=self._colour)
        start = f"\033[{self._drawn}F" if self._drawn else ""
        if size != self._size:
            start, self._size = "\033[2J\033[H", size
        print(_HIDE_CURSOR + start + "".join(f"{line}\033[K\n" for line in lines) + "\033[J", end="", flush=True)
        self._drawn = len(lines)

    def sum_up(self, story: Story) -> None:
        """The summary, if there is anything new in it; on a terminal below the picture, which stays."""
        if len(story.outcomes) == self._summed_up:
            return
        self._summed_up = len(story.outcomes)
        self._next = 0.0
        self.show(story)
        width = self._size.columns if self._terminal else WIDEST
        answered, failed = (story.traffic.answered, story.traffic.failed) if story.traffic else (0, 0)
        lines = demo_screen.summary(story.outcomes, answered, failed, width, colour=self._colour)
        print("\n".join(["", *lines, ""]), flush=True)
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
                history=_history((a.started for a in attempts if a.uplink == number), now),
            )
        )
    lasting = f"  {now - story.now_since:.0f} s" if now - story.now_since >= 1 else ""
    return Picture(
        elapsed=now - story.began,
        title=f"{len(rows)} uplinks, {CONNECTIONS:.0f} new connections/s, {story.rate:.0f} datagrams/s",
        now=story.now + lasting,
        alarm=story.alarm,
        uplinks=tuple(rows),
        trouble=_history(hesitant, now),
        marks=_marks(story, now),
        health=_health(story, now, len(waiting)),
        events=tuple(story.events[-_EVENTS:]),
    )


def _history(moments: Iterable[float], now: float) -> tuple[float, ...]:
    """The whole buckets before now, as ratios of the connections that a bucket has."""
    end = math.floor(now / BUCKET)
    counts = Counter(math.floor(moment / BUCKET) for moment in moments)
    return tuple(counts[bucket] / (CONNECTIONS * BUCKET) for bucket in range(end - WIDEST, end))


def _marks(story: Story, now: float) -> tuple[str, ...]:
    end = math.floor(now / BUCKET)
    marks = {math.floor(at / BUCKET): mark for at, mark in story.marks}
    return tuple(marks.get(bucket, " ") for bucket in range(end - WIDEST, end))


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
