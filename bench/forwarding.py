"""What our rules cost an established flow: packets of one UDP connection that a router forwards in a second.

One router is mlbd's, the other only masquerades. They take turns of a few milliseconds, in which one core does nothing
but send, forward and drop: the kernel forwards a packet within the call that sends it. Each ratio is that of two turns
side by side, so that what else the machine does strikes both alike; and the networks then change their parts, so that
neither has the luckier place in memory. Sending alone, to a router that drops, is measured too: what our rules add to
a packet is told without it. So is the least that keeps connections on their uplinks: a mark taken from the connection,
and a rule and a table for each.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from bench.masquerade import masquerade
from bench.row import Row, figure
from bench.sender import Datagrams
from mlbd.lab import echo, layout
from mlbd.lab.daemon import Daemon, uplink_tables
from mlbd.lab.namespaces import LabError
from mlbd.lab.network import Network

LEAST = 0.97
_DROP = "table inet sink { chain arrive { type filter hook prerouting priority raw; iifname %s udp dport %d drop; }; }"
_MARK = """
table inet least {
  chain arrive {
    type filter hook prerouting priority mangle; policy accept;
    iifname lan1 ct state new ct mark set numgen inc mod 2 offset 1
    iifname lan1 meta mark set ct mark
  }
}
"""
_POLICY = '[[policy]]\nname = "balanced"\nmembers = ["wan1", "wan2"]\n'
_EACH = 1000
"""Packets of a turn."""
_CORE = 1
"""Where everything of a turn happens."""


class _Flow:
    """One answered connection from the LAN; from then on the providers drop what they get of it."""

    def __init__(self, stack: ExitStack, net: Network) -> None:
        self._net = net
        with net.inside("lan1"):
            self._socket = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._socket.settimeout(2)
        self._socket.connect((layout.server(1), echo.PORT))
        self._socket.send(b"x")
        self._socket.recv(64)
        for uplink in net.uplinks:
            net.run(f"isp{uplink.number}", ["nft", "-f", "-"], text=_DROP % ("customer", echo.PORT))
        self._datagrams = Datagrams(count=_EACH)

    def turn(self) -> float:
        """Seconds for each packet that the router sent on. Raises LabError if it did not forward them all."""
        before = forwarded(self._net)
        took = self.sent()
        found = forwarded(self._net) - before
        if found < _EACH:
            raise LabError(f"The router forwarded {found} of {_EACH} packets.")
        return took

    def sent(self) -> float:
        """Seconds for each packet, whatever becomes of it."""
        began = time.perf_counter()
        self._datagrams.send(self._socket)
        return (time.perf_counter() - began) / _EACH

    def drop(self) -> None:
        """The router drops from now on, before anything is looked up."""
        self._net.run("router", ["nft", "-f", "-"], text=_DROP % ("lan1", echo.PORT))


def forwarded(net: Network) -> int:
    """Packets that the router sent by its uplinks so far; see proc_pid_net(5)."""
    with net.inside("router"):
        devices = Path("/proc/thread-self/net/dev").read_text()
    names = [uplink.interface for uplink in net.uplinks]
    columns = re.findall(r"^\s*(\S+):(.*)$", devices, re.MULTILINE)
    return sum(int(numbers.split()[9]) for name, numbers in columns if name in names)


def run(quick: bool) -> Iterator[Row]:
    turns = 300 if quick else 1500
    times: dict[str, list[float]] = {"ours": [], "bare": [], "least": [], "sending": []}
    for order in (("ours", "bare", "least"), ("least", "bare", "ours")):
        with ExitStack() as stack:
            flows = {name: _FLOWS[name](stack) for name in order}
            everywhere = os.sched_getaffinity(0)
            os.sched_setaffinity(0, {_CORE})
            try:
                for turn in range(turns):
                    for name in order[:: 1 if turn % 2 else -1]:
                        times[name].append(flows[name].turn())
                flows["bare"].drop()
                times["sending"] += [flows["bare"].sent() for _ in range(turns // 4)]
            finally:
                os.sched_setaffinity(0, everywhere)
    middle = {name: median(found) for name, found in times.items()}
    pairs = {name: [b / o for o, b in zip(times["ours"], times[name], strict=True)] for name in ("bare", "least")}
    found = median(pairs["bare"])
    what = "packets forwarded a second, one established flow"
    yield Row(
        what,
        figure(1 / middle["ours"], ""),
        f"at least {LEAST} of those without our rules",
        f"{LEAST - found:.3f} too little" if found < LEAST else "",
        f"masquerading only: {figure(1 / middle['bare'], '')}",
        f"{found:.3f}",
    )
    yield Row(
        what,
        figure(1 / middle["ours"], ""),
        reference=f"a mark, two rules and tables: {figure(1 / middle['least'], '')}",
        ratio=f"{median(pairs['least']):.3f}",
    )
    cost = {name: 1e9 * (middle[name] - middle["sending"]) for name in pairs | {"ours": []}}
    yield Row(
        "time for each of these packets, without sending it",
        figure(cost["ours"], "ns"),
        reference=f"masquerading only: {figure(cost['bare'], 'ns')}; a mark, two rules and tables: "
        f"{figure(cost['least'], 'ns')}",
        ratio=f"{cost['ours'] / cost['bare']:.2f}",
    )


def _ours(stack: ExitStack) -> _Flow:
    net = stack.enter_context(Network(2))
    stack.enter_context(Daemon(net, uplink_tables(net) + _POLICY))
    return _Flow(stack, net)


def _bare(stack: ExitStack) -> _Flow:
    net = stack.enter_context(Network(2))
    masquerade(net)
    return _Flow(stack, net)


def _least(stack: ExitStack) -> _Flow:
    net = stack.enter_context(Network(2))
    masquerade(net)
    net.run("router", ["nft", "-f", "-"], text=_MARK)
    for uplink in net.uplinks:
        way = ["default", "via", uplink.gateway, "dev", uplink.interface]
        net.run("router", ["ip", "route", "add", *way, "table", f"{100 + uplink.number}"])
        net.run("router", ["ip", "rule", "add", "fwmark", f"{uplink.number}", "table", f"{100 + uplink.number}"])
    return _Flow(stack, net)


_FLOWS: Mapping[str, Callable[[ExitStack], _Flow]] = {"ours": _ours, "bare": _bare, "least": _least}
