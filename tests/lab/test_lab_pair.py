"""The lab of two routers: what is where, and that each fault is what it says. Without the programs of a router."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from mlbd.lab import namespaces
from mlbd.lab.pair import BOTH, Pair
from mlbd.lab.traffic import connect_many

_MASQUERADE = 'table ip nat { chain post { type nat hook postrouting priority srcnat; oifname "wan" masquerade; }; }'


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with Pair() as found:
        for n in BOTH:
            prepare(found, n)
        yield found


def prepare(pair: Pair, n: int) -> None:
    """What keepalived and mlbd do: the gateway of its own segment, and translation."""
    pair.run(f"router{n}", ["ip", "address", "replace", f"{pair.lan(n).router}/24", "dev", f"seg{n}"])
    pair.run(f"router{n}", ["nft", "-f", "-"], text=_MASQUERADE)


def carriers(pair: Pair, n: int) -> dict[str, bool]:
    return {
        name: "LOWER_UP" in pair.run(f"router{n}", ["ip", "link", "show", name]) for name in ("seg1", "seg2", "wan")
    }


def test_each_router_has_a_leg_in_both_segments_and_a_line(pair: Pair) -> None:
    """Whoever has a segment's gateway sends it by its own line, and each router reaches the other in both segments."""
    assert [pair.holders(k) for k in BOTH] == [[1], [2]]
    assert [connect_many(pair, f"lan{k}", 10, sources=[pair.lan(k).source(7)]) for k in BOTH] == [{1: 10}, {2: 10}]
    assert [pair.ping("router1", pair.own_address(2, k)) for k in BOTH] == [True, True]
    assert [pair.wrong_source(n) for n in BOTH] == [0, 0]


def test_a_gateway_that_moves(pair: Pair) -> None:
    """The other router can have a segment's gateway, and then its line carries the segment."""
    pair.run("router1", ["ip", "address", "del", "192.168.1.1/24", "dev", "seg1"])
    pair.run("router2", ["ip", "address", "add", "192.168.1.1/24", "dev", "seg1"])
    pair.run("lan1", ["ip", "neigh", "flush", "all"])
    assert pair.holders(1) == [2]
    assert connect_many(pair, "lan1", 10) == {2: 10}
    pair.run("router2", ["ip", "address", "del", "192.168.1.1/24", "dev", "seg1"])
    pair.run("router1", ["ip", "address", "add", "192.168.1.1/24", "dev", "seg1"])
    pair.run("lan1", ["ip", "neigh", "flush", "all"])


def test_cables(pair: Pair) -> None:
    """A cable that is pulled takes that carrier and no other, and what is put back works."""
    pair.pull(1, 1)
    assert carriers(pair, 1) == {"seg1": False, "seg2": True, "wan": True}
    pair.push(1, 1)
    pair.unplug(1)
    assert carriers(pair, 1) == {"seg1": True, "seg2": True, "wan": False}
    pair.plug(1)
    pair.run("router1", ["ip", "route", "replace", *pair.uplink(1).default_routes()[0].split()])
    assert carriers(pair, 1) == {"seg1": True, "seg2": True, "wan": True}
    assert connect_many(pair, "lan1", 10) == {1: 10}


def test_a_muted_router(pair: Pair) -> None:
    """Nothing passes a muted router or reaches it, and its links are up; the other one goes on."""
    pair.mute(1)
    assert carriers(pair, 1) == {"seg1": True, "seg2": True, "wan": True}
    assert not any(pair.ping("lan1", pair.own_address(1, 1), timeout=0.1) for _ in range(2))
    assert not pair.ping("isp1", pair.uplink(1).address, timeout=0.1)
    assert connect_many(pair, "lan2", 10) == {2: 10}
    pair.unmute(1)
    assert connect_many(pair, "lan1", 10) == {1: 10}


def test_power(pair: Pair) -> None:
    """A router without power is gone for all, and returns with its addresses, and without what its kernel knew."""
    pair.power_off(1)
    assert [pair.holders(k) for k in BOTH] == [[], [2]]
    assert connect_many(pair, "lan2", 10) == {2: 10}
    pair.power_on(1)
    assert pair.holders(1) == []
    assert pair.run("router1", ["nft", "list", "ruleset"]) == ""
    prepare(pair, 1)
    pair.run("lan1", ["ip", "neigh", "flush", "all"])  # it has another network card
    assert connect_many(pair, "lan1", 10) == {1: 10}
    assert pair.ping("router1", pair.own_address(2, 2))


def test_nothing_is_left_of_a_pair() -> None:
    """Namespaces and programs go with the pair."""
    with Pair() as pair:
        paths = [namespaces.path_of(pair.namespace(where)) for where in pair.places]
        process = pair.spawn("router2", ["sleep", "60"], stdin=subprocess.DEVNULL)
        assert [path.exists() for path in paths] == [True] * 8
    assert [path.exists() for path in paths] == [False] * 8
    assert process.poll() is not None
