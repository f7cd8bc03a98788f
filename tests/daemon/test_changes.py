"""While one uplink comes and goes, with rules and several policies in force, the others notice nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network
from mlbd.lab.traffic import TcpConversation, attempts
from tests.lab.inbound import asked
from tests.lab.scene import QUICK, in_background, tables, wait_usable

POLICIES = """
[[policy]]
name = "all"
members = [{members}]

[[policy]]
name = "by-source"
method = "hash-source"
members = [{members}]

[[policy]]
name = "hops"
method = "multipath"
members = [{members}]

[[rule]]
name = "third"
ports = [7777]
use = "wan3"

[[rule]]
name = "web"
protocol = "tcp"
ports = [80]
use = "by-source"

[[rule]]
name = "hops"
protocol = "tcp"
ports = [81]
use = "hops"
{more}
"""
WITH = POLICIES.format(members='"wan1", "wan2", "wan3"', more="")
WITHOUT = POLICIES.format(
    members='"wan1", "wan2"', more='[[rule]]\nname = "more"\nfrom = ["192.168.7.0/24"]\nuse = "main"\n'
)
CHANGES = 200


def test_a_flood_during_200_changes(network: Callable[..., Network]) -> None:
    """The third uplink leaves and joins all policies 200 times, and rules come and go. Of a flood of new connections
    by every kind of policy not one is refused or lost, no conversation on the others moves or waits, connections come
    in on every uplink all the time, and no packet has a wrong source.
    """
    net = network(3)
    nat6 = ('nat6 = "masquerade"',) * 3
    with Daemon(net, tables(net, *nat6) + WITH + QUICK) as daemon:
        wait_usable(daemon, "wan1", "wan2", "wan3")
        net.serve("router")
        talking = [c for c in (TcpConversation(net, "lan1", interval=0.02) for _ in range(30)) if c.uplink != 3]
        assert {conversation.uplink for conversation in talking} == {1, 2}
        changes = in_background(_change, daemon, net, nat6)
        floods = [
            in_background(attempts, net, where, 500, rate=45, port=port, family=family)
            for where, port, family in (
                ("lan1", 7, 4), ("lan1", 80, 4), ("lan1", 81, 4), ("lan1", 7, 6), ("router", 7, 4), ("router", 80, 4),
            )
        ]  # fmt: skip
        came_in = []
        while not changes.done():
            came_in += [asked(net, "tcp", 4, n, 7) for n in (1, 2, 3)]
        changes.result()
        for flood in floods:
            tried = flood.result()
            assert {attempt.error for attempt in tried} == {""}
        assert all(came_in)
        assert len(came_in) > 100
        assert {c.reset for c in talking} == {None}
        assert max(e.answered - e.sent for c in talking for e in c.exchanges) < 0.5
        for conversation in talking:
            conversation.close()
        assert [net.wrong_source(n) for n in (1, 2, 3)] == [0, 0, 0]
        assert daemon.status()["last_cycle"]["errors"] == []
        assert "Traceback" not in daemon.log_text()


def _change(daemon: Daemon, net: Network, nat6: tuple[str, ...]) -> None:
    for number in range(CHANGES):
        daemon.configure(tables(net, *nat6) + (WITH if number % 2 else WITHOUT) + QUICK)
        daemon.command("reload")
        time.sleep(0.04)
