"""Answers that go on: who follows hears what comes, and whoever does it badly disturbs nobody."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest

from mlbd import control
from mlbd.control import ControlServer, NoDaemon, Refused, follow, request


class Source:
    """What followers are told: numbers, as they are put in."""

    def __init__(self) -> None:
        self.there = 1
        self.changed = asyncio.Event()
        self.following = 0

    def put(self) -> None:
        self.there += 1
        self.changed.set()
        self.changed = asyncio.Event()

    async def parts(self, size: int = 0) -> AsyncGenerator[object, None]:
        self.following += 1
        try:
            told = 0
            while True:
                while told < self.there:
                    told += 1
                    yield f"{told}{'x' * size}"
                await self.changed.wait()
        finally:
            self.following -= 1


async def broken() -> AsyncGenerator[object, None]:
    yield 1
    raise RuntimeError("a bug")


async def ending() -> AsyncGenerator[object, None]:
    yield 1
    yield 2


def served(tmp_path: Path, story: Callable[[Path, Source], Awaitable[None]]) -> None:
    async def run() -> None:
        source = Source()

        async def parts(asked: dict[str, object]) -> object:
            return source.parts(int(str(asked.get("size", 0))))

        async def one(_: dict[str, object]) -> object:
            return "one"

        async def bad(_: dict[str, object]) -> object:
            return broken()

        async def short(_: dict[str, object]) -> object:
            return ending()

        path = tmp_path / "control.sock"
        server = ControlServer(str(path), {"parts": parts, "one": one, "bad": bad, "short": short})
        await server.start()
        try:
            async with asyncio.timeout(20):
                await story(path, source)
        finally:
            await server.stop()
        assert source.following == 0

    asyncio.run(run())


async def opened(path: Path, **asked: object) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(json.dumps({"command": "parts", **asked}).encode() + b"\n")
    return reader, writer


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def test_parts_come_as_they_are(tmp_path: Path) -> None:
    """A follower hears what there is and then what comes, a line each; others are answered meanwhile."""

    async def story(path: Path, source: Source) -> None:
        reader, writer = await opened(path)
        for number in ("1", "2", "3"):
            assert json.loads(await reader.readline()) == {"ok": True, "result": number}
            assert await asyncio.to_thread(request, str(path), "one") == "one"
            source.put()
        writer.close()
        await until(lambda: source.following == 0)

    served(tmp_path, story)


@pytest.mark.parametrize("how", ["closes", "closes its end", "says something", "is gone"])
def test_the_end_of_a_follower(tmp_path: Path, how: str) -> None:
    """A follower that goes, or says anything, is followed no more."""

    async def story(path: Path, source: Source) -> None:
        reader, writer = await opened(path)
        await reader.readline()
        assert source.following == 1
        if how == "closes":
            writer.close()
        elif how == "closes its end":
            writer.write_eof()
        elif how == "says something":
            writer.write(b"x")
        else:
            writer.transport.abort()
        await until(lambda: source.following == 0)
        writer.close()

    served(tmp_path, story)


def test_a_slow_follower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not read is cut off when its time is over, and meanwhile next to nothing is kept for it."""
    monkeypatch.setattr(control, "_TIME", 0.5)

    async def story(path: Path, source: Source) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as lazy:
            lazy.connect(str(path))
            lazy.sendall(b'{"command": "parts", "size": 10000}\n')
            await until(lambda: source.following == 1)
            for _ in range(1000):
                source.put()
            await until(lambda: source.following == 0)
            lazy.settimeout(5)
            received = 0
            while data := await asyncio.to_thread(lazy.recv, 65536):
                received += len(data)
            assert received < 1_000_000

    served(tmp_path, story)


def test_many_followers(tmp_path: Path) -> None:
    """There is a limit to followers, said in words, and with it reached there is room for requests."""

    async def story(path: Path, source: Source) -> None:
        writers = []
        for _ in range(8):
            reader, writer = await opened(path)
            await reader.readline()
            writers.append(writer)
        for parts in (follow(str(path), "parts"), follow(str(path), "parts")):
            with pytest.raises(Refused, match=r"^8 clients are following already; try again later$"):
                await asyncio.to_thread(next, parts)
        assert await asyncio.to_thread(request, str(path), "one") == "one"
        writers.pop().close()
        await until(lambda: source.following == 7)
        assert await asyncio.to_thread(next, follow(str(path), "parts")) == "1"
        for writer in writers:
            writer.close()

    served(tmp_path, story)


def test_a_bug_while_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A bug in what is followed is logged with its traceback, told to the client, and ends nothing else."""

    async def story(path: Path, source: Source) -> None:
        parts = follow(str(path), "bad")
        assert await asyncio.to_thread(next, parts) == 1
        with pytest.raises(Refused, match=r"^internal error; see the log of mlbd$"):
            await asyncio.to_thread(next, parts)
        assert await asyncio.to_thread(request, str(path), "one") == "one"

    served(tmp_path, story)
    assert [record.getMessage() for record in caplog.records] == ["an answer that went on failed"]


def test_the_end_of_the_daemon(tmp_path: Path) -> None:
    """When what is followed ends, or the daemon does, the client is told that nobody answers any more."""

    async def story(path: Path, source: Source) -> None:
        parts = follow(str(path), "short")
        assert [await asyncio.to_thread(next, parts) for _ in "12"] == [1, 2]
        with pytest.raises(NoDaemon):
            await asyncio.to_thread(next, parts)

    served(tmp_path, story)
    left = []

    async def stopped(path: Path, source: Source) -> None:
        left.append(follow(str(path), "parts"))
        assert await asyncio.to_thread(next, left[0]) == "1"

    served(tmp_path, stopped)
    with pytest.raises(NoDaemon):
        next(left[0])
    with pytest.raises(NoDaemon):
        next(follow(str(tmp_path / "control.sock"), "parts"))
