"""TCP connections that were there before a gateway moved: they keep the line that they began with, while it lives."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlbd.lab.network import wait_until
from mlbd.lab.traffic import TcpConversation, connect_many
from tests.pair.scene import Scene


@contextmanager
def kept(talking: TcpConversation) -> Iterator[None]:
    """What happens in the block breaks the conversation at no time, and holds it up for less than 2 s."""
    begin = time.monotonic()
    yield
    time.sleep(0.5)
    assert talking.reset is None, talking.error
    late = [e for e in talking.exchanges if e.sent >= begin]
    assert late[-1].answered > time.monotonic() - 0.5
    assert max(e.answered - e.sent for e in late) < 2.0


def test_a_gateway_that_moves_while_both_lines_live(world: Scene) -> None:
    """Conversations of line 1 go on by line 1, through both routers, while router 2 is the gateway, and new connections
    leave by line 2; those go on by line 2 when router 1 is the gateway again.
    """
    pair, router = world.pair, world.programs[1]
    with TcpConversation(pair, "lan1", interval=0.02) as first:
        with kept(first):
            router.stop_keepalived()
            world.wait_held([2], [2])
        assert connect_many(pair, "lan1", 20) == {2: 20}
        with TcpConversation(pair, "lan1", interval=0.02) as second:
            assert (first.uplink, second.uplink) == (1, 2)
            with kept(first), kept(second):
                router.start_keepalived()
                world.wait_at_home()
            assert connect_many(pair, "lan1", 20) == {1: 20}


def test_a_connection_begun_while_the_line_was_dead(world: Scene) -> None:
    """It stays on the other line, through both routers, when the gateway has returned."""
    pair = world.pair
    pair.silence(1)
    world.wait_held([2], [2])
    with TcpConversation(pair, "lan1", interval=0.02) as talking:
        assert talking.uplink == 2
        with kept(talking):
            pair.speak(1)
            world.wait_at_home()


@pytest.mark.skipif(
    Path("/proc/self/setgroups").read_text() == "deny\n", reason="keepalived runs no scripts without setgroups(2)"
)
def test_a_router_that_died_and_returns(world: Scene) -> None:
    """A conversation of line 1 that was idle while router 1 was dead goes on when it is back."""
    router = world.programs[1]
    with TcpConversation(world.pair, "lan1") as idle:
        idle.say()
        asked = ("-p", "tcp", "-s", world.pair.lan(1).client, "--state", "ESTABLISHED")
        wait_until(lambda: "ASSURED" in world.programs[2].connections(*asked), what="that router 2 knows")
        time.sleep(0.2)  # until the last delayed ACK: what the server repeats meets a router that does not know it yet
        router.power_off()
        world.wait_held([2], [2])
        router.power_on()
        world.start(1)
        world.wait_at_home()
        idle.say()
        assert idle.uplink == 1
