"""Whether uplinks and policies carry traffic, as keepalived is told."""

from __future__ import annotations

from msgspec.structs import replace

from mlbd.core.carrying import carrying
from mlbd.core.settings import Probe
from tests.core.world import GATEWAY, World, policy, settings, uplink

PROBE = Probe(targets=(GATEWAY,))
TWO = settings(uplink("a", probe=PROBE), uplink("b", probe=PROBE), policies=(policy("a b"), policy("b", name="second")))
PEER = settings(
    uplink("a"),
    replace(uplink("b"), peer=True),
    policies=(policy("a", "b"), policy("b", name="other")),
)


def test_of_policies() -> None:
    """A policy carries traffic while one of its members does, does not when none does, and before it is settled, or
    while what would decide has no verdict, that is not known.
    """
    found = {
        (a, b): carrying(TWO, {"a": a, "b": b}, True)["balanced"]
        for a in (True, False, None)
        for b in (True, False, None)
    }
    expected: dict[tuple[bool | None, bool | None], bool | None] = {
        (True, True): True, (True, False): True, (True, None): True,
        (False, True): True, (False, False): False, (False, None): None,
        (None, True): True, (None, False): None, (None, None): None,
    }  # fmt: skip
    assert found == expected
    assert carrying(TWO, {"a": True, "b": True}, False) == {"a": True, "b": True, "balanced": None, "second": None}


def test_peers() -> None:
    """The line of another router is none of this one's, whatever is known of it."""
    for b in (True, False, None):
        assert carrying(PEER, {"a": False, "b": b}, True) == {"a": False, "b": b, "balanced": False, "other": False}
        assert carrying(PEER, {"a": True, "b": b}, True) == {"a": True, "b": b, "balanced": True, "other": False}


def test_of_a_router() -> None:
    """Nothing is known before the first verdict; what is drained carries traffic, what is silent does not; the statuses
    say the same.
    """
    world = World(TWO)
    assert set(world.router.carrying().values()) == {None}
    world.wait(10.0)
    world.router.decide(world.now)
    assert world.router.carrying() == {"a": True, "b": True, "balanced": True, "second": True}
    world.router.drain("b", world.now + 1e6, "drained", world.now)
    assert world.router.carrying()["b"]
    world.answers["b"] = None
    world.wait(10.0)
    assert world.router.carrying() == {"a": True, "b": False, "balanced": True, "second": False}
    uplinks = {u.name: u.carries for u in world.router.uplink_status(world.now, 0.0)}
    policies = {p.name: p.carries for p in world.router.policy_status()}
    assert {**uplinks, **policies} == world.router.carrying()
