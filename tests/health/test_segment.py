"""Two uplinks on one Ethernet segment: two ports of the router and two gateways in one switch (scenario 5)."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from mlbd.lab.daemon import Daemon
from mlbd.lab.network import wait_until
from mlbd.lab.segment import Segment
from mlbd.lab.traffic import attempts, connect_many
from tests.health.pace import SOON
from tests.lab.scene import tables, wait_usable

Scene = tuple[Segment, Daemon]
KINDS: dict[str, dict[str, bool]] = {
    "two subnets": {},
    "one subnet": {"one_subnet": True},
    "macvlan": {"macvlan": True, "one_subnet": True},
}


@pytest.fixture(scope="module", params=KINDS)
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    with Segment(**KINDS[request.param]) as net, Daemon(net, tables(net) + SOON) as daemon:
        wait_usable(daemon, "wan1", "wan2")
        yield net, daemon
        assert "Traceback" not in daemon.log_text()


@pytest.fixture(autouse=True)
def right_sources(scene: Scene) -> Iterator[None]:
    """No provider gets a packet with the address that the other one's customer has."""
    net, _ = scene
    before = [net.wrong_source(1), net.wrong_source(2)]
    yield
    assert [net.wrong_source(1), net.wrong_source(2)] == before


def device(net: Segment, interface: str) -> str:
    """Its Ethernet address."""
    return str(json.loads(net.run("router", ["ip", "-j", "link", "show", interface]))[0]["address"])


def test_both_carry_their_share(scene: Scene) -> None:
    """New connections are spread over both gateways, forwarded and the router's own, each with its own source."""
    net, _ = scene
    for where in ("lan1", "router"):
        found = connect_many(net, where, 200)
        assert set(found) == {1, 2}
        assert 60 < found[1] < 140
    for uplink in net.uplinks:
        assert connect_many(net, "router", 10, sources=[uplink.address]) == {uplink.number: 10}


def test_gateways_learn_the_right_port(scene: Scene) -> None:
    """Each gateway that asks for its customer's address by ARP is told the port that has it, not the other one's."""
    net, _ = scene
    for uplink in net.uplinks:
        for _ in range(5):
            isp = f"isp{uplink.number}"
            net.run(isp, ["ip", "neigh", "flush", "dev", "customer"])
            assert net.ping(isp, uplink.address)
            shown = json.loads(net.run(isp, ["ip", "-j", "neigh", "show", uplink.address]))
            assert [n["lladdr"] for n in shown] == [device(net, uplink.interface)]


@pytest.mark.parametrize("number", [1, 2])
def test_either_gateway_may_die(scene: Scene, number: int) -> None:
    """A gateway that falls silent, ARP and all, takes its own uplink out and not its neighbour on the wire."""
    net, daemon = scene
    other = 3 - number
    before = daemon.uplink(f"wan{other}")["transitions"]
    net.silence(number, gateway=True, neighbours=True)
    wait_usable(daemon, f"wan{other}")
    for where in ("lan1", "router"):
        assert connect_many(net, where, 20) == {other: 20}
    net.speak(number)
    wait_usable(daemon, "wan1", "wan2")
    wait_until(lambda: connect_many(net, "lan1", 20, timeout=0.5).keys() == {1, 2}, what="that both are used")
    assert daemon.uplink(f"wan{other}")["transitions"] == before


def test_a_pulled_cable(scene: Scene) -> None:
    """A port without carrier is out at once, and its neighbour carries everything; macvlans go and come together."""
    net, daemon = scene
    net.unplug(1)
    together = net.run("router", ["ip", "link", "show", "type", "macvlan"])
    wait_usable(daemon, *([] if together else ["wan2"]))
    if not together:
        assert {a.uplink for a in attempts(net, "lan1", 20)} == {2}
    net.plug(1)
    wait_usable(daemon, "wan1", "wan2")
    for where in ("lan1", "router"):
        assert connect_many(net, where, 60).keys() == {1, 2}
