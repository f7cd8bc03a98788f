"""Other programs on the same router keep working, and are told of when they take traffic away (issue 4, item 9)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

import pytest

from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network, wait_until
from mlbd.lab.traffic import attempts, connect_many
from tests.lab.inbound import asked
from tests.lab.scene import QUICK, in_background, kernel, mlbd, tables, wait_usable
from tests.schemes import neighbours
from tests.schemes.neighbours import TAILNET, WG_MARK

MASQUERADED = ('nat6 = "masquerade"',) * 2
SENDERS = ("lan1", "router", "docker0", "virbr0", "tailscale0")


def all_neighbours(net: Network) -> None:
    neighbours.tailscale(net)
    neighbours.docker(net)
    neighbours.libvirt(net)
    neighbours.administrator(net)


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[Network, Daemon]]:
    """A router with everything on it but a full tunnel."""
    with Network(2) as net:
        all_neighbours(net)
        net.serve("lan1")
        with Daemon(net, tables(net, *MASQUERADED) + QUICK) as daemon:
            wait_usable(daemon, "wan1", "wan2")
            yield net, daemon
            assert "Traceback" not in daemon.log_text()
            assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("where", SENDERS)
def test_everybody_is_balanced(world: tuple[Network, Daemon], where: str, family: int) -> None:
    """Of 300 TCP and UDP connections of the LAN, the router, a container, a guest and a tailnet host that uses this
    router as its exit node, half go by each uplink, and none fails.
    """
    net, _ = world
    found = connect_many(net, where, 200, family=family)
    found += connect_many(net, where, 100, family=family, udp=True)
    assert found[None] == 0
    assert abs(found[1] - 150) < 60, found


def reached(net: Network, family: int) -> dict[str, set[str]]:
    """Whom a tailnet host saw when it was asked, and whom a LAN host saw when the tailnet asked."""
    lan = {4: "192.168.1.2", 6: "fd00:10:1::2"}[family]
    senders = {"lan1": TAILNET[family], "router": TAILNET[family], "tailscale0": lan}
    found = {}
    for where, to in senders.items():
        answers = attempts(net, where, 10, family=family, servers=[to], timeout=1.0)
        answers += attempts(net, where, 10, family=family, servers=[to], udp=True, timeout=1.0)
        found[where] = {a.seen or a.error for a in answers}
    return found


@pytest.mark.parametrize("family", [4, 6])
def test_the_tailnet_is_reached(world: tuple[Network, Daemon], family: int) -> None:
    """Other tailnet hosts are reached from the LAN and from the router, and the LAN from them."""
    net, _ = world
    lan, router, tunnel = {
        4: ("192.168.1.2", "192.168.1.1", "100.100.0.1"),
        6: ("fd00:10:1::2", "fd00:10:1::1", "fd7a:115c:a1e0::1"),
    }[family]
    inside = router if family == 4 else "fd7a:115c:a1e0::2"  # tailscale's table above masquerades IPv4
    assert reached(net, family) == {"lan1": {lan}, "router": {tunnel}, "tailscale0": {inside}}


def test_a_published_port_answers_by_the_way_it_was_asked(world: tuple[Network, Daemon]) -> None:
    """A container's published port works through every uplink, also while the other one is dead, and
    right after that.
    """
    net, daemon = world
    assert published(net) == [6, 6]
    net.silence(1, gateway=True)
    wait_usable(daemon, "wan2")
    try:
        time.sleep(1.2)  # until connections of the dead uplink are reset
        assert published(net, 2) == [6]
    finally:
        net.speak(1)
    assert published(net) == [6, 6]
    wait_usable(daemon, "wan1", "wan2")


def published(net: Network, *uplinks: int) -> list[int]:
    """How many of six clients in the internet each of these uplinks could serve, else of all."""
    return [sum(asked(net, "tcp", 4, n, 8080, host=200 + k) for k in range(6)) for n in uplinks or (1, 2)]


def test_a_published_port_answers_whatever_probes_say(world: tuple[Network, Daemon]) -> None:
    """Who comes in by an uplink whose probes fail, but which works, is answered: nothing resets that connection."""
    net, daemon = world
    net.drop_icmp(1)
    wait_usable(daemon, "wan2")
    try:
        time.sleep(1.2)  # as above
        assert published(net) == [6, 6]
    finally:
        net.drop_icmp(1, drop=False)
        wait_usable(daemon, "wan1", "wan2")


def test_everybody_fails_over(world: tuple[Network, Daemon]) -> None:
    """When an uplink dies, new connections of all of them take the other, and the tailnet does not notice."""
    net, daemon = world
    before = reached(net, 4), reached(net, 6)
    net.silence(1, gateway=True)
    wait_usable(daemon, "wan2")
    try:
        for where in SENDERS:
            assert [connect_many(net, where, 30, family=f) for f in (4, 6)] == [{2: 30}] * 2, where
        assert (reached(net, 4), reached(net, 6)) == before
    finally:
        net.speak(1)
        wait_usable(daemon, "wan1", "wan2")


def test_marks_of_others_are_kept(world: tuple[Network, Daemon]) -> None:
    """All 24 bits of packet and connection marks that are not ours leave as they were set, by either uplink."""
    net, _ = world
    before = neighbours.counted(net)
    assert set(connect_many(net, "lan1", 60)) == {1, 2}
    after = neighbours.counted(net)
    assert (after["kept"] - before["kept"] > 200, after["lost"]) == (True, 0)


def test_nothing_is_said_of_them(world: tuple[Network, Daemon]) -> None:
    """tailscale without an exit node, docker and libvirt take nothing away, and `status` has no warning."""
    net, daemon = world
    daemon.wait_for(lambda status: status["last_cycle"]["result"] == "unchanged")
    assert daemon.status()["warnings"] == []
    assert "table 52" not in explained(net, daemon)


def explained(net: Network, daemon: Daemon) -> str:
    return mlbd(net, "explain", "203.0.113.5", "-c", str(daemon.file)).stdout


def test_theirs_stays_as_it_was(network: Callable[..., Network]) -> None:
    """Start, failover, recovery, reload, stop and release change none of their rules, routes, chains and handles, and
    after `release` the kernel is as it was.
    """
    net = network(2)
    neighbours.wg_device(net)
    neighbours.wg_quick(net)
    all_neighbours(net)  # the other way round, wg-quick would stand before tailscale, and so before us
    before, theirs = kernel(net), neighbours.foreign(net)
    daemon = Daemon(net, tables(net, *MASQUERADED) + QUICK + _TUNNEL_RULES).start()
    assert neighbours.foreign(net) == theirs
    net.silence(1, gateway=True)
    wait_usable(daemon, "wan2")
    assert neighbours.foreign(net) == theirs
    net.speak(1)
    wait_usable(daemon, "wan1", "wan2")
    daemon.reload()
    assert set(connect_many(net, "lan1", 60)) == {1, 2}
    assert neighbours.foreign(net) == theirs
    daemon.stop()
    assert neighbours.foreign(net) == theirs
    mlbd(net, "release", "-c", str(daemon.file))
    assert kernel(net) == before


_TUNNEL_RULES = """
[[policy]]
name = "all"
members = ["wan1", "wan2"]

[[rule]]
name = "tailscale"
mark = "0x80000/0xff0000"
use = "all"

[[rule]]
name = "wireguard"
mark = "51820"
use = "all"
"""


# A full tunnel by wg-quick.


@pytest.mark.parametrize("config", ["", _TUNNEL_RULES], ids=["no rules", "rules"])
@pytest.mark.parametrize("rp_filter", [1, 2])
def test_a_full_tunnel_that_was_there_first(network: Callable[..., Network], config: str, rp_filter: int) -> None:
    """wg-quick's rules stand behind ours: everything is balanced as without them, TCP and UDP, and nothing is said."""
    net = network(2, rp_filter=rp_filter)
    neighbours.wg_device(net)
    neighbours.wg_quick(net)
    with Daemon(net, tables(net, *MASQUERADED) + QUICK + config) as daemon:
        wait_usable(daemon, "wan1", "wan2")
        assert "32765:\tnot from all fwmark 0xca6c lookup 51820" in net.run("router", ["ip", "rule"])
        for where in ("lan1", "router"):
            for family in (4, 6):
                for udp in (False, True):
                    found = connect_many(net, where, 100, family=family, udp=udp)
                    assert (found[None], found[1] > 20, found[2] > 20) == (0, True, True), (where, family, udp, found)
        assert outer(net) == {"uplinks"}
        assert daemon.status()["warnings"] == []
        assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]
        assert "Traceback" not in daemon.log_text()


@pytest.mark.parametrize("config", ["", _TUNNEL_RULES], ids=["no rules", "rules"])
@pytest.mark.parametrize("rp_filter", [1, 2])
def test_a_full_tunnel_that_comes_later(network: Callable[..., Network], config: str, rp_filter: int) -> None:
    """wg-quick's rules stand before ours: everything enters the tunnel but its own packets, which leave by an uplink.
    `status` and `explain` say so within a second, and no longer when the tunnel is gone; then all is balanced again.
    """
    net = network(2, rp_filter=rp_filter)
    neighbours.wg_device(net)
    with Daemon(net, tables(net, *MASQUERADED) + QUICK + config) as daemon:
        wait_usable(daemon, "wan1", "wan2")
        neighbours.wg_quick(net)
        priority = int(re.findall(r"(\d+):\tnot from all fwmark 0xca6c", net.run("router", ["ip", "rule"]))[0])
        assert priority == (999 if config else 9999)
        took = wait_until(lambda: bool(daemon.status()["warnings"]), what="the warning")
        assert took < 1.0
        said = f"routing rule {priority} of another program sends all IPv4 and IPv6 traffic without mark 0xca6c to"
        daemon.wait_for(lambda status: len(status["warnings"]) == 1 and status["warnings"][0].startswith(said))
        assert said in explained(net, daemon)
        for udp in (False, True):
            found = attempts(net, "lan1", 20, udp=udp)
            assert {a.seen for a in found} == {"192.168.1.2"}
            assert {a.seen for a in attempts(net, "router", 20, udp=udp)} == {"10.8.0.1"}
        assert outer(net) == {"uplinks"}
        neighbours.wg_quick_down(net)
        assert wait_until(lambda: not daemon.status()["warnings"], what="that nothing is said") < 1.0
        assert set(connect_many(net, "lan1", 40)) == {1, 2}
        assert set(connect_many(net, "lan1", 40, udp=True)) == {1, 2}
        assert "Traceback" not in daemon.log_text()


def outer(net: Network) -> set[str]:
    """Where a hundred packets of the tunnel's own went, to ten far ends in turn."""
    found = attempts(net, "router", 100, udp=True, mark=WG_MARK, servers=range(1, 11), source_port=51820, at_once=1)
    return {"uplinks" if a.uplink else a.error for a in found}


@pytest.mark.parametrize("first", [True, False])
def test_the_end_of_a_full_tunnel_leaks_nothing(network: Callable[..., Network], first: bool) -> None:
    """`wg-quick down` deletes our rule for `main` with its own; it is put back within a second, and in between nothing
    that is for the LAN leaves by an uplink.
    """
    net = network(2)
    neighbours.wg_device(net)
    if first:
        neighbours.wg_quick(net)
    with Daemon(net, tables(net, *MASQUERADED) + QUICK) as daemon:
        wait_usable(daemon, "wan1", "wan2")
        if not first:
            neighbours.wg_quick(net)
        before = rules(net)
        if not first:  # what began in the tunnel ends with it
            neighbours.wg_quick_down(net)
        sending = [in_background(attempts, net, "lan1", 300, rate=300, family=f, timeout=1.0) for f in (4, 6)]
        if first:
            neighbours.wg_quick_down(net)
        wait_until(lambda: rules(net) == before, what="the repair", timeout=1.0)
        for each in sending:
            found = each.result()
            assert {a.uplink for a in found} == {1, 2}
        assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]
        assert "Traceback" not in daemon.log_text()


def rules(net: Network) -> list[str]:
    """Ours."""
    listed = [net.run("router", ["ip", f"-{family}", "rule"]) for family in (4, 6)]
    return [line for each in listed for line in each.splitlines() if "proto 109" in line]


# Others who take everything.


@pytest.fixture(scope="module")
def diverted() -> Iterator[tuple[Network, Daemon]]:
    with Network(2) as net:
        neighbours.tailscale(net)
        net.attach("tun0", "10.9.0.1/24", internet=True)
        with Daemon(net, tables(net) + QUICK) as daemon:
            wait_usable(daemon, "wan1", "wan2")
            yield net, daemon


def test_an_exit_node_is_said(diverted: tuple[Network, Daemon]) -> None:
    """tailscale with an exit node takes everything; `status` and `explain` say so at once, and what to do."""
    net, daemon = diverted
    net.run("router", ["ip", "route", "add", "default", "via", "100.100.0.2", "dev", "tailscale0", "table", "52"])
    assert wait_until(lambda: bool(daemon.status()["warnings"]), what="the warning") < 1.0
    expected = (
        "routing rule 5270 of another program sends all IPv4 traffic to table 52, dev tailscale0: tailscale does so "
        "for an exit node; if mlbd is to route, use none (tailscale set --exit-node=)"
    )
    assert daemon.status()["warnings"] == [expected]
    assert "routing rule 5270 of another program sends it to table 52" in explained(net, daemon)
    net.run("router", ["ip", "route", "del", "default", "table", "52"])
    assert wait_until(lambda: not daemon.status()["warnings"], what="that nothing is said") < 1.0


def test_openvpn_is_said(diverted: tuple[Network, Daemon]) -> None:
    """OpenVPN's routes in `main` take everything; `status` and `explain` say so at once, and what to do."""
    net, daemon = diverted
    for half in ("0.0.0.0/1", "128.0.0.0/1"):
        net.run("router", ["ip", "route", "add", half, "dev", "tun0"])
    assert {a.seen for a in attempts(net, "lan1", 10)} == {"192.168.1.2"}
    said = "0.0.0.0/1 and 128.0.0.0/1 in main, dev tun0, take all IPv4 traffic: OpenVPN's redirect-gateway does so; "
    daemon.wait_for(lambda status: [w[: len(said)] for w in status["warnings"]] == [said], timeout=1.0)
    assert "128.0.0.0/1" in explained(net, daemon)
    for half in ("0.0.0.0/1", "128.0.0.0/1"):
        net.run("router", ["ip", "route", "del", half])
    assert wait_until(lambda: not daemon.status()["warnings"], what="that nothing is said") < 1.0
    assert set(connect_many(net, "lan1", 40)) == {1, 2}
    every = ("2000::/4", "3000::/4", "fc00::/7")
    for part in every:
        net.run("router", ["ip", "-6", "route", "add", part, "dev", "tun0"])
    said = "2000::/4 and 3000::/4 in main, dev tun0, take all IPv6 traffic: OpenVPN's redirect-gateway does so; "
    daemon.wait_for(lambda status: [w[: len(said)] for w in status["warnings"]] == [said], timeout=1.0)
    for part in every:
        net.run("router", ["ip", "-6", "route", "del", part])
    wait_until(lambda: not daemon.status()["warnings"], timeout=1.0, what="that nothing is said")
