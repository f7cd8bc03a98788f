"""Which uplink a packet leaves by that has an address which is gone at this moment."""

from __future__ import annotations

from msgspec.structs import replace

from mlbd.core.preview import preview
from mlbd.core.router import Router
from mlbd.core.state import Rule
from tests.core.world import World, facts, settings, uplink


def sources(world: World) -> dict[str | None, int]:
    """Priorities of the IPv4 rules by source."""
    found = (item for item in world.kernel().values() if isinstance(item, Rule))
    return {rule.source: rule.priority for rule in found if rule.family == 4 and rule.source is not None}


def test_an_address_that_is_gone_is_still_its_uplinks() -> None:
    """It may come back with the line, and what is sent from it in that moment must not leave by another uplink."""
    world = World(settings(uplink("a"), uplink("b")))
    world.wait(5.0)
    both = {"10.1.0.2/32": 13001, "10.2.0.2/32": 13002}
    assert sources(world) == both
    world.see("a", facts("a", 1, v4=False, v6=True))
    assert sources(world) == both
    world.see("a", None)
    assert sources(world) == both


def test_an_address_that_another_uplink_has_now_is_that_ones() -> None:
    """As when a cable is moved to another socket."""
    world = World(settings(uplink("a"), uplink("b")))
    world.wait(5.0)
    world.see("a", facts("a", 1, v4=False, v6=True))
    world.see("b", replace(facts("b", 2), addresses=("10.1.0.2/24",)))
    assert sources(world) == {"10.1.0.2/32": 13002}


def test_a_restart_and_a_plan_remember() -> None:
    """What rules in the kernel say of an uplink that is away is kept by the next daemon, and `plan` changes nothing."""
    world = World(settings(uplink("a"), uplink("b")))
    world.wait(5.0)
    world.see("a", None)
    left = world.kernel()
    later = Router(world.router.settings, world.router.identities, 0.0, left)
    later.see(world.interfaces, 0.0)
    assert [view.addresses for view in later.decide(0.0).views.values()] == [("10.1.0.2/32",), ("10.2.0.2/24",)]
    now = world.decide()
    planned = preview(world.router.settings, world.router.identities, world.interfaces, now)
    assert planned.views["a"].addresses == now.views["a"].addresses == ("10.1.0.2/24",)
