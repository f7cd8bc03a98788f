"""Orders for a provider, and a prober in a running loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from mlbd.core.probing import Failure, Order, Outcome, Reply
from mlbd.core.settings import Target
from mlbd.probe import Prober
from tests.probe.network import Provider

_PING = Target("")
ORDER = Order("fiber", 0, 1, "wan1", 0, "10.1.0.1")


def to(
    provider: Provider, address: str, round_: int = 1, uplink: str = "fiber", target: int = 0, ask: Target = _PING
) -> Order:
    return Order(uplink, target, round_, provider.interface, provider.index, address, ask)


class Asking:
    """A prober in a running loop, and what it reported."""

    def __init__(self) -> None:
        self.heard: list[Outcome] = []
        self.prober = Prober(self._hear)
        self._more = asyncio.Event()

    def _hear(self, outcome: Outcome) -> None:
        self.heard.append(outcome)
        self._more.set()

    async def until(self, count: int, within: float = 2.0) -> list[Outcome]:
        """What was reported, as soon as it is `count` outcomes, or whatever there is at the end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                while len(self.heard) < count:
                    self._more.clear()
                    await self._more.wait()
        return self.heard

    async def silence(self, seconds: float = 0.15) -> list[Outcome]:
        await asyncio.sleep(seconds)
        return self.heard


def asking(story: Callable[[Asking], Awaitable[None]]) -> None:
    async def run() -> None:
        asked = Asking()
        try:
            await story(asked)
        finally:
            asked.prober.close()

    asyncio.run(run())


def said(outcomes: list[Outcome]) -> list[str]:
    """What became of each: `reply`, or the kind and the text of a failure."""
    return [f"{o.kind}: {o.text}" if isinstance(o, Failure) else "reply" for o in outcomes]


def sockets() -> int:
    """How many sockets this process has open."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the listing is closed again
            found += str(descriptor.readlink()).startswith("socket:")
    return found


def kinds(outcomes: list[Outcome]) -> list[str]:
    return [f"{o.uplink}/{o.target}/{o.round} {'reply' if isinstance(o, Reply) else o.kind}" for o in outcomes]
