"""200 flaps of one uplink, by turns a pulled cable and a silent provider, under traffic of every kind.

Nothing may go the wrong way, and what goes by the other uplink may not notice: its datagrams are all answered, its
conversations neither break nor repeat a segment, and new connections fail only between a failure and its discovery.

New connections that fail after the uplink is back are counted, without a wanted figure. Those that were looked at were
IPv6 ones, after a cable was out for less than three seconds, while the gateway's neighbour entry was incomplete: most
likely its solicitation began while the cable was out, and the kernel repeats it only once a second (RFC 4861,
RetransTimer). They connect with their second SYN.

The reference is a multipath route and masquerading. Nothing watches it: it is replaced the moment something breaks.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, fields
from itertools import pairwise

from bench.masquerade import masquerade
from bench.row import Row, figure
from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network
from mlbd.lab.stream import UdpStream
from mlbd.lab.traffic import Attempt, TcpConversation, attempts

SLOW = 0.2
"""Seconds; the least that a repeated TCP segment takes."""
_CONFIG = """[probe]
interval = "100ms"
suspect_interval = "50ms"
timeout = "200ms"
fall = 3
rise = 2
hold_max = "0s"
"""

DWELL = 0.1
"""Seconds that each state lasts after the router has acted on it."""
SETTLED = 0.03
"""Seconds within which the kernel is changed and the status is read: it is asked every 20 ms."""

Act = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Count:
    """How many of how many."""

    wrong: int
    total: int

    def __str__(self) -> str:
        return f"{figure(self.wrong, '')} of {self.total:,}"


@dataclass(frozen=True, slots=True)
class Flap:
    """Monotonic seconds."""

    began: float
    acted: float
    """When the router was seen to have acted on it."""
    healed: float
    """When it was seen to have acted on its end."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What went wrong in all flaps; but for the first and the last, of what goes by the healthy uplink."""

    wrong_source: Count
    wrong_uplink: Count
    lost: Count
    broken: Count
    repeated: Count
    failed: Count
    delayed: Count


_WHAT = (
    "packets with a wrong source, at the providers",
    "datagrams of the healthy uplink's streams by the wrong uplink",
    "datagrams of the healthy uplink's streams lost",
    "TCP connections of the healthy uplink broken",
    "TCP exchanges by the healthy uplink with a segment sent twice",
    "new connections failed, begun while only the healthy uplink carried",
    "new connections that needed a second SYN, begun after the other uplink was back",
)


def run(quick: bool) -> Iterator[Row]:
    flaps, less = (10, 4) if quick else (200, 20)
    ours, theirs = _ours(flaps), _multipath(less)
    for what, found, reference in zip(_WHAT, _counts(ours), _counts(theirs), strict=True):
        wanted = "" if found is ours.delayed else "0"
        missed = f"{found.wrong} too many" if wanted and found.wrong else ""
        yield Row(f"{flaps} flaps: {what}", str(found), wanted, missed, f"multipath route, {less} flaps: {reference}")


def _counts(outcome: Outcome) -> list[Count]:
    return [getattr(outcome, field.name) for field in fields(outcome)]


def _ours(flaps: int) -> Outcome:
    with Network(2) as net:
        uplinks = "".join(
            f'[[uplink]]\nname = "{u.interface}"\ninterface = "{u.interface}"\nnat6 = "masquerade"\n'
            for u in net.uplinks
        )
        with Daemon(net, uplinks + _CONFIG) as daemon:
            return _suffer(
                net,
                flaps,
                lambda: daemon.wait_for(lambda status: [u["usable"] for u in status["uplinks"]] == [False, True]),
                lambda: daemon.wait_for(lambda status: all(u["usable"] for u in status["uplinks"])),
            )


def _multipath(flaps: int) -> Outcome:
    with Network(2, default_routes=False) as net:
        masquerade(net)
        first, second = net.uplink(1), net.uplink(2)

        def route(*uplinks: tuple[str, str]) -> None:
            for family in (0, 1):
                hops = [word for gateways in uplinks for word in ("nexthop", "via", gateways[family])]
                net.run("router", ["ip", f"-{6 if family else 4}", "route", "replace", "default", *hops])

        both = (first.gateway, first.gateway6), (second.gateway, second.gateway6)
        route(*both)
        return _suffer(net, flaps, lambda: route(both[1]), lambda: route(*both))


def _suffer(net: Network, flaps: int, failed: Act, healed: Act) -> Outcome:
    """Let uplink 1 flap; `failed` and `healed` return when the router has acted on it."""
    with ExitStack() as stack:
        limit = 5.0 * flaps + 20
        streams = [_stream(net, stack, family, limit) for family in (4, 4, 6)]
        streams.append(UdpStream(net, "router", rate=100, source=net.uplink(2).address, limit=limit))
        unbound = UdpStream(net, "router", rate=100, limit=limit)
        for each in (streams[-1], unbound):
            stack.enter_context(each).wait_started()
        talking = [conversation for family in (4, 6) for conversation in _conversations(net, stack, family)]
        end = threading.Event()
        with ThreadPoolExecutor(3) as pool:
            kinds = (("lan1", 4, 100.0), ("lan1", 6, 30.0), ("router", 4, 30.0))
            tried = [pool.submit(_connect, net, *kind, end) for kind in kinds]
            try:
                found = _flap(net, flaps, failed, healed)
            finally:
                end.set()
            connections = [attempt for future in tried for attempt in future.result()]
        packets = [packet for stream in streams for packet in stream.stop().packets]
        unbound.stop()
        exchanges = [exchange for conversation in talking for exchange in conversation.exchanges]
        wrong = sum(net.wrong_source(uplink.number) for uplink in net.uplinks)
        return Outcome(
            Count(wrong, wrong + sum(net.right_source(uplink.number) for uplink in net.uplinks)),
            Count(sum(packet.uplink not in (2, None) for packet in packets), len(packets)),
            Count(sum(packet.answered is None for packet in packets), len(packets)),
            Count(sum(conversation.reset is not None for conversation in talking), len(talking)),
            Count(sum(exchange.answered - exchange.sent > SLOW for exchange in exchanges), len(exchanges)),
            _failed(connections, [(flap.acted + SETTLED, flap.healed - SETTLED) for flap in found]),
            _failed(connections, [(flap.healed, after.began - SETTLED) for flap, after in pairwise(found)]),
        )


def _stream(net: Network, stack: ExitStack, family: int, limit: float) -> UdpStream:
    """One that goes by uplink 2."""
    while True:
        found = stack.enter_context(UdpStream(net, "lan1", rate=200, family=family, limit=limit))
        found.wait_started()
        if set(found.so_far().by_uplink()) == {2}:
            return found
        found.stop(linger=0.05)


def _conversations(net: Network, stack: ExitStack, family: int) -> list[TcpConversation]:
    """Three that go by uplink 2."""
    found: list[TcpConversation] = []
    while len(found) < 3:
        conversation = TcpConversation(net, "lan1", interval=0.02, family=family)
        stack.callback(conversation.close)
        if conversation.uplink == 2:
            found.append(conversation)
    return found


def _connect(net: Network, where: str, family: int, rate: float, end: threading.Event) -> list[Attempt]:
    found: list[Attempt] = []
    while not end.is_set():
        found += attempts(net, where, int(rate), rate=rate, family=family, timeout=0.5, at_once=200)
    return found


def _flap(net: Network, flaps: int, failed: Act, healed: Act) -> list[Flap]:
    found = []
    for number in range(flaps):
        began = time.monotonic()
        net.unplug(1) if number % 2 else net.silence(1, gateway=True)
        failed()
        acted = time.monotonic()
        time.sleep(DWELL)
        net.plug(1) if number % 2 else net.speak(1)
        healed()
        found.append(Flap(began, acted, time.monotonic()))
        time.sleep(DWELL)
    return found


def _failed(connections: Sequence[Attempt], spans: Sequence[tuple[float, float]]) -> Count:
    """Of the connections begun in one of the spans, which are in order and do not overlap: how many failed."""
    starts = [start for start, _ in spans]
    begun = [
        attempt
        for attempt in connections
        if (number := bisect_right(starts, attempt.started)) and attempt.started <= spans[number - 1][1]
    ]
    return Count(sum(attempt.took is None for attempt in begun), len(begun))
