"""What fuzzing found, each by the least that shows it."""

from __future__ import annotations

import asyncio
import errno
import json
import struct
from pathlib import Path

import dns.flags
import dns.rdata
import pytest

from mlbd.control import ControlServer, Refused, request
from mlbd.core.diversion import diversions
from mlbd.core.facts import WideRoute
from mlbd.core.layout import Layout
from mlbd.core.settings import Daemon
from mlbd.core.state import Rule
from mlbd.kernel import links
from mlbd.kernel.netlink import HEADER
from mlbd.kernel.routes import device_index
from mlbd.probe import queries
from tests.fuzz.catalogue import TARGETS
from tests.fuzz.control_input import COMMANDS
from tests.fuzz.network_input import _QUERY
from tests.fuzz.target import put

BY_NAME = {target.name: target for target in TARGETS}


def message(kind: int, payload: bytes, length: int | None = None) -> bytes:
    return HEADER.pack(HEADER.size + len(payload) if length is None else length, kind, 0, 0, 0) + payload


INPUTS = {
    "a short notification of a link": ("notifications", message(16, b"\0")),
    "a short notification of a route": ("notifications", message(24, bytes(4))),
    "a short link": ("look", message(16, b"\0")),
    "a short address": ("look", message(20, b"\2")),
    "a short route": ("look", message(24, b"\2")),
    "a short rule": ("look", message(32, b"\2")),
    "a short neighbour": ("hardware", message(28, b"\2")),
    "an address of 255 bits": (
        "look",
        BY_NAME["look"].seeds[0].replace(struct.pack("=BB", 2, 24), struct.pack("=BB", 2, 255)),
    ),
    "a rule of no family": ("look", message(32, bytes(12))),
    "an object without a table": ("table", message(10 << 8 | 9, bytes(4))),
    "a route without a device": ("way", message(24, bytes(12))),
    "a connection without a tuple": ("connections", message(0x100, bytes(4))),
    "an error of no number": ("look", message(2, struct.pack("=i", -(2**31)))),
    "a drain until far away": ("drained", b'{"boot": "BOOT", "drained": {"lte": 1' + b"0" * 400 + b"}}"),
    "drains in arrays in arrays": ("drained", b"[" * 100_000),
    "an event of no time": ("events", BY_NAME["events"].seeds[0].replace(b"1700000000.0", b"1e300")),
    "an interface with a NUL": (
        "requests",
        b'{"command": "explain", "destination": "192.0.2.1", "source": "10.0.0.1", "interface": "a\\u0000b"}',
    ),
}


@pytest.mark.parametrize("found", INPUTS)
def test_inputs(found: str) -> None:
    """An input that once ended in an unexpected error is understood or refused."""
    name, data = INPUTS[found]
    put(BY_NAME[name], data)


def test_unreadable_message() -> None:
    """What can't be read of the kernel is an OSError that says what it was about."""
    with pytest.raises(OSError, match="the kernel says something of an interface that can't be read") as caught:
        links.read_link(message(16, b"\0"))
    assert caught.value.errno == errno.EBADMSG


def test_impossible_interface() -> None:
    """A name that no interface can have is one of none that exists."""
    with pytest.raises(OSError, match="there is no interface") as caught:
        device_index("a\0b")
    assert caught.value.errno == errno.ENODEV


def test_braces_in_an_interface() -> None:
    """A warning about others' routes names their interfaces as they are called."""
    rule = Rule(4, 50, table=777)
    routes = [WideRoute(4, 777, "default", "{x}"), WideRoute(4, 254, "0.0.0.0/1", "{}")]
    by_rule, by_main = diversions([rule], routes, Layout.of(Daemon()))
    assert by_rule.startswith("routing rule 50 of another program sends all IPv4 traffic to table 777, dev {x}: ")
    assert by_main.startswith("0.0.0.0/1 in main, dev {}, takes half of all IPv4 traffic: ")


def test_strange_types_of_records() -> None:
    """An answer with hundreds of types of records leaves nothing of them behind."""
    wire = _QUERY.to_wire()
    question = wire[12 : 12 + len(_QUERY.question[0].name.to_wire() or b"") + 4]
    head = wire[:2] + struct.pack("!HHHHH", 0x8180, 1, 300, 0, 0) + question
    records = b"".join(b"\xc0\x0c" + struct.pack("!HHIH", 1000 + n, 7, 5, 0) for n in range(300))
    queries.answer_to(_QUERY, head + records)
    known = len(dns.rdata._rdata_classes)
    assert queries.answer_to(_QUERY, head + records.replace(b"\x00\x07", b"\x00\x08")) is not None
    assert len(dns.rdata._rdata_classes) == known


def asked_of(path: Path, result: object) -> object:
    """What a client gets when the daemon's result is this."""

    async def answer(_: dict[str, object]) -> object:
        return result

    async def run() -> object:
        server = ControlServer(str(path), {"tell": answer})
        await server.start()
        try:
            return await asyncio.to_thread(request, str(path), "tell")
        finally:
            await server.stop()

    return asyncio.run(run())


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """An answer with a name that is not UTF-8 has `?` in its place."""
    assert asked_of(tmp_path / "s", {"dev": "a\udcff", "also": ("\udcfe",)}) == {"dev": "a?", "also": ["?"]}


def test_nested_answer(tmp_path: Path) -> None:
    """A client that gets brackets without end says that it got no answer."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"[" * 100_000 + b"\n")
        writer.close()

    async def run() -> None:
        path = str(tmp_path / "s")
        server = await asyncio.start_unix_server(answer, path)
        async with server:
            with pytest.raises(Refused, match="without an answer"):
                await asyncio.to_thread(request, path, "status")

    asyncio.run(run())


def test_many_requests_at_once(tmp_path: Path) -> None:
    """Between the requests of a client that sends hundreds at once, everything else gets its turn."""
    turns: list[int] = []
    turn = 0

    async def note(_: dict[str, object]) -> object:
        turns.append(turn)
        return None

    async def count() -> None:
        nonlocal turn
        while True:
            await asyncio.sleep(0)
            turn += 1

    async def run() -> None:
        server = ControlServer(str(tmp_path / "s"), {"note": note})
        await server.start()
        counting = asyncio.create_task(count())
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write((json.dumps({"command": "note"}).encode() + b"\n") * 300)
        writer.write_eof()
        await reader.read()
        writer.close()
        counting.cancel()
        await server.stop()

    asyncio.run(run())
    assert len({*turns}) == 300


def test_commands_are_all_fuzzed() -> None:
    """A command that is new is among those that requests are made of."""
    source = (Path(__file__).parents[2] / "mlbd" / "daemon.py").read_text()
    handlers = source.partition("self.settings.daemon.control,")[2].partition("}")[0]
    assert {word for word in COMMANDS if f'"{word}": ' in handlers} == {
        line.split('"')[1] for line in handlers.splitlines() if '": ' in line
    }


def test_flags_of_answers() -> None:
    """Answers with all combinations of flags leave nothing of them behind."""
    known = len(dns.flags.Flag._value2member_map_)
    for high in range(256):
        for low in (0x00, 0x10, 0x80, 0xF0):
            queries.answer_to(_QUERY, _QUERY.to_wire()[:2] + bytes([high, low]) + _QUERY.to_wire()[4:])
    assert len(dns.flags.Flag._value2member_map_) <= known + 1
