"""A whole router dies, or what runs on it: the other one is the gateway of both segments."""

from __future__ import annotations

import time

import pytest

from mlbd.lab.traffic import TcpConversation, connect_many
from tests.lab.scene import wait_usable
from tests.pair.scene import Scene, lost

ADVERTISED = 0.2
"""advert_int of keepalived.conf, seconds."""


@pytest.mark.parametrize("fault", ["dead", "hanging", "frozen"])
def test_the_other_router_takes_over(world: Scene, fault: str) -> None:
    """After four advertisements the segment goes on by the other router; its return costs nothing; the other segment
    loses nothing in all of this. `hanging`: its kernel does nothing, its links are up; `frozen`: only its programs.
    """
    pair, router, before = world.pair, world.programs[1], world.transitions()
    with world.streams() as streams:
        {"dead": router.power_off, "hanging": router.hang, "frozen": router.freeze}[fault]()
        world.wait_held([1, 2] if fault != "dead" else [2], [2])
        assert connect_many(pair, "lan1", 50) == {2: 50}
        repaired = time.monotonic()
        if fault == "dead":
            router.power_on()
            world.start(1)
        else:
            router.resume() if fault == "hanging" else router.thaw()
        world.wait_at_home()
        time.sleep(0.5)
        assert connect_many(pair, "lan1", 50) == {1: 50}
        seen, beside = streams[1].stop(), streams[2].stop()
    assert lost(beside) == []
    assert fault == "hanging" or set(beside.by_uplink()) == {2}
    assert [packet for packet in seen.packets if packet.sent >= repaired and packet.answered is None] == []
    assert seen.longest_gap < 5 * ADVERTISED
    assert world.since(before)[2, 1] == ["MASTER", "BACKUP"]
    assert {key for key in world.since(before) if key[1] == 2} <= {(1, 2)}
    assert world.wrong_sources() == world.wrong


def test_mlbd_dies_and_returns(world: Scene) -> None:
    """A killed mlbd, and one that starts again, moves no gateway and loses nothing."""
    daemon, before = world.programs[1].daemon, world.transitions()
    with world.streams() as streams:
        daemon.kill()
        time.sleep(1.0)
        daemon.start()
        time.sleep(1.0)
        assert {k: lost(stream.stop()) for k, stream in streams.items()} == {1: [], 2: []}
    assert world.since(before) == {}
    world.wait_at_home()


def test_mlbd_is_dead(world: Scene) -> None:
    """When nobody vouches for line 1 any more its segment moves to router 2, and back, without a loss: line 1 works."""
    programs, before = world.programs[1], world.transitions()
    with world.streams() as streams:
        programs.daemon.kill()
        for file in programs.track.iterdir():
            file.unlink()  # what systemd does after the watchdog time; see tests/vm/test_keepalived.py
        world.wait_held([2], [2])
        time.sleep(0.5)  # clients hear of it
        assert connect_many(world.pair, "lan1", 50) == {2: 50}
        programs.daemon.start()
        world.wait_at_home()
        time.sleep(0.5)
        assert {k: lost(stream.stop()) for k, stream in streams.items()} == {1: [], 2: []}
    assert world.since(before) == {(1, 1): ["BACKUP", "MASTER"], (2, 1): ["MASTER", "BACKUP"]}


def test_a_router_is_taken_out_on_purpose(world: Scene) -> None:
    """With its line drained a router sends new connections through the other router, which goes on with them when the
    router goes and when it returns; nothing is lost. What was begun before stays on the line that is drained.
    """
    pair, router = world.pair, world.programs[1]
    with world.streams() as before, TcpConversation(pair, "lan1", interval=0.02) as old:
        router.daemon.command("drain", uplink="line1")
        wait_usable(router.daemon, "line2")
        assert connect_many(pair, "lan1", 50) == {2: 50}
        time.sleep(0.3)
        assert {k: (lost(s), set(s.by_uplink())) for k, s in ((k, s.stop()) for k, s in before.items())} == {
            1: ([], {1}),
            2: ([], {2}),
        }
        assert (old.uplink, old.reset) == (1, None)
    assert pair.holders(1) == [1]
    with world.streams() as streams, TcpConversation(pair, "lan1", interval=0.02) as new:
        router.stop_keepalived()
        world.wait_held([2], [2])
        router.power_off()
        time.sleep(0.5)
        router.power_on()
        world.start(1)
        router.daemon.command("resume", uplink="line1")
        world.wait_at_home()
        time.sleep(0.5)
        assert {k: lost(stream.stop()) for k, stream in streams.items()} == {1: [], 2: []}
        assert (new.uplink, new.reset) == (2, None)
        assert max(e.answered - e.sent for e in new.exchanges) < 1.0
        assert new.exchanges[-1].answered > time.monotonic() - 1.0
