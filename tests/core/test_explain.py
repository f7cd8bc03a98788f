"""What is made of a described packet before the kernel is asked."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

import pytest
from msgspec.structs import replace

from mlbd.core.decision import Decision, View, decide
from mlbd.core.explain import (
    Choice,
    Skipped,
    choose,
    route_text,
    source_after_translation,
    taken,
)
from mlbd.core.facts import Gateway
from mlbd.core.layout import Layout
from mlbd.core.match import Packet
from mlbd.core.ports import Way
from mlbd.core.question import Question, question
from mlbd.core.settings import Daemon, Family, Policy, Rule, Selector, Settings, Uplink
from mlbd.core.state import Rule as RoutingRule
from tests.core.world import facts, policy

FIBER, CABLE, LTE = (Uplink(name=name, interface=f"{name}0") for name in ("fiber", "cable", "lte"))
UPLINKS = (FIBER, CABLE, LTE)
BALANCED = Policy(
    name="balanced", tiers=(("fiber", "cable"), ("lte",)), weights=(("fiber", 3), ("cable", 1), ("lte", 1))
)


def settings(*rules: Rule, policies: Iterable[Policy] = (BALANCED,), **daemon: object) -> Settings:
    return Settings(uplinks=UPLINKS, policies=tuple(policies), rules=rules, daemon=Daemon(**daemon))  # type: ignore[arg-type]


def view(number: int, name: str, usable: bool, v6: bool) -> View:
    """Up to the gateway: what the probes say is `usable`."""
    paths = (Gateway(f"10.{number}.0.1"), Gateway(f"fe80::{number}") if v6 else None)
    families: frozenset[Family] = frozenset({4, 6} if v6 else {4})
    return View(usable, facts(name, number, v6=v6), paths, paths, families, -1.0 if usable else float(number))


def decision(of: Settings, usable: str = "fiber cable lte", *, v6: str = "", settled: bool = True) -> Decision:
    views = {
        uplink.name: view(number, uplink.name, uplink.name in usable.split(), uplink.name in v6.split())
        for number, uplink in enumerate(of.uplinks, 1)
    }
    return Decision(views, decide(of, views, settled), frozenset(), settled)


def packet(
    destination: str = "203.0.113.1", source: str | None = "192.168.1.2", interface: str = "lan1", *,
    protocol: int = 6, port: int | None = None, source_port: int | None = None, mark: int = 0,
) -> Packet:  # fmt: skip
    """A forwarded one."""
    to = ipaddress.ip_address(destination)
    return Packet(
        family=6 if to.version == 6 else 4,
        source=None if source is None else int(ipaddress.ip_address(source)),
        destination=int(to),
        protocol=protocol,
        port=port,
        source_port=source_port,
        interface=interface,
        mark=mark,
    )


def own(destination: str = "203.0.113.1", source: str | None = None, port: int | None = None) -> Packet:
    return packet(destination, source, "lo", port=port)


WEB = Rule(name="web", use="cable", ports=Selector(((80, 80), (8000, 8010))))
OFFICE = Rule(name="office", use="lte", sources=Selector(("192.168.1.0/24",)))
REST = Rule(name="rest", use="main")


# Which rule decides.


def test_without_rules_the_first_policy() -> None:
    """No rule decides; the first tier with a usable member carries it, in proportion to the weights."""
    known = settings()
    assert choose(known, decision(known), packet()) == Choice(
        use="balanced", policy="balanced", method="random", tier=0, shares=(("fiber", 0.75), ("cable", 0.25))
    )


def test_the_first_rule_that_matches() -> None:
    """Order decides, not how narrow a rule is."""
    for rules, decides in (((WEB, OFFICE, REST), "web"), ((OFFICE, WEB, REST), "office"), ((REST, WEB), "rest")):
        known = settings(*rules)
        found = choose(known, decision(known), packet(port=80))
        uses = {"web": "cable", "office": "lte", "rest": "main"}[decides]
        shares = () if uses == "main" else ((uses, 1.0),)
        assert found == Choice(rule=decides, use=uses, shares=shares)


def test_an_uplink_that_is_not_usable_is_skipped() -> None:
    """The rule is named, and the next one that matches decides; if there is none, the first policy."""
    known = settings(WEB, OFFICE)
    skipped_web = Skipped("web", "cable")
    assert choose(known, decision(known, "fiber lte"), packet(port=80)) == Choice(
        rule="office", use="lte", shares=(("lte", 1.0),), skipped=(skipped_web,)
    )
    assert choose(known, decision(known, "fiber"), packet(port=80)) == Choice(
        use="balanced",
        policy="balanced",
        method="random",
        tier=0,
        shares=(("fiber", 1.0),),
        skipped=(skipped_web, Skipped("office", "lte")),
    )


def test_an_uplink_without_the_family_is_skipped() -> None:
    """Usable means usable for this packet: an uplink without IPv6 is none for IPv6."""
    known = settings(WEB)
    found = choose(known, decision(known, v6="fiber"), packet("2001:db8:f::1", "fd00::1", port=80))
    assert (found.rule, found.skipped, found.shares) == (None, (Skipped("web", "cable"),), (("fiber", 1.0),))


def test_rules_of_the_other_family() -> None:
    """A rule with IPv4 sources says nothing about IPv6."""
    known = settings(OFFICE)
    found = choose(known, decision(known, v6="fiber cable lte"), packet("2001:db8:f::1", "fd00::1"))
    assert (found.rule, found.use) == (None, "balanced")


def test_every_condition() -> None:
    """Interfaces, protocols, marks and negation decide as they do in the kernel."""
    rules = (
        Rule(name="guest", use="lte", interfaces=Selector(("lan2",))),
        Rule(name="udp", use="lte", protocols=Selector((17,))),
        Rule(name="tunnel", use="lte", marks=Selector(((0x80000, 0xFF0000),))),
        Rule(name="abroad", use="lte", destinations=Selector(none=("203.0.113.0/24",))),
    )
    known = settings(*rules)

    def decider(p: Packet) -> str | None:
        return choose(known, decision(known), p).rule

    assert decider(packet()) is None
    assert decider(packet(interface="lan2")) == "guest"
    assert decider(packet(protocol=17)) == "udp"
    assert decider(packet(mark=0x80000)) == "tunnel"
    assert decider(packet("198.51.100.1")) == "abroad"


def test_a_port_that_was_not_given() -> None:
    """A rule that needs one does not match, and it is said which would; not of rules behind the one that decides."""
    both = Rule(name="both", use="lte", ports=Selector(((53, 53),)), source_ports=Selector(((1, 1023),)))
    known = settings(WEB, both, OFFICE, replace(WEB, name="late"))
    assert choose(known, decision(known), packet()) == Choice(
        rule="office",
        use="lte",
        shares=(("lte", 1.0),),
        notes=(
            "rule web matches only with --port 80, 8000-8010",
            "rule both matches only with --port 53 and --source-port 1-1023",
        ),
    )
    assert choose(known, decision(known), packet(port=443)).notes == ()
    assert choose(known, decision(known), packet(protocol=1)).notes == ()


def test_sticky() -> None:
    """A rule that keeps a source where it was says so, where there is something to choose."""
    known = settings(Rule(name="bank", use="balanced", sticky=600.0))
    note = "a source keeps the uplink that it used in the last 600 s, if that is still a candidate"
    assert choose(known, decision(known), packet()).notes == (note,)
    assert choose(known, decision(known, "fiber"), packet()).notes == ()


# What its policy makes of it.


def test_methods() -> None:
    """hash-source leaves it to the source; failover has one candidate; what is lent to others is in the shares."""
    hashed = replace(BALANCED, method="hash-source")
    found = choose(settings(policies=[hashed]), decision(settings(policies=[hashed])), packet())
    assert found.notes == ("the source decides which of them; the shares are those of all sources",)
    failover = settings(policies=[policy("fiber", "cable", "lte", method="failover")])
    found = choose(failover, decision(failover, "cable lte"), packet())
    assert (found.method, found.tier, found.shares) == ("failover", 1, (("cable", 1.0),))


def test_own_connections_are_spread_by_routing() -> None:
    """Whatever the method, the router's own connections follow the weights, unless marks choose for them, too."""
    known = settings()
    note = "the router's own connections are spread by routing, in proportion to the weights"
    assert choose(known, decision(known), own()).notes == (note,)
    known = settings(own_connections="mark")
    assert choose(known, decision(known), own()).notes == ()


@pytest.mark.parametrize(
    ("last_resort", "shares", "note"),
    [
        ("best", (("cable", 1.0),), "no member of two is usable: cable failed last and gets what there is"),
        ("unreachable", (), "no member of two is usable: it is refused as unreachable"),
        ("blackhole", (), "no member of two is usable: it is dropped"),
        ("main", (), "no member of two is usable: main routes it"),
    ],
)
def test_last_resorts(last_resort: str, shares: tuple[tuple[str, float], ...], note: str) -> None:
    """Nobody usable: each last resort says what happens."""
    known = settings(policies=[policy("fiber cable", name="two", last_resort=last_resort)])
    assert choose(known, decision(known, "lte"), packet()) == Choice(
        use="two", policy="two", method="random", last_resort=last_resort, shares=shares, notes=(note,)
    )


def test_a_family_that_nobody_has() -> None:
    """Without any IPv6 gateway, IPv6 is main's to route or refuse."""
    known = settings()
    found = choose(known, decision(known), packet("2001:db8:f::1", "fd00::1"))
    assert (found.last_resort, found.notes) == (
        "main",
        ("no member of balanced ever had an IPv6 gateway: main routes it",),
    )


# What comes before rules.


def test_what_comes_in_by_an_uplink() -> None:
    """It was not chosen, and is answered by the way it came, usable or not."""
    known = settings(REST)
    assert choose(known, decision(known, "fiber"), packet("192.168.1.2", "203.0.113.1", "cable0")) == Choice(
        use="cable",
        shares=(("cable", 1.0),),
        notes=("it comes in by cable, so what answers it leaves by cable, too",),
    )


def test_before_first_verdicts() -> None:
    """Until start-up has settled, main routes."""
    known = settings(WEB)
    assert choose(known, decision(known, settled=False), packet(port=80)) == Choice(
        use="main", notes=("start-up still waits for first verdicts; until then main routes it",)
    )


@pytest.mark.parametrize("destination", ["224.0.0.251", "255.255.255.255"])
def test_to_many(destination: str) -> None:
    """Multicast and broadcast that is forwarded is nobody's to balance."""
    known = settings(WEB)
    assert choose(known, decision(known), packet(destination, port=80)).use == "main"


def test_a_bound_source() -> None:
    """A socket that is bound to an uplink's address leaves by it, whatever the rules; by mark, the rules win."""
    known = settings(WEB)
    note = "10.3.0.2 is an address of lte, so it leaves by lte"
    bound = own(source="10.3.0.2", port=80)
    assert choose(known, decision(known), bound) == Choice(use="lte", shares=(("lte", 1.0),), notes=(note,))
    assert choose(known, decision(known, "fiber"), bound).notes == (note, "lte is not usable")
    assert choose(known, decision(known), own(source="192.168.1.1", port=80)).rule == "web"
    known = settings(WEB, own_connections="mark")
    assert choose(known, decision(known), bound).rule == "web"


def test_a_source_of_an_uplinks_prefix() -> None:
    """An IPv6 host with one provider's address leaves by that provider; one with a local address, by the rules.

    So does the former while that provider is down, and is rejected where its address is not translated.
    """
    known = settings(WEB)
    seen = decision(known, v6="fiber cable lte")
    theirs = packet("2001:db8:f::1", "2001:db8:3::7", port=80)
    assert choose(known, seen, theirs).use == "lte"
    assert choose(known, seen, packet("2001:db8:f::1", "fd00::7", port=80)).rule == "web"
    assert choose(known, decision(known, "fiber cable", v6="fiber cable lte"), theirs) == Choice(
        rule="web",
        use="cable",
        shares=(("cable", 1.0),),
        notes=(
            "2001:db8:3::7 is an address of lte, which is not usable",
            "cable does not translate an address of lte, so it is rejected there",
        ),
    )
    masked = replace(known, uplinks=tuple(replace(u, nat6="masquerade") for u in UPLINKS))
    assert choose(masked, seen, theirs).rule == "web"


# What the kernel says to it.

LAYOUT = Layout.of(Daemon())


def way(table: int | None, device: str = "", gateway: str | None = None, error: str = "") -> Way:
    return Way(table=table, device=device, gateway=gateway, source=None, error=error)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (way(LAYOUT.table(1), "fiber0", "10.1.0.1"), None),
        (way(LAYOUT.table(127), "fiber0", "10.1.0.1"), None),
        (way(LAYOUT.use_table(100), "fiber0", "10.1.0.1"), None),
        (way(None, error="Network is unreachable"), None),
        (way(255, "lo"), "it is for the router itself"),
        (way(254, "lan2"), "main has a route to it, dev lan2; mlbd's rules do not apply"),
        (
            way(52, "tailscale0"),
            "routing rule 5270 of another program sends it to table 52, dev tailscale0; mlbd's rules do not apply",
        ),
        (
            way(7, "tun0", "10.8.0.1"),
            "a routing rule of another program sends it to table 7, via 10.8.0.1 dev tun0; mlbd's rules do not apply",
        ),
    ],
)
def test_who_else_routes_it(found: Way, text: str | None) -> None:
    """A table that is not ours names who was first; our own tables and refusals name nobody."""
    assert taken(found, LAYOUT, 4, [RoutingRule(6, 1, table=52), RoutingRule(4, 5270, table=52)]) == text


def test_route_as_text() -> None:
    """The gateway where there is one, the source where it is known, or the error alone."""
    assert route_text(Way(table=1, device="wan1", gateway="10.1.0.1", source="10.1.0.2", error="")) == (
        "via 10.1.0.1 dev wan1, source 10.1.0.2"
    )
    assert route_text(way(1, "ppp0")) == "dev ppp0"
    assert route_text(way(None, error="Network is unreachable")) == "Network is unreachable"


def test_translated_sources() -> None:
    """Masquerading takes an address that the kernel chooses; prefixes are exchanged, the host's part stays."""
    npt, plain = replace(CABLE, nat6="prefix", masquerade=False), replace(LTE, masquerade=False)
    known = Settings(uplinks=(FIBER, npt, plain), policies=(BALANCED,))
    seen = replace(decision(known, v6="fiber cable lte"), lan_prefixes=("fd00:1::/64",))

    def after(device: str, source: str) -> str | None:
        return source_after_translation(known, seen, way(1, device), source)

    assert after("fiber0", "192.168.1.2") is None
    assert after("cable0", "192.168.1.2") == "192.168.1.2"
    assert after("lan2", "192.168.1.2") == "192.168.1.2"
    assert after("cable0", "fd00:1::7") == "2001:db8:2::7"
    assert after("cable0", "2001:db8:2::7") == "2001:db8:2::7"
    assert after("cable0", "fd00:2::7") is None
    assert after("lte0", "fd00:1::7") == "fd00:1::7"


# What can be asked.


def test_questions() -> None:
    """Addresses become canonical, protocols numbers; what is not said stays open."""
    assert question("203.0.113.1") == Question(family=4, destination="203.0.113.1")
    assert question(
        "2001:DB8:0::1", source="fd00:0::1", interface="lan1", protocol="UDP", port="53", source_port="99", mark="0x10"
    ) == Question(
        family=6, destination="2001:db8::1", source="fd00::1", interface="lan1", protocol=17, port=53, source_port=99,
        mark=16,
    )  # fmt: skip
    assert [question(a, protocol=p).protocol for a, p in (("::1", "icmp"), ("192.0.2.1", "icmp"), ("::1", "47"))] == [
        58, 1, 47,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"destination": "example.org"}, "destination 'example.org' is not an address; names are not looked up"),
        ({"destination": "192.0.2.0/24"}, "destination '192.0.2.0/24' is not an address; names are not looked up"),
        ({"source": "router"}, "--from 'router' is not an address; names are not looked up"),
        ({"source": "fd00::1"}, "--from fd00::1 is IPv6, but the destination 192.0.2.1 is IPv4"),
        ({"interface": "lan1"}, "what comes in by lan1 has a source address; add --from"),
        ({"protocol": "icmp", "port": "80"}, "--port 80: protocol icmp has no ports; tcp and udp have"),
        ({"protocol": "47", "source_port": "80"}, "--source-port 80: protocol 47 has no ports; tcp and udp have"),
        ({"port": "0"}, "--port '0' is not a number from 1 to 65535"),
        ({"port": "65536"}, "--port '65536' is not a number from 1 to 65535"),
        ({"port": "http"}, "--port 'http' is not a number from 1 to 65535"),
        ({"mark": "0x100000000"}, "--mark '0x100000000' is not a number from 0 to 4294967295"),
        ({"protocol": "256"}, "--protocol '256' is neither a number from 0 to 255 nor one of tcp, udp, icmp"),
        ({"protocol": "tpc"}, "--protocol 'tpc' is neither a number from 0 to 255 nor one of tcp, udp, icmp"),
    ],
)
def test_what_cannot_be_asked(arguments: dict[str, str], message: str) -> None:
    """One sentence says what was found and what would be right."""
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        question(**{"destination": "192.0.2.1", **arguments})
