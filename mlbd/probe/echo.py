"""ICMP echo probes: one long-lived raw socket per uplink and family, and the bookkeeping of who answered what.

A probe is known by four things that must all fit: an identifier drawn at random for each target of a socket (a fresh
one per probe would fill the connection tracking table, a shared one got EPERM from it when routing changed), the
sequence number (the round's lower 16 bits), a payload with a random cookie and the round, and the address it went to.
What fits is reported once; what comes again, or fits only in part, is counted and dropped.

Imperfect: the packet's source address is the kernel's choice. The core does not order probes of an uplink without
addresses, but an order that crosses the loss of the last address may leave with another interface's address.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
import time
from collections.abc import Callable

from mlbd.core.probing import Failure, Order, Outcome, Reply
from mlbd.core.settings import Family
from mlbd.probe import errors
from mlbd.probe.echo_socket import EchoSocket
from mlbd.probe.message import Message, parse
from mlbd.probe.timing import Sent, round_trip

REMEMBERED = 1024
"""Unanswered probes remembered per target; a reply later than that is dropped."""

_READS_PER_WAKE_UP = 64
"""So that a flood of replies cannot keep the event loop to itself."""

_ROUND = struct.Struct("!Q")


class _Target:
    """One target as asked through one socket."""

    def __init__(self, index: int, identifier: int) -> None:
        self.index = index
        self.identifier = identifier
        self.cookie = secrets.token_bytes(8)
        self.unanswered: dict[int, Sent] = {}
        """By sequence number, oldest first."""

    def payload(self, round_: int) -> bytes:
        return self.cookie + _ROUND.pack(round_)

    def remember(self, sequence: int, sent: Sent) -> None:
        self.unanswered.pop(sequence, None)
        self.unanswered[sequence] = sent
        if len(self.unanswered) > REMEMBERED:
            del self.unanswered[next(iter(self.unanswered))]


class _Channel:
    """The socket of one uplink and family, with its targets."""

    def __init__(self, family: Family, order: Order) -> None:
        """Raises OSError when the socket cannot be opened."""
        self.family = family
        self.uplink = order.uplink
        self.interface = order.interface
        self.interface_index = order.interface_index
        self.mark = order.mark
        self.socket = EchoSocket(family, order.interface, order.mark)
        self.targets: dict[int, _Target] = {}
        self.by_identifier: dict[int, _Target] = {}

    def serves(self, order: Order) -> bool:
        """SO_BINDTODEVICE bound the socket to an index, which the interface may no longer have."""
        bound = self.interface_index, self.interface, self.mark
        return bound == (order.interface_index, order.interface, order.mark)

    def target(self, index: int) -> _Target:
        """The target of that index, with an identifier nobody else on this socket has. Raises OSError."""
        target = self.targets.get(index)
        if target is None:
            identifier = secrets.randbelow(65535) + 1
            while identifier in self.by_identifier:
                identifier = secrets.randbelow(65535) + 1
            target = _Target(index, identifier)
            self.socket.listen_for([*self.by_identifier, identifier])
            self.targets[index] = self.by_identifier[identifier] = target
        return target

    def send(self, order: Order) -> None:
        """Raises OSError."""
        target = self.target(order.target)
        sequence = order.round & 0xFFFF
        # Noted before sending: over a veth the reply can be here before sendto returns.
        target.remember(sequence, Sent(order.round, order.address, time.time_ns(), time.monotonic_ns()))
        try:
            self.socket.send(target.identifier, sequence, target.payload(order.round), order.address)
        except OSError:
            del target.unanswered[sequence]
            raise


class Echoes:
    """Probes of the kind icmp; a `Prober` for these."""

    def __init__(self, on_outcome: Callable[[Outcome], None]) -> None:
        self._on_outcome = on_outcome
        self._loop = asyncio.get_running_loop()
        self._channels: dict[tuple[str, Family], _Channel] = {}
        self.duplicates = 0
        """Answers to probes of ours that were answered before, or so long ago that they are forgotten."""
        self.foreign = 0
        """Messages that reached us but belong to no probe of ours, or come from somebody else than was asked."""

    def send(self, order: Order) -> None:
        """Send one probe now; never blocks, never raises. A probe that cannot be sent becomes a `Failure`."""
        family: Family = 6 if ":" in order.address else 4
        channel = self._channels.get((order.uplink, family))
        if channel is not None and not channel.serves(order):
            self._close(channel)
            channel = None
        if channel is None:
            try:
                channel = self._open(family, order)
            except OSError as error:
                kind, text = errors.opening(error, order)
                self._fail(Failure(order.uplink, order.target, order.round, kind, text))
                return
        try:
            channel.send(order)
        except OSError as error:
            kind, text = errors.sending(error, order)
            if kind == "no-device":
                self._close(channel)
            self._fail(Failure(order.uplink, order.target, order.round, kind, text))

    def forget(self, uplink: str) -> None:
        """Close the uplink's sockets: replies are no longer heard. A failure to send may still be on its way."""
        for channel in [c for c in self._channels.values() if c.uplink == uplink]:
            self._close(channel)

    def close(self) -> None:
        """Close all sockets."""
        for channel in list(self._channels.values()):
            self._close(channel)

    def _open(self, family: Family, order: Order) -> _Channel:
        channel = _Channel(family, order)
        self._channels[order.uplink, family] = channel
        self._loop.add_reader(channel.socket.fileno(), self._read, channel)
        return channel

    def _close(self, channel: _Channel) -> None:
        del self._channels[channel.uplink, channel.family]
        self._loop.remove_reader(channel.socket.fileno())
        channel.socket.close()

    def _fail(self, failure: Failure) -> None:
        # Later, so that whoever gave the order is done with it before it hears of it.
        self._loop.call_soon(self._on_outcome, failure)

    def _read(self, channel: _Channel) -> None:
        for _ in range(_READS_PER_WAKE_UP):
            try:
                data, source, at = channel.socket.receive()
            except OSError:
                # Nothing left (EAGAIN). Any other error says something about the interface, which sending will say too.
                return
            message = parse(channel.family, data)
            outcome = self._match(channel, message, source, at) if message is not None else None
            if outcome is not None:
                self._on_outcome(outcome)
                if self._channels.get((channel.uplink, channel.family)) is not channel:
                    return  # closed by whoever heard the outcome

    def _match(self, channel: _Channel, message: Message, source: str, at: int) -> Outcome | None:
        """What the message says about a probe of ours; None, and counted, if nothing."""
        now = time.monotonic_ns()
        target = channel.by_identifier.get(message.identifier)
        sent = target.unanswered.get(message.sequence) if target is not None else None
        if target is None or sent is None:
            if target is not None and message.payload[:8] == target.cookie:
                self.duplicates += 1
            else:
                self.foreign += 1
            return None
        expected, got = target.payload(sent.round), message.payload[:16]
        if message.error:
            # An error need not quote more than the ICMP header (RFC 792); what it does quote must be ours.
            genuine = expected.startswith(got) and message.destination == sent.address
        else:
            genuine = expected == got and source == sent.address
        if not genuine:
            self.foreign += 1
            return None
        del target.unanswered[message.sequence]
        if message.error:
            text = f"{message.error}, says {source}"
            return Failure(channel.uplink, target.index, sent.round, "unreachable", text)
        return Reply(channel.uplink, target.index, sent.round, round_trip(sent, at, now) / 1e9)
