"""Other programs on the router, as far as the kernel notices: their rules, routes, tables and marks, typed in.

Tunnel devices are veth pairs (`Network.attach`), for neither WireGuard nor tun is needed to show where packets go.
"""

from __future__ import annotations

import re

from mlbd.lab.network import Network

TAILNET = {4: "100.101.0.7", 6: "fd7a:115c:a1e0:1::7"}
"""An address of another tailnet host; the lab's providers use 100.64.0.0/16 of tailscale's range."""
TAILSCALE_MARK = 0x80000
WG_MARK = 51820

_TAILSCALE_RULES = """
rule add pref 5210 fwmark 0x80000/0xff0000 lookup main
rule add pref 5230 fwmark 0x80000/0xff0000 lookup default
rule add pref 5250 fwmark 0x80000/0xff0000 type unreachable
rule add pref 5270 lookup 52
"""
_TAILSCALE_ROUTES = {
    4: "route add 100.101.0.0/16 via 100.100.0.2 dev tailscale0 table 52\n"
    "route add 100.100.100.100 dev tailscale0 table 52",
    6: "route add fd7a:115c:a1e0:1::/64 via fd7a:115c:a1e0::2 dev tailscale0 table 52",
}
_TAILSCALE_NFT = """
table ip tailscale {
  chain input {
    type filter hook input priority filter; policy accept;
    iifname != "tailscale0" ip saddr 100.100.0.0/15 drop
  }
  chain forward {
    type filter hook forward priority filter; policy accept;
    iifname "tailscale0" meta mark set meta mark & 0xff00ffff | 0x00040000
    meta mark & 0x00ff0000 == 0x00040000 accept
    oifname "tailscale0" ip saddr 100.100.0.0/15 drop
  }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    meta mark & 0x00ff0000 == 0x00040000 masquerade
  }
  chain restore {
    type filter hook prerouting priority mangle; policy accept;
    ct mark & 0x00ff0000 == 0x00080000 meta mark set meta mark & 0xff00ffff | 0x00080000
  }
  chain save {
    type route hook output priority mangle; policy accept;
    ct state new meta mark & 0x00ff0000 == 0x00080000 ct mark set ct mark & 0xff00ffff | 0x00080000
  }
}
"""
"""Newer versions have the last two, which keep their own bits of a connection's mark."""


def tailscale(net: Network) -> None:
    """tailscaled: its device, rules 5210 to 5270, table 52 with other hosts and without an exit node."""
    net.attach("tailscale0", "100.100.0.1/30", "fd7a:115c:a1e0::1/126")
    net.run("tailscale0", ["ip", "route", "add", "local", "100.101.0.0/16", "dev", "lo"])
    net.run("tailscale0", ["ip", "route", "add", "local", "fd7a:115c:a1e0:1::/64", "dev", "lo"])
    for family, routes in _TAILSCALE_ROUTES.items():
        net.run("router", ["ip", f"-{family}", "-batch", "-"], text=_TAILSCALE_RULES + routes)
    net.run("router", ["nft", "-f", "-"], text=_TAILSCALE_NFT)


_WG_RULES = """
rule add not fwmark 51820 table 51820
rule add table main suppress_prefixlength 0
route add default dev wg0 table 51820
"""
_WG_NFT = """
table {table} wg-quick-wg0 {{
  chain preraw {{
    type filter hook prerouting priority raw; policy accept;
    iifname != "wg0" {table} daddr {address} fib saddr type != local drop
  }}
  chain premangle {{
    type filter hook prerouting priority mangle; policy accept;
    meta l4proto udp meta mark set ct mark
  }}
  chain postmangle {{
    type filter hook postrouting priority mangle; policy accept;
    meta l4proto udp meta mark 51820 ct mark set meta mark
  }}
}}
"""
_WG_ADDRESSES = {4: "10.8.0.1", 6: "fd08::1"}


def wg_device(net: Network) -> None:
    """wg0, whose far end answers for the whole internet."""
    net.attach("wg0", "10.8.0.1/24", "fd08::1/64", internet=True)


def wg_quick(net: Network) -> None:
    """`wg-quick up wg0` with AllowedIPs = 0.0.0.0/0, ::/0, on a device that is there."""
    for family, address in _WG_ADDRESSES.items():
        net.run("router", ["ip", f"-{family}", "-batch", "-"], text=_WG_RULES)
        net.run(
            "router", ["nft", "-f", "-"], text=_WG_NFT.format(table="ip" if family == 4 else "ip6", address=address)
        )
    net.sysctls("router", {"ipv4/conf/all/src_valid_mark": 1})


_WG_DOWN = """
for family in -4 -6; do
  while ip $family rule show | grep -q "lookup 51820"; do
    ip $family rule delete table 51820
  done
  while ip $family rule show | grep -q "from all lookup main suppress_prefixlength 0"; do
    ip $family rule delete table main suppress_prefixlength 0
  done
  ip $family route flush table 51820
done
nft delete table ip wg-quick-wg0
nft delete table ip6 wg-quick-wg0
"""


def wg_quick_down(net: Network) -> None:
    """`wg-quick down wg0`, but for the device. It deletes whatever rule looks like its own second one, so ours too."""
    net.run("router", ["sh", "-ec", _WG_DOWN])


_DOCKER = """
table ip nat {
  chain DOCKER {
    iifname "docker0" return
    iifname != "docker0" tcp dport 8080 dnat to 172.17.0.2:7
  }
  chain PREROUTING {
    type nat hook prerouting priority dstnat; policy accept;
    fib daddr type local jump DOCKER
  }
  chain OUTPUT {
    type nat hook output priority -100; policy accept;
    ip daddr != 127.0.0.0/8 fib daddr type local jump DOCKER
  }
  chain POSTROUTING {
    type nat hook postrouting priority srcnat; policy accept;
    oifname != "docker0" ip saddr 172.17.0.0/16 masquerade
  }
}
table ip filter {
  chain DOCKER {
    iifname != "docker0" oifname "docker0" ip daddr 172.17.0.2 tcp dport 7 accept
    iifname != "docker0" oifname "docker0" drop
  }
  chain DOCKER-USER {
    iifname { "lan1", "virbr0", "tailscale0", "wg0" } accept
    ct state { established, related } accept
  }
  chain FORWARD {
    type filter hook forward priority filter; policy drop;
    jump DOCKER-USER
    oifname "docker0" ct state { established, related } accept
    oifname "docker0" jump DOCKER
    iifname "docker0" accept
  }
}
table ip6 nat {
  chain POSTROUTING {
    type nat hook postrouting priority srcnat; policy accept;
    oifname != "docker0" ip6 saddr fd17::/64 masquerade
  }
}
"""


def docker(net: Network) -> None:
    """dockerd with one container, whose port 7 is published as 8080, and what an administrator adds for the rest."""
    net.attach("docker0", "172.17.0.1/16", "fd17::1/64")
    net.run("router", ["nft", "-f", "-"], text=_DOCKER)


_LIBVIRT = """
table {table} libvirt_network {{
  chain forward {{
    type filter hook forward priority filter; policy accept;
    counter jump guest_cross
    counter jump guest_input
    counter jump guest_output
  }}
  chain guest_output {{
    iifname "virbr0" {table} saddr {network} counter accept
    iifname "virbr0" counter reject
  }}
  chain guest_input {{
    oifname "virbr0" {table} daddr {network} ct state {{ established, related }} counter accept
    oifname "virbr0" counter reject
  }}
  chain guest_cross {{
    iifname "virbr0" oifname "virbr0" counter accept
  }}
  chain guest_nat {{
    type nat hook postrouting priority srcnat; policy accept;
    {table} saddr {network} {table} daddr {multicast} counter return
    meta l4proto {{ tcp, udp }} {table} saddr {network} {table} daddr != {network} counter masquerade to :1024-65535
    {table} saddr {network} {table} daddr != {network} counter masquerade
  }}
}}
"""


def libvirt(net: Network) -> None:
    """libvirt's default network, with one guest."""
    net.attach("virbr0", "192.168.122.1/24", "fd18::1/64")
    for values in (
        {"table": "ip", "network": "192.168.122.0/24", "multicast": "224.0.0.0/24"},
        {"table": "ip6", "network": "fd18::/64", "multicast": "ff02::/16"},
    ):
        net.run("router", ["nft", "-f", "-"], text=_LIBVIRT.format_map(values))


_OFFICE = """
table inet office {
  counter kept { }
  counter lost { }
  chain give_marks {
    type filter hook prerouting priority -175; policy accept;
    iifname "lan1" meta mark set 0x00fffffe
    iifname "lan1" ct mark set ct mark & 0xff000000 | 0x00345678
  }
  chain look_at_marks {
    type filter hook postrouting priority 300; policy accept;
    oifname "lan1" accept  # neighbour discovery
    iifname "lan1" meta mark & 0x00ffffff == 0x00fffffe ct mark & 0x00ffffff == 0x00345678 counter name kept
    iifname "lan1" meta mark & 0x00ffffff != 0x00fffffe counter name lost
    iifname "lan1" ct mark & 0x00ffffff != 0x00345678 counter name lost
  }
  chain translate {
    type nat hook postrouting priority srcnat; policy accept;
    oifname "wan*" masquerade
  }
}
"""


def administrator(net: Network) -> None:
    """Somebody's own table: masquerades what leaves, uses the 24 bits of the marks that are not ours, and counts."""
    net.run("router", ["nft", "-f", "-"], text=_OFFICE)


def counted(net: Network) -> dict[str, int]:
    """Packets of lan1 that left with the administrator's marks as they came, and others."""
    listed = net.run("router", ["nft", "list", "counters", "table", "inet", "office"])
    found = re.findall(r"counter (\w+) \{\s+packets (\d+)", listed)
    return {name: int(packets) for name, packets in found}


def foreign(net: Network) -> str:
    """All rules, routes, tables and chains that are not ours."""
    parts = []
    for family in (4, 6):
        for what in (["rule"], ["route", "show", "table", "all"]):
            parts += net.run("router", ["ip", f"-{family}", *what]).splitlines()
    lines = [line for line in parts if "proto 109" not in line and "\tnexthop" not in line]
    listed = re.sub(r"packets \d+ bytes \d+", "", net.run("router", ["nft", "-a", "list", "ruleset"]))
    tables = [
        table for table in re.split(r"^(?=table )", listed, flags=re.M) if not table.startswith("table inet mlbd ")
    ]
    return "\n".join(lines + tables)
