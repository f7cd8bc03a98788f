"""What the kernel says about an uplink's interface, and what follows at once or after a short delay."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from mlbd.core.facts import Gateway
from mlbd.core.settings import AUTO, GatewaySetting, Uplink
from tests.core.world import World, facts, one, proven, settings


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"carrier": False}, "carrier lost"),
        ({"up": False, "carrier": False}, "interface a0 is down"),
        ({"addresses": ()}, "no address on a0"),
        (None, "interface a0 does not exist"),
    ],
)
def test_lost_fact_is_down_at_once(change: dict[str, object] | None, reason: str) -> None:
    """No hysteresis, the reason in words, no probe until it is back, then `rise` rounds."""
    world = proven()
    good = facts("a", 1)
    (transition,) = world.see("a", None if change is None else replace(good, **change))
    assert (transition.event, transition.at, transition.now, transition.reason) == (
        "uplink_down", world.now, "DOWN", reason,
    )  # fmt: skip
    before = len(world.sent("a"))
    assert world.wait(30.0) == []
    assert len(world.sent("a")) == before, "probes were sent without what they need"
    assert world.see("a", good) == []
    assert world.usable() == set()
    (back,) = world.wait(5.0)
    assert (back.event, len(world.sent("a")) - before >= 3) == ("uplink_up", True)


@pytest.mark.parametrize("there", [True, False])
def test_missing_interface_wakes_nobody(there: bool) -> None:
    """Waiting for an interface, or for its carrier, costs nothing."""
    world = one()
    world.see("a", facts("a", 1, carrier=False) if there else None)
    world.wakes = 0
    world.wait(600.0)
    assert world.wakes == 0


def test_carrier_message_needs_no_look() -> None:
    """A message about the known interface counts like a look."""
    world = proven()
    assert [t.reason for t in world.carrier("a", False)] == ["carrier lost"]
    assert world.carrier("a", True) == []
    assert world.status("a").reason == "carrier is back, not proven yet"


def test_carrier_message_of_an_unknown_index_waits_for_a_look() -> None:
    """Another device may have taken the name."""
    world = proven()
    assert world.router.see_link("a0", 99, True, False, world.now) == []
    assert world.usable() == {"a"}


def test_other_device_of_the_same_name_proves_itself() -> None:
    """An interface deleted and created again between two looks starts anew."""
    world = proven()
    (transition,) = world.see("a", replace(facts("a", 1), index=77))
    assert transition.event == "uplink_down"
    assert [t.event for t in world.wait(5.0)] == ["uplink_up"]
    assert world.orders[-1][1].interface_index == 77


@pytest.mark.parametrize(("gone", "events"), [(0.9, []), (1.1, ["uplink_down"])])
def test_carrier_delay(gone: float, events: list[str]) -> None:
    """Carrier that is back within `carrier_delay` was never gone."""
    world = proven(carrier_delay=1.0)
    world.carrier("a", False)
    world.wait(gone)
    world.carrier("a", True)
    assert [t.event for t in world.transitions[1:]] == events


def test_carrier_delay_ends_on_time() -> None:
    """The deadline is the core's own."""
    world = proven(carrier_delay=1.0)
    world.carrier("a", False)
    began = world.now
    (transition,) = world.wait(5.0)
    assert transition.at == pytest.approx(began + 1.0)
    assert transition.reason == "carrier lost"


# Gateways.


@pytest.mark.parametrize(("gone", "events"), [(2.9, []), (3.1, ["uplink_down"])])
def test_gateway_lingers(gone: float, events: list[str]) -> None:
    """A route that is deleted and added again within a renewal is no reason to lose an uplink."""
    world = proven()
    world.see("a", replace(facts("a", 1), gateway4=None))
    world.wait(gone)
    world.see("a", facts("a", 1))
    assert [t.event for t in world.transitions[1:]] == events


def test_gateway_that_stays_away_is_a_reason() -> None:
    """After three seconds, in words."""
    world = proven()
    world.see("a", replace(facts("a", 1), gateway4=None))
    began = world.now
    (transition,) = world.wait(10.0)
    assert transition.at == pytest.approx(began + 3.0)
    assert transition.reason == "no gateway known: a0 has no default route of another program, and none is configured"


def test_gateway_does_not_linger_without_an_address() -> None:
    """A lease that ended took both."""
    world = proven()
    (transition,) = world.see("a", replace(facts("a", 1), gateway4=None, addresses=()))
    assert transition.reason == "no address on a0"
    assert world.status("a").gateway is None


def test_gateway_change_keeps_the_verdict() -> None:
    """It is followed with the next probe; the uplink stays in use."""
    world = proven()
    assert world.see("a", replace(facts("a", 1), gateway4=Gateway("10.1.0.254"))) == []
    assert world.wait(5.0) == []
    assert (world.orders[-1][1].address, world.status("a").gateway) == ("10.1.0.254", "10.1.0.254")


FIXED = GatewaySetting(source="fixed", address="10.9.0.1")
NEAR = GatewaySetting(source="fixed", address="10.1.0.7")
DEVICE = GatewaySetting(source="none")


@pytest.mark.parametrize(
    ("setting", "gateway"),
    [(AUTO, Gateway("10.1.0.1")), (NEAR, Gateway("10.1.0.7")), (FIXED, Gateway("10.9.0.1", onlink=True)),
     (DEVICE, Gateway(None))],
)  # fmt: skip
def test_gateway_setting(setting: GatewaySetting, gateway: Gateway) -> None:
    """auto follows other programs' routes; fixed is on-link where no prefix covers it; none needs the device only."""
    world = World(settings(Uplink(name="a", interface="a0", gateway=setting)))
    assert world.decide().views["a"].routes == (gateway, None)


def test_link_local_gateway_is_reached_by_its_device() -> None:
    """No prefix needs to cover it."""
    setting = GatewaySetting(source="fixed", address="fe80::7")
    world = World(settings(Uplink(name="a", interface="a0", gateway6=setting)))
    world.see("a", facts("a", 1, v4=False, v6=True))
    world.wait(1.0)
    assert world.decide().views["a"].routes == (None, Gateway("fe80::7"))
    assert (world.orders[-1][1].address, world.usable()) == ("fe80::7", {"a"})


def test_peer_is_probed_where_there_is_no_gateway() -> None:
    """A point-to-point interface's far end is its gateway."""
    world = World(settings(Uplink(name="a", interface="a0", gateway=DEVICE)))
    world.see("a", replace(facts("a", 1), point_to_point=True, peer="10.1.0.9"))
    world.wait(1.0)
    assert (world.orders[-1][1].address, world.usable()) == ("10.1.0.9", {"a"})
