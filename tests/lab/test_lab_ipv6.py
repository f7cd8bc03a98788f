"""The lab's providers advertise and delegate IPv6 as real ones do."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from mlbd.lab.network import Network, wait_until
from mlbd.lab.traffic import attempts, connect_many

Build = Callable[..., Network]


def addresses(net: Network, interface: str) -> dict[str, bool]:
    """The router's global IPv6 addresses, and whether they are deprecated."""
    text = net.run("router", ["ip", "-6", "-j", "address", "show", "dev", interface, "scope", "global"])
    return {a["local"]: "deprecated" in a for i in json.loads(text) for a in i.get("addr_info", []) if a}


def gateways(net: Network) -> dict[str, str]:
    """The default routes of the router's kernel: interface and gateway."""
    found: list[dict[str, Any]] = json.loads(net.run("router", ["ip", "-6", "-j", "route", "show", "default"]))
    assert {(route["protocol"], route["metric"]) for route in found} <= {("ra", 1024)}
    return {route["dev"]: route["gateway"] for route in found}


def test_the_router_lives_on_what_is_advertised(network: Build) -> None:
    """Address and default route come by router advertisement, from a gateway that is link-local, and traffic flows."""
    net = network(2, ra=True)
    assert gateways(net) == {"wan1": "fe80::1", "wan2": "fe80::1"}
    assert [addresses(net, f"wan{n}") for n in (1, 2)] == [{"2001:db8:1::2": False}, {"2001:db8:2::2": False}]
    assert connect_many(net, "router", 20, family=6, interface="wan2") == {2: 20}
    assert [net.wrong_source(n) for n in (1, 2)] == [0, 0]


def test_an_advertisement_ends_cleanly_or_silently(network: Build) -> None:
    """With lifetime 0 the default route goes at once; left silent, it runs out; advertised again, it is back."""
    net = network(3, ra=True)
    net.advertise(1, lifetime=0)
    wait_until(lambda: [*gateways(net)] == ["wan2", "wan3"], what="one route less")
    net.advertise(2, lifetime=1)
    net.stop_advertising(2)
    assert "expires" in net.run("router", ["ip", "-6", "route", "show", "default", "dev", "wan2"])
    wait_until(lambda: net.run("router", ["ip", "-6", "route", "get", "2001:db8:f::1"]).count("wan3") == 1)
    assert connect_many(net, "router", 5, family=6) == {3: 5}
    net.advertise(1)
    wait_until(lambda: "wan1" in gateways(net))


def test_a_short_lifetime_is_renewed(network: Build) -> None:
    """A default route that lives for a second stays while its provider advertises, and a silent one's does not."""
    net = network(2, ra=True)
    net.advertise(1, lifetime=1)
    wait_until(lambda: lifetime(net, "wan1") <= 1)
    start = time.monotonic()
    while time.monotonic() < start + 1.3:
        assert lifetime(net, "wan1") >= 0
    net.silence(1, neighbours=True)
    wait_until(lambda: lifetime(net, "wan1") < 0, what="that the route ran out")
    net.speak(1)
    wait_until(lambda: lifetime(net, "wan1") >= 0, what="that it is back")


def lifetime(net: Network, interface: str) -> int:
    """Of its default route, seconds, below 0 when it has run out."""
    found = json.loads(net.run("router", ["ip", "-6", "-j", "route", "show", "default", "dev", interface]))
    return int(found[0].get("expires", 0)) if found else -1


def test_an_advertised_prefix_is_renumbered(network: Build) -> None:
    """The new address is in use, the old one is deprecated and still works; both are this provider's."""
    net = network(2, ra=True)
    assert net.renumber6(1).address6 == "2001:db8:1:1::2"
    assert addresses(net, "wan1") == {"2001:db8:1::2": True, "2001:db8:1:1::2": False}
    found = attempts(net, "router", 1, family=6, interface="wan1")
    found += attempts(net, "router", 1, family=6, interface="wan1", sources=["2001:db8:1::2"])
    assert [(a.uplink, a.seen) for a in found] == [(1, "2001:db8:1:1::2"), (1, "2001:db8:1::2")]
    assert net.wrong_source(1) == 0


def test_an_advertising_gateway_moves(network: Build) -> None:
    """The old gateway says that it is none any more, the new one is used."""
    net = network(2, ra=True)
    assert net.move_gateway(1).gateway6 == "fe80::254"
    assert gateways(net) == {"wan1": "fe80::254", "wan2": "fe80::1"}
    assert connect_many(net, "router", 5, family=6, interface="wan1") == {1: 5}


def test_advertised_addresses_come_back(network: Build) -> None:
    """After a pulled cable and a removed interface the uplink has its address and route again."""
    net = network(2, ra=True)
    for breaks, mends in ((net.unplug, net.plug), (net.remove, net.restore)):
        breaks(1)
        mends(1)
        assert addresses(net, "wan1") == {"2001:db8:1::2": False}
        assert connect_many(net, "router", 5, family=6, interface="wan1") == {1: 5}


def test_a_delegated_prefix_reaches_its_clients(network: Build) -> None:
    """A client's address of a delegated prefix is the provider's, with static and with advertised addresses; another
    delegation takes its place, and nothing is left of it.
    """
    for ra in (False, True):
        net = network(1, lans=2, ra=ra)
        assert net.delegate(1) == ["2001:db8:1:101::2", "2001:db8:1:102::2"]
        assert "unreachable 2001:db8:1:100::/56 dev lo proto dhcp" in net.run("router", ["ip", "-6", "route"])
        assert attempts(net, "lan2", 1, family=6)[0].seen == "2001:db8:1:102::2"
        assert (net.renumber6 if ra else net.renumber)(1).address6 == "2001:db8:1:1::2"
        assert attempts(net, "lan2", 1, family=6)[0].seen == "2001:db8:1:102::2"
        assert net.delegate(1, "2001:db8:1:200::/56") == ["2001:db8:1:201::2", "2001:db8:1:202::2"]
        assert attempts(net, "lan1", 1, family=6)[0].seen == "2001:db8:1:201::2"
        assert "2001:db8:1:10" not in net.run("router", ["ip", "-6", "route", "show", "table", "all"])
        assert net.wrong_source(1) == 0
