from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from mlbd.core.probing import Failure, Order, Reply
from mlbd.core.settings import Target
from mlbd.probe import attempts
from tests.probe.asking import Asking, asking, kinds, said, sockets, to
from tests.probe.network import Provider, sh
from tests.probe.servers import serving

PORT = Target("tcp://x:443", kind="tcp", port=443)


def tcp(provider: Provider, address: str, round_: int = 1, uplink: str = "fiber") -> Order:
    return to(provider, address, round_, uplink, ask=PORT)


@pytest.mark.parametrize("address", ["10.1.0.1", "2001:db8:1::1", "fe80::1:1"])
def test_accepted(isp1: Provider, address: str) -> None:
    """An accepted connection is a reply with a plausible round trip, and leaves no socket, in both families."""

    async def story(asked: Asking) -> None:
        before = sockets()
        with isp1.opened(address, 443):
            for round_ in (1, 2):
                asked.prober.send(tcp(isp1, address, round_))
                await asked.until(round_)
            assert kinds(asked.heard) == ["fiber/0/1 reply", "fiber/0/2 reply"]
            assert all(0 < o.rtt < 0.5 for o in asked.heard if isinstance(o, Reply))
        assert sockets() == before

    asking(story)


def test_by_its_own_uplink(isp1: Provider, isp2: Provider) -> None:
    """The same target is asked by each uplink, whatever `main` says: where one refuses, the other is not asked."""
    for isp in (isp1, isp2):
        isp.sh("ip addr add 203.0.113.1 dev lo")
    sh("ip route add default via 10.1.0.1 dev wan1")

    async def story(asked: Asking) -> None:
        with isp1.opened("203.0.113.1", 443):
            asked.prober.send(tcp(isp1, "203.0.113.1", 1, "fiber"))
            asked.prober.send(tcp(isp2, "203.0.113.1", 1, "cable"))
            assert sorted(kinds(await asked.until(2))) == ["cable/0/1 refused", "fiber/0/1 reply"]

    asking(story)


def test_refused(isp1: Provider) -> None:
    """A reset says that somebody is there and will not."""

    async def story(asked: Asking) -> None:
        asked.prober.send(tcp(isp1, "10.1.0.1"))
        text = "ECONNREFUSED: 10.1.0.1 refuses port 443"
        assert await asked.until(1) == [Failure("fiber", 0, 1, "refused", text)]

    asking(story)


def test_unreachable(isp1: Provider) -> None:
    """An ICMP error about the connection is told from a missing route of our own."""
    isp1.sh("ip route add unreachable 203.0.113.1")

    async def story(asked: Asking) -> None:
        asked.prober.send(tcp(isp1, "203.0.113.1"))
        text = "EHOSTUNREACH: 203.0.113.1 by wan1, says a router, or nobody there has this address"
        assert await asked.until(1) == [Failure("fiber", 0, 1, "unreachable", text)]
        sh("ip link set wan1 down")
        asked.prober.send(tcp(isp1, "203.0.113.1", 2))
        text = "ENETUNREACH: no route to 203.0.113.1 by wan1"
        assert (await asked.until(2))[1:] == [Failure("fiber", 0, 2, "no-route", text)]

    asking(story)


def test_silence_is_bounded(isp1: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers: nothing is reported, at most 32 sockets stay open, and after its time each is closed."""
    monkeypatch.setattr(attempts, "LIFETIME", 0.4)
    isp1.sh("nft 'table inet t { chain i { type filter hook input priority 0; tcp dport 443 drop; }; }'")

    async def story(asked: Asking) -> None:
        before = sockets()
        for round_ in range(40):
            asked.prober.send(tcp(isp1, "10.1.0.1", round_))
        await asked.silence(0.1)
        assert sockets() - before == attempts.IN_FLIGHT
        assert await asked.silence(0.5) == []
        assert sockets() == before

    asking(story)


def test_forget(isp1: Provider) -> None:
    """After `forget`, and when the interface is another one, all sockets of the uplink are closed."""
    isp1.sh("nft 'table inet t { chain i { type filter hook input priority 0; tcp dport 443 drop; }; }'")

    async def story(asked: Asking) -> None:
        before = sockets()
        asked.prober.send(tcp(isp1, "10.1.0.1"))
        await asked.silence(0.05)
        assert sockets() - before == 1
        asked.prober.forget("fiber")
        await asked.silence(0.05)
        assert sockets() == before
        old = tcp(isp1, "10.1.0.1", 2)
        asked.prober.send(old)
        await asked.silence(0.05)
        sh("ip link del wan1")
        asked.prober.send(replace(old, round=3))
        assert kinds(await asked.until(1)) == ["fiber/0/3 no-device"]
        isp1.plug_in()
        isp1.sh("nft delete table inet t")
        with isp1.opened("10.1.0.1", 443):
            asked.prober.send(tcp(isp1, "10.1.0.1", 4))
            assert kinds(await asked.until(2)) == ["fiber/0/3 no-device", "fiber/0/4 reply"]
        assert sockets() == before

    asking(story)


def test_late(isp1: Provider) -> None:
    """A connection that is accepted when the first segment was sent again counts, with its full time."""
    isp1.sh("nft 'table inet t { chain i { type filter hook input priority 0; tcp dport 443 drop; }; }'")

    async def story(asked: Asking) -> None:
        with isp1.opened("10.1.0.1", 443):
            asked.prober.send(tcp(isp1, "10.1.0.1"))
            await asked.silence(0.5)
            isp1.sh("nft delete table inet t")
            await asked.until(1, within=3)
            assert [o.rtt > 0.5 for o in asked.heard if isinstance(o, Reply)] == [True]

    asking(story)


def test_ends_at_once(isp1: Provider) -> None:
    """The target sees the connection end, so that it keeps nothing."""
    ended = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        except ConnectionError:
            ended.set()

    async def story(asked: Asking) -> None:
        async with serving(isp1.opened("10.1.0.1", 443), wait):
            asked.prober.send(tcp(isp1, "10.1.0.1"))
            assert said(await asked.until(1)) == ["reply"]
            async with asyncio.timeout(2):
                await ended.wait()

    asking(story)


def test_own_firewall(isp1: Provider) -> None:
    """Linux does not say that a rule of this router drops a connection: it looks like silence."""
    sh("nft 'table inet t { chain o { type filter hook output priority 0; tcp dport 443 drop; }; }'")

    async def story(asked: Asking) -> None:
        with isp1.opened("10.1.0.1", 443):
            asked.prober.send(tcp(isp1, "10.1.0.1"))
            assert await asked.silence() == []

    asking(story)
