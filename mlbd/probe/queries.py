"""Probes of the kind dns, and the queries behind names: one datagram each, by a connected socket of its own.

What counts has the query's random id and question and comes from the address and to the random port that it went by;
anything else is passed over. dnspython builds and reads the messages.
"""

from __future__ import annotations

import socket
import time

import dns.exception
import dns.flags
import dns.message
import dns.rcode
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
            try:
                answer = dns.message.from_wire(data, ignore_trailing=True)
            except (dns.exception.DNSException, ValueError):
                continue
            if isinstance(answer, dns.message.QueryMessage) and query.is_response(answer):
                return answer, round_trip(sent, stamped(ancillary), now) / 1e9
