"""Two routers without a fault: who is whose gateway, and what each knows of the other's connections."""

from __future__ import annotations

import re

import pytest

from mlbd.lab.network import wait_until
from mlbd.lab.traffic import TcpConversation, connect_many
from tests.pair.scene import Scene


def test_each_segment_leaves_by_its_own_line(world: Scene) -> None:
    """Connections and a stream of each segment, from many hosts, all leave by the line of the segment's own router."""
    with world.streams() as streams:
        for k in (1, 2):
            sources = [world.pair.lan(k).source(n) for n in range(1, 21)]
            assert connect_many(world.pair, f"lan{k}", 100, sources=sources) == {k: 100}
            assert set(streams[k].stop().by_uplink()) == {k}
    assert [world.pair.holders(k) for k in (1, 2)] == [[1], [2]]


def test_segments_reach_each_other(world: Scene) -> None:
    """What goes from one segment to the other leaves by no line, although it comes back through the other router."""
    world.pair.serve("lan2")
    assert connect_many(world.pair, "lan1", 20, servers=[world.pair.lan(2).client]) == {None: 20}


@pytest.mark.parametrize("k", [1, 2])
def test_a_connection_is_known_to_the_other_router(world: Scene, k: int) -> None:
    """Within a second, the other router has an established connection too, with its line's mark and translation; it has
    none of a stream.
    """
    pair, own, other = world.pair, world.programs[k], world.programs[3 - k]
    with TcpConversation(pair, f"lan{k}", server=9, source=pair.lan(k).source(99)), world.streams():
        asked = ("-s", pair.lan(k).source(99))
        wait_until(lambda: "ASSURED" in other.connections(*asked), timeout=1.0, what="that it is told")
        known = [re.sub(r" \d+ ESTABLISHED", "", programs.connections(*asked)) for programs in (own, other)]
        assert known[0] == known[1]
        assert f"dst={pair.uplink(k).address} " in known[0]
        assert other.connections("-p", "udp", "-s", pair.lan(k).client) == ""
