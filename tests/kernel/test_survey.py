"""What `mlbd init` sees of a machine."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mlbd.core.state import Hop
from mlbd.core.survey import DefaultRoute, Survey
from mlbd.kernel import links
from mlbd.kernel.survey import interfaces, survey
from mlbd.lab import tun
from tests.kernel.contract import K1, K2, K3
from tests.kernel.namespace import run, veth_pairs
from tests.kernel.objects import PROTOCOL, TABLE_BASE
from tests.kernel.test_bundles import RECORDED

BOOT, STATIC, RA, DHCP = 3, 4, 9, 16


def look() -> Survey:
    return survey(PROTOCOL, TABLE_BASE)


def test_default_routes() -> None:
    """Those of `main` with metric, maker, gateways and weights, and none of other tables, other prefixes, or ours."""
    with veth_pairs():
        run(
            f"ip route add default via 10.9.1.1 dev {K1} proto dhcp metric 100",
            "ip route add default proto static metric 50 nexthop via 10.9.1.1 weight 3 nexthop via 10.9.2.1 weight 1",
            f"ip route add default dev {K3} metric 7",
            "ip route add 0.0.0.0/1 via 10.9.1.1",
            "ip route add default via 10.9.1.1 table 77",
            f"ip route add default via 10.9.2.1 proto {PROTOCOL} metric 1",
            "ip route add unreachable default metric 9999",
            f"ip -6 route add default via fe80::1 dev {K2} proto ra",
        )
        found = look()
    assert sorted(found.defaults, key=lambda r: (r.family, r.metric)) == [
        DefaultRoute(4, 7, BOOT, (Hop(K3, None),)),
        DefaultRoute(4, 50, STATIC, (Hop(K1, "10.9.1.1", 3), Hop(K2, "10.9.2.1", 1))),
        DefaultRoute(4, 100, DHCP, (Hop(K1, "10.9.1.1"),)),
        DefaultRoute(6, 1024, RA, (Hop(K2, "fe80::1"),)),
    ]


def test_interfaces() -> None:
    """Kinds, masters and addresses of all but `lo`, also of one that is down."""
    with veth_pairs():
        run("ip link add br0 type bridge", "ip link set far1 master br0")
        found = {each.name: each for each in look().interfaces}
    assert "lo" not in found
    assert [(found[name].kind, found[name].master) for name in ("br0", "far1", K1)] == [
        ("bridge", ""),
        ("veth", "br0"),
        ("veth", ""),
    ]
    assert found[K1].facts.addresses == ("10.9.1.2/24", "2001:db8:1::2/64")
    assert (found["br0"].facts.up, found[K1].facts.up) == (False, True)


@pytest.mark.skipif(bool(tun.unavailable()), reason=tun.unavailable())
def test_point_to_point() -> None:
    """The address at the far end of a line that has one."""
    run("ip tuntap add t0 mode tun", "ip address add 10.8.0.1 peer 10.8.0.9 dev t0")
    try:
        found = {each.name: each for each in look().interfaces}["t0"]
        assert (found.kind, found.facts.point_to_point, found.facts.peer) == ("tun", True, "10.8.0.9")
    finally:
        run("ip link del t0")


@pytest.mark.parametrize(("scene", "bundle", "mode"), [("backup", "bond0", 1), ("lacp", "bond0", 4)])
def test_bonds(scene: str, bundle: str, mode: int) -> None:
    """A bond with its options, and its ports, from messages that a kernel with bonds has sent."""
    found = {each.name: each for each in interfaces([*map(link, RECORDED[scene])], ())}
    bond = found.pop(bundle)
    assert (bond.kind, bond.bond is not None and bond.bond.mode) == ("bond", mode)
    assert [each.master for each in found.values()] == [bundle, bundle]


def test_teql() -> None:
    """A TEQL device and its member, likewise."""
    found = {each.name: (each.kind, each.master) for each in interfaces([*map(link, RECORDED["teql"])], ())}
    assert found["teql0"] == ("teql", "")
    assert [master for kind, master in found.values() if kind != "teql"] == ["teql0"]


def link(message: bytes) -> links.Link:
    read = links.read_link(message)
    assert read is not None
    return read


def test_without_privileges() -> None:
    """An ordinary user sees the same."""
    code = "from mlbd.kernel.survey import survey; print(len(survey(109, 20000).interfaces) > 0)"
    with veth_pairs():
        done = subprocess.run(
            ["unshare", "--user", sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
    assert done.stdout == "True\n"
