"""Others change what is ours: it is put back and counted. What is theirs is left alone. A failure of our own router is
told apart from a failure of an uplink.
"""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network, wait_until
from mlbd.lab.traffic import connect_many
from tests.lab.scene import (
    QUICK,
    Start,
    conversation_by,
    forget_connections,
    kernel,
    mlbd,
    routing,
    tables,
    wait_usable,
)

METRICS = "127.0.0.1:9617"


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[Network, Daemon]]:
    """Whoever damages something leaves it repaired."""
    with Network(2) as net, Daemon(net, tables(net), metrics=METRICS) as daemon:
        time.sleep(0.3)  # the look that follows the first changes
        yield net, daemon
        assert "Traceback" not in daemon.log_text()


def repairs(net: Network, kind: str) -> float:
    """The metric mlbd_drift_repairs_total."""
    with net.inside("router"), urllib.request.urlopen(f"http://{METRICS}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f'mlbd_drift_repairs_total{{kind="{kind}"'))


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        ("for p in 10000 11001 12001 12002 12127 13001 19000; do ip rule del pref $p; done", "rule"),
        ("for p in 10000 11001 12001 12002 12127 13001 19000; do ip -6 rule del pref $p; done", "rule"),
        ("for t in 20001 20129 20127; do ip route flush table $t; ip -6 route flush table $t; done", "route"),
        ("ip route replace default via 10.2.0.1 dev wan2 table 20001 metric 1 proto 109", "route"),
        ("ip rule add pref 12500 lookup 20001 proto 109", "rule"),
    ],
    ids=["rules", "rules6", "routes", "another route", "one rule more"],
)
def test_rules_and_routes_are_put_back_within_a_second(world: tuple[Network, Daemon], damage: str, kind: str) -> None:
    """Rules and routes of ours that somebody deletes, changes or adds are as they were within 1 s, counted and named
    (scenarios 11 and 12).
    """
    net, daemon = world
    before, counted = routing(net), repairs(net, kind)
    net.run("router", ["sh", "-ec", damage])
    assert wait_until(lambda: routing(net) == before, what="the repair") < 1.0
    daemon.wait_for(lambda _: repairs(net, kind) > counted)
    assert "repaired what another program changed" in daemon.log_text()
    assert connect_many(net, "lan1", 20).keys() == {1, 2}
    time.sleep(0.4)  # until a look has found all in order: repairs in a row are taken for a fight


@pytest.mark.parametrize(
    "damage",
    [
        "nft flush ruleset",
        "nft delete table inet mlbd",
        "nft flush chain inet mlbd prerouting",
        "nft add element inet mlbd dead4 '{ 0x01000000 }'",
        "nft insert rule inet mlbd choose meta mark set 0x02000000 return",
    ],
)
def test_nftables_are_put_back_within_a_second(world: tuple[Network, Daemon], damage: str) -> None:
    """What somebody does to our table is undone within 1 s (scenario 11)."""
    net, daemon = world
    before = net.run("router", ["nft", "-s", "list", "table", "inet", "mlbd"])
    net.run("router", ["sh", "-ec", damage])
    assert wait_until(lambda: mlbd_table(net) == before, what="the repair") < 1.0
    assert connect_many(net, "lan1", 20).keys() == {1, 2}
    record = [r for r in daemon.log() if r["event"] == "repaired what another program changed"][-1]
    assert (record["by"], any("nft" in change for change in record["changes"])) == ("nft", True)
    time.sleep(0.4)


@pytest.mark.parametrize("setting", ["ipv4/conf/wan1/src_valid_mark", "ipv4/fib_multipath_hash_policy"])
def test_sysctls_are_put_back_within_a_second(world: tuple[Network, Daemon], setting: str) -> None:
    """A setting of ours that somebody changes, of which nobody is told, is as it was within 1 s, and counted."""
    net, _ = world
    path, counted = f"/proc/sys/net/{setting}", repairs(net, "sysctl")
    before = net.run("router", ["cat", path])
    net.run("router", ["sh", "-c", f"echo 0 > {path}"])
    assert net.run("router", ["cat", path]) != before
    assert wait_until(lambda: net.run("router", ["cat", path]) == before, what="the repair") < 1.0
    wait_until(lambda: repairs(net, "sysctl") == counted + 1, what="the count")
    time.sleep(0.4)


_FIGHTS = {
    "rule": ("ip rule del pref 12001", "systemd-networkd"),
    "nft": (
        "nft delete chain inet mlbd prerouting",
        "undone again and again by nft, so repairs wait longer: often a fire",
    ),
}


@pytest.mark.parametrize("kind", _FIGHTS)
def test_a_fight_is_a_warning_until_it_ends(start: Start, kind: str) -> None:
    """Who undoes repairs again and again is not outrun: a warning in log and status, while it goes on, names the
    usual suspect and the remedy.
    """
    net, daemon = start()
    damage, said = _FIGHTS[kind]
    fighting = net.spawn("router", ["sh", "-c", f"while :; do {damage} 2>/dev/null; sleep 0.02; done"])
    daemon.wait_for(lambda status: any(said in warning for warning in status["warnings"]), what="the warning")
    fighting.kill()
    fighting.wait()
    assert [r["reason"] for r in daemon.log() if r["event"] == "another program works against mlbd"]
    daemon.wait_for(lambda status: status["warnings"] == [], timeout=15, what="that it is over")
    assert connect_many(net, "lan1", 20).keys() == {1, 2}


def mlbd_table(net: Network) -> str:
    return net.run("router", ["sh", "-c", "nft -s list table inet mlbd || true"])


_THEIRS = """
table inet office {
  counter marked { }
  chain pre {
    type filter hook prerouting priority raw; policy accept;
    iifname "lan1" meta mark set meta mark | 0x00000042
  }
  chain post {
    type filter hook postrouting priority 200; policy accept;
    oifname "wan*" meta mark & 0x00ffffff == 0x00000042 counter name marked
    oifname "wan*" iifname "lan1" meta mark & 0x00ffffff != 0x00000042 counter
  }
}
"""


def test_what_is_theirs_is_untouched(start: Start) -> None:
    """Rules among ours, tables, routes and marks outside our mask outlive start, failover, repair, reload and release
    (scenario 13).
    """
    net, daemon = start(config=QUICK)
    daemon.stop()
    mlbd(net, "release", "-c", str(daemon.file))
    net.run("router", ["nft", "-f", "-"], text=_THEIRS)
    for family in (4, 6):
        for rule in ("pref 5210 fwmark 0x80000/0xff0000 lookup main", "pref 12001 fwmark 0x99 lookup 52"):
            net.run("router", ["ip", f"-{family}", "rule", "add", *rule.split()])
        net.run("router", ["ip", f"-{family}", "route", "add", "default", "dev", "wan2", "table", "52"])
    theirs = kernel(net)
    daemon.start()
    assert connect_many(net, "lan1", 60).keys() == {1, 2}
    net.silence(1, gateway=True)
    wait_usable(daemon, "wan2")
    assert connect_many(net, "lan1", 20) == {2: 20}
    net.run("router", ["ip", "rule", "del", "pref", "12002"])
    net.speak(1)
    wait_usable(daemon, "wan1", "wan2")
    daemon.reload()
    listed = net.run("router", ["nft", "list", "table", "inet", "office"])
    packets = [int(line.split("packets ")[1].split()[0]) for line in listed.splitlines() if "packets " in line]
    assert (packets[0] > 300, packets[1]) == (True, 0)
    ours_aside = [line for line in routing(net).splitlines() if "proto 109" not in line and "\tnexthop" not in line]
    assert ours_aside == theirs[0].splitlines()
    daemon.stop()
    mlbd(net, "release", "-c", str(daemon.file))
    assert kernel(net) == theirs


def test_a_forgotten_connection_ends_without_a_wrong_source(start: Start) -> None:
    """What a client sends to end a connection that the kernel was made to forget does not leave untranslated."""
    net, _ = start()
    talking = [conversation_by(net, uplink) for uplink in (1, 2)]
    forget_connections(net)
    for conversation in talking:
        conversation.close()
    time.sleep(0.3)  # for the client to try again
    assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]
    assert set(connect_many(net, "lan1", 20)) == {1, 2}


_FIREWALL = """
table inet firewall {
  chain out {
    type filter hook output priority filter; policy accept;
    oifname "wan1" icmp type echo-request drop
  }
}
"""


def test_our_own_firewall_is_no_dead_uplink(start: Start) -> None:
    """Probes that a rule of this router drops say so, and leave the uplink as it is (scenario 15)."""
    net, daemon = start(config='[probe]\ninterval = "100ms"\nfall = 3\n')
    net.run("router", ["nft", "-f", "-"], text=_FIREWALL)
    daemon.wait_for(lambda status: "firewall" in status["uplinks"][0]["reason"])
    time.sleep(0.5)
    uplink = daemon.uplink("wan1")
    assert (uplink["usable"], uplink["verdict"], uplink["transitions"]) == (True, "UP", 1)
    assert connect_many(net, "lan1", 20).keys() == {1, 2}
    net.run("router", ["nft", "delete", "table", "inet", "firewall"])
    daemon.wait_for(lambda status: status["uplinks"][0]["targets"][0]["reason"] == "")


def test_an_answer_of_unreachable_is_said(start: Start) -> None:
    """A provider that answers probes with an ICMP error is out, and the reason has its words and its address."""
    config = '[probe]\ntargets = ["203.0.113.9"]\ninterval = "100ms"\nfall = 3\n'
    net, daemon = start(config=config)
    net.run("isp1", ["ip", "route", "add", "unreachable", "203.0.113.9"])
    wait_usable(daemon, "wan2")
    assert net.uplink(1).gateway in daemon.uplink("wan1")["reason"]
    assert "unreachable" in daemon.uplink("wan1")["reason"]


def test_a_target_without_a_source_address_is_said(network: Callable[..., Network]) -> None:
    """A target of a family in which the uplink has no address is named as that, not as lost packets."""
    net = network(2)
    net.run("router", ["ip", "-6", "address", "flush", "dev", "wan1", "scope", "global"])
    config = tables(net, 'probe = { targets = ["2001:db8:f::1"] }')
    with Daemon(net, config) as daemon:
        uplink = daemon.uplink("wan1")
        assert (uplink["usable"], uplink["reason"]) == (False, "no IPv6 address on wan1 to probe from")
        assert "Traceback" not in daemon.log_text()
