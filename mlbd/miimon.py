"""Reading carriers ten times a second, because the kernel may hold back the event for one (net/core/link_watch.c)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from mlbd.loop import Loop

_WITHOUT = 1.0
"""Seconds between ticks where `miimon` is 0."""


class Miimon:
    """It runs for as long as the router, so a tick is a timer of the event loop: a task that sleeps costs as much again
    as all that a tick has to do.
    """

    def __init__(
        self, loop: Loop, read: Callable[[Iterable[str]], Mapping[str, bool | None]], also: Callable[[], None]
    ) -> None:
        """`read` tells the carrier of interfaces, None where it can't; `also` is done at every tick."""
        self._loop, self._read, self._also = loop, read, also

    async def run(self) -> None:
        """Until it is cancelled."""
        timers = asyncio.get_running_loop()
        failed: asyncio.Future[None] = timers.create_future()
        timer: asyncio.TimerHandle | None = None

        def tick() -> None:
            nonlocal timer
            period = self._loop.router.settings.daemon.miimon
            timer = timers.call_later(period or _WITHOUT, tick)
            try:
                if period:
                    self._look()
                self._also()
            except Exception as error:  # a defect; it ends the daemon as one in a task would
                timer.cancel()
                failed.set_exception(error)

        tick()
        try:
            await failed
        finally:
            if timer is not None:
                timer.cancel()

    def _look(self) -> None:
        known = self._loop.router.watched()
        for name, carrier in self._read(known).items():
            facts = known[name]
            if carrier is not None and carrier != facts.carrier and facts.up:
                self._loop.link(name, facts.index, facts.up, carrier)
