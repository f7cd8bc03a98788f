"""The administrator's programs, run when something happens to an uplink or to a member of a bundle: one event after the
other, in order.

They get what ifup(8) and ifdown(8) give to the scripts in /etc/network/if-up.d and if-down.d, interfaces(5), and are
found and named as by run-parts(8). Nothing here is waited for by anybody: what happens meanwhile waits in a queue.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal, Protocol

from msgspec import Struct

from mlbd.core.facts import InterfaceFacts
from mlbd.core.settings import FAMILIES, Family, Uplink
from mlbd.core.status import Transition
from mlbd.hooks import process
from mlbd.hooks.files import found

LIMIT = 30.0
"""Seconds for a hook and all that it started."""
_MOMENT = 1.0
"""Seconds that a hook is given when the daemon stops."""
_QUEUE = 64
"""Events that wait before older ones give way; each uplink and member may have two more."""
_LINGERING = 16
"""Hooks that are done but for what they left running in the background."""
_LINES, _WIDTH = 50, 500
"""What is logged of a hook's output."""
_PAUSE = 0.01
"""Seconds between two looks at a hook's output, 64 KiB at most: one that floods is slowed down."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""As ifupdown has it."""
_PHASES = {"start": "post-up", "stop": "pre-down"}
_DIRECTORIES = {"start": "if-up.d", "stop": "if-down.d", "": ""}
_METHODS: dict[str, dict[Family, str]] = {
    "auto": {4: "dhcp", 6: "auto"},
    "fixed": {4: "static", 6: "static"},
    "none": {4: "ppp", 6: "manual"},
}
_MEMBER: Mapping[Family, str] = {4: "manual"}
"""Of a member, whose addresses are the bundle's, for ifupdown."""

Mode = Literal["start", "stop", ""]
_MODES: dict[str, Mode] = {
    "uplink_up": "start",
    "uplink_down": "stop",
    "member_up": "start",
    "member_down": "stop",
}

_log = logging.getLogger(__name__)


class Log(Protocol):
    """Where outcomes and output go."""

    def info(self, event: str, **fields: object) -> None: ...

    def warning(self, event: str, **fields: object) -> None: ...


class _Call(Struct, frozen=True):
    """One event, to be told to every hook, once in each of the environments."""

    who: Mapping[str, str]
    """As fields of the log."""
    mode: Mode
    environments: tuple[Mapping[str, str], ...]


class Hooks:
    """`notify` may be called at any time; what it says is carried out by `run`."""

    def __init__(self, directory: str, log: Log, ran: Callable[[str], None], *, limit: float = LIMIT) -> None:
        """`ran` is told of each run's result: ok, failed, timeout or refused."""
        self.directory = directory
        """May be changed at any time."""
        self._log = log
        self._ran = ran
        self._limit = limit
        self._queue: deque[_Call] = deque()
        self._news = asyncio.Event()
        self._started: dict[str, Mapping[Family, str]] = {}
        """By uplink."""
        self._running: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count(1)

    def notify(self, transition: Transition, uplink: Uplink | None, facts: InterfaceFacts | None) -> None:
        """Something happened to the uplink, whose interface is like this now; or, without one, to a member."""
        mode = _MODES.get(transition.event, "")
        if uplink is None:
            who = {"bundle": transition.bundle, "interface": transition.uplink}
            interface, families = transition.uplink, _MEMBER
        else:
            who = {"uplink": uplink.name}
            interface, families = uplink.interface, self._families(uplink, mode, facts)
        call = _Call(who, mode, tuple(_environments(transition, interface, mode, families)))
        if len(self._queue) >= _QUEUE:
            self._collapse(call)
        self._queue.append(call)
        self._news.set()

    def _families(self, uplink: Uplink, mode: Mode, facts: InterfaceFacts | None) -> Mapping[Family, str]:
        """Those to be told, and how the uplink got them."""
        families = methods(uplink, facts)
        if mode == "start":
            self._started[uplink.name] = families
        elif mode == "stop":  # addresses may be gone with the carrier; what was started is to be stopped
            return self._started.pop(uplink.name, families)
        return families

    def _collapse(self, newest: _Call) -> None:
        """Of the events that wait, those whose news the newest brings again are left out."""
        kept = [c for c in self._queue if c.who != newest.who or bool(c.mode) != bool(newest.mode)]
        if len(kept) < len(self._queue):
            self._log.warning(
                "hooks are too slow, older events are left out",
                **newest.who,
                count=len(self._queue) - len(kept),
            )
            self._queue = deque(kept)

    async def run(self) -> None:
        """Until cancelled. A hook that runs then is given a moment, and killed."""
        try:
            while True:
                while self._queue:
                    call = self._queue.popleft()
                    try:
                        await self._deliver(call)
                    except Exception:
                        # A bug here costs a hook, not the router.
                        _log.exception("a hook could not be run")
                self._news.clear()
                await self._news.wait()
        finally:
            if self._running:
                await asyncio.wait(self._running, timeout=_MOMENT)
            for task in self._running:
                task.cancel()
            if self._running:
                await asyncio.wait(self._running)

    async def _deliver(self, call: _Call) -> None:
        for environment in call.environments:
            # Each time anew: a hook may change what there is.
            for name, path, problem in list(found(Path(self.directory), _DIRECTORIES[call.mode])):
                if problem:
                    self._ended(name, call.who, "refused", problem)
                else:
                    await self._run(name, path, environment, call.who)

    async def _run(self, name: str, path: Path, environment: Mapping[str, str], who: Mapping[str, str]) -> None:
        if len(self._running) >= _LINGERING:
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        ticket = f"{os.getpid()}-{next(self._numbers)}"
        try:
            running = process.start(path, {**environment, process.TICKET: ticket})
        except OSError as error:
            self._ended(name, who, "failed", f"it could not be started: {error.strerror or error}")
            return
        over = asyncio.Event()
        task = asyncio.create_task(self._attend(running, ticket, name, who, over), name=f"hook {name}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await over.wait()

    def _ended(self, name: str, who: Mapping[str, str], result: str, reason: str) -> None:
        self._ran(result)
        if result != "ok":
            self._log.warning("a hook failed", reason=reason, hook=name, **who, result=result)

    async def _attend(
        self, running: subprocess.Popen[bytes], ticket: str, name: str, who: Mapping[str, str], over: asyncio.Event
    ) -> None:
        """Sees a run through, until nothing has its output any more; it is `over`, for the next, when the hook ends.

        Until then the hook is not reaped, so that its number and its group's are nobody else's.
        """
        output = asyncio.create_task(self._relay(running, name, who))
        try:
            async with asyncio.timeout(self._limit):
                outcome = await process.outcome(running.pid)
                await asyncio.wait({output}, timeout=0.1)  # what it said is logged first
                self._ended(name, who, *outcome)
                over.set()
                await asyncio.wait({output})
        except TimeoutError:
            await process.kill(running.pid, ticket)
            if over.is_set():
                left = f"it was still running in the background after {self._limit:g} s, and was killed"
                self._log.warning("a hook left something running", reason=left, hook=name, **who)
            else:
                why = f"it was still running after {self._limit:g} s, and was killed"
                self._ended(name, who, "timeout", why)
        except (OSError, asyncio.CancelledError) as error:
            await process.kill(running.pid, ticket)
            if not over.is_set():
                why = "the daemon stopped" if isinstance(error, asyncio.CancelledError) else str(error)
                self._ended(name, who, "failed", f"it was killed: {why}")
        finally:
            over.set()
            output.cancel()
            await asyncio.wait({output})
            assert running.stdout is not None
            running.stdout.close()
            running.poll()

    async def _relay(self, running: subprocess.Popen[bytes], name: str, who: Mapping[str, str]) -> None:
        """Output to the log, line by line; what is too much is read all the same."""
        assert running.stdout is not None
        descriptor = running.stdout.fileno()
        os.set_blocking(descriptor, False)
        rest, left = b"", _LINES + 1
        while True:
            await process.readable(descriptor)
            data = os.read(descriptor, 65536)
            if left:
                *lines, rest = (rest + data + (b"" if data else b"\n")).split(b"\n", left)
                for line in filter(None, map(_text, lines)):
                    left -= 1
                    said = line if left else "(more is not logged)"
                    self._log.info("hook output", reason=said, hook=name, **who)
                rest = rest[: _WIDTH + 1]
            if not data:
                return
            await asyncio.sleep(_PAUSE)


def methods(uplink: Uplink, facts: InterfaceFacts | None) -> dict[Family, str]:
    """The address families that the uplink has, IPv4 if none, and how it got them in the words of interfaces(5).

    That is a guess: who configured the interface, and how, is not known to us.
    """
    found = [family for family in FAMILIES if facts is not None and facts.addresses_of(family)] or [FAMILIES[0]]
    return {family: _METHODS[uplink.gateway_setting(family).source][family] for family in found}


def _environments(
    transition: Transition, interface: str, mode: Mode, families: Mapping[Family, str]
) -> Iterator[Mapping[str, str]]:
    common = {
        "PATH": _PATH,
        "LANG": "C.UTF-8",
        "IFACE": interface,
        "LOGICAL": transition.bundle or interface,
        "VERBOSITY": "0",
        "MLBD_UPLINK": "" if transition.bundle else transition.uplink,
        "MLBD_BUNDLE": transition.bundle,
        "MLBD_EVENT": transition.event,
        "MLBD_REASON": _text(transition.reason.encode(errors="replace")),
        "MLBD_USABLE": " ".join(transition.usable),
    }
    if not mode:
        yield common
        return
    for family, method in families.items():
        address_family = "inet" if family == 4 else "inet6"
        yield {**common, "MODE": mode, "PHASE": _PHASES[mode], "ADDRFAM": address_family, "METHOD": method}


def _text(line: bytes) -> str:
    """On one line, and nothing that a terminal would obey."""
    text = "".join(c if c.isprintable() else " " for c in line[: _WIDTH + 1].decode(errors="replace")).rstrip()
    return text if len(text) <= _WIDTH else text[:_WIDTH] + "..."
