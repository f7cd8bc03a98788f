"""CPU time for 1,000 probes: 16 targets by one uplink, each every 100 ms."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator

from bench import process
from bench.row import Row, figure, ratio
from mlbd.lab import layout
from mlbd.lab.daemon import Daemon, uplink_tables
from mlbd.lab.network import Network

TARGETS = [layout.server(number) for number in range(1, 17)]
_METRICS = "127.0.0.1:9617"
_READ = f"import urllib.request as r; print(r.urlopen('http://{_METRICS}/metrics').read().decode())"


def run(quick: bool) -> Iterator[Row]:
    seconds = 3.0 if quick else 10.0
    with Network(1, prompt_carrier=True) as net:
        config = f'{uplink_tables(net)}[probe]\ntargets = {TARGETS}\ninterval = "100ms"\n'
        with Daemon(net, config, metrics=_METRICS) as daemon:
            time.sleep(1)
            sent, used = _sent(net), process.cpu(daemon.pid)
            time.sleep(seconds)
            # The clock is read first: what the metrics cost is not what probes cost.
            used = process.cpu(daemon.pid) - used
            sent = _sent(net) - sent
        ours = 1e6 * used / sent
        costs = {"fping": _fping(net, seconds), "a ping process for each": _pings(net, 5 if quick else 20)}
    for name, cost in costs.items():
        yield Row(
            f"CPU for 1,000 probes, {len(TARGETS)} targets every 100 ms",
            f"{figure(ours, 'ms')} (n={sent})",
            reference=f"{name}: {figure(cost, 'ms')}" if cost is not None else f"{name}: not installed",
            ratio=ratio(ours, cost) if cost is not None else "",
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
