"""The other router as an uplink of last resort. Without keepalived and conntrackd: gateways are moved by hand."""

from __future__ import annotations

import contextlib
import re
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlbd.lab import echo
from mlbd.lab.daemon import Daemon
from mlbd.lab.network import wait_until
from mlbd.lab.pair import BOTH, Pair
from mlbd.lab.stream import UdpStream
from mlbd.lab.traffic import TcpConversation, connect_many
from tests.pair.scene import example

FORWARDS = f"""
table ip forwards {{
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    iifname "wan" tcp dport 7000 dnat to 192.168.1.10:{echo.PORT}
  }}
}}
"""
COUNTS = """
table ip counts {
  counter forwarded {}
  chain forward {
    type filter hook forward priority 300; policy accept;
    ip saddr 192.168.1.0/24 ip daddr 203.0.113.99 counter name forwarded
  }
}
"""


def configuration(n: int) -> str:
    """Of router n, with IPv6 as well."""
    text = example(n)["mlbd.toml"].replace('interface = "wan"\n', 'interface = "wan"\nnat6 = "masquerade"\n')
    both = text.replace("\npeer = true", f'\ngateway6 = "fd00:10:1::{4 - n}:1"\npeer = true')
    assert both.count("6 = ") == 2
    return both


def firewall(n: int) -> str:
    """That of the page, on router n, and what a port forward needs."""
    page = (Path(__file__).parents[2] / "docs/schemes/pair.md").read_text()
    (text,) = re.findall(r"^table inet firewall \{\n.*?^\}\n", page, re.MULTILINE | re.DOTALL)
    own = text if n == 1 else re.sub(r"(saddr 192\.168\.[12])\.3", r"\1.2", text)
    return f"{own}\nadd rule inet firewall forward ct status dnat accept\n"


class Routers:
    """Two routers with nothing but mlbd and a firewall, the gateway of each segment where it belongs."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.daemons = {n: Daemon(pair, configuration(n), where=f"router{n}") for n in BOTH}
        self.wrong = [0, 0]

    def start(self) -> None:
        for n, daemon in self.daemons.items():
            self.pair.run(f"router{n}", ["nft", "-f", "-"], text=firewall(n))
            daemon.start(wait=False)
        for k in BOTH:
            self.give(k, k)
        self.wait_well()
        self.wrong = self.wrong_sources()

    def wait_well(self) -> None:
        for daemon in self.daemons.values():
            daemon.wait_for(lambda status: all(u["usable"] for u in status["uplinks"]), timeout=15)

    def wait_line(self, n: int, line: int, *, usable: bool) -> None:
        self.daemons[n].wait_for(
            lambda status: [u["usable"] for u in status["uplinks"] if u["name"] == f"line{line}"] == [usable]
        )

    def give(self, k: int, n: int) -> None:
        """The gateway of segment k to router n."""
        for address in (f"192.168.{k}.1/24", f"fd00:10:{k}::1/64"):
            there = [r for r in BOTH if address in self.pair.run(f"router{r}", ["ip", "address", "show", f"seg{k}"])]
            for r in {*there} - {n}:
                self.pair.run(f"router{r}", ["ip", "address", "del", address, "dev", f"seg{k}"])
            if n not in there:
                self.pair.run(f"router{n}", ["ip", "address", "add", address, "dev", f"seg{k}", "nodad"])
        self.pair.run(f"lan{k}", ["ip", "neighbour", "flush", "all"])

    def wrong_sources(self) -> list[int]:
        return [self.pair.wrong_source(n) for n in BOTH]


@pytest.fixture(scope="module")
def routers() -> Iterator[Routers]:
    with Pair() as pair:
        found = Routers(pair)
        found.start()
        yield found
        assert found.wrong_sources() == found.wrong
        for daemon in found.daemons.values():
            daemon.stop()
            assert "Traceback" not in daemon.log_text()


@pytest.fixture(autouse=True)
def well(routers: Routers) -> Iterator[None]:
    yield
    for n in BOTH:
        routers.pair.speak(n)
        routers.give(n, n)
    routers.wait_well()


@contextlib.contextmanager
def going_on(talking: TcpConversation) -> Iterator[None]:
    """What happens in the block interrupts the conversation for less than a second."""
    begin = time.monotonic()
    yield
    time.sleep(0.5)
    late = [e for e in talking.exchanges if e.sent >= begin]
    assert talking.reset is None
    assert late[-1].answered > time.monotonic() - 0.5
    assert max(e.answered - e.sent for e in late) < 1.0


def test_a_gateway_without_a_line_forwards_through_the_other_router(routers: Routers) -> None:
    """TCP, UDP, pings and the router's own connections leave by the other line, with the clients' own addresses as far
    as the other router, and clients are told of no other way.
    """
    pair = routers.pair
    with TcpConversation(pair, "lan1", interval=0.02) as old:
        pair.silence(1)
        routers.wait_line(1, 1, usable=False)
        wait_until(lambda: old.reset is not None, timeout=3.0, what="that the connection of the dead line is reset")
    with TcpConversation(pair, "lan1", interval=0.02) as new, UdpStream(pair, "lan1", rate=100.0) as stream:
        stream.wait_started()
        assert connect_many(pair, "lan1", 100, sources=[pair.lan(1).source(n) for n in range(1, 21)]) == {2: 100}
        assert connect_many(pair, "lan1", 20, family=6) == {2: 20}
        assert [connect_many(pair, "router1", 20, family=family) for family in (4, 6)] == [{2: 20}] * 2
        assert pair.ping("lan1", "203.0.113.9")
        assert "src=192.168.1.10 " in pair.run("router2", ["conntrack", "-L", "-p", "udp"])
        with going_on(new):
            pair.speak(1)
            routers.wait_line(1, 1, usable=True)
        assert connect_many(pair, "lan1", 20) == {1: 20}
        summary = stream.stop()
    assert (new.uplink, set(summary.by_uplink())) == (2, {2})
    assert all(packet.answered is not None for packet in summary.packets)
    assert "via 192.168.1.1 " in pair.run("lan1", ["ip", "route", "get", "203.0.113.9"])
    assert "redirected" not in pair.run("lan1", ["ip", "route", "show", "cache"])


def test_each_router_may_use_the_line_of_the_other(routers: Routers) -> None:
    """With both lines drained each segment leaves by the other line, for what a peer sends leaves by a line."""
    pair, daemons = routers.pair, routers.daemons
    for n in BOTH:
        daemons[n].command("drain", uplink=f"line{n}")
    wait_until(lambda: connect_many(pair, "lan1", 1) == {2: 1}, what="that it is drained")
    time.sleep(1.0)  # for each to find the other one out, were it no good
    assert [connect_many(pair, f"lan{k}", 20) for k in BOTH] == [{2: 20}, {1: 20}]
    for n in BOTH:
        daemons[n].command("resume", uplink=f"line{n}")


def test_nothing_goes_back_to_where_it_came_from(routers: Routers) -> None:
    """Where rules make each router send a packet to the other, the second one refuses it, and the client hears so."""
    pair = routers.pair
    for n in BOTH:
        pair.run(f"router{n}", ["nft", "-f", "-"], text=COUNTS)
        rule = f'\n[[rule]]\nname = "loop"\nto = ["203.0.113.99"]\nuse = "line{3 - n}"\n'
        routers.daemons[n].configure(configuration(n) + rule)
        routers.daemons[n].reload()
    time.sleep(0.3)  # the kernel follows
    with pair.inside("lan1"), socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.settimeout(2.0)
        with pytest.raises(OSError, match="unreachable"):
            s.connect(("203.0.113.99", echo.PORT))
    forwarded = [pair.run(f"router{n}", ["nft", "list", "counter", "ip", "counts", "forwarded"]) for n in BOTH]
    assert ["packets 1 " in text for text in forwarded] == [True, False]
    assert "packets 0 " in forwarded[1]
    for n in BOTH:
        pair.run(f"router{n}", ["nft", "delete", "table", "ip", "counts"])
        routers.daemons[n].configure(configuration(n))
        routers.daemons[n].reload()


@pytest.mark.parametrize("family", [4, 6])
def test_tcp_keeps_its_line_when_the_gateway_moves(routers: Routers, family: int) -> None:
    """Without any replication: what a router can't place, the other one knows, there and back."""
    pair = routers.pair
    with TcpConversation(pair, "lan1", interval=0.02, family=family) as first:
        with going_on(first):
            routers.give(1, 2)
        with TcpConversation(pair, "lan1", interval=0.02, family=family) as second:
            assert connect_many(pair, "lan1", 20, family=family) == {2: 20}
            with going_on(first), going_on(second):
                routers.give(1, 1)
        assert (first.uplink, second.uplink) == (1, 2)


def test_a_server_behind_the_line_of_the_other_router(routers: Routers) -> None:
    """Who comes in by line 2 is answered by a server of segment 1, whose gateway is router 1, through router 2."""
    pair = routers.pair
    pair.serve("lan1")
    pair.run("router2", ["nft", "-f", "-"], text=FORWARDS)
    with pair.inside("internet"), socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.settimeout(2.0)
        s.bind(("203.0.113.200", 0))
        s.connect((pair.uplink(2).address, 7000))
        for _ in range(20):
            s.send(b"hello\n")
            assert s.recv(100)
    pair.run("router2", ["nft", "delete", "table", "ip", "forwards"])


def test_settings_of_the_kernel(routers: Routers) -> None:
    """What a peer needs is put back when somebody changes it, outlives a restart, and is as before after a release."""
    pair, daemon = routers.pair, routers.daemons[1]
    names = [f"netfilter/nf_conntrack_tcp_{name}" for name in ("loose", "be_liberal")] + ["ipv4/conf/seg1/accept_local"]

    def values() -> list[str]:
        return [pair.run("router1", ["cat", f"/proc/sys/net/{name}"]).strip() for name in names]

    assert values() == ["0", "1", "1"]
    pair.sysctls("router1", {names[0]: 1, names[2]: 0})
    wait_until(lambda: values() == ["0", "1", "1"], timeout=3.0, what="that they are put back")
    daemon.kill()
    daemon.start()
    assert values() == ["0", "1", "1"]
    daemon.stop()
    pair.run("router1", [sys.executable, "-m", "mlbd", "release", "-c", str(daemon.file)])
    assert values() == ["1", "0", "0"]
    daemon.start()
    routers.wrong = routers.wrong_sources()  # released, the router forwarded the other one's probes as they were


def test_tcp_that_nobody_knows_ends(routers: Routers) -> None:
    """A connection that began before both routers' tables is reset, instead of going round or hanging."""
    pair = routers.pair
    with TcpConversation(pair, "lan1", interval=0.05) as talking:
        for n in BOTH:
            pair.run(f"router{n}", ["conntrack", "-F"])
        wait_until(lambda: talking.reset is not None, timeout=5.0, what="that the connection is reset")
