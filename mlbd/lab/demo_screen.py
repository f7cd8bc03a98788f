"""How the demo looks: a picture of one moment and the summary, as lines of text. Text out only, no terminal in here.

A line is built of spans, a text and its style, so that it can be cut to the width of the terminal before it is painted.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from mlbd.lab.demo_outcome import Outcome

BUCKET = 0.5
"""Seconds of a column of the history."""
NARROWEST, WIDEST = 60, 120

Kind = Literal["fault", "heal", "down", "up", "note"]
Span = tuple[str, str]

_BOLD, _DIM, _RED, _GREEN, _YELLOW, _CYAN = "1", "2", "31", "32", "33", "36"
_ALARM, _CALM = "1;37;41", "1;30;42"
_KIND_STYLES: dict[Kind, str] = {"fault": "1;31", "heal": "1;32", "down": _RED, "up": _GREEN, "note": _DIM}
_EVIDENCE_STYLES = {".": _GREEN, "!": _RED, "x": _RED}
_LEVELS = " ▁▂▃▄▅▆▇█"
_LABEL = 8
"""Least width of the first column."""
_SUMMARY_LABEL = 42


class UplinkRow(Struct, frozen=True, kw_only=True):
    name: str
    verdict: str
    loss: float | None
    """Ratio."""
    rtt: float | None
    """Seconds."""
    gateway: str
    evidence: str
    """Newest last, as in `mlbd status`."""
    share: float | None
    """Of the last new connections, those that arrived by it; None if none arrived at all."""
    history: tuple[float, ...]
    """Per bucket, newest last: its new connections, as a ratio of all that are made in a bucket."""


class Event(Struct, frozen=True):
    at: float
    """Seconds since the demo began."""
    kind: Kind
    text: str


class Health(Struct, frozen=True, kw_only=True):
    """Of the traffic, from its begin on."""

    answered: int
    waiting: int
    failed: int
    datagrams: int
    datagrams_lost: int
    stream: str
    """Where the stream goes: `by fiber`."""
    alive: int
    stalled: int
    reset: int
    broken: int
    """Conversations that ended on healthy uplinks."""


class Picture(Struct, frozen=True, kw_only=True):
    elapsed: float
    title: str
    now: str
    alarm: bool
    """Something is broken now."""
    uplinks: tuple[UplinkRow, ...]
    trouble: tuple[float, ...]
    """Per bucket as in `UplinkRow.history`: connections that were not answered at once."""
    marks: tuple[str, ...]
    """Per bucket: "!" where a fault began, "+" where it ended, else " "."""
    health: Health
    events: tuple[Event, ...]


def render(picture: Picture, width: int, height: int, *, colour: bool) -> list[str]:
    """At most `height` lines of at most `width` characters."""
    width = max(NARROWEST, min(width, WIDEST))
    lines = [*_header(picture, width), [], *_uplinks(picture.uplinks, width), [], *_history(picture, width), []]
    lines += [*_health(picture.health), []]
    room = max(1, height - len(lines))
    lines += [_event(event) for event in picture.events[-room:]]
    lines += [[] for _ in range(min(room, 12) - len(picture.events))]
    return [_paint(line, width, colour) for line in lines[:height]]


def event_line(event: Event) -> str:
    """For output that is no terminal."""
    return "".join(text for text, _ in _event(event))


def clock(seconds: float) -> str:
    """`1:05`."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def duration(seconds: float | None) -> str:
    """`48 ms`, `1.43 s`; `never` for None."""
    if seconds is None:
        return "never"
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else f"{seconds:.2f} s"


def _header(picture: Picture, width: int) -> list[list[Span]]:
    time = clock(picture.elapsed)
    title = picture.title[: width - len(" mlbd demo  ") - len(time) - 2]
    gap = width - len(" mlbd demo  ") - len(title) - len(time) - 1
    now = f" {picture.now} "
    return [
        [(" mlbd demo  ", _BOLD), (title, _DIM), (" " * gap, ""), (time, _BOLD)],
        [(now.ljust(width), _ALARM if picture.alarm else _CALM)],
    ]


def _label_width(uplinks: Sequence[UplinkRow]) -> int:
    return max([_LABEL, *(len(uplink.name) for uplink in uplinks)])


def _uplinks(uplinks: Sequence[UplinkRow], width: int) -> list[list[Span]]:
    label = _label_width(uplinks)
    gateway = max([len("GATEWAY"), *(len(uplink.gateway) for uplink in uplinks)])
    rest = width - len(f" {'':{label}} {'':7} {'':6} {'':7}  {'':{gateway}}      100% ")
    evidence = max(len("PROBES"), min(20, rest // 2))
    bar = max(4, min(40, rest - evidence))
    head = (
        f" {'UPLINK':{label}} {'VERDICT':7} {'LOSS':>6} {'RTT':>7}  {'GATEWAY':{gateway}}  "
        f"{'PROBES':{evidence}}  {'NEW CONNECTIONS, 3 S' if bar > 14 else 'NEW CONNECTIONS'}"
    )
    return [[(head, _DIM)], *(_uplink(uplink, label, gateway, evidence, bar) for uplink in uplinks)]


def _uplink(uplink: UplinkRow, label: int, gateway: int, evidence: int, bar: int) -> list[Span]:
    style = _GREEN if uplink.verdict == "UP" else _RED if uplink.verdict == "DOWN" else _YELLOW
    loss = "-" if uplink.loss is None else f"{uplink.loss * 100:.1f}%"
    rtt = "-" if uplink.rtt is None else f"{uplink.rtt * 1000:.2f}ms"
    share = 0.0 if uplink.share is None else uplink.share
    full = round(share * bar)
    return [
        (f" {uplink.name:{label}} ", _BOLD),
        (f"{uplink.verdict:7}", f"1;{style}"),
        (f" {loss:>6} {rtt:>7}  {uplink.gateway:{gateway}}  ", ""),
        *_evidence(uplink.evidence[-evidence:]),
        (" " * (evidence - len(uplink.evidence[-evidence:])) + "  ", ""),
        ("█" * full, _CYAN),
        ("░" * (bar - full), _DIM),
        (f" {share * 100:3.0f}%", _BOLD),
    ]


def _evidence(evidence: str) -> list[Span]:
    return [("".join(group), _EVIDENCE_STYLES.get(mark, _DIM)) for mark, group in itertools.groupby(evidence)]


def _history(picture: Picture, width: int) -> list[list[Span]]:
    label = _label_width(picture.uplinks)
    columns = width - label - 3
    title = f" which way new connections went, {columns * BUCKET:.0f} s"
    lines: list[list[Span]] = [[(title, _DIM)]]
    for uplink in picture.uplinks:
        lines.append([(f" {uplink.name:{label}} ", ""), (_strip(uplink.history, columns), _CYAN)])
    lines.append([(f" {'waited':{label}} ", ""), (_strip(picture.trouble, columns), _RED)])
    lines.append([(" " * (label + 2), ""), *_marks("".join(picture.marks[-columns:]).rjust(columns))])
    return lines


def _strip(values: Sequence[float], columns: int) -> str:
    top = len(_LEVELS) - 1
    return "".join(_LEVELS[min(top, -int(-value * top // 1))] for value in values[-columns:]).rjust(columns)


def _marks(marks: str) -> list[Span]:
    shown = {"!": ("▲", "1;31"), "+": ("▲", "1;32")}
    return [shown.get(mark, (mark, "")) for mark in marks]


def _health(health: Health) -> list[list[Span]]:
    return [
        [
            (" connections    ", ""), _count(health.answered, "answered", _GREEN), ("   ", ""),
            _count(health.waiting, "waiting", _YELLOW), ("   ", ""), _count(health.failed, "failed", _RED),
        ],
        [
            (" datagrams      ", ""), _count(health.datagrams, "sent", _GREEN), ("   ", ""),
            _count(health.datagrams_lost, "lost", _YELLOW), (f"   now {health.stream}" if health.stream else "", ""),
        ],
        [
            (" conversations  ", ""), _count(health.alive, "alive", _GREEN), ("   ", ""),
            _count(health.stalled, "waiting", _YELLOW), ("   ", ""),
            _count(health.reset, "reset and moved", _YELLOW), ("   ", ""),
            _count(health.broken, "broken elsewhere", _RED),
        ],
    ]  # fmt: skip


def _count(number: int, word: str, style: str) -> Span:
    return f"{_digits(number)} {word}", style if number else _DIM


def _digits(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def _event(event: Event) -> list[Span]:
    return [(f" {event.at:6.2f} s  ", _DIM), (event.text, _KIND_STYLES[event.kind])]


def summary(outcomes: Sequence[Outcome], answered: int, failed: int, width: int, *, colour: bool) -> list[str]:
    """What happened, a column for each fault, and whether traffic survived."""
    width = max(NARROWEST, min(width, WIDEST))
    column = max([14, *(len(outcome.title) for outcome in outcomes)]) + 2
    shown = outcomes[-max(1, (width - _SUMMARY_LABEL) // column) :]
    broken = [f"{o.broken} of {o.healthy}" for o in shown]
    losses = [f"{_digits(o.datagrams_lost)} of {_digits(o.datagrams)}" for o in shown]
    lines: list[list[Span]] = [
        [(f" {'':{_SUMMARY_LABEL - 1}}" + "".join(f"{o.title:>{column}}" for o in shown), _BOLD)],
        _cells("the daemon noticed after", [duration(o.noticed) for o in shown], column),
        _cells("new connections were fine again after", [duration(o.recovered) for o in shown], column),
        _cells(
            "datagrams of the stream on it lost", losses, column
        ),
        _cells("conversations on it reset, and moved", [str(o.reset) for o in shown], column),
        _cells("healed, it carried traffic again after", [duration(o.back) for o in shown], column),
        _cells("conversations broken on healthy uplinks", broken, column, must=True),
        _cells("wrong-source packets seen by providers", [str(o.wrong_source) for o in shown], column, must=True),
        [],
    ]  # fmt: skip
    complaints = [complaint for outcome in outcomes for complaint in outcome.complaints()]
    counted = f"{_digits(answered)} of {_digits(answered + failed)} new connections were answered"
    if complaints:
        lines.append([(" Traffic did not survive: ", "1;31"), (f"{counted}.", "")])
        lines += [[(f"   {complaint}", _RED)] for complaint in complaints]
    else:
        lines.append([(" Traffic survived: ", "1;32"), (f"{counted}.", "")])
    return [_paint(line, width, colour) for line in lines]


def _cells(label: str, values: Sequence[str], column: int, *, must: bool = False) -> list[Span]:
    """`must`: these have to be 0, whatever they are of."""
    cells = []
    for value in values:
        style = _BOLD if not must else _GREEN if value.split()[0] == "0" else "1;31"
        cells.append((f"{value:>{column}}", style))
    return [(f" {label:{_SUMMARY_LABEL - 1}}", ""), *cells]


def _paint(spans: Sequence[Span], width: int, colour: bool) -> str:
    """Cut to the width, with an ellipsis where something is missing."""
    painted, left = [], width
    missing = sum(len(text) for text, _ in spans) > width
    for text, style in spans:
        if missing and len(text) >= left:
            text = text[: max(0, left - 1)] + "…"
        painted.append(f"\033[{style}m{text}\033[0m" if colour and style and text else text)
        left -= len(text)
        if left <= 0:
            break
    line = "".join(painted)
    return line if colour else line.rstrip()
