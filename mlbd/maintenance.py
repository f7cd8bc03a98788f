"""`mlbd drain`, `resume` and `drill` in the daemon: what people do to an uplink that works.

Who is drained stands in a file beside the control socket, so that it outlives the daemon; the file says in which boot
it was written, so that it does not outlive the machine's.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from math import inf
from pathlib import Path
from typing import Any

from mlbd.config.problems import Unfit, nearest
from mlbd.config.values import DURATION, duration, seconds_text
from mlbd.control import Refused
from mlbd.core.router import Router
from mlbd.core.status import Transition, UplinkStatus
from mlbd.loop import Loop

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_TRACKED = Path("/proc/sys/net/netfilter/nf_conntrack_count")
_PATIENCE = 60.0
"""Seconds that a drill waits for the uplink to come back, besides its hold."""


class Maintenance:
    def __init__(
        self, loop: Loop, file: Path, assigned: Callable[[str], int], complain: Callable[[str], object]
    ) -> None:
        """`assigned` counts the connections that an uplink was ever given, `complain` says that the file fails."""
        self._loop, self._file, self._assigned, self._complain = loop, file, assigned, complain
        self._drilled = ""
        self._tracked_after = 0
        self._happened: asyncio.Queue[tuple[str, float | None, int]] = asyncio.Queue()

    @property
    def _router(self) -> Router:
        return self._loop.router

    # Drains.

    def restore(self) -> None:
        """Drains the uplinks that were drained when the last daemon ended."""
        try:
            noted = json.loads(self._file.read_text())
            if noted["boot"] != _BOOT.read_text().strip():
                return
            for name, until in noted["drained"].items():
                left = inf if until is None else until - time.time()
                if left > 0 and name in self._names():
                    self._loop.drain(name, left, "it was drained before the daemon was started")
        except FileNotFoundError:
            return
        except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            self._complain(f"{self._file} can't be read, so nothing is drained: {error}")

    def reloaded(self) -> None:
        """An uplink that is not configured any more is not drained either, also if it comes again."""
        if self._file.exists():
            self._save()

    async def on_drain(self, asked: Mapping[str, object]) -> object:
        name, seconds = self._uplink(asked), self._seconds(asked)
        reason = "drained until it is resumed" if seconds == inf else f"drained for {seconds_text(seconds)}"
        self._loop.drain(name, seconds, reason)
        self._save()
        await self._loop.followed()
        others = self._alternative(name)
        return f"{name} is {reason}" + ("" if others else "; but nothing else is usable, so it goes on")

    async def on_resume(self, asked: Mapping[str, object]) -> object:
        name = self._uplink(asked)
        if not self._status(name).drained:
            raise Refused(f"{name} is not drained")
        self._loop.resume(name, "resumed")
        self._save()
        await self._loop.followed()
        return f"{name} is resumed"

    def transition(self, transition: Transition, took: float | None) -> None:
        """Something happened to an uplink; called before connections are cut loose."""
        if transition.event in ("uplink_drained", "uplink_resumed"):
            self._save()
        if transition.uplink == self._drilled:
            self._happened.put_nowait((transition.event, took, _tracked()))

    def _save(self) -> None:
        drained = {
            u.name: u.drained_until
            for u in self._router.uplink_status(0.0, time.time() - time.monotonic())
            if u.drained
        }
        new = self._file.with_name(f"{self._file.name}.new")
        try:
            new.write_text(json.dumps({"boot": _BOOT.read_text().strip(), "drained": drained}))
            new.replace(self._file)
        except OSError as error:
            self._complain(f"{self._file} can't be written, so a restart forgets who is drained: {error.strerror}")

    # Drills.

    async def on_drill(self, asked: Mapping[str, object]) -> AsyncGenerator[dict[str, Any], None]:
        """Tells step by step. Ends with the drill, or the drill with whoever asked."""
        name, seconds = self._uplink(asked), self._seconds(asked)
        status = self._status(name)
        self._refuse_another()
        if seconds == inf:
            raise Refused("a drill needs an end: --for 30s")
        if not status.usable:
            raise Refused(f"{name} is not usable already: {status.reason}")
        if not self._alternative(name):
            raise Refused(f"nothing else is usable, so a drill of {name} would cut everything off")
        return self._drill(name, seconds)

    async def _drill(self, name: str, seconds: float) -> AsyncGenerator[dict[str, Any], None]:
        self._refuse_another()  # who asked at the same moment
        began, assigned = time.monotonic(), self._assigned(name)
        self._drilled, self._happened = name, asyncio.Queue()
        try:
            self._loop.drill(name, seconds)
            yield {"step": "begun", "uplink": name, "for": seconds}
            found = await self._wait_for("uplink_down", seconds)
            if found is None:
                yield {"step": "not-detected", "uplink": name}
                return
            took, tracked = found
            yield {
                "step": "moved",
                "uplink": name,
                "detected_after": round(time.monotonic() - began - (took or 0.0), 3),
                "took_ms": None if took is None else round(took * 1000, 3),
                "reason": self._status(name).reason,
                "usable": [u.name for u in self._router.uplink_status(0.0, 0.0) if u.usable],
                "connections_meanwhile": self._assigned(name) - assigned,
            }
            await asyncio.sleep(max(0.2, began + seconds - time.monotonic()))
            yield {"step": "ended", "uplink": name, "cut": max(0, tracked - self._tracked_after)}
            if name not in self._names():
                yield {"step": "back", "uplink": name, "after": None, "reason": "it is not configured any more"}
                return
            found = await self._wait_for("uplink_up", _PATIENCE + self._status(name).hold)
            back = None if found is None else round(time.monotonic() - began - seconds, 3)
            gone = name not in self._names()
            why = "it is not configured any more" if gone else self._status(name).reason
            yield {"step": "back", "uplink": name, "after": back, "reason": why}
        finally:
            self._drilled = ""
            if name in self._names():
                self._loop.drill(name, 0.0)

    def _refuse_another(self) -> None:
        if self._drilled:
            raise Refused(f"{self._drilled} is being drilled; one at a time")

    async def _wait_for(self, event: str, seconds: float) -> tuple[float | None, int] | None:
        """How long acting on it took, and how many connections were tracked then; None: it did not happen."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    happened, took, tracked = await self._happened.get()
                    if happened == event:
                        return took, tracked
        except TimeoutError:
            return None

    def cut(self, uplink: str) -> None:
        """Its connections were cut loose."""
        if uplink == self._drilled:
            self._tracked_after = _tracked()

    # What was asked.

    def _names(self) -> list[str]:
        return [u.name for u in self._router.settings.uplinks]

    def _status(self, name: str) -> UplinkStatus:
        return next(u for u in self._router.uplink_status(time.monotonic(), 0.0) if u.name == name)

    def _alternative(self, name: str) -> bool:
        return any(u.usable for u in self._router.uplink_status(0.0, 0.0) if u.name != name)

    def _uplink(self, asked: Mapping[str, object]) -> str:
        name = str(asked.get("uplink", ""))
        if name not in self._names():
            hint = nearest(name, self._names())
            raise Refused(f"there is no uplink {name!r}; {hint or 'there are ' + ', '.join(self._names())}")
        return name

    def _seconds(self, asked: Mapping[str, object]) -> float:
        text = asked.get("for")
        if text is None:
            return inf
        try:
            return duration(least=1.0, zero=False)(str(text))
        except Unfit as unfit:
            raise Refused(f"--for {text}: expected {unfit.expected or DURATION}") from None


def _tracked() -> int:
    """Connections that conntrack knows."""
    try:
        return int(_TRACKED.read_text())
    except (OSError, ValueError):
        return 0
