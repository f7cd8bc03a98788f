"""Gateways, addresses and interfaces change while the daemon runs, and it follows (scenarios 3 and 4)."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network
from mlbd.lab.traffic import connect_many
from tests.lab.scene import QUICK, Start, tables, wait_usable


def all_work(net: Network, count: int) -> None:
    """All uplinks carry connections of both families, forwarded and own, by the right source."""
    uplinks = set(range(1, count + 1))
    assert set(connect_many(net, "lan1", 20 * count)) == uplinks
    for family in (4, 6):
        assert set(connect_many(net, "router", 30 * count, family=family)) == uplinks
    for uplink in net.uplinks:
        for family, source in ((4, uplink.address), (6, uplink.address6)):
            assert connect_many(net, "router", 5, family=family, sources=[source]) == {uplink.number: 5}
    assert [net.wrong_source(n) for n in uplinks] == [0] * count


@pytest.mark.parametrize("change", ["move_gateway", "renumber"])
def test_a_new_gateway_is_followed(start: Start, change: str) -> None:
    """Another gateway, and another network as after a new lease, are used and probed without a restart."""
    net, daemon = start(config=QUICK)
    new = getattr(net, change)(1)
    daemon.wait_for(lambda s: (s["uplinks"][0]["gateway"], s["uplinks"][0]["gateway6"]) == (new.gateway, new.gateway6))
    wait_usable(daemon, "wan1", "wan2")
    all_work(net, 2)
    assert daemon.uplink("wan1")["targets"][0]["address"] == new.gateway
    assert daemon.status()["last_cycle"]["errors"] == []


def test_a_lease_renewed_by_deleting_and_adding_is_no_transition(start: Start) -> None:
    """A default route that a DHCP client deletes, and adds again within 3 s, takes nothing from its uplink."""
    net, daemon = start()
    route = f"default via {net.uplink(1).gateway} dev wan1 metric {net.uplink(1).metric} proto dhcp".split()
    net.run("router", ["ip", "route", "del", *route])
    time.sleep(1.0)
    assert connect_many(net, "lan1", 40).keys() == {1, 2}
    net.run("router", ["ip", "route", "add", *route])
    time.sleep(0.5)
    uplink = daemon.uplink("wan1")
    assert (uplink["usable"], uplink["transitions"], uplink["gateway"]) == (True, 1, net.uplink(1).gateway)
    assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]


def test_without_any_gateway_the_uplink_is_out(start: Start) -> None:
    """A default route that stays away takes its uplink out, with that reason; back again, it is proven anew."""
    net, daemon = start(config=QUICK)
    routes = net.uplink(1).default_routes()
    for family, route in zip((4, 6), routes, strict=True):
        net.run("router", ["ip", f"-{family}", "route", "del", *route.split()])
    wait_usable(daemon, "wan2")
    assert daemon.uplink("wan1")["reason"].startswith("no gateway known")
    assert connect_many(net, "lan1", 20) == {2: 20}
    for family, route in zip((4, 6), routes, strict=True):
        net.run("router", ["ip", f"-{family}", "route", "add", *route.split()])
    wait_usable(daemon, "wan1", "wan2")
    all_work(net, 2)


def test_an_interface_comes_back_with_another_index(start: Start) -> None:
    """An interface deleted and made again while the daemon runs is out, then followed under its new index."""
    net, daemon = start(config=QUICK)
    for _ in range(2):
        net.remove(1)
        wait_usable(daemon, "wan2")
        daemon.wait_for(lambda status: status["uplinks"][0]["carrier"] is None)
        assert daemon.uplink("wan1")["reason"] == "interface wan1 does not exist"
        assert connect_many(net, "lan1", 20) == {2: 20}
        net.restore(1)
        wait_usable(daemon, "wan1", "wan2")
        all_work(net, 2)
    net.remove(1)
    net.restore(1)  # at once
    daemon.wait_for(lambda status: status["uplinks"][0]["transitions"] == 7)
    all_work(net, 2)


def test_a_missing_interface_appears_late(network: Callable[..., Network]) -> None:
    """A daemon starts without an uplink's interface, uses the other one, and takes this one in when it appears."""
    net = network(2)
    net.remove(2)
    with Daemon(net, tables(net) + QUICK) as daemon:
        wait_usable(daemon, "wan1")
        assert connect_many(net, "lan1", 20) == {1: 20}
        net.restore(2)
        wait_usable(daemon, "wan1", "wan2")
        all_work(net, 2)
        assert "Traceback" not in daemon.log_text()


def test_a_fixed_gateway_needs_no_default_route(network: Callable[..., Network]) -> None:
    """With gateways in the file, uplinks work although `main` has no default route at all."""
    net = network(2, default_routes=False)
    extra = [f'gateway = "{u.gateway}"\ngateway6 = "{u.gateway6}"' for u in net.uplinks]
    with Daemon(net, tables(net, *extra) + QUICK) as daemon:
        wait_usable(daemon, "wan1", "wan2")
        all_work(net, 2)
        assert "Traceback" not in daemon.log_text()
