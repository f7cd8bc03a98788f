"""The prober: sends what the core orders, reports what comes back. It decides nothing and imports only the core.

prober         takes orders and hands them on by kind
echo           icmp: long-lived raw sockets (`echo_socket`); matches what arrives (`message`) to what was sent
neighbours     neighbour: the same by `arp` and `solicitation`
ports          neighbour, by one port of a bond
connect, queries, web
               tcp, dns, http: for each probe a task (`attempts`) with a socket of its own (`sockets`)
names          addresses of host names, asked by the uplink that is probed
errors         numbers as kinds and sentences
"""

from mlbd.probe.prober import Prober

__all__ = ["Prober"]
