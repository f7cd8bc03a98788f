"""The plan of a provider: addresses and routes, the rules that count and translate, and the faults. Pure."""

from __future__ import annotations

from msgspec import Struct

from mlbd.lab.layout import ROUTER_LINK_LOCAL, Uplink


def namespace(uplink: Uplink) -> list[str]:
    n = uplink.number
    return [
        "link set lo up",
        *customer(uplink),
        "link set upstream up",
        f"address add 100.64.{n}.2/24 dev upstream",
        f"address add fd64:{n}::2/64 dev upstream nodad",
        f"route add default via 100.64.{n}.1",
        f"route add default via fd64:{n}::1",
    ]


def customer(uplink: Uplink) -> list[str]:
    """The provider's side of one uplink, on an interface that is new or was down."""
    return [
        *(["link set customer addrgenmode none"] if uplink.ra else []),
        "link set customer up",
        f"address replace {uplink.gateway}/{uplink.length} dev customer",
        *(f"address replace {address}/64 dev customer nodad" for address in uplink.provider6),
        delegation(uplink),
    ]


def delegation(uplink: Uplink) -> str:
    """The customer's own network, behind its router."""
    via = ROUTER_LINK_LOCAL if uplink.ra else uplink.address6
    return f"route replace {uplink.delegated} via {via} dev customer"


def change(old: Uplink, new: Uplink) -> list[str]:
    """From one plan of the same uplink to another, on an interface that is up."""
    added = [address for address in new.provider6 if address not in old.provider6]
    gone = [address for address in old.provider6 if address not in new.provider6]
    return [
        *([f"address add {new.gateway}/{new.length} dev customer"] if new.gateway != old.gateway else []),
        *(f"address add {address}/64 dev customer nodad" for address in added),
        *([f"route del {old.delegated} dev customer"] if new.delegated != old.delegated else []),
        delegation(new),
        *([f"address del {old.gateway}/{old.length} dev customer"] if new.gateway != old.gateway else []),
        *(f"address del {address}/64 dev customer" for address in gone),
    ]


def rules(uplink: Uplink) -> str:
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
    ip saddr {uplink.customers} counter name right4 goto fault_customer
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
    oifname "upstream" ip saddr {uplink.customers} snat to 100.64.{n}.2
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


class Faults(Struct, frozen=True):
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
