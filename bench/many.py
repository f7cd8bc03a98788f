"""A hundred uplinks, probed once a second, beside eight: starting, CPU, memory, and what one pulled cable changes.

Memory of each further uplink is the difference between the two daemons after the same story. What is changed is counted
where the kernel tells of it, by `nft monitor` and `ip monitor`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import process
from bench.row import Row, all_of, at_most, ratio
from bench.starting import start
from mlbd.lab.daemon import Daemon, uplink_tables
from mlbd.lab.namespaces import LabError
from mlbd.lab.network import Network

FEW, MANY = 8, 100
_EVERY_SECOND = '\n[probe]\ninterval = "1s"\n'
_METRICS = "127.0.0.1:9617"
_READ = f"import urllib.request; urllib.request.urlopen('http://{_METRICS}/metrics').read()"
_PULLED = 3
"""The uplink whose cable is pulled."""
_ELEMENT = re.compile(r"^(add|delete) element inet mlbd (\S+) \{ (\S+) : (.*) \}$", re.MULTILINE)
_OUR_ROUTE = re.compile(r"^\S.* proto 109 ", re.MULTILINE)
"""Without the lines of its next hops; 109 is `daemon.protocol`."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What the kernel told of after one cable was pulled."""

    own: int
    """Elements of the uplink that lost it, or in what is made for it."""
    others: int
    routes: int


@dataclass(frozen=True, slots=True)
class Story:
    fresh: list[float]
    """Seconds from start to READY with nothing of ours in the kernel."""
    adopted: list[float]
    """The same with everything there."""
    cpu: float
    """Percent of a core."""
    changes: Changes
    memory: float
    """Megabytes resident at the end."""


def run(quick: bool) -> Iterator[Row]:
    few, many = _story(FEW, quick), _story(MANY, quick)
    for what, ours, theirs in (
        ("nothing there", many.fresh, few.fresh),
        ("everything adopted", many.adopted, few.adopted),
    ):
        yield at_most(
            f"start to READY, {MANY} uplinks, {what}", ours, 3.0, "s", reference=theirs, name=f"{FEW} uplinks"
        )
    yield at_most(
        f"CPU, {MANY} uplinks, a probe a second each",
        [many.cpu],
        6.0,
        "% of a core",
        reference=[few.cpu],
        name=f"{FEW} uplinks",
    )
    yield at_most(
        f"memory of each further uplink, {FEW} to {MANY}",
        [1000 * (many.memory - few.memory) / (MANY - FEW)],
        60.0,
        "kB",
    )
    yield all_of(
        f"cable pulled, {MANY} uplinks: elements changed that belonged to it",
        many.changes.own,
        many.changes.own + many.changes.others,
    )
    here, there = many.changes, few.changes
    yield Row(
        f"cable pulled, {MANY} uplinks: elements and routes changed",
        f"{here.own + here.others} and {here.routes}",
        f"no more than with {FEW} uplinks",
        "more" if here.own + here.others > there.own + there.others or here.routes > there.routes else "",
        f"{FEW} uplinks: {there.own + there.others} and {there.routes}",
        ratio(here.own + here.others + here.routes, there.own + there.others + there.routes),
    )


def _story(uplinks: int, quick: bool) -> Story:
    with Network(uplinks, prompt_carrier=True) as net:
        daemon = Daemon(net, uplink_tables(net) + _EVERY_SECOND, metrics=_METRICS)
        fresh, adopted = [], []
        try:
            for _ in range(2 if quick else 5):
                net.run("router", [sys.executable, "-m", "mlbd", "release", "-c", str(daemon.file)])
                fresh.append(start(daemon).ready)
                daemon.stop()
                adopted.append(start(daemon).ready)
                daemon.stop()
            start(daemon)
            time.sleep(2)
            cpu = _cpu(daemon, 5.0 if quick else 15.0)
            changes = _pulled(net, daemon)
            net.run("router", [sys.executable, "-c", _READ])  # what a scrape needs is resident from then on
            time.sleep(1)
            return Story(fresh, adopted, cpu, changes, process.memory(daemon.pid))
        finally:
            daemon.kill()


def _cpu(daemon: Daemon, seconds: float) -> float:
    used, began = process.cpu(daemon.pid), time.monotonic()
    time.sleep(seconds)
    return 100 * (process.cpu(daemon.pid) - used) / (time.monotonic() - began)


def _pulled(net: Network, daemon: Daemon) -> Changes:
    told = {name: daemon.directory / f"told-{name}" for name in ("nft", "ip")}
    commands = {"nft": ["nft", "monitor"], "ip": ["ip", "monitor", "route"]}
    watching = [_watch(net, commands[name], path) for name, path in told.items()]
    time.sleep(0.5)  # neither says when it listens
    net.unplug(_PULLED)
    daemon.wait_for(lambda status: not all(uplink["usable"] for uplink in status["uplinks"]))
    time.sleep(1)  # the look after a change, and what it may find
    for process_ in watching:
        process_.terminate()
        process_.wait()
    net.plug(_PULLED)
    daemon.wait_for(lambda status: all(uplink["usable"] for uplink in status["uplinks"]), timeout=20)
    return changes(net.uplink(_PULLED).interface, told["nft"].read_text(), told["ip"].read_text())


def _watch(net: Network, command: list[str], path: Path) -> subprocess.Popen[bytes]:
    with path.open("wb") as file:
        return net.spawn("router", command, stdin=subprocess.DEVNULL, stdout=file)


def changes(name: str, nft: str, routes: str) -> Changes:
    """By what the two programs printed, of the uplink `name`.

    An element is deleted and added again with what it leads to now. It is the uplink's if it led there, or if the map
    is named after it. Raises LabError if nothing was told.
    """
    own: set[tuple[str, str]] = set()
    others: set[tuple[str, str]] = set()
    for _, table, key, verdict in _ELEMENT.findall(nft):
        of_it = verdict.endswith(f"_{name}") or table.endswith(f"_{name}")
        (own if of_it else others).add((table, key))
    if not own:
        raise LabError(f"nft monitor told nothing of {name}:\n{nft}")
    return Changes(len(own), len(others - own), len(_OUR_ROUTE.findall(routes)))
