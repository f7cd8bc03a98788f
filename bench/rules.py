"""What hundreds of rules cost: new connections forwarded in a second, with 500 rules and, by turns, with none.

Each connection is one datagram that the provider drops, so that nearly all the time is the router's, and every one is
seen to be forwarded. The daemon with the same uplinks and no rules is the reference. The ratio is the median of those
of two rounds side by side, so that what else the machine does strikes both alike.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from statistics import median

from bench.forwarding import forwarded
from bench.row import Row, figure
from bench.sender import Datagrams
from mlbd.lab import layout
from mlbd.lab.daemon import Daemon, uplink_tables
from mlbd.lab.namespaces import LabError
from mlbd.lab.network import Network

LEAST = 0.9
_DROP = """
table inet sink {
  chain arrive { type filter hook prerouting priority raw; policy accept; udp dport >= 1024 drop; }
}
"""
_POLICY = '[[policy]]\nname = "balanced"\nmembers = ["wan1", "wan2"]\n'
_ROUNDS = 100
_EACH = 1000
"""Connections of a round: few, so that what else the machine does strikes both alike."""


def _rule(number: int, condition: str) -> str:
    use = ("balanced", "wan1", "wan2", "main")[number % 4]
    return f'[[rule]]\nname = "r{number}"\nuse = "{use}"\ninterface = "lan1"\n{condition}\n'


def _sources(number: int) -> str:
    return f'from = "10.{number // 250}.{number % 250}.0/24"'


def _ports(number: int) -> str:
    return f'ports = "{2 * number + 1}"'


def _destinations(number: int) -> str:
    return f'to = "198.18.{number % 250}.{number // 250}"'


def rules(count: int) -> Mapping[str, str]:
    """Rules of which none matches the packets sent, so that all must be ruled out."""
    kinds = (_sources, _ports, _destinations)
    third = count // 3 + 1
    return {
        "sources": "".join(_rule(n, _sources(n)) for n in range(count)),
        "sources, ports, destinations": "".join(_rule(n, kinds[n // third](n)) for n in range(count)),
        "sources, ports and destinations by turns": "".join(_rule(n, kinds[n % 3](n)) for n in range(count)),
    }


def run(quick: bool) -> Iterator[Row]:
    count = 500
    with ExitStack() as stack:
        without = _router(stack, "")
        for kind, text in rules(count).items():
            with ExitStack() as one:
                loaded = _router(one, text)
                ours: list[float] = []
                theirs: list[float] = []
                for turn in range(_ROUNDS // 4 if quick else _ROUNDS):
                    for net, found in ((loaded, ours), (without, theirs))[:: 1 if turn % 2 else -1]:
                        found.append(_rate(net, turn))
            share = median(rate / bare for rate, bare in zip(ours, theirs, strict=True))
            yield Row(
                f"new connections a second with {count} rules: {kind}",
                figure(median(ours), ""),
                f"at least {LEAST} of those without rules",
                f"{LEAST - share:.2f} too little" if share < LEAST else "",
                f"no rules: {figure(median(theirs), '')}",
                f"{share:.2f}",
            )


def _router(stack: ExitStack, text: str) -> Network:
    net = stack.enter_context(Network(2))
    for n in (1, 2):
        net.run(f"isp{n}", ["nft", "-f", "-"], text=_DROP)
    net.sysctls("router", {"netfilter/nf_conntrack_udp_timeout": 1})
    stack.enter_context(Daemon(net, uplink_tables(net) + _POLICY + text))
    return net


def _rate(net: Network, turn: int) -> float:
    """New connections a second, each to a port of its own. Raises LabError if one is not forwarded."""
    server, first = layout.server(1 + turn % 250), 2000 + turn * _EACH % 60000
    datagrams = Datagrams([(server, port) for port in range(first, first + _EACH)])
    before = forwarded(net)
    with net.inside("lan1"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        began = time.perf_counter()
        datagrams.send(s)
        took = time.perf_counter() - began
    found = forwarded(net) - before
    if found < _EACH:
        raise LabError(f"The router forwarded {found} of {_EACH} new connections.")
    return _EACH / took
