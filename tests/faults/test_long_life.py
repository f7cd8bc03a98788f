"""What goes on for years holds no more after it than before."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from mlbd.control import ControlServer
from mlbd.core.probing import Order, Outcome
from mlbd.core.settings import Kind, Target
from mlbd.probe import Prober
from mlbd.report import History
from tests.kernel.namespace import run, veth_pairs
from tests.report.values import DOWN, STATUS, UP

MOST = 2_000
"""Python objects that may be held after the warm-up beside those before, of some 100 bytes each."""


def held() -> tuple[int, int]:
    """File descriptors and tasks, without what other tests of this process have left to be collected."""
    gc.collect()
    return len([*Path("/proc/self/fd").iterdir()]), len(asyncio.all_tasks())


def objects() -> int:
    gc.collect()
    return sys.getallocatedblocks()


def test_probes_and_transitions() -> None:
    """Some ten thousand results and thousands of transitions; `python -m bench.long_life` has the whole million."""
    command = [sys.executable, "-m", "bench.long_life", "15000", "1500"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


def test_control_socket(tmp_path: Path) -> None:
    """2,000 requests and 200 followers that come and go leave no descriptor, no task and no memory."""
    path = tmp_path / "control.sock"
    history = History(tmp_path / "events.jsonl")

    async def status(_: dict[str, object]) -> object:
        return STATUS

    async def events(_: dict[str, object]) -> object:
        follow: AsyncGenerator[object, None] = history.follow()
        return follow

    async def ask() -> None:
        reader, writer = await asyncio.open_unix_connection(str(path))
        for _ in range(4):
            writer.write(b'{"command": "status"}\n')
            assert json.loads(await reader.readline())["ok"]
        writer.close()
        await writer.wait_closed()

    async def follow(politely: bool) -> None:
        reader, writer = await asyncio.open_unix_connection(str(path), limit=1 << 20)
        writer.write(b'{"command": "events"}\n')
        assert json.loads(await reader.readline())["ok"]
        history.add(DOWN, 0.001)
        history.add(UP, None)
        assert json.loads(await reader.readline())["ok"]
        if politely:
            writer.write_eof()
            await reader.read()
        else:
            writer.transport.abort()
        writer.close()

    async def all_of(requests: int, followers: int) -> None:
        for _ in range(requests // 4):
            await ask()
        for number in range(followers):
            await follow(politely=number % 2 == 0)

    async def story() -> None:
        server = ControlServer(str(path), {"status": status, "events": events})
        await server.start()
        await all_of(200, 20)
        for _ in range(1000):
            history.add(UP, None)
        await asyncio.sleep(0.1)
        before, there = held(), objects()
        await all_of(2000, 200)
        await asyncio.sleep(0.1)
        assert held() == before
        assert objects() - there < MOST
        await server.stop()

    asyncio.run(story())


@pytest.mark.lab
@pytest.mark.parametrize("kind", ["icmp", "neighbour", "tcp"])
def test_nobody_answers(kind: Kind) -> None:
    """Of 5,000 rounds of probes that nobody answers, some are remembered, and the rest is forgotten."""
    rounds = {"icmp": 5000, "neighbour": 5000, "tcp": 1000}[kind]
    ask = Target("somebody", "10.9.1.1", 4, kind, port=7 if kind == "tcp" else 0)
    heard: list[Outcome] = []

    async def all_of(prober: Prober, numbers: range, index: int) -> None:
        for number in numbers:
            prober.send(Order("fiber", 0, number, "k1", index, "10.9.1.1", ask))
            if number % 100 == 0:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)

    async def story(index: int) -> None:
        prober = Prober(heard.append)
        await all_of(prober, range(1, rounds // 3), index)
        before, there = held(), objects()
        await all_of(prober, range(rounds // 3, rounds), index)
        assert held() == before
        assert objects() - there < MOST
        prober.close()
        await asyncio.sleep(0.01)
        assert held()[0] < before[0]
        assert heard == []

    with veth_pairs():
        # Its neighbour is nobody's, so the frames are for nobody.
        run("ip neighbour replace 10.9.1.1 lladdr 02:00:00:00:00:01 dev k1 nud permanent")
        asyncio.run(story(socket.if_nametoindex("k1")))
