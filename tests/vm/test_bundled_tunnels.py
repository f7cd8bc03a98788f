"""Packet by packet over two providers that translate addresses, as in etc/examples/bundled-tunnels.toml: WireGuard by
each to a server, TEQL over both, mlbd at both ends. The internet is behind the server, and by the providers as well.

Every peer may have every packet, IPv6 too, and has an endpoint: TEQL goes on with a packet that WireGuard has refused
and freed (teql_master_xmit of net/sched/sch_teql.c, wg_xmit of drivers/net/wireguard/device.c), which ends in a panic.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mlbd.lab.daemon import Daemon
from mlbd.lab.namespaces import ip_each, ip_here
from mlbd.lab.network import Network
from mlbd.lab.stream import UdpStream
from mlbd.lab.traffic import TcpConversation, attempts
from tests.vm.pair import PATIENCE, lost_between, wait_until

PACE = '\n[probe]\ninterval = "300ms"\n'
ROUTER = (Path(__file__).parents[2] / "etc/examples/bundled-tunnels.toml").read_text() + PACE
SERVER = f"""
[[teql]]
name = "teql1"
members = [{{ interface = "wg1", address = "10.0.0.1/31", peer = "10.0.0.0" }},
           {{ interface = "wg2", address = "10.0.0.3/31", peer = "10.0.0.2" }}]
address = "10.0.0.5/31"
{PACE}"""
"""No uplink of mlbd's: what arrives by one would not leave by the default route of `main`."""
HOME = "192.168.1.0/24 via 10.0.0.4 dev teql1"
"""The server's route to the LAN."""
TUNNELS = (1, 2)
PORT = {1: 51821, 2: 51822}
"""Where the server listens for each tunnel."""
ADDRESS = "198.51.100.2"
"""The server's."""
ENDS = {"router": "teql0", "server": "teql1"}

_TRANSLATE = f"""
table ip translate {{
  chain leave {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname "eth0" ip saddr 192.168.1.0/24 snat to {ADDRESS}
  }}
}}
table inet quiet {{
  chain in {{
    type filter hook prerouting priority raw; policy accept;
  }}
}}
"""
_COUNT = """
table inet outer {{
{counters}
  chain out {{
    type filter hook prerouting priority -310; policy accept;
    iifname "customer" udp dport 51821 counter name out1
    iifname "customer" udp dport 51822 counter name out2
    iifname "upstream" udp sport 51821 counter name in1
    iifname "upstream" udp sport 51822 counter name in2
  }}
}}
""".format(counters="\n".join(f"  counter {way}{n} {{ }}" for way in ("out", "in") for n in TUNNELS))


class Scene:
    def __init__(self, stack: ExitStack) -> None:
        self.net = net = stack.enter_context(Network(2))
        _add_server(net)
        _add_tunnels(net)
        for n in TUNNELS:
            net.run(f"isp{n}", ["nft", "-f", "-"], text=_COUNT)
        for where, device in ENDS.items():
            # From the first namespace, which is not a worker's.
            command = ["nsenter", "-t", "1", "-n", "ip", "link", "set", device, "netns", net.namespace(where)]
            subprocess.run(command, check=True)
        stack.callback(self._give_back)
        self.router = Daemon(net, ROUTER)
        self.server = Daemon(net, SERVER, where="server")
        for daemon in (self.router, self.server):
            stack.callback(daemon.kill)
            daemon.start(wait=False)
        self.wait_attached({"wg1", "wg2"})
        self.wait_bundle(True)
        ip_each({net.namespace("server"): [f"route add {HOME}"]})
        self.before = {n: self.outer(n) for n in TUNNELS}

    def _give_back(self) -> None:
        """Emptied first, at both ends: see `Pair.teql`."""
        for where, device in ENDS.items():
            for member in self.attached(where):
                self.net.run(where, ["tc", "qdisc", "del", "dev", member, "root"])
            off = [f"addr flush dev {device}", f"link set {device} down", f'link set {device} alias ""']
            ip_each({self.net.namespace(where): [*off, f"link set {device} netns 1"]})

    def attached(self, where: str) -> set[str]:
        listed = json.loads(self.net.run(where, ["tc", "-j", "qdisc"]))
        return {qdisc["dev"] for qdisc in listed if qdisc["kind"] == ENDS[where]}

    def wait_attached(self, members: set[str]) -> None:
        wait_until(
            lambda: all(self.attached(where) == members for where in ENDS),
            what=f"{members} to be attached at both ends",
        )

    def wait_bundle(self, usable: bool) -> None:
        self.router.wait_for(
            lambda status: next(u["usable"] for u in status["uplinks"] if u["name"] == "bundle") is usable,
            timeout=PATIENCE,
            what=f"bundle to be {'usable' if usable else 'out'}",
        )

    def outer(self, provider: int) -> dict[str, int]:
        """The tunnels' packets that a provider has seen: `out1` is from the router by wg1."""
        said = json.loads(self.net.run(f"isp{provider}", ["nft", "-j", "list", "counters", "table", "inet", "outer"]))
        found = [item["counter"] for item in said["nftables"] if "counter" in item]
        return {counter["name"]: int(counter["packets"]) for counter in found}

    def since(self, before: dict[int, dict[str, int]]) -> dict[int, dict[str, int]]:
        return {n: {name: count - before[n][name] for name, count in self.outer(n).items()} for n in TUNNELS}

    def strays(self) -> list[int]:
        """Packets of a tunnel that a provider has seen who is not its own, in either direction, and wrong sources."""
        seen = self.since(self.before)
        tunnels = [seen[1]["out2"], seen[1]["in2"], seen[2]["out1"], seen[2]["in1"]]
        return [*tunnels, self.net.wrong_source(1), self.net.wrong_source(2)]

    def seen(self) -> set[str]:
        """The addresses that the internet sees the LAN's connections come from; "" for those that fail."""
        return {attempt.seen for attempt in attempts(self.net, "lan1", 20, timeout=PATIENCE)}

    def stream(self) -> UdpStream:
        """One connection, from the LAN to the internet."""
        stream = UdpStream(self.net, "lan1", rate=100.0, limit=120.0)
        stream.wait_started(PATIENCE)
        return stream


def _add_server(net: Network) -> None:
    """A host of the internet, which translates what comes out of the tunnels."""
    net._add(["server"])
    internet, server = net.namespace("internet"), net.namespace("server")
    ip_here([f"link add server netns {internet} type veth peer name eth0 netns {server}"])
    for where in ("internet", "server"):
        net.sysctls(where, {"ipv4/ip_forward": 1})
    ip_each(
        {
            internet: ["link set server up", "addr add 198.51.100.1/24 dev server"],
            server: [
                "link set lo up",
                "link set eth0 up",
                f"addr add {ADDRESS}/24 dev eth0",
                "route add default via 198.51.100.1",
            ],
        }
    )
    net.run("server", ["nft", "-f", "-"], text=_TRANSLATE)


def _add_tunnels(net: Network) -> None:
    """Silent until mlbd's rules are there: see the example."""
    for n in TUNNELS:
        net.run("router", ["ip", "rule", "add", "priority", "32000", "fwmark", hex(n), "unreachable"])
        keys = {where: net.run(where, ["wg", "genkey"]) for where in ENDS}
        for where, far, options, endpoint in (
            ("router", "server", ["fwmark", hex(n)], f"{ADDRESS}:{PORT[n]}"),
            ("server", "router", ["listen-port", str(PORT[n])], "192.0.2.1:9"),
        ):
            public = net.run(far, ["wg", "pubkey"], text=keys[far]).strip()
            net.run(where, ["ip", "link", "add", f"wg{n}", "type", "wireguard"])
            peer = ["peer", public, "allowed-ips", "0.0.0.0/0,::/0", "endpoint", endpoint]
            if where == "router":
                peer += ["persistent-keepalive", "5"]
            net.run(where, ["wg", "set", f"wg{n}", "private-key", "/dev/stdin", *options, *peer], text=keys[where])


@pytest.fixture(scope="module")
def scene(teql: None) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(stack)


def test_one_connection_by_both_providers(scene: Scene) -> None:
    """The packets of one connection leave by both providers in turn, and so do the answers; the far end sees one
    address, the server's, for the whole of it.
    """
    with scene.stream() as stream:
        before, sent = {n: scene.outer(n) for n in TUNNELS}, stream.so_far().sent
        time.sleep(3)
        seen, sent = scene.since(before), stream.so_far().sent - sent
        summary = stream.stop(2)
    assert summary.lost == 0
    assert set(summary.by_uplink()) == {None}  # by no provider's address
    counts = [seen[1]["out1"], seen[2]["out2"], seen[1]["in1"], seen[2]["in2"]]
    assert counts == pytest.approx([sent / 2] * 4, abs=sent / 5)  # with 7 probes a second of both ends
    assert abs(counts[0] - counts[1]) < sent / 10
    assert scene.strays() == [0] * 6


def test_a_provider_goes_silent(scene: Scene) -> None:
    """Its tunnel is taken out at both ends, which takes no other way meanwhile, and put back; connections go on."""
    net = scene.net
    with TcpConversation(net, "lan1", server=2, timeout=PATIENCE) as tcp, scene.stream() as stream:
        net.silence(1, gateway=True)
        began = time.monotonic()
        tcp.say(PATIENCE)
        scene.wait_attached({"wg2"})
        moved = time.monotonic()
        scene.router.wait_for(lambda s: not s["uplinks"][0]["usable"], timeout=PATIENCE, what="fiber to be out")
        time.sleep(2)
        tcp.say(PATIENCE)
        assert scene.strays() == [0] * 6
        spoke = time.monotonic()
        net.speak(1)
        scene.wait_attached({"wg1", "wg2"})
        time.sleep(1)
        tcp.say(PATIENCE)
        summary = stream.stop(2)
    lost = lost_between(summary, began, moved)
    assert lost > sum(began <= p.sent < moved for p in summary.packets) / 4
    assert lost_between(summary, moved + 0.3, time.monotonic()) == 0, spoke - moved
    assert set(summary.by_uplink()) == {None}
    assert scene.strays() == [0] * 6


def test_without_the_server(scene: Scene) -> None:
    """New connections then go by one provider or the other, and by the tunnels again when it is back."""
    scene.net.run("server", ["nft", "add", "rule", "inet", "quiet", "in", "udp", "dport", "51821-51822", "drop"])
    scene.wait_bundle(False)
    found = scene.seen()
    scene.net.run("server", ["nft", "flush", "chain", "inet", "quiet", "in"])
    assert found == {"100.64.1.2", "100.64.2.2"}
    scene.wait_bundle(True)
    scene.wait_attached({"wg1", "wg2"})
    assert scene.seen() == {ADDRESS}
    assert scene.strays() == [0] * 6
