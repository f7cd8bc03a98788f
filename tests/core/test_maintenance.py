"""Drains, drills, and doubts, as the core keeps them."""

from __future__ import annotations

from math import inf

from mlbd.core.decision import Pick
from mlbd.core.settings import Probe
from mlbd.core.status import Transition
from tests.core.world import World, heal, kill, proven, settings, three, uplink


def pick(world: World) -> Pick:
    return world.decide().picks["balanced", 4]


def drain(world: World, name: str, seconds: float = inf) -> list[Transition]:
    return world.router.drain(name, world.now + seconds, "drained", world.now)


def test_a_drained_uplink_gets_no_new_connections() -> None:
    """It is not usable, nobody's connections are cut, and its own verdict goes on."""
    world = three()
    (drained,) = drain(world, "a")
    assert (drained.event, drained.usable, drained.reason) == ("uplink_drained", ("b", "c"), "drained")
    assert (world.usable(), world.verdicts()["a"], world.status("a").drained) == ({"b", "c"}, "UP", True)
    assert pick(world).chosen == {"b", "c"}
    world.wait(5.0)
    assert (world.router.to_cut(), world.decide().dead) == (frozenset(), frozenset())
    (resumed,) = world.router.resume("a", "resumed", world.now)
    assert (resumed.event, resumed.usable) == ("uplink_resumed", ("a", "b", "c"))
    assert world.router.resume("a", "again", world.now) == []


def test_a_drain_ends_by_itself() -> None:
    """When its time is over, to the second."""
    world = three()
    drain(world, "a", 60.0)
    world.wait(59.9)
    assert world.usable() == {"b", "c"}
    (resumed,) = world.wait(0.2)
    assert (resumed.event, resumed.reason) == ("uplink_resumed", "the time for which it was drained is over")
    assert world.usable() == {"a", "b", "c"}


def test_a_drained_uplink_that_dies_is_cut() -> None:
    """Its connections were left to finish, which they can't any more."""
    world = three()
    drain(world, "a")
    kill(world, "a")
    assert [t.event for t in world.transitions][-1] == "uplink_down"
    assert world.router.to_cut() == {1}
    assert world.decide().dead == {("a", 4)}
    heal(world, "a")
    assert ([t.event for t in world.transitions][-1], world.usable()) == ("uplink_up", {"b", "c"})


def test_a_drained_uplink_is_better_than_none() -> None:
    """If all others are dead, the last resort takes the one that works."""
    world = three()
    drain(world, "a")
    kill(world, "b", "c")
    assert (pick(world).last_resort, set(pick(world).chosen)) == ("best", {"a"})
    heal(world, "c")
    assert (pick(world).last_resort, set(pick(world).chosen)) == (None, {"c"})


def test_a_drain_survives_a_reload() -> None:
    """With what is left of its time."""
    world = three()
    drain(world, "a", 60.0)
    world.wait(10.0)
    world.load(settings(uplink("a", weight=5), uplink("b"), uplink("c")))
    assert world.status("a").drained
    world.wait(49.0)
    assert world.status("a").drained
    world.wait(2.0)
    assert not world.status("a").drained


def test_a_drill_is_like_silence() -> None:
    """Found like it, and over when replies count again."""
    world = three()
    world.router.drill("a", world.now + 10.0)
    (down,) = world.wait(9.9)
    assert (down.event, down.uplink) == ("uplink_down", "a")
    assert down.at - (world.now - 9.9) < 2.1
    (up,) = world.wait(5.0)
    assert (up.event, world.usable()) == ("uplink_up", {"a", "b", "c"})


def test_doubt_is_no_evidence() -> None:
    """While the router itself is at fault, verdicts stay, and the reason is said."""
    world = proven()
    world.router.doubt("the table is full")
    world.answers["a"] = None
    assert world.wait(30.0) == []
    assert (world.verdicts()["a"], world.status("a").reason) == ("UP", "the table is full; the verdict stays as it was")
    world.router.doubt("")
    assert [t.event for t in world.wait(5.0)][-1] == "uplink_down"


def test_suspects_are_those_that_could_be_answered() -> None:
    """Not those without carrier."""
    world = World(settings(uplink("a", probe=Probe(fall=100)), uplink("b"), uplink("c")))
    world.wait(5.0)
    assert world.router.suspects() == []
    world.answers |= {"a": None, "b": None}
    world.carrier("c", False)
    world.wait(5.0)
    assert world.router.suspects() == ["a0", "b0"]
