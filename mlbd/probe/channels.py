"""Long-lived sockets by which neighbours are asked, one per uplink and family, and who was asked by each.

A reply does not say to which request. It counts for the newest one that its sender was asked by and did not answer,
so that a lost request leaves its round lost and the round trips true; with round trips longer than the pace between
rounds they would be told too short.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from mlbd.core.probing import Failure, FailureKind, Order, Outcome, Reply
from mlbd.core.settings import Family
from mlbd.probe import errors
from mlbd.probe.attempts import IN_FLIGHT, LIFETIME
from mlbd.probe.errors import ProbeError
from mlbd.probe.timing import Sent, round_trip

_READS_PER_WAKE_UP = 64
_MOST_ADDRESSES = 100


class Asking(Protocol):
    """A non-blocking socket; what it raises is OSError."""

    def fileno(self) -> int: ...

    def listen_for(self, addresses: Iterable[str]) -> None:
        """Let in only replies of these (at most 200)."""

    def send(self, address: str) -> None: ...

    def close(self) -> None: ...


S = TypeVar("S", bound=Asking)


class Channel(Generic[S]):
    """The socket of one uplink and family, and who was asked by it."""

    def __init__(self, family: Family, order: Order, made: S) -> None:
        self.family = family
        self.uplink = order.uplink
        self.bundle = order.bundle
        self.place = _place(order)
        self.socket = made
        self.unanswered: dict[str, list[tuple[int, Sent]]] = {}
        """By address: target and when, newest last."""

    def admit(self, address: str) -> None:
        if len(self.unanswered) >= _MOST_ADDRESSES:
            del self.unanswered[next(iter(self.unanswered))]
        self.unanswered[address] = []

    def send(self, order: Order) -> None:
        """Raises OSError."""
        waiting = self.unanswered[order.address]
        # Noted before sending: over a veth the reply can be here before sendto returns.
        waiting.append((order.target, Sent(order.round, order.address, time.time_ns(), time.monotonic_ns())))
        del waiting[:-IN_FLIGHT]
        try:
            self.socket.send(order.address)
        except OSError:
            waiting.pop()
            raise

    def answered(self, address: str, at: int) -> Reply | None:
        """What a reply of that address says about a probe of ours."""
        now = time.monotonic_ns()
        waiting = self.unanswered.get(address)
        if not waiting:
            return None
        target, sent = waiting.pop()
        elapsed = round_trip(sent, at, now) / 1e9
        return Reply(self.uplink, target, sent.round, elapsed) if elapsed <= LIFETIME else None


class Channels(ABC, Generic[S]):
    """Probes of the kind neighbour by one sort of socket; a `Prober` for these."""

    def __init__(self, on_outcome: Callable[[Outcome], None]) -> None:
        self._on_outcome = on_outcome
        self._loop = asyncio.get_running_loop()
        self._channels: dict[tuple[str, Family], Channel[S]] = {}

    @abstractmethod
    def _make(self, family: Family, order: Order) -> S:
        """Raises OSError, ProbeError."""

    @abstractmethod
    def _next(self, channel: Channel[S]) -> Reply | None:
        """What the next packet in the socket says about a probe of ours. Raises OSError, also when there is none."""

    def _listen(self, channel: Channel[S]) -> None:
        """There is another address that this channel asks. Raises OSError."""
        channel.socket.listen_for(channel.unanswered)

    def send(self, order: Order) -> None:
        """Send one probe now; never blocks, never raises. A probe that cannot be sent becomes a `Failure`."""
        family: Family = 6 if ":" in order.address else 4
        channel = self._channels.get((order.uplink, family))
        if channel is not None and channel.place != _place(order):
            self._close(channel)
            channel = None
        try:
            channel = channel or self._open(family, order)
        except ProbeError as error:
            self._fail(order, error.kind, error.text)
            return
        try:
            if order.address not in channel.unanswered:
                self._admit(channel, order.address)
            channel.send(order)
        except OSError as error:
            kind, text = errors.sending(error, order)
            if kind == "no-device":
                self._close(channel)
            self._fail(order, kind, text)

    def forget(self, uplink: str) -> None:
        """Close the uplink's sockets."""
        for channel in [c for c in self._channels.values() if c.uplink == uplink]:
            self._close(channel)

    def _admit(self, channel: Channel[S], address: str) -> None:
        """Raises OSError."""
        channel.admit(address)
        try:
            self._listen(channel)
        except OSError:
            del channel.unanswered[address]
            raise

    def _open(self, family: Family, order: Order) -> Channel[S]:
        """Raises ProbeError."""
        try:
            channel = Channel(family, order, self._make(family, order))
        except OSError as error:
            raise ProbeError(*errors.opening(error, order)) from error
        self._channels[order.uplink, family] = channel
        self._loop.add_reader(channel.socket.fileno(), self._read, channel)
        return channel

    def _close(self, channel: Channel[S]) -> None:
        del self._channels[channel.uplink, channel.family]
        self._loop.remove_reader(channel.socket.fileno())
        channel.socket.close()

    def _fail(self, order: Order, kind: FailureKind, text: str) -> None:
        self._loop.call_soon(self._on_outcome, Failure(order.uplink, order.target, order.round, kind, text))

    def _read(self, channel: Channel[S]) -> None:
        for _ in range(_READS_PER_WAKE_UP):
            try:
                reply = self._next(channel)
            except OSError:
                return  # nothing left; what else may be wrong with the interface, sending will say, too
            if reply is not None:
                self._on_outcome(reply)
                if self._channels.get((channel.uplink, channel.family)) is not channel:
                    return  # closed by whoever heard the outcome


def _place(order: Order) -> tuple[str, int, tuple[str, ...], str]:
    """What a socket is made for."""
    return order.interface, order.interface_index, order.sources, order.bundle
