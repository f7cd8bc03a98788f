"""An uplink without a gateway: a point-to-point device that a process holds, as PPP or a modem (scenario 3).

Not PPP itself: that needs a kernel with ppp_generic and ppp_async, which is not everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlbd.lab import layout, tun
from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network, wait_until
from mlbd.lab.traffic import connect_many
from mlbd.lab.tun import TunLine
from tests.health.pace import SOON
from tests.lab.scene import stream_by, tables, wait_usable

pytestmark = pytest.mark.skipif(bool(tun.unavailable()), reason=tun.unavailable())

Scene = tuple[Network, Daemon, TunLine]
BEHIND = layout.server(9)
MASQUERADE6 = 'nat6 = "masquerade"'
NO_GATEWAY = f'gateway = "none"\ngateway6 = "none"\n{MASQUERADE6}\n'
FAR = f'{NO_GATEWAY}[uplink.probe]\ntargets = ["{BEHIND}"]'


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """Uplink 1 is a cable; uplink 2 a line that is not dialled yet, with a target behind it."""
    with Network(2) as net, TunLine(net, 2) as line, Daemon(net, tables(net, MASQUERADE6, FAR) + SOON) as daemon:
        wait_usable(daemon, "wan1")
        stream = stream_by(net, 1, rate=100)
        yield net, daemon, line
        assert "Traceback" not in daemon.log_text()
        assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]
        done = stream.stop()
        assert (done.lost, set(done.by_uplink())) == (0, {1})
        assert daemon.uplink("wan1")["transitions"] == 1


def works(net: Network, own4: str) -> None:
    """Both uplinks carry both families, forwarded and own, the line with this address."""
    for family, own in ((4, own4), (6, net.uplink(2).address6)):
        for where, count in (("lan1", 40), ("router", 60)):
            assert connect_many(net, where, count, family=family).keys() == {1, 2}
        assert connect_many(net, "router", 5, family=family, sources=[own]) == {2: 5}


def test_a_line_is_dialled_falls_silent_and_is_dialled_again(scene: Scene) -> None:
    """A line that appears is used once a target behind it has answered; while it is silent the other uplink carries
    everything; when its process dies its device is gone, and dialled again, with the same name, another index and
    another address, it is used again.
    """
    net, daemon, line = scene
    assert daemon.uplink("wan2")["reason"] == "interface wan2 does not exist"

    first = line.dial()
    wait_usable(daemon, "wan1", "wan2")
    uplink = daemon.uplink("wan2")
    assert (uplink["gateway"], uplink["gateway6"], uplink["targets"][0]["address"]) == ("none", "none", BEHIND)
    works(net, first)

    line.stop()
    wait_usable(daemon, "wan1")
    assert daemon.uplink("wan2")["carrier"] is True
    for where in ("lan1", "router"):
        assert connect_many(net, where, 20) == {1: 20}
    line.go_on()
    wait_usable(daemon, "wan1", "wan2")
    works(net, first)

    line.hang_up()
    wait_usable(daemon, "wan1")
    daemon.wait_for(lambda s: s["uplinks"][1]["reason"] == "interface wan2 does not exist")
    assert connect_many(net, "lan1", 20) == {1: 20}
    second = line.dial(host=77)
    wait_usable(daemon, "wan1", "wan2")
    assert second != first
    works(net, second)


def test_the_peer_is_the_gateway_to_probe(scene: Scene) -> None:
    """Without a target of its own the far end of the line is probed, and the target follows when it is another one."""
    net, daemon, line = scene
    line.hang_up()
    line.dial()
    daemon.configure(tables(net, MASQUERADE6, NO_GATEWAY) + SOON)
    daemon.reload()
    daemon.wait_for(lambda s: s["uplinks"][1]["targets"][0]["address"] == "10.2.0.1")
    wait_usable(daemon, "wan1", "wan2")
    for where, name, change in (
        ("isp2", "customer", "add 10.2.0.9 peer 10.2.0.2"),
        ("router", "wan2", "add 10.2.0.2 peer 10.2.0.9"),
        ("router", "wan2", "del 10.2.0.2 peer 10.2.0.1"),
    ):
        net.run(where, ["ip", "address", *change.split(), "dev", name])
    daemon.wait_for(lambda s: s["uplinks"][1]["targets"][0]["address"] == "10.2.0.9")
    wait_usable(daemon, "wan1", "wan2")
    wait_until(lambda: connect_many(net, "lan1", 20).keys() == {1, 2}, what="that both are used")
    line.stop()
    wait_usable(daemon, "wan1")
