"""The defaults hold what docs/health.md says of them, on less of the same links than the page is written from."""

from __future__ import annotations

import random

import pytest

from bench.row import percentile
from bench.simulation_link import YEAR, Link, Span
from bench.simulation_loss import alarms_a_year
from bench.simulation_run import run
from bench.simulation_scenarios import JUDGES, play


def test_silent_outages_are_found_in_time() -> None:
    """A silent outage is found within 1.5 s at the median and 2 s at p99, and none is missed."""
    found = play("outages", "mlbd", 150).measures

    assert (found.missed, found.false) == (0, 0)
    assert percentile(found.detection, 50) <= 1.5
    assert percentile(found.detection, 99) <= 2.0


def test_random_loss_gives_no_false_alarm() -> None:
    """One percent of random loss gives less than one false alarm a year."""
    assert alarms_a_year(JUDGES["mlbd"], 0.01, rows=300, seed=1) < 1.0


def test_a_full_link_gives_no_false_alarm() -> None:
    """Round trips that rise from 20 to 800 ms at once, as somebody fills the link, take no traffic away."""
    played = play("full", "mlbd", 7)

    assert played.spans > 100
    assert played.measures.failovers == 0


def test_a_brown_out_causes_few_transitions() -> None:
    """A link that loses half of its packets for an hour goes down at most three times, and comes back as often."""
    played = play("brown-outs", "mlbd", 5 * 7)

    assert len(played.downs_in) >= 4
    assert max(played.downs_in) <= 3


def test_flaps_are_held_longer_each_time() -> None:
    """Outages in groups take traffic away once or twice each, and what is asked grows to five minutes."""
    played = play("groups", "mlbd", 5)

    assert played.measures.failovers < played.spans / 2
    assert [min(played.holds), max(played.holds)] == [0.0, 300.0]


def test_skipping_changes_nothing() -> None:
    """A link on which quiet times are skipped gives the same transitions, but for the phase of the probes."""
    outages = [Span(300.0 + 500.0 * n, 340.0 + 500.0 * n, 1.0) for n in range(3)]

    def directions(skip: bool) -> list[tuple[int, bool]]:
        record = run(JUDGES["mlbd"](), Link(outages, random.Random(1)), 100.0, 2000.0, skip=skip)
        return [(int(at // 500), up) for at, up in record.changes]

    assert directions(skip=False) == directions(skip=True)


def test_the_others_are_as_documented() -> None:
    """A counter takes three seconds and more, and a loss window some fifteen, as their programs were measured."""
    counter, window = (play("outages", name, 30).measures.detection for name in ("counter", "window"))

    assert 3.0 <= min(counter) <= max(counter) <= 4.0
    assert 14.0 <= min(window) <= max(window) <= 16.0


def test_rare_alarms_are_counted_right() -> None:
    """Three probes in a row are lost as often as they should be, at 1 % loss and one probe a second."""
    assert alarms_a_year(JUDGES["counter"], 0.01, rows=2000, seed=1) == pytest.approx(YEAR * 0.01**3, rel=0.1)
