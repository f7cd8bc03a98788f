"""The daemon in miniature over any kernel: a loop in virtual time, its metrics, and probes answered as told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence

from prometheus_client import generate_latest

from mlbd.core.layout import adopted
from mlbd.core.plan import Change
from mlbd.core.ports import Kernel
from mlbd.core.probing import Order, Outcome, Reply
from mlbd.core.router import Router
from mlbd.core.settings import Probe, Settings
from mlbd.core.state import KernelState
from mlbd.core.status import CycleStatus, Status, Transition
from mlbd.loop import Loop
from mlbd.report import Metrics

QUICK = Probe(interval=0.5, suspect_interval=0.1, timeout=0.2, fall=3, rise=2, hold_max=0.0)
RTT = 0.01


class Running:
    """It runs from when it is made until it is stopped, or the kernel ends it. It is its own `Report`."""

    def __init__(self, kernel: Kernel, router: Router, answers: Mapping[str, float | None]) -> None:
        """`answers`: round trips by uplink, None for silence; may be changed at any time."""
        self.clock = asyncio.get_running_loop().time
        self.loop = Loop(kernel, router, self._send, self, clock=self.clock)
        self.answers = answers
        self.cycles: list[CycleStatus] = []
        self.transitions: list[Transition] = []
        self.repairs: list[Change] = []
        self.metrics = Metrics(self._status, self._connections)
        self.task = asyncio.create_task(self.loop.run())

    @classmethod
    def begun(
        cls, kernel: Kernel, settings: Settings, answers: Mapping[str, float | None], found: KernelState
    ) -> Running:
        """As the daemon begins: with the identities that the kernel remembers."""
        return cls(kernel, Router(settings, adopted(found), asyncio.get_running_loop().time()), answers)

    async def stop(self) -> None:
        """As when the process ends; the kernel keeps what it has."""
        self.loop.stop()
        self.task.cancel()
        await asyncio.wait({self.task})

    @property
    def failed(self) -> list[CycleStatus]:
        """The cycles with errors."""
        return [cycle for cycle in self.cycles if cycle.errors]

    def failed_in_metrics(self) -> int:
        """How many cycles with errors the metrics tell of."""
        lines = generate_latest(self.metrics.registry).decode().splitlines()
        found = [line.split()[-1] for line in lines if line.startswith('mlbd_cycles_total{result="failed"}')]
        return int(float(found[0])) if found else 0

    def _send(self, order: Order) -> None:
        answer = self.answers.get(order.uplink)
        if answer is not None:
            reply = Reply(order.uplink, order.target, order.round, answer)
            asyncio.get_running_loop().call_later(answer, self.loop.outcome, reply)

    def _status(self) -> Status:
        router = self.loop.router
        return Status(
            version="0", pid=1, config="", started=0.0, settled=router.settled,
            uplinks=router.uplink_status(self.clock(), time.time() - self.clock()),
            policies=router.policy_status(), last_cycle=self.loop.last_cycle,
        )  # fmt: skip

    async def _connections(self) -> dict[str, int]:
        return {}

    # What is reported.

    def transition(self, transition: Transition, took: float | None) -> None:
        self.transitions.append(transition)

    def cycle(self, cycle: CycleStatus, changes: Sequence[Change]) -> None:
        self.cycles.append(cycle)
        self.metrics.cycle(cycle, changes)

    def repaired(self, changes: Sequence[Change], by: Collection[str]) -> None:
        self.repairs += changes

    def fight(self, advice: str) -> None: ...

    def cut(self, uplink: str) -> None: ...

    def probe_sent(self, order: Order) -> None: ...

    def probe_outcome(self, outcome: Outcome) -> None: ...
