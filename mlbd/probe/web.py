"""Probes of the kind http: a GET by HTTP/1.1, with TLS or without, of which only the status matters.

h11 speaks HTTP. The answer is read up to the end of its headers, and at most `_MOST` bytes of it. Certificates are
verified as everybody's are: against the system's authorities, for the name or the address in the URL.
"""

from __future__ import annotations

import ssl

import h11

from mlbd import __version__
from mlbd.core.probing import Order
from mlbd.core.settings import Target
from mlbd.probe.errors import ProbeError
from mlbd.probe.sockets import Connection

_MOST = 32 * 1024
_SHOWN = 100
_NETWORK_LOGIN = 511  # RFC 6585 section 6


class Web:
    """Asks web servers; keeps the system's authorities once they were needed."""

    def __init__(self) -> None:
        self._authorities: ssl.SSLContext | None = None

    async def ask(self, order: Order) -> float:
        """Seconds until the status came, from the first segment on. Raises ProbeError, OSError."""
        target = order.ask
        host = target.name or order.address
        with await Connection.to(order) as connection:
            if target.tls:
                await self._encrypt(connection, host)
            http = h11.Connection(h11.CLIENT)
            await connection.send(_request(http, target, host))
            answer = await _answer(http, connection)
            elapsed = connection.elapsed()
        _check(answer, target)
        return elapsed

    async def _encrypt(self, connection: Connection, host: str) -> None:
        if self._authorities is None:
            self._authorities = ssl.create_default_context()
        try:
            await connection.encrypt(self._authorities, host)
        except ssl.SSLCertVerificationError as error:
            raise ProbeError("refused", f"its certificate is not accepted: {error.verify_message}") from error
        except ssl.SSLError as error:
            raise ProbeError("refused", f"no TLS with {host}: {_said(error)}") from error


def _request(http: h11.Connection, target: Target, host: str) -> bytes:
    authority = f"[{host}]" if ":" in host else host
    if target.port != (443 if target.tls else 80):
        authority += f":{target.port}"
    headers = [
        ("Host", authority),
        ("User-Agent", f"mlbd/{__version__}"),
        ("Accept", "*/*"),
        ("Cache-Control", "no-cache"),
        ("Connection", "close"),
    ]
    request = h11.Request(method="GET", target=target.query, headers=headers)
    return (http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b"")


async def _answer(http: h11.Connection, connection: Connection) -> h11.Response:
    """The head of the final answer. Raises ProbeError, OSError."""
    left = _MOST
    while True:
        try:
            event = http.next_event()
        except h11.RemoteProtocolError as error:
            raise ProbeError("wrong-answer", f"no HTTP: {str(error)[:_SHOWN]}") from error
        if isinstance(event, h11.Response):
            return event
        if event is h11.NEED_DATA:
            if left <= 0:
                raise ProbeError("wrong-answer", f"no HTTP: {_MOST} bytes, and the headers do not end")
            data = await _received(connection, left)
            left -= len(data)
            http.receive_data(data)


async def _received(connection: Connection, most: int) -> bytes:
    try:
        data = await connection.receive(min(most, 4096))
    except ssl.SSLError as error:
        raise ProbeError("refused", f"TLS broken off: {_said(error)}") from error
    if not data:
        raise ProbeError("refused", "the connection ended before the answer")
    return data


def _check(answer: h11.Response, target: Target) -> None:
    """Raises ProbeError for another status than the one that is wanted."""
    status = answer.status_code
    if status == target.status if target.status is not None else 200 <= status <= 299:
        return
    text = str(status)
    wanted = f"{target.status or '2xx'} is wanted"
    if 300 <= status <= 399:
        places = [value for name, value in answer.headers if name == b"location"]
        to = f" to {_shown(places[0])}" if places else ""
        text += f"{to}: a captive portal?"
    elif status == _NETWORK_LOGIN:
        text += ": the network wants a login"
    elif target.status is not None and 200 <= status <= 299:
        text += f", and {wanted}: a captive portal?"
    else:
        text += f", and {wanted}"
    raise ProbeError("wrong-answer", text)


def _said(error: ssl.SSLError) -> str:
    return (error.reason or "the connection ended").lower().replace("_", " ")


def _shown(value: bytes) -> str:
    text = value.decode("latin-1")
    return "".join(c if c.isprintable() else "?" for c in text[:_SHOWN]) + ("..." if len(text) > _SHOWN else "")
