"""Do new connections go exactly as the truth demands? From everywhere, in both families, on every port that counts."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from mlbd.lab.network import Network
from mlbd.lab.traffic import Attempt, attempts
from tests.chaos.files import PORTS, Policy
from tests.chaos.kernel import best_of
from tests.chaos.truth import FAMILIES, Demand, Truth

PLACES = ("lan1", "lan2", "router")
_COUNT, _FEW = 20, 8
_SOURCES = 30
"""Of a LAN. Each is a neighbour of the router, and all namespaces share one table of neighbours."""
_MORE = 100
"""Where an uplink was not seen: of three, it is missed by chance in one of 10^17 cases."""
_PATIENCE = 0.5
_PATIENCE_LOSSY = 1.3
"""A lost SYN is sent again after a second."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Of connections."""

    place: str
    family: int
    port: int
    udp: bool = False

    def __str__(self) -> str:
        return f"{'UDP' if self.udp else 'TCP'} of {self.place}, IPv{self.family}, port {self.port}"


KINDS = [
    *(Kind(place, family, port) for place in PLACES for family in FAMILIES for port in PORTS),
    *(Kind(place, family, 7, udp=True) for place in PLACES for family in FAMILIES),
]


def problems(net: Network, truth: Truth, status: dict[str, Any], turn: int) -> list[str]:
    """Of all kinds of connections, those that go otherwise than demanded. Sources take turns: who was refused often is
    not told any more (net/ipv4/route.c, ip_error).
    """
    net.answer_on_every_port()
    first = turn * len(KINDS)

    def look(number: int) -> list[str]:
        return [*_problems(net, truth, status, KINDS[number], _FEW * (first + number))]

    with ThreadPoolExecutor(len(KINDS)) as pool:
        return [text for found in pool.map(look, range(len(KINDS))) for text in found]


def _problems(net: Network, truth: Truth, status: dict[str, Any], kind: Kind, first: int) -> Iterator[str]:
    demand = truth.of_connection(kind.place, kind.family, kind.port)
    if demand.kind == "any" or _escapes(truth, demand, kind):
        return
    if demand.kind == "main" and demand.uplinks & truth.reset(kind.family):
        return  # mlbd takes it for dead and resets what main sends there
    if demand.kind == "main" and kind.family == 6:
        # Linux passes by a gateway that it doubts, to a route of a larger metric (net/ipv6/route.c, find_rr_leaf).
        demand = replace(demand, uplinks=frozenset(n for n, x in truth.lines.items() if x.has_route(6)), some=True)
    allowed = _allowed(truth, status, demand, kind)
    lines = [truth.lines[n] for n in allowed]
    passing = {line.number for line in lines if line.passes(kind.family)}
    steady = {line.number for line in lines if line.passes(kind.family) and not line.loss}
    served = bool(passing) and steady == set(allowed)
    patience = 5.0 if served else _PATIENCE_LOSSY if passing - steady else _PATIENCE
    tried = _try(net, kind, _COUNT if served else _FEW, patience, first)
    seen = {attempt.uplink for attempt in tried} - {None}
    if served and kind.udp and any(attempt.uplink is None for attempt in tried):
        tried = _try(
            net, kind, _COUNT, patience, first
        )  # nobody repeats a datagram that waited for a neighbour in vain
    needed = set() if demand.some or demand.kind == "one" else steady
    if needed - seen:
        tried += _try(net, kind, _MORE, patience, first)
        seen = {attempt.uplink for attempt in tried} - {None}
    errors = sorted({attempt.error for attempt in tried if attempt.uplink is None})
    told = f"{kind}: demanded {demand}, went by {sorted(map(str, seen))}, errors {errors}"
    if not seen <= passing or needed - seen or (demand.kind == "one" and len(seen) > 1):
        yield told
    elif served and errors:
        yield f"{told}; all of them work"
    elif demand.kind == "unreachable" and errors == ["timeout"] and _learns(truth, kind):
        yield f"{told}; it was to be refused"


def _escapes(truth: Truth, demand: Demand, kind: Kind) -> bool:
    """Linux asks twice for the route of a socket of its own without an address: where the first answer is a refusal, it
    takes some address of the router's and asks with that (net/ipv6/ip6_output.c, ip6_dst_lookup_tail).
    """
    refused = demand.kind in ("unreachable", "blackhole")
    return refused and (kind.place, kind.family, truth.file.own) == ("router", 6, "route")


def _learns(truth: Truth, kind: Kind) -> bool:
    """Whether a refusal reaches the program: UDP sockets are not told of such errors unless they ask, and own sockets
    not what came of a packet that was routed anew for its mark.
    """
    return not kind.udp and (kind.place, truth.file.own) != ("router", "mark")


def _allowed(truth: Truth, status: dict[str, Any], demand: Demand, kind: Kind) -> frozenset[int]:
    if demand.kind != "one":
        return demand.uplinks
    policy = _policy(truth, kind)
    return frozenset(best_of(truth, policy, demand, status) or demand.uplinks)


def _policy(truth: Truth, kind: Kind) -> Policy:
    """The one that decides where no rule names an uplink that carries."""
    policies = {policy.name: policy for policy in truth.file.policies}
    used = (policies[r.use] for r in truth.file.rules if r.holds(kind.place, kind.port) and r.use in policies)
    return next(used, truth.file.policies[0])


def _try(net: Network, kind: Kind, count: int, patience: float, first: int) -> list[Attempt]:
    sources: list[str] = []
    if kind.place != "router":
        lan = net.lan(int(kind.place.removeprefix("lan")))
        sources = [lan.source(1 + (first + number) % _SOURCES, kind.family) for number in range(count)]
    return attempts(
        net,
        kind.place,
        count,
        family=kind.family,
        port=kind.port,
        udp=kind.udp,
        sources=sources,
        timeout=patience,
        at_once=count,
    )
