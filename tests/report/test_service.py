from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from mlbd.report.service import Service, summary
from tests.report.values import FIBER, LTE, STATUS

TEXT = "1 of 2 uplinks usable: lte DOWN (3 of 3 probes lost)"


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(path)
        listening.setblocking(False)
        yield listening


def test_messages(manager: socket.socket) -> None:
    """The service manager hears READY, WATCHDOG, RELOADING with the monotonic time, and STOPPING, in its own words."""
    service = Service()
    service.ready(STATUS)
    service.alive(STATUS)
    before = time.monotonic_ns() // 1000
    service.reloading()
    service.stopping()
    heard = [manager.recv(4096).decode() for _ in range(4)]
    first, _, microseconds = heard.pop(2).rpartition("=")
    assert first == "RELOADING=1\nMONOTONIC_USEC"
    assert before <= int(microseconds) <= time.monotonic_ns() // 1000
    assert heard == [f"READY=1\nSTATUS={TEXT}", f"WATCHDOG=1\nSTATUS={TEXT}", "STOPPING=1"]


def test_only_ascii(manager: socket.socket) -> None:
    """A reason with characters beyond Latin-1, or with line breaks, can't lose the message or forge another field."""
    odd = replace(STATUS, uplinks=(replace(LTE, reason="down ↓\nMAINPID=1"),))
    Service().ready(odd)
    assert manager.recv(4096) == b"READY=1\nSTATUS=0 of 1 uplinks usable: lte DOWN (down ? MAINPID=1)"


def test_full_queue_does_not_block(manager: socket.socket) -> None:
    """A service manager that does not read holds nobody up."""
    service = Service()
    began = time.monotonic()
    for _ in range(1000):
        service.alive(STATUS)
    assert time.monotonic() - began < 2


def test_without_a_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside systemd everything is a no-op."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    service = Service()
    service.ready(STATUS)
    service.stopping()
    assert service.period == 5.0


@pytest.mark.parametrize(
    ("usec", "pid", "period"),
    [
        ("3000000", None, 1.5),
        ("3000000", "own", 1.5),
        ("3000000", "other", 5.0),
        ("60000000", "own", 5.0),
        ("0", "own", 5.0),
        ("soon", "own", 5.0),
    ],
)
def test_watchdog_period(monkeypatch: pytest.MonkeyPatch, usec: str, pid: str | None, period: float) -> None:
    """The watchdog is fed twice per interval if it is meant for this process; the status is refreshed every 5 s."""
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid() + (pid == "other")))
    assert Service().period == period


@pytest.mark.parametrize(
    ("uplinks", "text"),
    [
        ((FIBER,), "1 of 1 uplinks usable"),
        ((FIBER, LTE), TEXT),
        ((replace(FIBER, usable=False, drained=True),), "0 of 1 uplinks usable: fiber drained"),
    ],
)
def test_summary(uplinks: tuple[object, ...], text: str) -> None:
    """One line says how many uplinks are usable and what is wrong with the others."""
    assert summary(replace(STATUS, uplinks=uplinks)) == text
