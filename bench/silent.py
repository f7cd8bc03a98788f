"""A provider falls silent, its gateway too; the link stays up. Until the kernel is changed, as a `watcher` sees it.

Several networks suffer at once, each by itself. With the defaults, 100 new connections a second go by that uplink in
each, and it is also told when they succeed again; what that resolves is 10 ms.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

from bench import peers, watchdog
from bench.masquerade import masquerade
from bench.row import Row, at_most, within
from bench.watcher import Watcher, What
from mlbd.lab.daemon import Daemon, uplink_tables
from mlbd.lab.network import Network
from mlbd.lab.traffic import attempts

NETWORKS = 5
RATE = 100.0
AT_ONCE = 0.3
"""Seconds; a connection that takes longer lost its first SYN, which is sent again after one second."""
REST = 0.5
"""Seconds for every program to send and hear a few probes before the next silence."""

_one_at_a_time = threading.Lock()
"""Faults are made through libnftables, which has state that its contexts share."""

FIRST_THEN_SECOND = '\n[[policy]]\nname = "first"\nmethod = "failover"\nmembers = ["wan1", "wan2"]\n'
NEVER_HELD = '\n[probe]\nhold_max = "0s"\n'
"""The same uplink fails again and again."""
FAST = '\n[probe]\ninterval = "100ms"\nsuspect_interval = "50ms"\ntimeout = "100ms"\nfall = 3\nhold_max = "0s"\n'


@dataclass(frozen=True, slots=True)
class Found:
    """Seconds from each silence."""

    changed: list[float] = field(default_factory=list)
    """To the kernel changed."""
    moved: list[float] = field(default_factory=list)
    """Until all new connections succeed at once; the window if they never did."""


def run(quick: bool) -> Iterator[Row]:
    yield from _tight(4 if quick else 20)
    yield from _defaults(1 if quick else 5)


def _tight(rounds: int) -> Iterator[Row]:
    what = "silent failure to kernel changed, interval and timeout 100 ms (50 ms while suspected), fall 3"
    with ExitStack() as stack, ThreadPoolExecutor(NETWORKS + 1 + len(peers.GIVEN)) as pool:
        ours = _ours(stack, pool, FAST, rounds)
        loop = _loop(stack, pool, rounds, interval=0.1, timeout=0.1, fall=3)
        others = {}
        for name in peers.GIVEN:
            net = stack.enter_context(Network(2, default_routes=False))
            watcher = Watcher(net)
            if peers.start(name, net):
                others[name] = pool.submit(_outages, net, watcher, "route", rounds)
        changed = _ms(seconds for future in ours for seconds in future.result().changed)
        yield within(what, changed, "ms", median=320, p99=420, reference=_ms(loop.result().changed), name="shell loop")
        for name, variable in peers.GIVEN.items():
            if name in others:
                theirs = _ms(others[name].result().changed)
                yield within(what, changed, "ms", reference=theirs, name=name, times=1.0)
            else:
                yield within(what, changed, "ms", name=f"{name}: not given ({variable}=its program)")


def _ms(seconds: Iterable[float]) -> list[float]:
    return [1000 * value for value in seconds]


def _defaults(rounds: int) -> Iterator[Row]:
    with ExitStack() as stack, ThreadPoolExecutor(2 * NETWORKS + 2) as pool:
        ours = _ours(stack, pool, NEVER_HELD, rounds, window=3.2)
        loop = _loop(stack, pool, rounds, interval=1.0, timeout=0.2, fall=5)
        found = [future.result() for future in ours]
        yield within(
            "silent failure to kernel changed, defaults",
            [seconds for outages in found for seconds in outages.changed],
            "s",
            median=1.5,
            reference=loop.result().changed,
            name="shell loop",
        )
    yield at_most(
        "provider silent, defaults: until all new connections succeed",
        [seconds for outages in found for seconds in outages.moved],
        2.5,
        "s",
    )


def _ours(
    stack: ExitStack, pool: ThreadPoolExecutor, probe: str, rounds: int, *, window: float = 0.0
) -> list[Future[Found]]:
    nets = [stack.enter_context(Network(2)) for _ in range(NETWORKS)]
    watchers = [Watcher(net) for net in nets]
    for net in nets:
        stack.enter_context(Daemon(net, uplink_tables(net) + FIRST_THEN_SECOND + probe))
    return [
        pool.submit(_outages, net, watcher, "map", rounds, window=window)
        for net, watcher in zip(nets, watchers, strict=True)
    ]


def _loop(
    stack: ExitStack, pool: ThreadPoolExecutor, rounds: int, *, interval: float, timeout: float, fall: int
) -> Future[Found]:
    net = stack.enter_context(Network(2, default_routes=False))
    masquerade(net)
    watcher = Watcher(net)
    watchdog.start(net, interval=interval, timeout=timeout, fall=fall)
    return pool.submit(_outages, net, watcher, "route", rounds)


def _outages(net: Network, watcher: Watcher, what: What, rounds: int, *, window: float = 0.0) -> Found:
    """With a `window`, seconds, new connections are made for so long."""
    found = Found()
    with ThreadPoolExecutor(1) as pool:
        for _ in range(rounds):
            time.sleep(REST + random.random())  # probes go out at regular times, silence begins at any
            count = int(RATE * (window + 0.1)) if window else 0
            tried = pool.submit(attempts, net, "lan1", count, rate=RATE, timeout=AT_ONCE, at_once=count + 1)
            time.sleep(0.1)
            with _one_at_a_time:
                silent = time.monotonic()
                net.silence(1, gateway=True)
            found.changed.append(watcher.first(what, silent, timeout=30) - silent)
            after = [attempt for attempt in tried.result() if attempt.started >= silent]
            if window:
                failed = [number for number, attempt in enumerate(after) if attempt.took is None]
                good = failed[-1] + 1 if failed else 0
                found.moved.append(after[good].started - silent if good < len(after) else window)
            with _one_at_a_time:
                spoken = time.monotonic()
                net.speak(1)
            watcher.first(what, spoken, timeout=30)
    return found
