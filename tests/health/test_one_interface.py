"""Two uplinks behind one interface: two gateways on one cable, told apart by next hop, hardware address and mark."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from mlbd.lab import echo, layout
from mlbd.lab.daemon import Daemon
from mlbd.lab.network import wait_until
from mlbd.lab.segment import Segment
from mlbd.lab.traffic import TcpConversation, attempts, connect_many
from tests.health.pace import SOON
from tests.lab.inbound import FORWARDED, FORWARDING, asked
from tests.lab.scene import wait_usable

Scene = tuple[Segment, Daemon]


def configuration(net: Segment) -> str:
    """Targets behind the gateways, so that it matters by which of them a probe leaves; the same for both."""
    first, second = net.uplinks
    return f"""
{SOON.replace("[probe]", f'[probe]{chr(10)}targets = ["{layout.server(7)}"]')}

[[uplink]]
name = "fiber"
interface = "eth1"
gateway = "{first.gateway}"
gateway6 = "{first.gateway6}"
nat6 = "masquerade"

[[uplink]]
name = "cable"
interface = "eth1"
gateway = "{second.gateway}"
"""


@pytest.fixture(scope="module", params=["one subnet", "two subnets"])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    """With one address for both, and with an address in the subnet of each gateway."""
    with ExitStack() as stack:
        net = stack.enter_context(Segment(one_port=True, one_subnet=request.param == "one subnet"))
        net.run("router", ["nft", "-f", "-"], text=FORWARDING)
        for where in ("router", "lan1"):
            with net.inside(where):
                server = echo.start()
            stack.callback(server.wait)
            stack.callback(server.kill)
        daemon = stack.enter_context(Daemon(net, configuration(net)))
        wait_usable(daemon, "fiber", "cable")
        yield net, daemon
        assert "Traceback" not in daemon.log_text()


@pytest.fixture(autouse=True)
def right_sources(scene: Scene) -> Iterator[None]:
    """No provider gets a packet with an address that it did not give."""
    net, _ = scene
    before = [net.wrong_source(1), net.wrong_source(2)]
    yield
    assert [net.wrong_source(1), net.wrong_source(2)] == before


def test_both_carry_their_share(scene: Scene) -> None:
    """New connections are spread over both gateways, forwarded and the router's own; IPv6 leaves by one."""
    net, _ = scene
    for where in ("lan1", "router"):
        found = connect_many(net, where, 200)
        assert set(found) == {1, 2}
        assert 60 < found[1] < 140
        assert connect_many(net, where, 10, family=6) == {1: 10}


def test_each_keeps_its_connections(scene: Scene) -> None:
    """Long connections stay on the gateway where they began, while new ones go by either."""
    net, _ = scene
    for where in ("lan1", "router"):
        talks = [TcpConversation(net, where) for _ in range(8)]
        for _ in range(3):
            for talk in talks:
                talk.say()
        for talk in talks:
            talk.close()


@pytest.mark.parametrize("number", [1, 2])
def test_either_provider_may_fail(scene: Scene, number: int) -> None:
    """Probes of one server leave by both gateways, so the uplink behind which it is silent is out, and only that."""
    net, daemon = scene
    names = {1: "fiber", 2: "cable"}
    other = 3 - number
    before = daemon.uplink(names[other])["transitions"]
    net.silence(number)
    wait_usable(daemon, names[other])
    for where in ("lan1", "router"):
        assert connect_many(net, where, 20) == {other: 20}
    net.speak(number)
    wait_usable(daemon, "fiber", "cable")
    wait_until(lambda: connect_many(net, "lan1", 20, timeout=0.5).keys() == {1, 2}, what="that both are used")
    assert daemon.uplink(names[other])["transitions"] == before


@pytest.mark.parametrize("port", [echo.PORT, FORWARDED])
def test_replies_go_back_to_the_gateway_that_asked(scene: Scene, port: int) -> None:
    """Who comes in from the internet by a gateway, to the router or to a host in the LAN, is answered by that one."""
    net, _ = scene
    for number, uplink in enumerate(net.uplinks, 1):
        route = [f"{uplink.address}/32", "dev", f"isp{number}", "via", f"100.64.{number}.2"]
        net.run("internet", ["ip", "route", "add", *route])
        asking = [(kind, 200 + k) for kind in ("tcp", "udp") for k in range(4)]
        answers = [asked(net, kind, 4, number, port, host=host) for kind, host in asking]
        net.run("internet", ["ip", "route", "del", *route])
        assert answers == [True] * 8


def test_a_pulled_cable(scene: Scene) -> None:
    """Both are out at once, and both come back."""
    net, daemon = scene
    net.unplug(1)
    wait_usable(daemon)
    net.plug(1)
    wait_usable(daemon, "fiber", "cable")
    assert connect_many(net, "router", 60).keys() == {1, 2}


def test_a_ping_without_a_mark(scene: Scene) -> None:
    """A program that binds to the interface itself gets an answer by one of the gateways."""
    net, _ = scene
    assert {a.uplink for a in attempts(net, "router", 4, interface="eth1")} == {1}


def test_explain(scene: Scene) -> None:
    """`mlbd explain` names both gateways as candidates, and says how who comes in is answered."""
    net, daemon = scene
    shown = daemon.command("explain", destination=layout.server(1))
    assert [(c["uplink"], c["gateway"], c["device"]) for c in shown["candidates"]] == [
        ("fiber", net.uplink(1).gateway, "eth1"),
        ("cable", net.uplink(2).gateway, "eth1"),
    ]
    came = daemon.command("explain", destination=layout.server(1), source="198.51.100.7", interface="eth1")
    assert "if it comes from the gateway of fiber or cable, what answers it leaves by that uplink, too" in came["notes"]
    assert daemon.uplink("cable")["gateway"] == net.uplink(2).gateway
