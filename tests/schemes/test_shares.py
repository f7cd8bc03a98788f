"""New connections are spread as the policy says: shares, stickiness of sources, order of tiers."""

from __future__ import annotations

from collections import Counter

import pytest

from mlbd.lab import layout
from mlbd.lab.traffic import attempts, connect_many
from tests.lab.scene import QUICK, Start, wait_usable

SOURCES = [layout.source(1, n) for n in range(1, 61)]


def policy(method: str, members: str) -> str:
    return f'[[policy]]\nname = "p"\nmethod = "{method}"\nmembers = {members}\n'


@pytest.mark.parametrize(("method", "points"), [("round-robin", 3), ("random", 5)])
@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (34, 33, 33)], ids=str)
def test_shares_follow_the_weights(start: Start, method: str, points: float, weights: tuple[int, ...]) -> None:
    """Of 1,000 forwarded connections each uplink gets its weight's share, within 3 or 5 points, and none fails."""
    names = [f"wan{n}" for n in range(1, len(weights) + 1)]
    extra = tuple(f"weight = {weight}" for weight in weights)
    net, _ = start(len(weights), config=policy(method, str(names)), extra=extra)
    found = connect_many(net, "lan1", 1000)
    assert set(found) == set(range(1, len(weights) + 1))
    for number, weight in enumerate(weights, 1):
        # Random draws of 1,000 stray by 1.6 points (one sigma) by themselves: 5 points are three of them.
        assert found[number] / 10 == pytest.approx(100 * weight / sum(weights), abs=points)
    assert [net.wrong_source(n) for n in range(1, len(weights) + 1)] == [0] * len(weights)


def test_ipv6_shares_follow_the_weights(start: Start) -> None:
    """IPv6 connections, masqueraded, are shared as IPv4 ones are."""
    extra = ('weight = 3\nnat6 = "masquerade"', 'nat6 = "masquerade"')
    net, _ = start(config=policy("round-robin", '["wan1", "wan2"]'), extra=extra)
    found = connect_many(net, "lan1", 1000, family=6)
    assert set(found) == {1, 2}
    assert found[1] / 10 == pytest.approx(75, abs=3)
    assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]


def uplinks_of_sources(net: object, rounds: int = 3) -> dict[str, set[int | None]]:
    found: dict[str, set[int | None]] = {source: set() for source in SOURCES}
    for number, attempt in enumerate(attempts(net, "lan1", rounds * len(SOURCES), sources=SOURCES)):  # type: ignore[arg-type]
        found[SOURCES[number % len(SOURCES)]].add(attempt.uplink)
    return found


def test_a_source_keeps_its_uplink(start: Start) -> None:
    """With hash-source every source has one uplink, sources are spread over all, and those of healthy uplinks stay
    when another one fails, and all are where they were when it is back.
    """
    net, daemon = start(3, config=QUICK + policy("hash-source", '["wan1", "wan2", "wan3"]'))
    before = uplinks_of_sources(net)
    assert {len(found) for found in before.values()} == {1}
    spread = Counter(next(iter(found)) for found in before.values())
    assert set(spread) == {1, 2, 3}
    assert min(spread.values()) >= 8  # of 60; 20 are due
    net.silence(2, gateway=True)
    wait_usable(daemon, "wan1", "wan3")
    during = uplinks_of_sources(net)
    assert {source: found for source, found in during.items() if before[source] != {2}} == {
        source: found for source, found in before.items() if found != {2}
    }
    moved = [during[source] for source, found in before.items() if found == {2}]
    assert all(found in ({1}, {3}) for found in moved)
    net.speak(2)
    wait_usable(daemon, "wan1", "wan2", "wan3")
    assert uplinks_of_sources(net) == before


def test_failover_goes_down_the_list_and_back(start: Start) -> None:
    """With failover all connections take the first member that is usable, and return to it after its recovery."""
    net, daemon = start(3, config=QUICK + policy("failover", '["wan3", "wan1", "wan2"]'))
    assert connect_many(net, "lan1", 60) == {3: 60}
    net.silence(3, gateway=True)
    wait_usable(daemon, "wan1", "wan2")
    assert connect_many(net, "lan1", 60) == {1: 60}
    net.unplug(1)
    wait_usable(daemon, "wan2")
    assert connect_many(net, "lan1", 60) == {2: 60}
    assert connect_many(net, "router", 60) == {2: 60}
    net.speak(3)
    wait_usable(daemon, "wan2", "wan3")
    assert connect_many(net, "lan1", 60) == {3: 60}


def test_a_tier_carries_when_those_before_it_cannot(start: Start) -> None:
    """With tiers the second one carries nothing while the first has a usable member, and everything after that."""
    net, daemon = start(3, config=QUICK + policy("round-robin", '[["wan1", "wan2"], ["wan3"]]'))
    assert connect_many(net, "lan1", 100) == {1: 50, 2: 50}
    net.silence(1, gateway=True)
    wait_usable(daemon, "wan2", "wan3")
    assert connect_many(net, "lan1", 100) == {2: 100}
    net.silence(2, gateway=True)
    wait_usable(daemon, "wan3")
    assert connect_many(net, "lan1", 100) == {3: 100}
    assert connect_many(net, "router", 100) == {3: 100}
    net.speak(1)
    wait_usable(daemon, "wan1", "wan3")
    assert connect_many(net, "lan1", 100) == {1: 100}


@pytest.mark.parametrize("family", [4, 6])
def test_own_connections_follow_the_weights_and_fail_over(start: Start, family: int) -> None:
    """The router's own connections are spread by weight, with their uplink's address, and fail over (scenario 9)."""
    net, daemon = start(config=QUICK, extra=("weight = 3",))
    servers = range(1, 251)
    found = connect_many(net, "router", 1000, family=family, servers=servers)
    assert set(found) == {1, 2}
    assert found[1] / 10 == pytest.approx(75, abs=10)  # a hash spreads them, which is no draw
    net.silence(1, gateway=True)
    wait_usable(daemon, "wan2")
    assert connect_many(net, "router", 200, family=family, servers=servers) == {2: 200}
    net.speak(1)
    wait_usable(daemon, "wan1", "wan2")
    assert set(connect_many(net, "router", 200, family=family, servers=servers)) == {1, 2}
    assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]


@pytest.mark.parametrize("family", [4, 6])
def test_a_bound_source_leaves_by_its_uplink(start: Start, family: int) -> None:
    """What the router itself binds to an uplink's address leaves by this uplink, whatever the weights say."""
    net, _ = start(extra=("weight = 256",))
    for number in (1, 2):
        uplink = net.uplink(number)
        source = uplink.address if family == 4 else uplink.address6
        assert connect_many(net, "router", 50, family=family, sources=[source]) == {number: 50}
    assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]
