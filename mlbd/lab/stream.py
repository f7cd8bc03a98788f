"""A stream of numbered datagrams to an echo server, from a process of its own, with a record of every single one.

The process writes into memory it shares with us, so what happened can be read at any time, also while it goes on. Times
are monotonic seconds, which all processes share. 1000 packets a second cost it about a tenth of a core.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from msgspec import Struct

from mlbd.lab import echo, layout
from mlbd.lab.namespaces import LabError
from mlbd.lab.places import Places

_RECORD = struct.Struct("=ddhh4x")
"""Sent, answered (0: not), uplink, errno of sending. Instead of the first record: byte 0 stop sending, byte 1 end."""
_SEQUENCE = struct.Struct("=Q")


class Packet(Struct, frozen=True):
    sequence: int
    sent: float
    answered: float | None
    uplink: int | None
    """By which it reached the server."""
    error: int
    """errno of sending, 0 if it was sent."""


class Summary(Struct, frozen=True):
    """What became of the packets of one stretch of time."""

    packets: Sequence[Packet]

    @property
    def sent(self) -> int:
        return len(self.packets)

    @property
    def lost(self) -> int:
        """Packets without an answer, including those that could not be sent."""
        return sum(packet.answered is None for packet in self.packets)

    @property
    def longest_gap(self) -> float:
        """Seconds from the first packet of the longest run of lost ones to the next answered one, or to the end."""
        longest = 0.0
        begin: float | None = None
        for packet in self.packets:
            if packet.answered is None:
                begin = packet.sent if begin is None else begin
                longest = max(longest, packet.sent - begin)
            elif begin is not None:
                longest = max(longest, packet.sent - begin)
                begin = None
        return longest

    def first_good_after(self, moment: float) -> Packet | None:
        """The first packet sent at or after the moment that was answered."""
        return next((p for p in self.packets if p.sent >= moment and p.answered is not None), None)

    def by_uplink(self) -> dict[int | None, int]:
        """How many answered packets took which uplink."""
        found: dict[int | None, int] = {}
        for packet in self.packets:
            if packet.answered is not None:
                found[packet.uplink] = found.get(packet.uplink, 0) + 1
        return found


class UdpStream:
    """`rate` packets a second from one socket, at once and until `stop`, for at most `limit` seconds."""

    def __init__(
        self,
        net: Places,
        where: str,
        *,
        rate: float = 1000.0,
        family: int = 4,
        server: int | str = 1,
        source: str | None = None,
        connected: bool = False,
        limit: float = 600.0,
    ) -> None:
        """To one of the network's servers, or to an address that serves.

        A `connected` socket learns of ICMP errors, and on the router keeps the source address of its first route.
        """
        self._slots = int(rate * limit) + 1
        descriptor = os.memfd_create("stream")
        os.truncate(descriptor, self._slots * _RECORD.size)
        self._memory = mmap.mmap(descriptor, 0)
        destination = server if isinstance(server, str) else layout.server(server, family)
        with net.inside(where):
            s = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        with s:
            if source is not None:
                s.bind((source, 0))
            if connected:
                s.connect((destination, echo.PORT))
            fds = (s.fileno(), descriptor)
            arguments = [*map(str, fds), str(rate), destination, str(int(connected))]
            self._process = net.spawn(where, [sys.executable, "-m", __name__, *arguments], pass_fds=fds)
        os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def wait_started(self, timeout: float = 5.0) -> None:
        """Until the first answer has come. Raises LabError after the timeout, seconds."""
        deadline = time.monotonic() + timeout
        while not any(packet.answered for packet in self.so_far().packets[:1000]):
            if time.monotonic() > deadline:
                raise LabError(f"No answer to a stream for {timeout:g} s.")
            time.sleep(0.01)

    def so_far(self, since: float = 0.0) -> Summary:
        """All packets sent since the moment; the answers to the youngest may still be under way."""
        packets = []
        for sequence in range(self._slots - 1):
            sent, answered, uplink, error = _RECORD.unpack_from(self._memory, (sequence + 1) * _RECORD.size)
            if not sent:
                break
            if sent >= since:
                packets.append(Packet(sequence, sent, answered or None, uplink or None, error))
        return Summary(packets)

    def stop(self, linger: float = 0.3) -> Summary:
        """Send no more, wait that many seconds for the last answers, and tell everything."""
        self._memory[0] = 1
        time.sleep(linger)
        self._memory[1] = 1
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            raise LabError("A stream did not end.") from None
        return self.so_far()


def _send(s: socket.socket, memory: mmap.mmap, rate: float, destination: tuple[str, int] | None) -> None:
    uplinks: dict[bytes, int] = {}
    slots = len(memory) // _RECORD.size - 1
    sequence, start = 0, time.monotonic()
    while not memory[1]:
        stopped = memory[0] or sequence >= slots
        while not stopped and sequence < slots and start + sequence / rate <= (now := time.monotonic()):
            error = 0
            # The record comes first: the answer may be here before sendto returns to us.
            _RECORD.pack_into(memory, (sequence + 1) * _RECORD.size, now, 0.0, 0, 0)
            try:
                if destination is None:
                    s.send(_SEQUENCE.pack(sequence))
                else:
                    s.sendto(_SEQUENCE.pack(sequence), destination)
            except OSError as failure:
                error = failure.errno or -1
                _RECORD.pack_into(memory, (sequence + 1) * _RECORD.size, now, 0.0, 0, error)
            sequence += 1
        wait = 0.01 if stopped else max(0.0, start + sequence / rate - time.monotonic())
        if select.select([s], [], [], min(wait, 0.01))[0]:
            _receive(s, memory, uplinks)


def _receive(s: socket.socket, memory: mmap.mmap, uplinks: dict[bytes, int]) -> None:
    for _ in range(64):
        try:
            data = s.recv(2048, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:  # an ICMP error, told to a connected socket
            continue
        now = time.monotonic()
        seen, _, payload = data.partition(b" ")
        if seen not in uplinks:
            uplinks[seen] = layout.uplink_of(seen.decode()) or 0
        (sequence,) = _SEQUENCE.unpack(payload)
        sent, answered, _uplink, error = _RECORD.unpack_from(memory, (sequence + 1) * _RECORD.size)
        if not answered:
            _RECORD.pack_into(memory, (sequence + 1) * _RECORD.size, sent, now, uplinks[seen], error)


def main() -> None:
    sender, shared, rate, destination, connected = sys.argv[1:]
    s = socket.socket(fileno=int(sender))
    _send(s, mmap.mmap(int(shared), 0), float(rate), None if connected == "1" else (destination, echo.PORT))


if __name__ == "__main__":
    main()
