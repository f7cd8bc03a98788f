"""A short walk with every `make test`, and ways to where long ones have found something; `make chaos` goes far."""

from __future__ import annotations

from mlbd.lab.network import Network
from tests.chaos.walk import UPLINKS, Walk

SEED, EVENTS = 53, 22


def test_a_short_walk() -> None:
    """Whatever happens at random, the kernel and the packets are as the true facts demand when it has settled."""
    with Network(UPLINKS, lans=2) as net:
        walk = Walk.begin(net)
        walk.at_random(SEED, EVENTS)
        assert walk.events >= EVENTS
        assert walk.counted["witnesses"] > 0


def test_ways_to_what_was_found() -> None:
    """Where long walks have found something, all is as demanded now.

    `remove 3`: mlbd plan would have forgotten the prefixes of an interface that is gone, and with `kill` mlbd itself.
    `drain 1, load-without-1; load-plain; kill`: who was removed and added again was drained after a restart.
    `unplug 2; plug 2, silence-arp 2`: who began to rise and failed was not reset before the next full look.
    """
    with Network(UPLINKS, lans=2) as net:
        walk = Walk.begin(net)
        walk.along("remove 3; kill; drain 1, load-without-1; load-plain; kill; unplug 2; plug 2 0.08, silence-arp 2")
        assert walk.counted["witnesses"] > 0
