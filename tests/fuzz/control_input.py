"""What clients of the control socket send, to the daemon's own handlers; and the file that keeps who is drained.

The daemon stands on a kernel in memory. First byte of an input: how the client behaves; the rest is what it sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
from collections import deque
from collections.abc import Collection, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from mlbd.config import load
from mlbd.control import ControlServer
from mlbd.core.layout import NOBODY
from mlbd.core.ports import NO_BUNDLES, Connection, Way
from mlbd.core.router import Router
from mlbd.core.settings import Family, Settings
from mlbd.daemon import Daemon
from mlbd.kernel import LinuxKernel
from mlbd.kernel.routes import device_index
from mlbd.maintenance import Maintenance
from mlbd.report import History, Log
from tests.core.world import facts
from tests.fuzz.people_input import PLACE
from tests.kernel.memory import MemoryKernel

_FILE = f"""[[uplink]]
name = "fiber"
interface = "fiber0"

[[uplink]]
name = "lte"
interface = "lte0"

[daemon]
metrics = "off"
grace = "0s"
hooks = "{PLACE}/none"
control = "{PLACE}/control.sock"
"""
_BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip().encode()
_IDLE = 8
"""Clients that send nothing more, and stay."""
_PATIENCE = 20.0
"""Seconds for the answer."""

COMMANDS = ("status", "plan", "explain", "reload", "events", "drain", "resume", "drill", "follow", "uplink", "for")
REQUESTS = (
    {"command": "status"}, {"command": "plan"}, {"command": "plan", "config": "/etc/x"}, {"command": "reload"},
    {"command": "explain", "destination": "203.0.113.1", "source": "192.168.1.2", "interface": "lan1", "port": "80"},
    {"command": "explain", "destination": "2001:db8::1", "protocol": "udp"},
    {"command": "events"}, {"command": "events", "follow": True},
    {"command": "drain", "uplink": "lte", "for": "1m"}, {"command": "resume", "uplink": "lte"},
    {"command": "drill", "uplink": "lte", "for": "30s"},
)  # fmt: skip


class _Kernel(MemoryKernel):
    """What the daemon asks of a kernel besides."""

    port = 4711

    def way(self, family: Family, destination: str, **asked: Any) -> Way:
        interface = asked.get("interface")
        if interface is not None:
            with contextlib.suppress(OSError):
                device_index(interface)
        gateway = "10.1.0.1" if family == 4 else "fe80::1"
        return Way(table=254, device="fiber0", gateway=gateway, source=asked.get("source"), error="")

    def connections(self, *_: object) -> Sequence[Connection]:
        return []

    def counters(self) -> dict[str, int]:
        return {}

    def neighbour_overflows(self) -> int:
        return 0

    async def observe(
        self,
        interfaces: Collection[str],
        neighbours: Collection[str] = (),
        bundles: Mapping[str, Collection[str]] = NO_BUNDLES,
    ) -> Any:
        return await super().observe(interfaces, neighbours, bundles)


class _Running:
    """A daemon that answers on a socket of its own, and turns whenever an input is put to it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.complaints: list[str] = []
        self._heard = _Heard(self.complaints)
        self.idle: deque[asyncio.StreamWriter] = deque()
        self.loop.run_until_complete(self._begin())

    async def _begin(self) -> None:
        config = PLACE / "mlbd.toml"
        config.write_text(_FILE)
        settings: Settings = load(config).settings
        kernel = _Kernel([facts("fiber", 1), facts("lte", 2)])
        router = Router(settings, NOBODY, 0.0)
        daemon = Daemon(config, settings, cast(LinuxKernel, kernel), router, Log(_Nowhere()))
        daemon.loop._send = lambda order: None  # no probe leaves this process
        daemon._history = History(PLACE / "history", 20)  # which is soon full: growth is something else
        self.maintenance = Maintenance(daemon.loop, PLACE / "drained.json", lambda uplink: 0, lambda why: None)
        kept = daemon._maintenance
        self.server = ControlServer(
            settings.daemon.control,
            {
                "status": daemon._on_status, "plan": daemon._on_plan, "explain": daemon._on_explain,
                "reload": daemon._on_reload, "events": daemon._on_events, "drain": kept.on_drain,
                "resume": kept.on_resume, "drill": kept.on_drill,
            },
        )  # fmt: skip
        self.path = settings.daemon.control
        await self.server.start()
        self.cycles = asyncio.create_task(daemon.loop.run())
        await daemon.loop.first_cycle()

    def turn(self, work: Coroutine[Any, Any, None]) -> None:
        """Until that is done. What is logged as a defect meanwhile is one."""
        root = logging.getLogger()
        root.addHandler(self._heard)
        try:
            self.loop.run_until_complete(work)
        finally:
            root.removeHandler(self._heard)
        assert not self.complaints, self.complaints.pop()

    async def exchange(self, manner: bytes, sent: bytes) -> None:
        """Sends, in the client's manner, and reads to the end; then an ordinary client is served as ever."""
        await self._client(manner[0] if manner else 0, sent)
        [status] = await self._ask(b'{"command": "status"}\n')
        assert status["ok"], status
        assert not self.cycles.done(), self.cycles

    async def _client(self, manner: int, sent: bytes) -> None:
        reader, writer = await asyncio.open_unix_connection(self.path, limit=1 << 24)
        with contextlib.suppress(ConnectionError):
            if manner & 1:  # in pieces
                half = len(sent) // 2
                writer.write(sent[:half])
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                writer.write(sent[half:])
            else:
                writer.write(sent)
            if manner & 6 == 2:  # goes away, whatever the answer is
                await asyncio.sleep(0)
                writer.transport.abort()
                return
            if manner & 6 == 4:  # stays, silent
                self.idle.append(writer)
                if len(self.idle) > _IDLE:
                    self.idle.popleft().transport.abort()
                return
            writer.write_eof()
            async with asyncio.timeout(_PATIENCE):
                _judge(await reader.read())
        writer.close()

    async def _ask(self, line: bytes) -> list[Any]:
        reader, writer = await asyncio.open_unix_connection(self.path, limit=1 << 24)
        writer.write(line)
        writer.write_eof()
        async with asyncio.timeout(_PATIENCE):
            answer = await reader.read()
        writer.close()
        return _judge(answer)

    async def request(self, line: bytes) -> None:
        answer = await self.server._answer(line)
        if isinstance(answer, bytes):
            _judge(answer)
        else:
            await answer.aclose()
        await asyncio.sleep(0)

    async def restore(self, data: bytes) -> None:
        (PLACE / "drained.json").write_bytes(data.replace(b"BOOT", _BOOT))
        self.maintenance.restore()
        await asyncio.sleep(0)


class _Nowhere(io.StringIO):
    def write(self, text: str) -> int:
        return len(text)


class _Heard(logging.Handler):
    """A defect is told to the log, and its client is told so."""

    def __init__(self, complaints: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._complaints = complaints

    def emit(self, record: logging.LogRecord) -> None:
        said = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
        self._complaints.append(f"{record.getMessage()}\n{said}")


def _judge(answer: bytes) -> list[Any]:
    """Whole lines of JSON that grant or refuse, in UTF-8."""
    assert not answer or answer.endswith(b"\n"), answer[-100:]
    said = [json.loads(line) for line in answer.decode().split("\n")[:-1]]
    for each in said:
        assert each["ok"] or isinstance(each["error"], str), each
        assert each["ok"] or "internal error" not in each["error"], each
    return said


_running: list[_Running] = []


def _daemon() -> _Running:
    if not _running:
        _running.append(_Running())
    return _running[0]


def clients(data: bytes) -> None:
    """A client, by the real socket, in whatever manner."""
    daemon = _daemon()
    daemon.turn(daemon.exchange(data[:1], data[1:]))


def requests(data: bytes) -> None:
    """A request that has arrived whole."""
    daemon = _daemon()
    daemon.turn(daemon.request(data))


STATE = tuple(
    json.dumps({"boot": "BOOT", "drained": drained}).encode()
    for drained in ({"lte": None}, {"lte": 4e9, "fiber": 1.0}, {}, {"gone": None})
)


def drained(data: bytes) -> None:
    """The file that says who is drained, as it may be found at a start."""
    daemon = _daemon()
    daemon.turn(daemon.restore(data))
