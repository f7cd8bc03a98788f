"""The table of verdicts, alone and in any order of signals."""

from __future__ import annotations

from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from mlbd.core.machine import CARRIES, TABLE, Signal, Verdict

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
SIGNALS: tuple[Signal, ...] = get_args(Signal)


def test_table_is_total() -> None:
    """Every verdict has an answer to every signal, and the answer is a verdict."""
    assert {(v, s) for v in TABLE for s in TABLE[v]} == {(v, s) for v in VERDICTS for s in SIGNALS}
    assert {verdict for row in TABLE.values() for verdict in row.values()} == set(VERDICTS)


def test_only_up_and_falling_carry_traffic() -> None:
    """RISING does not carry traffic yet, FALLING still does."""
    assert set(CARRIES) == {"UP", "FALLING"}


def test_single_bad_round_takes_no_traffic_away() -> None:
    """A bad round that does not complete `fall` of them leaves traffic where it is."""
    assert {TABLE[verdict]["bad"] for verdict in CARRIES} <= CARRIES


def test_lost_always_takes_traffic_away() -> None:
    """A fact needs no hysteresis: whatever the verdict was, it is DOWN."""
    assert {TABLE[verdict]["lost"] for verdict in VERDICTS} == {"DOWN"}


def test_failed_always_takes_traffic_away() -> None:
    """The round that completes `fall` bad ones ends in DOWN from everywhere."""
    assert {TABLE[verdict]["failed"] for verdict in VERDICTS} == {"DOWN"}


def test_only_good_rounds_lead_out_of_down() -> None:
    """Neither time nor facts give traffic back: DOWN is left by `good` and `proven` only."""
    assert {signal for signal in SIGNALS if TABLE["DOWN"][signal] != "DOWN"} == {"good", "proven"}


def test_traffic_is_given_by_proof_only() -> None:
    """No verdict that carries nothing becomes one that does, except by `proven`."""
    gives = {s for v in VERDICTS for s in SIGNALS if v not in CARRIES and TABLE[v][s] in CARRIES}
    assert gives == {"proven"}


def test_no_verdict_falls_back_to_unknown_once_known() -> None:
    """UNKNOWN is where an uplink begins, and nowhere it returns to once it carried or failed."""
    assert {v for v in ("UP", "FALLING", "DOWN") for s in SIGNALS if TABLE[v][s] == "UNKNOWN"} == set()


@given(st.lists(st.sampled_from(SIGNALS), max_size=30))
def test_traffic_follows_the_last_decisive_signal(signals: list[Signal]) -> None:
    """Whether traffic is carried depends on the last `proven`, `failed` or `lost` alone, whatever stands between."""
    verdict: Verdict = "UNKNOWN"
    for signal in signals:
        verdict = TABLE[verdict][signal]
    decisive = [s for s in signals if s in ("proven", "failed", "lost")]
    assert (verdict in CARRIES) == (decisive[-1:] == ["proven"])
