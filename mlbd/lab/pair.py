"""Two routers, each with a line of its own, and two segments of clients; each router is the other's standby.

    lan1  192.168.1.10 ---+----------+--- seg1 .2 +---------+ wan  10.1.0.2 --- isp1 (NAT) ---+
                          | switch   |            | router1 |                                 |
    lan2  192.168.2.10 ---+ (one     |--- seg2 .2 +---------+                                 +--- internet
                          | bridge a |                                                        |
                          | segment) |--- seg1 .3 +---------+ wan  10.2.0.2 --- isp2 (NAT) ---+
                          |          |            | router2 |
                          +----------+--- seg2 .3 +---------+

The gateway of segment K is 192.168.K.1 (of IPv6 fd00:10:K::1), which is nobody's until the routers' keepalived gives it
to one of them: see `pair_programs`. Where is one of `router1`, `router2`, `switch`, `internet`, `lan1`, `lan2`, `isp1`
and `isp2`; segments, routers and lines are given by number.
"""

from __future__ import annotations

import errno
import socket

from mlbd.lab import layout, provider
from mlbd.lab.layout import Lan, Uplink
from mlbd.lab.lines import EVERYWHERE, FIVE_TUPLE, FORWARDS, Lines
from mlbd.lab.namespaces import ip_each, ip_here, path_of, set_down, set_sysctls
from mlbd.lab.network import wait_until

BOTH = (1, 2)


class Pair(Lines):
    """Line N is router N's, on its interface `wan`; segment K is on the interface `segK` of both."""

    def __init__(self) -> None:
        """Build it. Raises LabError."""
        super().__init__(Uplink(n, "wan") for n in BOTH)
        self._lans = [Lan(k, host=10) for k in BOTH]
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        self._add(["switch", "internet", *(f"{what}{n}" for what in ("router", "lan", "isp") for n in BOTH)])
        for where in self.places:
            with self.inside(where):
                set_sysctls(EVERYWHERE)
                if where.startswith("isp"):
                    set_sysctls(FORWARDS)
                elif where == "switch":
                    set_sysctls({"ipv6/conf/all/disable_ipv6": 1, "ipv6/conf/default/disable_ipv6": 1})
        switch = self.namespace("switch")
        ip_each({switch: [f"link add segment{k} type bridge mcast_snooping 0" for k in BOTH]})
        ip_each({switch: [f"link set segment{k} up" for k in BOTH]})
        ip_here([line for n in BOTH for line in self._client_cables(n)])
        self._start_providers()
        ip_each(
            {self.namespace("internet"): layout.internet(self.uplinks)}
            | {self.namespace(f"lan{lan.number}"): layout.client(lan) for lan in self._lans}
            | {switch: [f"link set lan{k} master segment{k} up" for k in BOTH]}
        )
        for n in BOTH:
            self._build_router(n)
            ip_each({self.namespace(f"isp{n}"): provider.namespace(self.uplink(n))})
        self.serve("internet")

    def _client_cables(self, n: int) -> list[str]:
        switch, internet = self.namespace("switch"), self.namespace("internet")
        return [
            f"link add lan{n} netns {switch} type veth peer name eth0 netns {self.namespace(f'lan{n}')}",
            f"link add upstream netns {self.namespace(f'isp{n}')} type veth peer name isp{n} netns {internet}",
        ]

    def _build_router(self, n: int) -> None:
        """Its place is there, and empty."""
        where, switch = self.namespace(f"router{n}"), self.namespace("switch")
        with self.inside(f"router{n}"):
            set_sysctls(EVERYWHERE | FORWARDS | FIVE_TUPLE)
            set_sysctls({f"ipv4/conf/{name}/rp_filter": 2 for name in ("all", "default")})
        ip_here(
            [
                layout.wan_link(self._prefix, self.uplink(n), prompt_carrier=True, router=f"router{n}"),
                *(
                    # The same one after a power cut, as of a card.
                    f"link add seg{k} address 02:00:00:00:{n:02}:{k:02} netns {where} type veth "
                    f"peer name {_port(n, k)} netns {switch}"
                    for k in BOTH
                ),
            ]
        )
        ip_each({switch: [f"link set {_port(n, k)} master segment{k} up" for k in BOTH]})
        lines = ["link set lo up"]
        for k in BOTH:
            lines += [
                f"link set seg{k} up",
                f"address add {self.own_address(n, k)}/24 dev seg{k}",
                f"address add fd00:10:{k}::{1 + n}:1/64 dev seg{k} nodad",
                f"route add fd00:10:{k}:1::/64 via fd00:10:{k}::2 dev seg{k}",
            ]
        ip_each({where: lines + layout.router_wan(self.uplink(n), default_routes=True)})

    # What there is

    def lan(self, k: int) -> Lan:
        """The clients of segment k; its `router` is the virtual gateway."""
        return self._lans[k - 1]

    def own_address(self, n: int, k: int) -> str:
        """Of router n in segment k, whoever is the gateway."""
        return f"192.168.{k}.{1 + n}"

    def holders(self, k: int) -> list[int]:
        """The routers that have the gateway's address of segment k now."""
        there = [n for n in BOTH if path_of(self.namespace(f"router{n}")).exists()]
        return [n for n in there if self._has(f"router{n}", self.lan(k).router)]

    def _has(self, where: str, address: str) -> bool:
        with self.inside(where), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            try:
                s.bind((address, 0))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
                return False
        return True

    # Faults; each is in force when the call returns

    def plug(self, i: int) -> None:
        """End `unplug`: put the cable of line i back."""
        ip_each({self.namespace(f"isp{i}"): provider.customer(self.uplink(i))})

    def pull(self, n: int, k: int) -> None:
        """Pull router n's cable out of the switch of segment k: both ends lose their carrier."""
        with self.inside("switch"):
            set_down(_port(n, k))

    def push(self, n: int, k: int) -> None:
        """Put it back."""
        ip_each({self.namespace("switch"): [f"link set {_port(n, k)} up"]})

    def mute(self, n: int) -> None:
        """Nothing leaves or reaches router n any more, its links stay up, as when its kernel hangs."""
        ip_each({self.namespace("switch"): [f"link set {_port(n, k)} nomaster" for k in BOTH]})
        self.silence(n, neighbours=True)

    def unmute(self, n: int) -> None:
        """End `mute`."""
        ip_each({self.namespace("switch"): [f"link set {_port(n, k)} master segment{k}" for k in BOTH]})
        self.speak(n)

    def power_off(self, n: int) -> None:
        """Router n goes with everything that its kernel knew; its programs must be dead when they are told nothing.

        To be called by `Programs.power_off`, which kills them first.
        """
        self.cut(n)
        ip_here([f"netns del {self.namespace(f'router{n}')}"])
        with self.inside("switch"):
            gone = {_port(n, k) for k in BOTH}
            wait_until(lambda: not gone & {name for _, name in socket.if_nameindex()}, what="that its cables are gone")
        with self.inside(f"isp{n}"):
            wait_until(lambda: "customer" not in {name for _, name in socket.if_nameindex()}, what="that its line is")

    def cut(self, n: int) -> None:
        """Its cables lose their carrier, all at once."""
        for k in BOTH:
            self.pull(n, k)
        self.unplug(n)

    def power_on(self, n: int) -> None:
        """Router n is there again, with its addresses, and nothing else."""
        ip_here([f"netns add {self.namespace(f'router{n}')}"])
        self._build_router(n)
        self.plug(n)


def _port(n: int, k: int) -> str:
    """Of the switch."""
    return f"router{n}-seg{k}"
