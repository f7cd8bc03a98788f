"""From the start of the program to READY=1, as a service manager sees it, and how much of that is Python's imports.

A daemon ran before and was stopped, so everything in the kernel is as it left it and is adopted. READY comes before the
first verdicts; until then the kernel goes on with what it has.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from bench.row import Row, at_most, percentile, ratio, spread
from mlbd.lab.daemon import Daemon, uplink_tables
from mlbd.lab.namespaces import LabError
from mlbd.lab.network import Network

LIMIT = 0.6
"""Seconds."""
_PATIENCE = 15.0
_ASYNCIO = "asyncio"
_OURS = "mlbd.cli.commands, mlbd.daemon"


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds from the moment before the process is made."""

    ready: float
    settled: float
    """Every uplink has a verdict."""


def run(quick: bool) -> Iterator[Row]:
    bare, imports, starts = [], [], []
    with Network(2) as net, Daemon(net, uplink_tables(net)) as daemon:
        for _ in range(5 if quick else 25):
            daemon.stop()
            bare.append(_imported(_ASYNCIO))
            imports.append(_imported(_OURS))
            starts.append(start(daemon))
    yield at_most(
        "start to READY, 2 uplinks, everything adopted",
        [found.ready for found in starts],
        LIMIT,
        "s",
        reference=bare,
        name="Python with asyncio imported",
    )
    for what, found in (
        ("of that, until the modules are imported", imports),
        ("start to first verdicts, 2 uplinks, everything adopted", [found.settled for found in starts]),
    ):
        yield Row(
            what,
            spread(found, "s"),
            reference=f"Python with asyncio imported: {spread(bare, 's')}",
            ratio=ratio(percentile(found, 50), percentile(bare, 50)),
        )


def start(daemon: Daemon) -> Start:
    """Start it with a notification socket (sd_notify(3)), and wait until it has verdicts. Raises LabError."""
    path = daemon.directory / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(str(path))
        s.settimeout(_PATIENCE)
        os.environ["NOTIFY_SOCKET"] = str(path)
        try:
            began = time.monotonic()
            daemon.start(wait=False)
            said = s.recv(4096)
            ready = time.monotonic() - began
            daemon.wait_for(lambda status: bool(status["settled"]), timeout=_PATIENCE)
            settled = time.monotonic() - began
        except TimeoutError:
            raise LabError(f"The daemon was not ready within {_PATIENCE:g} s:\n{daemon.log_text()}") from None
        finally:
            del os.environ["NOTIFY_SOCKET"]
            path.unlink()
    if not said.startswith(b"READY=1"):
        raise LabError(f"The daemon's first notification is {said!r}.")
    return Start(ready, settled)


def _imported(modules: str) -> float:
    """Seconds from before the process is made until it has imported these and nothing else."""
    code = f"import os, {modules}; os.write(1, b'.'); os._exit(0)"
    began = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        return time.monotonic() - began
