"""What `mlbd explain` says is where packets go."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from mlbd.core.settings import FAMILIES
from mlbd.lab import layout
from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network
from mlbd.lab.traffic import TcpConversation, connect_many
from tests.lab.scene import mlbd, wait_usable
from tests.schemes.packets import (
    Sent,
    administrate,
    both,
    configuration,
    configure,
    drawn_packets,
    drawn_rules,
    send,
)

ALL = ["wan1", "wan2", "wan3", "wan4"]
_RULES = """
[[policy]]
name = "shared"
method = "round-robin"
members = [["wan1", "wan2", "wan3"]]
weights = { wan1 = 3, wan2 = 2, wan3 = 1 }

[[rule]]
name = "web"
ports = 80
use = "wan3"

[[rule]]
name = "spread"
ports = [80, 443]
use = "shared"

[[rule]]
name = "sticky"
protocol = "udp"
ports = 53
use = "shared"
sticky = "10m"

[[rule]]
name = "tunnel"
to = "203.0.113.64/26"
use = "main"
"""


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[Network, Daemon]]:
    with Network(4, lans=2) as net:
        administrate(net)
        with Daemon(net, configuration(net, _RULES)) as daemon:
            wait_usable(daemon, *ALL)
            yield net, daemon
            assert "Traceback" not in daemon.log_text()


def explained(net: Network, daemon: Daemon, sent: Sent) -> dict[str, Any]:
    """What the daemon says about such a packet."""
    packet, source = sent.packet(net), sent.address(net)
    asked: dict[str, object] = {"destination": layout.server(sent.server, sent.family), "protocol": str(sent.protocol)}
    if source:
        asked["source"] = source
    if sent.where != "router":
        asked["interface"] = sent.where
    for key, value in (("port", sent.port), ("source_port", sent.source_port), ("mark", packet.mark)):
        if value and not (key != "mark" and sent.protocol not in (6, 17)):
            asked[key] = str(value)
    answer: dict[str, Any] = daemon.command("explain", **asked)
    return answer


def said(answer: dict[str, Any]) -> set[int]:
    """The uplinks that it names: the candidates, or where the one route leads."""
    names = [c["device"] for c in answer["candidates"] if not c["error"]] or [answer["route"]["device"]]
    return {int(name.removeprefix("wan")) for name in names}


@pytest.mark.parametrize(("seed", "own", "dead"), [(11, "route", ()), (12, "mark", ()), (13, "route", (3,))])
def test_random_packets(world: tuple[Network, Daemon], seed: int, own: str, dead: Sequence[int]) -> None:
    """40 packets drawn at random go where it says, which names the uplink and the source address of each."""
    net, daemon = world
    draw = random.Random(seed)
    rules = drawn_rules(draw, net, 15)
    configure(daemon, configuration(net, "", own))
    configure(daemon, configuration(net, rules, own))
    for number in dead:
        net.silence(number, gateway=True)
        wait_usable(daemon, *(name for name in ALL if name != f"wan{number}"))
    wrong = []
    for sent in drawn_packets(draw, 40):
        answer = explained(net, daemon, sent)
        before = [net.right_source(u.number) for u in net.uplinks]
        went = send(net, sent)
        addresses = {net.uplink(n).address if sent.family == 4 else net.uplink(n).address6 for n in said(answer)}
        sources = {c["source"] for c in answer["candidates"]} or {answer["route"]["source"]}
        if {went} != said(answer) or sources != addresses:
            wrong.append(f"{sent} went by {went}; {before}; {answer}")
    for number in dead:
        net.speak(number)
    wait_usable(daemon, *ALL)
    assert wrong == []


@pytest.mark.parametrize("own", ["route", "mark"])
def test_shares(world: tuple[Network, Daemon], own: str) -> None:
    """The shares it tells are those of connections, and all its candidates are used."""
    net, daemon = world
    configure(daemon, configuration(net, _RULES, own, policies=""))
    expected = {"wan1": 0.5, "wan2": 0.333, "wan3": 0.167}
    for family in FAMILIES:
        for sent in both(port=443, family=family):
            answer = explained(net, daemon, sent)
            assert (answer["rule"], answer["policy"]) == ("spread", "shared")
            assert {c["uplink"]: round(c["share"], 3) for c in answer["candidates"]} == expected
            found = connect_many(net, sent.where, 240, port=443, family=family, at_once=1)
            exact = sent.where == "lan1" or own == "mark"
            assert all(abs(found[n] - share) <= (0 if exact else 50) for n, share in ((1, 120), (2, 80), (3, 40))), (
                found
            )


def test_a_dead_uplink_is_skipped(world: tuple[Network, Daemon]) -> None:
    """It says which rule would have decided, and the one that does."""
    net, daemon = world
    configure(daemon, configuration(net, _RULES, policies=""))
    sent = Sent(port=80)
    assert explained(net, daemon, sent)["rule"] == "web"
    net.silence(3, gateway=True)
    wait_usable(daemon, "wan1", "wan2", "wan4")
    answer = explained(net, daemon, sent)
    went = {send(net, sent) for _ in range(20)}
    net.speak(3)
    wait_usable(daemon, *ALL)
    assert (answer["rule"], answer["skipped"]) == ("spread", [{"rule": "web", "uplink": "wan3"}])
    assert went == said(answer) == {1, 2}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("where", ["lan1", "router"])
def test_an_existing_connection(world: tuple[Network, Daemon], where: str, family: int) -> None:
    """A connection that exists is said to stay where it is."""
    net, daemon = world
    configure(daemon, configuration(net, _RULES, policies=""))
    server = 150 + family + 10 * (where == "router")
    source = "" if where == "router" else net.lan(1).source(9, 4 if family == 4 else 6)
    with TcpConversation(net, where, family=family, server=server, source=source or None) as talking:
        more = {"source": source} if source else {}
        answer = daemon.command("explain", destination=layout.server(server, 4 if family == 4 else 6), port="7", **more)
        assert answer["pinned"] == f"wan{talking.uplink}"
        assert answer["connections"] == {f"wan{talking.uplink}": 1}
        assert answer["route"]["device"] == f"wan{talking.uplink}"


def test_what_is_not_ours(world: tuple[Network, Daemon]) -> None:
    """LAN destinations and what a rule leaves to `main` are said to be main's, with its route."""
    net, daemon = world
    configure(daemon, configuration(net, _RULES, policies=""))
    answer = daemon.command("explain", destination="192.168.2.2", source="192.168.1.2")
    assert (answer["use"], answer["candidates"], answer["route"]["device"]) == ("main", [], "lan2")
    for sent in both(server=70):
        answer = explained(net, daemon, sent)
        assert (answer["rule"], answer["use"], answer["route"]["device"]) == ("tunnel", "main", "wan4")
        assert said(answer) == {send(net, sent)}


def test_as_a_person_reads_it(world: tuple[Network, Daemon]) -> None:
    """The command prints some lines, or the object with --json."""
    net, daemon = world
    configure(daemon, configuration(net, _RULES, policies=""))
    ask = ("explain", "203.0.113.200", "--from", net.lan(1).source(20), "--port", "443", "-c", str(daemon.file))
    done = mlbd(net, *ask)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"tcp to 203.0.113.200 port 443 from {net.lan(1).source(20)}, coming in by lan1",
        "rule spread, use = shared",
        "policy shared (round-robin), tier 1",
        "  wan1   50.0%  via 10.1.0.1 dev wan1, source 10.1.0.2",
        "  wan2   33.3%  via 10.2.0.1 dev wan2, source 10.2.0.2",
        "  wan3   16.7%  via 10.3.0.1 dev wan3, source 10.3.0.2",
    ]
    assert json.loads(mlbd(net, *ask, "--json").stdout)["rule"] == "spread"


def test_what_cannot_be_asked(world: tuple[Network, Daemon]) -> None:
    """What is wrong with a question is said in a sentence."""
    net, daemon = world
    config = ("-c", str(daemon.file))

    def answer(*words: str) -> tuple[int, str]:
        done: subprocess.CompletedProcess[str] = mlbd(net, "explain", *words)
        return done.returncode, done.stderr.strip()

    assert answer("example.org", *config) == (
        2, "mlbd: destination 'example.org' is not an address; names are not looked up"
    )  # fmt: skip
    code, text = answer("203.0.113.1", "--protocol", "icmp", "--port", "80", *config)
    assert (code, "has no ports" in text) == (2, True)
    code, text = answer("203.0.113.1", "--from", "fd00::1", *config)
    assert (code, "IPv6" in text) == (2, True)
    code, text = answer("203.0.113.1", "--mark", "0x1000000", *config)
    assert (code, "fwmark_mask" in text) == (1, True)
    code, text = answer("203.0.113.1", "--from", "192.168.1.2", "--interface", "nothing0", *config)
    assert code == 1
    assert text
    other = daemon.directory / "other.toml"
    other.write_text(configuration(net, "").replace("[daemon]", '[daemon]\ncontrol = "/run/nobody.sock"'))
    code, text = answer("203.0.113.1", "-c", str(other))
    assert (code, "/run/nobody.sock" in text) == (1, True)
