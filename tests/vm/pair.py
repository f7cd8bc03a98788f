"""Two routers with cables between them, as bonds and TEQL have them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mlbd.lab import network
from mlbd.lab.daemon import Daemon
from mlbd.lab.namespaces import ip_each, ip_here
from mlbd.lab.places import Places
from mlbd.lab.stream import Summary, UdpStream

CABLES = ("eth1", "eth2")
PATIENCE = 40.0
"""Seconds that something may take that takes a tenth of it elsewhere."""


def wait_until(holds: Callable[[], bool], *, what: str) -> None:
    """Ask at a pace that leaves an emulated processor to those who are asked. Raises LabError."""
    network.wait_until(holds, timeout=PATIENCE, what=what, every=0.2)


class Pair(Places):
    """The places `a` and `b`; eth1 of the one is connected with eth1 of the other, and so on."""

    def __init__(self, cables: Sequence[str] = CABLES) -> None:
        """Without addresses, and everything but lo down. Raises LabError."""
        super().__init__()
        self.cables = cables
        try:
            self._add(["a", "b"])
            for where in self.places:
                self.sysctls(where, {"ipv6/conf/default/disable_ipv6": 1})
            self.ip("a", *(self._laid(cable) for cable in cables))
            self._to_be_silenced(*cables)
            for where in self.places:
                self.ip(where, "link set lo up")
        except BaseException:
            self.close()
            raise

    def replace(self, cable: str) -> None:
        """By a new one: both its interfaces are gone, and made again."""
        self.ip("a", f"link del {cable}", self._laid(cable))
        self._to_be_silenced(cable)

    def _laid(self, cable: str) -> str:
        return f"link add {cable} type veth peer name {cable} netns {self.namespace('b')}"

    def _to_be_silenced(self, *cables: str) -> None:
        hook = "{{ type filter hook ingress device {} priority 0 ; }}"
        chains = "".join(f"add chain netdev silence {cable} {hook.format(cable)}\n" for cable in cables)
        for where in self.places:
            self.run(where, ["nft", "-f", "-"], text=f"add table netdev silence\n{chains}")

    def ip(self, where: str, *lines: str) -> None:
        """Commands as ip(8) takes them. Raises LabError."""
        ip_each({self.namespace(where): lines})

    def bridge(self, where: str, *addresses: str) -> None:
        """All cables of the place in the bridge br0, a switch with these addresses and a MAC that stays."""
        joined = [f"link set {cable} master br0 up" for cable in self.cables]
        owned = [f"addr add {address} dev br0" for address in addresses]
        self.ip(where, "link add br0 address 02:00:00:00:00:b0 type bridge", *joined, "link set br0 up", *owned)

    def silence(self, cable: str) -> None:
        """Nothing that comes in by the cable is heard, at both ends; its carrier stays."""
        for where in self.places:
            self.run(where, ["nft", f"add rule netdev silence {cable} drop"])

    def speak(self, cable: str) -> None:
        for where in self.places:
            self.run(where, ["nft", f"flush chain netdev silence {cable}"])

    def links(self, where: str) -> dict[str, dict[str, Any]]:
        """By name, as `ip -d -s -j link` shows them."""
        return {link["ifname"]: link for link in json.loads(self.run(where, ["ip", "-d", "-s", "-j", "link"]))}

    def active(self, where: str, bond: str = "bond0") -> str:
        """The port in use of a bond in active-backup; "" for none."""
        return str(self.links(where)[bond]["linkinfo"]["info_data"].get("active_slave", ""))

    def ports(self, where: str, bond: str = "bond0") -> set[str]:
        return {name for name, link in self.links(where).items() if link.get("master") == bond}

    def sent(self, where: str, *names: str) -> list[int]:
        """Packets that have left by these interfaces."""
        links = self.links(where)
        return [links[name]["stats64"]["tx"]["packets"] for name in names]

    def received(self, where: str, *names: str) -> list[int]:
        links = self.links(where)
        return [links[name]["stats64"]["rx"]["packets"] for name in names]

    @contextmanager
    def daemon(self, where: str, config: str, *, wait: bool = True) -> Iterator[Daemon]:
        """mlbd there, with this configuration."""
        daemon = Daemon(self, config, where=where, slow=True)
        try:
            yield daemon.start(timeout=PATIENCE, wait=wait)
        finally:
            daemon.kill()

    def teql(self, where: str) -> str:
        """Give it a TEQL device that the module has made: teql0 to a, teql1 to b. It goes back with the pair.

        A device that is being deleted while packets go out by it makes this kernel panic, so it is emptied first.
        """
        name = f"teql{self.places.index(where)}"
        ip_here([f"link set {name} netns {self.namespace(where)}"])
        self._stack.callback(self._give_back, where, name)
        return name

    def _detach(self) -> None:
        for where in self.places:
            for cable, qdisc in self.qdiscs(where).items():
                if qdisc.startswith("teql"):
                    self.run(where, ["tc", "qdisc", "del", "dev", cable, "root"])

    def _give_back(self, where: str, name: str) -> None:
        self._detach()
        alias = f'link set {name} alias ""'
        self.ip(where, f"addr flush dev {name}", f"link set {name} down", alias, f"link set {name} netns 1")

    def qdiscs(self, where: str) -> dict[str, str]:
        """The kind of the root queueing discipline of each interface that has one."""
        listed = json.loads(self.run(where, ["tc", "-j", "qdisc"]))
        return {qdisc["dev"]: qdisc["kind"] for qdisc in listed if qdisc.get("root")}

    def stream(self, where: str, address: str, rate: float = 200.0) -> UdpStream:
        """Numbered datagrams to an address of the other router, which answers them."""
        other = "b" if where == "a" else "a"
        if other not in self._answering:
            self.serve(other)
        stream = UdpStream(self, where, rate=rate, server=address, limit=120.0)
        stream.wait_started(PATIENCE)
        return stream


def member(status: dict[str, Any], interface: str) -> dict[str, Any]:
    """Of the only bundle, or of the one that has it."""
    found: dict[str, Any] = next(
        m for bundle in status["bundles"] for m in bundle["members"] if m["interface"] == interface
    )
    return found


def wait_usable(daemon: Daemon, interface: str, usable: bool = True) -> None:
    what = f"{interface} to be {'usable' if usable else 'out'}"
    daemon.wait_for(lambda status: member(status, interface)["usable"] is usable, timeout=PATIENCE, what=what)


def lost_between(summary: Summary, begin: float, end: float) -> int:
    """Packets sent in that time that nobody answered."""
    return sum(p.answered is None for p in summary.packets if begin <= p.sent < end)


__all__ = ["CABLES", "PATIENCE", "Pair", "lost_between", "member", "wait_until", "wait_usable"]
