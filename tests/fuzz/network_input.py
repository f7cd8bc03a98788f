"""What strangers send: replies to probes, true, forged and broken."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Coroutine
from typing import Any, cast

import dns.exception
import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset
import h11

from mlbd.core.settings import Family, Target
from mlbd.probe import arp, message, names, queries, solicitation, web
from mlbd.probe.errors import ProbeError
from mlbd.probe.sockets import Connection
from mlbd.probe.timing import STAMP_SIZE, stamped

OWN = bytes.fromhex("02005e100001")

ECHO_REPLY4 = bytes.fromhex("45000024000040004001000008080808c0000201 0000 ffff 1234 0001") + bytes(range(16))
_QUOTED4 = bytes.fromhex("4500002400004000400100 00c000020108080808 0800 ffff 1234 0001") + bytes(16)
UNREACHABLE4 = bytes.fromhex("45c0004000004000400100000a000001c0000201 0301 ffff 00000000") + _QUOTED4
ECHO_REPLY6 = bytes.fromhex("8100 ffff 1234 0001") + bytes(range(16))
_QUOTED6 = bytes.fromhex("6000000000183a40") + bytes(32) + bytes.fromhex("8000 ffff 1234 0001") + bytes(16)
UNREACHABLE6 = bytes.fromhex("0103 ffff 00000000") + _QUOTED6
ADVERTISEMENT = bytes.fromhex("8800ffff60000000fe8000000000000000000000000000010201") + OWN
ARP_REPLY = bytes.fromhex("00010800060400020200000000010a000001") + OWN + bytes.fromhex("0a000002")


def icmp4(data: bytes) -> None:
    _icmp(4, data)


def icmp6(data: bytes) -> None:
    _icmp(6, data)


def _icmp(family: Family, data: bytes) -> None:
    """A message or None; an error is about somebody, and a destination is an address."""
    found = message.parse(family, data)
    if found is not None:
        assert 0 <= found.identifier <= 0xFFFF
        assert 0 <= found.sequence <= 0xFFFF
        assert bool(found.error) == bool(found.destination)
        assert not found.destination or ipaddress.ip_address(found.destination).version == family


def neighbour(data: bytes) -> None:
    """Replies by ARP and neighbour discovery, with whatever the kernel says beside them."""
    for found in (arp.parse(data, OWN), solicitation.parse(data, 255)):
        assert found is None or ipaddress.ip_address(found)
    half = len(data) // 2
    stamped([(1, 35, data[:half]), (1, 35, data[:16]), (41, 52, data[half:])][:STAMP_SIZE])


_QUERY = dns.message.make_query("www.example.org", dns.rdatatype.A, use_edns=0, payload=1232)
_QUERY.id = 0x1234


def _response(*records: str, rcode: int = 0) -> bytes:
    answer = dns.message.make_response(_QUERY)
    answer.set_rcode(dns.rcode.Rcode(rcode))
    for record in records:
        name, seconds, of, kind, value = record.split(maxsplit=4)
        answer.answer.append(dns.rrset.from_text(name, int(seconds), of, kind, value))
    return answer.to_wire()


RESPONSES = (
    _response("www.example.org. 300 IN A 192.0.2.1", "www.example.org. 300 IN A 127.0.0.1"),
    _response("www.example.org. 60 IN CNAME a.example.", "a.example. 9 IN CNAME b.", "b. 5 IN A 192.0.2.9"),
    _response("www.example.org. 60 IN CNAME www.example.org."),
    _response("www.example.org. 60 IN DNAME example.", "www.example.org. 2 IN TXT \"a\" \"b\""),
    _response(rcode=3),
)  # fmt: skip


def resolve(data: bytes) -> None:
    """A datagram to a query's port: an answer or none; and of an answer, addresses that lead somewhere."""
    answer = queries.answer_to(_QUERY, data)
    if answer is None:
        answer = queries.answer_to(_QUERY, _QUERY.to_wire()[:2] + b"\x81\x80" + data[4:])
    if answer is not None:
        found, seconds = names._addresses(answer)
        assert all(not ipaddress.ip_address(a).is_loopback for a in found)
        assert seconds >= 0
        dns.rcode.to_text(answer.rcode())


class _Stranger:
    """A connection by which the bytes come, in pieces."""

    def __init__(self, data: bytes, piece: int) -> None:
        self._data, self._piece = data, piece

    async def receive(self, most: int) -> bytes:
        size = min(most, self._piece)
        said, self._data = self._data[:size], self._data[size:]
        return said


HTTP_ANSWERS = (
    b"\x40HTTP/1.1 204 No Content\r\nServer: x\r\n\r\n",
    b"\x03HTTP/1.1 302 Found\r\nLocation: http://login.example/?a=\xe9\r\nContent-Length: 3\r\n\r\nabc",
    b"\xffHTTP/1.0 511 Network Authentication Required\r\nContent-Type: text/html\r\n\r\n<html>",
    b"\x10HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
)
_WANTED = (Target("http", kind="http", query="/"), Target("http", kind="http", query="/", status=204))


def http(data: bytes) -> None:
    """The answer of a web server; the first byte says in what pieces. ProbeError: it is not the one that is wanted."""
    pieces = data[0] + 1 if data else 1
    for target in _WANTED:
        connection = h11.Connection(h11.CLIENT)
        web._request(connection, target, "example.org")
        try:
            answer = _finished(web._answer(connection, cast(Connection, _Stranger(data[1:], pieces))))
            web._check(answer, target)
        except ProbeError as error:
            said = error.text
        else:
            continue
        assert said.isprintable(), said
        assert len(said) < 500


def _finished(work: Coroutine[Any, Any, h11.Response]) -> h11.Response:
    """What it returns; it has nothing to wait for."""
    try:
        work.send(None)
    except StopIteration as done:
        return cast(h11.Response, done.value)
    raise asyncio.InvalidStateError("it waits")
