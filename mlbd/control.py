"""The control socket: how `mlbd status`, `mlbd plan` and the like talk to the daemon, and how there is only one of it.

One request is one line of JSON, `{"command": "status", ...}`, and so is its answer: `{"ok": true, "result": ...}` or
`{"ok": false, "error": "one sentence", "problems": ["...", ...]}`. A connection may carry any number of requests, one
after the other. A client has 10 s for each and 64 KiB; it is trusted by its uid or group (SO_PEERCRED, unix(7)), not
by what it says.

The answer to some requests goes on: more lines like the first, as there is more to tell, until the client says
anything or closes its end. What it does not take within 10 s ends the connection, and is not kept for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import socket
import stat
import struct
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

_LONGEST = 65536
"""Bytes of a request with its newline."""
_TIME = 10.0
"""Seconds for a request to arrive, and for its answer to be taken."""
_CONNECTIONS = 32
_FOLLOWERS = 8
"""Clients whose answers go on; there must be room for others."""
_ATTEMPTS = 100
_ASKERS = 4096
"""Those who asked for the holder's pid stay in its queue, since it never accepts; when that is full, the pid is 0."""
_SO_PEERGROUPS = 59
_CREDENTIALS = struct.Struct("@iII")
"""struct ucred: pid, uid, gid."""

_log = logging.getLogger(__name__)

Handler = Callable[[dict[str, object]], Awaitable[object]]
"""Its result is the answer; that of an asynchronous generator goes on."""


class Refused(Exception):  # noqa: N818  (it is no error of the program)
    """The daemon won't: the message is one sentence for a person, `problems` are details, one a line."""

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class NoDaemon(Exception):  # noqa: N818
    """Nobody answers on the control socket."""

    def __init__(self, path: str) -> None:
        super().__init__(f"no daemon answers at {path}; start it by `mlbd run`, or by systemctl start mlbd")
        self.path = path


class AlreadyRunning(Exception):  # noqa: N818
    """Another daemon has this network namespace. `pid` is 0 if it can't be told."""

    def __init__(self, pid: int) -> None:
        super().__init__("mlbd is already running in this network namespace" + (f" as process {pid}" if pid else ""))
        self.pid = pid


class ControlServer:
    """Answers requests by calling `handlers`. A handler refuses by raising `Refused`; its result is encoded as JSON."""

    def __init__(self, path: str, handlers: Mapping[str, Handler]) -> None:
        self._path = Path(path)
        self._handlers = handlers
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._followers = 0
        self._identity: tuple[int, int] | None = None

    async def start(self) -> None:
        """Listen. Raises OSError, in words, if the socket can't be made or another process answers on it."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._remove_stale()
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                # Between bind and chmod nobody else may connect.
                mask = os.umask(0o177)
                try:
                    listening.bind(str(self._path))
                finally:
                    os.umask(mask)
                self._path.chmod(0o660)
                self._server = await asyncio.start_unix_server(self._connected, sock=listening, limit=_LONGEST)
            except OSError:
                listening.close()
                raise
        except OSError as error:
            raise OSError(error.errno, f"no control socket at {self._path}: {error.strerror or error}") from error
        self._identity = self._file_identity()

    async def stop(self) -> None:
        """Close all connections and remove the socket, unless it is somebody else's by now."""
        if self._server is None:
            return
        self._server.close()
        clients = list(self._clients)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        if self._file_identity() == self._identity:
            self._path.unlink(missing_ok=True)
        self._server = None

    def _file_identity(self) -> tuple[int, int] | None:
        try:
            there = self._path.lstat()
        except OSError:
            return None
        return there.st_dev, there.st_ino

    def _remove_stale(self) -> None:
        """A socket file outlives a killed daemon. Raises OSError if somebody answers, or if it isn't a socket."""
        try:
            mode = self._path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise OSError(errno.EEXIST, "the file there is not a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            try:
                probe.connect(str(self._path))
            except ConnectionRefusedError:
                self._path.unlink(missing_ok=True)
                return
        raise OSError(errno.EADDRINUSE, "another process answers there")

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            if len(self._clients) > _CONNECTIONS:
                await _write(writer, _refusal(f"{_CONNECTIONS} clients are connected already; try again later"))
            elif not self._may(writer.get_extra_info("socket")):
                await _write(writer, _refusal(f"only root, the daemon's user and the group of {self._path} may ask"))
            else:
                await self._serve(reader, writer)
            writer.close()
            async with asyncio.timeout(_TIME):
                await writer.wait_closed()
        except (OSError, EOFError, TimeoutError, asyncio.CancelledError):
            # A client that went away or is too slow, or the daemon stops. close() would wait for it to read.
            writer.transport.abort()
        finally:
            self._clients.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the client is done. Raises TimeoutError, OSError, EOFError (IncompleteReadError)."""
        while True:
            try:
                async with asyncio.timeout(_TIME):
                    line = await reader.readuntil(b"\n")
            except asyncio.LimitOverrunError:
                await _write(writer, _refusal(f"the request is longer than {_LONGEST} bytes"))
                return
            answer = await self._answer(line)
            if isinstance(answer, bytes):
                await _write(writer, answer)
            else:
                await self._go_on(answer, reader, writer)
                return
            await asyncio.sleep(0)  # whoever sends a thousand at once must not keep the event loop to himself

    async def _go_on(
        self, results: AsyncGenerator[object, None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Until the client says or closes something. Raises TimeoutError, OSError."""
        if self._followers >= _FOLLOWERS:
            await _write(writer, _refusal(f"{_FOLLOWERS} clients are following already; try again later"))
            return
        self._followers += 1
        ended = asyncio.ensure_future(reader.read(1))
        try:
            while True:
                part = asyncio.ensure_future(_part(results))
                try:
                    await asyncio.wait({ended, part}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    part.cancel()
                    await asyncio.wait({part})
                if ended.done() or part.cancelled():
                    return
                await _write(writer, part.result())
        except StopAsyncIteration:
            return
        except (OSError, TimeoutError):
            raise
        except Exception:
            _log.exception("an answer that went on failed")
            await _write(writer, _refusal("internal error; see the log of mlbd"))
        finally:
            self._followers -= 1
            ended.cancel()
            await results.aclose()

    async def _answer(self, line: bytes) -> bytes | AsyncGenerator[object, None]:
        try:
            request = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            request = None
        if not isinstance(request, dict) or not isinstance(request.get("command"), str):
            return _refusal('a request is one line of JSON such as {"command": "status"}')
        command = request.pop("command")
        handler = self._handlers.get(command)
        if handler is None:
            return _refusal(f"there is no command {command!r}; there are {', '.join(sorted(self._handlers))}")
        try:
            result = await handler(request)
            return result if isinstance(result, AsyncGenerator) else _granted(result)
        except Refused as refused:
            return _refusal(str(refused), refused.problems)
        except Exception:
            # A bug in a handler must not take the daemon along.
            _log.exception("the command %s failed", command)
            return _refusal("internal error; see the log of mlbd")

    def _may(self, peer: socket.socket) -> bool:
        _pid, uid, gid = credentials(peer)
        if uid in (0, os.geteuid()):
            return True
        allowed = self._path.stat().st_gid
        return allowed == gid or allowed in _groups(peer)


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    async with asyncio.timeout(_TIME):
        await writer.drain()


async def _part(results: AsyncGenerator[object, None]) -> bytes:
    return _granted(await anext(results))


def _granted(result: object) -> bytes:
    return _line({"ok": True, "result": result})


def _refusal(error: str, problems: Sequence[str] = ()) -> bytes:
    return _line({"ok": False, "error": error, "problems": problems})


def _line(answer: Mapping[str, object]) -> bytes:
    """In JSON. What is not UTF-8, as names of interfaces may be, has `?` for it."""
    try:
        return msgspec.json.encode(answer) + b"\n"
    except UnicodeEncodeError:
        text = json.dumps(msgspec.to_builtins(answer), ensure_ascii=False)
        return text.encode(errors="replace") + b"\n"


def credentials(peer: socket.socket) -> tuple[int, int, int]:
    """pid, uid and gid of the process at the other end of a unix socket, as they were when it connected or listened."""
    data = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(data)
    return pid, uid, gid


def _groups(peer: socket.socket) -> tuple[int, ...]:
    """Supplementary groups of the peer; none where the kernel does not say (SO_PEERGROUPS is of Linux 4.13)."""
    try:
        data = peer.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)
    except OSError:
        return ()
    return struct.unpack(f"@{len(data) // 4}I", data)


def request(path: str, command: str, *, timeout: float = 10.0, **fields: object) -> Any:
    """Ask the daemon and return its result, as JSON decodes it. `timeout`, seconds, is for each step of it.

    Raises NoDaemon if nobody listens there, Refused with the daemon's reason, or if it does not answer in time.
    """
    with contextlib.closing(follow(path, command, timeout=timeout, **fields)) as results:
        return next(results)


def follow(path: str, command: str, *, timeout: float = 10.0, **fields: object) -> Generator[Any, None, None]:
    """Ask the daemon for an answer that goes on, and yield its parts as they come, at least one.

    Raises as `request`, and NoDaemon when the daemon ends the connection later. `timeout` is for the first part.
    """
    line = json.dumps({"command": command, **fields}).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(path)
            with contextlib.suppress(BrokenPipeError):  # a refusal may come, and be read, before all is sent
                connection.sendall(line)
            with connection.makefile("rb") as answers:
                yield _result(answers.readline())
                connection.settimeout(None)
                while answer := answers.readline():
                    yield _result(answer)
    except (FileNotFoundError, ConnectionRefusedError):
        raise NoDaemon(path) from None
    except TimeoutError:
        raise Refused(f"the daemon did not answer within {timeout:g} s") from None
    except OSError as error:
        raise Refused(f"the control socket {path} can't be used: {error.strerror or error}") from None
    raise NoDaemon(path)


def _result(answer: bytes) -> Any:
    """Of one line. Raises Refused."""
    try:
        said = json.loads(answer)
        if said["ok"]:
            return said["result"]
        refused = Refused(said["error"], said["problems"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Refused("the daemon closed the connection without an answer") from None
    raise refused


class OneDaemon:
    """At most one daemon per network namespace, by a name that belongs to the namespace and dies with the process.

    Abstract unix sockets (unix(7)) are just that: two daemons would fight over the same kernel objects however
    different their files, and a lock file does not know about namespaces.
    """

    _NAME = "\0mlbd"

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def acquire(self) -> None:
        """Take the name. Raises AlreadyRunning."""
        for _ in range(_ATTEMPTS):
            taken = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                taken.bind(self._NAME)
                taken.listen(_ASKERS)
            except OSError as error:
                taken.close()
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                self._socket = taken
                return
            holder = _holder(self._NAME)
            if holder is not None:
                raise AlreadyRunning(holder)
            time.sleep(0.01)  # it is just coming or going
        raise AlreadyRunning(0)

    def release(self) -> None:
        """Give the name back; nothing happens if it was never taken."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _holder(name: str) -> int | None:
    """The pid of who listens on the name; None if nobody does by now."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(0)
        try:
            connection.connect(name)
        except BlockingIOError:
            return 0
        except OSError:
            return None
        return credentials(connection)[0]
