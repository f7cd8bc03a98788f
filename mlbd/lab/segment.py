"""Two uplinks on one Ethernet: the ports of the router and the gateways of both providers are in one switch.

router  wan1 ---+        +--- customer  isp1
                | switch |
        wan2 ---+        +--- customer  isp2
"""

from __future__ import annotations

from msgspec.structs import replace

from mlbd.lab import layout, provider
from mlbd.lab.layout import Uplink
from mlbd.lab.namespaces import ip_each, ip_here, set_sysctls
from mlbd.lab.network import Network


class Segment(Network):
    """A `Network` of two uplinks with their cables in one switch, which has a namespace of its own, `switch`."""

    def __init__(
        self, *, one_subnet: bool = False, macvlan: bool = False, one_port: bool = False, rp_filter: int = 2
    ) -> None:
        """`one_subnet`: both uplinks are in 10.1.0.0/24, with gateways .1 and .254 and addresses .2 and .3.

        `macvlan`: wan1 and wan2 are macvlan devices of one port of the router, `eth1`. `one_port`: both uplinks are
        behind `eth1` itself, without default routes; in one subnet, with one address, .2. Raises LabError.
        """
        super().__init__(2, rp_filter=rp_filter)
        self._macvlan, self._one_port = macvlan, one_port
        try:
            self._rewire(one_subnet)
        except BaseException:
            self.close()
            raise

    def _rewire(self, one_subnet: bool) -> None:
        first, second = self.uplinks
        if one_subnet:
            second = replace(second, given="10.1.0.2/24" if self._one_port else "10.1.0.3/24", gateway_host=254)
        if self._one_port:
            first, second = (replace(uplink, interface="eth1") for uplink in (first, second))
        self._uplinks.update({1: first, 2: second})
        router, switch = self.namespace("router"), self.namespace("switch")
        ip_each({router: ["link del wan1", "link del wan2"]})
        self._add(["switch"])
        with self.inside("switch"):
            set_sysctls({"ipv6/conf/all/disable_ipv6": 1, "ipv6/conf/default/disable_ipv6": 1})
        ports = [f"link add isp{n} netns {switch} type veth peer name customer netns {self._isp(n)}" for n in (1, 2)]
        cables = ["eth1"] if self._macvlan or self._one_port else ["wan1", "wan2"]
        ports += [f"link add {name} netns {switch} type veth peer name {name} netns {router}" for name in cables]
        ip_here(ports)
        names = ["isp1", "isp2", *cables]
        lines = ["link add name bridge type bridge mcast_snooping 0", "link set bridge up"]
        ip_each({switch: [*lines, *(f"link set {name} master bridge up" for name in names)]})
        if self._macvlan:
            macvlans = [f"link add {u.interface} link eth1 type macvlan mode bridge" for u in (first, second)]
            ip_each({router: ["link set eth1 up", *macvlans]})
        for uplink in (first, second):
            ip_each({self._isp(uplink.number): provider.customer(uplink)})
            self._strict(uplink)
            lines = layout.router_wan(uplink, default_routes=not self._one_port)
            if self._one_port and uplink is second:  # of one interface, only one can have IPv6
                lines = [f"address add {uplink.address}/{uplink.length} dev eth1"] if not one_subnet else []
            ip_each({router: lines})
        self._wait_for_ipv6(*([first] if self._one_port else [first, second]))

    def _isp(self, number: int) -> str:
        return self.namespace(f"isp{number}")

    def _strict(self, uplink: Uplink) -> None:
        """The provider accepts the one address that the uplink has; its neighbour's is a wrong one."""
        nft = self._nft[uplink.number]
        nft.run("delete table inet provider\ndelete table arp provider")
        nft.run(provider.rules(uplink))
        rules = [
            f"ip saddr != {uplink.address} counter name wrong4 drop",
            "ip6 daddr ff00::/8 ip6 saddr 2001:db8::/32 goto fault_customer",  # one's solicitation reaches both
        ]
        nft.run("".join(f'insert rule inet provider arrive iifname "customer" {rule}\n' for rule in rules))

    def unplug(self, i: int) -> None:
        """Pull the router's cable of that uplink out of the switch; with macvlan, the only one."""
        ip_each({self.namespace("switch"): [f"link set {self._port(i)} down"]})

    def plug(self, i: int) -> None:
        """Put it back."""
        ip_each({self.namespace("switch"): [f"link set {self._port(i)} up"]})

    def _port(self, i: int) -> str:
        return "eth1" if self._macvlan or self._one_port else self.uplink(i).interface
