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
from dataclasses import dataclass

MOST_UPLINKS = 100
SERVERS4, SERVERS6 = "203.0.113.0/24", "2001:db8:f::/64"
_PUBLIC4 = ipaddress.ip_network("100.64.0.0/16")
_SITES6 = ipaddress.ip_network("2001:db8::/32")


@dataclass(frozen=True, slots=True)
class Uplink:
    """One way out as it is now. Numbers start at 1."""

    number: int
    interface: str
    subnet: int = 0
    """Which of the provider's customer networks; `Network.renumber` moves on to the next."""
    gateway_host: int = 1
    generation: int = 0
    """How often its interface was re-created; each time gets a new index, as in real life."""

    @property
    def address(self) -> str:
        """The router's."""
        return f"10.{self.number}.{self.subnet}.2"

    @property
    def gateway(self) -> str:
        return f"10.{self.number}.{self.subnet}.{self.gateway_host}"

    @property
    def address6(self) -> str:
        return _canonical(f"2001:db8:{self.number}:{self.subnet}::2")

    @property
    def gateway6(self) -> str:
        return _canonical(f"2001:db8:{self.number}:{self.subnet}::{self.gateway_host}")

    @property
    def metric(self) -> int:
        """Of its default routes in `main`."""
        return 100 + self.number

    def default_routes(self) -> list[str]:
        """Arguments of `ip route add` or `replace`, as a DHCP client and router advertisements would leave them."""
        return [
            f"default via {self.gateway} dev {self.interface} metric {self.metric} proto dhcp",
            f"default via {self.gateway6} dev {self.interface} metric {self.metric} proto ra",
        ]


def _canonical(address: str) -> str:
    return str(ipaddress.ip_address(address))


def server(number: int, family: int = 4) -> str:
    """The address of a server, 1 to 254."""
    return f"203.0.113.{number}" if family == 4 else _canonical(f"2001:db8:f::{number:x}")


def source(lan: int, number: int, family: int = 4) -> str:
    """One of the many addresses of a LAN's client, 1 to 126, for traffic that looks like that of many clients."""
    return f"192.168.{lan}.{128 + number}" if family == 4 else _canonical(f"fd00:10:{lan}:1::{number:x}")


def uplink_of(address: str) -> int | None:
    """The number of the uplink by which a server sees this peer address; None if it is none of the providers'."""
    found = ipaddress.ip_address(address)
    if found in _PUBLIC4:
        return found.packed[2]
    if found in _SITES6:
        digits = found.exploded.split(":")[2].lstrip("0")  # uplink 12 is 2001:db8:12::/48: decimal, for people
        return int(digits) if digits.isdigit() else None
    return None


def links(prefix: str, uplinks: list[Uplink], lans: int, *, prompt_carrier: bool) -> list[str]:
    """Commands for ip(8) that link the namespaces."""
    lines = []
    for k in range(1, lans + 1):
        lines.append(f"link add lan{k} netns {prefix}-router type veth peer name eth0 netns {prefix}-lan{k}")
    for uplink in uplinks:
        lines.append(wan_link(prefix, uplink, prompt_carrier=prompt_carrier))
        n = uplink.number
        lines.append(f"link add upstream netns {prefix}-isp{n} type veth peer name isp{n} netns {prefix}-internet")
    return lines


def wan_link(prefix: str, uplink: Uplink, *, prompt_carrier: bool) -> str:
    """The cable between the router and a provider.

    The kernel holds carrier messages back, up to a second, where a device's index equals that of its link (net/core/
    link_watch.c, linkwatch_urgent_event): as with any network card, but a veth only if its peer's index is the same.
    """
    here = 1000 * (1 + uplink.generation) + uplink.number
    there = here + 500 if prompt_carrier else here
    return (
        f"link add {uplink.interface} index {here} netns {prefix}-router type veth "
        f"peer name customer index {there} netns {prefix}-isp{uplink.number}"
    )


def router(uplinks: list[Uplink], lans: int, *, default_routes: bool) -> list[str]:
    lines = ["link set lo up"]
    for k in range(1, lans + 1):
        lines += [
            f"link set lan{k} up",
            f"address add 192.168.{k}.1/24 dev lan{k}",
            f"address add fd00:10:{k}::1/64 dev lan{k} nodad",
            f"route add fd00:10:{k}:1::/64 via fd00:10:{k}::2 dev lan{k}",
        ]
    for uplink in uplinks:
        lines += router_wan(uplink, default_routes=default_routes)
    return lines


def router_wan(uplink: Uplink, *, default_routes: bool) -> list[str]:
    """The router's side of one uplink, on an interface that is new."""
    return [
        f"link set {uplink.interface} up",
        f"address add {uplink.address}/24 dev {uplink.interface}",
        f"address add {uplink.address6}/64 dev {uplink.interface} nodad",
        *(f"route add {route}" for route in uplink.default_routes() if default_routes),
    ]


def client(lan: int) -> list[str]:
    return [
        "link set lo up",
        "link set eth0 up",
        f"address add 192.168.{lan}.2/24 dev eth0",
        f"address add fd00:10:{lan}::2/64 dev eth0 nodad",
        f"route add local 192.168.{lan}.128/25 dev lo",
        f"route add local fd00:10:{lan}:1::/64 dev lo",
        f"route add default via 192.168.{lan}.1",
        f"route add default via fd00:10:{lan}::1",
    ]


def provider(uplink: Uplink) -> list[str]:
    n = uplink.number
    return [
        "link set lo up",
        *provider_customer(uplink),
        "link set upstream up",
        f"address add 100.64.{n}.2/24 dev upstream",
        f"address add fd64:{n}::2/64 dev upstream nodad",
        f"route add default via 100.64.{n}.1",
        f"route add default via fd64:{n}::1",
    ]


def provider_customer(uplink: Uplink) -> list[str]:
    """The provider's side of one uplink, on an interface that is new or was down."""
    n = uplink.number
    return [
        "link set customer up",
        f"address replace {uplink.gateway}/24 dev customer",
        f"address replace {uplink.gateway6}/64 dev customer nodad",
        f"route replace 2001:db8:{n}:100::/56 via {uplink.address6} dev customer",
    ]


def internet(uplinks: list[Uplink]) -> list[str]:
    lines = ["link set lo up", f"route add local {SERVERS4} dev lo", f"route add local {SERVERS6} dev lo"]
    for n in (uplink.number for uplink in uplinks):
        lines += [
            f"link set isp{n} up",
            f"address add 100.64.{n}.1/24 dev isp{n}",
            f"address add fd64:{n}::1/64 dev isp{n} nodad",
            f"route add 10.{n}.0.0/16 via 100.64.{n}.2",
            f"route add 2001:db8:{n}::/48 via fd64:{n}::2",
        ]
    return lines


def provider_rules(uplink: Uplink) -> str:
    """Ruleset of a provider: count and drop what its customer may not send (BCP 38), translate, and fail on demand.

    A customer's packet is counted before a fault can drop it. The `fault_` chains are empty until `Faults` fills them.
    """
    n = uplink.number
    return f"""
table inet provider {{
  counter right4 {{ }}
  counter right6 {{ }}
  counter wrong4 {{ }}
  counter wrong6 {{ }}
  counter dropped {{ }}
  chain fault_customer {{ }}
  chain fault_forward {{ }}
  chain arrive {{
    type filter hook prerouting priority raw; policy accept;
    iifname != "customer" accept
    ip saddr 10.{n}.0.0/16 counter name right4 goto fault_customer
    ip6 saddr 2001:db8:{n}::/48 counter name right6 goto fault_customer
    ip6 saddr {{ fe80::/10, :: }} goto fault_customer
    meta nfproto ipv4 counter name wrong4 drop
    counter name wrong6 drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    goto fault_forward
  }}
  chain leave {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname "upstream" ip saddr 10.{n}.0.0/16 snat to 100.64.{n}.2
  }}
}}
table arp provider {{
  chain fault_arp {{ }}
  chain arrive {{
    type filter hook input priority 0; policy accept;
    goto fault_arp
  }}
}}
"""


_HOUSEKEEPING = "nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld-listener-report, mld2-listener-report"
"""What a link's own hosts say to each other about the link."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What is broken at one provider. Several at once are possible."""

    silent: bool = False
    """Nothing passes, in either direction; the gateway still answers."""
    gateway: bool = False
    """The gateway does not answer either, except for ARP and neighbour discovery."""
    neighbours: bool = False
    """Not even that."""
    icmp: bool = False
    """Echo requests get no answer; the rest works."""
    loss: float = 0.0
    """The ratio of the customer's packets that is lost at random."""

    def rules(self) -> str:
        """Commands for nft(8), one transaction, that make the faults of a provider exactly these."""
        drop = "counter name dropped drop"
        customer, forward = [], []
        if not self.neighbours:
            customer.append(f"icmpv6 type {{ {_HOUSEKEEPING} }} accept")
        if self.gateway:
            customer.append(drop)
        if self.silent:
            forward.append(drop)
        if self.icmp:
            customer += [f"icmp type echo-request {drop}", f"icmpv6 type echo-request {drop}"]
        if self.loss:
            customer.append(f"numgen random mod 10000 < {round(self.loss * 10000)} {drop}")
        return "\n".join(
            [
                "flush chain inet provider fault_customer",
                "flush chain inet provider fault_forward",
                "flush chain arp provider fault_arp",
                *(f"add rule inet provider fault_customer {rule}" for rule in customer),
                *(f"add rule inet provider fault_forward {rule}" for rule in forward),
                *(["add rule arp provider fault_arp drop"] if self.neighbours else []),
            ]
        )
