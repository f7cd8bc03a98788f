"""Established connections, a SYN and a stream through ten seconds of silence of their provider, with the defaults.

Several networks suffer at once, each by itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime

from bench.row import Row, all_of, at_most
from mlbd.lab.daemon import Daemon, uplink_tables
from mlbd.lab.network import Network
from mlbd.lab.stream import UdpStream
from mlbd.lab.traffic import TcpConversation, attempts

OUTAGE = 10.0
"""Seconds."""
RATE = 500.0
"""Packets a second of the stream; it resolves 2 ms."""

_one_at_a_time = threading.Lock()
"""As in `silent`."""


@dataclass(frozen=True, slots=True)
class Outage:
    disturbed: int
    """Conversations by the healthy uplink that broke."""
    slowest: float
    """Seconds that the slowest exchange of a conversation by the healthy uplink took."""
    reset: float
    """Seconds from silence until the client that sends was reset."""
    survived: bool
    """Whether the idle connection went on afterwards."""
    syns: list[bool]
    """Of the connections begun in the first half second: whether they connected."""
    moved: float
    """Milliseconds from the switch to the first packet of the stream that took the other uplink."""


def run(quick: bool) -> Iterator[Row]:
    count = 1 if quick else 4
    with ExitStack() as stack, ThreadPoolExecutor(count) as pool:
        nets = [stack.enter_context(Network(2)) for _ in range(count)]
        daemons = [stack.enter_context(Daemon(net, uplink_tables(net))) for net in nets]
        found = list(pool.map(_suffer, nets, daemons))
    healthy = 2 * len(found)
    yield all_of(
        "TCP on the healthy uplink, a message every 20 ms: not broken",
        healthy - sum(o.disturbed for o in found),
        healthy,
    )
    yield at_most("TCP on the healthy uplink: slowest exchange", [1000 * o.slowest for o in found], 200, "ms")
    yield at_most("TCP on the silent uplink: a client that sends is reset after", [o.reset for o in found], 4.0, "s")
    yield all_of("TCP idle through 10 s of silence: goes on afterwards", sum(o.survived for o in found), len(found))
    syns = [connected for outage in found for connected in outage.syns]
    yield all_of("SYNs sent in the first 0.5 s of silence: connect", sum(syns), len(syns))
    yield at_most("UDP: from the switch to its first packet by the other uplink", [o.moved for o in found], 100, "ms")


def _conversation(net: Network, uplink: int, interval: float | None) -> TcpConversation:
    while True:
        found = TcpConversation(net, "lan1", interval=interval)
        if found.uplink == uplink:
            return found
        found.close()


def _stream(net: Network, stack: ExitStack) -> UdpStream:
    """One that goes by uplink 1."""
    while True:
        found = stack.enter_context(UdpStream(net, "lan1", rate=RATE, limit=60))
        found.wait_started()
        if set(found.so_far().by_uplink()) == {1}:
            return found
        found.stop(linger=0.05)


def _switched(daemon: Daemon) -> float:
    """When the daemon said that it had changed the kernel, monotonic seconds."""
    record = next(record for record in daemon.log() if record.get("event") == "uplink_down")
    return datetime.fromisoformat(record["timestamp"]).timestamp() - time.time() + time.monotonic()


def _suffer(net: Network, daemon: Daemon) -> Outage:
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        stream = _stream(net, stack)
        healthy = [_conversation(net, 2, 0.02) for _ in range(2)]
        sending, idle = _conversation(net, 1, 0.05), _conversation(net, 1, None)
        for conversation in (*healthy, sending, idle):
            stack.callback(conversation.close)
        time.sleep(0.5)
        silent = time.monotonic()
        with _one_at_a_time:
            net.silence(1, gateway=True)
        tried = pool.submit(attempts, net, "lan1", 20, rate=40, timeout=8.0)
        daemon.wait_for(lambda status: [u["usable"] for u in status["uplinks"]] == [False, True])
        time.sleep(max(0.0, silent + OUTAGE - time.monotonic()))
        with _one_at_a_time:
            net.speak(1)
        daemon.wait_for(lambda status: all(uplink["usable"] for uplink in status["uplinks"]), timeout=20)
        try:
            idle.say()
            survived = True
        except OSError:
            survived = False
        switched = _switched(daemon)
        first = stream.stop().first_good_after(silent + 0.05)
        slowest = max(e.answered - e.sent for conversation in healthy for e in conversation.exchanges)
        return Outage(
            sum(conversation.reset is not None for conversation in healthy),
            slowest,
            sending.reset - silent if sending.reset is not None else OUTAGE,
            survived,
            [attempt.uplink == 2 for attempt in tried.result()],
            1000 * max(0.0, first.sent - switched) if first is not None else 1000 * OUTAGE,
        )
