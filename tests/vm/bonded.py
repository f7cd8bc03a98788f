"""A router whose mlbd keeps a bond, and the far end of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlbd.lab.daemon import Daemon
from tests.vm.pair import PATIENCE, Pair, member, wait_until, wait_usable

FAR = "192.168.1.1"
BOND = """
[[bond]]
name = "bond0"
mode = "{mode}"
members = ["eth1", "eth2"]
addresses = ["192.168.1.3/24"]
{more}

[probe]
interval = "300ms"
hold_max = "3s"

[daemon]
grace = "5s"
"""
ASKED = f'arp_targets = ["{FAR}"]'


def bond(mode: str = "active-backup", *more: str, asked: str = ASKED) -> str:
    return BOND.format(mode=mode, more="\n".join((*more, asked)))


class Bonded:
    """One daemon for many configurations, as on a router."""

    def __init__(self, net: Pair, daemon: Daemon) -> None:
        self.net, self.daemon = net, daemon

    def use(self, config: str) -> None:
        """Both ports are in use, by this configuration."""
        for cable in self.net.cables:
            self.net.speak(cable)
        self.daemon.configure(config)
        self.daemon.reload()
        mode = config.partition('mode = "')[2].partition('"')[0]
        self.wait(lambda status: status["bundles"] and status["bundles"][0]["mode"] == mode, f"mode {mode}")
        self.wait_ports("eth1", "eth2")
        for cable in self.net.cables:
            wait_usable(self.daemon, cable)

    def wait(self, holds: Callable[[dict[str, Any]], bool], what: str) -> None:
        self.daemon.wait_for(holds, timeout=PATIENCE, what=what)

    def wait_active(self, port: str) -> None:
        wait_until(lambda: self.net.active("a") == port, what=f"{port} to be active")

    def wait_ports(self, *ports: str) -> None:
        wait_until(lambda: self.net.ports("a") == {*ports}, what=f"only {ports} to be ports")

    def wait_all_active(self) -> None:
        self.wait(lambda status: all(member(status, name)["active"] for name in self.net.cables), "all to be active")

    def answered(self) -> None:
        wait_until(lambda: self.net.ping("a", FAR, timeout=3), what="an answer by the bond")

    def options(self) -> dict[str, Any]:
        found: dict[str, Any] = self.net.links("a")["bond0"]["linkinfo"]["info_data"]
        return found


def far_bridge(net: Pair) -> None:
    net.bridge("b", f"{FAR}/24")


def far_bond(net: Pair, mode: str) -> None:
    """In place of whatever was there."""
    net.ip("b", *(f"link set {cable} nomaster" for cable in net.cables), *(f"link set {c} down" for c in net.cables))
    links = net.links("b")
    net.ip("b", *(f"link del {name}" for name in ("br0", "bond9") if name in links))
    if mode == "bridge":
        far_bridge(net)
        return
    rate = " lacp_rate fast" if mode == "802.3ad" else ""
    net.ip(
        "b",
        f"link add bond9 type bond mode {mode} miimon 100{rate}",
        *(f"link set {cable} master bond9" for cable in net.cables),
        "link set bond9 up",
        f"addr add {FAR}/24 dev bond9",
    )
