from __future__ import annotations

import socket
import struct

import pytest
from msgspec.structs import replace

from mlbd.core.probing import Failure, Order, Reply
from mlbd.core.settings import Target
from mlbd.probe import arp, solicitation
from tests.probe.asking import Asking, asking, kinds, said, sockets, to
from tests.probe.network import Provider, sh

NEIGHBOUR = Target("arp:x", kind="neighbour")


def neighbour(provider: Provider, address: str, round_: int = 1, uplink: str = "fiber") -> Order:
    return to(provider, address, round_, uplink, ask=NEIGHBOUR)


@pytest.mark.parametrize("address", ["10.1.0.1", "2001:db8:1::1", "fe80::1:1"])
def test_gateway_that_ignores_pings(isp1: Provider, address: str) -> None:
    """A gateway that ignores pings answers ARP and neighbour solicitations, by one socket, with true round trips."""
    isp1.deaf()

    async def story(asked: Asking) -> None:
        before = sockets()
        for round_ in (1, 2, 3):
            asked.prober.send(neighbour(isp1, address, round_))
            await asked.until(round_)
        assert kinds(await asked.silence(0.05)) == ["fiber/0/1 reply", "fiber/0/2 reply", "fiber/0/3 reply"]
        assert all(0 < o.rtt < 0.5 for o in asked.heard if isinstance(o, Reply))
        assert sockets() - before == 1
        asked.prober.forget("fiber")
        assert sockets() == before

    asking(story)


@pytest.mark.parametrize("address", ["10.1.0.77", "2001:db8:1::77"])
def test_nobody(isp1: Provider, address: str) -> None:
    """Nobody has the address: silence, also while others answer by the same socket."""

    async def story(asked: Asking) -> None:
        asked.prober.send(neighbour(isp1, address))
        asked.prober.send(neighbour(isp1, "2001:db8:1::1" if ":" in address else "10.1.0.1", 2))
        assert kinds(await asked.silence()) == ["fiber/0/2 reply"]

    asking(story)


def test_two_segments(isp1: Provider, isp2: Provider) -> None:
    """The same address behind two uplinks is asked on each link: one that has nobody gets no answer of the other."""
    for isp in (isp1, isp2):
        isp.sh("ip addr add 192.168.1.1/24 dev port; sysctl -qw net.ipv4.conf.all.arp_ignore=1")
    isp2.sh("ip addr del 192.168.1.1/24 dev port")

    async def story(asked: Asking) -> None:
        asked.prober.send(neighbour(isp1, "192.168.1.1", 1, "fiber"))
        asked.prober.send(neighbour(isp2, "192.168.1.1", 1, "cable"))
        assert kinds(await asked.silence()) == ["fiber/0/1 reply"]

    asking(story)


def test_without_an_address(isp1: Provider) -> None:
    """ARP needs no address on the interface: then it is the probe of RFC 5227, and no other interface's is shown."""
    sh("ip addr del 10.1.0.2/24 dev wan1; ip addr add 10.99.0.1/32 dev lo")

    async def story(asked: Asking) -> None:
        asked.prober.send(neighbour(isp1, "10.1.0.1"))
        assert kinds(await asked.until(1)) == ["fiber/0/1 reply"]

    asking(story)
    sh("ip addr del 10.99.0.1/32 dev lo")


def test_what_is_sent(isp1: Provider) -> None:
    """An ARP request is broadcast from our address there; a solicitation comes from our link-local one, 255 hops."""
    with isp1.frames() as heard:

        async def story(asked: Asking) -> None:
            asked.prober.send(neighbour(isp1, "10.1.0.1"))
            asked.prober.send(neighbour(isp1, "2001:db8:1::1"))
            assert len(await asked.until(2)) == 2

        asking(story)
        frames = list(heard())
    own = isp1.hardware()
    request = next(f for f in frames if f[12:14] == b"\x08\x06" and f[20:22] == b"\x00\x01" and f[:6] == b"\xff" * 6)
    expected = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + own + socket.inet_aton("10.1.0.2") + bytes(6)
    assert request[14:42] == expected + socket.inet_aton("10.1.0.1")
    asked_for = socket.inet_pton(socket.AF_INET6, "2001:db8:1::1")
    solicitation_ = next(f for f in frames if f[12:14] == b"\x86\xdd" and f[54:55] == b"\x87" and f[62:78] == asked_for)
    assert (solicitation_[21], solicitation_[22:38]) == (255, socket.inet_pton(socket.AF_INET6, "fe80::1:2"))
    assert solicitation_[38:54] == socket.inet_pton(socket.AF_INET6, "ff02::1:ff00:1")
    assert solicitation_[78:86] == b"\x01\x01" + own


def test_not_ethernet(isp1: Provider) -> None:
    """On a link without neighbours nothing is sent, and the failure says so; the loopback interface is one."""

    async def story(asked: Asking) -> None:
        order = replace(neighbour(isp1, "127.0.0.2"), interface="lo", interface_index=socket.if_nametoindex("lo"))
        asked.prober.send(order)
        text = "lo is not Ethernet: there is no neighbour to ask"
        assert await asked.until(1) == [Failure("fiber", 0, 1, "no-address", text)]

    asking(story)


@pytest.mark.parametrize("address", ["10.1.0.1", "2001:db8:1::1"])
def test_interface_made_again(isp1: Provider, address: str) -> None:
    """An interface that goes down, is deleted and made again is probed again, and each failure says what is missing."""

    async def story(asked: Asking) -> None:
        old = neighbour(isp1, address, 1)
        asked.prober.send(old)
        await asked.until(1)
        sh("ip link set wan1 down")
        asked.prober.send(replace(old, round=2))
        await asked.until(2)
        sh("ip link del wan1")
        asked.prober.send(replace(old, round=3))
        asked.prober.send(replace(old, round=4))
        await asked.until(4)
        isp1.plug_in()
        asked.prober.send(neighbour(isp1, address, 5))
        await asked.until(5)
        asked.heard[1:4] = [replace(o, round=0) for o in asked.heard[1:4]]
        assert kinds(asked.heard)[::4] == ["fiber/0/1 reply", "fiber/0/5 reply"]
        assert {o.kind for o in asked.heard if isinstance(o, Failure)} <= {"no-device", "no-route", "no-address"}

    asking(story)


def test_own_firewall(isp1: Provider) -> None:
    """A solicitation that this router's firewall drops is told from a lost one; ARP passes it."""
    sh("nft 'table inet t { chain o { type filter hook output priority 0; drop; }; }'")

    async def story(asked: Asking) -> None:
        asked.prober.send(neighbour(isp1, "2001:db8:1::1"))
        assert said(await asked.until(1)) == ["firewall: EPERM: a firewall on this router refused the packet"]
        asked.prober.send(neighbour(isp1, "10.1.0.1"))
        assert kinds(await asked.until(2))[1:] == ["fiber/0/1 reply"]

    asking(story)


OWN, GATEWAY = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
REPLY = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + GATEWAY + bytes([10, 1, 0, 1]) + OWN + bytes([10, 1, 0, 2])
ADVERTISEMENT = bytes([136, 0, 0, 0, 0xE0, 0, 0, 0]) + socket.inet_pton(socket.AF_INET6, "2001:db8:1::1")


@pytest.mark.parametrize("changed", [0, 3, 4, 5, 7, 18])
def test_not_an_arp_reply_to_us(changed: int) -> None:
    """Of an ARP packet, kind of hardware, protocol, sizes, operation and destination must all fit."""
    assert arp.parse(REPLY, OWN) == "10.1.0.1"
    packet = bytearray(REPLY)
    packet[changed] ^= 1
    assert (arp.parse(bytes(packet), OWN), arp.parse(REPLY[:-1], OWN)) == (None, None)


def test_not_a_solicited_advertisement() -> None:
    """An advertisement counts only if it was solicited, is whole, and has passed no router."""
    assert solicitation.parse(ADVERTISEMENT, 255) == "2001:db8:1::1"
    unsolicited = ADVERTISEMENT[:4] + b"\xa0" + ADVERTISEMENT[5:]
    others = [(unsolicited, 255), (ADVERTISEMENT, 254), (ADVERTISEMENT[:-1], 255), (b"\x87" + ADVERTISEMENT[1:], 255)]
    assert [solicitation.parse(data, hops) for data, hops in others] == [None] * 4
