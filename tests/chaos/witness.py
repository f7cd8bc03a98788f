"""Conversations by uplinks to which nothing happens: they must not notice what happens to the others."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

from mlbd.lab import echo, layout
from mlbd.lab.network import Network
from mlbd.lab.traffic import TcpConversation
from tests.chaos.truth import Truth

_PLACES = (("lan1", 4), ("lan1", 6), ("lan2", 4), ("router", 4), ("router", 6))
_INTERVAL = 0.02
_RECOVERY = 3.0
_LONGEST = 1.0
"""Seconds that an answer may take; the machine may be busy."""


class Datagrams:
    """One UDP socket that talks by itself."""

    def __init__(self, net: Network, where: str, family: int) -> None:
        with net.inside(where):
            self._socket = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        self.where, self.family = where, family
        self._socket.settimeout(_LONGEST)
        self._server = (layout.server(2, family), echo.PORT)
        self._closing = threading.Event()
        self.seen: list[tuple[float, int | None]] = []
        """When each was sent, and by which uplink it was answered, if it was."""
        self._talk_once()
        self.uplink = self.seen[0][1]
        self._thread = threading.Thread(target=self._talk, daemon=True)
        self._thread.start()

    def _talk(self) -> None:
        while not self._closing.wait(_INTERVAL):
            self._talk_once()

    def _talk_once(self) -> None:
        now, number = time.monotonic(), b"%d" % len(self.seen)
        uplink = None
        with contextlib.suppress(OSError):
            self._socket.sendto(number, self._server)
            while True:
                peer, _, payload = self._socket.recv(100).partition(b" ")
                if payload == number:
                    uplink = layout.uplink_of(peer.decode())
                    break
        self.seen.append((now, uplink))

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._socket.close()


class Witnesses:
    """Those of one leg. `hurt`: uplinks to which something happens in it."""

    def __init__(
        self, net: Network, truth: Truth, hurt: set[int], *, talking: bool, datagrams: bool, own: bool
    ) -> None:
        self._net = net
        self._truth = truth
        self._safe = {line.number for line in truth.configured if line.healthy} - hurt
        self._idle: list[TcpConversation] = []
        self._talking: list[TcpConversation] = []
        self._datagrams: list[Datagrams] = []
        if not self._safe or not any(truth.usable(number) for number in self._safe):
            return
        # Where marks choose, the router's own have the address of main's first uplink, whichever they go by.
        for where, family in _PLACES if own else _PLACES[:3]:
            self._add(where, family, None, self._idle)
            if talking:
                self._add(where, family, _INTERVAL, self._talking)
        if talking and datagrams:
            self._datagrams = [Datagrams(net, where, family) for where, family in _PLACES[:2]]

    def _add(self, where: str, family: int, interval: float | None, into: list[TcpConversation]) -> None:
        with contextlib.suppress(OSError):  # there may be no way for it
            into.append(TcpConversation(self._net, where, family=family, interval=interval, timeout=1.0))

    @property
    def count(self) -> int:
        uplinks = [c.uplink for c in (*self._idle, *self._talking)] + [stream.uplink for stream in self._datagrams]
        return sum(uplink in self._safe for uplink in uplinks)

    def problems(self) -> Iterator[str]:
        """What they noticed; they end."""
        for what, conversations in (("an idle", self._idle), ("a talking", self._talking)):
            for conversation in conversations:
                if conversation.uplink not in self._safe:
                    continue
                if what == "an idle":
                    with contextlib.suppress(OSError):
                        conversation.say(timeout=2.0)
                error, exchanges = conversation.error, conversation.exchanges
                if error is not None or not exchanges:
                    yield f"{what} conversation by wan{conversation.uplink}, to which nothing happened, broke: {error}"
                    continue
                longest = max(e.answered - e.sent for e in exchanges)
                if longest > _LONGEST:
                    yield f"{what} conversation by wan{conversation.uplink} waited {longest:.2f} s for an answer"
        for stream in self._datagrams:
            if stream.uplink not in self._safe:
                yield from self._moved(stream)
                continue
            others = [(at, uplink) for at, uplink in stream.seen if uplink != stream.uplink]
            if others:
                which = f"{len(others)} of {len(stream.seen)} datagrams by wan{stream.uplink}"
                yield f"{which}, to which nothing happened, were lost or moved: {others[:5]}"

    def _moved(self, stream: Datagrams) -> Iterator[str]:
        """Datagrams by an uplink that is out now must have found another one, where all others would do."""
        truth = self._truth
        demand = truth.of_connection(stream.where, stream.family, echo.PORT)
        line = truth.lines.get(stream.uplink or 0)
        out = line is not None and line in truth.configured and not truth.works(line)
        if not out or demand.kind != "all" or not all(truth.lines[n].healthy for n in demand.uplinks):
            return
        deadline = time.monotonic() + _RECOVERY
        while stream.seen[-1][1] not in demand.uplinks:
            if time.monotonic() > deadline:
                yield f"datagrams by wan{stream.uplink}, which is out, have not found another: {demand}"
                return
            time.sleep(0.05)

    def close(self) -> None:
        for conversation in (*self._idle, *self._talking):
            conversation.close()
        for stream in self._datagrams:
            stream.close()
