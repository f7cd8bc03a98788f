"""Sticky rules: a source keeps its uplink, as in etc/examples/sticky.toml, for as long as it should and no longer."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mlbd.core.settings import FAMILIES, Family
from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network
from mlbd.lab.stream import UdpStream
from mlbd.lab.traffic import attempts, connect_many
from tests.lab.scene import QUICK, tables, wait_usable

NAT6 = ('nat6 = "masquerade"',) * 3
SOURCES = range(1, 31)
EXAMPLE = (Path(__file__).parents[2] / "etc" / "examples" / "sticky.toml").read_text()

_RULES = """
[[policy]]
name = "balanced"
members = {members}

[[rule]]
name = "web"
ports = 80
use = "balanced"
sticky = "{timeout}"
{more}
"""


def configuration(net: Network, timeout: str, members: str = '["wan1", "wan2", "wan3"]', more: str = "") -> str:
    return tables(net, *NAT6) + _RULES.format(members=members, timeout=timeout, more=more) + QUICK


def configure(daemon: Daemon, text: str) -> None:
    daemon.configure(text)
    before = daemon.status()["last_cycle"]["at"]
    daemon.command("reload")
    assert daemon.wait_for(lambda s: s["last_cycle"]["at"] > before)["last_cycle"]["errors"] == []


def ways(net: Network, family: Family = 4, *, sources: Sequence[int] = SOURCES, times: int = 1) -> dict[int, set[int]]:
    """The uplinks by which each source's connections to port 80 go; all of them must go somewhere."""
    addresses = [net.lan(1).source(n, family) for n in sources]
    found = attempts(net, "lan1", times * len(sources), family=family, sources=addresses, port=80, servers=range(1, 90))
    assert {attempt.error for attempt in found} == {""}
    return {n: {a.uplink for a in found[at :: len(sources)] if a.uplink} for at, n in enumerate(sources)}


def spread(found: dict[int, set[int]]) -> set[int]:
    return set().union(*found.values())


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[Network, Daemon]]:
    with Network(3) as net, Daemon(net, configuration(net, "10m")) as daemon:
        wait_usable(daemon, "wan1", "wan2", "wan3")
        yield net, daemon
        assert "Traceback" not in daemon.log_text()
        assert [net.wrong_source(n) for n in (1, 2, 3)] == [0, 0, 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_source_keeps_its_uplink(world: tuple[Network, Daemon], family: Family) -> None:
    """All new connections of a source take the uplink of its first, sources are spread over all uplinks, and what the
    rule does not match is spread whatever its source.
    """
    net, _ = world
    found = ways(net, family, times=20)
    assert {len(each) for each in found.values()} == {1}
    assert spread(found) == {1, 2, 3}
    one = [net.lan(1).source(1, family)]
    assert set(connect_many(net, "lan1", 60, family=family, sources=one)) == {1, 2, 3}
    assert ways(net, family) == found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_failed_uplink_loses_its_sources(world: tuple[Network, Daemon], family: Family) -> None:
    """Sources of an uplink that fails stick to another, and stay there when the first recovers; others do not move."""
    net, daemon = world
    before = ways(net, family)
    net.silence(1, gateway=True)
    wait_usable(daemon, "wan2", "wan3")
    moved = ways(net, family, times=5)
    assert {n: way for n, way in moved.items() if 1 not in before[n]} == {
        n: way for n, way in before.items() if 1 not in way
    }
    assert {len(each) for each in moved.values()} == {1}
    assert spread(moved) == {2, 3}
    net.speak(1)
    wait_usable(daemon, "wan1", "wan2", "wan3")
    assert ways(net, family, times=5) == moved
    new = range(31, 91)
    assert spread(ways(net, family, sources=new)) == {1, 2, 3}


def test_a_silent_source_of_a_failed_uplink_returns(world: tuple[Network, Daemon]) -> None:
    """A source that tried nothing while its uplink was dead is still sent there afterwards."""
    net, daemon = world
    before = ways(net)
    net.silence(2, gateway=True)
    wait_usable(daemon, "wan1", "wan3")
    net.speak(2)
    wait_usable(daemon, "wan1", "wan2", "wan3")
    assert ways(net) == before


def test_restart_and_reload_keep_it(world: tuple[Network, Daemon]) -> None:
    """Neither a crash and a start nor a reload that leaves the rule as it is makes a source forget."""
    net, daemon = world
    before = {family: ways(net, family) for family in FAMILIES}
    daemon.kill()
    assert {family: ways(net, family) for family in FAMILIES} == before
    daemon.start()
    wait_usable(daemon, "wan1", "wan2", "wan3")
    assert {family: ways(net, family) for family in FAMILIES} == before
    other = '[[rule]]\nname = "other"\nfrom = "192.168.7.0/24"\nuse = "main"\n'
    configure(daemon, configuration(net, "10m", more=other))
    assert {family: ways(net, family) for family in FAMILIES} == before
    configure(daemon, configuration(net, "10m"))


def test_tiers(world: tuple[Network, Daemon]) -> None:
    """A source that stuck to a lower tier takes the better one again once that is back."""
    net, daemon = world
    configure(daemon, configuration(net, "10m", members='[["wan1"], ["wan2", "wan3"]]'))
    assert spread(ways(net)) == {1}
    net.silence(1, gateway=True)
    wait_usable(daemon, "wan2", "wan3")
    found = ways(net, times=5)
    assert (spread(found), {len(each) for each in found.values()}) == ({2, 3}, {1})
    net.speak(1)
    wait_usable(daemon, "wan1", "wan2", "wan3")
    assert spread(ways(net, times=5)) == {1}
    configure(daemon, configuration(net, "10m"))


def test_the_routers_own_by_marks(world: tuple[Network, Daemon]) -> None:
    """Where marks choose, the router itself is a source like another."""
    net, daemon = world
    configure(daemon, configuration(net, "10m") + '[daemon]\nown_connections = "mark"\n')
    for family in FAMILIES:
        assert len(connect_many(net, "router", 40, port=80, family=family)) == 1
        assert len(connect_many(net, "router", 40, family=family)) == 3
    configure(daemon, configuration(net, "10m"))


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_forgotten(world: tuple[Network, Daemon], family: Family) -> None:
    """After the timeout without a connection a source is drawn for anew."""
    net, daemon = world
    configure(daemon, configuration(net, "1s"))
    first = ways(net, family)
    for _ in range(4):  # each connection renews it
        time.sleep(0.5)
        assert ways(net, family) == first
    time.sleep(1.6)
    again = ways(net, family)
    assert Counter(first[n] == again[n] for n in SOURCES)[False] > 5


def test_a_long_connection_renews_it(world: tuple[Network, Daemon]) -> None:
    """A connection that goes on, 200 packets a second, keeps its source where it is, twice as long as the timeout."""
    net, daemon = world
    configure(daemon, configuration(net, "2s").replace("ports = 80", "ports = [7, 80]"))
    talkers = [net.lan(1).source(n) for n in range(1, 9)]
    streams = [UdpStream(net, "lan1", rate=200, source=source) for source in talkers]
    for stream in streams:
        stream.wait_started()
    time.sleep(4.5)
    found = {n: ways(net, sources=[n], times=3)[n] for n in range(1, 9)}
    assert found == {n: set(s.stop().by_uplink()) for n, s in enumerate(streams, 1)}


def test_the_example() -> None:
    """As in etc/examples/sticky.toml, web connections of a client keep its way out, and others are spread 3 to 1."""
    with Network(2, interfaces=("eth1", "eth2")) as net, Daemon(net, EXAMPLE + QUICK) as daemon:
        wait_usable(daemon, "fiber", "cable")
        found = ways(net, times=10, sources=range(1, 81))
        assert {len(each) for each in found.values()} == {1}
        assert 45 < sum(way == {1} for way in found.values()) < 75
        assert 600 < connect_many(net, "lan1", 1000)[1] < 850
