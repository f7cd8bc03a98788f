"""Servers of a provider, in the event loop of the test, and the certificates that some of them show."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

from tests.probe.network import Provider

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]


@asynccontextmanager
async def serving(made: socket.socket, talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
    """`talk` has every connection, in a task that ends with the server."""
    tasks = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.current_task())
        try:
            result = talk(reader, writer)
            if asyncio.iscoroutine(result):
                await result
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(connected, sock=made, ssl=tls)
    try:
        yield
    finally:
        server.close()
        for task in tasks:
            assert task is not None
            task.cancel()
        await asyncio.sleep(0)


class Pages:
    """A web server that says the same to everybody, then nothing more."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.asked: list[str] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(self.answer)
        await writer.drain()
        await asyncio.sleep(60)


class NameServer(asyncio.DatagramProtocol):
    """Says of every name what `records` has for it and the type asked for, else that there is no such name."""

    def __init__(self, records: dict[tuple[str, str], list[str]], rcode: str = "", ttl: int = 300) -> None:
        self.records = records
        self.rcode = rcode
        self.ttl = ttl
        self.asked: list[str] = []
        self.silent = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, sender: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        name = query.question[0].name.to_text(omit_final_dot=True)
        kind = query.question[0].rdtype.name
        self.asked.append(f"{kind} {name}")
        if self.silent:
            return
        answer = dns.message.make_response(query)
        found = self.records.get((kind, name), [])
        if found:
            answer.answer.append(dns.rrset.from_text(f"{name}.", self.ttl, "IN", kind, *found))
        known = any(name == other for _, other in self.records)
        answer.set_rcode(dns.rcode.from_text(self.rcode or ("NOERROR" if known else "NXDOMAIN")))
        self.transport.sendto(answer.to_wire(), sender)


@asynccontextmanager
async def answering(provider: Provider, address: str, server: NameServer, port: int = 53) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    made = provider.opened(address, port, socket.SOCK_DGRAM)
    transport, _ = await loop.create_datagram_endpoint(lambda: server, sock=made)
    try:
        yield
    finally:
        transport.close()


_KEY = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"


class Authority:
    """Signs certificates, with OpenSSL's program. `file` is its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.file = directory / "authority.pem"
        _openssl(f"req -x509 -subj /CN=authority {_KEY} -keyout {self.file}.key -out {self.file}")

    def certificate(self, name: str, *, days: int = 2, own: bool = False) -> Path:
        """A certificate for `name`, as `DNS:www.example.org` or `IP:203.0.113.1`; its key lies beside it, `.key`.

        `days`: below 0 it has expired. `own`: signed by nobody but itself.
        """
        file = self._directory / f"{name.replace(':', '-')}{days}{own}.pem"
        wanted = f"-subj /CN=server -addext subjectAltName={name} {_KEY} -keyout {file}.key"
        if own:
            _openssl(f"req -x509 {wanted} -out {file}")
        else:
            _openssl(f"req -new {wanted} -out {file}.csr")
            signed = f"-CA {self.file} -CAkey {self.file}.key -copy_extensions copy -days {days}"
            _openssl(f"x509 -req -in {file}.csr {signed} -out {file}")
        return file

    def context(self, name: str, *, days: int = 2, own: bool = False) -> ssl.SSLContext:
        """Of a server that shows such a certificate."""
        file = self.certificate(name, days=days, own=own)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file, f"{file}.key")
        return context


def _openssl(command: str) -> None:
    done = subprocess.run(["openssl", *command.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
