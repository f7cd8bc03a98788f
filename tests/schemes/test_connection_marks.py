"""Three uplinks by connection marks, as in etc/examples: shares, exceptions, own connections, FTP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network
from mlbd.lab.traffic import attempts, connect_many
from tests.lab.scene import QUICK, wait_usable
from tests.schemes import ftp
from tests.schemes.ftp import Ftp, fetch

EXAMPLES = Path(__file__).parents[2] / "etc" / "examples"
SUBNETS = ("192.168.1.2/24", "172.16.0.2/16", "192.168.0.2/24")
INTERFACES = ("eth0", "wlan0", "wlan1")
WIRED, WLAN_A, WLAN_B = 1, 2, 3


def example(name: str) -> str:
    return (EXAMPLES / f"{name}.toml").read_text()


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with Network(3, interfaces=INTERFACES, subnets=SUBNETS) as net:
        yield net
        assert [net.wrong_source(n) for n in (1, 2, 3)] == [0, 0, 0]


@pytest.fixture(scope="module")
def random(net: Network) -> Iterator[Daemon]:
    with Daemon(net, example("three-uplinks-random") + QUICK) as daemon:
        wait_usable(daemon, "wired", "wlan-a", "wlan-b")
        yield daemon
        assert "Traceback" not in daemon.log_text()


@pytest.fixture(scope="module")
def files(net: Network) -> Iterator[Ftp]:
    with Ftp(net) as server:
        yield server


@pytest.mark.parametrize("where", ["lan1", "router"])
def test_random_shares(net: Network, random: Daemon, where: str) -> None:
    """Of 1,000 connections, forwarded or the router's own, each uplink gets its third, within what chance allows."""
    found = connect_many(net, where, 1000, port=8080)
    assert found[None] == 0
    assert all(abs(found[n] - expected) < 75 for n, expected in ((WIRED, 340), (WLAN_A, 330), (WLAN_B, 330))), found


@pytest.mark.parametrize("where", ["lan1", "router"])
@pytest.mark.parametrize(
    ("port", "udp"), [(21, False), (22, False), (80, False), (443, False), (6667, False), (53, True)]
)
def test_exceptions_take_the_wire(net: Network, random: Daemon, where: str, port: int, udp: bool) -> None:
    """TCP 21, 22, 80, 443 and 6667 and UDP 53 leave by the wired uplink, all of them."""
    assert connect_many(net, where, 40, port=port, udp=udp) == {WIRED: 40}


def test_the_other_protocol_is_no_exception(net: Network, random: Daemon) -> None:
    """TCP 53 and UDP 80 are spread like everything else."""
    assert len(connect_many(net, "lan1", 60, port=53)) == 3
    assert len(connect_many(net, "lan1", 60, port=80, udp=True)) == 3


def test_the_wires_own_network_is_reached_by_wire(net: Network, random: Daemon) -> None:
    """What goes to 192.168.1.0/24 arrives there with the router's address on the wire."""
    net.serve("isp1")
    for where in ("lan1", "router"):
        seen = attempts(net, where, 20, servers=["192.168.1.1"])
        assert {attempt.seen for attempt in seen} == {"192.168.1.2"}


@ftp.NEEDS_VSFTPD
@pytest.mark.parametrize("where", ["lan1", "router"])
@pytest.mark.parametrize("mode", ["passive", "active"])
def test_ftp_data_follows_its_control_connection(
    net: Network, random: Daemon, files: Ftp, where: str, mode: Literal["passive", "active"]
) -> None:
    """Control and data connections of real FTP go by the wire, where the rule sends only port 21."""
    transfers = [fetch(net, where, mode=mode) for _ in range(5)]
    assert {(t.control, t.data) for t in transfers} == {(WIRED, WIRED)}
    assert all(t.content == files.content for t in transfers)


@ftp.NEEDS_VSFTPD
@pytest.mark.parametrize("where", ["lan1", "router"])
@pytest.mark.parametrize("mode", ["passive", "active"])
def test_ftp_follows_without_the_wire(
    net: Network, random: Daemon, files: Ftp, where: str, mode: Literal["passive", "active"]
) -> None:
    """While the wire is dead, exceptions are spread like the rest, but an FTP session stays on the one it drew."""
    net.silence(WIRED, gateway=True)
    try:
        wait_usable(random, "wlan-a", "wlan-b")
        assert set(connect_many(net, where, 60, port=443)) == {WLAN_A, WLAN_B}
        transfers = [fetch(net, where, mode=mode) for _ in range(10)]
        assert all(t.control == t.data for t in transfers)
        assert {t.control for t in transfers} == {WLAN_A, WLAN_B}
    finally:
        net.speak(WIRED)
        wait_usable(random, "wired", "wlan-a", "wlan-b")


def test_round_robin_takes_turns(network: Callable[..., Network]) -> None:
    """Of 999 connections each uplink gets exactly a third, one after the other."""
    net = network(3, interfaces=INTERFACES, subnets=SUBNETS)
    with Daemon(net, example("three-uplinks-round-robin") + QUICK) as daemon:
        wait_usable(daemon, "wired", "wlan-a", "wlan-b")
        order = [attempt.uplink for attempt in attempts(net, "lan1", 999, at_once=1)]
        assert Counter(order) == {WIRED: 333, WLAN_A: 333, WLAN_B: 333}
        assert {tuple(order[i : i + 3]) for i in range(0, 999, 3)} == {tuple(order[:3])}


OWN_BY_ROUTES = example("three-uplinks-random").replace('own_connections = "mark"', 'own_connections = "route"')


def test_own_connections_by_routes(network: Callable[..., Network]) -> None:
    """With `own_connections = "route"` the router's own connections are spread, and exceptions hold for them, with
    the right source address from the first packet.
    """
    net = network(3, interfaces=INTERFACES, subnets=SUBNETS)
    with Daemon(net, OWN_BY_ROUTES + QUICK) as daemon:
        wait_usable(daemon, "wired", "wlan-a", "wlan-b")
        found = connect_many(net, "router", 1000, port=8080)
        assert found[None] == 0
        assert all(230 < found[n] < 440 for n in (WIRED, WLAN_A, WLAN_B)), found
        for port, udp in ((21, False), (80, False), (53, True)):
            assert connect_many(net, "router", 40, port=port, udp=udp) == {WIRED: 40}
        net.silence(WIRED, gateway=True)
        wait_usable(daemon, "wlan-a", "wlan-b")
        assert set(connect_many(net, "router", 60, port=443)) == {WLAN_A, WLAN_B}
        net.speak(WIRED)
        wait_usable(daemon, "wired", "wlan-a", "wlan-b")
        assert connect_many(net, "router", 40, port=443) == {WIRED: 40}
    assert [net.wrong_source(n) for n in (1, 2, 3)] == [0, 0, 0]
