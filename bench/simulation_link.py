"""Generated behaviour of a link: what becomes of a probe that is sent at a given time. Seeded, so that it repeats.

At all times that no `Span` covers, every probe is answered after `RTT` and a little jitter.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf

RTT = 0.02
"""Seconds: of a fibre or cable line that is not busy."""
JITTER = 0.002
"""Mean of what is added to a round trip, exponentially distributed. Seconds."""
QUEUE = 0.1
"""By what part of it the round trip through a full queue varies: its buffer bounds it."""
DAY = 86400.0
YEAR = 365 * DAY


@dataclass(frozen=True, slots=True)
class Span:
    """A time with another behaviour; seconds."""

    begin: float
    end: float
    loss: float
    """Ratio, of each probe for itself; 1.0: a silent outage."""
    rtt: float = RTT

    @property
    def dead(self) -> bool:
        return self.loss >= 1.0


class Link:
    """Asked in the order of time."""

    def __init__(self, spans: list[Span], rng: random.Random) -> None:
        self.spans = spans
        self.rng = rng
        self._next = 0

    def answer(self, now: float) -> float | None:
        """Round trip of a probe that is sent now; None: there will be none."""
        span = self.at(now)
        if span is not None and (span.dead or self.rng.random() < span.loss):
            return None
        if span is not None and span.rtt > RTT:
            return span.rtt * self.rng.uniform(1 - QUEUE, 1 + QUEUE)
        return RTT + self.rng.expovariate(1 / JITTER)

    def at(self, now: float) -> Span | None:
        while self._next < len(self.spans) and self.spans[self._next].end <= now:
            self._next += 1
        span = self.spans[self._next] if self._next < len(self.spans) else None
        return span if span is not None and span.begin <= now else None

    def last_end(self) -> float:
        """When the last span before the time asked last ended."""
        return self.spans[self._next - 1].end if self._next else -inf

    def next_begin(self) -> float:
        """Of the span that is next, or is now."""
        return self.spans[self._next].begin if self._next < len(self.spans) else inf


Draw = Callable[[random.Random], float]
"""Seconds."""


def between(low: float, high: float) -> Draw:
    return lambda rng: rng.uniform(low, high)


def around(mean: float, least: float = 0.0) -> Draw:
    """Exponentially distributed, over a least."""
    return lambda rng: least + rng.expovariate(1 / mean)


def spans(
    rng: random.Random, end: float, gap: Draw, length: Draw, *, loss: float = 1.0, rtt: float = RTT
) -> list[Span]:
    """Spans of one kind, one after the other until `end`."""
    return list(_spans(rng, end, gap, length, loss, rtt))


def _spans(rng: random.Random, end: float, gap: Draw, length: Draw, loss: float, rtt: float) -> Iterator[Span]:
    begin = gap(rng)
    while begin < end:
        until = begin + length(rng)
        yield Span(begin, until, loss, rtt)
        begin = until + gap(rng)


def groups(rng: random.Random, end: float, gap: Draw, count: int, pause: Draw, length: Draw) -> list[Span]:
    """Outages that come in groups of `count`."""
    found = []
    at = gap(rng)
    while at < end:
        for _ in range(count):
            until = at + length(rng)
            found.append(Span(at, until, 1.0))
            at = until + pause(rng)
        at += gap(rng)
    return found
