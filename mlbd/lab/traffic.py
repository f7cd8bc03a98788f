"""TCP in the lab: many short connections, and long conversations. Each tells by which uplink it goes.

Everything here opens its sockets in the place it is given and may run in a thread, beside faults made by another one.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from msgspec import Struct

from mlbd.lab import echo, layout
from mlbd.lab.namespaces import LabError
from mlbd.lab.places import Places

_SERVERS = range(1, 101)


class Attempt(Struct, frozen=True):
    """One connection, from its SYN to the server's first line; or one datagram and its answer."""

    started: float
    """Monotonic seconds."""
    took: float | None
    """Seconds; None if it failed."""
    uplink: int | None
    error: str = ""
    """`ECONNREFUSED`, `timeout`, ...; "" if it succeeded."""
    seen: str = ""
    """The address that the server saw."""


def attempts(
    net: Places,
    where: str,
    count: int,
    *,
    rate: float | None = None,
    family: int = 4,
    servers: Sequence[int | str] = _SERVERS,
    sources: Sequence[str] = (),
    timeout: float = 3.0,
    at_once: int = 50,
    port: int = echo.PORT,
    udp: bool = False,
    source_port: int = 0,
    mark: int = 0,
    interface: str = "",
) -> list[Attempt]:
    """Open connections, `rate` a second or as fast as `at_once` open ones allow; close each when its answer is here.

    Servers, numbers or addresses, and sources are taken in turn. The attempts come in the order of their start.
    `mark` and `interface` are SO_MARK and SO_BINDTODEVICE of socket(7). With a `source_port`, no two attempts under way
    may be to the same server.
    """
    if port != echo.PORT:
        net.answer_on_every_port()
    selector = selectors.DefaultSelector()
    done: dict[int, Attempt] = {}
    opened: dict[int, tuple[float, socket.socket]] = {}
    kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
    begin = time.monotonic()
    started = 0

    def begin_one(server: int | str, source: str) -> tuple[socket.socket | None, str]:
        s = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, kind | socket.SOCK_NONBLOCK)
        try:
            if source or source_port:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                s.bind((source, source_port))
            if mark:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            if interface:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
            s.connect((server if isinstance(server, str) else layout.server(server, family), port))
            if udp:
                s.send(b"x")
        except BlockingIOError:
            pass
        except OSError as error:
            s.close()
            return None, errno.errorcode.get(error.errno or 0, str(error))
        return s, ""

    def finish(number: int, seen: str, error: str) -> None:
        since, s = opened.pop(number)
        selector.unregister(s)
        s.close()
        uplink = layout.uplink_of(seen) if seen else None
        took = time.monotonic() - since if uplink else None
        done[number] = Attempt(since, took, uplink, error or ("" if uplink else f"seen as {seen}"), seen)

    with net.inside(where), selector:
        while len(done) < count:
            now = time.monotonic()
            while started < count and len(opened) < at_once and (rate is None or begin + started / rate <= now):
                source = sources[started % len(sources)] if sources else ""
                s, error = begin_one(servers[started % len(servers)], source)
                if s is None:
                    done[started] = Attempt(now, None, None, error)
                else:
                    opened[started] = (time.monotonic(), s)
                    selector.register(s, selectors.EVENT_READ, started)
                started += 1
            for key, _ in selector.select(0.001 if started < count else 0.01):
                seen, error = _answer(opened[key.data][1])
                if seen or error:
                    finish(key.data, seen, error)
            for number in [n for n, (since, _) in opened.items() if time.monotonic() - since > timeout]:
                finish(number, "", _pending_error(opened[number][1]) or "timeout")
    return [done[number] for number in range(count)]


def connect_many(net: Places, where: str, count: int, **options: object) -> Counter[int | None]:
    """How many connections went by which uplink; None counts those that failed. Options as of `attempts`."""
    return Counter(attempt.uplink for attempt in attempts(net, where, count, **options))  # type: ignore[arg-type]


def _answer(s: socket.socket) -> tuple[str, str]:
    """The address that the server saw, or the error; neither if there is nothing yet."""
    try:
        line = s.recv(128)
    except BlockingIOError:  # woken by an ICMP error that the connection may survive
        return "", _pending_error(s)
    except OSError as error:
        return "", errno.errorcode.get(error.errno or 0, str(error))
    return (line.split()[0].decode(), "") if line else ("", "closed")


def _pending_error(s: socket.socket) -> str:
    number = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return errno.errorcode.get(number, str(number)) if number else ""


class Exchange(Struct, frozen=True):
    """One message and its echo; monotonic seconds."""

    sent: float
    answered: float


class TcpConversation:
    """One long connection. With an `interval` it talks by itself, a message as soon as the last is answered and the
    interval is over; without one it is idle until it is told to `say` something.
    """

    def __init__(
        self,
        net: Places,
        where: str,
        *,
        interval: float | None = None,
        family: int = 4,
        server: int = 1,
        source: str | None = None,
        timeout: float = 5.0,
    ) -> None:
        """Raises OSError when it does not connect within the timeout, seconds."""
        self.exchanges: list[Exchange] = []
        self.reset: float | None = None
        """When it broke, monotonic seconds; None as long as it has not. `error` says how."""
        self.error: OSError | None = None
        self._number = 0
        self._received = b""
        self._closing = threading.Event()
        with net.inside(where):
            self._socket = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if source is not None:
                self._socket.bind((source, 0))
            self._socket.settimeout(timeout)
            self._socket.connect((layout.server(server, family), echo.PORT))
            self.uplink = layout.uplink_of(self._line().decode())
        except BaseException:
            self._socket.close()
            raise
        self._thread: threading.Thread | None = None
        if interval is not None:
            self._socket.settimeout(None)
            self._thread = threading.Thread(target=self._talk, args=(interval,), daemon=True)
            self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def say(self, timeout: float | None = 5.0) -> Exchange:
        """Send one message and wait for its echo. Raises OSError: ConnectionResetError, TimeoutError, ..."""
        if self._thread is not None and threading.current_thread() is not self._thread:
            raise LabError("This conversation talks by itself.")
        if self._thread is None:
            self._socket.settimeout(timeout)
        self._number += 1
        message = f"{self._number}\n".encode()
        sent = time.monotonic()
        try:
            self._socket.sendall(message)
            while self._line() != message.strip():
                pass  # the late echo of a message that was given up
        except OSError as error:
            if not isinstance(error, TimeoutError) or error.errno == errno.ETIMEDOUT:
                self.reset, self.error = time.monotonic(), error
            raise
        self.exchanges.append(Exchange(sent, time.monotonic()))
        return self.exchanges[-1]

    def _line(self) -> bytes:
        while b"\n" not in self._received:
            data = self._socket.recv(4096)
            if not data:
                raise ConnectionAbortedError(errno.ECONNABORTED, "closed by the server")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _talk(self, interval: float) -> None:
        while not self._closing.wait(interval):
            try:
                self.say()
            except (OSError, ValueError):
                return

    def wait_reset(self, timeout: float) -> float:
        """When it broke, monotonic seconds. Raises LabError if it has not after the timeout, seconds."""
        deadline = time.monotonic() + timeout
        while self.reset is None:
            if time.monotonic() > deadline:
                raise LabError(f"The connection was not reset within {timeout:g} s.")
            time.sleep(0.005)
        return self.reset

    def close(self) -> None:
        self._closing.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._thread is not None:
            self._thread.join(timeout=5)
        self._socket.close()
