"""IPv6 over two providers that advertise and delegate it: LAN hosts with addresses of both, and masqueraded ones."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from mlbd.lab import layout
from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network, wait_until
from mlbd.lab.traffic import attempts, connect_many
from tests.lab.scene import QUICK, in_background, tables, wait_usable

SERVER = layout.server(1, 6)
BY_SERVER = QUICK.replace("[probe]\n", f'[probe]\ntargets = ["{SERVER}"]\n')
MARK = '\n[daemon]\nown_connections = "mark"\n'
MASQUERADED = 'nat6 = "masquerade"'
OWN_LINK_LOCAL = layout.ROUTER_LINK_LOCAL
IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO, IPV6_MTU = 23, 2, 24


@pytest.fixture(scope="module")
def natural() -> Iterator[tuple[Network, Daemon]]:
    """Nothing is translated; each provider has advertised its gateway and delegated a prefix."""
    with Network(2, ra=True, lans=2) as net:
        net.delegate(1)
        net.delegate(2)
        with Daemon(net, tables(net) + QUICK) as daemon:
            wait_usable(daemon, "wan1", "wan2")
            yield net, daemon
            assert "Traceback" not in daemon.log_text()
            assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]


@pytest.fixture(scope="module")
def masqueraded() -> Iterator[tuple[Network, Daemon]]:
    """Both masquerade; a server tells whether an uplink works."""
    with Network(2, ra=True) as net, Daemon(net, tables(net, MASQUERADED, MASQUERADED) + BY_SERVER) as daemon:
        wait_usable(daemon, "wan1", "wan2")
        yield net, daemon
        assert "Traceback" not in daemon.log_text()
        assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]


def seen(net: Network, where: str, count: int, *sources: str, **options: object) -> set[tuple[int | None, str]]:
    """By which uplinks connections went, and with which addresses."""
    found = attempts(net, where, count, family=6, sources=sources, **options)  # type: ignore[arg-type]
    return {(a.uplink, a.seen or a.error) for a in found}


def gateway6(daemon: Daemon, known: bool) -> float:
    """Waits until wan1 has an IPv6 gateway, or none, and the kernel can know; returns how long that took, seconds."""
    begin = time.monotonic()
    daemon.wait_for(lambda s: (s["uplinks"][0]["gateway6"] is not None) == known)
    time.sleep(0.3)
    return time.monotonic() - begin


# Nothing translated.


def test_hosts_leave_by_the_provider_of_their_address(natural: tuple[Network, Daemon]) -> None:
    """Of 1,000 connections from hosts with addresses of both providers, each leaves by its own one, untranslated."""
    net, _ = natural
    hosts = [f"2001:db8:{n}:10{k}::2" for n in (1, 2) for k in (1, 2)]
    for k in (1, 2):
        mine = [host for host in hosts if host.endswith(f"10{k}::2")]
        found = attempts(net, f"lan{k}", 500, family=6, sources=mine)
        assert [a.seen for a in found] == [mine[i % 2] for i in range(500)]


@pytest.mark.parametrize("own", ["", MARK])
def test_own_connections_have_the_right_address(natural: tuple[Network, Daemon], own: str) -> None:
    """The router's own connections are spread with an address of the uplink they leave by; bound ones leave by their
    address's provider; one bound to an address and to another uplink's interface is not let out.
    """
    net, daemon = natural
    daemon.configure(tables(net) + QUICK + own)
    daemon.reload()
    assert seen(net, "router", 200) == {(1, "2001:db8:1::2"), (2, "2001:db8:2::2")}
    bound = ["2001:db8:1::2", "2001:db8:2::2", "2001:db8:1:101::1", "2001:db8:2:102::1"]
    found = attempts(net, "router", 80, family=6, sources=bound)
    assert [a.seen for a in found] == bound * 20
    assert seen(net, "router", 5, "2001:db8:1::2", interface="wan2", timeout=0.3) == {(None, "timeout")}


@pytest.mark.parametrize("how", ["silent", "unplugged", "interface down"])
def test_hosts_of_a_dead_provider_are_told(natural: tuple[Network, Daemon], how: str) -> None:
    """Hosts with an address of a dead provider get "source address failed policy" at once, so that they try their
    other one, which works; the router's own connections take the other uplink.
    """
    net, daemon = natural
    if how == "silent":
        net.silence(1, gateway=True)
    elif how == "unplugged":
        net.unplug(1)
    else:
        net.run("router", ["ip", "link", "set", "wan1", "down"])
    wait_usable(daemon, "wan2")
    begin = time.monotonic()
    assert seen(net, "lan1", 20, "2001:db8:1:101::2", udp=True) == {(None, "EACCES")}
    assert time.monotonic() - begin < 0.5
    # TCP too; but here the answer comes before connect(2) is done, and Linux believes the one to the second SYN.
    assert seen(net, "lan1", 5, "2001:db8:1:101::2") == {(None, "EACCES")}
    assert seen(net, "lan1", 20, "2001:db8:2:101::2") == {(2, "2001:db8:2:101::2")}
    assert seen(net, "router", 20) == {(2, "2001:db8:2::2")}
    if how == "silent":
        net.speak(1)
    elif how == "unplugged":
        net.plug(1)
    else:
        up_again(net, 1)
    wait_usable(daemon, "wan1", "wan2")
    wait_until(lambda: seen(net, "lan1", 5, "2001:db8:1:101::2", timeout=0.3) == {(1, "2001:db8:1:101::2")})
    assert connect_many(net, "router", 60, family=6).keys() == {1, 2}
    assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]


def up_again(net: Network, number: int) -> None:
    """With its link-local address, which the lab does not leave to the kernel."""
    name = net.uplink(number).interface
    net.run("router", ["ip", "link", "set", name, "up"])
    net.run("router", ["ip", "address", "replace", f"{OWN_LINK_LOCAL}/64", "dev", name, "nodad"])
    net.run("router", ["ip", "route", "replace", *net.uplink(number).default_routes()[0].split()])
    net.advertise(number)


def test_an_advertisement_gives_and_takes_the_family(natural: tuple[Network, Daemon]) -> None:
    """A gateway that says it is none any more loses IPv6 of its uplink, not IPv4, and gets it back when it advertises
    again; so does one that just falls silent, when its lifetime is over.
    """
    net, daemon = natural
    net.advertise(1, lifetime=0)
    assert gateway6(daemon, known=False) < 4.0
    assert seen(net, "router", 20) == {(2, "2001:db8:2::2")}
    assert seen(net, "lan1", 5, "2001:db8:1:101::2", udp=True) == {(None, "EACCES")}
    assert connect_many(net, "lan1", 40).keys() == {1, 2}
    net.advertise(1, lifetime=1)
    assert gateway6(daemon, known=True) < 1.0
    assert seen(net, "lan1", 20, "2001:db8:1:101::2") == {(1, "2001:db8:1:101::2")}
    net.stop_advertising(1)
    assert gateway6(daemon, known=False) < 5.5
    assert seen(net, "router", 20) == {(2, "2001:db8:2::2")}
    assert connect_many(net, "lan1", 40).keys() == {1, 2}
    net.advertise(1)
    gateway6(daemon, known=True)
    assert connect_many(net, "router", 60, family=6).keys() == {1, 2}
    assert daemon.uplink("wan1")["usable"]


def test_a_deprecated_address_is_still_its_providers(natural: tuple[Network, Daemon]) -> None:
    """After a renumbering, new connections have the new address at once, and those bound to the old one, which is
    deprecated, still leave by the right uplink.
    """
    net, _ = natural
    net.renumber6(1)
    time.sleep(0.3)
    assert seen(net, "router", 100) == {(1, "2001:db8:1:1::2"), (2, "2001:db8:2::2")}
    assert seen(net, "router", 40, "2001:db8:1::2") == {(1, "2001:db8:1::2")}
    assert seen(net, "lan1", 40, "2001:db8:1:101::2") == {(1, "2001:db8:1:101::2")}


def test_another_delegation_is_followed(natural: tuple[Network, Daemon]) -> None:
    """Hosts that get another prefix of the same provider leave by it within half a second."""
    net, _ = natural
    (first, _) = net.delegate(1, "2001:db8:1:200::/56")
    time.sleep(0.5)
    assert seen(net, "lan1", 100, first) == {(1, "2001:db8:1:201::2")}


# Masqueraded.


def test_shares(masqueraded: tuple[Network, Daemon]) -> None:
    """Of 1,000 connections each uplink carries half, with its own address."""
    net, _ = masqueraded
    sources = [net.lan(1).source(n, 6) for n in range(1, 51)]
    found = attempts(net, "lan1", 1000, family=6, sources=sources)
    assert {(a.uplink, a.seen) for a in found} == {(1, "2001:db8:1::2"), (2, "2001:db8:2::2")}
    assert 430 < sum(a.uplink == 1 for a in found) < 570


@pytest.mark.parametrize("own", ["route", "mark"])
def test_failover(masqueraded: tuple[Network, Daemon], own: str) -> None:
    """A silent provider's share goes to the other, forwarded and own, and comes back."""
    net, daemon = masqueraded
    daemon.configure(tables(net, MASQUERADED, MASQUERADED) + BY_SERVER + (MARK if own == "mark" else ""))
    daemon.reload()
    for where in ("lan1", "router"):
        assert connect_many(net, where, 60, family=6).keys() == {1, 2}
    net.silence(1)
    wait_usable(daemon, "wan2")
    for where in ("lan1", "router"):
        assert connect_many(net, where, 30, family=6) == {2: 30}
    net.speak(1)
    wait_usable(daemon, "wan1", "wan2")
    for where in ("lan1", "router"):
        assert connect_many(net, where, 60, family=6).keys() == {1, 2}


def test_a_deprecated_address_is_better_than_anothers(masqueraded: tuple[Network, Daemon]) -> None:
    """An uplink with no other than a deprecated address sends with that, not with another uplink's, which the kernel
    would prefer.
    """
    net, _ = masqueraded
    net.stop_advertising(1)
    change = "address change 2001:db8:1::2/64 dev wan1 valid_lft 1000 preferred_lft"
    net.run("router", ["ip", *change.split(), "0"])
    time.sleep(0.3)
    try:
        for where in ("lan1", "router"):
            assert seen(net, where, 60) == {(1, "2001:db8:1::2"), (2, "2001:db8:2::2")}
    finally:
        net.run("router", ["ip", *change.split(), "900"])
        net.advertise(1)
    assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]


# ICMPv6.


def ping(net: Network, address: str) -> bool:
    with net.inside("router"):
        command = ["ping", "-6", "-n", "-q", "-c", "1", "-W", "1", address]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def solicitations(net: Network, at: int, about: int) -> int:
    """Neighbour solicitations for addresses of uplink `about` that the provider `at` got."""
    listed = net.run(f"isp{at}", ["nft", "list", "counter", "inet", "neighbours", f"of{about}"])
    return int(listed.split("packets")[1].split()[0])


def test_neighbours_are_never_steered(masqueraded: tuple[Network, Daemon]) -> None:
    """While an uplink works, is down, and works again, its gateway is found and answers, no other is asked
    (scenario 24).
    """
    net, daemon = masqueraded
    for n in (1, 2):
        net.run(
            f"isp{n}",
            ["nft", "-f", "-"],
            text="table inet neighbours {\n"
            + "".join(f"counter of{k} {{ }}\n" for k in (1, 2))
            + "chain arrive { type filter hook prerouting priority -400;\n"
            + "".join(
                f'iifname "customer" icmpv6 type nd-neighbor-solicit @th,64,48 0x20010db8000{k} counter name of{k}\n'
                for k in (1, 2)
            )
            + "}\n}\n",
        )

    def asked() -> None:
        for n in (1, 2):
            before = solicitations(net, n, n)
            net.run("router", ["ip", "-6", "neigh", "flush", "dev", f"wan{n}"])
            assert [ping(net, to) for to in (f"fe80::1%wan{n}", net.uplink(n).provider6[0])] == [True, True]
            assert solicitations(net, n, n) > before
        assert [solicitations(net, 1, 2), solicitations(net, 2, 1)] == [0, 0]

    asked()
    net.silence(1)
    wait_usable(daemon, "wan2")
    asked()
    net.speak(1)
    wait_usable(daemon, "wan1", "wan2")
    asked()


def errors_come_back(net: Network, source: str) -> None:
    """Routes at both providers that refuse, and that are narrow, make the client know."""
    for n in (1, 2):
        for line in ("unreachable 2001:db8:f::f1", f"2001:db8:f::f2 via fd64:{n}::1 mtu 1300"):
            net.run(f"isp{n}", ["ip", "-6", "route", "replace", *line.split()])
    for where, sources in (("lan1", [source]), ("router", [])):
        # The answer comes before connect(2) is done, so that Linux keeps it as a soft error, tcp(7), until then.
        refused = attempts(net, where, 20, family=6, servers=["2001:db8:f::f1"], sources=sources, timeout=0.3)
        assert {a.error for a in refused} == {"ENETUNREACH"}
    for _ in range(4):
        with net.inside("lan1"), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
            s.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO)
            s.bind((source, 0))
            s.connect(("2001:db8:f::f2", 7))
            s.send(b"x" * 1400)
            wait_until(lambda: s.getsockopt(socket.IPPROTO_IPV6, IPV6_MTU) == 1300, what="the path's MTU")
            with pytest.raises(OSError, match="Message too long"):
                s.send(b"x" * 1400)
        net.run("lan1", ["ip", "-6", "route", "flush", "cache"])


def test_errors_come_back(masqueraded: tuple[Network, Daemon]) -> None:
    """A provider's "unreachable" and "packet too big" reach the client whose packet it was."""
    errors_come_back(masqueraded[0], "fd00:10:1::2")


# All at once.


@pytest.mark.parametrize("world", ["natural", "masqueraded"])
def test_everything_changes_at_once(request: pytest.FixtureRequest, world: str) -> None:
    """Addresses go and come, prefixes are replaced, an interface goes down and up, an advertisement ends, all under
    a flood: no packet leaves with a wrong source, and afterwards everything works without a restart.
    """
    net, daemon = request.getfixturevalue(world)
    flood = in_background(attempts, net, "router", 500, rate=200, family=6, timeout=1.0)
    forwarded = in_background(attempts, net, "lan1", 500, rate=200, family=6, timeout=1.0)
    for _ in range(2):
        net.renumber6(2)
        address = f"{net.uplink(1).address6}/64"
        net.run("router", ["ip", "address", "del", address, "dev", "wan1"])
        net.advertise(2, lifetime=0)
        time.sleep(0.1)
        net.advertise(1)
        net.advertise(2)
        net.run("router", ["ip", "link", "set", "wan1", "down"])
        time.sleep(0.2)
        up_again(net, 1)
        time.sleep(0.3)
    flood.result()
    forwarded.result()
    wait_usable(daemon, "wan1", "wan2")
    own = {(n, net.uplink(n).address6) for n in (1, 2)}
    wait_until(lambda: seen(net, "router", 60, timeout=0.5) == own, what="that both carry own connections")
    if world == "natural":
        assert seen(net, "lan1", 40, "2001:db8:2:101::2") == {(2, "2001:db8:2:101::2")}
    else:
        assert seen(net, "lan1", 60) == own
    assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]
