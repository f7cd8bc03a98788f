"""The plan of a lab network: names, addresses, and what is typed into each namespace. Pure; `network` carries it out.

    lan1  192.168.1.2 ---- lan1 +--------+ wan1  10.1.0.2 ---- isp1 (NAT)  100.64.1.2 ---+----------+
                                | router |                                               | internet |
    lan2  192.168.2.2 ---- lan2 +--------+ wan2  10.2.0.2 ---- isp2 (NAT)  100.64.2.2 ---+----------+

A provider N translates IPv4 to 100.64.N.2, as a real one does, and routes 2001:db8:N::/48 to its customer untranslated.
So the address that a server sees tells which uplink a packet took, and one that only this uplink's customer may use
tells whether it was right. Every address of 203.0.113.0/24 and 2001:db8:f::/64 is a server.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Sequence

from msgspec import Struct

MOST_UPLINKS = 100
SERVERS4, SERVERS6 = "203.0.113.0/24", "2001:db8:f::/64"
ROUTER_LINK_LOCAL = "fe80::2"
"""The router's on each uplink where addresses are advertised."""
_PUBLIC4 = ipaddress.ip_network("100.64.0.0/16")
_SITES6 = ipaddress.ip_network("2001:db8::/32")


class Uplink(Struct, frozen=True):
    """One way out as it is now. Numbers start at 1."""

    number: int
    interface: str
    subnet: int = 0
    """Which of the provider's customer networks; `Network.renumber` moves on to the next."""
    gateway_host: int = 1
    generation: int = 0
    """How often its interface was re-created; each time gets a new index, as in real life."""
    given: str = ""
    """The router's IPv4 address and prefix length, where it is to be another than 10.N.SUBNET.2/24."""
    ra: bool = False
    """IPv6 by router advertisements: the gateway is a link-local address, the same on every uplink."""
    subnet6: int = 0
    delegation: str = ""
    """The IPv6 prefix routed to the router, where it is to be another than 2001:db8:N:100::/56."""

    @property
    def _interface4(self) -> ipaddress.IPv4Interface:
        return ipaddress.IPv4Interface(self.given or f"10.{self.number}.{self.subnet}.2/24")

    @property
    def address(self) -> str:
        """The router's."""
        return str(self._interface4.ip)

    @property
    def length(self) -> int:
        """Of the IPv4 network on the link."""
        return self._interface4.network.prefixlen

    @property
    def gateway(self) -> str:
        return str(self._interface4.network[self.gateway_host])

    @property
    def customers(self) -> str:
        """The IPv4 sources that the provider accepts."""
        return str(self._interface4.network) if self.given else f"10.{self.number}.0.0/16"

    @property
    def address6(self) -> str:
        return _canonical(f"2001:db8:{self.number}:{self.subnet6}::2")

    @property
    def gateway6(self) -> str:
        return self.provider6[-1]

    @property
    def provider6(self) -> list[str]:
        """The provider's IPv6 addresses on the link. One that advertises keeps those of the networks before."""
        subnets = range(self.subnet6 + 1) if self.ra else [self.subnet6]
        found = [_canonical(f"2001:db8:{self.number}:{subnet}::{self.gateway_host}") for subnet in subnets]
        return [*found, f"fe80::{self.gateway_host}"] if self.ra else found

    @property
    def prefixes6(self) -> list[str]:
        """The IPv6 networks that the link has had so far."""
        return [_canonical(f"2001:db8:{self.number}:{subnet}::") + "/64" for subnet in range(self.subnet6 + 1)]

    @property
    def delegated(self) -> str:
        """The prefix that the provider routes to the router."""
        return self.delegation or f"2001:db8:{self.number}:100::/56"

    @property
    def metric(self) -> int:
        """Of its default routes in `main`."""
        return 100 + self.number

    def default_routes(self) -> list[str]:
        """Arguments of `ip route add` or `replace`, as a DHCP client and router advertisements would leave them."""
        static6 = f"default via {self.gateway6} dev {self.interface} metric {self.metric} proto ra"
        return [
            f"default via {self.gateway} dev {self.interface} metric {self.metric} proto dhcp",
            *([] if self.ra else [static6]),
        ]


class Lan(Struct, frozen=True):
    """One network of clients. Numbers start at 1."""

    number: int
    given: str = ""
    """Its IPv4 network, where it is to be another than 192.168.K.0/24."""
    host: int = 2
    """Of the client in its IPv4 network."""

    @property
    def _network(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network(self.given or f"192.168.{self.number}.0/24")

    @property
    def subnet(self) -> str:
        return str(self._network)

    @property
    def router(self) -> str:
        return str(self._network[1])

    @property
    def client(self) -> str:
        return str(self._network[self.host])

    @property
    def many(self) -> str:
        """The upper half, which is the client's too."""
        return str([*self._network.subnets()][1])

    @property
    def length(self) -> int:
        return self._network.prefixlen

    def source(self, number: int, family: int = 4) -> str:
        """One of the client's many addresses, 1 to 126, for traffic that looks like that of many clients."""
        if family == 4:
            return str(ipaddress.IPv4Network(self.many)[number])
        return _canonical(f"fd00:10:{self.number}:1::{number:x}")

    def delegated(self, prefix: str) -> ipaddress.IPv6Network:
        """The /64 of a delegated prefix that is this LAN's."""
        return next(itertools.islice(ipaddress.IPv6Network(prefix).subnets(new_prefix=64), self.number, None))


def _canonical(address: str) -> str:
    return str(ipaddress.ip_address(address))


def server(number: int, family: int = 4) -> str:
    """The address of a server, 1 to 254."""
    return f"203.0.113.{number}" if family == 4 else _canonical(f"2001:db8:f::{number:x}")


def source(lan: int, number: int, family: int = 4) -> str:
    """`Lan.source` of a LAN that has its usual network."""
    return Lan(lan).source(number, family)


def uplink_of(address: str) -> int | None:
    """The number of the uplink by which a server sees this peer address; None if it is none of the providers'."""
    found = ipaddress.ip_address(address)
    if found in _PUBLIC4:
        return found.packed[2]
    if found in _SITES6:
        digits = found.exploded.split(":")[2].lstrip("0")  # uplink 12 is 2001:db8:12::/48: decimal, for people
        return int(digits) if digits.isdigit() else None
    return None


def links(prefix: str, uplinks: list[Uplink], lans: list[Lan], *, prompt_carrier: bool) -> list[str]:
    """Commands for ip(8) that link the namespaces."""
    lines = []
    for k in (lan.number for lan in lans):
        lines.append(f"link add lan{k} netns {prefix}-router type veth peer name eth0 netns {prefix}-lan{k}")
    for uplink in uplinks:
        lines.append(wan_link(prefix, uplink, prompt_carrier=prompt_carrier))
        n = uplink.number
        lines.append(f"link add upstream netns {prefix}-isp{n} type veth peer name isp{n} netns {prefix}-internet")
    return lines


def wan_link(prefix: str, uplink: Uplink, *, prompt_carrier: bool, router: str = "router") -> str:
    """The cable between the router and a provider.

    The kernel holds carrier messages back, up to a second, where a device's index equals that of its link (net/core/
    link_watch.c, linkwatch_urgent_event): as with any network card, but a veth only if its peer's index is the same.
    """
    here = 1000 * (1 + uplink.generation) + uplink.number
    there = here + 500 if prompt_carrier else here
    return (
        f"link add {uplink.interface} index {here} netns {prefix}-{router} type veth "
        f"peer name customer index {there} netns {prefix}-isp{uplink.number}"
    )


def router(uplinks: list[Uplink], lans: list[Lan], *, default_routes: bool) -> list[str]:
    lines = ["link set lo up"]
    for lan in lans:
        k = lan.number
        lines += [
            f"link set lan{k} up",
            f"address add {lan.router}/{lan.length} dev lan{k}",
            f"address add fd00:10:{k}::1/64 dev lan{k} nodad",
            f"route add fd00:10:{k}:1::/64 via fd00:10:{k}::2 dev lan{k}",
        ]
    for uplink in uplinks:
        lines += router_wan(uplink, default_routes=default_routes)
    return lines


def router_wan(uplink: Uplink, *, default_routes: bool) -> list[str]:
    """The router's side of one uplink, on an interface that is new.

    Where addresses are advertised, tokens (ip-token(8)) make them those that the router has elsewhere.
    """
    name = uplink.interface
    if uplink.ra:
        before = [f"link set {name} addrgenmode none", f"token set ::2 dev {name}"]
        address6 = ROUTER_LINK_LOCAL
    else:
        before, address6 = [], uplink.address6
    return [
        *before,
        f"link set {name} up",
        f"address add {uplink.address}/{uplink.length} dev {name}",
        f"address add {address6}/64 dev {name} nodad",
        *(f"route add {route}" for route in uplink.default_routes() if default_routes),
    ]


def router_change(old: Uplink, new: Uplink, *, default_routes: bool) -> list[str]:
    """From one plan of the same uplink to another; what is advertised changes by itself."""
    lines = []
    moved, moved6 = new.address != old.address, new.address6 != old.address6 and not new.ra
    if moved:
        lines.append(f"address add {new.address}/{new.length} dev {new.interface}")
    if moved6:
        lines.append(f"address add {new.address6}/64 dev {new.interface} nodad")
    if default_routes:
        lines += [f"route replace {route}" for route in new.default_routes()]
    if moved:
        lines.append(f"address del {old.address}/{old.length} dev {old.interface}")
    if moved6:
        lines.append(f"address del {old.address6}/64 dev {old.interface}")
    return lines


def client(lan: Lan) -> list[str]:
    k = lan.number
    return [
        "link set lo up",
        "link set eth0 up",
        f"address add {lan.client}/{lan.length} dev eth0",
        f"address add fd00:10:{k}::2/64 dev eth0 nodad",
        f"route add local {lan.many} dev lo",
        f"route add local fd00:10:{k}:1::/64 dev lo",
        f"route add default via {lan.router}",
        f"route add default via fd00:10:{k}::1",
    ]


def attached(name: str, addresses: Sequence[str], *, internet: bool) -> tuple[list[str], list[str]]:
    """The router's side of a link to a peer, and the peer's. The router's addresses have a prefix length."""
    found = [ipaddress.ip_interface(address) for address in addresses]
    router = [f"link set {name} up", *(f"address add {i.with_prefixlen} dev {name}" for i in found)]
    peer = ["link set lo up", "link set eth0 up"]
    peer += [f"address add {i.ip + 1}/{i.network.prefixlen} dev eth0" for i in found]
    peer += [f"route add default via {i.ip} dev eth0" for i in found]
    if internet:
        peer += [f"route add local {servers} dev lo" for servers in (SERVERS4, SERVERS6)]
    return router, peer


def internet(uplinks: list[Uplink]) -> list[str]:
    lines = ["link set lo up", f"route add local {SERVERS4} dev lo", f"route add local {SERVERS6} dev lo"]
    for uplink in uplinks:
        n = uplink.number
        lines += [
            f"link set isp{n} up",
            f"address add 100.64.{n}.1/24 dev isp{n}",
            f"address add fd64:{n}::1/64 dev isp{n} nodad",
            f"route add {uplink.customers} via 100.64.{n}.2",
            f"route add 2001:db8:{n}::/48 via fd64:{n}::2",
        ]
    return lines
