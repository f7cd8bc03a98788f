"""A divided LAN, as in etc/examples/segments.toml: each segment has its own line, and the other's as standby."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network, wait_until
from mlbd.lab.traffic import TcpConversation, connect_many
from tests.lab.scene import QUICK, wait_usable

EXAMPLE = (Path(__file__).parents[2] / "etc" / "examples" / "segments.toml").read_text()


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[Network, Daemon]]:
    with Network(2, lans=2, interfaces=("eth1", "eth2")) as net, Daemon(net, EXAMPLE + QUICK) as daemon:
        wait_usable(daemon, "line1", "line2")
        yield net, daemon
        assert "Traceback" not in daemon.log_text()
        assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]


def test_each_segment_takes_its_own_line(world: tuple[Network, Daemon]) -> None:
    """Of 500 connections of each segment, from many hosts, every one leaves by the segment's line."""
    net, _ = world
    for lan in (1, 2):
        sources = [net.lan(lan).source(n, 4) for n in range(1, 21)]
        assert connect_many(net, f"lan{lan}", 500, sources=sources) == {lan: 500}


def test_segments_reach_each_other(world: tuple[Network, Daemon]) -> None:
    """Traffic between the segments leaves by no line."""
    net, _ = world
    net.serve("lan2")
    assert connect_many(net, "lan1", 20, servers=["192.168.2.2"]) == {None: 20}
    assert {n: net.wrong_source(n) for n in (1, 2)} == {1: 0, 2: 0}


@pytest.mark.parametrize("fault", ["silent", "unplugged"])
def test_a_segment_falls_back_and_returns(world: tuple[Network, Daemon], fault: str) -> None:
    """With its line gone, a segment uses the other's, whose own connections do not notice; when the line is back, new
    connections return to it and those that began on the standby stay there.
    """
    net, daemon = world
    with TcpConversation(net, "lan2", interval=0.02) as other:
        net.silence(1, gateway=True) if fault == "silent" else net.unplug(1)
        wait_usable(daemon, "line2")
        assert connect_many(net, "lan1", 100) == {2: 100}
        with TcpConversation(net, "lan1", interval=0.02) as moved:
            assert moved.uplink == 2
            net.speak(1) if fault == "silent" else net.plug(1)
            wait_usable(daemon, "line1", "line2")
            assert connect_many(net, "lan1", 100) == {1: 100}
            before = len(moved.exchanges)
            assert connect_many(net, "lan2", 100) == {2: 100}
            wait_until(lambda: len(moved.exchanges) > before + 5, what="five more answers")
            assert moved.reset is None
            assert max(e.answered - e.sent for e in moved.exchanges) < 0.5
        assert other.reset is None
        assert max(e.answered - e.sent for e in other.exchanges) < 0.5


def test_both_lines_gone(world: tuple[Network, Daemon]) -> None:
    """With both lines dead, each segment keeps its last resort: the line that failed last, as probes may be wrong."""
    net, daemon = world
    net.drop_icmp(1)
    wait_usable(daemon, "line2")
    net.drop_icmp(2)
    wait_usable(daemon)
    assert connect_many(net, "lan1", 20) == {2: 20}
    assert connect_many(net, "lan2", 20) == {2: 20}
    net.drop_icmp(1, drop=False)
    net.drop_icmp(2, drop=False)
    wait_usable(daemon, "line1", "line2")
