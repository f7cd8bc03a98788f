"""A provider falls silent, its gateway too; the link stays up. Several networks suffer at once, each by itself.

100 new connections a second go by that uplink in each network, so what it resolves is 10 ms.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from bench import watchdog
from bench.masquerade import masquerade
from bench.row import Row, at_most
from mlbd.lab.daemon import Daemon, uplink_tables
from mlbd.lab.network import Network
from mlbd.lab.traffic import attempts

NETWORKS = 5
RATE = 100.0
AT_ONCE = 0.3
"""Seconds; as in `carrier`."""

_one_at_a_time = threading.Lock()
"""Faults are made through libnftables, which has state that its contexts share."""

FIRST_THEN_SECOND = '\n[[policy]]\nname = "first"\nmethod = "failover"\nmembers = ["wan1", "wan2"]\n'
NEVER_HELD = '\n[probe]\nhold_max = "0s"\n'
"""The same uplink fails again and again."""
FAST = '\n[probe]\ninterval = "100ms"\ntimeout = "100ms"\nfall = 3\nhold_max = "0s"\n'


def run(quick: bool) -> Iterator[Row]:
    rounds = 1 if quick else 5
    yield _moved(
        "defaults", NEVER_HELD, 2.5, rounds, window=3.2, other={"interval": 1.0, "timeout": 0.2, "fall": 5, "window": 9}
    )
    rounds = 4 if quick else 20
    yield _moved(
        "interval and timeout 100 ms, fall 3",
        FAST,
        0.5,
        rounds,
        window=0.9,
        other={"interval": 0.1, "timeout": 0.1, "fall": 3, "window": 1.5},
    )


def _moved(what: str, probe: str, limit: float, rounds: int, *, window: float, other: dict[str, float]) -> Row:
    with ExitStack() as stack, ThreadPoolExecutor(NETWORKS + 1) as pool:
        nets = [stack.enter_context(Network(2)) for _ in range(NETWORKS)]
        config = uplink_tables(nets[0]) + FIRST_THEN_SECOND + probe
        daemons = [stack.enter_context(Daemon(net, config)) for net in nets]
        loop = stack.enter_context(Network(2, default_routes=False))
        masquerade(loop)
        watchdog.start(loop, interval=other["interval"], timeout=other["timeout"], fall=int(other["fall"]))
        theirs = pool.submit(_outages, loop, other["window"], rounds, lambda: time.sleep(1.5 * other["interval"] + 0.3))
        ours = [
            pool.submit(_outages, net, window, rounds, _recovery(daemon))
            for net, daemon in zip(nets, daemons, strict=True)
        ]
        samples = [sample for future in ours for sample in future.result()]
        return at_most(
            f"provider silent, {what}: until all new connections succeed",
            samples,
            limit,
            "s",
            reference=theirs.result(),
            name="shell loop",
        )


def _recovery(daemon: Daemon) -> Callable[[], object]:
    def wait() -> object:
        return daemon.wait_for(lambda status: all(uplink["usable"] for uplink in status["uplinks"]), timeout=30)

    return wait


def _outages(net: Network, window: float, rounds: int, recovered: Callable[[], object]) -> list[float]:
    """Seconds from each silence until all new connections succeed at once; the window if they never did."""
    found = []
    for _ in range(rounds):
        time.sleep(random.random())  # probes go out at regular times, silence begins at any
        with ThreadPoolExecutor(1) as pool:
            count = int(RATE * (window + 0.1))
            tried = pool.submit(attempts, net, "lan1", count, rate=RATE, timeout=AT_ONCE, at_once=count)
            time.sleep(0.1)
            silent = time.monotonic()
            with _one_at_a_time:
                net.silence(1, gateway=True)
            after = [attempt for attempt in tried.result() if attempt.started >= silent]
        with _one_at_a_time:
            net.speak(1)
        recovered()
        failed = [number for number, attempt in enumerate(after) if attempt.took is None]
        first_good = failed[-1] + 1 if failed else 0
        found.append(after[first_good].started - silent if first_good < len(after) else window)
    return found
