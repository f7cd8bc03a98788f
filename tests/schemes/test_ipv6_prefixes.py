"""Prefix translation (NPTv6) as in etc/examples/ipv6-prefixes.toml: fiber follows what is delegated, cable says it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mlbd.lab import echo, layout
from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network, wait_until
from mlbd.lab.traffic import attempts, connect_many
from tests.lab.scene import QUICK, in_background, tables, wait_usable
from tests.schemes.test_ipv6 import errors_come_back, seen

EXAMPLE = (Path(__file__).parents[2] / "etc" / "examples" / "ipv6-prefixes.toml").read_text()
CONFIG = EXAMPLE.replace("[probe]\n", QUICK.strip() + "\n")
HOST, OTHER = "fd00:10:1::2", "fd00:10:2::2"
OUTSIDE = {HOST: "0::2", OTHER: "3::2"}
"""Of a prefix of 56 bits. Both LANs have subnet number 0, so that one gets the first free one: 1 and 2 are in use."""


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[Network, Daemon]]:
    """Both LANs have a unique local prefix, and subnets 1 and 2 of each provider's too, as DHCPv6 clients make them."""
    with ExitStack() as stack:
        net = stack.enter_context(Network(2, ra=True, lans=2, interfaces=("eth1", "eth2")))
        net.delegate(1)
        net.delegate(2)
        for where in ("lan1", "lan2"):
            with net.inside(where):
                server = echo.start()
            stack.callback(server.wait)
            stack.callback(server.kill)
        daemon = stack.enter_context(Daemon(net, CONFIG))
        wait_usable(daemon, "fiber", "cable")
        yield net, daemon
        assert "Traceback" not in daemon.log_text()
        assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]


def call(address: str, caller: int, net: Network, timeout: float = 1.0) -> socket.socket:
    """A connection from the internet that was answered. Raises OSError."""
    source = layout.server(caller, 6)
    with net.inside("internet"):
        s = socket.socket(socket.AF_INET6)
    try:
        s.settimeout(timeout)
        s.bind((source, 0))
        s.connect((address, echo.PORT))
        assert s.recv(100).startswith(source.encode())
    except BaseException:
        s.close()
        raise
    return s


@pytest.mark.parametrize(("lan", "host"), [("lan1", HOST), ("lan2", OTHER)])
def test_hosts_keep_their_part(world: tuple[Network, Daemon], lan: str, host: str) -> None:
    """Of 1,000 connections of a LAN each uplink carries half; the servers see its prefix and the host's own part, and
    not the same for two LANs.
    """
    net, _ = world
    found = attempts(net, lan, 1000, family=6, sources=[host])
    expected = {(n, f"2001:db8:{n}:10{OUTSIDE[host]}") for n in (1, 2)}
    assert {(a.uplink, a.seen) for a in found} == expected
    assert 430 < sum(a.uplink == 1 for a in found) < 570


def test_providers_own_addresses_stay_at_home(world: tuple[Network, Daemon]) -> None:
    """A host with a provider's address leaves by it untranslated, by the other provider translated."""
    net, _ = world
    found = seen(net, "lan1", 60, "2001:db8:1:101::2")
    assert (1, "2001:db8:1:101::2") in found
    assert {uplink for uplink, _ in found} == {1, 2}
    assert all(address.startswith(f"2001:db8:{uplink}:") for uplink, address in found)


def test_what_is_behind_another_router_is_masqueraded(world: tuple[Network, Daemon]) -> None:
    """Addresses that are on no interface's network leave with the router's own."""
    net, _ = world
    sources = [net.lan(1).source(n, 6) for n in (1, 2, 3)]
    assert seen(net, "lan1", 60, *sources) == {(1, "2001:db8:1::2"), (2, "2001:db8:2::2")}


def test_hosts_are_reached_by_every_uplink(world: tuple[Network, Daemon]) -> None:
    """A host's translated addresses lead to it by each provider, and it answers by the same one, also while the other
    provider fails and when it has just come back; connections that go on are not disturbed.
    """
    net, daemon = world
    with ExitStack() as stack:

        def calls(*uplinks: int) -> list[socket.socket]:
            to = [f"2001:db8:{n}:10{outside}" for n in uplinks for outside in OUTSIDE.values()]
            return [stack.enter_context(call(address, 200 + k, net)) for k in range(5) for address in to]

        stays = calls(1)
        calls(2)
        net.silence(2, gateway=True)
        stays += calls(1)
        wait_usable(daemon, "fiber")
        stays += calls(1)
        net.speak(2)
        calls(2)
        wait_usable(daemon, "fiber", "cable")
        for s in stays:
            s.sendall(b"still\n")
            assert s.recv(100) == b"still\n"
    assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]


def test_failover(world: tuple[Network, Daemon]) -> None:
    """New connections take the other uplink with its prefix, and come back."""
    net, daemon = world
    net.silence(1, gateway=True)
    wait_usable(daemon, "cable")
    assert seen(net, "lan1", 40, HOST) == {(2, "2001:db8:2:100::2")}
    net.speak(1)
    wait_usable(daemon, "fiber", "cable")
    assert seen(net, "lan1", 60, HOST) == {(1, "2001:db8:1:100::2"), (2, "2001:db8:2:100::2")}


def test_errors_reach_the_host(world: tuple[Network, Daemon]) -> None:
    """A provider's "unreachable" and "packet too big" are translated back."""
    errors_come_back(world[0], HOST)


def test_another_delegated_prefix_is_followed(world: tuple[Network, Daemon]) -> None:
    """Half a second after another prefix was delegated, connections have it and are reached by it; of those begun
    meanwhile none has a wrong source; the configured prefix of the other uplink stays.
    """
    net, _ = world
    flood = in_background(attempts, net, "lan1", 300, rate=200, family=6, sources=[HOST], timeout=1.0)
    net.delegate(1, "2001:db8:1:200::/56")
    time.sleep(0.5)
    assert seen(net, "lan1", 100, HOST) == {(1, "2001:db8:1:200::2"), (2, "2001:db8:2:100::2")}
    call("2001:db8:1:200::2", 200, net).close()
    flood.result()
    assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]


def test_a_prefix_that_only_a_route_tells_is_followed(world: tuple[Network, Daemon]) -> None:
    """So is one of which no network of the router has a part: the unreachable route is enough."""
    net, _ = world
    net.delegate(1, "2001:db8:1:200::/56")
    via = f"via {layout.ROUTER_LINK_LOCAL} dev customer"
    net.run("isp1", ["ip", "-6", "route", "replace", "2001:db8:1:300::/56", *via.split()])
    for change, prefix in (("del", "2001:db8:1:200::/56"), ("add", "2001:db8:1:300::/56")):
        net.run("router", ["ip", "-6", "route", change, "unreachable", prefix, "dev", "lo", "proto", "dhcp"])
    wait_until(
        lambda: seen(net, "lan1", 40, HOST, timeout=0.3) == {(1, "2001:db8:1:300::2"), (2, "2001:db8:2:100::2")},
        timeout=1.0,
        what="the new prefix",
    )


def test_without_delegation_the_provider_must_find_each_host(network: Callable[..., Network]) -> None:
    """With nothing delegated, the network of the uplink itself is used: a host that the router answers neighbour
    solicitations for is reached, any other is not, and renumbering is followed.
    """
    net = network(2, ra=True)
    net.run("lan1", ["ip", "address", "add", "fd00:10:1::5/64", "dev", "eth0", "nodad"])
    prefix = 'nat6 = "prefix"'
    with Daemon(net, tables(net, prefix, prefix) + QUICK) as daemon:
        wait_usable(daemon, "wan1", "wan2")
        assert connect_many(net, "lan1", 4, family=6, sources=["fd00:10:1::5"], timeout=0.5) == {None: 4}
        for n in (1, 2):
            net.run("router", ["sysctl", "-qw", f"net.ipv6.conf.wan{n}.proxy_ndp=1"])
            for subnet in (0, 1):
                proxy = f"neigh add proxy 2001:db8:{n}:{subnet}::5 dev wan{n}"
                net.run("router", ["ip", "-6", *proxy.split()])
        found = {(1, "2001:db8:1::5"), (2, "2001:db8:2::5")}
        wait_until(lambda: seen(net, "lan1", 40, "fd00:10:1::5", timeout=0.5) == found)
        net.renumber6(1)
        time.sleep(0.5)
        assert (1, "2001:db8:1:1::5") in seen(net, "lan1", 40, "fd00:10:1::5")
        assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]
