"""What links do, how long of it is played, and what is told of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.row import percentile
from bench.simulation_judge import Core, Counter, Judge, LossWindow
from bench.simulation_link import DAY, YEAR, Link, Span, around, between, groups, spans
from bench.simulation_loss import alarms_a_year
from bench.simulation_run import Measures, measure, run
from mlbd.core.settings import Probe

JUDGES: Mapping[str, Callable[[], Judge]] = {
    "mlbd": lambda: Core(Probe()),
    "quick": lambda: Core(Probe(interval=0.1, timeout=0.2, fall=3)),
    "calm": lambda: Core(Probe(interval=2.0, timeout=1.0, suspect_interval=0.5, rise=5, hold=30.0)),
    "counter": lambda: Counter(interval=1.0, timeout=1.0, fall=3, rise=3),
    "window": LossWindow,
}
BEGIN = 200.0
"""Seconds that a judge has to settle."""
HOUR = 3600.0
FULL = 0.8
"""Round trip through a full queue, seconds."""

Generate = Callable[[random.Random, float], list[Span]]


def _spike(rng: random.Random) -> float:
    """From two seconds to two minutes, short ones more often."""
    return float(2.0 ** rng.uniform(1, 7))


LINKS: Mapping[str, Generate] = {
    "outages": lambda rng, end: spans(rng, end, between(20 * HOUR, 28 * HOUR), between(50, 60)),
    "long outages": lambda rng, end: spans(rng, end, between(20 * HOUR, 28 * HOUR), between(HOUR, 2 * HOUR)),
    "bursts": lambda rng, end: spans(rng, end, around(590.0, 10.0), around(0.3), loss=0.9),
    "full": lambda rng, end: spans(rng, end, around(4200.0, 120.0), _spike, loss=0.0, rtt=FULL),
    "full and lossy": lambda rng, end: spans(rng, end, around(4200.0, 120.0), _spike, loss=0.05, rtt=FULL),
    "brown-outs": lambda rng, end: spans(rng, end, between(6 * DAY, 8 * DAY), between(HOUR, HOUR), loss=0.5),
    "flaps": lambda rng, end: spans(rng, end, around(4320.0), between(5, 60)),
    "groups": lambda rng, end: groups(rng, end, around(4 * 4320.0), 5, between(20, 120), between(5, 60)),
}


@dataclass(frozen=True, slots=True)
class Played:
    measures: Measures
    days: float
    spans: int
    holds: list[float]
    downs_in: list[int]
    """Times that it went down, in each of the spans."""

    def a_year(self, count: float) -> float:
        return count * YEAR / DAY / self.days


def play(name: str, judge: str, days: float, seed: int = 1) -> Played:
    """The link is the same for every judge."""
    end = BEGIN + days * DAY
    found = [Span(s.begin + BEGIN, s.end + BEGIN, s.loss, s.rtt) for s in LINKS[name](random.Random(seed), days * DAY)]
    record = run(JUDGES[judge](), Link(found, random.Random(seed + 1)), BEGIN, end)
    downs = [at for at, up in record.changes if not up]
    inside = [sum(s.begin <= at < s.end for at in downs) for s in found] if name == "brown-outs" else []
    return Played(measure(record, found, BEGIN, end), days, len(found), record.holds, inside)


Tell = Callable[[str], list[str]]
"""The figures of a judge."""


@dataclass(frozen=True, slots=True)
class Scenario:
    title: str
    tell: Tell
    figures: tuple[str, ...]
    """What they are."""


def _seconds(samples: list[float], percent: float) -> str:
    return f"{percentile(samples, percent):.2f}" if samples else "-"


def _count(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or value == 0 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _days(judge: str, days: float) -> float:
    """The defaults are played for longer than what is only there to be compared."""
    return days if judge == "mlbd" else days / 6


def _outages(judge: str) -> list[str]:
    played = play("outages", judge, _days(judge, 3 * 365))
    found = played.measures
    return [
        _seconds(found.detection, 50),
        _seconds(found.detection, 99),
        _seconds(found.recovery, 50),
        _count(played.a_year(found.into_dead)),
    ]


def _long(judge: str) -> list[str]:
    found = play("long outages", judge, 20).measures
    return [_seconds(found.recovery, 50), _seconds(found.recovery, 99)]


def _loss(loss: float) -> Tell:
    def tell(judge: str) -> list[str]:
        if judge != "window":
            return [_count(alarms_a_year(JUDGES[judge], loss, 3000, 1))]
        days = 4.0
        spans = [Span(BEGIN, BEGIN + days * DAY, loss)]
        record = run(JUDGES[judge](), Link(spans, random.Random(1)), BEGIN, BEGIN + days * DAY)
        return [f"{sum(not up for _, up in record.changes)} in {days:.0f} days"]

    return tell


def _false(name: str, days: float) -> Tell:
    def tell(judge: str) -> list[str]:
        played = play(name, judge, _days(judge, days))
        return [_count(played.a_year(played.measures.false))]

    return tell


def _brown(judge: str) -> list[str]:
    downs = play("brown-outs", judge, _days(judge, 52 * 7)).downs_in
    # It comes back after each, the last time perhaps after the hour.
    return [_count(2 * percentile(downs, 50)), _count(2 * max(downs))]


def _flaps(name: str) -> Tell:
    def tell(judge: str) -> list[str]:
        played = play(name, judge, _days(judge, 60))
        found = played.measures
        longest = max(played.holds, default=0.0)
        return [
            _count(found.failovers / played.days),
            _count(found.into_dead / played.days),
            f"{100 * found.needless / (played.days * DAY):.1f} %",
            f"{longest:.0f}" if longest else "-",
        ]

    return tell


_DAILY = ("failovers a day", "seconds of traffic into it a day", "time out although it works", "longest hold, s")
SCENARIOS = (
    Scenario(
        "Silent outages of a minute, one a day",
        _outages,
        (
            "found after, median, s",
            "found after, p99, s",
            "used again after, median, s",
            "seconds of traffic into it a year",
        ),
    ),
    Scenario("Silent outages of one to two hours", _long, ("used again after, median, s", "used again after, p99, s")),
    *(
        Scenario(f"{percent} % of packets lost at random", _loss(percent / 100), ("false alarms a year",))
        for percent in (1, 3, 5)
    ),
    Scenario("90 % lost in bursts of 0.3 s, 144 a day", _false("bursts", 60), ("false alarms a year",)),
    Scenario("Full link: 20 to 800 ms at once, 20 times a day", _false("full", 365), ("false alarms a year",)),
    Scenario("The same, and 5 % lost meanwhile", _false("full and lossy", 120), ("false alarms a year",)),
    Scenario("50 % lost for an hour, once a week", _brown, ("transitions each time, median", "transitions, most")),
    Scenario("Outages of 5 to 60 s, 20 a day", _flaps("flaps"), _DAILY),
    Scenario("The same in groups of five", _flaps("groups"), _DAILY),
)
