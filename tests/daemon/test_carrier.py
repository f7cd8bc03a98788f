"""A cable is pulled and put back, where the kernel tells of it at once, and where it delays that as for real cards."""

from __future__ import annotations

import time

import pytest

from mlbd.lab.stream import UdpStream
from mlbd.lab.traffic import attempts, connect_many
from tests.lab.scene import QUICK, Start, in_background, wait_usable

FAMILIES = pytest.mark.parametrize("family", [4, 6])


@pytest.mark.parametrize("prompt", [True, False], ids=["prompt", "delayed"])
def test_a_pulled_cable_moves_traffic(start: Start, prompt: bool) -> None:
    """Some hundred ms after the cable was pulled all new connections succeed, and a stream of 1,000 packets/s has
    lost no more, whether or not the kernel delays its event by a second; docs/performance.md has the figures.
    """
    net, daemon = start(prompt_carrier=prompt)
    with UdpStream(net, "lan1", rate=1000) as stream:
        stream.wait_started()
        (number,) = stream.so_far().by_uplink()
        assert number is not None
        tried = in_background(attempts, net, "lan1", 100, rate=100)
        time.sleep(0.3)
        net.unplug(number)
        pulled = time.monotonic()
        others = [u.interface for u in net.uplinks if u.number != number]
        wait_usable(daemon, *others)
        late = [a for a in tried.result() if a.started > pulled and (a.took is None or a.took > 0.5)]
        assert not late or late[-1].started - pulled < 0.4
        found = stream.stop()
    assert found.lost <= 400
    assert set(found.by_uplink()) == {1, 2}
    assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]
    record = next(r for r in daemon.log() if r.get("event") == "uplink_down")
    assert record["reason"] == "carrier lost"


@FAMILIES
def test_own_connections_leave_a_pulled_cable(start: Start, family: int) -> None:
    """The router's own connections, too, leave a pulled cable for the other uplink."""
    net, daemon = start()
    net.unplug(1)
    wait_usable(daemon, "wan2")
    assert connect_many(net, "router", 60, family=family) == {2: 60}


def test_carrier_alone_is_no_evidence(start: Start) -> None:
    """An interface that reconnects while its path is dead carries nothing until probes are answered (scenario 1)."""
    net, daemon = start(config=QUICK)
    net.silence(1, gateway=True)
    net.unplug(1)
    wait_usable(daemon, "wan2")
    net.plug(1)
    daemon.wait_for(lambda status: bool(status["uplinks"][0]["carrier"]))
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        assert daemon.uplink("wan1")["usable"] is False
        assert connect_many(net, "lan1", 10) == {2: 10}
    net.speak(1)
    wait_usable(daemon, "wan1", "wan2")
    assert set(connect_many(net, "lan1", 60)) == {1, 2}
    assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]


def test_a_short_unplug_within_the_delay_changes_nothing(start: Start) -> None:
    """With a carrier_delay, carrier that is back before it is over is no transition (scenario 8)."""
    net, daemon = start(extra=('carrier_delay = "5s"',), prompt_carrier=True)
    net.unplug(1)
    daemon.wait_for(lambda status: not status["uplinks"][0]["carrier"])
    net.plug(1)
    daemon.wait_for(lambda status: bool(status["uplinks"][0]["carrier"]))
    time.sleep(0.3)
    uplink = daemon.uplink("wan1")
    assert (uplink["usable"], uplink["transitions"]) == (True, 1)
