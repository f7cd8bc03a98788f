from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mlbd import control
from mlbd.control import AlreadyRunning, ControlServer, NoDaemon, OneDaemon, Refused, request
from tests.report.values import STATUS


async def _status(_: dict[str, object]) -> object:
    return STATUS


async def _echo(fields: dict[str, object]) -> object:
    return fields


async def _refuse(_: dict[str, object]) -> object:
    raise Refused("not today", ["because", "of that"])


async def _break(_: dict[str, object]) -> object:
    raise RuntimeError("boom")


HANDLERS = {"status": _status, "echo": _echo, "refuse": _refuse, "break": _break}


def served(path: Path, story: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        server = ControlServer(str(path), HANDLERS)
        await server.start()
        try:
            await story()
        finally:
            await server.stop()

    asyncio.run(run())


async def ask(path: Path, command: str, **fields: object) -> object:
    result: object = await asyncio.to_thread(request, str(path), command, timeout=5.0, **fields)
    return result


async def exchange(path: Path, sent: bytes, *, end: bool = True) -> list[dict[str, object]]:
    """What the server says to these bytes until it closes the connection; `end`: the client has no more to send."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(sent)
        if end:
            writer.write_eof()
        async with asyncio.timeout(5):
            return [json.loads(line) for line in (await reader.read()).splitlines()]
    finally:
        writer.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "control.sock"


def test_requests(path: Path) -> None:
    """A result comes back as JSON, fields reach the handler, and a refusal arrives with its problems."""

    async def story() -> None:
        answer = await ask(path, "status")
        assert isinstance(answer, dict)
        assert (answer["version"], [u["name"] for u in answer["uplinks"]]) == ("1.2", ["fiber", "lte"])
        assert await ask(path, "echo", uplink="fiber", seconds=3) == {"uplink": "fiber", "seconds": 3}
        with pytest.raises(Refused) as refused:
            await ask(path, "refuse")
        assert (str(refused.value), refused.value.problems) == ("not today", ("because", "of that"))

    served(path, story)


def test_unknown_command(path: Path) -> None:
    """An unknown command is answered with the known ones."""

    async def story() -> None:
        with pytest.raises(Refused, match=r"^there is no command 'stauts'; there are break, echo, refuse, status$"):
            await ask(path, "stauts")

    served(path, story)


def test_bug_in_a_handler(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A bug in a handler is logged with its traceback, answered as such, and the next request is served."""

    async def story() -> None:
        with pytest.raises(Refused, match=r"^internal error; see the log of mlbd$"):
            await ask(path, "break")
        assert await ask(path, "echo") == {}

    served(path, story)
    [record] = caplog.records
    assert record.getMessage() == "the command break failed"
    assert record.exc_info


@pytest.mark.parametrize(
    "sent",
    [
        b"\n", b"status\n", b"[]\n", b'{"command": 3}\n', b"{}\n", b'{"command": "status"\n', b"\xff\xfe\x00\n",
        b'{"command": "\xff"}\n', b"[" * 60000 + b"\n",
    ],
)  # fmt: skip
def test_garbage(path: Path, sent: bytes) -> None:
    """What is no request is answered with what one looks like, and the same connection can go on."""

    async def story() -> None:
        refusal = {
            "ok": False,
            "error": 'a request is one line of JSON such as {"command": "status"}',
            "problems": [],
        }
        assert await exchange(path, sent + b'{"command": "echo"}\n') == [refusal, {"ok": True, "result": {}}]

    served(path, story)


def test_half_closed(path: Path) -> None:
    """A client that stops sending after its requests gets all answers; one that stops within a request gets none."""

    async def story() -> None:
        twice = b'{"command": "echo", "n": 1}\n{"command": "echo", "n": 2}\n'
        assert await exchange(path, twice) == [{"ok": True, "result": {"n": n}} for n in (1, 2)]
        assert await exchange(path, b'{"command": "echo"}') == []
        assert await exchange(path, b"") == []

    served(path, story)


def test_oversize(path: Path) -> None:
    """A request beyond 64 KiB is refused and the connection closed."""

    async def story() -> None:
        with pytest.raises(Refused, match=r"^the request is longer than 65536 bytes$"):
            await ask(path, "echo", text="x" * 70000)
        assert await ask(path, "echo", text="x" * 60000) == {"text": "x" * 60000}

    served(path, story)


def test_slow_clients(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that doesn't finish its request is cut off after a while, and holds up nobody meanwhile."""
    monkeypatch.setattr(control, "_TIME", 0.2)

    async def story() -> None:
        slow = asyncio.create_task(exchange(path, b'{"command": "ec', end=False))
        assert await ask(path, "echo") == {}
        assert not slow.done()
        assert await slow == []

    served(path, story)


def test_client_that_does_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that asks and asks without taking the answers is cut off."""
    monkeypatch.setattr(control, "_TIME", 0.2)

    async def story() -> None:
        _, writer = await asyncio.open_unix_connection(str(path))
        line = json.dumps({"command": "echo", "text": "x" * 60000}).encode() + b"\n"

        async def talk() -> None:
            while True:
                writer.write(line)
                await writer.drain()

        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            await asyncio.wait_for(talk(), 10)
        writer.close()
        assert await ask(path, "echo") == {}

    served(path, story)


def test_too_many_clients(path: Path) -> None:
    """The 33rd client at once is told so; when one leaves there is room again."""

    async def story() -> None:
        held = [await asyncio.open_unix_connection(str(path)) for _ in range(32)]
        with pytest.raises(Refused, match=r"^32 clients are connected already; try again later$"):
            await ask(path, "echo")
        held.pop()[1].close()
        await asyncio.sleep(0.05)
        assert await ask(path, "echo") == {}
        for _, writer in held:
            writer.close()

    served(path, story)


def test_stop_ends_connections(path: Path) -> None:
    """Stopping closes open connections and removes the socket file."""

    async def run() -> None:
        server = ControlServer(str(path), HANDLERS)
        await server.start()
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o660  # noqa: PTH116
        reader, writer = await asyncio.open_unix_connection(str(path))
        await asyncio.sleep(0.02)
        await server.stop()
        async with asyncio.timeout(2):
            assert await reader.read() == b""
        writer.close()
        await server.stop()

    asyncio.run(run())
    assert not path.exists()


def test_stop_leaves_the_socket_of_another(path: Path) -> None:
    """A server that was replaced does not remove its successor's socket."""

    async def run() -> None:
        first, second = ControlServer(str(path), HANDLERS), ControlServer(str(path), HANDLERS)
        await first.start()
        os.rename(path, path.with_suffix(".old"))  # noqa: PTH104
        await second.start()
        await first.stop()
        assert await ask(path, "echo") == {}
        await second.stop()

    asyncio.run(run())


def test_stale_socket(path: Path) -> None:
    """What a killed daemon left is replaced; a socket on which somebody answers, or a plain file, is not."""
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))

    async def story() -> None:
        assert await ask(path, "echo") == {}
        with pytest.raises(OSError, match=r"no control socket at .*control.sock: another process answers there"):
            await ControlServer(str(path), HANDLERS).start()
        assert await ask(path, "echo") == {}

    served(path, story)
    path.write_text("precious")
    with pytest.raises(OSError, match="the file there is not a socket"):
        asyncio.run(ControlServer(str(path), HANDLERS).start())
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("uid", "gid", "groups", "allowed"),
    [(0, 5, (), True), ("own", 5, (), True), (4242, "file", (), True), (4242, 5, (6, "file"), True),
     (4242, 5, (6,), False)],
    ids=["root", "own user", "own group", "supplementary group", "stranger"],
)  # fmt: skip
def test_peer_credentials(
    path: Path, monkeypatch: pytest.MonkeyPatch, uid: object, gid: object, groups: tuple[object, ...], allowed: bool
) -> None:
    """Root, the daemon's user and the group of the socket file may ask; others, however they got in, may not."""

    def number(value: object) -> int:
        return {"own": os.geteuid(), "file": path.stat().st_gid}.get(str(value)) if isinstance(value, str) else value  # type: ignore[return-value]

    monkeypatch.setattr(control, "credentials", lambda _: (1, number(uid), number(gid)))
    monkeypatch.setattr(control, "_groups", lambda _: tuple(number(g) for g in groups))

    async def story() -> None:
        if allowed:
            assert await ask(path, "echo") == {}
        else:
            with pytest.raises(Refused, match=r"^only root, the daemon's user and the group of .* may ask$"):
                await ask(path, "echo")

    served(path, story)


def test_credentials_are_the_kernels() -> None:
    """pid, uid and gid of a peer, and its groups, are what the kernel says."""
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert control.credentials(one) == (os.getpid(), os.getuid(), os.getgid())
        assert set(control._groups(one)) == set(os.getgroups())


def test_no_daemon(path: Path) -> None:
    """Without a socket, or with a dead one, the client says that there is no daemon and how to start it."""
    with pytest.raises(NoDaemon, match=r"no daemon answers at .*; start it by `mlbd run`"):
        request(str(path), "status")
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(NoDaemon):
        request(str(path), "status")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", "the daemon closed the connection without an answer"),
        (b"[1]\n", "the daemon closed the connection without an answer"),
        (None, "the daemon did not answer within 0.2 s"),
    ],
)
def test_odd_daemons(path: Path, answer: bytes | None, error: str) -> None:
    """A daemon that says nothing, nonsense, or hangs is an error in words."""
    path.parent.mkdir()

    async def run() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            if answer is None:
                await asyncio.sleep(0.4)
            else:
                writer.write(answer)
            writer.close()

        server = await asyncio.start_unix_server(serve, str(path))
        with pytest.raises(Refused, match=f"^{error}$"):
            await asyncio.to_thread(request, str(path), "status", timeout=0.2)
        await asyncio.sleep(0.3 if answer is None else 0)
        server.close()

    asyncio.run(run())


def test_one_daemon() -> None:
    """A second daemon learns the first one's pid, and may start when the first has ended, even if it was killed."""
    assert os.environ.get("MLBD_PRIVATE_NAMESPACE"), "a daemon may be running on this machine: run it by `make test`"
    program = (
        "import time; from mlbd.control import OneDaemon\n"
        "one = OneDaemon(); one.acquire(); print(1, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        first.stdout.readline()
        second = OneDaemon()
        for _ in range(50):
            with pytest.raises(AlreadyRunning) as running:
                second.acquire()
            assert running.value.pid == first.pid
        first.kill()
        first.wait()
    second.acquire()
    second.release()
    second.release()
    third = OneDaemon()
    third.acquire()
    third.release()


def test_one_daemon_that_never_listens() -> None:
    """A name that is taken by somebody who does not listen ends in the same error, within seconds."""
    assert os.environ.get("MLBD_PRIVATE_NAMESPACE"), "a daemon may be running on this machine: run it by `make test`"
    with socket.socket(socket.AF_UNIX) as squatter:
        squatter.bind("\0mlbd")
        began = time.monotonic()
        with pytest.raises(AlreadyRunning, match=r"^mlbd is already running in this network namespace$"):
            OneDaemon().acquire()
        assert time.monotonic() - began < 5


def test_one_daemon_per_namespace() -> None:
    """Another network namespace has room for its own daemon."""
    assert os.environ.get("MLBD_PRIVATE_NAMESPACE"), "a daemon may be running on this machine: run it by `make test`"
    one = OneDaemon()
    one.acquire()
    try:
        program = "from mlbd.control import OneDaemon; OneDaemon().acquire()"
        subprocess.run(["unshare", "--net", sys.executable, "-c", program], check=True)
    finally:
        one.release()
