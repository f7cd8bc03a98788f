"""One uplink flaps twenty times under traffic of every kind; nothing goes the wrong way, and the other uplink is left
alone (scenario 18).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network
from mlbd.lab.stream import Summary, UdpStream
from mlbd.lab.traffic import Attempt, TcpConversation, attempts
from tests.lab.scene import QUICK, in_background, tables, wait_usable

FLAPS = 20
TIMEOUT = 2.5
"""Seconds that a connection is given."""


@dataclass
class Flaps:
    net: Network
    daemon: Daemon
    transitions: int
    """Of uplink 1."""
    connections: dict[str, list[Attempt]]
    """New ones, by place and family."""
    streams: list[Summary]
    """Two of LAN clients and one of the router."""
    pulled: list[tuple[float, float]]
    """From when the cable was pulled until traffic was switched, monotonic seconds."""
    silent: list[tuple[float, float]]
    """Likewise where the gateway fell silent."""
    healthy: list[TcpConversation]
    """By uplink 2, begun before the first flap."""


@pytest.fixture(scope="module")
def flaps() -> Iterator[Flaps]:
    with ExitStack() as stack:
        net = stack.enter_context(Network(2))
        masquerade6 = 'nat6 = "masquerade"'
        daemon = stack.enter_context(Daemon(net, tables(net, masquerade6, masquerade6) + QUICK))
        talking = [conversation for family in (4, 6) for conversation in _by_uplink_2(net, family, stack)]
        started = daemon.uplink("wan1")["transitions"]
        senders = [stack.enter_context(UdpStream(net, where, rate=200)) for where in ("lan1", "lan1", "router")]
        tried = {
            f"{where} {family}": in_background(attempts, net, where, 300, rate=30, family=family, timeout=TIMEOUT)
            for where, family in (("lan1", 4), ("lan1", 6), ("router", 4))
        }
        pulled: list[tuple[float, float]] = []
        silent: list[tuple[float, float]] = []
        for number in range(FLAPS):
            began = time.monotonic()
            if number % 2:
                net.unplug(1)
            else:
                net.silence(1, gateway=True)
            wait_usable(daemon, "wan2")
            (pulled if number % 2 else silent).append((began, time.monotonic()))
            (net.plug if number % 2 else net.speak)(1)
            wait_usable(daemon, "wan1", "wan2")
            time.sleep(0.1)  # for some connections to go there
        count = daemon.uplink("wan1")["transitions"] - started
        connections = {name: future.result() for name, future in tried.items()}
        yield Flaps(net, daemon, count, connections, [s.stop() for s in senders], pulled, silent, talking)
        assert "Traceback" not in daemon.log_text()


def _by_uplink_2(net: Network, family: int, stack: ExitStack) -> list[TcpConversation]:
    """Three conversations."""
    found: list[TcpConversation] = []
    while len(found) < 3:
        conversation = TcpConversation(net, "lan1", interval=0.02, family=family)
        stack.callback(conversation.close)
        if conversation.uplink == 2:
            found.append(conversation)
    return found


def test_it_flapped(flaps: Flaps) -> None:
    """Every flap was noticed, and its end too."""
    assert flaps.transitions == 2 * FLAPS


def test_no_packet_has_a_wrong_source(flaps: Flaps) -> None:
    """Neither provider saw one packet that is not its customer's."""
    assert [flaps.net.wrong_source(1), flaps.net.wrong_source(2)] == [0, 0]


def test_the_healthy_uplinks_connections_do_not_notice(flaps: Flaps) -> None:
    """Conversations by the other uplink are not broken, and none of their messages had to be sent twice."""
    assert [conversation.reset for conversation in flaps.healthy] == [None] * 6
    slowest = max(e.answered - e.sent for conversation in flaps.healthy for e in conversation.exchanges)
    assert slowest < 0.5


@pytest.mark.parametrize("whose", ["lan1 4", "lan1 6"])
def test_no_new_connection_is_refused(flaps: Flaps, whose: str) -> None:
    """No new connection is reset, and none is refused but those that met a pulled cable before the switch."""
    failed = [a for a in flaps.connections[whose] if a.error not in ("", "timeout")]
    # Until then the kernel itself knows that there is no route, and says so.
    assert {a.error for a in failed} <= {"EHOSTUNREACH"}
    assert [a for a in failed if not any(begin - 0.25 <= a.started < end for begin, end in flaps.pulled)] == []
    assert {a.uplink for a in flaps.connections[whose]} >= {1, 2}


def test_own_connections_end_only_where_they_could_not_go_on(flaps: Flaps) -> None:
    """A new connection of the router fails only if it began before a switch: its address leads to a dead uplink."""
    failed = [a for a in flaps.connections["router 4"] if a.error not in ("", "timeout")]
    assert {a.error for a in failed} <= {"EHOSTUNREACH", "ECONNABORTED"}
    outages = flaps.pulled + flaps.silent
    assert [a for a in failed if not any(begin - TIMEOUT <= a.started < end for begin, end in outages)] == []
    assert {a.uplink for a in flaps.connections["router 4"]} >= {1, 2}


def test_no_datagram_of_the_healthy_uplink_is_lost(flaps: Flaps) -> None:
    """Once a client's stream of datagrams has moved to the other uplink, it loses nothing more and stays there."""
    for stream in flaps.streams[:2]:
        moved = next((p.sent for p in stream.packets if p.uplink == 2), time.monotonic())
        after = [p for p in stream.packets if p.sent > moved + 0.02]
        assert {(p.answered is not None, p.uplink) for p in after} == {(True, 2)}
