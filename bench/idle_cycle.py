"""A cycle that finds nothing to change: CPU time of a full look at the kernel, with eight uplinks.

What makes the daemon look is a DHCP lease that is renewed: the kernel tells of an address that is as it was. Quarters
of a second with and without one alternate; probes go on in both, and the difference is the look's. The reference is
what ip(8) and nft(8) need to show the same.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from bench import process
from bench.row import Row, at_most
from mlbd.lab.daemon import Daemon, uplink_tables
from mlbd.lab.namespaces import LabError, ip_each
from mlbd.lab.network import Network

UPLINKS = 8
LIMIT = 5.0
"""Milliseconds."""
_QUARTER = 0.25
"""Seconds; longer than the daemon's pause between looks (`mlbd.loop.LOOK_PAUSE`)."""
_METRICS = "127.0.0.1:9617"
_READ = f"import urllib.request as r; print(r.urlopen('http://{_METRICS}/metrics').read().decode())"
_SAME = (
    ["ip", "-json", "-details", "link"],
    ["ip", "-json", "address"],
    ["ip", "-json", "rule"],
    ["ip", "-json", "-6", "rule"],
    ["ip", "-json", "route", "show", "table", "all"],
    ["ip", "-json", "-6", "route", "show", "table", "all"],
    ["nft", "--json", "list", "table", "inet", "mlbd"],
)


def run(quick: bool) -> Iterator[Row]:
    turns = 20 if quick else 60
    with Network(UPLINKS) as net, Daemon(net, uplink_tables(net), metrics=_METRICS) as daemon:
        time.sleep(1)
        before, spent = _cycles(net), {True: 0.0, False: 0.0}
        for turn in range(2 * turns):
            renewed = turn % 2 == 0
            began = process.cpu(daemon.pid)
            if renewed:
                _renew(net, seconds=3600 + turn)
            time.sleep(_QUARTER)
            spent[renewed] += process.cpu(daemon.pid) - began
        made = {result: count - before[result] for result, count in _cycles(net).items()}
        theirs = [_cpu(net, _SAME) for _ in range(5 if quick else 20)]
    if made["changed"] or made["failed"] or made["unchanged"] < turns:
        raise LabError(
            f"{turns} renewed leases should have been {turns} cycles without a change, but there were {made}"
        )
    yield at_most(
        f"CPU of a cycle that changes nothing, {UPLINKS} uplinks, mean of {made['unchanged']}",
        [1000 * (spent[True] - spent[False]) / made["unchanged"]],
        LIMIT,
        "ms",
        reference=[1000 * sum(theirs) / len(theirs)],
        name="ip and nft show the same",
    )


def _renew(net: Network, seconds: int) -> None:
    uplink = net.uplink(1)
    lifetime = f"valid_lft {seconds} preferred_lft {seconds}"
    address = f"{uplink.address}/{uplink.length}"
    ip_each({net.namespace("router"): [f"address change {address} dev {uplink.interface} {lifetime}"]})


def _cycles(net: Network) -> dict[str, int]:
    """How many there were, by result."""
    text = net.run("router", [sys.executable, "-c", _READ])
    return {
        result: int(float(count))
        for result, count in re.findall(r'^mlbd_cycles_total\{result="(\w+)"\} (\S+)$', text, re.MULTILINE)
    }


def _cpu(net: Network, commands: Sequence[Sequence[str]]) -> float:
    """Seconds of CPU time of these programs, in the router."""
    used = 0.0
    for command in commands:
        running = net.spawn("router", command, stdout=subprocess.DEVNULL)
        _, _, usage = os.wait4(running.pid, 0)
        running.returncode = 0
        used += usage.ru_utime + usage.ru_stime
    return used
