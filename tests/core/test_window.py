"""What becomes of the probes to one target."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbd.core.window import TIMEOUT_MAX, TIMEOUT_MIN, Quality, Window


def window(fates: str, rtts: list[float] | None = None) -> Window:
    """A window with one probe a second from 0; `.` is answered with the next of `rtts`, or 10 ms."""
    made = Window(60.0)
    times = iter(rtts or [])
    for number, fate in enumerate(fates):
        made.sent(number, float(number))
        if fate == ".":
            made.answered(number, next(times, 0.01))
        elif fate in "!x":
            made.settle(number, "lost" if fate == "!" else "unsent")
    return made


@pytest.mark.parametrize(
    ("fates", "rtts", "expected"),
    [
        ("", [], Quality(None, None, None)),
        ("??", [], Quality(None, None, None)),
        ("xx", [], Quality(None, None, None)),
        (".", [0.02], Quality(0.0, 0.02, None, 1)),
        ("!", [], Quality(1.0, None, None, 1)),
        (".!.!", [0.1, 0.3], Quality(0.5, 0.2, 0.2, 4)),
        ("...", [0.1, 0.2, 0.4], Quality(0.0, 0.7 / 3, 0.15, 3)),
        (".xx?", [0.1], Quality(0.0, 0.1, None, 1)),
    ],
)
def test_quality(fates: str, rtts: list[float], expected: Quality) -> None:
    """Loss is of the probes whose fate is known and that left; jitter is the mean step between round trips."""
    got = window(fates, rtts).quality(float(len(fates)))
    assert got.loss == expected.loss
    assert got.rtt == pytest.approx(expected.rtt)
    assert got.jitter == pytest.approx(expected.jitter)


def test_evidence_is_newest_last() -> None:
    """Twenty marks, oldest dropped."""
    assert window("." * 20 + "!x?").evidence() == "." * 17 + "!x?"


def test_late_reply_turns_a_loss_back() -> None:
    """A reply counts whenever it comes, once."""
    late = window(".!")
    assert late.quality(2.0).loss == 0.5
    assert late.answered(1, 1.5) is True
    assert late.answered(1, 1.5) is False
    assert (late.quality(2.0).loss, late.evidence()) == (0.0, "..")


def test_reply_to_a_forgotten_probe_changes_nothing() -> None:
    """A probe that was never sent, or is older than the window, can't be answered."""
    old = Window(5.0)
    old.sent(1, 0.0)
    old.sent(2, 10.0)
    assert (old.answered(1, 0.1), old.answered(7, 0.1), old.evidence(), old.timeout()) == (False, False, "?", 1.0)


def test_fate_is_settled_once() -> None:
    """An answered or lost probe can't be lost again."""
    assert [window(fate).settle(0, "lost") for fate in ".!x?"] == [False, False, False, True]


def test_old_probes_do_not_count_even_if_none_is_sent() -> None:
    """Quality is of the last `seconds`, also when probing has stopped."""
    assert window("!!..").quality(61.5) == Quality(0.0, 0.01, 0.0, 2)
    assert window("!!..").quality(100.0) == Quality(None, None, None)


def test_timeout_before_any_answer_is_the_upper_bound() -> None:
    """Nothing is known, so nothing is assumed."""
    assert window("!!!").timeout() == TIMEOUT_MAX


@pytest.mark.parametrize(
    ("rtts", "expected"),
    [
        ([0.001], TIMEOUT_MIN),
        ([0.1], 0.3),  # srtt 0.1, rttvar 0.05
        ([0.1, 0.1], 0.25),  # rttvar 0.0375
        ([0.1, 0.2], 0.1125 + 4 * 0.0625),
        ([0.5], TIMEOUT_MAX),
    ],
)
def test_timeout_is_that_of_rfc_6298(rtts: list[float], expected: float) -> None:
    """srtt + 4 rttvar, with the RFC's first values and gains, within bounds."""
    assert window("." * len(rtts), rtts).timeout() == pytest.approx(expected)


@given(st.lists(st.floats(0.0, 10.0), max_size=50))
def test_timeout_keeps_its_bounds(rtts: list[float]) -> None:
    """Whatever was measured."""
    assert TIMEOUT_MIN <= window("." * len(rtts), rtts).timeout() <= TIMEOUT_MAX


@given(st.lists(st.floats(0.001, 3.0), min_size=1, max_size=300), st.floats(1.0, 20.0))
def test_memory_is_bounded_by_the_window(pauses: list[float], seconds: float) -> None:
    """After any pauses, exactly the probes of the last `seconds` are remembered."""
    made, now, sent = Window(seconds), 0.0, []
    for number, pause in enumerate(pauses):
        now += pause
        sent.append(now)
        made.sent(number, now)
    kept = [at for at in sent if at >= now - seconds]
    assert len(made.evidence(length=1000)) == len(kept)
    assert [n for n in range(len(sent)) if made.settle(n, "lost")] == [
        n for n, at in enumerate(sent) if at >= now - seconds
    ]
