"""What other programs leave in the kernel, and which of it takes traffic away from us."""

from __future__ import annotations

import pytest

from mlbd.core.diversion import diversions
from mlbd.core.facts import WideRoute
from mlbd.core.layout import Layout
from mlbd.core.settings import FAMILIES, Daemon, Family
from mlbd.core.state import Rule

LAYOUT = Layout.of(Daemon())

DHCP = (WideRoute(4, 254, "default", "wan1"), WideRoute(6, 254, "default", "wan1"))
"""What is there anyway."""


def tailscale(family: Family) -> list[Rule]:
    """wgengine/router/osrouter of 1.x; the action of 5250 is unreachable."""
    return [
        Rule(family, 5210, table=254, mark=0x80000, mask=0xFF0000),
        Rule(family, 5230, table=253, mark=0x80000, mask=0xFF0000),
        Rule(family, 5250, "nop", mark=0x80000, mask=0xFF0000, other="action 7"),
        Rule(family, 5270, table=52),
    ]


def wg_quick(family: Family, before: int) -> list[Rule]:
    """The kernel gives each rule the priority below the lowest one present."""
    return [
        Rule(family, before - 2, table=254, suppress_prefixlen=0),
        Rule(family, before - 1, table=51820, mark=0xCA6C, mask=0xFFFFFFFF, other="not"),
    ]


def both(routes: str, table: int, device: str) -> list[WideRoute]:
    """Routes of the family that their destination is of; `default` is of both."""
    return [
        WideRoute(family, table, destination, device)
        for destination in routes.split()
        for family in FAMILIES
        if destination == "default" or (":" in destination) == (family == 6)
    ]


def found(rules: list[Rule], routes: list[WideRoute]) -> tuple[str, ...]:
    return diversions(rules, [*DHCP, *routes], LAYOUT)


TAILSCALE = [rule for family in FAMILIES for rule in tailscale(family)]


def test_nothing_of_others() -> None:
    """docker and libvirt leave no rules and no wide routes, and a router without either has nothing to say."""
    assert found([], []) == ()


def test_tailscale_as_usual_takes_nothing() -> None:
    """Its table 52 has routes to peers only."""
    assert found(TAILSCALE, []) == ()


def test_tailscale_exit_node() -> None:
    """With a default route in table 52 everything goes there."""
    assert found(TAILSCALE, both("default", 52, "tailscale0")) == (
        "routing rule 5270 of another program sends all IPv4 and IPv6 traffic to table 52, dev tailscale0: tailscale "
        "does so for an exit node; if mlbd is to route, use none (tailscale set --exit-node=)",
    )


WG_REMEDY = (
    "wg-quick does so for AllowedIPs = 0.0.0.0/0 or ::/0; if mlbd is to route, "
    "narrow AllowedIPs or set Table = off there"
)


def test_wg_quick_started_after_us() -> None:
    """Its rules stand before ours, and take what does not carry the tunnel's own mark."""
    assert found(wg_quick(4, 10000), both("default", 51820, "wg0")) == (
        "routing rule 9999 of another program sends all IPv4 traffic without mark 0xca6c to table 51820, dev wg0: "
        + WG_REMEDY,
    )


def test_wg_quick_started_before_us() -> None:
    """Its rules stand behind ours, where nothing is left to take."""
    rules = [rule for family in FAMILIES for rule in wg_quick(family, 32766)]
    assert found(rules, both("default", 51820, "wg0")) == ()


def test_wg_quick_with_another_mark() -> None:
    """A second tunnel's table and mark are recognised by being equal; families are told apart."""
    rules = [
        Rule(4, 9998, table=51821, mark=51821, mask=0xFFFFFFFF, other="not"),
        Rule(6, 5000, table=51821, mark=51821, mask=0xFFFFFFFF, other="not"),
    ]
    assert found(rules, both("default", 51821, "wg1")) == (
        "routing rule 9998 of another program sends all IPv4 traffic without mark 0xca6d to table 51821, dev wg1: "
        + WG_REMEDY,
        "routing rule 5000 of another program sends all IPv6 traffic without mark 0xca6d to table 51821, dev wg1: "
        + WG_REMEDY,
    )


OPENVPN_REMEDY = (
    "OpenVPN's redirect-gateway does so; if mlbd is to route, leave that out of the tunnel's configuration "
    "(pull-filter ignore redirect-gateway)"
)


def test_openvpn() -> None:
    """`redirect-gateway def1` puts two routes into main that are narrower than a default one."""
    assert found([], both("0.0.0.0/1 128.0.0.0/1", 254, "tun0")) == (
        "0.0.0.0/1 and 128.0.0.0/1 in main, dev tun0, take all IPv4 traffic: " + OPENVPN_REMEDY,
    )


@pytest.mark.parametrize(
    ("routes", "text"),
    [
        ("128.0.0.0/1", "128.0.0.0/1 in main, dev tun0, takes half of all IPv4 traffic: "),
        ("::/1", "::/1 in main, dev tun0, takes all IPv6 traffic: "),
        ("::/3 2000::/4 3000::/4 fc00::/7", "2000::/4 and 3000::/4 in main, dev tun0, take all IPv6 traffic: "),
        ("2000::/4", "2000::/4 in main, dev tun0, takes half of all IPv6 traffic: "),
    ],
)
def test_parts_of_the_address_space(routes: str, text: str) -> None:
    """Half is called half; of IPv6 the global unicast addresses are everything."""
    assert found([], both(routes, 254, "tun0")) == (text + OPENVPN_REMEDY,)


def test_addresses_that_nobody_has() -> None:
    """The upper half of IPv6 has no global unicast address."""
    assert found([], both("8000::/1", 254, "tun0")) == ()


def test_halves_in_a_table_of_their_own() -> None:
    """A rule that leads to two half routes diverts like one that leads to a default route."""
    (text,) = found([Rule(4, 3000, table=7)], both("0.0.0.0/1 128.0.0.0/1", 7, "tun0"))
    assert text == (
        "routing rule 3000 of another program sends all IPv4 traffic to table 7, dev tun0: if mlbd is to route, give "
        "that rule a priority above 19990 or narrow it"
    )


def test_main_before_us() -> None:
    """A rule that looks up all of main leaves nothing for us; one that looks up all but its default route does."""
    (text,) = found([Rule(4, 32, table=254)], [])
    assert text.startswith("routing rule 32 of another program sends all IPv4 traffic to table main, dev wan1: if mlbd")
    assert found([Rule(4, 32, table=254, suppress_prefixlen=0)], []) == ()


def test_nowhere() -> None:
    """A kill switch leads to no device."""
    (text,) = found([Rule(6, 32, table=7)], [WideRoute(6, 7, "default", "")])
    assert text.startswith("routing rule 32 of another program sends all IPv6 traffic to table 7, to nowhere: ")


def test_between_our_rules() -> None:
    """A rule between ours takes what those before it leave."""
    (text,) = found([Rule(4, 15000, table=7)], both("default", 7, "tun0"))
    assert text.startswith(
        "routing rule 15000 of another program sends all IPv4 traffic that mlbd's rules before it leave to table 7, "
    )


def test_unmarked() -> None:
    """A rule for packets whose mark is 0 takes nearly all there are."""
    (text,) = found([Rule(4, 9000, table=7, mark=0, mask=0xFFFF)], both("default", 7, "tun0"))
    assert text.startswith("routing rule 9000 of another program sends all IPv4 traffic without a mark to table 7, ")


@pytest.mark.parametrize(
    "rule",
    [
        Rule(4, 9000, table=7, source="192.168.1.0/24"),
        Rule(4, 9000, table=7, destination="203.0.113.0/24"),
        Rule(4, 9000, table=7, iif="lan1"),
        Rule(4, 9000, table=7, oif="wan1"),
        Rule(4, 9000, table=7, protocol=6),
        Rule(4, 9000, table=7, ports=(80, 80)),
        Rule(4, 9000, table=7, source_ports=(80, 80)),
        Rule(4, 9000, table=7, mark=1, mask=1),
        Rule(4, 9000, table=7, mark=0, mask=1, other="not"),
        Rule(4, 9000, table=7, other="attribute 20 e8030000e8030000"),
        Rule(4, 9000, table=7, source="192.168.1.0/24", other="not"),
        Rule(4, 9000, "goto", target=32766),
        Rule(4, 9000, "nop"),
        Rule(6, 9000, table=7),
        Rule(4, 9000, table=8),
    ],
)
def test_rules_that_take_only_some(rule: Rule) -> None:
    """Who restricts what he takes, or leads nowhere wide, is a neighbour like any other."""
    assert diversions([rule], [WideRoute(4, 7, "default", "tun0")], LAYOUT) == ()
