"""What every reference needs besides its routes: source translation, as a firewall would have it.

Connections that never came about are forgotten after a second, not after two minutes: their ports would be met again in
the next repetition, which in the world outside is rare.
"""

from __future__ import annotations

from mlbd.lab.network import Network


def masquerade(net: Network) -> None:
    names = ", ".join(f'"{uplink.interface}"' for uplink in net.uplinks)
    rules = f"""
table inet reference {{
  chain leave {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname {{ {names} }} masquerade
  }}
}}
"""
    net.run("router", ["nft", "-f", "-"], text=rules)
    net.sysctls("router", {"netfilter/nf_conntrack_tcp_timeout_syn_sent": 1})
