"""Loss, delay, jitter and reordering by the kernel's own emulator of networks, tc-netem(8), at a provider."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network
from mlbd.lab.traffic import connect_many
from tests.lab.scene import conversation_by, tables, wait_usable
from tests.vm.pair import wait_until

Lab = tuple[Network, Daemon]
LIMIT = 30.0
"""Seconds that each wait may take: the machine is slow."""

PROBE = """[probe]
interval = "50ms"
suspect_interval = "50ms"
fall = 3
window = "2s"
hold_max = "0s"

[probe.degrade]
loss = ["20%", "5%"]
rtt = ["180ms", "90ms"]
jitter = ["45ms", "20ms"]
"""
"""The timeout follows the round trips, as by default. Without netem the machine has 2 ms and less of both."""
LOSS = ("loss", "40%")
LATENCY = ("delay", "300ms")
JITTER = ("delay", "100ms", "100ms")
"""Evenly between 0 and 200 ms: 67 ms from one to the next on average."""
REORDERING = ("delay", "80ms", "reorder", "100%", "gap", "7")
"""Each seventh packet passes those of the last 80 ms: 23 ms of jitter."""


@pytest.fixture(scope="module")
def world() -> Iterator[Lab]:
    subprocess.run(["modprobe", "sch_netem"], check=True)
    with Network(2) as net:
        translated = 'nat6 = "masquerade"'
        daemon = Daemon(net, tables(net, translated, translated) + PROBE)
        daemon.start(timeout=LIMIT)
        yield net, daemon
        assert "Traceback" not in daemon.log_text()
        assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]


@pytest.fixture
def lab(world: Lab) -> Iterator[Lab]:
    """Both uplinks are well, before and after."""
    _, daemon = world
    wait_well(daemon)
    yield world
    wait_well(daemon)


def wait_well(daemon: Daemon) -> None:
    wait_usable(daemon, "wan1", "wan2", timeout=LIMIT)
    daemon.wait_for(
        lambda s: not any(u["degraded"] for u in s["uplinks"]), timeout=LIMIT, what="that no uplink is degraded"
    )


@contextmanager
def netem(net: Network, number: int, *what: str) -> Iterator[None]:
    """What this provider sends to the router passes netem until the block ends; what is in it then is lost."""
    where, qdisc = f"isp{number}", ["dev", "customer", "root", "netem"]
    net.run(where, ["tc", "qdisc", "add", *qdisc, *what])
    try:
        yield
    finally:
        net.run(where, ["tc", "qdisc", "del", *qdisc])


def changes(daemon: Daemon, uplink: str = "wan1") -> list[tuple[str, str]]:
    """Each change of an uplink, with its reason. It is in the log when the kernel has what follows from it."""
    return [(e["event"], e["reason"]) for e in daemon.log() if e.get("uplink") == uplink and "reason" in e]


def wait_changes(daemon: Daemon, count: int, uplink: str = "wan1") -> None:
    wait_until(lambda: len(changes(daemon, uplink)) >= count, what=f"change {count} of {uplink}")


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (LOSS, r"loss \d+% is over 20%"),
        (LATENCY, r"round trip \d+ ms is over 180 ms"),
        (JITTER, r"jitter \d+ ms is over 45 ms"),
    ],
    ids=["loss", "latency", "jitter"],
)
def test_a_poor_uplink_is_degraded_and_recovers(lab: Lab, what: tuple[str, ...], reason: str) -> None:
    """Loss, latency and jitter each degrade an uplink, for that reason alone, and do not take it down: connections
    stay, new ones avoid it, of both families and of the router too, and they come back when it is good again.
    """
    net, daemon = lab
    before = len(changes(daemon))
    with conversation_by(net, 1) as talking:
        with netem(net, 1, *what):
            wait_changes(daemon, before + 1)
            for where, family in (("lan1", 4), ("lan1", 6), ("router", 4)):
                assert connect_many(net, where, 30, family=family) == {2: 30}
            talking.say(timeout=LIMIT)
        wait_changes(daemon, before + 2)
        assert connect_many(net, "lan1", 40).keys() == {1, 2}
        talking.say(timeout=LIMIT)
    degraded, restored = changes(daemon)[before:]
    assert (degraded[0], restored) == ("uplink_degraded", ("uplink_restored", "its quality is good again"))
    assert re.fullmatch(reason, degraded[1])


def test_a_poor_uplink_is_used_where_nothing_is_better(lab: Lab) -> None:
    """A degraded uplink gets no new connection, then all of them while the other has no carrier, none when that one is
    back, and its share when that one is as poor.
    """
    net, daemon = lab
    with netem(net, 1, *LATENCY):
        wait_changes(daemon, len(changes(daemon)) + 1)
        assert connect_many(net, "lan1", 20) == {2: 20}
        net.unplug(2)
        wait_usable(daemon, "wan1", timeout=LIMIT)
        assert connect_many(net, "lan1", 20, timeout=LIMIT) == {1: 20}
        net.plug(2)
        wait_usable(daemon, "wan1", "wan2", timeout=LIMIT)
        assert connect_many(net, "lan1", 20, timeout=LIMIT) == {2: 20}
        with netem(net, 2, *LATENCY):
            wait_changes(daemon, len(changes(daemon, "wan2")) + 1, "wan2")
            assert connect_many(net, "lan1", 40, timeout=LIMIT).keys() == {1, 2}


def test_reordering_does_no_harm(lab: Lab) -> None:
    """Replies that overtake others are counted, and so are those: nothing is lost, and the uplink keeps its share."""
    net, daemon = lab
    before = changes(daemon)
    with netem(net, 1, *REORDERING):
        ping = ["ping", "-n", "-c", "60", "-i", "0.05", net.uplink(1).gateway]
        order = [int(number) for number in re.findall(r"icmp_seq=(\d+)", net.run("router", ping))]
        assert (order != sorted(order), sorted(order)) == (True, [*range(1, 61)])
        # The window is full of it by now. A reply that is late is lost until it comes.
        daemon.wait_for(lambda s: s["uplinks"][0]["loss"] == 0.0, timeout=LIMIT, what="that no probe is lost")
        assert connect_many(net, "lan1", 40).keys() == {1, 2}
    assert changes(daemon) == before
