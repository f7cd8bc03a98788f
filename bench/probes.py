"""CPU time for 1,000 probes: 16 targets by one uplink, each every 100 ms."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from statistics import median

from bench import process
from bench.row import Row, at_most, figure
from mlbd.lab import layout
from mlbd.lab.daemon import Daemon, uplink_tables
from mlbd.lab.network import Network

TARGETS = [layout.server(number) for number in range(1, 17)]
LIMIT = 100.0
"""Milliseconds."""
MOST_OF_FPING, MOST_OF_PING = 3.0, 0.1
_METRICS = "127.0.0.1:9617"
_READ = f"import urllib.request as r; print(r.urlopen('http://{_METRICS}/metrics').read().decode())"


def run(quick: bool) -> Iterator[Row]:
    seconds, turns = (3.0, 2) if quick else (6.0, 5)
    ours, theirs = [], []
    with Network(1, prompt_carrier=True) as net:
        config = f'{uplink_tables(net)}[probe]\ntargets = {TARGETS}\ninterval = "100ms"\n'
        with Daemon(net, config, metrics=_METRICS) as daemon:
            time.sleep(1)
            for _ in range(turns):  # side by side, so that both have the same machine
                sent, used = _sent(net), process.cpu(daemon.pid)
                theirs.append(_fping(net, seconds))
                # The clock is read first: what the metrics cost is not what probes cost.
                used = process.cpu(daemon.pid) - used
                ours.append(1e6 * used / (_sent(net) - sent))
        each = _pings(net, 5 if quick else 20)
    what = f"CPU for 1,000 probes, {len(TARGETS)} targets every 100 ms"
    yield at_most(what, [median(ours)], LIMIT, "ms")
    fping = [cost for cost in theirs if cost is not None]
    yield _times(what, median(ours), median(fping) if fping else None, MOST_OF_FPING, "fping")
    yield _times(what, median(ours), each, MOST_OF_PING, "a ping process for each")


def _times(what: str, ours: float, theirs: float | None, most: float, name: str) -> Row:
    """A row about a ratio; without a wanted one if the program is not installed."""
    if theirs is None:
        return Row(what, figure(ours, "ms"), reference=f"{name}: not installed")
    found = ours / theirs
    return Row(
        what,
        figure(ours, "ms"),
        f"at most {most:g} times {name}",
        f"{found - most:.2f} too much" if found > most else "",
        f"{name}: {figure(theirs, 'ms')}",
        f"{found:.2f}",
    )


def _sent(net: Network) -> int:
    """Probes sent so far."""
    text = net.run("router", [sys.executable, "-c", _READ])
    return sum(int(float(value)) for value in re.findall(r"^mlbd_probe_sent_total\{.*\} (\S+)$", text, re.MULTILINE))


def _cost(net: Network, command: list[str], probes: int) -> float | None:
    """Milliseconds of CPU time for 1,000 probes, by a program that sends so many; None if it is not installed."""
    try:
        running = net.spawn("router", command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        return None
    _, _, usage = os.wait4(running.pid, 0)
    running.returncode = 0
    return 1e6 * (usage.ru_utime + usage.ru_stime) / probes


def _fping(net: Network, seconds: float) -> float | None:
    count = int(10 * seconds)
    return _cost(net, ["fping", "-q", "-p", "100", "-i", "1", "-c", str(count), *TARGETS], count * len(TARGETS))


def _pings(net: Network, rounds: int) -> float | None:
    loop = f"for round in $(seq {rounds}); do for t in {' '.join(TARGETS)}; do ping -n -q -c 1 -W 1 $t; done; done"
    return _cost(net, ["sh", "-c", loop], rounds * len(TARGETS))
