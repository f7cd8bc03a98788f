"""Servers of the lab's internet that know by which uplink they were asked, and answer each as the test says."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import dns.message
import dns.rrset

from mlbd.lab import layout
from mlbd.lab.network import Network
from tests.probe.servers import Authority

WEB, NAMES = layout.server(80), layout.server(53)
WEB6 = layout.server(80, 6)
NAME = "www.example.org"
_SUBJECT = f"IP:{WEB},DNS:{NAME}"
OK = b"HTTP/1.1 204 No Content\r\n\r\n"
PORTAL = b"HTTP/1.1 302 Found\r\nLocation: http://portal.example/\r\n\r\n"


class Servers(asyncio.DatagramProtocol):
    """HTTP on port 80, HTTPS on 443, DNS on 53, of all servers' addresses; `NAME` is `WEB`."""

    def __init__(self, net: Network, directory: Path) -> None:
        self.asked: dict[str, set[int | None]] = {"http": set(), "https": set(), "dns": set()}
        """By which uplinks."""
        self.portal: set[int] = set()
        """Uplinks whose customers are shown the captive portal."""
        self.dead: set[str] = set()
        """Of http, https, dns: what says nothing."""
        self.authority = Authority(directory)
        self._tls = self.authority.context(_SUBJECT)
        self._net = net
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Self:
        with self._net.inside("internet"):
            web, tls, names = (self._opened(80), self._opened(443), self._opened(53, socket.SOCK_DGRAM))
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._serve(web, tls, names), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def show_certificate(self, *, days: int = 2, own: bool = False) -> None:
        """From the next connection on; as of `Authority.certificate`."""
        file = self.authority.certificate(_SUBJECT, days=days, own=own)
        self._tls.load_cert_chain(file, f"{file}.key")

    @staticmethod
    def _opened(port: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        made = socket.socket(socket.AF_INET if kind == socket.SOCK_DGRAM else socket.AF_INET6, kind)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # A datagram is answered from the address it came to.
        made.bind((NAMES if kind == socket.SOCK_DGRAM else "::", port))
        return made

    async def _serve(self, web: socket.socket, tls: socket.socket, names: socket.socket) -> None:
        self._servers = [
            await asyncio.start_server(self._http, sock=web),
            await asyncio.start_server(self._https, sock=tls, ssl=self._tls),
        ]
        self._names, _ = await self._loop.create_datagram_endpoint(lambda: self, sock=names)

    async def _end(self) -> None:
        self._names.close()
        for server in self._servers:
            server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._talk("http", reader, writer)

    async def _https(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._talk("https", reader, writer)

    async def _talk(self, kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            uplink = layout.uplink_of(writer.get_extra_info("peername")[0].removeprefix("::ffff:"))
            await reader.readuntil(b"\r\n\r\n")
            self.asked[kind].add(uplink)
            if kind in self.dead:
                await asyncio.sleep(10)
            writer.write(PORTAL if uplink in self.portal else OK)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # a connection without a request is a probe of the kind tcp
        finally:
            writer.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, sender: tuple[str, int]) -> None:
        self.asked["dns"].add(layout.uplink_of(sender[0]))
        if "dns" in self.dead:
            return
        query = dns.message.from_wire(data)
        answer = dns.message.make_response(query)
        if query.question[0].rdtype.name == "A":
            answer.answer.append(dns.rrset.from_text(f"{NAME}.", 1, "IN", "A", WEB))
        self._transport.sendto(answer.to_wire(), sender)


@contextmanager
def trusting(servers: Servers, directory: Path) -> Iterator[None]:
    """Programs that start meanwhile trust the servers' authority, and everybody here asks their name server."""
    file = directory / "resolv.conf"
    file.write_text(f"nameserver {NAMES}\n")
    target = Path("/etc/resolv.conf").resolve()
    before = os.environ.get("SSL_CERT_FILE")
    os.environ["SSL_CERT_FILE"] = str(servers.authority.file)
    subprocess.run(["mount", "--bind", file, target], check=True)  # the sandbox has mounts of its own
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", target], check=True)
        if before is None:
            del os.environ["SSL_CERT_FILE"]
        else:
            os.environ["SSL_CERT_FILE"] = before
