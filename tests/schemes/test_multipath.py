"""Split access and weighted multipath, as in etc/examples/multipath.toml."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network
from mlbd.lab.traffic import TcpConversation, attempts, connect_many
from tests.lab.scene import QUICK, in_background, wait_usable

EXAMPLE = (Path(__file__).parents[2] / "etc" / "examples" / "multipath.toml").read_text()
MASQUERADED = EXAMPLE.replace('interface = "eth1"', 'interface = "eth1"\nnat6 = "masquerade"').replace(
    'interface = "eth2"', 'interface = "eth2"\nnat6 = "masquerade"'
)
TABLE = "20127"


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[Network, Daemon]]:
    with Network(2, interfaces=("eth1", "eth2")) as net, Daemon(net, MASQUERADED + QUICK) as daemon:
        wait_usable(daemon, "provider1", "provider2")
        yield net, daemon
        assert "Traceback" not in daemon.log_text()
        assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("where", ["lan1", "router"])
def test_shares(world: tuple[Network, Daemon], where: str, family: int) -> None:
    """Of 1,000 connections three quarters go by the first hop, forwarded or own, IPv4 or IPv6, also to one server."""
    net, _ = world
    found = connect_many(net, where, 1000, family=family)
    assert found[None] == 0
    assert 650 < found[1] < 850, found
    assert set(connect_many(net, where, 40, family=family, servers=[7])) == {1, 2}


def test_one_default_route_with_weights(world: tuple[Network, Daemon]) -> None:
    """The policy's table holds one route, with a weight for each hop."""
    net, _ = world
    for family, (first, second) in ((4, ("10.1.0.1", "10.2.0.1")), (6, ("2001:db8:1::1", "2001:db8:2::1"))):
        route = " ".join(net.run("router", ["ip", f"-{family}", "route", "show", "table", TABLE]).split())
        assert route.count("default") == 1
        assert f"nexthop via {first} dev eth1 weight 3" in route
        assert f"nexthop via {second} dev eth2 weight 1" in route


@pytest.mark.parametrize("family", [4, 6])
def test_flows_stay_when_hops_come_and_go(world: tuple[Network, Daemon], family: int) -> None:
    """While the first hop is taken out and put back, which would re-hash connections of the other, those that go by
    the other stay there and answer at once, and no new connection is refused.
    """
    net, daemon = world
    talking: list[TcpConversation] = []
    try:
        while len(talking) < 20:
            conversation = TcpConversation(net, "lan1", interval=0.02, family=family)
            talking.append(conversation)
            if conversation.uplink != 2:
                talking.pop().close()
        flood = in_background(attempts, net, "lan1", 400, rate=200, family=family)
        for _ in range(2):
            net.silence(1, gateway=True)
            wait_usable(daemon, "provider2")
            net.speak(1)
            wait_usable(daemon, "provider1", "provider2")
        assert {attempt.error for attempt in flood.result()} <= {"", "timeout"}
        assert [conversation.reset for conversation in talking] == [None] * 20
        assert max(e.answered - e.sent for c in talking for e in c.exchanges) < 0.5
    finally:
        for conversation in talking:
            conversation.close()


def test_the_route_is_replaced_in_place(world: tuple[Network, Daemon]) -> None:
    """Taking a hop out and putting it back replaces the route: the kernel never says that it was deleted."""
    net, daemon = world
    monitor = net.spawn("router", ["ip", "monitor", "route"], stdout=subprocess.PIPE, text=True)
    net.silence(1, gateway=True)
    wait_usable(daemon, "provider2")
    net.speak(1)
    wait_usable(daemon, "provider1", "provider2")
    monitor.terminate()
    lines = [line for line in str(monitor.communicate()[0]).splitlines() if f"table {TABLE}" in line]
    assert lines
    assert not [line for line in lines if line.startswith("Deleted")]


def test_a_failed_hop_is_left_out(world: tuple[Network, Daemon]) -> None:
    """A cable that is pulled takes its hop out for forwarded and own connections of both families."""
    net, daemon = world
    net.unplug(1)
    wait_usable(daemon, "provider2")
    for family in (4, 6):
        for where in ("lan1", "router"):
            assert connect_many(net, where, 30, family=family) == {2: 30}
    net.plug(1)
    wait_usable(daemon, "provider1", "provider2")


@pytest.mark.parametrize("last_resort", ["unreachable", "main"])
def test_last_resorts(network: Callable[..., Network], last_resort: str) -> None:
    """With no hop left, connections are refused at once, or leave as main says."""
    net = network(2, interfaces=("eth1", "eth2"))
    config = EXAMPLE.replace("weights", f'last_resort = "{last_resort}"\nweights')
    with Daemon(net, config + QUICK) as daemon:
        wait_usable(daemon, "provider1", "provider2")
        net.drop_icmp(1)
        net.drop_icmp(2)
        wait_usable(daemon)
        for where in ("lan1", "router"):
            found = {(a.uplink, a.error) for a in attempts(net, where, 4, at_once=1, timeout=0.4)}
            assert found == ({(1, "")} if last_resort == "main" else {(None, "EHOSTUNREACH")})
