"""How 1,000 forwarded connections from one client spread over the uplinks.

Random draws stray by themselves: of 1,000, at 1:1, by 1.6 points (one standard deviation).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from bench.masquerade import masquerade
from bench.row import Row, figure
from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network
from mlbd.lab.traffic import connect_many

CONNECTIONS = 1000
WEIGHTS = ((1, 1), (3, 1), (34, 33, 33))
POINTS = {"round-robin": 3.0, "random": 5.0}


def run(quick: bool) -> Iterator[Row]:
    for weights in WEIGHTS[:1] if quick else WEIGHTS:
        reference = _multipath(weights)
        for method, points in POINTS.items():
            yield _row(method, weights, points, _ours(method, weights), reference)


def _ours(method: str, weights: Sequence[int]) -> list[int]:
    with ExitStack() as stack:
        net = stack.enter_context(Network(len(weights)))
        config = "".join(
            f'[[uplink]]\nname = "{uplink.interface}"\ninterface = "{uplink.interface}"\nweight = {weight}\n'
            for uplink, weight in zip(net.uplinks, weights, strict=True)
        )
        members = [uplink.interface for uplink in net.uplinks]
        config += f'[[policy]]\nname = "shared"\nmethod = "{method}"\nmembers = {members}\n'
        stack.enter_context(Daemon(net, config))
        return _spread(net)


def _multipath(weights: Sequence[int]) -> list[int]:
    """The kernel's multipath route, which hashes addresses and ports."""
    with Network(len(weights), default_routes=False) as net:
        masquerade(net)
        hops = [
            word
            for uplink, weight in zip(net.uplinks, weights, strict=True)
            for word in ("nexthop", "via", uplink.gateway, "weight", str(weight))
        ]
        net.run("router", ["ip", "route", "add", "default", *hops])
        return _spread(net)


def _spread(net: Network) -> list[int]:
    found = connect_many(net, "lan1", CONNECTIONS)
    return [found[uplink.number] for uplink in net.uplinks]


def _row(method: str, weights: Sequence[int], points: float, ours: list[int], reference: list[int]) -> Row:
    off, theirs = _off(ours, weights), _off(reference, weights)
    lost = CONNECTIONS - sum(ours)
    missed = [
        *([f"{figure(off - points, 'points')} too much"] if off > points else []),
        *([f"{lost} lost"] if lost else []),
    ]
    return Row(
        f"shares of {CONNECTIONS:,} connections, {method}, {':'.join(map(str, weights))}",
        f"{'/'.join(map(str, ours))}, off by {figure(off, 'points')}",
        f"at most {figure(points, 'points')}",
        " and ".join(missed),
        f"multipath route: {'/'.join(map(str, reference))}, off by {figure(theirs, 'points')}",
        f"{off / theirs:.2f}" if theirs else "",
    )


def _off(found: Sequence[int], weights: Sequence[int]) -> float:
    """The largest difference from what is due, in percentage points."""
    due = (100 * weight / sum(weights) for weight in weights)
    return max(abs(100 * got / CONNECTIONS - wanted) for got, wanted in zip(found, due, strict=True))
