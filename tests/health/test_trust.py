"""Verdicts that a person trusts: poor uplinks, dead targets, probes that fail for another reason, links that flap."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from mlbd.lab import layout
from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network, wait_until
from mlbd.lab.stream import UdpStream
from mlbd.lab.traffic import TcpConversation, connect_many
from tests.lab.scene import QUICK, Start, tables, wait_usable

POOR = """[probe]
interval = "50ms"
suspect_interval = "50ms"
timeout = "200ms"
fall = 20
window = "3s"
hold_max = "0s"
"""
"""What takes a minute with the defaults takes three seconds with these."""


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[Network, Daemon]]:
    with Network(2) as net, Daemon(net, tables(net) + QUICK) as daemon:
        wait_usable(daemon, "wan1", "wan2")
        yield net, daemon
        assert "Traceback" not in daemon.log_text()
        assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]


def use(daemon: Daemon, text: str) -> None:
    daemon.configure(text)
    daemon.reload()


def test_a_poor_uplink_is_degraded_not_down(world: tuple[Network, Daemon]) -> None:
    """With three of ten packets lost it gets no new connections, keeps those it has, and is used if nothing better is
    (scenario 16).
    """
    net, daemon = world
    use(daemon, tables(net) + POOR)
    talking = [TcpConversation(net, "lan1", interval=0.1) for _ in range(8)]
    net.lose(1, 0.3)
    daemon.wait_for(lambda s: s["uplinks"][0]["degraded"], timeout=10)
    status = daemon.uplink("wan1")
    assert (status["usable"], "loss" in status["reason"]) == (True, True)
    assert connect_many(net, "lan1", 40) == {2: 40}
    assert [c.reset for c in talking] == [None] * 8
    net.silence(2, gateway=True)
    daemon.wait_for(lambda s: not s["uplinks"][1]["usable"], timeout=10)
    assert 1 in connect_many(net, "lan1", 10, timeout=3)
    net.speak(2)
    net.lose(1, 0.0)
    daemon.wait_for(lambda s: [(u["usable"], u["degraded"]) for u in s["uplinks"]] == [(True, False)] * 2, timeout=15)
    assert set(connect_many(net, "lan1", 60)) == {1, 2}
    for conversation in talking:
        conversation.close()
    events = [e["event"] for e in daemon.log() if e.get("uplink") == "wan1" and e["event"].startswith("uplink_")]
    assert events[-2:] == ["uplink_degraded", "uplink_restored"]
    use(daemon, tables(net) + QUICK)


def test_a_dead_target_takes_nothing_down(world: tuple[Network, Daemon]) -> None:
    """Of three targets with a quorum of two one may be dead; `status` shows each (scenario 19)."""
    net, daemon = world
    targets = f'targets = ["gateway", "{layout.server(3)}", "192.0.2.77"]\nquorum = 2\n'
    use(daemon, tables(net) + QUICK.replace("[probe]\n", f"[probe]\n{targets}"))
    daemon.wait_for(lambda s: all(u["usable"] and len(u["targets"][2]["evidence"]) > 5 for u in s["uplinks"]))
    for uplink in daemon.status()["uplinks"]:
        assert [t["loss"] > 0.9 for t in uplink["targets"]] == [False, False, True]
        assert uplink["targets"][2]["reason"] != ""
    net.silence(1)
    wait_usable(daemon, "wan2")
    net.speak(1)
    wait_usable(daemon, "wan1", "wan2")
    use(daemon, tables(net) + QUICK)


def test_probes_that_fail_while_traffic_returns_are_said(world: tuple[Network, Daemon]) -> None:
    """With the probes of all uplinks failing and a stream that is answered, `status` says so, and nothing is cut off
    (scenario 20).
    """
    net, daemon = world
    stream = UdpStream(net, "lan1", rate=200)
    stream.wait_started()
    for n in (1, 2):
        net.drop_icmp(n)
    wait_usable(daemon)
    daemon.wait_for(
        lambda s: any(w.startswith("the probes of all uplinks fail at once") for w in s["warnings"]), timeout=9
    )
    for n in (1, 2):
        net.drop_icmp(n, drop=False)
    wait_usable(daemon, "wan1", "wan2")
    wait_until(lambda: daemon.status()["warnings"] == [], what="that the warning is over")
    assert stream.stop().longest_gap < 1.0


def test_a_flapping_uplink_is_held_back_longer_each_time(start: Start) -> None:
    """After each outage it must be good for longer, and carries nothing before (scenario 7)."""
    net, daemon = start(config=QUICK.replace('hold_max = "0s"', 'hold = "500ms"'))
    wait_usable(daemon, "wan1", "wan2")
    held = []
    for _ in range(2):
        net.silence(1, gateway=True)
        wait_usable(daemon, "wan2")
        net.speak(1)
        daemon.wait_for(lambda s: s["uplinks"][0]["verdict"] == "RISING")
        began = time.monotonic()
        assert connect_many(net, "lan1", 20) == {2: 20}
        wait_usable(daemon, "wan1", "wan2")
        held.append(time.monotonic() - began)
    assert held[0] < 0.9 < held[1]
