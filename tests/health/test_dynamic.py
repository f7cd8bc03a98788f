"""An interface is renamed, re-addressed or still being checked for duplicates, and the daemon follows while the other
uplink's traffic does not notice (scenarios 3 and 4; `tests.daemon.test_following` has the plain changes).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from mlbd.lab.daemon import Daemon
from mlbd.lab.namespaces import LabError
from mlbd.lab.network import Network, wait_until
from mlbd.lab.stream import UdpStream
from mlbd.lab.traffic import connect_many
from tests.health.pace import SOON
from tests.lab.scene import stream_by, tables, usable, wait_usable

Scene = tuple[Network, Daemon]
MASQUERADE6 = 'nat6 = "masquerade"'


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with Network(2) as net, Daemon(net, tables(net, MASQUERADE6, MASQUERADE6) + SOON) as daemon:
        for number in (1, 2):
            net.run(f"isp{number}", ["nft", "-f", "-"], text=_STRAYS.format(number=number))
        wait_usable(daemon, "wan1", "wan2")
        yield net, daemon
        assert "Traceback" not in daemon.log_text()


_STRAYS = """
table inet strays {{
  counter probes {{ }}
  chain arrive {{
    type filter hook prerouting priority -400;
    iifname "customer" ip saddr != 10.{number}.0.0/16 icmp type echo-request counter name probes
  }}
}}
"""
"""Probes, at a provider, with another address than the uplink's. `mlbd.probe` says that one may leave in the moment in
which an interface has lost its last address, and the kernel takes the LAN's."""


@pytest.fixture(autouse=True)
def right_sources(scene: Scene) -> Iterator[None]:
    """No packet leaves with an address of the other uplink, whatever happens."""
    net, _ = scene
    before = strange(net)
    yield
    assert strange(net) == before


def strange(net: Network) -> list[int]:
    """Packets with a wrong source that each provider got, without probes."""
    listed = [net.run(f"isp{n}", ["nft", "list", "counter", "inet", "strays", "probes"]) for n in (1, 2)]
    return [net.wrong_source(n) - int(text.split("packets")[1].split()[0]) for n, text in enumerate(listed, 1)]


@contextlib.contextmanager
def others_traffic(scene: Scene) -> Iterator[UdpStream]:
    """A stream by uplink 2, of which nothing may be lost or moved in the block, and no verdict about it change."""
    net, daemon = scene
    before = daemon.uplink("wan2")["transitions"]
    stream = stream_by(net, 2, rate=200)
    yield stream
    done = stream.stop()
    assert (done.lost, set(done.by_uplink())) == (0, {2})
    assert daemon.uplink("wan2")["transitions"] == before


def ip(net: Network, *lines: str) -> None:
    for line in lines:
        net.run("router", ["ip", *line.split()])


def works(net: Network, *, own4: str = "", own6: str = "") -> None:
    """Both uplinks carry both families, forwarded and own, uplink 1 with these addresses, else its usual ones."""
    first = net.uplink(1)
    wanted = {4: own4 or first.address, 6: own6 or first.address6}
    for family, own in wanted.items():
        assert connect_many(net, "lan1", 40, family=family).keys() == {1, 2}
        assert connect_many(net, "router", 60, family=family).keys() == {1, 2}
        assert connect_many(net, "router", 5, family=family, sources=[own]) == {1: 5}


def put_back(net: Network, number: int = 1) -> None:
    """What a network manager does with an interface that comes up: addresses and default routes."""
    uplink = net.uplink(number)
    ip(
        net,
        f"link set {uplink.interface} up",
        f"address replace {uplink.address}/{uplink.length} dev {uplink.interface}",
        f"address replace {uplink.address6}/64 dev {uplink.interface} nodad",
        *(f"route replace {route}" for route in uplink.default_routes()),
    )


@pytest.mark.parametrize("how", ["live", "down"])
def test_a_renamed_interface_is_none_of_ours(scene: Scene, how: str) -> None:
    """An interface that is renamed away takes its uplink out, and is used again as soon as it has its name back."""
    net, daemon = scene
    with others_traffic(scene):
        if how == "down":
            ip(net, "link set wan1 down")
        try:
            ip(net, "link set wan1 name away")
        except LabError as error:
            if "busy" not in str(error):
                raise
            pytest.skip("this kernel, older than 6.2, renames only interfaces that are down")
        wait_usable(daemon, "wan2")
        daemon.wait_for(lambda s: s["uplinks"][0]["reason"] == "interface wan1 does not exist")
        assert connect_many(net, "lan1", 20) == {2: 20}
        ip(net, "link set away name wan1")
        if how == "down":
            put_back(net)
        wait_usable(daemon, "wan1", "wan2")
    works(net)


def test_another_interface_takes_the_name(scene: Scene) -> None:
    """When two interfaces swap their names, each uplink is the interface that has its name now, addresses and all."""
    net, daemon = scene
    before = {u["name"]: u["transitions"] for u in daemon.status()["uplinks"]}

    def swap() -> None:
        ip(net, "link set wan1 down", "link set wan2 down")
        ip(net, "link set wan1 name away", "link set wan2 name wan1", "link set away name wan2")

    def probed() -> list[str]:
        return [u["targets"][0]["address"] for u in daemon.status()["uplinks"]]

    gateways = [net.uplink(1).gateway, net.uplink(2).gateway]
    swap()
    for own, name in ((net.uplink(1), "wan2"), (net.uplink(2), "wan1")):
        ip(
            net,
            f"link set {name} up",
            f"address replace {own.address6}/64 dev {name} nodad",
            *(f"route replace {route.replace(own.interface, name)}" for route in own.default_routes()),
        )
    wait_until(lambda: probed() == gateways[::-1], what="that each uplink probes the gateway behind its name")
    wait_usable(daemon, "wan1", "wan2")
    works(net)
    swap()
    for number in (1, 2):
        put_back(net, number)
    wait_until(lambda: probed() == gateways, what="that each uplink probes its own gateway again")
    wait_usable(daemon, "wan1", "wan2")
    works(net)
    for uplink in daemon.status()["uplinks"]:
        assert uplink["transitions"] >= before[uplink["name"]] + 4  # another device proves nothing about this one


def test_gone_and_back_under_traffic(scene: Scene) -> None:
    """An interface that is deleted under traffic, and made again with another index, leaves the other one alone."""
    net, daemon = scene
    with others_traffic(scene):
        moved = stream_by(net, 1, rate=200)
        net.remove(1)
        wait_usable(daemon, "wan2")
        wait_until(lambda: 2 in moved.so_far().by_uplink(), what="that the stream of uplink 1 moves")
        net.restore(1)
        wait_usable(daemon, "wan1", "wan2")
        assert set(moved.stop().by_uplink()) == {1, 2}
    works(net)


def test_an_address_changes_and_the_gateway_stays(scene: Scene) -> None:
    """With another address before the same gateway, new connections have that one; nothing goes down for it."""
    net, daemon = scene
    before = daemon.uplink("wan1")["transitions"]
    with others_traffic(scene):
        old = net.uplink(1)
        ip(
            net,
            "address add 10.1.0.77/24 dev wan1",
            "address add 2001:db8:1::77/64 dev wan1 nodad",
            f"address del {old.address}/24 dev wan1",
            f"address del {old.address6}/64 dev wan1",
        )
        if not net.run("router", ["ip", "route", "show", "default", "dev", "wan1"]):  # its source was the old address
            ip(net, f"route add {old.default_routes()[0]}")
        wait_until(lambda: "from 10.1.0.77 " in net.run("router", ["ip", "rule"]), what="a rule for the new address")
        works(net, own4="10.1.0.77", own6="2001:db8:1::77")
        ip(net, "address del 10.1.0.77/24 dev wan1", "address del 2001:db8:1::77/64 dev wan1")
        put_back(net)
        wait_until(lambda: f"from {old.address} " in net.run("router", ["ip", "rule"]), what="a rule for the old one")
    wait_usable(daemon, "wan1", "wan2")
    works(net)
    assert daemon.uplink("wan1")["transitions"] <= before + 2  # it had no address at all for a moment


def test_a_new_network_after_the_old_one_is_gone(scene: Scene) -> None:
    """A provider that takes address and gateway away, and gives others a little later, is followed; in between nothing
    leaves by it, and no packet ever has a wrong source.
    """
    net, daemon = scene
    old = net.uplink(1)
    with others_traffic(scene):
        ip(net, "address flush dev wan1 scope global")
        wait_usable(daemon, "wan2")
        assert daemon.uplink("wan1")["reason"].startswith("no address on wan1")
        for family in (4, 6):
            assert connect_many(net, "router", 20, family=family) == {2: 20}
        ip(net, f"address add {old.address}/24 dev wan1", f"address add {old.address6}/64 dev wan1 nodad")
        new = net.renumber(1)  # at once, before anybody can have used the old one
        wait_usable(daemon, "wan1", "wan2")
        daemon.wait_for(lambda s: s["uplinks"][0]["targets"][0]["address"] == new.gateway)
    assert (new.gateway, new.gateway6) != (old.gateway, old.gateway6)
    works(net)


@pytest.mark.parametrize("duplicate", [False, True], ids=["unique", "duplicate"])
def test_a_tentative_address_is_waited_for(scene: Scene, duplicate: bool) -> None:
    """While the only IPv6 address is checked for duplicates (RFC 4862 5.4), the uplink carries no IPv6, and its IPv4
    goes on; then the address is used without a restart, but never one that is a duplicate (dadfailed).
    """
    net, daemon = scene
    usual = net.uplink(1)
    address = usual.address6.rpartition("::")[0] + "::77"
    transitions = daemon.uplink("wan1")["transitions"]
    net.sysctls("router", {"ipv6/conf/wan1/accept_dad": 1, "ipv6/conf/wan1/dad_transmits": 1})
    if duplicate:
        net.run("isp1", ["ip", "address", "add", f"{address}/64", "dev", "customer", "nodad"])

    def state() -> str:
        return net.run("router", ["ip", "-6", "address", "show", "dev", "wan1", "to", address])

    def carries_no_ipv6() -> None:
        assert daemon.uplink("wan1")["gateway6"] is None
        for where in ("router", "lan1"):
            assert connect_many(net, where, 20, family=6) == {2: 20}

    with others_traffic(scene):
        ip(net, f"address del {usual.address6}/64 dev wan1")
        daemon.wait_for(lambda s: s["uplinks"][0]["gateway6"] is None)  # after that of IPv4 would have lingered
        ip(net, f"address add {address}/64 dev wan1")
        if not net.run("router", ["ip", "-6", "route", "show", "default", "dev", "wan1"]):
            ip(net, f"route add {usual.default_routes()[1]}")
        if not duplicate:  # a duplicate is found within milliseconds
            time.sleep(0.3)
            carries_no_ipv6()
            assert "tentative" in state()
        assert connect_many(net, "lan1", 40).keys() == {1, 2}
        wait_until(lambda: "tentative" not in state() or "dadfailed" in state(), what="that the check ends")
        if duplicate:
            assert "dadfailed" in state()
            time.sleep(0.3)
            carries_no_ipv6()
            net.run("isp1", ["ip", "address", "del", f"{address}/64", "dev", "customer"])
        else:
            daemon.wait_for(lambda s: s["uplinks"][0]["gateway6"] == usual.gateway6)
            time.sleep(0.1)
            works(net, own6=address)
        ip(net, f"address del {address}/64 dev wan1")
        put_back(net)
        daemon.wait_for(lambda s: s["uplinks"][0]["gateway6"] == usual.gateway6)
        time.sleep(0.1)
    works(net)
    assert (usable(daemon.status()), daemon.uplink("wan1")["transitions"]) == (["wan1", "wan2"], transitions)
