"""Bonds that others make, under mlbd: ifupdown with ifenslave, and systemd-networkd; and the bond of the example."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlbd.lab.daemon import Daemon
from mlbd.lab.namespaces import ip_here
from tests.vm.pair import PATIENCE, Pair, lost_between, member, wait_until, wait_usable
from tests.vm.system import first_namespace

EXAMPLE = (Path(__file__).parents[2] / "etc/examples/bond.toml").read_text()
PACE = '\n[probe]\ninterval = "300ms"\n'
BOND = """
[[bond]]
name = "bond0"
mode = "active-backup"
members = ["eth1", "eth2"]
arp_targets = ["192.168.1.1"]
"""
PRIMARY = "eth2"
INTERFACES = """
iface bond0 inet static
  address 192.168.1.3/24
  bond-slaves eth1 eth2
  bond-mode active-backup
  bond-miimon 100
  bond-updelay 200
  bond-num_grat_arp 3
  bond-primary eth2
"""
UNITS = Path("/run/systemd/network")
NETWORKD = {
    "50-bond0.netdev": "[NetDev]\nName=bond0\nKind=bond\n"
    "[Bond]\nMode=active-backup\nMIIMonitorSec=100ms\nUpDelaySec=200ms\nGratuitousARP=3\n",
    "50-bond0.network": "[Match]\nName=bond0\n[Network]\nAddress=192.168.1.3/24\nLinkLocalAddressing=no\n",
    "50-eth1.network": "[Match]\nName=eth1\n[Network]\nBond=bond0\nLinkLocalAddressing=no\n",
    "50-eth2.network": "[Match]\nName=eth2\n[Network]\nBond=bond0\nPrimarySlave=true\nLinkLocalAddressing=no\n",
}


class BesideSystemd(Pair):
    """`a` is the namespace that systemd is in."""

    def __init__(self) -> None:
        super().__init__()
        self._stack.callback(self.run, "a", ["nft", "delete", "table", "netdev", "silence"])
        self._stack.callback(self.sysctls, "a", {"ipv6/conf/default/disable_ipv6": 0})

    def _add(self, names: Iterable[str]) -> None:
        self.places.append("a")
        ip_here([f"netns attach {self.namespace('a')} 1"])
        super()._add(name for name in names if name != "a")


def options(net: Pair) -> dict[str, Any]:
    """All that ip(8) shows of a bond's, but for what the kernel chooses."""
    data: dict[str, Any] = net.links("a")["bond0"]["linkinfo"]["info_data"]
    return {name: value for name, value in data.items() if name != "active_slave"}


def addresses(net: Pair) -> str:
    return net.run("a", ["ip", "-o", "-4", "addr", "show", "dev", "bond0"])


def wait_both(net: Pair, daemon: Daemon) -> None:
    for cable in net.cables:
        wait_usable(daemon, cable)
    wait_until(lambda: net.ports("a") == {*net.cables}, what="both ports")


@contextmanager
def taken_over(net: Pair) -> Iterator[Daemon]:
    """mlbd for a bond that is there, of which the file says little. It comes, is killed, comes and stops without a lost
    packet, and without a trace.
    """
    wait_until(lambda: net.active("a") == PRIMARY, what="the primary to be active")
    before = (options(net), addresses(net))
    with net.daemon("a", BOND + PACE, wait=False) as daemon, net.stream("a", "192.168.1.1") as stream:
        wait_both(net, daemon)
        daemon.kill()
        daemon.start(timeout=PATIENCE)
        wait_both(net, daemon)
        assert (options(net), addresses(net), net.active("a")) == (*before, PRIMARY)
        assert [r["changes"] for r in daemon.log() if r.get("event") == "cycle" and r.get("changes")] == []
        taken = time.monotonic()
        yield daemon
        wait_both(net, daemon)
        left = time.monotonic()
        assert daemon.stop() == 0
        net.run("a", ["mlbd", "release", "-c", str(daemon.file)])
        time.sleep(1)
        summary = stream.stop(2)
        assert [lost_between(summary, 0, taken), lost_between(summary, left, time.monotonic())] == [0, 0]
        assert (options(net), addresses(net)) == before
        assert net.ports("a") == {*net.cables}


def test_example(bonding: None) -> None:
    """etc/examples/bond.toml makes a bond, uses the other card when the far end of one is silent, and both again."""
    with Pair(("eth0", "eth1")) as net:
        net.bridge("b", "192.168.1.1/24")
        with net.daemon("a", EXAMPLE + PACE) as daemon:
            for cable in net.cables:
                wait_usable(daemon, cable)
            with net.stream("a", "192.168.1.1") as stream:
                first = net.active("a")
                (other,) = {*net.cables} - {first}
                net.silence(first)
                wait_until(lambda: net.active("a") == other, what="the other to be active")
                moved = time.monotonic()
                wait_usable(daemon, first, False)
                time.sleep(1)
                net.speak(first)
                wait_usable(daemon, first)
                summary = stream.stop(2)
            assert lost_between(summary, moved + 0.3, time.monotonic()) == 0
            assert member(daemon.status(), other)["active"]  # nothing calls for a change
            assert net.ports("a") == {"eth0", "eth1"}


def test_ifupdown(bonding: None) -> None:
    """A bond of ifupdown's is taken over; `ifup --force`, which leaves its ports down, is repaired; `ifdown` works."""
    with Pair() as net:
        net.bridge("b", "192.168.1.1/24")
        file = net.directory / "interfaces"
        file.write_text(INTERFACES)

        def ifupdown(command: str, *more: str) -> None:
            # By ip(8), which also gives it the namespace's /sys.
            start = ["ip", "netns", "exec", net.namespace("a"), command]
            net.run("a", [*start, "-i", str(file), "--state-dir", str(net.directory), *more, "bond0"])

        ifupdown("ifup")
        assert options(net)["primary"] == "eth2"
        with taken_over(net) as daemon:
            ifupdown("ifup", "--force")
            wait_both(net, daemon)
            assert net.ping("a", "192.168.1.1", timeout=10)
            assert any(r["event"] == "repaired what another program changed" for r in daemon.log())
        ifupdown("ifdown")
        assert "bond0" not in net.links("a")


@contextmanager
def networkd(net: Pair) -> Iterator[None]:
    """systemd-networkd, with a bond."""
    UNITS.mkdir(exist_ok=True)
    for name, text in NETWORKD.items():
        (UNITS / name).write_text(text)
    try:
        systemctl("start", "systemd-networkd")
        wait_until(lambda: "bond0" in net.links("a"), what="bond0")
        wait_until(lambda: options(net).get("primary") == PRIMARY, what="the primary")
        yield
    finally:
        systemctl("stop", "systemd-networkd.socket", "systemd-networkd")
        shutil.rmtree(UNITS)
        net.ip("a", "link del bond0")


def systemctl(*arguments: str) -> None:
    subprocess.run(["systemctl", *arguments], check=True)


def test_networkd(bonding: None) -> None:
    """A bond of systemd-networkd's is taken over; its restart does no harm, nor does what it does to a member that mlbd
    has made inactive.
    """
    with first_namespace(), BesideSystemd() as net:
        net.bridge("b", "192.168.1.1/24")
        with networkd(net), taken_over(net) as daemon:
            systemctl("restart", "systemd-networkd")
            wait_both(net, daemon)
            net.silence("eth2")
            wait_until(lambda: net.active("a") == "eth1", what="eth1 to be active")
            net.run("a", ["networkctl", "reconfigure", "eth2"])
            time.sleep(2)
            wait_until(lambda: net.active("a") == "eth1", what="eth1 to be active again")
            assert net.ping("a", "192.168.1.1", timeout=10)
            net.speak("eth2")
