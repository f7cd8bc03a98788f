"""What the demo's LAN does all the time: new TCP connections at a steady rate, and a few conversations that last.

Both run in one thread, each connection a coroutine. Which way something went is what the server in the internet saw
(`echo`), never what the daemon says.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
import time
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Self

from msgspec import Struct

from mlbd.lab import echo, layout
from mlbd.lab.places import Places
from mlbd.lab.traffic import Attempt

PATIENCE = 5.0
"""Seconds until a connection that does not come about has failed. A lost SYN is sent again within these."""
_KEPT = 20000
"""Attempts remembered; minutes of them."""
_SERVERS, _SOURCES = 200, 126
_PAUSE = 0.2
"""Seconds between an answer and the next message of a conversation, and before it connects again."""


class Conversation(Struct):
    """One long connection, made again when it breaks. Written by the traffic's thread only, but for `renew`."""

    uplink: int | None = None
    """None while it is not connected."""
    answered: float = 0.0
    """When its last message was, monotonic seconds."""
    renew: bool = False
    """It shall end by itself and be made again. Written by others."""


class Break(Struct, frozen=True):
    """The end of a conversation that did not want to end."""

    at: float
    """Monotonic seconds."""
    uplink: int
    error: str


class Traffic:
    """Runs between `with` and its end. Everything may be read at any time from another thread."""

    def __init__(self, net: Places, *, rate: float, conversations: int, segment: int = 1) -> None:
        """`rate`: new connections a second. `segment`: the number of the LAN."""
        self.rate = rate
        self.conversations: Sequence[Conversation] = tuple(Conversation() for _ in range(conversations))
        self.answered = 0
        """Connections that came about, ever."""
        self.failed = 0
        """Those that did not."""
        self._net, self._segment = net, segment
        self._attempts: list[Attempt] = []
        self._waiting: dict[int, float] = {}
        self._breaks: list[Break] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.join(timeout=5)

    def attempts(self, since: float = 0.0) -> list[Attempt]:
        """The finished ones that were started at the moment or after it, in the order of their end."""
        return [attempt for attempt in self._attempts[:] if attempt.started >= since]

    def waiting(self) -> list[float]:
        """When the connections were started that are neither answered nor given up."""
        return list(self._waiting.copy().values())

    def breaks(self, since: float = 0.0) -> list[Break]:
        return [found for found in self._breaks[:] if found.at >= since]

    def _run(self) -> None:
        with self._net.inside(f"lan{self._segment}"):
            asyncio.run(self._send())

    async def _send(self) -> None:
        talks = {asyncio.create_task(self._talk(talk, n)) for n, talk in enumerate(self.conversations)}
        attempts: set[asyncio.Task[None]] = set()
        number, begin = 0, time.monotonic()
        while not self._closing.is_set():
            attempt = asyncio.create_task(self._attempt(number))
            attempts.add(attempt)
            attempt.add_done_callback(attempts.discard)
            number += 1
            await asyncio.sleep(max(0.0, begin + number / self.rate - time.monotonic()))
        for task in (*talks, *attempts):
            task.cancel()
        await asyncio.gather(*talks, *attempts, return_exceptions=True)

    async def _attempt(self, number: int) -> None:
        self._waiting[number] = began = time.monotonic()
        uplink, took, error = None, None, ""
        try:
            async with asyncio.timeout(PATIENCE), _connection(number, self._segment) as (_reader, _writer, uplink):
                took = time.monotonic() - began
                self.answered += 1
        except OSError as failure:
            error = _name(failure)
            self.failed += 1
        finally:
            del self._waiting[number]
        self._attempts.append(Attempt(began, took, uplink, error))
        if len(self._attempts) > _KEPT:
            del self._attempts[: _KEPT // 2]

    async def _talk(self, talk: Conversation, number: int) -> None:
        while True:
            try:
                async with contextlib.AsyncExitStack() as stack:
                    async with asyncio.timeout(PATIENCE):
                        reader, writer, talk.uplink = await stack.enter_async_context(
                            _connection(number, self._segment)
                        )
                    while not talk.renew:
                        talk.answered = time.monotonic()
                        await asyncio.sleep(_PAUSE)
                        writer.write(b"and then?\n")
                        if not await reader.readline():
                            raise ConnectionAbortedError(errno.ECONNABORTED, "closed by the server")
                talk.renew, talk.uplink = False, None
            except OSError as failure:
                if talk.uplink is not None:
                    self._breaks.append(Break(time.monotonic(), talk.uplink, _name(failure)))
                    talk.uplink = None
            await asyncio.sleep(_PAUSE)


@contextlib.asynccontextmanager
async def _connection(
    number: int, segment: int
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, int | None]]:
    """A connection whose server has greeted, and its uplink. Servers and sources are taken in turn."""
    server = layout.server(1 + number % _SERVERS)
    source = layout.source(segment, 1 + number % _SOURCES)
    reader, writer = await asyncio.open_connection(server, echo.PORT, local_addr=(source, 0))
    try:
        seen = (await reader.readline()).decode().strip()
        if not seen:
            raise ConnectionAbortedError(errno.ECONNABORTED, "closed by the server")
        yield reader, writer, layout.uplink_of(seen)
    finally:
        writer.transport.abort()


def _name(failure: OSError) -> str:
    return errno.errorcode.get(failure.errno or 0, "timeout" if isinstance(failure, TimeoutError) else str(failure))
