"""A long life in a short time: the daemon's own parts, but for the kernel and the network, in virtual time."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from msgspec.structs import replace
from prometheus_client import generate_latest

from mlbd.core.layout import NOBODY
from mlbd.core.plan import Change
from mlbd.core.probing import Failure, FailureKind, Order, Outcome, Reply
from mlbd.core.router import Router
from mlbd.core.settings import Conntrack, Policy, Probe, Settings, Target, Uplink
from mlbd.core.status import Transition
from mlbd.daemon import Daemon
from mlbd.hooks import Hooks
from mlbd.loop import Loop
from mlbd.maintenance import Maintenance
from mlbd.report import History, Log, Metrics, Service, TrackFiles
from mlbd.suspicion import Suspicion
from tests.core.virtual import virtually
from tests.core.world import facts
from tests.kernel.memory import MemoryKernel

UPLINKS = 10
WARM_UP = 100
"""Turns after which all that is bounded is full: windows of 60 s, a thousand events. A long life warms up for a fifth
of it more, until the allocator's own gaps are as many as they will be.
"""
TURN = 2.0
"""Virtual seconds in which uplinks fail and come back."""
MOST, MOST_BLOCKS = 1_000_000, 5_000
"""Bytes that memory may grow after the warm-up, and Python objects."""
PROBE = Probe(
    targets=(Target("gateway"), Target("192.0.2.1", "192.0.2.1", 4)),
    interval=0.2, suspect_interval=0.1, timeout=0.05, fall=3, rise=2, hold_max=0.0,
)  # fmt: skip


class ForgetfulKernel(MemoryKernel):
    """Keeps no record of what was done."""

    async def cut(self, mark: int, mask: int) -> None: ...

    async def begin_anew(self) -> None: ...

    async def abandon(self, stranded: Collection[str], departed: Collection[str] = ()) -> None: ...


STEADY = replace(PROBE, interval=0.05)


def settings(names: int) -> Settings:
    """The first uplink never fails, and is probed more often."""
    probes = [STEADY, *[PROBE] * (names - 1)]
    uplinks = tuple(Uplink(name=f"u{n}", interface=f"u{n}0", probe=probe) for n, probe in enumerate(probes, 1))
    every = tuple((uplink.name, 1) for uplink in uplinks)
    policy = Policy(name="all", tiers=(tuple(name for name, _ in every),), weights=every)
    return Settings(uplinks=uplinks, policies=(policy,), conntrack=Conntrack(on_recover="flush"))


@dataclass(frozen=True)
class Held:
    """What the process holds."""

    resident: int
    """Bytes."""
    blocks: int
    """Of Python's memory."""
    descriptors: int
    tasks: int
    timers: int
    waiting: int
    """In queues."""


class Life(Daemon):
    """Everything that is reported goes where the daemon sends it; the log goes nowhere."""

    def __init__(self, directory: Path) -> None:
        self.config = directory / "mlbd.toml"
        self.settings = settings(UPLINKS)
        self.started = time.time()
        self.warnings = ()
        self._failing = ()
        self.outcomes = self.transitions = 0
        self._virtual = asyncio.get_running_loop()
        self._memory = ForgetfulKernel(facts(f"u{n}", n) for n in range(1, UPLINKS + 1))
        self._sink = Path(os.devnull).open("w")  # noqa: SIM115  (closed by `close`)
        self._log = Log(self._sink)
        self._metrics = Metrics(self.status, self._totals)
        self._service = Service()
        self._history = History(directory / "events.jsonl")
        self._tracks = TrackFiles(directory / "keepalived")
        self._hooks = Hooks(str(directory / "hooks.d"), self._log, self._metrics.hook_ran)
        self._suspicion = Suspicion(lambda: 0, dict)
        router = Router(self.settings, NOBODY, self._virtual.time())
        self.loop = Loop(self._memory, router, self._answer, self, clock=self._virtual.time)
        self._maintenance = Maintenance(self.loop, directory / "drained.json", lambda _: 0, lambda _: None)
        self._silent: set[str] = set()
        self._failing_by: dict[str, FailureKind] = {}
        self._running = [asyncio.create_task(self.loop.run()), asyncio.create_task(self._hooks.run())]

    async def close(self) -> None:
        self.loop.stop()
        for task in self._running:
            task.cancel()
        await asyncio.wait(self._running)
        self._sink.close()

    # What happens.

    async def turn(self, number: int) -> None:
        """All uplinks but the first fail, each in its own way, and come back; then something rare happens."""
        for n in range(2, UPLINKS + 1):
            match (n + number) % 3:
                case 0:
                    self._cable(n, False)
                case 1:
                    self._silent.add(f"u{n}")
                case _:
                    self._failing_by[f"u{n}"] = "unreachable"
        await asyncio.sleep(TURN / 3)
        self._silent.clear()
        self._failing_by.clear()
        for n in range(2, UPLINKS + 1):
            self._cable(n, True)
        await asyncio.sleep(TURN * 2 / 3)
        self._memory.applied.clear()
        await self._rarely(number)

    async def _rarely(self, number: int) -> None:
        name = f"u{number % UPLINKS + 1}"
        match number % 20:
            case 0:
                await self._maintenance.on_drain({"uplink": name, "for": "1h"})
                await self._maintenance.on_resume({"uplink": name})
            case 4:
                drill: Any = await self._maintenance.on_drill({"uplink": name, "for": "2s"})
                await anext(drill)
                await drill.aclose()
            case 8:
                for names in (UPLINKS - 1, UPLINKS):
                    self.settings = settings(names)
                    self.loop.load(self.settings)
                    self._metrics.reloaded(True)
                    await asyncio.sleep(TURN)
            case 12:
                generate_latest(self._metrics.registry)
                events = self._history.follow()
                await anext(events)
                await events.aclose()
            case 16:
                self._memory.delete([("map", "pick4_all")])
                for _ in range(100):
                    self.loop.look_again("somebody")
                self._memory.refuse = self._refuse
                await asyncio.sleep(TURN)
                self._memory.refuse = lambda change: None
                await asyncio.sleep(TURN)

    def _refuse(self, change: Change) -> str | None:
        return f"not at {self._virtual.time()}"

    def _cable(self, n: int, carrier: bool) -> None:
        old = self._memory.facts[f"u{n}0"]
        self._memory.appear(replace(old, carrier=carrier))
        self.loop.link(old.name, old.index, True, carrier)

    def _answer(self, order: Order) -> None:
        kind = self._failing_by.get(order.uplink)
        outcome: Outcome
        if kind is not None:
            said = f"unreachable, says 10.0.{order.round % 250}.1"
            outcome = Failure(order.uplink, order.target, order.round, kind, said)
        elif order.uplink in self._silent:
            return
        else:
            outcome = Reply(order.uplink, order.target, order.round, 0.01 + 0.001 * (order.round % 7))
        self._virtual.call_later(0.01, self._heard, outcome)

    async def _totals(self) -> dict[str, int]:
        return {}

    # What is counted.

    def probe_outcome(self, outcome: Outcome) -> None:
        self.outcomes += 1
        super().probe_outcome(outcome)

    def transition(self, transition: Transition, took: float | None) -> None:
        self.transitions += 1
        super().transition(transition, took)

    def held(self) -> Held:
        gc.collect()
        timers = getattr(self._virtual, "_scheduled")  # noqa: B009  (there is no other way to ask)
        return Held(
            resident=int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
            blocks=sys.getallocatedblocks(),
            descriptors=len([*Path("/proc/self/fd").iterdir()]),
            tasks=len(asyncio.all_tasks()),
            timers=sum(not timer.cancelled() for timer in timers),
            waiting=len(self._hooks._queue) + self._maintenance._happened.qsize() + len(self._history.events),
        )


@dataclass(frozen=True)
class Lived:
    outcomes: int
    transitions: int
    virtual: float
    """Seconds."""
    took: float
    """Seconds."""
    before: Held
    after: Held

    def problems(self) -> list[str]:
        """What is not as it must be."""
        grown = self.after.resident - self.before.resident
        same = ("descriptors", "tasks", "waiting")
        changed = [(name, getattr(self.before, name), getattr(self.after, name)) for name in same]
        found = [f"{after} {name} instead of {before}" for name, before, after in changed if before != after]
        more = self.after.blocks - self.before.blocks
        timers = self.after.timers  # one of the loop's, and answers that are on their way
        return [
            *found,
            *([f"{grown} bytes more resident memory"] if grown >= MOST else []),
            *([f"{more} more Python objects"] if more >= MOST_BLOCKS else []),
            *([f"{timers} timers"] if timers > 2 * UPLINKS else []),
        ]

    def __str__(self) -> str:
        before, after = self.before, self.after
        return (
            f"{self.outcomes:,} probe results and {self.transitions:,} transitions, {self.virtual / 3600:.1f} hours of "
            f"the daemon's life in {self.took:.0f} s: resident memory {before.resident / 1e6:.1f} MB and then "
            f"{(after.resident - before.resident) / 1e3:+.0f} kB, {before.blocks:,} Python objects and then "
            f"{after.blocks - before.blocks:+,}; {after.descriptors} descriptors and {after.tasks} tasks "
            f"as before, {after.timers} timers"
        )


def live(directory: Path, outcomes: int, transitions: int) -> Lived:
    """Until there were so many of both, after warming up."""

    async def story() -> Lived:
        life = Life(directory)
        began = time.perf_counter()
        number = 0
        with mock.patch("time.monotonic", life._virtual.time):
            while number < WARM_UP or life.outcomes < outcomes // 5:
                await life.turn(number)
                number += 1
            before, heard, happened = life.held(), life.outcomes, life.transitions
            since = life._virtual.time()
            while life.outcomes - heard < outcomes or life.transitions - happened < transitions or number % 20:
                await life.turn(number)
                number += 1
            after = life.held()
        lived = Lived(
            life.outcomes - heard, life.transitions - happened, life._virtual.time() - since,
            time.perf_counter() - began, before, after,
        )  # fmt: skip
        await life.close()
        return lived

    return virtually(story)
