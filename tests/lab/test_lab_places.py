"""Addresses that tests choose, peers of the router, and senders that say how they send."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from mlbd.lab import namespaces
from mlbd.lab.namespaces import LabError
from mlbd.lab.network import Network
from mlbd.lab.traffic import attempts, connect_many

Build = Callable[..., Network]

_MASQUERADE = """
table inet nat {
  chain post {
    type nat hook postrouting priority srcnat; policy accept;
    oifname "wan*" masquerade
  }
}
"""
_SUBNETS = ("192.168.1.2/24", "172.16.0.2/16", "192.168.0.2/24")


def test_uplinks_have_the_networks_that_were_given(network: Build) -> None:
    """Each uplink works with its given network, the LANs keep out of their way, and other sources are wrong."""
    net = network(3, lans=2, subnets=_SUBNETS)
    assert [u.gateway for u in net.uplinks] == ["192.168.1.1", "172.16.0.1", "192.168.0.1"]
    assert [net.lan(k).subnet for k in (1, 2)] == ["10.10.1.0/24", "10.10.2.0/24"]
    for n in (1, 2, 3):
        assert net.ping("router", net.uplink(n).gateway)
        assert connect_many(net, "router", 5, interface=f"wan{n}") == {n: 5}
    assert net.ping("internet", net.uplink(1).address)
    assert attempts(net, "lan1", 1, timeout=0.1)[0].error == "timeout"
    assert [net.wrong_source(n) for n in (1, 2, 3)] == [1, 0, 0]
    net.run("router", ["nft", "-f", "-"], text=_MASQUERADE)
    assert connect_many(net, "lan2", 10, sources=[net.lan(2).source(n) for n in (1, 2)]) == {1: 10}
    assert net.move_gateway(2).gateway == "172.16.0.254"
    assert connect_many(net, "router", 5, interface="wan2") == {2: 5}
    with pytest.raises(LabError, match="no next one"):
        net.renumber(1)


def test_lans_have_the_networks_that_were_given(network: Build) -> None:
    """A LAN's client has the given network's addresses."""
    net = network(1, lan_subnets=["10.20.0.0/16"])
    net.run("router", ["nft", "-f", "-"], text=_MASQUERADE)
    assert (net.lan(1).client, net.lan(1).source(1)) == ("10.20.0.2", "10.20.128.1")
    assert connect_many(net, "lan1", 5, sources=["10.20.0.2", "10.20.128.1"]) == {1: 5}


@pytest.mark.parametrize(
    "options",
    [{"subnets": ["192.168.1.2/24"]}, {"subnets": ["10.0.0.2/24", "10.0.1.2/25"]}, {"lan_subnets": ["a"] * 2}],
)
def test_networks_that_do_not_fit(network: Build, options: dict[str, list[str]]) -> None:
    """As many as there are uplinks or LANs, and large enough, or the error says so."""
    with pytest.raises(LabError, match="must be as many"):
        network(2, **options)


@pytest.fixture(scope="module")
def routed() -> Iterator[Network]:
    with Network(2) as net:
        yield net


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("port", [7, 22, 53, 6667])
@pytest.mark.parametrize("udp", [False, True])
def test_servers_answer_on_every_port(routed: Network, family: int, port: int, udp: bool) -> None:
    """TCP and UDP to any port of a server is answered by it, from a source port that was asked for."""
    found = connect_many(routed, "router", 20, family=family, port=port, udp=udp, source_port=5000, interface="wan2")
    assert found == {2: 20}


def test_senders_are_marked(network: Build) -> None:
    """A mark is on the packets as routing sees them."""
    net = network(2)
    net.run("router", ["ip", "rule", "add", "fwmark", "0x80000/0xff0000", "lookup", "77"])
    net.run("router", ["ip", "route", "add", "default", "via", net.uplink(2).gateway, "table", "77"])
    assert connect_many(net, "router", 5, mark=0x80000, sources=[net.uplink(2).address]) == {2: 5}
    assert connect_many(net, "router", 5, mark=0x80000, sources=[net.uplink(2).address], udp=True) == {2: 5}
    assert connect_many(net, "router", 5) == {1: 5}


@pytest.mark.parametrize("family", [4, 6])
def test_what_is_attached_is_a_client_and_a_server(network: Build, family: int) -> None:
    """A peer behind an interface of any name reaches the internet through the router and answers it."""
    net = network(1)
    net.run("router", ["nft", "-f", "-"], text=_MASQUERADE)
    peers = net.attach("docker0", "172.17.0.1/16", "fd17::1/64")
    assert peers == ["172.17.0.2", "fd17::2"]
    assert connect_many(net, "docker0", 5, family=family, port=443) == {1: 5}
    router = {4: "172.17.0.1", 6: "fd17::1"}[family]
    assert attempts(net, "router", 1, family=family, servers=peers[family == 6 :])[0].seen == router


def test_a_tunnels_far_end_answers_for_the_internet(network: Build) -> None:
    """Where all servers are behind a tunnel, connections say that they went by no uplink, and whom its end saw."""
    net = network(1)
    net.attach("wg0", "10.8.0.1/24", internet=True)
    net.run("router", ["ip", "route", "add", "128.0.0.0/1", "dev", "wg0"])
    assert {(a.uplink, a.error, a.seen) for a in attempts(net, "router", 5)} == {(None, "seen as 10.8.0.1", "10.8.0.1")}


def test_a_place_that_serves(network: Build) -> None:
    """A provider's gateway answers once it is told to."""
    net = network(1)
    gateway = net.uplink(1).gateway
    assert attempts(net, "router", 1, servers=[gateway])[0].error == "ECONNREFUSED"
    net.serve("isp1")
    assert attempts(net, "router", 1, servers=[gateway], port=80)[0].seen == net.uplink(1).address


def test_nothing_is_left_of_what_was_attached_and_advertised() -> None:
    """Namespaces and threads go with the network, with attached places and advertising providers too."""
    before = threading.active_count()
    with Network(2, ra=True) as net:
        net.attach("virbr0", "192.168.122.1/24")
        net.remove(1)
        net.restore(1)
        paths = [namespaces.path_of(net.namespace(where)) for where in net.places]
        assert ([path.exists() for path in paths], threading.active_count()) == ([True] * 6, before + 2)
    assert ([path.exists() for path in paths], threading.active_count()) == ([False] * 6, before)
