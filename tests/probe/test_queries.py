from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import dns.message
import pytest

from mlbd.core.probing import Reply
from mlbd.core.settings import Target
from mlbd.probe import attempts
from tests.probe.asking import Asking, asking, said, sockets, to
from tests.probe.network import Provider, sh
from tests.probe.servers import NameServer, answering

QUERY = Target("dns://x/example.org", kind="dns", port=53, query="example.org")
RECORDS = {("A", "example.org"): ["192.0.2.1"]}


@pytest.mark.parametrize("address", ["10.1.0.1", "2001:db8:1::1", "fe80::1:1"])
@pytest.mark.parametrize(
    ("records", "rcode", "result"),
    [
        (RECORDS, "", "reply"),
        ({("MX", "example.org"): []}, "", "reply"),
        ({}, "", "reply"),
        (RECORDS, "SERVFAIL", "refused: SERVFAIL for example.org"),
        (RECORDS, "REFUSED", "refused: REFUSED for example.org"),
    ],
    ids=["address", "no such record", "no such name", "failure", "refusal"],
)
def test_answers(
    isp1: Provider, address: str, records: dict[tuple[str, str], list[str]], rcode: str, result: str
) -> None:
    """An answer about the name is a reply, also that there is none; a server that will not or cannot is told."""

    async def story(asked: Asking) -> None:
        before = sockets()
        async with answering(isp1, address, NameServer(records, rcode)):
            asked.prober.send(to(isp1, address, ask=QUERY))
            assert said(await asked.until(1)) == [result]
            assert all(0 < o.rtt < 0.5 for o in asked.heard if isinstance(o, Reply))
        await asked.silence(0.02)
        assert sockets() == before

    asking(story)


def _other_question(query: dns.message.Message) -> bytes:
    other = dns.message.make_query("example.net", "A", id=query.id)
    return dns.message.make_response(other).to_wire()


FORGED: dict[str, Callable[[dns.message.Message], bytes]] = {
    "id": lambda query: (query.id ^ 1).to_bytes(2, "big") + dns.message.make_response(query).to_wire()[2:],
    "question": _other_question,
    "a query": lambda query: query.to_wire(),
    "cut": lambda query: dns.message.make_response(query).to_wire()[:15],
    "empty": lambda query: b"",
    "noise": lambda query: b"\xff" * 600,
}


@pytest.mark.parametrize("what", FORGED)
def test_forged(isp1: Provider, what: str) -> None:
    """An answer of which anything does not fit is passed over, and the true one still counts."""

    class Forger(NameServer):
        def datagram_received(self, data: bytes, sender: tuple[str, int]) -> None:
            self.transport.sendto(FORGED[what](dns.message.from_wire(data)), sender)
            if not self.silent:
                super().datagram_received(data, sender)

    async def story(asked: Asking) -> None:
        server = Forger(RECORDS)
        server.silent = True
        async with answering(isp1, "10.1.0.1", server):
            asked.prober.send(to(isp1, "10.1.0.1", 1, ask=QUERY))
            assert await asked.silence() == []
            server.silent = False
            asked.prober.send(to(isp1, "10.1.0.1", 2, ask=QUERY))
            assert said(await asked.until(1)) == ["reply"]

    asking(story)


def test_other_source(isp1: Provider) -> None:
    """An answer from another address than was asked does not count."""

    class Elsewhere(NameServer):
        def datagram_received(self, data: bytes, sender: tuple[str, int]) -> None:
            with isp1.opened("10.1.0.9", 53, socket.SOCK_DGRAM) as other:
                other.sendto(dns.message.make_response(dns.message.from_wire(data)).to_wire(), sender)

    async def story(asked: Asking) -> None:
        async with answering(isp1, "10.1.0.1", Elsewhere(RECORDS)):
            asked.prober.send(to(isp1, "10.1.0.1", ask=QUERY))
            assert await asked.silence() == []

    asking(story)


def test_dead(isp1: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead name server is silence; a closed port, an unreachable host and our own firewall are told."""
    monkeypatch.setattr(attempts, "LIFETIME", 0.3)
    isp1.sh("ip route add unreachable 203.0.113.1")

    async def story(asked: Asking) -> None:
        before = sockets()
        server = NameServer(RECORDS)
        server.silent = True
        async with answering(isp1, "10.1.0.1", server):
            asked.prober.send(to(isp1, "10.1.0.1", 1, ask=QUERY))
            assert await asked.silence(0.4) == []
        monkeypatch.undo()
        asked.prober.send(to(isp1, "203.0.113.1", 2, ask=QUERY))  # first: Linux sends few of these errors in a row
        await asked.until(1)
        asked.prober.send(to(isp1, "10.1.0.1", 3, ask=QUERY))
        await asked.until(2)
        sh("nft 'table inet t { chain o { type filter hook output priority 0; udp dport 53 drop; }; }'")
        asked.prober.send(to(isp1, "10.1.0.1", 4, ask=QUERY))
        assert said(await asked.until(3)) == [
            "unreachable: EHOSTUNREACH: 203.0.113.1 by wan1, says a router, or nobody there has this address",
            "refused: ECONNREFUSED: 10.1.0.1 refuses port 53",
            "firewall: EPERM: a firewall on this router refused the packet",
        ]
        await asyncio.sleep(0.01)
        assert sockets() == before

    asking(story)


def test_each_query_is_new(isp1: Provider) -> None:
    """Each query has another id and comes from another port, so that answers can't be guessed."""
    seen = set()

    class Noting(NameServer):
        def datagram_received(self, data: bytes, sender: tuple[str, int]) -> None:
            seen.add((data[:2], sender[1]))
            super().datagram_received(data, sender)

    async def story(asked: Asking) -> None:
        async with answering(isp1, "10.1.0.1", Noting(RECORDS)):
            for round_ in range(5):
                asked.prober.send(to(isp1, "10.1.0.1", round_, ask=QUERY))
            await asked.until(5)

    asking(story)
    assert [len({part[i] for part in seen}) for i in (0, 1)] == [5, 5]
