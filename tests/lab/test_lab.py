"""The lab tells the truth: what its counters, faults and senders say is what happened to packets."""

from __future__ import annotations

import json
import select
import socket
import tomllib
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from mlbd.lab import layout, namespaces
from mlbd.lab.daemon import Daemon, uplink_tables
from mlbd.lab.echo import PORT
from mlbd.lab.namespaces import LabError
from mlbd.lab.network import Network, wait_until
from mlbd.lab.stream import Packet, Summary, UdpStream
from mlbd.lab.traffic import TcpConversation, attempts, connect_many

_SO_BINDTODEVICE = 25
FAMILIES = (4, 6)

Build = Callable[..., Network]


def ask(net: Network, where: str, *, family: int = 4, device: str = "", timeout: float = 0.3) -> str | None:
    """The peer address that a server saw of one datagram; None without an answer."""
    with net.inside(where), socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as s:
        if device:
            s.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, device.encode())
        s.settimeout(timeout)
        try:
            s.sendto(b"x", (layout.server(9, family), PORT))
            answer, peer = s.recvfrom(100)
        except OSError:
            return None
    assert peer[0] == layout.server(9, family)
    return answer.split()[0].decode()


def link(net: Network, interface: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(net.run("router", ["ip", "-j", "link", "show", interface]))
    return found[0]


def carrier(net: Network, interface: str) -> bool:
    return "LOWER_UP" in link(net, interface)["flags"]


def neighbour(net: Network, address: str) -> str:
    """What the kernel of the router finds out about a neighbour it does not know yet: REACHABLE, FAILED, .."""
    net.run("router", ["ip", "neigh", "flush", "to", address])
    net.ping("router", address, timeout=0.2)
    shown: list[dict[str, Any]] = json.loads(net.run("router", ["ip", "-j", "neigh", "show", "to", address]))
    return " ".join(shown[0]["state"])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_answer_tells_its_uplink(network: Build, family: int) -> None:
    """A server sees, for each uplink, an address that only this uplink's provider has."""
    net = network(3)
    seen = [ask(net, "router", family=family, device=f"wan{n}") for n in (1, 2, 3)]
    expected = {4: ["100.64.1.2", "100.64.2.2", "100.64.3.2"], 6: ["2001:db8:1::2", "2001:db8:2::2", "2001:db8:3::2"]}
    assert seen == expected[family]
    assert [layout.uplink_of(address or "") for address in seen] == [1, 2, 3]
    assert [net.wrong_source(n) for n in (1, 2, 3)] == [0, 0, 0]
    assert all(net.right_source(n) >= 1 for n in (1, 2, 3))


@pytest.mark.parametrize(
    ("address", "uplink"),
    [
        ("100.64.100.2", 100),
        ("2001:db8:42::2", 42),
        ("2001:db8:42:100::9", 42),
        ("2001:db8:f::1", None),
        ("10.1.0.2", None),
    ],
)
def test_uplink_of(address: str, uplink: int | None) -> None:
    """An address belongs to the uplink whose provider gave it, or to none."""
    assert layout.uplink_of(address) == uplink


@pytest.mark.parametrize("family", FAMILIES)
def test_a_wrong_source_is_counted_and_dropped(network: Build, family: int) -> None:
    """A client's packets that the router forwards without translation are counted by the provider and go nowhere."""
    net = network(2)
    assert [ask(net, "lan1", family=family, timeout=0.1) for _ in range(3)] == [None] * 3
    assert [net.wrong_source(1), net.wrong_source(2)] == [3, 0]


def test_a_wrong_source_is_counted_through_a_fault(network: Build) -> None:
    """A silent provider still sees what its customer should not have sent."""
    net = network(2)
    net.silence(1, gateway=True)
    assert ask(net, "lan1", timeout=0.1) is None
    assert net.wrong_source(1) == 1


def test_silence_stops_what_passes_and_nothing_else(network: Build) -> None:
    """A silenced provider passes nothing in either direction; its gateway answers, and the link stays up."""
    net = network(2)
    net.silence(1)
    assert [ask(net, "router", family=family, device="wan1") for family in FAMILIES] == [None, None]
    assert net.dropped(1) == 2
    assert not net.ping("internet", net.uplink(1).address, timeout=0.3)
    assert [net.ping("router", address) for address in (net.uplink(1).gateway, net.uplink(1).gateway6)] == [True, True]
    assert carrier(net, "wan1")
    assert ask(net, "router", device="wan2") == "100.64.2.2"
    net.speak(1)
    assert [ask(net, "router", family=family, device="wan1") for family in FAMILIES] == ["100.64.1.2", "2001:db8:1::2"]


def test_a_silent_gateway_still_answers_its_neighbours(network: Build) -> None:
    """With `gateway` the gateway answers ARP and neighbour discovery only, with `neighbours` not even that."""
    net = network(2)
    gateways = [net.uplink(1).gateway, net.uplink(1).gateway6]
    net.silence(1, gateway=True)
    assert [net.ping("router", gateway, timeout=0.2) for gateway in gateways] == [False, False]
    assert [neighbour(net, gateway) for gateway in gateways] == ["REACHABLE", "REACHABLE"]
    net.silence(1, neighbours=True)
    assert {neighbour(net, gateway) for gateway in gateways} <= {"INCOMPLETE", "FAILED"}
    net.speak(1)
    for gateway in gateways:
        wait_until(partial(net.ping, "router", gateway, timeout=0.2))


def test_dropped_icmp_is_only_that(network: Build) -> None:
    """Without ICMP neither gateway nor server answers a ping, while datagrams pass."""
    net = network(2)
    net.drop_icmp(1)
    assert [net.ping("router", to, timeout=0.2) for to in (net.uplink(1).gateway, "203.0.113.1", "2001:db8:f::1")] == [
        False,
        False,
        False,
    ]
    assert ask(net, "router") == "100.64.1.2"
    net.drop_icmp(1, drop=False)
    assert net.ping("router", "203.0.113.1")


def test_unplug_takes_the_carrier(network: Build) -> None:
    """A pulled cable is a lost carrier of this uplink only; plugged in again everything works as before."""
    net = network(2)
    net.unplug(1)
    assert [carrier(net, "wan1"), carrier(net, "wan2")] == [False, True]
    assert ask(net, "router") is None
    net.plug(1)
    assert carrier(net, "wan1")
    wait_until(lambda: [ask(net, "router", family=f) for f in FAMILIES] == ["100.64.1.2", "2001:db8:1::2"])


@pytest.mark.parametrize("prompt", [False, True])
def test_carrier_events_like_a_network_card_or_prompt(network: Build, prompt: bool) -> None:
    """The uplinks' index equals their link's, as a network card's does, unless prompt events are asked for."""
    net = network(2, prompt_carrier=prompt)
    found = link(net, "wan1")
    assert (found["ifindex"] != found["link_index"]) is prompt


def test_prompt_carrier_events_are_prompt(network: Build) -> None:
    """With prompt carrier the kernel tells of each of ten flips within 50 ms."""
    net = network(2, prompt_carrier=True)
    with net.inside("router"):
        events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    with events:
        events.bind((0, 1))  # RTMGRP_LINK
        events.settimeout(0.05)
        for _ in range(5):
            for flip in (net.unplug, net.plug):
                flip(1)
                assert events.recv(65536)
                while select.select([events], [], [], 0)[0]:
                    events.recv(65536)


def test_a_stream_counts_exactly_what_was_lost(network: Build) -> None:
    """The packets a stream reports as lost are as many as the provider dropped."""
    net = network(2)
    net.lose(1, 0.3)
    with UdpStream(net, "router", rate=1000) as stream:
        wait_until(lambda: len(stream.so_far().packets) >= 1000)
        found = stream.stop()
    assert found.lost == net.dropped(1)
    assert found.sent - found.lost == found.by_uplink()[1]
    assert 0.2 < found.lost / found.sent < 0.4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stream_sustains_its_rate(network: Build, family: int) -> None:
    """A thousand packets a second are sent, all are answered, and the longest gap is none."""
    net = network(2)
    with UdpStream(net, "router", rate=1000, family=family) as stream:
        wait_until(lambda: len(stream.so_far().packets) >= 1000)
        found = stream.stop()
    took = found.packets[-1].sent - found.packets[0].sent
    assert found.sent / took == pytest.approx(1000, rel=0.05)
    assert (found.lost, found.longest_gap, found.by_uplink()) == (0, 0.0, {1: found.sent})


def test_what_a_summary_says() -> None:
    """Lost, longest gap and first good packet follow from the packets."""
    answered = [True, False, True, False, False, False, True, False]
    found = Summary(
        [Packet(n, n / 10, n / 10 + 0.01 if ok else None, 1 if ok else None, 0) for n, ok in enumerate(answered)]
    )
    assert (found.sent, found.lost) == (8, 5)
    assert found.longest_gap == pytest.approx(0.3)
    assert found.first_good_after(0.25) == found.packets[6]
    assert found.first_good_after(0.65) is None


def test_a_stream_records_what_could_not_be_sent(network: Build) -> None:
    """Without a route every packet is lost, with the kernel's reason."""
    net = network(2, default_routes=False)
    with UdpStream(net, "router", rate=200, limit=0.1) as stream:
        wait_until(lambda: len(stream.so_far().packets) == 20)
        found = stream.stop(linger=0)
    assert {(packet.answered, packet.error) for packet in found.packets} == {(None, 101)}  # ENETUNREACH


@pytest.mark.parametrize("family", FAMILIES)
def test_connections_are_counted_by_uplink(network: Build, family: int) -> None:
    """Connections count for the uplink they went by, many sources included, and failed ones as such."""
    net = network(2)
    assert connect_many(net, "router", 200, family=family) == Counter({1: 200})
    net.run("router", ["nft", "-f", "-"], text=_MASQUERADE)
    sources = [layout.source(1, n, family) for n in range(1, 11)]
    assert connect_many(net, "lan1", 50, family=family, sources=sources) == Counter({1: 50})
    net.silence(1)
    failed = attempts(net, "router", 5, family=family, timeout=0.2)
    assert {(attempt.took, attempt.uplink, attempt.error) for attempt in failed} == {(None, None, "timeout")}


_MASQUERADE = """
table inet nat {
  chain post {
    type nat hook postrouting priority srcnat; policy accept;
    oifname "wan*" masquerade
  }
}
"""


_RESET = """
table inet guard {
  chain in {
    type filter hook input priority 0; policy accept;
    tcp dport 7 reject with tcp reset
  }
}
"""


def test_connections_keep_their_pace(network: Build) -> None:
    """With a rate, connections start evenly: a hundred at 200 a second take half a second."""
    found = attempts(network(2), "router", 100, rate=200)
    assert found[-1].started - found[0].started == pytest.approx(0.495, abs=0.05)
    assert {attempt.uplink for attempt in found} == {1}


def test_a_conversation_goes_on_through_an_outage_and_tells_of_its_reset(network: Build) -> None:
    """An idle conversation survives silence, one that talks says when it was reset."""
    net = network(2)
    with TcpConversation(net, "router") as idle, TcpConversation(net, "router", interval=0.01, server=2) as talking:
        assert (idle.uplink, talking.uplink) == (1, 1)
        wait_until(lambda: len(talking.exchanges) >= 10)
        net.silence(1)
        with pytest.raises(TimeoutError):
            idle.say(timeout=0.1)
        net.speak(1)
        idle.say()
        assert (idle.reset, talking.reset) == (None, None)
        net.run("internet", ["nft", "-f", "-"], text=_RESET)
        talking.wait_reset(5)
        assert isinstance(talking.error, ConnectionResetError)
        with pytest.raises(ConnectionResetError):
            idle.say()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_changed_gateway_is_followed(network: Build, family: int) -> None:
    """After the provider moved its gateway, the old one is gone and traffic goes by the new one."""
    net = network(2)
    old, new = net.uplink(1), net.move_gateway(1)
    gone, here = (old.gateway, new.gateway) if family == 4 else (old.gateway6, new.gateway6)
    assert [net.ping("router", gone, timeout=0.2), net.ping("router", here)] == [False, True]
    assert layout.uplink_of(ask(net, "router", family=family) or "::") == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_renumbered_uplink_works_with_its_new_address(network: Build, family: int) -> None:
    """After the provider moved its customer, the router has the new address only, and the provider accepts it."""
    net = network(2)
    new = net.renumber(1)
    addresses = net.run("router", ["ip", f"-{family}", "-br", "address", "show", "wan1", "scope", "global"]).split()[2:]
    assert addresses == [f"{new.address}/24" if family == 4 else f"{new.address6}/64"]
    assert layout.uplink_of(ask(net, "router", family=family) or "::") == 1
    assert net.wrong_source(1) == 0


def test_an_interface_comes_back_as_another(network: Build) -> None:
    """A removed interface does not exist; restored it has a new index and carries traffic."""
    net = network(2)
    before = link(net, "wan1")["ifindex"]
    net.remove(1)
    with pytest.raises(LabError):
        link(net, "wan1")
    assert ask(net, "router") == "100.64.2.2"
    net.restore(1)
    assert link(net, "wan1")["ifindex"] != before
    wait_until(lambda: [ask(net, "router", family=f) for f in FAMILIES] == ["100.64.1.2", "2001:db8:1::2"])


def test_networks_side_by_side_do_not_meet(network: Build) -> None:
    """What is sent and broken in one network leaves the other alone."""
    one, other = network(2), network(2, interfaces=["eth1", "eth2"])
    one.silence(1)
    assert [ask(one, "router"), ask(other, "router")] == [None, "100.64.1.2"]
    assert [one.dropped(1), other.dropped(1)] == [1, 0]
    assert [uplink.interface for uplink in other.uplinks] == ["eth1", "eth2"]


def test_a_closed_network_leaves_nothing() -> None:
    """Namespaces, processes and files of a network go with it."""
    with Network(2) as net:
        sleeper = net.spawn("lan1", ["sleep", "1000"])
        files = [net.directory, *(namespaces.path_of(net.namespace(where)) for where in net.places)]
        assert [path.exists() for path in files] == [True] * 6
    assert [path.exists() for path in files] == [False] * 6
    assert sleeper.returncode == -9


def test_a_hundred_uplinks(network: Build) -> None:
    """The largest network works to its last uplink."""
    net = network(100)
    net.run("router", ["ip", "route", "replace", "default", "via", net.uplink(100).gateway])
    assert ask(net, "router") == "100.64.100.2"


def test_no_network_outside_a_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside a sandbox nothing is built, and the error says how to get one."""
    monkeypatch.delenv("MLBD_PRIVATE_NAMESPACE")
    with pytest.raises(LabError, match=r"python -m mlbd\.lab\.sandbox"):
        Network(2)


@pytest.mark.parametrize(
    "extra", ["", '[daemon]\nmetrics = "127.0.0.1:9999"\n', '[daemon]\nmiimon = "0s"\n[probe]\ncontrol = 1\n']
)
def test_a_daemons_configuration_is_completed(network: Build, extra: str) -> None:
    """Control socket and metrics are added where the configuration has none, and nothing else is changed."""
    net = network(2)
    given = uplink_tables(net) + extra
    daemon = Daemon(net, given)
    added = {"control": str(daemon.control), "metrics": "off", "hooks": str(daemon.directory / "hooks.d")}
    before = tomllib.loads(given)
    assert tomllib.loads(daemon.file.read_text()) == before | {"daemon": added | before.get("daemon", {})}
