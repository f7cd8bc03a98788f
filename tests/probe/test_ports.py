"""Ports of a bond, with cables to a bridge. The bond is left out: its ports have its address, as in most modes."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator

import pytest
from msgspec.structs import replace

from mlbd.core.probing import Failure, Reply
from mlbd.lab.network import wait_until
from mlbd.probe import arp
from mlbd.probe.prober import Prober
from tests.probe.asking import Asking, asking, kinds, said, sockets
from tests.probe.bundle import FAR, arp_heard, ask, neighbours, requests
from tests.vm.pair import Pair

BOND = "02:00:00:00:00:aa"
OWN1, OWN2 = "02:00:00:00:00:01", "02:00:00:00:00:02"


@pytest.fixture(scope="module")
def laid() -> Iterator[Pair]:
    """eth1 and eth2 of a have the bond's address, eth1 also 192.168.1.3; 192.168.1.1 is on a bridge of b."""
    with Pair() as net:
        ports = [line for n in (1, 2) for line in (f"link set eth{n} address {BOND}", f"link set eth{n} up")]
        net.ip("a", *ports, "addr add 192.168.1.3/24 dev eth1")
        net.sysctls("b", {"ipv4/conf/all/arp_ignore": 1})  # what is in no bridge does not answer
        bridged = [f"link set eth{n} master br0 up" for n in (1, 2)]
        net.ip("b", "link add br0 type bridge", *bridged, "link set br0 up", f"addr add {FAR}/24 dev br0")
        wait_until(lambda: net.run("b", ["bridge", "link"]).count("forwarding") == 2, timeout=10, what="the bridge")
        assert net.ping("a", FAR)
        yield net


@pytest.fixture
def pair(laid: Pair) -> Iterator[Pair]:
    yield laid
    laid.ip("a", f"link set eth2 address {BOND} up")
    laid.ip("b", "link set eth2 master br0 up")


def told(net: Pair, story: Callable[[Asking], Awaitable[None]]) -> None:
    with net.inside("a"):
        asking(story)


def taken_in(net: Pair, port: str) -> set[str]:
    """The Ethernet addresses that the card was asked to take in beside its own."""
    entries = json.loads(net.run("a", ["bridge", "-j", "fdb", "show", "dev", port]))
    return {entry["mac"] for entry in entries if not entry["mac"].startswith(("33:33:", "01:"))}


def test_answered_from_addresses_of_their_own(pair: Pair) -> None:
    """Each port asks by its own cable, from its own address and for no IPv4 address; the far end believes what it did
    before.
    """
    believed = neighbours(pair, "b")
    assert believed == {"192.168.1.3": BOND}
    with arp_heard(pair, "b", "eth1") as first, arp_heard(pair, "b", "eth2") as second:

        async def story(asked: Asking) -> None:
            before = sockets()
            for round_ in (1, 2, 3):
                asked.prober.send(ask("eth1", round_, OWN1))
                asked.prober.send(ask("eth2", round_, OWN2))
                await asked.until(2 * round_)
            expected = [f"bond0/eth{n}/0/{round_} reply" for round_ in (1, 2, 3) for n in (1, 2)]
            assert kinds(await asked.silence(0.05)) == expected
            assert all(0 < o.rtt < 0.5 for o in asked.heard if isinstance(o, Reply))
            assert sockets() - before == 2
            asked.prober.forget("bond0/eth1")
            asked.prober.forget("bond0/eth2")
            assert sockets() == before

        told(pair, story)
        # The bridge passes what came in by the one on to the other, where it leaves.
        assert requests(first) == [(OWN1, OWN1, "0.0.0.0")] * 3
        assert requests(second) == [(OWN2, OWN2, "0.0.0.0")] * 3
    assert neighbours(pair, "b") == believed


def test_answered_by_another_port(pair: Pair) -> None:
    """A far end may answer by a cable of its choice: the reply is that of the port that had asked, and no copy of it
    turns a round good that was lost.
    """
    pair.run("b", ["bridge", "link", "set", "dev", "eth2", "learning", "off"])
    pair.run("b", ["bridge", "fdb", "replace", OWN2, "dev", "eth1", "master", "static"])

    async def story(asked: Asking) -> None:
        asked.prober.send(ask("eth1", 1, OWN1))
        asked.prober.send(ask("eth2", 1, OWN2))
        await asked.until(2)
        for round_ in (2, 3):
            asked.prober.send(ask("eth2", round_, OWN2))
            await asked.until(round_ + 1)
        expected = ["bond0/eth1/0/1 reply", *(f"bond0/eth2/0/{n} reply" for n in (1, 2, 3))]
        assert kinds(await asked.silence(0.05)) == expected

    with arp_heard(pair, "a", "eth2") as heard:
        told(pair, story)
        assert heard_replies(heard) == 0
    pair.run("b", ["bridge", "fdb", "del", OWN2, "dev", "eth1", "master"])
    pair.run("b", ["bridge", "link", "set", "dev", "eth2", "learning", "on"])


def heard_replies(heard: socket.socket) -> int:
    count = 0
    while True:
        try:
            frame = heard.recv(2048)
        except BlockingIOError:
            return count
        count += frame[12:14] == b"\x08\x06" and frame[20:22] == b"\x00\x02"


def test_silent_port(pair: Pair) -> None:
    """A port whose far end is silent hears nothing, while another of the same bundle does."""
    pair.ip("b", "link set eth2 nomaster")

    async def story(asked: Asking) -> None:
        for round_ in (1, 2):
            asked.prober.send(ask("eth2", round_, OWN2))
            asked.prober.send(ask("eth1", round_, OWN1))
            await asked.until(round_)
        assert kinds(await asked.silence()) == ["bond0/eth1/0/1 reply", "bond0/eth1/0/2 reply"]

    told(pair, story)


def test_copies_and_what_the_bond_asks(pair: Pair) -> None:
    """A reply that comes by both ports counts once, though an earlier round was lost; one to what the bond asked from
    the same address, which is also that of its first port, does not count.
    """
    pair.ip("b", "link set eth1 nomaster", "link set eth2 nomaster")
    with pair.inside("b"):
        far = [socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) for _ in (1, 2)]
        for n, made in enumerate(far, 1):
            made.bind((f"eth{n}", 0))

    def reply(to: str, for_: str) -> bytes:
        own, asker = bytes.fromhex("020000000009"), bytes.fromhex(to.replace(":", ""))
        packet = (
            struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + own + socket.inet_aton(FAR) + asker + socket.inet_aton(for_)
        )
        return asker + own + b"\x08\x06" + packet

    async def story(asked: Asking) -> None:
        for round_ in (1, 2):
            asked.prober.send(ask("eth1", round_, BOND))
            asked.prober.send(ask("eth2", round_, OWN2))
        far[1].send(reply(BOND, "192.168.1.3"))
        assert kinds(await asked.silence(0.05)) == []
        for made in far:
            made.send(reply(OWN2, "0.0.0.0"))
        await asked.until(1)
        assert kinds(await asked.silence(0.05)) == ["bond0/eth2/0/2 reply"]

    try:
        told(pair, story)
    finally:
        pair.ip("b", "link set eth1 master br0", "link set eth2 master br0")
        for made in far:
            made.close()


def test_what_the_card_takes_in(pair: Pair) -> None:
    """Each port's card is asked to take in replies to all ports of the bundle, and no longer to a port that is gone."""

    async def story(asked: Asking) -> None:
        asked.prober.send(ask("eth1", 1, OWN1))
        asked.prober.send(ask("eth2", 1, OWN2))
        assert taken_in(pair, "eth1") == taken_in(pair, "eth2") == {OWN1, OWN2}
        asked.prober.send(ask("eth2", 2, OWN2.replace("02", "06")))
        assert taken_in(pair, "eth1") == {OWN1, OWN2.replace("02", "06")}
        asked.prober.forget("bond0/eth2")
        assert (taken_in(pair, "eth1"), taken_in(pair, "eth2")) == ({OWN1}, set())

    told(pair, story)
    assert taken_in(pair, "eth1") == set()


def test_port_made_again(pair: Pair) -> None:
    """A port that goes down, is deleted, and made again under the same name and by another index is asked again; the
    other one is not disturbed.
    """

    async def story(asked: Asking) -> None:
        prober, other = asked.prober, ask("eth1", 1, OWN1)
        old = ask("eth2", 1, OWN2)
        prober.send(other)
        prober.send(old)
        await asked.until(2)
        pair.ip("a", "link set eth2 down")
        prober.send(replace(old, round=2))
        prober.send(replace(other, round=2))
        await asked.until(4)
        pair.ip("a", "link del eth2")
        prober.send(replace(old, round=3))
        prober.send(replace(old, round=4))
        prober.send(replace(other, round=3))
        await asked.until(7)
        namespace = pair.namespace("b")
        pair.ip("a", f"link add eth2 type veth peer name eth2 netns {namespace}", f"link set eth2 address {BOND} up")
        pair.ip("b", "link set eth2 master br0 up")
        prober.send(ask("eth2", 5, OWN2))
        prober.send(replace(other, round=4))
        await asked.until(9)
        assert sorted(kinds(asked.heard)) == [
            *(f"bond0/eth1/0/{round_} reply" for round_ in (1, 2, 3, 4)),
            "bond0/eth2/0/1 reply",
            *(f"bond0/eth2/0/{round_} no-device" for round_ in (2, 3, 4)),
            "bond0/eth2/0/5 reply",
        ]

    told(pair, story)


def test_nothing_to_ask_from(pair: Pair) -> None:
    """A port without an Ethernet address, and a target that is no IPv4 address, are failures that say so."""

    async def story(asked: Asking) -> None:
        order = ask("eth1", 1, OWN1)
        loopback = replace(order, interface="lo", interface_index=1)
        for sent in (replace(order, sources=()), loopback, replace(order, address="fe80::1")):
            asked.prober.send(sent)
        missing = "has no Ethernet address of its own to ask from"
        assert said(await asked.until(3)) == [
            f"no-address: eth1 {missing}",
            f"no-address: lo {missing}",
            "no-address: fe80::1 is no IPv4 address: a port of a bond only asks by ARP",
        ]

    told(pair, story)


def test_closed_by_what_it_told(pair: Pair) -> None:
    """Whoever hears a reply may forget ports, that which it came by as well."""
    heard: list[object] = []

    async def story() -> None:
        told = asyncio.Event()

        def hear(outcome: object) -> None:
            heard.append(outcome)
            prober.close()
            told.set()

        prober = Prober(hear)
        prober.send(ask("eth1", 1, OWN1))
        prober.send(ask("eth2", 1, OWN2))
        await told.wait()
        await asyncio.sleep(0.05)

    with pair.inside("a"):
        before = sockets()
        asyncio.run(story())
        assert (len(heard), sockets()) == (1, before)
    assert not any(isinstance(outcome, Failure) for outcome in heard)


GATEWAY = bytes.fromhex("020000000009")
REPLY = (
    struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2)
    + GATEWAY
    + bytes([192, 168, 1, 1])
    + bytes([2, 0, 0, 0, 0, 1, 0, 0, 0, 0])
)


@pytest.mark.parametrize("changed", [0, 3, 4, 5, 7, 27])
def test_not_a_reply_to_a_probe(changed: int) -> None:
    """Of an ARP packet, kind of hardware, protocol, sizes, operation and IPv4 destination must all fit."""
    assert arp.parse_probed(REPLY) == ("192.168.1.1", bytes.fromhex("020000000001"))
    packet = bytearray(REPLY)
    packet[changed] ^= 1
    assert (arp.parse_probed(bytes(packet)), arp.parse_probed(REPLY[:-1])) == (None, None)
