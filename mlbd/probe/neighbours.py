"""Probes of the kind neighbour: ARP or neighbour discovery by one long-lived socket per uplink and family.

A reply does not say to which request. It counts for the newest one that its sender was asked by and did not answer,
so that a lost request leaves its round lost and the round trips true; with round trips longer than the pace between
rounds they would be told too short.

It shows that the neighbour is there, and no more: the kernel's own neighbour table is not looked at, as what stands
there may be old.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from mlbd.core.probing import Failure, FailureKind, Order, Outcome, Reply
from mlbd.core.settings import Family
from mlbd.probe import errors, interface
from mlbd.probe.arp import ArpSocket
from mlbd.probe.attempts import IN_FLIGHT, LIFETIME
from mlbd.probe.errors import ProbeError
from mlbd.probe.solicitation import SolicitationSocket
from mlbd.probe.timing import Sent, round_trip

_READS_PER_WAKE_UP = 64
_MOST_ADDRESSES = 100


class _Channel:
    """The socket of one uplink and family, and who was asked by it."""

    def __init__(self, family: Family, order: Order) -> None:
        """Raises OSError, ProbeError."""
        self.family = family
        self.uplink = order.uplink
        own = interface.ethernet_address(order.interface)
        if own is None:
            raise ProbeError("no-address", f"{order.interface} is not Ethernet: there is no neighbour to ask")
        made = ArpSocket if family == 4 else SolicitationSocket
        self.socket: ArpSocket | SolicitationSocket = made(order.interface, order.interface_index, own)
        self.unanswered: dict[str, list[tuple[int, Sent]]] = {}
        """By address: target and when, newest last."""

    def send(self, order: Order) -> None:
        """Raises OSError."""
        if order.address not in self.unanswered:
            if len(self.unanswered) >= _MOST_ADDRESSES:
                del self.unanswered[next(iter(self.unanswered))]
            self.unanswered[order.address] = []
            self.socket.listen_for(self.unanswered)
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


class Neighbours:
    """Probes of the kind neighbour; a `Prober` for these."""

    def __init__(self, on_outcome: Callable[[Outcome], None]) -> None:
        self._on_outcome = on_outcome
        self._loop = asyncio.get_running_loop()
        self._channels: dict[tuple[str, Family], _Channel] = {}

    def send(self, order: Order) -> None:
        family: Family = 6 if ":" in order.address else 4
        try:
            channel = self._channels.get((order.uplink, family)) or self._open(family, order)
        except ProbeError as error:
            self._fail(order, error.kind, error.text)
            return
        try:
            channel.send(order)
        except OSError as error:
            kind, text = errors.sending(error, order)
            if kind == "no-device":
                self._close(channel)
            self._fail(order, kind, text)

    def forget(self, uplink: str) -> None:
        for channel in [c for c in self._channels.values() if c.uplink == uplink]:
            self._close(channel)

    def close(self) -> None:
        for channel in list(self._channels.values()):
            self._close(channel)

    def _open(self, family: Family, order: Order) -> _Channel:
        """Raises ProbeError."""
        try:
            channel = _Channel(family, order)
        except OSError as error:
            raise ProbeError(*errors.opening(error, order)) from error
        self._channels[order.uplink, family] = channel
        self._loop.add_reader(channel.socket.fileno(), self._read, channel)
        return channel

    def _close(self, channel: _Channel) -> None:
        del self._channels[channel.uplink, channel.family]
        self._loop.remove_reader(channel.socket.fileno())
        channel.socket.close()

    def _fail(self, order: Order, kind: FailureKind, text: str) -> None:
        self._loop.call_soon(self._on_outcome, Failure(order.uplink, order.target, order.round, kind, text))

    def _read(self, channel: _Channel) -> None:
        for _ in range(_READS_PER_WAKE_UP):
            try:
                address, at = channel.socket.receive()
            except OSError:
                return  # nothing left; what else may be wrong with the interface, sending will say, too
            reply = channel.answered(address, at) if address is not None else None
            if reply is not None:
                self._on_outcome(reply)
                if self._channels.get((channel.uplink, channel.family)) is not channel:
                    return  # closed by whoever heard the outcome
