"""An uplink whose address goes and comes again, as when a lease is renewed by a careless client."""

from __future__ import annotations

import time

import pytest

from mlbd.lab.traffic import TcpConversation, attempts
from tests.lab.scene import QUICK, Start, in_background, wait_usable

CHANGES = 15


def test_nobody_sends_with_anothers_address(start: Start) -> None:
    """In the moments in which the uplink has no address, no packet leaves with one of the LAN's or of the other uplink,
    forwarded or the router's own, TCP or UDP; and what the other uplink carries is not disturbed.
    """
    net, daemon = start(config=QUICK)
    wait_usable(daemon, "wan1", "wan2")
    one = net.uplink(1)
    sending = [
        in_background(attempts, net, where, 1200, rate=400, timeout=0.5, udp=udp)
        for where, udp in (("lan1", False), ("lan1", True), ("router", False))
    ]
    for _ in range(CHANGES):
        net.run("router", ["ip", "address", "del", f"{one.address}/{one.length}", "dev", "wan1"])
        time.sleep(0.03)
        again = f"ip address add {one.address}/{one.length} dev wan1; ip route add {one.default_routes()[0]}"
        net.run("router", ["sh", "-ec", again])
        time.sleep(0.1)
    found = [result.result() for result in sending]
    assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]
    assert all({attempt.uplink for attempt in tried} >= {1, 2} for tried in found)
    wait_usable(daemon, "wan1", "wan2")


def test_own_connections_of_an_old_lease_end(start: Start) -> None:
    """Where the provider gives another address, the router's own connections with the old one end at once, also idle
    ones, which nothing would ever answer; if the same address comes back, they go on.
    """
    net, daemon = start(config=QUICK)
    held = [TcpConversation(net, "router") for _ in range(20)]
    first = [conversation for conversation in held if conversation.uplink == 1]
    others = [conversation for conversation in held if conversation.uplink == 2]
    one = net.uplink(1)
    net.run("router", ["ip", "address", "del", f"{one.address}/{one.length}", "dev", "wan1"])
    time.sleep(0.4)  # with its IPv6 it stays usable
    again = f"ip address add {one.address}/{one.length} dev wan1; ip route add {one.default_routes()[0]}"
    net.run("router", ["sh", "-ec", again])
    wait_usable(daemon, "wan1", "wan2")
    for conversation in held:
        conversation.say()
    net.renumber(1)
    wait_usable(daemon, "wan1", "wan2")
    for conversation in first:
        with pytest.raises(ConnectionAbortedError):
            conversation.say()
    for conversation in others:
        conversation.say()
    for conversation in held:
        conversation.close()
    assert first
    assert others
    assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]
