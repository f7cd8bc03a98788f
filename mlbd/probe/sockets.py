"""Non-blocking sockets of one probe: bound to the uplink's device, waited for by the event loop, closed at once.

SO_BINDTODEVICE, and not a mark or a source address, is what guarantees the way out, as for echo requests. It needs the
routing rule `oif` of the uplink (docs/how-it-works.md) to find its gateway.

Imperfect: Linux tells a datagram that a firewall of this router dropped it (EPERM), but not a TCP connection, which
sends its first segment again and again; such a probe looks lost.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
import ssl
import struct
import time
from collections.abc import Callable, Coroutine
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from mlbd.core.probing import Order
from mlbd.probe import errors
from mlbd.probe.errors import ProbeError

T = TypeVar("T")
Wait = Callable[[socket.socket], Coroutine[Any, Any, None]]

_RST_ON_CLOSE = struct.pack("@ii", 1, 0)
_TCP_INFO_SIZE = 104
_RTT, _RETRANSMITTED = 68, 100  # tcpi_rtt in us, and tcpi_total_retrans, of struct tcp_info in linux/tcp.h


def bound(order: Order, kind: socket.SocketKind) -> socket.socket:
    """A new socket of the family of the order's address. Raises ProbeError."""
    family = socket.AF_INET6 if ":" in order.address else socket.AF_INET
    try:
        made = socket.socket(family, kind)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, order.interface.encode())
            made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, order.mark)
            made.setblocking(False)
        except OSError:
            made.close()
            raise
    except OSError as error:
        raise ProbeError(*errors.opening(error, order)) from error
    return made


def endpoint(order: Order, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """The socket address of the order's target; a link-local one is on the uplink's interface."""
    if ":" not in order.address:
        return order.address, port
    local = ipaddress.ip_address(order.address).is_link_local
    return order.address, port, 0, order.interface_index if local else 0


class Connection:
    """A TCP connection, with TLS or without."""

    def __init__(self, made: socket.socket, order: Order) -> None:
        self._socket = made
        self._order = order
        self.started = time.monotonic_ns()

    @classmethod
    async def to(cls, order: Order) -> Self:
        """Raises ProbeError, OSError."""
        made = bound(order, socket.SOCK_STREAM)
        try:
            # Closing leaves neither TIME_WAIT nor a segment to be sent again to a target that is silent.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
            found = cls(made, order)
            try:
                made.connect(endpoint(order, order.ask.port))
            except BlockingIOError:
                await writable(made)
            error = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error == errno.ETIMEDOUT:
                raise TimeoutError
            if error:
                raise errors.heard(OSError(error, os.strerror(error)), order)
        except BaseException:
            made.close()
            raise
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def elapsed(self) -> float:
        """Seconds since the connection was asked for."""
        return (time.monotonic_ns() - self.started) / 1e9

    def handshake(self) -> float:
        """Seconds until the connection was accepted: as the kernel measured it, unless it had to ask twice."""
        elapsed = self.elapsed()
        info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
        if len(info) < _TCP_INFO_SIZE:
            return elapsed
        (measured,), (again,) = struct.unpack_from("@I", info, _RTT), struct.unpack_from("@I", info, _RETRANSMITTED)
        return measured / 1e6 if again == 0 and 0 < measured / 1e6 <= elapsed else elapsed

    async def encrypt(self, context: ssl.SSLContext, name: str) -> None:
        """A TLS handshake with a server of this name or address. Raises ssl.SSLError, OSError, ProbeError."""
        made = context.wrap_socket(self._socket, server_hostname=name, do_handshake_on_connect=False)
        self._socket = made
        await self._when_ready(made.do_handshake, readable)

    async def send(self, data: bytes) -> None:
        """Raises OSError, ProbeError."""
        while data:
            data = data[await self._when_ready(partial(self._socket.send, data), writable) :]

    async def receive(self, most: int) -> bytes:
        """What has come; nothing at the end. Raises OSError, ProbeError."""
        return await self._when_ready(partial(self._socket.recv, most), readable)

    async def _when_ready(self, do: Callable[[], T], blocked: Wait) -> T:
        while True:
            try:
                return do()
            except ssl.SSLWantReadError:
                await readable(self._socket)
            except ssl.SSLWantWriteError:
                await writable(self._socket)
            except BlockingIOError:
                await blocked(self._socket)
            except ssl.SSLError:
                raise
            except OSError as error:
                raise errors.heard(error, self._order) from error


async def readable(made: socket.socket) -> None:
    """Until there is something to read, or an error."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(made.fileno(), _wake, ready)
    try:
        await ready
    finally:
        loop.remove_reader(made.fileno())


async def writable(made: socket.socket) -> None:
    """Until it can be written to, is connected, or has an error."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_writer(made.fileno(), _wake, ready)
    try:
        await ready
    finally:
        loop.remove_writer(made.fileno())


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
