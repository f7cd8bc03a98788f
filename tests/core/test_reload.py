"""New settings while running, and the codes that an earlier run left in the kernel."""

from __future__ import annotations

from msgspec.structs import replace

from mlbd.core.layout import Identities
from mlbd.core.settings import Probe
from tests.core.world import FAR, GATEWAY, A, B, C, World, facts, kill, settings, three, uplink


def test_reload_keeps_what_stays() -> None:
    """Name, id, verdict and windows outlive a reload, in any order of the file."""
    world = three()
    kill(world, "b")
    before = {name: world.status(name) for name in "abc"}
    world.interfaces["d0"] = facts("d", 4)
    assert world.load(settings(C, uplink("d"), B, A)) == []
    after = {name: world.status(name) for name in "abc"}
    assert after == before
    assert world.router.identities.uplinks == {"a": 1, "b": 2, "c": 3, "d": 4}


def test_reload_keeps_the_windows_of_targets_that_stay() -> None:
    """A new target begins empty, the others keep what they know."""
    world = three()
    probe = Probe(targets=(FAR, GATEWAY), window=30.0)
    old = world.status("a").targets[0]
    assert world.load(settings(replace(A, probe=probe), B, C)) == []
    far, gateway = world.status("a").targets
    assert (far.target, far.evidence, gateway.evidence) == ("192.0.2.1", "", old.evidence)
    assert world.wait(60.0) == []
    assert world.status("a").targets[0].loss == 0.0


def test_vanished_uplink_is_dropped_and_cut() -> None:
    """Its connections can't be restored any more, so they go where the others go."""
    world = three()
    world.load(settings(A, C))
    assert (world.usable(), dict(world.router.identities.uplinks)) == ({"a", "c"}, {"a": 1, "c": 3})
    assert world.router.to_cut() == {2}
    assert (world.router.cut(2), world.router.to_cut()) == ("", frozenset())


def test_vanished_code_is_not_given_to_another_at_once() -> None:
    """Connections still carry it."""
    world = three()
    world.load(settings(A, C, uplink("d")))
    assert world.router.identities.uplinks == {"a": 1, "c": 3, "d": 4}


def test_uplinks_that_exchange_ids_are_cut() -> None:
    """A connection marked with an uplink's old id must not be led out by the uplink that has it now."""
    world = World(settings(uplink("a", number=1), uplink("b", number=2)))
    world.wait(5.0)
    world.load(settings(uplink("a", number=2), uplink("b", number=1)))
    assert world.router.to_cut() == {1, 2}


def test_other_interface_is_proven_anew() -> None:
    """What was known is known of another wire."""
    world = three()
    moved = replace(A, interface="x0")
    world.interfaces["x0"] = replace(facts("a", 1), name="x0", index=9)
    assert [t.event for t in world.load(settings(moved, B, C))] == ["uplink_down"]
    assert [t.event for t in world.wait(5.0)] == ["uplink_up"]
    assert {o.interface for _, o in world.orders[-3:]} <= {"x0", "b0", "c0"}


def test_reload_acts_on_new_thresholds() -> None:
    """The next failure is judged by the new file."""
    world = three()
    world.load(settings(replace(A, probe=Probe(fall=1, timeout=0.5)), B, C))
    world.wait(1.0)
    world.answers["a"] = None
    (transition,) = world.wait(2.0)
    assert (transition.was, transition.now) == ("UP", "DOWN")


def test_adopted_codes_of_vanished_uplinks_are_cut_after_start() -> None:
    """What an earlier run left behind, once there is somewhere to go."""
    world = World(settings(A), adopted=Identities({"a": 4, "old": 9}, {}))
    assert world.router.to_cut() == frozenset()
    world.wait(5.0)
    assert world.router.identities.uplinks == {"a": 4}
    assert world.router.to_cut() == {9}
