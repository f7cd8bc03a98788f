"""Rules in full: every condition, alone and at random, as packets find them that really go out."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from mlbd.core.match import ICMP, ICMPV6, UDP, matching
from mlbd.core.settings import FAMILIES, Family
from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network
from mlbd.lab.traffic import TcpConversation, attempts, connect_many
from tests.lab.scene import wait_usable
from tests.schemes.packets import (
    MAIN_LEAVES_BY,
    Sent,
    administrate,
    both,
    configuration,
    configure,
    drawn_packets,
    drawn_rules,
    goes_by,
    send,
)


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[Network, Daemon]]:
    with Network(4, lans=2) as net:
        administrate(net)
        with Daemon(net, configuration(net, "")) as daemon:
            wait_usable(daemon, "wan1", "wan2", "wan3", "wan4")
            yield net, daemon
            assert "Traceback" not in daemon.log_text()
            assert [net.wrong_source(u.number) for u in net.uplinks] == [0, 0, 0, 0]


def mistakes(net: Network, daemon: Daemon, seed: int, own: str, dead: Sequence[int] = ()) -> list[str]:
    """Of 60 packets by 20 rules, those that went another way than `mlbd.core.match` says."""
    draw = random.Random(seed)
    text = drawn_rules(draw, net, 20)
    configure(daemon, configuration(net, "", own))
    rules = configure(daemon, configuration(net, text, own))
    wrong = []
    for sent in drawn_packets(draw, 60):
        expected, went = goes_by(rules, sent.packet(net, own), dead), send(net, sent)
        if went != expected:
            names = [rule.name for rule in matching(rules, sent.packet(net, own))]
            wrong.append(f"{sent} went by {went}, not {expected}; it matches {names} of\n{text}")
    return wrong


@pytest.mark.parametrize(("seed", "own", "dead"), [(1, "route", ()), (2, "mark", ()), (3, "route", (3,))])
def test_random_rules(world: tuple[Network, Daemon], seed: int, own: str, dead: Sequence[int]) -> None:
    """60 packets drawn at random go where the first of 20 random rules that matches and can be followed sends them."""
    net, daemon = world
    for number in dead:
        net.silence(number, gateway=True)
        wait_usable(daemon, "wan1", "wan2", "wan4")
    try:
        assert mistakes(net, daemon, seed, own, dead) == []
    finally:
        for number in dead:
            net.speak(number)
            wait_usable(daemon, "wan1", "wan2", "wan3", "wan4")


# One by one. In every case the rule uses by2, and what it does not match goes by 1.

_OWN, _OWN6 = Sent(where="router", source=""), Sent(where="router", source="", family=6)


CASES: dict[str, tuple[str, Sequence[Sent], Sequence[Sent]]] = {
    "one host": ('from = "192.168.1.130"', [Sent(source=2)], [Sent(), Sent(source=2, family=6), _OWN]),
    "a network": (
        'from = ["192.168.1.0/24", "fd00:10:2::/48"]',
        [Sent(), Sent(where="lan2", family=6), Sent(where="router", source="192.168.1.1")],
        [Sent(where="lan2"), Sent(family=6), _OWN, _OWN6],
    ),
    "a network without a host": (
        'from = ["192.168.0.0/16", "!192.168.1.130"]', [Sent(), Sent(where="lan2")], [Sent(source=2), _OWN],
    ),
    "all but a network": (
        'from = "!192.168.1.0/24"', [Sent(where="lan2"), _OWN, Sent(family=6), _OWN6],
        [Sent(), Sent(where="router", source="192.168.1.1")],
    ),
    "one family as a whole": ('from = "::/0"', [Sent(family=6), _OWN6], [Sent(), _OWN]),
    "destinations": (
        'to = ["203.0.113.8/29", "!203.0.113.9", "2001:db8:f::8"]',
        [*both(server=8), *both(server=15), *both(server=8, family=6)],
        [*both(), *both(server=9), *both(server=16), *both(server=9, family=6)],
    ),
    "an interface": ('interface = "lan2"', [Sent(where="lan2"), Sent(where="lan2", family=6)], [Sent(), _OWN, _OWN6]),
    "all interfaces but one": ('interface = "!lan2"', [Sent(), Sent(family=6), _OWN], [Sent(where="lan2")]),
    "the router itself": ('interface = "lo"', [_OWN, _OWN6], [Sent(), Sent(family=6)]),
    "all but the router": ('interface = "!lo"', [Sent(), Sent(where="lan2", family=6)], [_OWN, _OWN6]),
    "a protocol": (
        'protocol = "udp"', [*both(protocol=UDP), *both(protocol=UDP, family=6)],
        [*both(), *both(family=6), *both(protocol=ICMP), *both(protocol=ICMPV6, family=6)],
    ),
    "ICMP of both families": (
        'protocol = ["icmp", "icmpv6"]', [*both(protocol=ICMP), *both(protocol=ICMPV6, family=6)],
        [*both(), *both(family=6), *both(protocol=UDP)],
    ),
    "all protocols but one": (
        'protocol = "!tcp"', [*both(protocol=UDP), *both(protocol=ICMP), *both(protocol=ICMPV6, family=6)],
        [*both(), *both(family=6)],
    ),
    "ports": (
        'ports = [80, "6660-6669"]', [*both(port=80), *both(port=6660, protocol=UDP), *both(port=6669, family=6)],
        [*both(port=81), *both(port=6659), *both(port=6670), *both(protocol=ICMP)],
    ),
    "all ports but some": (
        'protocol = "tcp"\nports = ["!25", "!400-500"]', [*both(port=24), *both(port=26), *both(port=501, family=6)],
        [*both(port=25), *both(port=443), *both(port=24, protocol=UDP), *both(protocol=ICMP)],
    ),
    "source ports": (
        'source_ports = "5000-5999"', [*both(source_port=5000), *both(source_port=5999, protocol=UDP, family=6)],
        [*both(source_port=4999), *both(source_port=6000), *both(protocol=ICMP)],
    ),
    "a mark with a mask": (
        'mark = "0x80000/0xff0000"',
        [Sent(source=3), Sent(source=4, family=6), *(replace(o, mark=0x80100) for o in (_OWN, _OWN6))],
        [Sent(), Sent(source=2), _OWN, replace(_OWN, mark=0x100)],
    ),
    "a mark": ('mark = "0x80000"', [Sent(source=3), replace(_OWN, mark=0x80000)], [Sent(source=4), Sent(), _OWN6]),
    "all but a mark": ('mark = "!0x100/0xf00"', [Sent(source=3), Sent(), _OWN], [Sent(source=4), Sent(source=2)]),
    "all conditions together": (
        'from = "192.168.1.0/24"\nto = "203.0.113.8"\ninterface = "lan1"\nprotocol = "tcp"\nports = 80\n'
        'source_ports = "!1-5000"\nmark = "!0x100/0xf00"',
        [Sent(server=8, port=80, source_port=5003), Sent(server=8, port=80, source_port=5004, source=3)],
        [
            Sent(server=7, port=80), Sent(server=8, port=81), Sent(server=8, port=80, protocol=UDP),
            Sent(server=8, port=80, source_port=4000), Sent(server=8, port=80, source=2),
            Sent(server=8, port=80, where="lan2"), Sent(server=8, port=80, where="router", source="192.168.1.1"),
        ],
    ),
    "no condition": ("", [*both(), *both(family=6), *both(protocol=ICMP)], []),
}  # fmt: skip


@pytest.mark.parametrize("own", ["route", "mark"])
def test_every_condition(world: tuple[Network, Daemon], own: str) -> None:
    """Each condition matches what it says and nothing else, forwarded or the router's own, in both families."""
    net, daemon = world
    wrong = {}
    for name, (conditions, matched, others) in CASES.items():
        configure(daemon, configuration(net, f'[[rule]]\nname = "it"\nuse = "by2"\n{conditions}\n', own))
        went = {sent: send(net, sent) for sent in (*matched, *others)}
        expected = dict.fromkeys(matched, 2) | dict.fromkeys(others, 1)
        if went != expected:
            wrong[name] = [f"{s} by {n}" for s, n in went.items() if n != expected[s]]
    assert wrong == {}


_ORDER = """
[[rule]]
name = "narrow"
ports = 80
use = "by2"

[[rule]]
name = "wide"
ports = "1-1000"
use = "by3"

[[rule]]
name = "never"
ports = [80, 443]
use = "main"

[[rule]]
name = "to-main"
ports = 2000
use = "main"
"""


@pytest.mark.parametrize("own", ["route", "mark"])
def test_the_first_match_wins(world: tuple[Network, Daemon], own: str) -> None:
    """Order decides; what no rule matches takes the first policy; `main` leaves by the default route of `main`."""
    net, daemon = world
    configure(daemon, configuration(net, _ORDER, own))
    for port, uplink in ((80, 2), (443, 3), (1000, 3), (1001, 1), (2000, MAIN_LEAVES_BY)):
        for family in FAMILIES:
            for sent in both(port=port, family=family):
                assert (sent, send(net, sent)) == (sent, uplink)


_USE = """
[[rule]]
name = "first-choice"
ports = 80
use = "wan3"

[[rule]]
name = "second-choice"
ports = 80
use = "wan2"

[[rule]]
name = "alone"
ports = 81
use = "wan3"
"""


@pytest.mark.parametrize("own", ["route", "mark"])
def test_an_uplink_in_use(world: tuple[Network, Daemon], own: str) -> None:
    """A rule that uses an uplink decides while that is usable; meanwhile the next that matches does, or the policy."""
    net, daemon = world
    configure(daemon, configuration(net, _USE, own))

    def went(port: int) -> set[int | None]:
        return {send(net, sent) for family in FAMILIES for sent in both(port=port, family=family)}

    every = ["wan1", "wan2", "wan3", "wan4"]
    assert (went(80), went(81)) == ({3}, {3})
    for dead, expected in ((3, ({2}, {1})), (2, ({1}, {1}))):
        net.silence(dead, gateway=True)
        every.remove(f"wan{dead}")
        wait_usable(daemon, *every)
        assert (went(80), went(81)) == expected
    net.speak(2)
    net.speak(3)
    wait_usable(daemon, "wan1", "wan2", "wan3", "wan4")
    assert (went(80), went(81)) == ({3}, {3})


_TIERS = """
[[policy]]
name = "usual"
method = "failover"
members = ["wan1"]
last_resort = "unreachable"

[[policy]]
name = "tiered"
method = "round-robin"
members = [["wan2", "wan3"], ["wan1"]]
weights = { wan2 = 3, wan3 = 1 }

[[policy]]
name = "even"
method = "round-robin"
members = ["wan2", "wan3"]

[[rule]]
name = "tiered"
ports = 80
use = "tiered"

[[rule]]
name = "even"
ports = 81
use = "even"
"""


def test_tiers_and_weights_of_policies(world: tuple[Network, Daemon]) -> None:
    """Each policy has weights of its own for the same uplinks, and its next tier carries once the first is dead."""
    net, daemon = world
    configure(daemon, configuration(net, _TIERS, "mark", policies=""))
    for where in ("lan1", "router"):
        assert connect_many(net, where, 240, port=80, at_once=1) == {2: 180, 3: 60}
        assert connect_many(net, where, 240, port=81, at_once=1) == {2: 120, 3: 120}
    net.silence(2, gateway=True)
    wait_usable(daemon, "wan1", "wan3", "wan4")
    assert [connect_many(net, "lan1", 20, port=port) for port in (80, 81, 7)] == [{3: 20}, {3: 20}, {1: 20}]
    net.silence(3, gateway=True)
    wait_usable(daemon, "wan1", "wan4")
    assert connect_many(net, "lan1", 20, port=80) == {1: 20}
    net.speak(2)
    net.speak(3)
    wait_usable(daemon, "wan1", "wan2", "wan3", "wan4")
    assert connect_many(net, "lan1", 240, port=80, at_once=1) == {2: 180, 3: 60}


# Last resorts of a policy that a rule leads to.

_RESORT = """
[[policy]]
name = "usual"
method = "failover"
members = ["wan1"]

[[policy]]
name = "other"
members = ["wan2", "wan3"]
last_resort = "{}"

[[rule]]
name = "web"
ports = 80
use = "other"

[[rule]]
name = "all"
use = "usual"
"""

_MARKING: dict[str, list[tuple[str, Family]]] = {"mark": [("router", 6)]}


@pytest.mark.parametrize("own", ["route", "mark"])
def test_last_resort_of_a_rule(world: tuple[Network, Daemon], own: str) -> None:
    """While all members of its policy are dead, a rule's traffic meets the policy's last resort, and not the next rule;
    what other rules match is not concerned.
    """
    net, daemon = world
    configure(daemon, configuration(net, _RESORT.format("best"), own, policies=""))
    for number, left in ((2, ["wan1", "wan3", "wan4"]), (3, ["wan1", "wan4"])):
        net.silence(number, gateway=True)
        wait_usable(daemon, *left)
    # Not the router's own IPv6 by routing: refused, the kernel chooses some address for it and looks again, and then an
    # address of uplink 1 leads to uplink 1 (net/ipv6/ip6_output.c, ip6_dst_lookup_tail).
    places: list[tuple[str, Family]] = [("lan1", 4), ("lan1", 6), ("router", 4), *_MARKING.get(own, [])]
    found = {}
    for resort in ("best", "unreachable", "blackhole", "main"):
        configure(daemon, configuration(net, _RESORT.format(resort), own, policies=""))
        before = net.right_source(3)
        found[resort] = [
            {(a.uplink, a.error) for a in attempts(net, where, 10, port=80, timeout=0.2, family=family)}
            for where, family in places
        ]
        assert (net.right_source(3) - before >= 30) is (resort == "best")
        for where in ("lan1", "router"):
            assert connect_many(net, where, 10) == {1: 10}
    net.speak(2)
    net.speak(3)
    wait_usable(daemon, "wan1", "wan2", "wan3", "wan4")
    waits, own_told = {(None, "timeout")}, {"route": ["EHOSTUNREACH", "EINVAL"], "mark": ["timeout", "timeout"]}[own]
    assert found["best"] == [waits] * len(places)
    assert found["main"] == [{(MAIN_LEAVES_BY, "")}] * len(places)
    assert [found["unreachable"][2], found["blackhole"][2]] == [{(None, error)} for error in own_told]
    # Clients are told by ICMP and ICMPv6; the kernel limits how often.
    assert [found["unreachable"][n] - waits for n in (0, 1)] == [{(None, "EHOSTUNREACH")}, {(None, "ENETUNREACH")}]
    assert found["blackhole"][:2] == [waits] * 2


def test_wrong_probes_cut_nothing_off(world: tuple[Network, Daemon]) -> None:
    """With the probes of all uplinks failing while the rest works, last resort `best` lets every policy's traffic
    through, and conversations go on.
    """
    net, daemon = world
    configure(daemon, configuration(net, _USE + _TIERS.replace('last_resort = "unreachable"', ""), policies=""))
    talking = [TcpConversation(net, "lan1", interval=0.05) for _ in range(4)]
    for number in (1, 2, 3, 4):
        net.drop_icmp(number)
    wait_usable(daemon)
    for where in ("lan1", "router"):
        for port in (7, 80, 81):
            for family in FAMILIES:
                assert None not in connect_many(net, where, 10, port=port, family=family)
    for number in (1, 2, 3, 4):
        net.drop_icmp(number, drop=False)
    wait_usable(daemon, "wan1", "wan2", "wan3", "wan4")
    assert [conversation.reset for conversation in talking] == [None] * 4
    assert max(e.answered - e.sent for c in talking for e in c.exchanges) < 0.5
    for conversation in talking:
        conversation.close()
