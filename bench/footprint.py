"""Memory and CPU with eight uplinks, probed once a second, and nothing happening."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

from bench import process
from bench.row import Row, at_most
from mlbd.lab.daemon import Daemon, uplink_tables
from mlbd.lab.network import Network

UPLINKS = 8
METRICS = "127.0.0.1:9617"
_READ = f"import urllib.request; urllib.request.urlopen('http://{METRICS}/metrics').read()"
FAILURES = 5
"""Cables pulled and put back before memory is read, and metrics scraped: what these need is resident by then."""


def run(quick: bool) -> Iterator[Row]:
    seconds = 10.0 if quick else 20.0
    with Network(UPLINKS, prompt_carrier=True) as net:
        command = [sys.executable, "-m", "bench.prober", "1", *(uplink.gateway for uplink in net.uplinks)]
        with Daemon(net, uplink_tables(net), metrics=METRICS) as daemon:
            bare = net.spawn("router", command, stdin=subprocess.DEVNULL)
            for number in range(1, FAILURES + 1):
                net.unplug(number)
                daemon.wait_for(lambda status: not all(uplink["usable"] for uplink in status["uplinks"]))
                net.plug(number)
            daemon.wait_for(lambda status: all(uplink["usable"] for uplink in status["uplinks"]), timeout=20)
            net.run("router", [sys.executable, "-c", _READ])
            time.sleep(2)
            before, began = (process.cpu(daemon.pid), process.cpu(bare.pid)), time.monotonic()
            time.sleep(seconds)
            took = time.monotonic() - began
            ours, theirs = process.cpu(daemon.pid) - before[0], process.cpu(bare.pid) - before[1]
            yield at_most(
                f"idle CPU, {UPLINKS} uplinks, a probe a second each, {seconds:.0f} s",
                [100 * ours / took],
                0.6,
                "% of a core",
                reference=[100 * theirs / took],
                name="bare asyncio prober",
            )
            for what, key in (("resident memory", "VmRSS"), ("resident memory, most ever", "VmHWM")):
                yield at_most(
                    f"{what}, {UPLINKS} uplinks, after {FAILURES} failures",
                    [process.memory(daemon.pid, key)],
                    36.0,
                    "MB",
                    reference=[process.memory(bare.pid, key)],
                    name="bare asyncio prober",
                )
