"""What is read about interfaces."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from mlbd.core.facts import Gateway, InterfaceFacts, WideRoute
from mlbd.core.ports import Observation
from mlbd.core.state import Rule
from mlbd.kernel import LinuxKernel, links
from mlbd.kernel.netlink import HEADER, Requests
from tests.kernel.contract import K1, K2, K3
from tests.kernel.namespace import run, veth_pairs
from tests.kernel.objects import DEVICES, PROTOCOL, TABLE_BASE

Look = Callable[[], Mapping[str, InterfaceFacts]]
Observe = Callable[[list[str]], Observation]


@pytest.fixture
def observe() -> Iterator[Observe]:
    with veth_pairs(), asyncio.Runner() as runner:
        kernel = LinuxKernel(PROTOCOL, TABLE_BASE)
        yield lambda interfaces: runner.run(kernel.observe(interfaces))
        kernel.close()


@pytest.fixture
def look_for() -> Iterator[Observe]:
    with veth_pairs(), asyncio.Runner() as runner:
        kernel = LinuxKernel(PROTOCOL, TABLE_BASE)
        yield lambda neighbours: runner.run(kernel.observe(DEVICES, neighbours))
        kernel.close()


@pytest.fixture
def look() -> Iterator[Look]:
    with veth_pairs(), asyncio.Runner() as runner:
        kernel = LinuxKernel(PROTOCOL, TABLE_BASE)
        yield lambda: runner.run(kernel.observe([*DEVICES, "absent0"])).facts
        kernel.close()


def test_all_facts_of_an_interface(look: Look) -> None:
    """Name, index, state, addresses and gateways of each interface that exists."""
    run("ip route add default via 10.9.1.1", f"ip -6 route add default via fe80::1 dev {K1}")
    facts = look()
    index = int(run(f"ip -o link show {K1}").split(":")[0])
    assert sorted(facts) == sorted(DEVICES)
    assert facts[K1] == InterfaceFacts(
        name=K1,
        index=index,
        up=True,
        carrier=True,
        addresses=("10.9.1.2/24", "2001:db8:1::2/64"),
        gateway4=Gateway("10.9.1.1"),
        gateway6=Gateway("fe80::1"),
    )


def test_only_usable_addresses(look: Look) -> None:
    """Link-local, tentative, deprecated and host-scope addresses are left out; secondary ones count."""
    Path(f"/proc/sys/net/ipv6/conf/{K1}/accept_dad").write_text("1")
    run(
        f"ip address add 10.9.1.3/24 dev {K1}",
        f"ip address add 10.77.0.1/32 dev {K1} scope host",
        f"ip address add 2001:db8:1::5/64 dev {K1} preferred_lft 0 nodad",
        f"ip address add 2001:db8:1::6/64 dev {K1}",
        f"ip address add fd00::6/128 dev {K1} nodad",
    )
    assert look()[K1].addresses == ("10.9.1.2/24", "10.9.1.3/24", "2001:db8:1::2/64", "fd00::6/128")


def test_carrier_and_administrative_state(look: Look) -> None:
    """Carrier goes with the far end; an interface that is down has none."""
    run("ip link set far1 down", f"ip link set {K2} down")
    facts = look()
    assert [(facts[name].up, facts[name].carrier) for name in DEVICES] == [(True, False), (False, False), (True, True)]


def test_point_to_point_peer(look: Look) -> None:
    """On a point-to-point interface the far address is the peer; a default route by a device has no gateway."""
    run(
        f"ip address flush dev {K1}",
        f"ip address add 10.8.0.1 peer 10.8.0.2/32 dev {K1}",
        f"ip route add default dev {K1}",
    )
    assert look()[K1].gateway4 == Gateway(None)
    requests = Requests()
    shown = requests.dump(links.GET, links.DUMP_REQUEST)
    addresses = requests.dump(links.GET_ADDRESS, links.ADDRESS_DUMP_REQUEST)
    requests.close()
    found = [link for link in map(links.read_link, map(_as_point_to_point, shown)) if link is not None]
    facts = links.read_facts(found, addresses, [], [], DEVICES)[0][K1]
    assert (facts.point_to_point, facts.addresses, facts.peer) == (True, ("10.8.0.1/32",), "10.8.0.2")
    assert look()[K1].peer is None


def _as_point_to_point(message: bytes) -> bytes:
    """The link message with IFF_POINTOPOINT; a device that has it can't be made everywhere."""
    flags = HEADER.size + 8
    return message[:flags] + bytes([message[flags] | 0x10]) + message[flags + 1 :]


def test_gateway_is_the_one_of_the_lowest_metric_of_others(look: Look) -> None:
    """Routes of ours, of other tables, to other places, and unreachable ones say nothing about gateways."""
    run(
        f"ip route add default via 10.9.1.7 protocol {PROTOCOL}",
        "ip route add default via 10.9.1.8 metric 20",
        "ip route add default via 10.9.1.9 metric 10",
        "ip route add default via 10.9.1.6 table 77",
        "ip route add 0.0.0.0/1 via 10.9.1.5",
        "ip route add unreachable default metric 5",
        f"ip route add default via 192.0.2.1 dev {K2} onlink metric 30",
    )
    facts = look()
    gateways = [facts[name].gateway4 for name in DEVICES]
    assert gateways == [Gateway("10.9.1.9"), Gateway("192.0.2.1", onlink=True), None]


def test_gateways_of_multipath_defaults(look: Look) -> None:
    """Each hop of a multipath default counts for its interface."""
    run(
        "ip route add default nexthop via 10.9.1.1 weight 3 nexthop via 10.9.2.1",
        f"ip -6 route add default nexthop via fe80::1 dev {K2} nexthop via fe80::1 dev {K3}",
    )
    facts = look()
    assert [facts[name].gateway4 for name in DEVICES] == [Gateway("10.9.1.1"), Gateway("10.9.2.1"), None]
    assert [facts[name].gateway6 for name in DEVICES] == [None, Gateway("fe80::1"), Gateway("fe80::1")]


def test_gateway_outlives_a_lost_carrier(look: Look) -> None:
    """With ignore_routes_with_linkdown the route is dead, but its gateway is known for when the carrier is back."""
    Path(f"/proc/sys/net/ipv4/conf/{K1}/ignore_routes_with_linkdown").write_text("1")
    run("ip route add default via 10.9.1.1", "ip link set far1 down")
    deadline = time.monotonic() + 5  # the kernel may take a second to notice
    while "dead linkdown" not in run("ip route show default"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    facts = look()[K1]
    assert (facts.carrier, facts.gateway4) == (False, Gateway("10.9.1.1"))


def test_gateway_of_a_removed_address_is_gone(look: Look) -> None:
    """A hop that is dead while its link works leads nowhere."""
    run(
        "ip route add default nexthop via 10.9.1.1 nexthop via 10.9.2.1",
        f"ip address del 10.9.1.2/24 dev {K1}",
    )
    assert "dead" in run("ip route show default")
    facts = look()
    assert [facts[name].gateway4 for name in DEVICES] == [None, Gateway("10.9.2.1"), None]


def test_expired_router_advertisement(look: Look) -> None:
    """The route of a router that fell silent stays listed for a while; it is no gateway any more."""
    run(f"ip -6 route add default via fe80::9 dev {K1} proto ra expires 1")
    assert look()[K1].gateway6 == Gateway("fe80::9")
    deadline = time.monotonic() + 5
    while look()[K1].gateway6 is not None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "via fe80::9" in run("ip -6 route show default")


def test_delegated_prefixes(look: Look) -> None:
    """A prefix that refuses in `main` is of the uplink whose address shares most of it, and at least 32 bits."""
    run(
        f"ip -6 address add 2001:db9:0:1::2/64 dev {K3} nodad",
        "ip -6 route add unreachable 2001:db8:1:4000::/56",
        "ip -6 route add blackhole 2001:db9:0:ff00::/60",
        "ip -6 route add prohibit 2001:db9:1::/48",
        "ip -6 route add unreachable 2001:db9:2::/48 table 77",
        f"ip -6 route add unreachable 2001:db9:3::/48 protocol {PROTOCOL}",
        "ip -6 route add unreachable 2001:db9::/32",
        "ip -6 route add unreachable 2001:db9:4::1/128",
        "ip -6 route add unreachable fd00:1::/48",
        "ip -6 route add unreachable 2001:db8:4:8000::/56",
    )
    facts = look()
    assert [facts[name].delegated for name in DEVICES] == [
        ("2001:db8:1:4000::/56",),
        (),
        ("2001:db9:0:ff00::/60", "2001:db9:1::/48"),
    ]


def test_a_delegated_prefix_as_near_to_two_uplinks_is_of_none(look: Look) -> None:
    """2001:db8:2:: and 2001:db8:3:: share 47 bits."""
    run("ip -6 route add unreachable 2001:db8:8000::/40")
    assert [facts.delegated for facts in look().values()] == [(), (), ()]


def test_prefixes_of_the_lan(observe: Observe) -> None:
    """IPv6 prefixes of interfaces that are no uplinks and are up, each once; no hosts, no link-local ones."""
    run(
        "ip address add fd00:1::1/64 dev far1 nodad",
        "ip address add fd00:1::2/64 dev far1 nodad",
        "ip address add fd00:2::1/48 dev far2 nodad",
        "ip address add fd00:3::1/128 dev far2 nodad",
        "ip address add fd00:4::1/64 dev lo nodad",
        f"ip link set {K3} down",
        "ip address add 192.168.7.1/24 dev far2",
    )
    assert observe([K1, "/ipv4"]).lan_prefixes == ("2001:db8:2::/64", "fd00:1::/64", "fd00:2::/48")


def test_rules_of_others(observe: Observe) -> None:
    """What others restrict, and that they invert, in the kernel's order; not the kernel's own and not ours."""
    run(
        "ip rule add priority 5210 fwmark 0x80000/0xff0000 lookup main",
        f"ip rule add priority 100 lookup 77 protocol {PROTOCOL}",
        "ip rule add priority 5270 lookup 52",
        "ip rule add not fwmark 51820 lookup 51820 priority 32764",
        "ip rule add priority 32766 lookup 77",
        "ip rule add priority 7000 to 192.0.2.0/24 ipproto tcp dport 22 sport 1000-2000 prohibit",
    )
    assert observe([]).foreign_rules == (
        Rule(4, 5210, table=254, mark=0x80000, mask=0xFF0000),
        Rule(4, 5270, table=52),
        Rule(
            4, 7000, "nop", destination="192.0.2.0/24", protocol=6, source_ports=(1000, 2000), ports=(22, 22),
            other="action 8",
        ),
        Rule(4, 32764, table=51820, mark=51820, mask=0xFFFFFFFF, other="not"),
        Rule(4, 32766, table=77),
    )  # fmt: skip


def test_wide_routes(observe: Observe) -> None:
    """Routes of others to half of all addresses or more, in any table but ours and `local`; "" leads nowhere."""
    run(
        f"ip route add 0.0.0.0/1 dev {K1}",
        "ip route add 128.0.0.0/1 via 10.9.2.1",
        "ip route add 64.0.0.0/2 via 10.9.2.1",
        "ip route add default table 52 nexthop via 10.9.1.1 nexthop via 10.9.3.1",
        "ip route add unreachable default table 51820",
        "ip route add throw default table 78",
        f"ip route add default via 10.9.1.1 table {TABLE_BASE + 511}",
        f"ip route add default via 10.9.1.1 table 79 protocol {PROTOCOL}",
        f"ip -6 route add ::/1 dev {K3}",
        f"ip -6 route add default dev {K2} table {TABLE_BASE + 512}",
    )
    assert set(observe([]).wide_routes) == {
        WideRoute(4, 254, "0.0.0.0/1", K1),
        WideRoute(4, 254, "128.0.0.0/1", K2),
        WideRoute(4, 52, "default", K1),
        WideRoute(4, 52, "default", K3),
        WideRoute(4, 51820, "default", ""),
        WideRoute(6, 254, "::/1", K3),
        WideRoute(6, TABLE_BASE + 512, "default", K2),
    }


def test_hardware_addresses(look_for: Observe) -> None:
    """Of the neighbours asked for, those that have answered on an interface asked for; others are left out."""
    run(
        f"ip neigh replace 10.9.1.1 lladdr 02:00:00:00:00:01 dev {K1} nud stale",
        f"ip neigh replace 10.9.1.7 lladdr 02:00:00:00:00:07 dev {K1} nud stale",
        f"ip neigh replace 10.9.1.1 lladdr 02:00:00:00:00:09 dev {K2} nud stale",
        f"ip neigh replace 10.9.1.254 dev {K1} nud failed",
        f"ip neigh replace fe80::1 lladdr 02:00:00:00:00:06 dev {K1} nud reachable",
    )
    found = look_for(["10.9.1.1", "10.9.1.254", "fe80::1"]).facts
    assert found[K1].neighbours == (("10.9.1.1", "02:00:00:00:00:01"), ("fe80::1", "02:00:00:00:00:06"))
    assert found[K2].neighbours == (("10.9.1.1", "02:00:00:00:00:09"),)
    assert look_for([]).facts[K1].neighbours == ()
