"""docs/performance.md, written from the rows of a whole run."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import mlbd
from bench.row import Row

PATH = Path(__file__).parent.parent / "docs" / "performance.md"

_PAGE = """# Performance

Written by `make bench`; do not edit. Everything is measured in network namespaces on one machine (`mlbd/lab`): clients,
the router, providers that drop what has a wrong source, an internet. Each reference ran on the same events in the same
run. The ratio is ours divided by the reference's, of medians: under 1 is less time, fewer packets, less CPU.

{circumstances}

{verdict}

{tables}
## The references

- bare listener: a netlink socket in Python that replaces one route when the cable's event comes (`bench/listener.py`)
- shell loop: `ping` and `ip route replace`, with mlbd's interval, timeout and count (`bench/watchdog.py`)
- multipath route: the kernel's, which hashes addresses and ports; under flaps it is replaced by
  `ip route replace` without the delay of any discovery
- bare asyncio prober: sends the same probes and ignores the answers (`bench/prober.py`)
- libnftables alone: replaces all elements of a map with as many slots as there are uplinks, and does nothing else
- fping, ping, keepalived, ip and nft, conntrack: Debian's; keepalived only knows carriers, and removes an address
- dpinger, foomuuri: where the variables DPINGER and FOOMUURI give the paths of their programs; a probe every 100 ms,
  and the rest as in `bench/peers.py`
- masquerading only; a mark, two rules and tables: the least that a router of several uplinks has for a packet
- Python with asyncio imported: the interpreter, before anything of ours

## What limits these figures

What is missed, by how much and why, and what would get there: [decisions/performance.md](decisions/performance.md).

Every packet and every process shares the machine's cores, with the senders too. When the kernel was changed is what a
process of its own is told by the kernel (`bench/watcher.py`). Time until new connections succeed is told apart by
10 ms; it ends after the last connection that failed or lost its SYN, even if others before it succeeded. Of fewer than
100 repetitions the 99th percentile is the largest, and that is what is compared with what is wanted. A veth pair is no
network card: where the kernel delays carrier events, it is made to by giving both ends the same index
(`mlbd/lab/layout.py`, `wan_link`).
"""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Where and when, and how busy the machine was with other things."""

    date: str
    load: float
    """Processes that ran or waited for a core in the minute before."""
    last_load: float = 0.0
    """In the last minute of the run."""
    minutes: float = 0.0
    began: float = 0.0

    @classmethod
    def now(cls) -> Self:
        return cls(time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), os.getloadavg()[0], began=time.monotonic())

    def ended(self) -> Self:
        return replace(self, last_load=os.getloadavg()[0], minutes=(time.monotonic() - self.began) / 60)

    def text(self) -> str:
        facts = {
            "date": f"{self.date}; the run took {self.minutes:.0f} minutes",
            "machine": f"{os.cpu_count()} x {_processor()}",
            "load": f"{self.load:.1f} in the minute before, {self.last_load:.1f} in the last; alone it makes about 1",
            "kernel": f"{platform.system()} {platform.release()}",
            "versions": f"mlbd {mlbd.__version__}, Python {platform.python_version()}, {_nft()}",
        }
        return "\n".join(f"- {key}: {value}" for key, value in facts.items())


def _processor() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _nft() -> str:
    return (
        subprocess.run(["nft", "--version"], capture_output=True, text=True, check=True).stdout.split(" (")[0].strip()
    )


def write(rows: Mapping[str, Sequence[Row]], circumstances: Circumstances) -> None:
    wanted = [row for found in rows.values() for row in found if row.wanted]
    missed = [row for row in wanted if row.missed]
    verdict = f"Of {len(wanted)} figures with a wanted value, {len(wanted) - len(missed)} are met."
    verdict += "".join(f"\n\nMissed: {row.what}: {row.missed}." for row in missed)
    tables = "".join(_table(name, found) for name, found in rows.items())
    PATH.write_text(_PAGE.format(circumstances=circumstances.text(), verdict=verdict, tables=tables))


def _table(name: str, rows: Sequence[Row]) -> str:
    lines = [
        f"## {name}",
        "",
        f"`.venv/bin/python -m mlbd.lab.sandbox .venv/bin/python -m bench {name}`",
        "",
        "| what | measured | wanted | met | reference | ratio |",
        "|---|---|---|---|---|---|",
        *(f"| {row.what} | {row.figure} | {row.wanted} | {row.met} | {row.reference} | {row.ratio} |" for row in rows),
    ]
    return "\n".join(lines) + "\n\n"
