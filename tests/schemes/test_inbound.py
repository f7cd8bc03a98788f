"""Replies to connections that came in leave by the uplink they came in on (scenario 10)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from mlbd.lab import echo
from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network
from tests.lab.inbound import FORWARDED, FORWARDING, asked
from tests.lab.scene import QUICK, tables, wait_usable


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[Network, Daemon]]:
    """Servers on the router and in the LAN, and a port of the router that is forwarded there."""
    with ExitStack() as stack:
        net = stack.enter_context(Network(3))
        net.run("router", ["nft", "-f", "-"], text=FORWARDING)
        for where in ("router", "lan1"):
            with net.inside(where):
                server = echo.start()
            stack.callback(server.wait)
            stack.callback(server.kill)
        daemon = stack.enter_context(Daemon(net, tables(net) + QUICK))
        yield net, daemon
        assert "Traceback" not in daemon.log_text()


def answered(net: Network, kind: str, family: int, port: int) -> list[int]:
    """How many of six clients each uplink could serve."""
    return [sum(asked(net, kind, family, n, port, host=200 + k) for k in range(6)) for n in (1, 2, 3)]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    ("kind", "port"), [("tcp", echo.PORT), ("udp", echo.PORT), ("ping", 0), ("tcp", FORWARDED), ("udp", FORWARDED)]
)
def test_replies_leave_by_the_way_the_question_came(
    world: tuple[Network, Daemon], kind: str, port: int, family: int
) -> None:
    """TCP, UDP and ping to the router, and TCP and UDP forwarded to a LAN host, work over every uplink."""
    net, _ = world
    assert answered(net, kind, family, port) == [6, 6, 6]
    assert [net.wrong_source(n) for n in (1, 2, 3)] == [0, 0, 0]


@pytest.mark.parametrize("fault", ["silent", "unplugged", "removed"])
def test_replies_do_so_before_the_uplink_is_proven(world: tuple[Network, Daemon], fault: str) -> None:
    """An uplink that just came back answers what comes in on it, before it carries new connections of ours."""
    net, daemon = world
    {"silent": lambda n: net.silence(n, gateway=True), "unplugged": net.unplug, "removed": net.remove}[fault](2)
    wait_usable(daemon, "wan1", "wan3")
    net.drop_icmp(2)  # the probes go on failing, so that it stays unproven
    {"silent": net.speak, "unplugged": net.plug, "removed": net.restore}[fault](2)
    daemon.wait_for(lambda status: bool(status["uplinks"][1]["carrier"] and status["uplinks"][1]["gateway"]))
    try:
        for kind, port in (("tcp", echo.PORT), ("udp", FORWARDED), ("tcp", FORWARDED), ("udp", echo.PORT)):
            assert [asked(net, kind, family, 2, port) for family in (4, 6)] == [True, True], (kind, port)
        assert daemon.uplink("wan2")["usable"] is False
    finally:
        net.drop_icmp(2, drop=False)
        wait_usable(daemon, "wan1", "wan2", "wan3")
    assert [net.wrong_source(n) for n in (1, 2, 3)] == [0, 0, 0]
