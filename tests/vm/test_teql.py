"""TEQL, as this kernel has it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlbd.lab.namespaces import ip_here
from tests.vm.pair import Pair


@pytest.fixture
def pair(teql: None) -> Iterator[Pair]:
    """teql0 in a, teql1 in b, both with eth1 and eth2, and 10.0.0.0/31 between them; they go back afterwards."""
    with Pair() as net:
        for number, where in enumerate(("a", "b")):
            ip_here([f"link set teql{number} netns {net.namespace(where)}"])
            net.sysctls(where, {"ipv4/conf/all/rp_filter": 0, "ipv4/conf/default/rp_filter": 0})
            for n in (1, 2):
                net.ip(where, f"addr add 10.0.{n}.{number}/31 dev eth{n}", f"link set eth{n} up")
                net.run(where, ["tc", "qdisc", "add", "dev", f"eth{n}", "root", f"teql{number}"])
            net.sysctls(where, {f"ipv4/conf/{name}/rp_filter": 0 for name in (f"teql{number}", "eth1", "eth2")})
            net.ip(where, f"addr add 10.0.0.{number}/31 dev teql{number}", f"link set teql{number} up")
        yield net
        for number, where in enumerate(("a", "b")):
            for n in (1, 2):
                net.run(where, ["tc", "qdisc", "del", "dev", f"eth{n}", "root"])
            net.ip(where, f"link set teql{number} netns 1")


def sent(net: Pair) -> list[int]:
    """Packets that have left a by eth1 and by eth2."""
    links = {link["ifname"]: link for link in json.loads(net.run("a", ["ip", "-j", "-s", "link"]))}
    return [links[name]["stats64"]["tx"]["packets"] for name in ("eth1", "eth2")]


def test_devices(teql: None) -> None:
    """The module makes as many devices as it is told, in the first namespace."""
    assert {"teql0", "teql1"} <= {path.name for path in Path("/sys/class/net").iterdir()}


def test_alternates(pair: Pair) -> None:
    """What leaves by a teql0 that was moved into a namespace leaves by both of its members in turn."""
    assert pair.ping("a", "10.0.0.1", timeout=10)
    before = sent(pair)
    pair.run("a", ["ping", "-q", "-c", "20", "-i", "0.05", "10.0.0.1"])
    assert [after - packets for after, packets in zip(sent(pair), before, strict=True)] == [10, 10]
