"""`mlbd release` and `on_exit = "release"` leave the kernel exactly as it was before mlbd ran."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network
from tests.lab.scene import QUICK, kernel, mlbd, ruleset, tables, wait_usable

_OFFICE = """
table inet office {
  set guests {
    type ipv4_addr
    elements = { 192.168.1.9 }
  }
  chain pre {
    type filter hook prerouting priority mangle; policy accept;
    ip saddr @guests meta mark set 0x42
  }
}
table ip nat {
  chain post {
    type nat hook postrouting priority srcnat; policy accept;
    oifname "wan1" masquerade
  }
}
"""


def used_router(network: Callable[..., Network], **options: object) -> Network:
    """A router with rules, routes, sysctls and nftables of its owner."""
    net = network(3, **options)
    for family in (4, 6):
        net.run("router", ["ip", f"-{family}", "rule", "add", "pref", "11500", "fwmark", "0x42", "lookup", "42"])
        net.run("router", ["ip", f"-{family}", "rule", "add", "pref", "32764", "fwmark", "0x7", "lookup", "main"])
        net.run("router", ["ip", f"-{family}", "route", "add", "default", "dev", "wan2", "table", "42", "metric", "7"])
    net.run("router", ["nft", "-f", "-"], text=_OFFICE)
    net.sysctls("router", {"ipv4/conf/wan2/src_valid_mark": 1, "ipv4/conf/wan1/promote_secondaries": 1})
    return net


def test_on_exit_release(network: Callable[..., Network]) -> None:
    """With on_exit = "release" rules, routes, nftables and sysctls are as before when the daemon has stopped."""
    net = used_router(network)
    before = kernel(net)
    with Daemon(net, tables(net) + '[daemon]\non_exit = "release"\n') as daemon:
        assert kernel(net)[0] != before[0]
        assert daemon.stop() == 0
        assert kernel(net) == before
        assert "Traceback" not in daemon.log_text()


@pytest.mark.parametrize("fault", ["none", "dead", "missing"])
def test_release(network: Callable[..., Network], fault: str) -> None:
    """`mlbd release` restores everything, also with an uplink dead; a missing interface's settings went with it."""
    net = used_router(network)
    before = kernel(net)
    daemon = Daemon(net, tables(net) + QUICK).start()
    if fault == "dead":
        net.silence(1, gateway=True)
        wait_usable(daemon, "wan2", "wan3")
    elif fault == "missing":
        net.remove(3)
        wait_usable(daemon, "wan1", "wan2")
    assert mlbd(net, "release", "-c", str(daemon.file)).returncode == 1  # not while it runs
    daemon.stop()
    done = mlbd(net, "release", "-c", str(daemon.file))
    assert (done.returncode, done.stderr) == (0, "")
    if fault != "missing":
        assert kernel(net) == before
        return
    assert ruleset(net) == before[1]
    left = net.run("router", ["sh", "-c", "ip rule; ip -6 rule; ip route show table all; ip -6 route show table all"])
    assert "109" not in left
    assert kernel(net)[2] == {name: value for name, value in before[2].items() if "/wan3/" not in name}


_DELETED = """
ip rule del pref 12001; ip route flush table 20001; sysctl -q net.ipv4.conf.wan1.src_valid_mark=0
nft flush chain inet mlbd prerouting
"""
_ADDED = """
nft add chain inet mlbd strange; nft add set inet mlbd odd '{ type ipv4_addr; }'
ip route add 198.51.100.0/24 dev wan1 table 20001 proto 109; ip rule add pref 10777 lookup 20001 proto 109
"""


@pytest.mark.parametrize(
    "damage", [_DELETED, _ADDED, "nft flush ruleset; nft -f ruleset"], ids=["deleted", "added", "no table"]
)
def test_release_of_a_half_made_state(network: Callable[..., Network], damage: str) -> None:
    """What is left when somebody deleted part of it, or added to it, is released as well."""
    net = used_router(network)
    before = kernel(net)
    daemon = Daemon(net, tables(net)).start()
    daemon.kill()
    own = net.run("router", ["nft", "list", "ruleset"])
    foreign = own[: own.index("table inet mlbd")]
    (net.directory / "ruleset").write_text(foreign)
    net.run("router", ["sh", "-c", f"cd {net.directory}; {damage}"])
    done = mlbd(net, "release", "-c", str(daemon.file))
    assert (done.returncode, done.stderr) == (0, "")
    after = kernel(net)
    assert after[0] == before[0]
    assert without_handles(after[1]) == without_handles(before[1])
    if "flush ruleset" not in damage:  # with the table went the note of what the sysctls were
        assert after[2] == before[2]


def without_handles(text: str) -> list[str]:
    return [line.split(" # handle")[0] for line in text.splitlines()]


def test_release_without_anything_to_release(network: Callable[..., Network]) -> None:
    """On a router where mlbd never ran, release changes nothing and succeeds, also without a configuration."""
    net = used_router(network)
    before = kernel(net)
    for _ in range(2):
        done = mlbd(net, "release", "-c", "/nonexistent.toml")
        assert (done.returncode, kernel(net)) == (0, before)
