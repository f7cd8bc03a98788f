"""Clients in the internet that ask servers on the router and behind it."""

from __future__ import annotations

import socket
import subprocess

from mlbd.lab import echo, layout
from mlbd.lab.network import Network

FORWARDED = 7000
"""Port of the router that leads to a server in the LAN."""
FORWARDING = f"""
table inet forwards {{
  chain pre {{
    type nat hook prerouting priority dstnat; policy accept;
    meta nfproto ipv4 meta l4proto {{ tcp, udp }} th dport {FORWARDED} dnat ip to 192.168.1.2:{echo.PORT}
    meta nfproto ipv6 meta l4proto {{ tcp, udp }} th dport {FORWARDED} dnat ip6 to [fd00:10:1::2]:{echo.PORT}
  }}
}}
"""
"""nftables rules of an administrator."""


def asked(net: Network, kind: str, family: int, number: int, port: int, *, host: int = 200) -> bool:
    """Whether a client in the internet, with a server's address of that number, gets an answer through an uplink."""
    uplink = net.uplink(number)
    to = uplink.address if family == 4 else uplink.address6
    source = layout.server(host, family)
    if kind == "ping":
        with net.inside("internet"):
            ping = ["ping", "-n", "-q", "-c", "1", "-W", "1", "-I", source, to]
            return subprocess.run(ping, capture_output=True, check=False).returncode == 0
    protocol = socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
    with net.inside("internet"), socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, protocol) as s:
        s.settimeout(1.0)
        s.bind((source, 0))
        try:
            s.connect((to, port))
            s.send(b"hello\n")
            return s.recv(100).startswith(source.encode())
        except OSError:
            return False
