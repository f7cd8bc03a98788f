"""Orders for a provider, and a prober in a running loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from mlbd.core.probing import Order, Outcome, Reply
from mlbd.probe import Prober
from tests.probe.network import Provider

ORDER = Order("fiber", 0, 1, "wan1", 0, "10.1.0.1")


def to(provider: Provider, address: str, round_: int = 1, uplink: str = "fiber", target: int = 0) -> Order:
    return Order(uplink, target, round_, provider.interface, provider.index, address)


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


def kinds(outcomes: list[Outcome]) -> list[str]:
    return [f"{o.uplink}/{o.target}/{o.round} {'reply' if isinstance(o, Reply) else o.kind}" for o in outcomes]
