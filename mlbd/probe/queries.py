"""Probes of the kind dns, and the queries behind names: one datagram each, by a connected socket of its own.

What counts has the query's random id and question and comes from the address and to the random port that it went by;
anything else is passed over. dnspython builds and reads the messages.
"""

from __future__ import annotations

import socket
import struct
import time

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype

from mlbd.core.probing import Order
from mlbd.probe import errors
from mlbd.probe.errors import ProbeError
from mlbd.probe.sockets import bound, endpoint, readable
from mlbd.probe.timing import STAMP_SIZE, Sent, round_trip, stamp, stamped

_BIGGEST = 4096
_PAYLOAD = 1232
"""Of an answer, bytes; no way is too narrow for it (RFC 9715 section 3)."""
_IP_RECVERR, _IPV6_RECVERR = 11, 25  # linux/in.h, linux/in6.h
_HEADER = struct.Struct("!HHHHHH")
"""Id, flags, and the numbers of questions, answers and others (RFC 1035 section 4.1.1)."""
_KIND, _RESPONSE, _RCODE = 0xF8, 0x80, 0x0F
"""Of the flags: a response to a standard query, and the return code."""
_OF_QUESTION = 4
_RECORD = struct.Struct("!HHIH")
"""Behind the name: type, class, time to live, length (RFC 1035 section 4.1.3)."""
_READ = (dns.rdatatype.A, dns.rdatatype.AAAA, dns.rdatatype.CNAME)
ABOUT_THE_NAME = (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)
"""What a server says that does its work."""


async def ask(order: Order) -> float:
    """Seconds until the server answered. Raises ProbeError, OSError."""
    answer, elapsed = await exchange(order, order.ask.port, order.ask.query)
    if answer.rcode() not in ABOUT_THE_NAME:
        raise ProbeError("refused", f"{dns.rcode.to_text(answer.rcode())} for {order.ask.query}")
    return elapsed


async def exchange(
    order: Order, port: int, name: str, kind: dns.rdatatype.RdataType = dns.rdatatype.A
) -> tuple[dns.message.QueryMessage, float]:
    """Ask the server at the order's address; its answer, whatever it says, and the round trip, seconds.

    Waits as long as it is let. Raises ProbeError, OSError.
    """
    query = dns.message.make_query(name, kind, use_edns=0, payload=_PAYLOAD)
    wire = query.to_wire()
    with bound(order, socket.SOCK_DGRAM) as made:
        stamp(made)
        # Without it a datagram's socket hears of a closed port only, not of a network or host that is unreachable.
        if ":" in order.address:
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        else:
            made.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        try:
            made.connect(endpoint(order, port))
            sent = Sent(order.round, order.address, time.time_ns(), time.monotonic_ns())
            made.send(wire)
        except OSError as error:
            raise ProbeError(*errors.sending(error, order)) from error
        while True:
            await readable(made)
            try:
                data, ancillary, _flags, _source = made.recvmsg(_BIGGEST, STAMP_SIZE)
            except BlockingIOError:  # a damaged datagram
                continue
            except OSError as error:
                raise errors.heard(error, order) from error
            now = time.monotonic_ns()
            answer = answer_to(query, data)
            if answer is not None:
                return answer, round_trip(sent, stamped(ancillary), now) / 1e9


def answer_to(query: dns.message.QueryMessage, data: bytes) -> dns.message.QueryMessage | None:
    """What a datagram says to the query, with addresses and aliases only; None if it is no answer to it."""
    if len(data) < _HEADER.size or data[2] & _KIND != _RESPONSE:
        return None
    # Without the flags that say nothing here: Python keeps an object for each combination that it has ever seen.
    data = data[:2] + bytes([_RESPONSE, data[3] & _RCODE]) + data[4:]
    try:
        answer = dns.message.from_wire(data, question_only=True)
        if not isinstance(answer, dns.message.QueryMessage) or not query.is_response(answer):
            return None
        _read_records(answer, data)
    except (dns.exception.DNSException, ValueError, struct.error):
        return None
    return answer


def _read_records(answer: dns.message.QueryMessage, data: bytes) -> None:
    """The answer section. Not by dnspython, which looks for a module for each type it does not know, and remembers each
    pair of class and type for good: a server could make us grow without end.
    """
    _, _, questions, records, _, _ = _HEADER.unpack_from(data)
    position = _HEADER.size
    for _ in range(questions):
        position += dns.name.from_wire(data, position)[1] + _OF_QUESTION
    for _ in range(records):
        name, used = dns.name.from_wire(data, position)
        kind, of, seconds, size = _RECORD.unpack_from(data, position + used)
        position += used + _RECORD.size + size
        if of == dns.rdataclass.IN and kind in _READ:
            record = dns.rdata.from_wire(dns.rdataclass.IN, kind, data, position - size, size)
            answer.find_rrset(answer.answer, name, dns.rdataclass.IN, kind, create=True).add(record, seconds)
