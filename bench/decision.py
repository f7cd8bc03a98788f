"""From complete evidence to the kernel changed, as the daemon itself tells in its log (`took_ms`).

The reference is what of that is the kernel's part: libnftables alone changes a map of as many slots, and nothing else.
The daemon is not asked for its status meanwhile: with 100 uplinks the answers would take what there is to measure.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench.row import Row, within
from mlbd.lab.daemon import Daemon, uplink_tables
from mlbd.lab.network import Network, wait_until
from mlbd.lab.nft import Nft

_RETURNS_AT_ONCE = '[probe]\nrise = 1\nhold_max = "0s"\n'
REST = 0.2
"""Seconds: the full look after a change is over."""


def run(quick: bool) -> Iterator[Row]:
    for uplinks, failures, limit in ((8, 20 if quick else 100, 3.0), (100, 5 if quick else 40, 6.0)):
        yield within(
            f"cable pulled, {uplinks} uplinks: from evidence to the kernel changed",
            _decided(uplinks, failures),
            "ms",
            p99=limit,
            reference=_bare(uplinks, failures),
            name="libnftables alone",
        )


def _decided(uplinks: int, failures: int) -> list[float]:
    """Milliseconds for each uplink that went down."""
    with Network(uplinks, prompt_carrier=True) as net, Daemon(net, uplink_tables(net) + _RETURNS_AT_ONCE) as daemon:
        for number in range(failures):
            which = 1 + number % uplinks
            net.unplug(which)
            _wait_for(daemon, "uplink_down", number + 1)
            net.plug(which)
            _wait_for(daemon, "uplink_up", uplinks + number + 1)  # all of them at its start
            time.sleep(REST)
        return [float(took) for took in _told(daemon, "uplink_down") if took is not None]


def _wait_for(daemon: Daemon, event: str, count: int) -> None:
    wait_until(lambda: len(_told(daemon, event)) >= count, timeout=10, what=f"{event} number {count}", every=0.02)


def _told(daemon: Daemon, event: str) -> list[str | None]:
    """`took_ms` of each such event in its log."""
    return [record["took_ms"] for record in daemon.log() if record.get("event") == event]


def _bare(slots: int, count: int) -> list[float]:
    """Milliseconds for each replacement of all elements of a map."""
    chains = "".join(f"chain uplink{n} {{ }}\n" for n in range(slots))
    table = f"table inet bare {{ {chains} map pick {{ typeof numgen random mod {slots} : verdict\n }}\n }}\n"
    took = []
    with Network(1) as net, Nft(net.namespace("router")) as nft:
        nft.run(table)
        for turn in range(count + 1):
            elements = ", ".join(f"{n} : goto uplink{(n + turn) % slots}" for n in range(slots))
            began = time.perf_counter()
            nft.run(f"flush map inet bare pick; add element inet bare pick {{ {elements} }}")
            took.append(1000 * (time.perf_counter() - began))
    return took[1:]
