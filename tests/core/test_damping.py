"""How long an uplink is held back."""

from __future__ import annotations

import pytest

from mlbd.core.damping import RELAX, SETBACK, Damping
from mlbd.core.settings import Probe

PROBE = Probe(hold=10.0, hold_max=300.0)


def after(*failures: float) -> Damping:
    """What failed at these times."""
    made = Damping()
    for at in failures:
        made.failed(at)
    return made


def test_it_relaxes() -> None:
    """Every four hours without a failure take one back, and the first costs `hold` alone."""
    made = after(0.0, 0.0, 0.0, 0.0)
    assert [made.hold(PROBE, n * RELAX) for n in (0, 1, 2, 3, 9)] == [80.0, 40.0, 20.0, 10.0, 10.0]
    made.failed(2 * RELAX)
    assert made.hold(PROBE, 2 * RELAX) == 40.0


def test_without_a_hold() -> None:
    """The first failure costs nothing, the next ones 10 s and more."""
    assert [after(*[0.0] * n).hold(Probe(), 0.0) for n in (0, 1, 2, 3, 20)] == [0.0, 0.0, 10.0, 20.0, 300.0]


def test_hold_max_bounds_all() -> None:
    """Also the first, and 0 s means never."""
    assert after(*[0.0] * 9).hold(Probe(hold_max=0.0), 0.0) == 0.0


def test_twenty_flaps_a_day_are_held_longer_each_time() -> None:
    """Though they are more than an hour apart."""
    made, holds = Damping(), []
    for flap in range(20):
        made.failed(flap * 4320.0)
        holds.append(made.hold(Probe(), flap * 4320.0))
    assert holds == sorted(holds)
    assert holds[:3] == pytest.approx([0.0, 8.1, 13.2], abs=0.1)
    assert holds[-1] == 300.0


def test_a_lost_round_sets_back() -> None:
    """By five seconds, not to the start; enough of them in a row do."""
    made = after(0.0)
    made.good(100.0)
    assert [made.held(PROBE, at) for at in (109.9, 110.0)] == [False, True]
    made.bad(105.0, certain=False)
    assert [made.held(PROBE, at) for at in (110.0, 110.0 + SETBACK)] == [False, True]
    made.bad(106.0, certain=True)
    made.good(120.0)
    assert [made.held(PROBE, at) for at in (129.0, 130.0)] == [False, True]
