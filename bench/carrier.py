"""A cable is pulled, under 1,000 new connections and 1,000 packets of a stream a second, all by that uplink.

Both routers, mlbd's and the reference's, have their cables pulled in turns, so they share whatever the machine does.
The kernel holds carrier events back, for all namespaces together: a second after the last one at most. The cable is
therefore pulled within that second after it was put back.
"""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from bench.masquerade import masquerade
from bench.row import Row, at_most
from mlbd.lab.daemon import Daemon, uplink_tables
from mlbd.lab.network import Network
from mlbd.lab.stream import UdpStream
from mlbd.lab.traffic import attempts

RATE = 1000.0
"""New connections a second; what it resolves is 1 ms."""
MOST_LOST = 150
"""Packets of the stream."""
AT_ONCE = 0.3
"""Seconds; a connection that takes longer lost its first SYN, which is sent again after one second."""

FIRST_THEN_SECOND = """
[[policy]]
name = "first"
method = "failover"
members = ["wan1", "wan2"]

[probe]
interval = "100ms"
rise = 2
hold_max = "0s"
"""
"""Everything goes by the cable that is pulled; quick probes, so that it soon goes there again."""


@dataclass(frozen=True, slots=True)
class Pull:
    moved: float
    """Milliseconds from pulling until all new connections succeed at once."""
    lost: int
    """Packets of the stream."""


def run(quick: bool) -> Iterator[Row]:
    count = 5 if quick else 25
    yield from _pulls(count, "kernel delays the event", limit=150.0, prompt=False, window=0.6)
    yield from _pulls(count, "kernel tells at once", limit=10.0, prompt=True, window=0.2)


def _pulls(count: int, when: str, *, limit: float, prompt: bool, window: float) -> Iterator[Row]:
    ours, theirs = [], []
    with ExitStack() as stack:
        net = stack.enter_context(Network(2, prompt_carrier=prompt))
        other = stack.enter_context(Network(2, prompt_carrier=prompt, default_routes=False))
        daemon = stack.enter_context(Daemon(net, uplink_tables(net) + FIRST_THEN_SECOND))
        _listen(other)
        for _ in range(count):
            ours.append(_pull(net, window))
            net.plug(1)
            daemon.wait_for(lambda status: all(uplink["usable"] for uplink in status["uplinks"]))
            theirs.append(_pull(other, window if prompt else 1.3))
            other.plug(1)
            time.sleep(0.1)
    yield at_most(
        f"cable pulled, {when}: until all new connections succeed",
        [pull.moved for pull in ours],
        limit,
        "ms",
        reference=[pull.moved for pull in theirs],
        name="bare listener",
    )
    yield at_most(
        f"cable pulled, {when}: packets lost of 1,000 a second",
        [pull.lost for pull in ours],
        MOST_LOST,
        "",
        reference=[pull.lost for pull in theirs],
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


def _pull(net: Network, window: float) -> Pull:
    """Pull the first cable and watch for so many seconds."""
    with UdpStream(net, "lan1", rate=1000, limit=10) as stream, ThreadPoolExecutor(1) as pool:
        stream.wait_started()
        count = int(RATE * (window + 0.3))
        tried = pool.submit(attempts, net, "lan1", count, rate=RATE, timeout=AT_ONCE, at_once=count)
        time.sleep(0.1 + 0.2 * random.random())
        pulled = time.monotonic()
        net.unplug(1)
        after = [attempt for attempt in tried.result() if attempt.started >= pulled]
        found = stream.stop(linger=0.1)
    failed = [number for number, attempt in enumerate(after) if attempt.took is None]
    if failed and failed[-1] + 1 == len(after):
        return Pull(1000 * (after[-1].started - pulled), found.lost)  # not yet: at least the whole window
    first_good = after[failed[-1] + 1].started if failed else pulled
    return Pull(1000 * (first_good - pulled), found.lost)
