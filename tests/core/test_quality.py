"""Degraded uplinks: when they are, what becomes of them, and how it ends."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from mlbd.core.decision import Pick
from mlbd.core.probing import Order
from mlbd.core.settings import Degrade, Probe
from tests.core.world import FAR, FAR2, GATEWAY, World, one, policy, proven, settings, uplink

QUIET = Probe(degrade=Degrade())


def losing(ratio: float, seed: int = 1) -> Callable[[Order], float | None]:
    """Answers that are lost at random."""
    draw = random.Random(seed)
    return lambda order: None if draw.random() < ratio else 0.01


def except_for(rounds: range) -> Callable[[Order], float | None]:
    return lambda order: None if order.round in rounds else 0.01


def by_turns(order: Order) -> float:
    return 0.02 + 0.2 * (order.round % 2)


def events(world: World) -> list[str]:
    return [t.event for t in world.transitions]


def test_loss_degrades_and_does_not_end_at_once() -> None:
    """Over 20 % it is degraded; it stays so at 10 %, and ends under 5 %. It is usable all the time."""
    world = proven(Probe(fall=20))
    world.wait(60.0)
    world.answers["a"] = lambda order: None if order.round % 3 == 0 else 0.01
    world.wait(60.0)
    (degraded,) = world.transitions[1:]
    assert (degraded.event, degraded.was, degraded.now) == ("uplink_degraded", "UP", "UP")
    assert degraded.reason.startswith("loss 2")
    assert (world.status("a").degraded, world.usable()) == (True, {"a"})
    world.answers["a"] = lambda order: None if order.round % 10 == 0 else 0.01
    world.wait(180.0)
    assert (events(world), world.status("a").degraded) == (["uplink_up", "uplink_degraded"], True)
    world.answers["a"] = 0.01
    world.wait(61.0)
    assert events(world) == ["uplink_up", "uplink_degraded", "uplink_restored"]
    assert (world.status("a").degraded, "loss" in world.status("a").reason) == (False, False)


def test_a_single_loss_degrades_nothing() -> None:
    """Nor do three in a row, a minute after the start or later."""
    world = proven()
    for lost in (1, 3):
        world.wait(40.0)
        gone = range(len(world.sent("a")) + 1, len(world.sent("a")) + 1 + lost)
        world.answers["a"] = except_for(gone)
        assert world.wait(60.0) == []


@pytest.mark.parametrize(
    ("degrade", "answer", "reason"),
    [
        (Degrade(rtt=(0.5, 0.3)), 0.7, "round trip 700 ms is over 500 ms"),
        (Degrade(jitter=(0.1, 0.05)), by_turns, "jitter 200 ms is over 100 ms"),
    ],
)
def test_latency_and_jitter(degrade: Degrade, answer: float | Callable[[Order], float], reason: str) -> None:
    """Each threshold by itself, over the window."""
    world = one(Probe(timeout=1.0, degrade=degrade))
    world.answers["a"] = answer
    world.wait(60.0)
    (_, degraded) = world.transitions
    assert (degraded.event, degraded.reason) == ("uplink_degraded", reason)
    assert world.status("a").reason == reason.replace("500", "300").replace("100 ms", "50 ms")  # where it ends


def test_a_bad_target_alone_degrades_nothing() -> None:
    """As many targets as the quorum asks for must be bad, or better: fewer than it must be left."""
    world = one(Probe(targets=(GATEWAY, FAR, FAR2), quorum=2))
    world.answers["a", 1] = losing(0.5)
    assert [t.event for t in world.wait(120.0)] == ["uplink_up"]
    world.answers["a", 2] = losing(0.3, 2)
    assert "uplink_degraded" in [t.event for t in world.wait(120.0)]


def test_an_outage_is_not_held_against_it() -> None:
    """What was lost before it was up again does not count as its quality."""
    world = proven()
    world.wait(60.0)
    world.answers["a"] = None
    world.wait(30.0)
    world.answers["a"] = 0.01
    world.wait(120.0)
    assert events(world) == ["uplink_up", "uplink_down", "uplink_up"]


def test_degraded_is_used_only_where_nothing_better_is() -> None:
    """Not in its tier, nor before a later tier; but before the last resort."""
    probe = Probe(fall=50)
    names = [uplink(name, probe=probe) for name in "abc"]
    world = World(settings(*names, policies=[policy("a b", "c")]))
    world.wait(60.0)

    def pick() -> Pick:
        return world.decide().picks["balanced", 4]

    assert (pick().tier, set(pick().chosen)) == (0, {"a", "b"})
    world.answers["a"] = losing(0.5)
    world.wait(40.0)
    assert (pick().tier, set(pick().chosen)) == (0, {"b"})
    world.answers["b"] = losing(0.5, 2)
    world.wait(40.0)
    assert (pick().tier, set(pick().chosen)) == (1, {"c"})
    world.carrier("c", False)
    assert (pick().tier, set(pick().chosen)) == (0, {"a", "b"})


def test_a_reload_judges_by_new_thresholds() -> None:
    """At once, by the window that is there."""
    world = one(replace(QUIET, fall=50))
    world.answers["a"] = losing(0.4)
    world.wait(100.0)
    assert events(world) == ["uplink_up"]
    (degraded,) = world.load(settings(uplink("a", probe=Probe(fall=50))))
    assert degraded.event == "uplink_degraded"


def test_a_full_uplink_ends_degraded() -> None:
    """A queue of 800 ms that fills up all of a sudden, with one packet of four lost: degraded, never down."""
    draw = random.Random(5)

    def full(_: Order) -> float | None:
        return None if draw.random() < 0.25 else draw.uniform(0.5, 0.85)

    world = proven()
    world.wait(60.0)
    world.answers["a"] = full
    world.wait(600.0)
    assert [e for e in events(world) if e != "uplink_restored"] == ["uplink_up", "uplink_degraded"]
