"""What `mlbd init` makes of a machine."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from mlbd.cli.init import unfit
from mlbd.config import ConfigError, Loaded, parse
from mlbd.core.draft import Draft, draft
from mlbd.core.facts import InterfaceFacts
from mlbd.core.settings import Bond as BondSettings
from mlbd.core.settings import GatewaySetting, TeqlMember
from mlbd.core.state import Bond, Hop
from mlbd.core.survey import DefaultRoute, Interface, Survey

BOOT, STATIC, RA, DHCP = 3, 4, 9, 16
NONE = GatewaySetting(source="none")


def interface(name: str, *addresses: str, kind: str = "", master: str = "", bond: Bond | None = None) -> Interface:
    """One that is up."""
    facts = InterfaceFacts(name=name, index=len(name), up=True, carrier=True, addresses=addresses)
    return Interface(facts=facts, kind=kind, master=master, bond=bond)


def survey(interfaces: list[Interface], *defaults: DefaultRoute, forwarding: bool = True) -> Survey:
    numbered = [replace(each, facts=replace(each.facts, index=n)) for n, each in enumerate(interfaces, 2)]
    return Survey(interfaces=tuple(numbered), defaults=defaults, forwarding=forwarding)


def via(gateway: str | None, device: str, metric: int = 0, protocol: int = DHCP, weight: int = 1) -> DefaultRoute:
    family = 6 if gateway and ":" in gateway else 4
    return DefaultRoute(family, metric, protocol, (Hop(device, gateway, weight),))  # type: ignore[arg-type]


def drafted(found: Survey) -> Draft:
    return draft(found, unfit(found))


def taken(text: str) -> str:
    """With every proposal taken in."""
    return re.sub(r"^#(?=[^ #\n])", "", text, flags=re.MULTILINE)


def loads(found: Survey) -> tuple[Draft, Loaded]:
    """The draft and what it means; also with all proposals it is right."""
    made = drafted(found)
    assert max(map(len, made.text.splitlines())) <= 120
    parse(taken(made.text), "all")
    return made, parse(made.text, "draft")


def told(loaded: Loaded) -> list[tuple[str, str]]:
    return [(uplink.name, uplink.interface) for uplink in loaded.settings.uplinks]


LAN = interface("lan", "192.168.1.1/24", "fd00::1/64", kind="bridge")


def test_two_dhcp_clients() -> None:
    """Both are uplinks in the order of the metrics, connections are spread over both, and the order is offered."""
    two = [LAN, interface("eth2", "203.0.113.9/24"), interface("eth1", "198.51.100.9/24")]
    made, loaded = loads(survey(two, via("203.0.113.1", "eth2", 200), via("198.51.100.1", "eth1", 100)))
    assert told(loaded) == [("eth1", "eth1"), ("eth2", "eth2")]
    assert (loaded.warnings, made.remarks) == ((), ())
    assert [policy.tiers for policy in loaded.settings.policies] == [(("eth1", "eth2"),)]
    assert [u.gateway.source for u in loaded.settings.uplinks] == ["auto", "auto"]
    assert "# eth1: IPv4 via 198.51.100.1 (dhcp, metric 100)." in made.text
    assert "lan (192.168.1.1/24, fd00::1/64)" in made.text
    ordered = parse(taken(made.text), "all").settings.policies[0]
    assert (ordered.name, ordered.tiers) == ("ordered", (("eth1",), ("eth2",)))


def test_equal_metrics_are_no_order() -> None:
    """Where metrics do not differ, nothing is said of them."""
    two = [interface("eth1", "10.0.1.2/24"), interface("eth2", "10.0.2.2/24")]
    made, _ = loads(survey(two, via("10.0.1.1", "eth1", 1024), via("10.0.2.1", "eth2", 1024)))
    assert "ordered" not in made.text


def test_pppoe_and_lte() -> None:
    """PPP needs no gateway, also where its default route is missing; a mobile modem waits in the second tier."""
    ppp, lte = interface("ppp0", "203.0.113.7/32", kind="ppp"), interface("wwan0", "10.64.0.2/30")
    made, loaded = loads(survey([lte, ppp], via("10.64.0.1", "wwan0", 700)))
    assert [(u.name, u.gateway) for u in loaded.settings.uplinks] == [
        ("wwan0", GatewaySetting(source="auto")),
        ("ppp0", NONE),
    ]
    assert loaded.settings.policies[0].tiers == (("ppp0",), ("wwan0",))
    assert [problem.key for problem in loaded.warnings] == ["uplink[1].gateway"]
    assert made.remarks == ()


def test_those_who_dialled_in_are_no_uplinks() -> None:
    """PPP links of a server, which have the same address on this side, are not taken for ways out."""
    clients = [interface(f"ppp{n}", "10.8.0.1/32", kind="ppp") for n in range(3)]
    _, loaded = loads(survey([*clients, interface("eth0", "192.0.2.9/24")], via("192.0.2.1", "eth0")))
    assert told(loaded) == [("eth0", "eth0")]


def test_router_advertisements() -> None:
    """IPv6 alone makes an uplink; what an interface has of both families stands at one uplink, and IPv4 ranks it."""
    both = [interface("eth1", "2001:db8:1::2/64"), interface("eth2", "10.0.2.2/24", "2001:db8:2::2/64")]
    routes = via("fe80::1", "eth1", 512, RA), via("fe80::1", "eth2", 1024, RA), via("10.0.2.1", "eth2", 2000)
    made, loaded = loads(survey(both, *routes))
    assert told(loaded) == [("eth2", "eth2"), ("eth1", "eth1")]
    assert "# eth2: IPv4 via 10.0.2.1 (dhcp, metric 2000); IPv6 via fe80::1 (ra, metric 1024)." in made.text
    assert "docs/schemes/ipv6.md" in made.text


def test_static_gateways() -> None:
    """A gateway that nobody renews stays automatic, and is offered to be written down."""
    one = survey([interface("eth1", "192.0.2.9/24")], via("192.0.2.1", "eth1", protocol=BOOT))
    made, loaded = loads(one)
    assert loaded.settings.uplinks[0].gateway.source == "auto"
    assert parse(taken(made.text), "all").settings.uplinks[0].gateway.address == "192.0.2.1"


def test_a_bond_is_an_uplink() -> None:
    """The bond is the uplink, not its members; the bond as it is is offered to be taken over."""
    bond = Bond(name="bond0", mode=1, miimon=100, updelay=200, primary="eth1", mac="02:00:00:00:00:01")
    ports = [interface(name, master="bond0") for name in ("eth1", "eth2")]
    found = survey([*ports, interface("bond0", "192.0.2.9/24", kind="bond", bond=bond)], via("192.0.2.1", "bond0"))
    made, loaded = loads(found)
    assert (told(loaded), loaded.settings.bonds) == ([("bond0", "bond0")], ())
    (adopted,) = parse(taken(made.text), "all").settings.bonds
    assert adopted == BondSettings(
        name="bond0", mode="active-backup", members=("eth1", "eth2"), miimon=0.1, updelay=0.2, primary="eth1",
        probe=adopted.probe,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("bond", "line"),
    [
        (Bond(name="b", mode=4, miimon=100, lacp_rate=1, xmit_hash_policy=1), 'xmit_hash_policy = "layer3+4"'),
        (Bond(name="b", mode=4, miimon=100, lacp_rate=1, xmit_hash_policy=1), 'lacp_rate = "fast"'),
        (Bond(name="b", mode=1, arp_interval=500, arp_targets=("192.0.2.1",)), 'arp_interval = "500ms"'),
        (Bond(name="b", mode=0, miimon=50), "stays to whoever made it"),
        (Bond(name="b", mode=9), "its mode 9 is not known"),
    ],
)
def test_options_of_bonds(bond: Bond, line: str) -> None:
    """What a bond has stands in its table; one that could not be adopted as an uplink has none."""
    parts = [interface("b", "192.0.2.9/24", kind="bond", bond=bond), interface("eth1", master="b")]
    made, _ = loads(survey(parts, via("192.0.2.1", "b")))
    assert line in made.text


TEQL = [
    interface("teql0", "10.0.0.4/31", kind="teql"),
    interface("eth1", "10.0.0.0/31", master="teql0"),
    interface("eth2", "10.0.0.2/31", master="teql0"),
]


def test_teql() -> None:
    """An uplink by a TEQL has its table with the members' far ends, and nothing is translated there."""
    _, loaded = loads(survey(TEQL, via("10.0.0.5", "teql0", protocol=BOOT)))
    (uplink,), (teql,) = loaded.settings.uplinks, loaded.settings.teqls
    assert (uplink.name, uplink.gateway.address, uplink.masquerade) == ("teql0", "10.0.0.5", False)
    assert (teql.name, teql.address) == ("teql0", "10.0.0.4/31")
    assert teql.members == (
        TeqlMember(interface="eth1", address="10.0.0.0/31", peer="10.0.0.1"),
        TeqlMember(interface="eth2", address="10.0.0.2/31", peer="10.0.0.3"),
    )


def test_a_teql_that_cannot_be_described() -> None:
    """Where a far end is not known the TEQL is no uplink, and the reason is told."""
    wide = [TEQL[0], TEQL[1], interface("eth2", "10.1.0.2/24", master="teql0")]
    made = drafted(survey(wide, via("10.0.0.5", "teql0", protocol=BOOT)))
    assert made.uplinks == ()
    assert [remark for remark in made.remarks if "of its member eth2 the far end's address is not known" in remark]


def test_no_uplink() -> None:
    """Without any default route it is a template, which is said; it is right as soon as its proposals are taken."""
    found = survey([LAN], forwarding=False)
    made = drafted(found)
    with pytest.raises(ConfigError, match=r"at least one \[\[uplink\]\]"):
        parse(made.text, "draft")
    assert [u.interface for u in parse(taken(made.text), "all").settings.uplinks] == ["eth1", "eth2"]
    assert made.uplinks == ()
    assert ["no uplink was found" in made.remarks[0], "forwarding is off" in made.remarks[1]] == [True, True]


def test_a_multipath_route() -> None:
    """Its next hops are uplinks with its weights."""
    hops = Hop("eth1", "10.0.1.1", 3), Hop("eth2", "10.0.2.1", 1), Hop("ppp0", None, 2)
    three = [interface("eth1", "10.0.1.2/24"), interface("eth2", "10.0.2.2/24"), interface("ppp0", "10.0.3.2/32")]
    made, loaded = loads(survey(three, DefaultRoute(4, 0, STATIC, hops)))
    assert [(u.name, u.weight) for u in loaded.settings.uplinks] == [("eth1", 3), ("eth2", 1), ("ppp0", 2)]
    assert "ordered" not in made.text


def test_two_gateways_behind_one_interface() -> None:
    """They are an uplink each, told apart by their gateways, and only one of them has IPv6."""
    hops = Hop("eth1", "10.0.1.1"), Hop("eth1", "10.0.1.3", 2)
    routes = DefaultRoute(4, 0, STATIC, hops), via("fe80::1", "eth1", 1024, RA)
    _, loaded = loads(survey([interface("eth1", "10.0.1.2/24", "2001:db8::2/64")], *routes))
    assert [(u.name, u.gateway.address, u.gateway6.address, u.weight) for u in loaded.settings.uplinks] == [
        ("eth1", "10.0.1.1", "fe80::1", 1),
        ("eth1-2", "10.0.1.3", None, 2),
    ]


def test_tunnels() -> None:
    """A tunnel's default route does not make it an uplink beside others, which is said; alone it is one."""
    both = [interface("wg0", "10.9.0.2/32", kind="wireguard"), interface("eth1", "10.0.1.2/24")]
    made, loaded = loads(survey(both, via(None, "wg0", 50, BOOT), via("10.0.1.1", "eth1", 100)))
    assert told(loaded) == [("eth1", "eth1")]
    assert made.remarks == (
        "wg0 is a tunnel with a default route; with this file, connections go past it by the uplinks. See the file",
    )
    assert ("wg0", "wg0") in told(parse(taken(made.text), "all"))
    _, loaded = loads(survey(both[:1], via(None, "wg0", 50, BOOT)))
    assert told(loaded) == [("wg0", "wg0")]


def test_a_public_address_without_a_default_route() -> None:
    """It may be an uplink whose route the DHCP client did not make, so it is told of and offered."""
    two = [interface("eth1", "10.0.1.2/24"), interface("eth2", "8.8.4.4/24")]
    made, _ = loads(survey(two, via("10.0.1.1", "eth1")))
    assert "eth2 has a public address" in made.remarks[0]
    assert told(parse(taken(made.text), "all"))[1:] == [("eth2", "eth2")]


def test_strange_names() -> None:
    """Uplinks get valid names of their own; what the configuration cannot name is left out and told of."""
    names = [
        "eth0.100",
        "ETH0_100",
        "eth0_100",
        "4g",
        "-",
        "main",
        "größe",
        "balanced",
        "enp0s31f6abcdef",
        'a"b',
        "a\nb",
    ]
    found = [interface(name, f"10.0.{n}.2/24") for n, name in enumerate(names)]
    made, loaded = loads(survey(found, *(via(f"10.0.{n}.1", name) for n, name in enumerate(names))))
    assert [u.name for u in loaded.settings.uplinks] == [
        *("eth0-100", "eth0_100", "eth0_100-2", "u4g", "u-", "main-2", "gr--e", "balanced-2", "enp0s31f6abcdef"),
    ]
    assert [u.interface for u in loaded.settings.uplinks] == names[:9]
    assert [remark.partition(" has a default")[0] for remark in made.remarks] == ['a"b', r"'a\nb'"]


# Any machine.

NAMES = st.one_of(
    st.sampled_from(["eth0", "eth1", "wan", "ppp0", "wwan0", "bond0", "teql0", "teql1", "any", "main", "a,b"]),
    st.text(st.characters(exclude_characters="/: \0"), min_size=1, max_size=6),
    st.text("ab\"\\*#=[]{}'\x7f\udcff", min_size=1, max_size=4),
)
ADDRESSES = st.one_of(
    st.builds("10.0.{}.{}/{}".format, st.integers(0, 2), st.integers(0, 8), st.sampled_from([24, 30, 31, 32])),
    st.builds("8.8.{}.2/24".format, st.integers(0, 2)),
    st.builds("2001:db8:{}::2/64".format, st.integers(0, 2)),
)
GATEWAYS4 = st.sampled_from([None, "10.0.0.1", "10.0.1.1", "10.0.2.1", "169.254.1.1"])
GATEWAYS6 = st.sampled_from([None, "fe80::1", "fe80::2", "2001:db8::1"])
KINDS = st.sampled_from(["", "", "ppp", "bond", "bridge", "vlan", "wireguard", "tun", "sit", "wwan", "new_in_linux_9"])


@st.composite
def bonds(draw: st.DrawFn, name: str, others: list[str]) -> Bond:
    miimon = draw(st.sampled_from([0, 5, 10, 100]))
    return Bond(
        name=name,
        mode=draw(st.integers(0, 7)),
        miimon=miimon,
        updelay=miimon * draw(st.integers(0, 2)),
        primary=draw(st.sampled_from(["", *others])),
        lacp_rate=draw(st.integers(0, 1)),
        xmit_hash_policy=draw(st.integers(0, 6)),
        arp_interval=draw(st.sampled_from([0, 5, 200])),
        arp_targets=draw(st.sampled_from([(), ("192.0.2.1",), ("192.0.2.1", "192.0.2.2")])),
    )


@st.composite
def surveys(draw: st.DrawFn) -> Survey:
    names = draw(st.lists(NAMES, max_size=9, unique=True))
    found: list[Interface] = []
    for name in names:
        others = [other for other in names if other != name]
        kind = "teql" if name.startswith("teql") else draw(KINDS)
        facts = InterfaceFacts(
            name=name,
            index=len(found) + 2,
            up=draw(st.booleans()),
            carrier=True,
            addresses=tuple(draw(st.lists(ADDRESSES, max_size=2, unique=True))),
            peer=draw(st.sampled_from([None, None, "10.0.0.1"])),
        )
        bond = draw(bonds(name, others)) if kind == "bond" else None
        found.append(Interface(facts=facts, kind=kind, bond=bond))
    masters = [each.name for each in found if each.kind in ("bond", "teql", "bridge")]
    ports = [
        replace(each, master=draw(st.sampled_from(["", "", *masters]))) if each.name not in masters else each
        for each in found
    ]
    hops: dict[int, Any] = {
        family: st.builds(Hop, st.sampled_from(names or ["gone"]), gateways, st.integers(1, 256), st.booleans())
        for family, gateways in ((4, GATEWAYS4), (6, GATEWAYS6))
    }
    defaults = [
        draw(
            st.builds(
                DefaultRoute, st.just(family), st.integers(0, 3), st.sampled_from([BOOT, STATIC, RA, DHCP, 200]),
                st.lists(hops[family], min_size=1, max_size=3).map(tuple),
            )
        )
        for family in draw(st.lists(st.sampled_from([4, 6]), max_size=6))
    ]  # fmt: skip
    return Survey(interfaces=tuple(ports), defaults=tuple(defaults), forwarding=draw(st.booleans()))


@settings(max_examples=120, deadline=None)
@given(surveys())
def test_any_machine(found: Survey) -> None:
    """Whatever there is, the draft loads with the uplinks that are told, also with all its proposals; the only warning
    is that a PPP link's far end may not answer. Every interface with a default route is an uplink or spoken of.
    """
    made = drafted(found)
    known = {each.name for each in found.interfaces}
    spoken = {hop.device for route in found.defaults for hop in route.hops} & known
    parse(taken(made.text), "all")
    interfaces = []
    if made.uplinks:
        loaded = parse(made.text, "draft")
        assert [u.name for u in loaded.settings.uplinks] == [*made.uplinks]
        assert [w for w in loaded.warnings if 'with gateway = "none"' not in w.found] == []
        interfaces = [u.interface for u in loaded.settings.uplinks]
    for name in spoken:
        assert name in interfaces or any((name if name.isprintable() else ascii(name)) in r for r in made.remarks)


@pytest.mark.parametrize("number", [100, 250])
def test_very_many(number: int) -> None:
    """As many uplinks as a configuration may have, and no line that is too long for it."""
    names = [f"enp1234s9f{n:03}np" for n in range(number)]
    found = [interface(name, f"10.{n}.0.2/24") for n, name in enumerate(names)]
    routes = [via(f"10.{n}.0.1", name, 100 + n // 60) for n, name in enumerate(names)]
    _, loaded = loads(survey(found, *routes))
    assert told(loaded) == [(name[:15], name) for name in names[:100]]
