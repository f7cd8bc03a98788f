"""Runs a judge on a link in virtual time, and measures what came of it.

Stretches in which every probe would be answered are not played but skipped, once the judge has forgotten what was
before: its clock jumps to shortly before the next thing that happens, at a random phase of its interval. What it holds
for long (hold times) depends on the clock alone, so this changes no verdict.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from bench.simulation_judge import Judge
from bench.simulation_link import Link, Span

_LEAD_IN = 3.0


@dataclass(slots=True)
class Record:
    """When a judge came up and went down, the hold that it asked for each time, and how many probes it took."""

    changes: list[tuple[float, bool]] = field(default_factory=list)
    holds: list[float] = field(default_factory=list)
    probes: int = 0


def run(judge: Judge, link: Link, begin: float, end: float, *, skip: bool = True) -> Record:
    """The judge settles before `begin`, on the link as it is without spans; spans begin after that."""
    record = Record()
    replies: list[tuple[float, int, float]] = []
    now = 0.0
    up = judge.up
    while now < end:
        deadline = judge.deadline()
        if skip and judge.up and not replies:
            resume = link.next_begin() - _LEAD_IN - link.rng.random() * judge.interval - _extra(judge)
            if resume > deadline and deadline > max(link.last_end(), begin) + judge.memory:
                deadline = min(resume, end)
        now = min(deadline, replies[0][0]) if replies else deadline
        while replies and replies[0][0] <= now:
            _, number, rtt = heapq.heappop(replies)
            judge.hear(number, rtt, now)
            up = _noted(record, judge, now, up)
        for number in judge.wake(now):
            record.probes += 1
            answer = link.answer(now)
            if answer is not None:
                heapq.heappush(replies, (now + answer, number, answer))
        up = _noted(record, judge, now, up)
    return record


def _extra(judge: Judge) -> float:
    """A judge whose windows the skipped probes would have filled needs that time again."""
    return judge.memory if judge.fills else 0.0


def _noted(record: Record, judge: Judge, now: float, before: bool) -> bool:
    if judge.up != before:
        record.changes.append((now, judge.up))
        if not judge.up:
            record.holds.append(judge.hold(now))
    return judge.up


@dataclass(frozen=True, slots=True)
class Measures:
    detection: list[float]
    """Seconds until a silent outage was found, of those that were."""
    recovery: list[float]
    """Seconds after an outage until it carried traffic again."""
    missed: int
    """Outages that passed unnoticed."""
    failovers: int
    false: int
    """Failovers while the link was not dead."""
    into_dead: float
    """Seconds in which traffic went into the dead link."""
    needless: float
    """Seconds in which a link without fault carried none."""


def measure(record: Record, spans: list[Span], begin: float, end: float) -> Measures:
    """Of the time between; spans that are not dead and lose nothing, or not much, are times without fault."""
    downs = _downs(record, begin, end)
    dead = [span for span in spans if span.dead and begin <= span.begin < end]
    detection, recovery = [], []
    missed, into_dead, true = 0, 0.0, 0
    position = 0
    for span in dead:
        while position < len(downs) and downs[position][1] <= span.begin:
            position += 1
        if position < len(downs) and downs[position][0] < span.end:
            down, up = downs[position]
            into_dead += max(0.0, down - span.begin)
            if down >= span.begin:
                detection.append(down - span.begin)
                true += 1
            if up < end:
                recovery.append(up - span.end)
        else:
            missed += 1
            into_dead += min(end, span.end) - span.begin
    out = sum(min(up, end) - down for down, up in downs)
    failovers = len(downs)
    bad = [span for span in spans if span.loss >= _FAULTY]
    needless = out - _overlap(downs, bad)
    return Measures(detection, recovery, missed, failovers, failovers - true, into_dead, needless)


_FAULTY = 0.2


def _downs(record: Record, begin: float, end: float) -> list[tuple[float, float]]:
    """Times without traffic, from and to."""
    found = []
    since: float | None = None
    for at, up in record.changes:
        if not up:
            since = at
        elif since is not None:
            found.append((since, at))
            since = None
    if since is not None:
        found.append((since, end))
    return [(down, up) for down, up in found if begin <= down < end]


def _overlap(some: list[tuple[float, float]], spans: list[Span]) -> float:
    total, first = 0.0, 0
    for down, up in some:
        while first < len(spans) and spans[first].end <= down:
            first += 1
        for span in spans[first:]:
            if span.begin >= up:
                break
            total += min(up, span.end) - max(down, span.begin)
    return total
