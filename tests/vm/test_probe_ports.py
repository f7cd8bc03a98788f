"""Probes by one port of a bond, in every mode in which mlbd sends them, with a switch and a bond at the far end."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlbd.core.probing import Order
from mlbd.core.settings import Target
from mlbd.lab.namespaces import ip_here
from tests.probe.asking import Asking, asking, kinds
from tests.probe.bundle import FAR, arp_heard, ask, neighbours, requests
from tests.vm.pair import Pair, wait_until

OWN = {"eth1": "02:00:00:00:00:01", "eth2": "02:00:00:00:00:02"}
ROUNDS = 4


@pytest.fixture(scope="module")
def pair(bonding: None) -> Iterator[Pair]:
    with Pair() as net:
        net.ip("a", *(f"link set {port} address {own}" for port, own in OWN.items()))
        yield net


def bond(net: Pair, where: str, mode: str, address: str) -> None:
    options = f"mode {mode} miimon 100" + (" primary eth1" if mode in ("active-backup", "balance-tlb") else "")
    net.ip(
        where,
        f"link add bond0 type bond {options}",
        *(f"link set eth{n} down" for n in (1, 2)),
        *(f"link set eth{n} master bond0" for n in (1, 2)),
        "link set bond0 up",
        f"addr add {address}/24 dev bond0",
    )


def bridge(net: Pair) -> None:
    net.ip(
        "b",
        "link add bond0 type bridge",
        *(f"link set eth{n} master bond0 up" for n in (1, 2)),
        "link set bond0 up",
        f"addr add {FAR}/24 dev bond0",
    )


def active(net: Pair, where: str) -> str:
    with net.inside(where):
        lines = Path("/proc/thread-self/net/bonding/bond0").read_text().splitlines()
    return next((line.rpartition(" ")[2] for line in lines if line.startswith("Currently Active Slave:")), "")


def laid(net: Pair, mode: str, far: str) -> None:
    """Lays it out, and waits until packets pass."""
    for where in ("a", "b"):
        if "bond0" in net.run(where, ["ip", "-o", "link"]):
            net.ip(where, "link del bond0")
    if far == "bridge":
        bridge(net)
    else:
        bond(net, "b", mode, FAR)
    bond(net, "a", mode, "192.168.1.3")
    wait_until(lambda: all(carriers(net, where) for where in ("a", "b")), what="carrier on all ports")
    if far == "bridge":
        wait_until(lambda: net.run("b", ["bridge", "link"]).count("forwarding") == 2, what="the bridge")
    wait_until(lambda: net.ping("a", FAR), what="an answer by the bond")


def carriers(net: Pair, where: str) -> bool:
    return net.run(where, ["ip", "-o", "link", "show", "master", "bond0"]).count("LOWER_UP") == 2


def answered(net: Pair) -> dict[str, int]:
    """How many of `ROUNDS` probes by each port were answered. The first round is not counted: the reply to the one port
    may come by the other before that was asked as well, and is listened to.
    """
    heard: list[str] = []

    async def story(asked: Asking) -> None:
        for round_ in range(ROUNDS + 1):
            for port, own in OWN.items():
                asked.prober.send(ask(port, round_, own))
            await asked.until(2 * round_ + 2, within=0.5)
        heard.extend(kind for kind in kinds(await asked.silence(0.2)) if "/0/0 " not in kind)

    with net.inside("a"):
        asking(story)
    assert len(heard) == len({*heard}) == sum(kind.endswith(" reply") for kind in heard)
    return {port: sum(f"/{port}/" in kind for kind in heard) for port in OWN}


MODES = ["balance-rr", "active-backup", "balance-xor", "broadcast", "balance-tlb", "balance-alb"]


@pytest.mark.parametrize("mode", MODES)
def test_far_end_is_a_switch(pair: Pair, mode: str) -> None:
    """Every port is answered, active or not, and asks by its own cable and from its own address only; the far end's
    neighbour table stays.
    """
    laid(pair, mode, "bridge")
    believed = neighbours(pair, "b")
    with arp_heard(pair, "b", "eth1") as first, arp_heard(pair, "b", "eth2") as second:
        assert answered(pair) == {"eth1": ROUNDS, "eth2": ROUNDS}
        for heard, port in ((first, "eth1"), (second, "eth2")):
            probes = [request for request in requests(heard) if request[2] == "0.0.0.0"]
            assert probes == [(OWN[port], OWN[port], "0.0.0.0")] * (ROUNDS + 1)
    assert neighbours(pair, "b")["192.168.1.3"] == believed["192.168.1.3"]


@pytest.mark.parametrize("mode", MODES)
def test_far_end_is_a_bond(pair: Pair, mode: str) -> None:
    """Ports of balance-rr, balance-xor and broadcast are answered wherever the far bond sends its replies; in the other
    modes the far bond does not listen by a port that is not active, and only the port across its active one is.
    """
    laid(pair, mode, "bond")
    one = active(pair, "b") if mode in ("active-backup", "balance-tlb", "balance-alb") else ""
    assert answered(pair) == {port: ROUNDS if one in ("", port) else 0 for port in OWN}


@pytest.fixture
def members(teql: None) -> Iterator[Pair]:
    """10.0.0.0/31 between eth1 of a and b, 10.0.0.2/31 between eth2; teql0 in a; it goes back afterwards."""
    with Pair() as net:
        for where, last in (("a", 0), ("b", 1)):
            net.ip(where, *(f"addr add 10.0.0.{2 * n - 2 + last}/31 dev eth{n}" for n in (1, 2)))
            net.ip(where, *(f"link set eth{n} up" for n in (1, 2)))
        net.sysctls("b", {"ipv4/conf/all/arp_ignore": 1})  # it answers for an address only where that is
        ip_here([f"link set teql0 netns {net.namespace('a')}"])
        yield net
        net.ip("a", "link set teql0 netns 1")


def test_members_of_teql(members: Pair) -> None:
    """An echo request without a mark leaves by the member that it is bound to, whether TEQL has that or not."""

    async def story(asked: Asking) -> None:
        for round_, change in enumerate(("add", "del"), 1):
            for n in (1, 2):
                members.run("a", ["tc", "qdisc", change, "dev", f"eth{n}", "root", "teql0"])
            for n in (1, 2):
                index = socket.if_nametoindex(f"eth{n}")
                asked.prober.send(Order(f"eth{n}", 0, round_, f"eth{n}", index, f"10.0.0.{2 * n - 1}", Target("")))
            await asked.until(2 * round_)
        assert sorted(kinds(asked.heard)) == [f"eth{n}/0/{round_} reply" for n in (1, 2) for round_ in (1, 2)]

    with members.inside("a"):
        asking(story)
