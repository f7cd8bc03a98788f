"""A line with a loose contact: the gateway waits until it is stable."""

from __future__ import annotations

import time

import pytest

from mlbd.lab.pair_programs import missing
from tests.pair.scene import as_written, lost, scene


@pytest.mark.skipif(bool(missing()), reason="keepalived or conntrackd is not installed")
def test_a_line_that_flaps_moves_the_gateway_once_each_way() -> None:
    """With the example's own files, five losses of carrier in five seconds move segment 1 once, and a line that stays
    up moves it back once, after a time in which it had to be stable; segment 2 loses nothing.
    """
    with scene(as_written) as world:
        before = world.transitions()
        with world.streams() as streams:
            for _ in range(5):
                world.pair.unplug(1)
                time.sleep(0.4)
                world.pair.plug(1)
                plugged = time.monotonic()
                time.sleep(0.6)
            assert world.since(before) == {(1, 1): ["BACKUP"], (2, 1): ["MASTER"]}
            line = world.programs[1].daemon
            line.wait_for(lambda status: all(u["usable"] for u in status["uplinks"]), timeout=40)
            waited = time.monotonic() - plugged
            world.wait_held([1], [2])
            time.sleep(1.0)
            assert lost(streams[2].stop()) == []
        assert world.since(before) == {(1, 1): ["BACKUP", "MASTER"], (2, 1): ["MASTER", "BACKUP"]}
        assert waited > 1.0  # three answers, half a second apart
