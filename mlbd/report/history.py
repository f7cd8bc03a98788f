"""What happened of late: the newest transitions, for `mlbd events`, also over a restart of the daemon.

They are kept in memory and, line by line, in a file beside the control socket, which in /run does not outlive the
machine. The file is a help and no more: one that can't be read or written costs the memory of a restart, and nothing
else. Nothing is synced to a disk, so a line costs some microseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import stat
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from mlbd.core.status import Transition
from mlbd.report.screen import clean

BOUND = 1000
"""Events kept."""
_LONGEST = 4 << 20
"""Bytes at the end of the file that are read; as many events are far shorter."""

_log = logging.getLogger(__name__)


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename={"was": "from", "now": "to"}):
    """One line of `mlbd events --json`; what is "" because it is about another kind of thing is left out."""

    time: float
    """Unix time at which the evidence was complete."""
    event: str
    """As `Transition.event`."""
    uplink: str = ""
    bundle: str = ""
    interface: str = ""
    """Of this member of the bundle."""
    was: str
    now: str
    reason: str
    evidence: str
    usable: list[str]
    took_ms: float | None
    """Until the kernel was changed; None if it could not be."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Event).decode


class History:
    """Call `load` once before the first `add`. Neither raises for whatever is wrong with the file."""

    def __init__(self, path: Path, bound: int = BOUND) -> None:
        self._path = path
        self._bound = bound
        self._events: deque[Event] = deque(maxlen=bound)
        self._count = 0
        """Events ever, of which the newest are kept."""
        self._lines = 0
        """In the file; 0 where it is to be written anew."""
        self._lost = False
        """What is in the file is not all, and that was said."""
        self._usable = True
        self._news = asyncio.Event()

    def load(self) -> None:
        """What an earlier daemon left. A file with lines that are no events is kept aside as `....broken`."""
        try:
            text = self._read()
        except FileNotFoundError:
            return
        except OSError as error:
            # Whose it is we don't know: it stays as it is.
            self._usable = False
            self._say(error)
            return
        lines = text.split(b"\n")
        broken = lines.pop() != b""  # the last line was cut short
        for line in lines:
            try:
                self._events.append(_decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                broken = True
        self._count = len(self._events)
        self._lines = len(lines)
        if broken:
            aside = self._path.with_name(self._path.name + ".broken")
            _log.warning("%s has lines that are no events; it is kept as %s and begun anew", self._path, aside)
            self._lines = 0
            try:
                self._path.replace(aside)
                self._rewrite()
            except OSError as error:
                self._say(error)

    def add(self, transition: Transition, took: float | None) -> None:
        """`took`: seconds from complete evidence to the kernel changed; None if it could not be."""
        event = Event(
            time=round(time.time() - time.monotonic() + transition.at, 3),
            event=transition.event,
            uplink="" if transition.bundle else transition.uplink,
            bundle=transition.bundle,
            interface=transition.uplink if transition.bundle else "",
            was=transition.was,
            now=transition.now,
            reason=transition.reason.encode(errors="replace").decode(),  # no surrogate can be written
            evidence=transition.evidence,
            usable=list(transition.usable),
            took_ms=None if took is None else round(took * 1000, 3),
        )
        self._events.append(event)
        self._count += 1
        self._news.set()
        self._news = asyncio.Event()
        if self._usable:
            try:
                self._append(event)
            except OSError as error:
                self._lines = 0  # with the next event it is tried to write all of them
                self._say(error)
            else:
                self._lost = False

    @property
    def events(self) -> list[Event]:
        """Newest last."""
        return list(self._events)

    async def follow(self) -> AsyncGenerator[list[Event], None]:
        """All of them, and then, whenever there are more, those. Who is slow misses what is no longer kept."""
        told = 0
        while True:
            missing = min(self._count - told, len(self._events))
            told = self._count
            news = self._news
            yield list(self._events)[-missing:] if missing else []
            if self._count == told:
                await news.wait()

    def _say(self, error: OSError) -> None:
        if not self._lost:
            self._lost = True
            _log.warning(
                "events are kept in memory only, and forgotten when the daemon stops: %s: %s",
                self._path, error.strerror or error,
            )  # fmt: skip

    def _read(self) -> bytes:
        descriptor = self._open(os.O_RDONLY)
        with os.fdopen(descriptor, "rb") as file:
            size = os.fstat(descriptor).st_size
            file.seek(max(0, size - _LONGEST))
            text = file.read(_LONGEST)
        return text if size <= _LONGEST else text.partition(b"\n")[2]

    def _open(self, flags: int) -> int:
        """Raises OSError; once there is something else than a file of ours, it is left alone for good."""
        descriptor = os.open(self._path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            os.close(descriptor)
            self._usable = False
            raise OSError(errno.EEXIST, "what is there is no file of this daemon's")
        return descriptor

    def _append(self, event: Event) -> None:
        descriptor = None
        if 0 < self._lines < 2 * self._bound:
            with contextlib.suppress(FileNotFoundError):
                descriptor = self._open(os.O_WRONLY | os.O_APPEND)
        if descriptor is None:
            self._rewrite()
            return
        try:
            _write(descriptor, _encode(event) + b"\n")
        finally:
            os.close(descriptor)
        self._lines += 1

    def _rewrite(self) -> None:
        """Replaces the file by one with what is kept; whoever looks sees the one or the other."""
        new = self._path.with_name(self._path.name + ".new")
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            try:
                _write(descriptor, b"".join(_encode(event) + b"\n" for event in self._events))
            finally:
                os.close(descriptor)
            new.replace(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                new.unlink()
            raise
        self._lines = len(self._events)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def sentence(event: Event | Mapping[str, Any]) -> str:
    """A line for a person, in local time. Takes an `Event` or what `mlbd events --json` says."""
    known = event if isinstance(event, Event) else msgspec.convert(event, Event)
    try:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(known.time))
    except (OverflowError, OSError, ValueError):  # the file said so
        when = f"at {known.time:g}"
    who = f"{known.interface} of {known.bundle}" if known.bundle else known.uplink
    what = known.event.removeprefix("uplink_").removeprefix("member_").replace("_", " ")
    change = f" ({known.was} -> {known.now})" if known.was != known.now else ""
    evidence = f" [{known.evidence}]" if known.evidence else ""
    left = ", ".join(known.usable) or "none"
    took = "" if known.took_ms is None else f", took {known.took_ms:.1f} ms"
    return clean(f"{when}  {who} is {what}{change}: {known.reason}{evidence}; usable: {left}{took}")
