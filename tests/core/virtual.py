"""The loop in virtual time: asyncio's clock jumps to the next timer, and the kernel is in memory and takes its time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TypeVar

from msgspec.structs import replace

from mlbd.core.layout import adopted
from mlbd.core.plan import Change
from mlbd.core.ports import NO_BUNDLES, ApplyError, Observation
from mlbd.core.probing import Order, Outcome, Reply
from mlbd.core.router import Router
from mlbd.core.settings import Conntrack, Settings
from mlbd.core.state import KernelState, SlotMap
from mlbd.core.status import CycleStatus, Transition
from mlbd.loop import Loop
from tests.core.world import RTT, World, facts, settings, uplink
from tests.kernel.memory import MemoryKernel

T = TypeVar("T")
EMPTY = KernelState()


class _Jump(selectors.SelectSelector):
    """Does not wait, but says how long it would have."""

    waited = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits, and nothing will ever happen"
        self.waited += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return 1000.0 + self._jump.waited


def virtually(main: Callable[[], Awaitable[T]]) -> T:
    """Runs it to its end in virtual time."""

    async def run() -> T:
        return await main()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(run())


class SlowKernel(MemoryKernel):
    """A memory kernel whose calls take time and leave a record: `look`, `apply` or `cut`, when, and of what.

    Of a cut it is the mark, and where new connections went at that moment.
    """

    def __init__(self, objects: KernelState) -> None:
        super().__init__((), objects.values())
        self.look_takes = 0.02
        self.apply_takes = 0.001
        self.calls: list[tuple[float, str, object]] = []

    def _called(self, what: str, about: object) -> None:
        self.calls.append((asyncio.get_running_loop().time(), what, about))

    async def observe(
        self,
        interfaces: Collection[str],
        neighbours: Collection[str] = (),
        bundles: Mapping[str, Collection[str]] = NO_BUNDLES,
    ) -> Observation:
        self._called("look", frozenset(interfaces))
        found = await super().observe(interfaces, neighbours, bundles)
        await asyncio.sleep(self.look_takes)
        return found

    async def apply(self, changes: Sequence[Change]) -> Sequence[ApplyError]:
        self._called("apply", tuple(changes))
        await asyncio.sleep(self.apply_takes)
        return await super().apply(changes)

    async def cut(self, mark: int, mask: int) -> None:
        self._called("cut", (mark, self.members()))
        await super().cut(mark, mask)

    def times(self, what: str, since: float = 0.0) -> list[float]:
        return [at for at, kind, _ in self.calls if kind == what and at >= since]

    def members(self, name: str = "pick4_balanced") -> set[str]:
        """Chains that a map leads to."""
        found = self.state["map", name]
        assert isinstance(found, SlotMap)
        return set(found.slots)


class Shell:
    """The daemon in miniature: a loop, a kernel, a network whose answers are set. It is its own `Report`."""

    def __init__(self, settings: Settings, before: KernelState = EMPTY, *, up: str = "abc") -> None:
        self.clock = asyncio.get_running_loop().time
        self.kernel = SlowKernel(before)
        for number, wanted in enumerate(settings.uplinks, 1):
            if wanted.name in up:
                self.kernel.appear(facts(wanted.name, number))
        self.kernel.state = KernelState([*self.kernel.state.values(), *before.values()])
        router = Router(settings, adopted(before), self.clock())
        self.loop = Loop(self.kernel, router, self._send, self, clock=self.clock)
        self.answers: dict[str, float | None] = {}
        self.transitions: list[tuple[Transition, float | None]] = []
        self.cycles: list[CycleStatus] = []
        self.repairs: list[tuple[float, list[Change]]] = []
        self.fights: list[str] = []
        self.cuts: list[str] = []
        self.outcomes: list[Outcome] = []
        self.on_transition: Callable[[Transition], None] = lambda _: None
        self._task = asyncio.create_task(self.loop.run())

    async def settled(self) -> None:
        """All uplinks proven and everything quiet."""
        await asyncio.sleep(5.0)
        assert self.loop.router.settled
        assert self.loop.last_cycle is not None
        assert self.loop.last_cycle.result == "unchanged"

    async def stop(self) -> None:
        self.loop.stop()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def carrier(self, name: str, carrier: bool) -> None:
        """The cable, and the kernel's message about it."""
        old = self.kernel.facts[f"{name}0"]
        self.kernel.appear(replace(old, carrier=carrier))
        self.loop.link(old.name, old.index, True, carrier)

    def _send(self, order: Order) -> None:
        answer = self.answers.get(order.uplink, RTT)
        if answer is not None:
            reply = Reply(order.uplink, order.target, order.round, answer)
            asyncio.get_running_loop().call_later(answer, self.loop.outcome, reply)

    # What is reported.

    def transition(self, transition: Transition, took: float | None) -> None:
        self.transitions.append((transition, took))
        self.on_transition(transition)

    def cycle(self, cycle: CycleStatus, changes: Sequence[Change]) -> None:
        self.cycles.append(cycle)

    def repaired(self, changes: Sequence[Change], by: Collection[str]) -> None:
        self.repairs.append((self.clock(), list(changes)))

    def fight(self, advice: str) -> None:
        self.fights.append(advice)

    def cut(self, uplink: str) -> None:
        self.cuts.append(uplink)

    def probe_sent(self, order: Order) -> None: ...

    def probe_outcome(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


ABC = settings(uplink("a"), uplink("b"), uplink("c"), conntrack=Conntrack(tcp="keep"))
A1, B2, C3 = "wish_1_a", "wish_2_b", "wish_3_c"
ROUTE_A = ("route", 4, 20001, "default", 1)


def shell(
    story: Callable[[Shell], Awaitable[None]], given: Settings = ABC, before: KernelState = EMPTY, *, up: str = "abc"
) -> None:
    """Runs a story with the daemon in miniature."""

    async def main() -> None:
        made = Shell(given, before, up=up)
        try:
            await story(made)
        finally:
            await made.stop()

    virtually(main)


def left_behind() -> KernelState:
    """What an earlier run left: all three in use."""
    world = World(ABC)
    world.wait(5.0)
    return world.kernel()
