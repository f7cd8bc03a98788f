"""A registry over HTTP: GET and HEAD of /metrics, one request per connection, and nothing else.

A scrape must never disturb the router: requests are bounded in size and time, whatever is malformed gets an answer or
a closed connection, and an address that can't be had is waited for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

RETRY = 30.0
"""Seconds between attempts to listen."""
_TIME = 5.0
"""Seconds a client has for its request, and again for taking the answer."""
_LONGEST_HEAD = 8192
_PHRASES = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 500: "Internal Server Error"}

_log = logging.getLogger(__name__)


async def serve(host: str, port: int, registry: CollectorRegistry, prepare: Callable[[], Awaitable[None]]) -> None:
    """Serve until cancelled. `prepare` is awaited before each scrape."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_TIME):
                head = await reader.readuntil(b"\r\n\r\n")
            writer.write(await _response(head, registry, prepare))
            writer.close()
            async with asyncio.timeout(_TIME):
                await writer.wait_closed()
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            # A client that went away, talks too much or too slowly; close() would wait for it to read.
            writer.transport.abort()

    server = await _listen(host, port, answer)
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        server.close()


_Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _listen(host: str, port: int, answer: _Answer) -> asyncio.Server:
    said = False
    while True:
        try:
            return await asyncio.start_server(answer, host, port, limit=_LONGEST_HEAD)
        except OSError as error:
            if not said:
                said = True
                _log.warning(
                    "no metrics at %s port %d, trying again every %.0f s; if another program needs the address, "
                    "set another in [daemon] metrics: %s",
                    host, port, RETRY, error.strerror or error,
                )  # fmt: skip
        await asyncio.sleep(RETRY)


async def _response(head: bytes, registry: CollectorRegistry, prepare: Callable[[], Awaitable[None]]) -> bytes:
    line, *headers = head.decode("latin-1").split("\r\n")
    words = line.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return _page(400, "text/plain", b"This is an HTTP/1.1 server.\n")
    method, path = words[0], words[1].partition("?")[0]
    if method not in ("GET", "HEAD"):
        return _page(405, "text/plain", b"Only GET and HEAD.\n", extra="Allow: GET, HEAD\r\n")
    whole = method == "GET"
    if path != "/metrics":
        return _page(404, "text/plain", b"The metrics are at /metrics.\n", whole=whole)
    accept = ",".join(v.strip() for k, _, v in (h.partition(":") for h in headers) if k.lower() == "accept")
    try:
        await prepare()
        encode, content_type = choose_encoder(accept)
        body = encode(registry)
    except Exception:
        # A bug here costs a scrape, not the router.
        _log.exception("a scrape failed")
        return _page(500, "text/plain", b"A bug; see the log of mlbd.\n", whole=whole)
    return _page(200, content_type, body, whole=whole)


def _page(status: int, content_type: str, body: bytes, *, whole: bool = True, extra: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status} {_PHRASES[status]}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        f"{extra}Connection: close\r\n\r\n"
    )
    return head.encode("latin-1") + (body if whole else b"")
