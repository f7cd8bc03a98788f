"""A hook as a process: started without a copy of the daemon, waited for without a thread, ended with its children."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

GRACE = 2.0
"""Seconds from SIGTERM to SIGKILL."""
_PATIENCE = 2.0
"""Seconds after SIGKILL: a process that hangs in the kernel is left behind."""
_AGAIN = 0.1
TICKET = "MLBD_RUN"
"""The variable by which everything that a run of a hook has started is recognised."""


def start(path: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """In a session of its own, its output in a pipe. Raises OSError. The memory of the daemon is not copied (vfork)."""
    running = subprocess.Popen(
        [str(path)],
        env=environment,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        bufsize=0,
    )
    if os.getpriority(os.PRIO_PROCESS, 0) < 0:
        with contextlib.suppress(OSError):  # the daemon is in more of a hurry than its hooks
            os.setpriority(os.PRIO_PGRP, running.pid, 0)
    return running


async def readable(descriptor: int) -> None:
    """Returns when a read from it would not block."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(descriptor, tell)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


async def outcome(pid: int) -> tuple[str, str]:
    """Result and reason of a child, when it has ended by itself. It is left to be reaped."""
    watched = os.pidfd_open(pid)
    try:
        await readable(watched)
    finally:
        os.close(watched)
    ended = _ended(pid)
    assert ended is not None
    if ended.si_code != os.CLD_EXITED:
        return "failed", f"it was ended by signal {ended.si_status}, {signal.strsignal(ended.si_status)}"
    return ("failed", f"it exited with status {ended.si_status}") if ended.si_status else ("ok", "")


async def kill(pid: int, ticket: str) -> None:
    """A child that was not reaped, its process group, and what has its ticket although in a session of its own."""
    for number, time in ((signal.SIGTERM, GRACE), (signal.SIGKILL, _PATIENCE)):
        for turn in range(round(time / _AGAIN)):
            left = _carrying(ticket)
            if turn == 0 or number == signal.SIGKILL:
                with contextlib.suppress(OSError):
                    os.killpg(pid, number)
                for each in left:
                    with contextlib.suppress(OSError):
                        os.kill(each, number)
            if not left and _ended(pid) is not None:
                break
            await asyncio.sleep(_AGAIN)


def _ended(pid: int) -> os.waitid_result | None:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)


def _carrying(ticket: str) -> list[int]:
    """Processes with this ticket in their environment, proc_pid_environ(5)."""
    wanted = f"{TICKET}={ticket}".encode()
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with contextlib.suppress(OSError):
                if wanted in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
    return found
