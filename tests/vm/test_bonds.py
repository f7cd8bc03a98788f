"""Bonds, as this kernel has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlbd.lab.network import wait_until
from tests.vm.pair import Pair


@pytest.fixture
def pair(bonding: None) -> Iterator[Pair]:
    """192.168.1.3 on the bond0 of a; 192.168.1.1 on a bridge of b, to which the cables go."""
    with Pair() as net:
        net.ip(
            "a",
            "link add bond0 type bond mode active-backup miimon 100",
            *(f"link set eth{n} master bond0" for n in (1, 2)),
            "link set bond0 up",
            "addr add 192.168.1.3/24 dev bond0",
        )
        net.ip(
            "b",
            "link add br0 type bridge",
            *(f"link set eth{n} master br0 up" for n in (1, 2)),
            "link set br0 up",
            "addr add 192.168.1.1/24 dev br0",
        )
        yield net


def active(net: Pair) -> str:
    with net.inside("a"):
        return next(
            line.rpartition(" ")[2]
            for line in Path("/proc/thread-self/net/bonding/bond0").read_text().splitlines()
            if line.startswith("Currently Active Slave:")
        )


def test_failover(pair: Pair) -> None:
    """A bond of veths in active-backup moves to its other member when the active one loses its carrier."""
    wait_until(lambda: pair.ping("a", "192.168.1.1"), timeout=30, what="an answer by the bond")
    before = active(pair)
    pair.ip("b", f"link set {before} down")
    wait_until(lambda: active(pair) not in (before, "None"), timeout=30, what="the move to the other member")
    assert {"eth1", "eth2"} == {before, active(pair)}
    assert pair.ping("a", "192.168.1.1", timeout=10)
