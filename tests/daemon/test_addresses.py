"""An uplink whose address goes and comes again, as when a lease is renewed by a careless client."""

from __future__ import annotations

import time

from mlbd.lab.traffic import attempts
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
