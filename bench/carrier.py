"""A cable is pulled: from the kernel's own word of it to the kernel changed, and what a stream loses meanwhile.

The routers of mlbd and of the references stand side by side and have their cables pulled in turns, so they share
whatever the machine does; a `watcher` in each tells when its kernel was changed.

The kernel holds carrier events of network cards back, for all namespaces together: a second after the last one at most.
Such a cable is therefore pulled within that second after it was put back.
"""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from bench import peers
from bench.masquerade import masquerade
from bench.row import Row, at_most, within
from bench.watcher import Watcher, What
from mlbd.lab.daemon import Daemon, uplink_tables
from mlbd.lab.network import Network
from mlbd.lab.stream import UdpStream

UPLINKS = 8
MIIMON = 100.0
"""Milliseconds; the default of `miimon`."""
REST = 0.15
"""Seconds after mlbd has its uplink back: the full look that follows is over, as when a cable is pulled in life."""

RETURNS_AT_ONCE = '\n[probe]\nrise = 1\nhold_max = "0s"\n'
FIRST_THEN_SECOND = '\n[[policy]]\nname = "first"\nmethod = "failover"\nmembers = ["wan1", "wan2"]\n'
"""Every stream goes by the cable that is pulled."""


@dataclass(frozen=True, slots=True)
class Pull:
    reacted: float
    """Milliseconds from the kernel's word that the carrier is lost to the kernel changed."""
    took: float
    """Milliseconds from the call that pulls the cable to the kernel changed."""


class Bench:
    """A router whose first cable is pulled, and what tells that its kernel was changed."""

    def __init__(self, net: Network, what: What) -> None:
        self.net, self._what = net, what
        with net.inside("router"):
            self._index = socket.if_nametoindex(net.uplink(1).interface)
        self._watcher = Watcher(net)

    def changed(self, since: float) -> float:
        """When its kernel was first changed at or after a moment, monotonic seconds. Waits for it."""
        return self._watcher.first(self._what, since)

    def pull(self) -> Pull:
        began = time.monotonic()
        self.net.unplug(1)
        changed = self.changed(began)
        lost = self._watcher.first("lost", began, index=self._index)
        return Pull(1000 * max(0.0, changed - lost), 1000 * (changed - began))

    def put_back(self) -> None:
        """Returns when what was changed has been changed back."""
        began = time.monotonic()
        self.net.plug(1)
        self.changed(began)
        if self._what == "map":
            time.sleep(REST + 0.1 * random.random())  # carrier is read at regular times, cables are pulled at any

    def stream(self) -> int:
        """Pull the cable under a stream; how many of its packets were lost."""
        with UdpStream(self.net, "lan1", rate=1000, limit=10) as stream:
            stream.wait_started()
            time.sleep(0.1 * random.random())
            self.pull()
            time.sleep(0.1)
            return stream.stop(linger=0.1).lost


def run(quick: bool) -> Iterator[Row]:
    yield from _at_once(20 if quick else 100)
    yield _delayed(10 if quick else 100)
    yield _lost("kernel tells at once", 5 if quick else 20, 10, prompt=True)
    yield _lost("kernel delays the event", 5 if quick else 10, MIIMON + 10, prompt=False)


def _ours(stack: ExitStack, uplinks: int, config: str, *, prompt: bool) -> Bench:
    net = stack.enter_context(Network(uplinks, prompt_carrier=prompt))
    stack.enter_context(Daemon(net, uplink_tables(net) + config + RETURNS_AT_ONCE))
    return Bench(net, "map")


def _floor(stack: ExitStack, *, prompt: bool) -> Bench:
    net = stack.enter_context(Network(2, prompt_carrier=prompt, default_routes=False))
    _listen(net)
    return Bench(net, "route")


def _at_once(count: int) -> Iterator[Row]:
    ours: list[Pull] = []
    floor: list[Pull] = []
    theirs: list[Pull] = []
    with ExitStack() as stack:
        mlbd = _ours(stack, UPLINKS, "", prompt=True)
        listener = _floor(stack, prompt=True)
        keepalived = Bench(stack.enter_context(Network(2, prompt_carrier=True)), "address")
        began = time.monotonic()
        installed = peers.keepalived(keepalived.net)
        if installed:
            keepalived.changed(began)
        for number in range(count):
            turns = [(mlbd, ours), (listener, floor)]
            if installed and number % 4 == 0:
                turns.append((keepalived, theirs))
            for bench, found in turns:
                found.append(bench.pull())
                bench.put_back()
    what = f"carrier lost to kernel changed, {UPLINKS} uplinks, kernel tells at once"
    reacted = [pull.reacted for pull in ours]
    yield within(
        what,
        reacted,
        "ms",
        median=1.5,
        p99=6.0,
        reference=[pull.reacted for pull in floor],
        name="bare listener",
        times=4.0,
    )
    yield within(
        what,
        reacted,
        "ms",
        reference=[pull.reacted for pull in theirs],
        name="keepalived" if installed else "keepalived: not installed",
    )


def _delayed(count: int) -> Row:
    ours: list[Pull] = []
    theirs: list[Pull] = []
    with ExitStack() as stack:
        mlbd, listener = _ours(stack, UPLINKS, "", prompt=False), _floor(stack, prompt=False)
        for number in range(count):
            ours.append(mlbd.pull())
            mlbd.put_back()
            if number % 10 == 0:
                theirs.append(listener.pull())
                listener.put_back()
    return within(
        f"cable pulled to kernel changed, {UPLINKS} uplinks, kernel delays the event",
        [pull.took for pull in ours],
        "ms",
        most=MIIMON + 10,
        reference=[pull.took for pull in theirs],
        name="bare listener",
    )


def _lost(when: str, count: int, limit: float, *, prompt: bool) -> Row:
    ours: list[int] = []
    theirs: list[int] = []
    with ExitStack() as stack:
        mlbd = _ours(stack, 2, FIRST_THEN_SECOND, prompt=prompt)
        listener = _floor(stack, prompt=prompt)
        for _ in range(count):
            for bench, found in ((mlbd, ours), (listener, theirs)):
                found.append(bench.stream())
                bench.put_back()
    return at_most(
        f"cable pulled, {when}: packets lost of 1,000 a second",
        ours,
        limit,
        "",
        reference=theirs,
        name="bare listener",
    )


def _listen(net: Network) -> None:
    masquerade(net)
    first, second = net.uplink(1), net.uplink(2)
    with net.inside("router"):
        indexes = [str(socket.if_nametoindex(uplink.interface)) for uplink in (first, second)]
    command = [sys.executable, "-m", "bench.listener", indexes[0], first.gateway, indexes[1], second.gateway]
    process = net.spawn("router", command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
