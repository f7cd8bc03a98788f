"""A line dies while its router lives: the segment leaves by the other line, through the other router."""

from __future__ import annotations

import time

import pytest

from mlbd.lab.traffic import connect_many
from tests.pair.scene import Scene, lost


@pytest.mark.parametrize("fault", ["silent", "unplugged"])
@pytest.mark.parametrize("line", [1, 2])
def test_a_segment_moves_to_the_other_router_and_back_once(world: Scene, fault: str, line: int) -> None:
    """Within 2 s the segment's traffic leaves by the other line and its gateway is the other router's; when the line is
    back the gateway returns once, without a loss; the other segment loses nothing, and its gateway never moves.
    """
    other = 3 - line
    pair, before = world.pair, world.transitions()
    with world.streams() as streams:
        failed = time.monotonic()
        pair.silence(line) if fault == "silent" else pair.unplug(line)
        world.wait_held([other], [other])
        moved = time.monotonic()
        assert connect_many(pair, f"lan{line}", 50) == {other: 50}
        repaired = time.monotonic()
        pair.speak(line) if fault == "silent" else pair.plug(line)
        world.wait_at_home()
        time.sleep(0.5)  # what a move breaks, it breaks at once
        assert connect_many(pair, f"lan{line}", 50) == {line: 50}
        seen, beside = streams[line].stop(), streams[other].stop()
    assert lost(beside) == []
    assert set(beside.by_uplink()) == {other}
    assert [packet for packet in seen.packets if packet.sent >= repaired and packet.answered is None] == []
    assert (seen.longest_gap < 2.0, moved - failed < 3.0) == (True, True), (seen.longest_gap, moved - failed)
    assert world.since(before) == {(line, line): ["BACKUP", "MASTER"], (other, line): ["MASTER", "BACKUP"]}
