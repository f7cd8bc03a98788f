"""From complete evidence to the kernel changed, as the daemon itself tells in its log (`took_ms`).

The reference is what of that is the kernel's part: libnftables alone changes a map of as many slots, and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench.row import Row, percentile, ratio, spread
from mlbd.lab.daemon import Daemon, uplink_tables
from mlbd.lab.network import Network
from mlbd.lab.nft import Nft

_QUICK = '[probe]\ninterval = "100ms"\nsuspect_interval = "50ms"\nrise = 2\nhold_max = "0s"\n'


def run(quick: bool) -> Iterator[Row]:
    for uplinks in (2, 8, 32):
        failures = 3 if quick else 20
        with Network(uplinks, prompt_carrier=True) as net, Daemon(net, uplink_tables(net) + _QUICK) as daemon:
            for number in range(failures):
                which = 1 + number % uplinks
                net.unplug(which)
                daemon.wait_for(lambda status: not all(uplink["usable"] for uplink in status["uplinks"]))
                net.plug(which)
                daemon.wait_for(lambda status: all(uplink["usable"] for uplink in status["uplinks"]))
                time.sleep(0.15)  # the full look after a change is over
            took = [
                float(record["took_ms"])
                for record in daemon.log()
                if record.get("event") == "uplink_down" and record["took_ms"] is not None
            ]
        reference = _bare(uplinks, failures)
        yield Row(
            f"cable pulled, {uplinks} uplinks: from evidence to the kernel changed",
            spread(took, "ms"),
            reference=f"libnftables alone: {spread(reference, 'ms')}",
            ratio=ratio(percentile(took, 50), percentile(reference, 50)),
        )


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
