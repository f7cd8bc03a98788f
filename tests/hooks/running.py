"""Runs hooks, and collects what they report."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from msgspec.structs import replace

from mlbd.core.facts import InterfaceFacts
from mlbd.core.settings import Uplink
from mlbd.core.status import Transition
from mlbd.hooks import Hooks
from tests.report.values import UP

LTE = Uplink(name="lte", interface="wwan0")
FACTS = InterfaceFacts(
    name="wwan0", index=3, up=True, carrier=True, addresses=("192.0.2.2/24", "2001:db8::2/64")
)  # fmt: skip
DEGRADED: Transition = replace(UP, event="uplink_degraded", reason="30 % lost\n\0")


class Told:
    """What the hooks reported: log records, and results."""

    def __init__(self) -> None:
        self.records: list[tuple[str, dict[str, object]]] = []
        self.results: list[str] = []

    def info(self, event: str, **fields: object) -> None:
        self.records.append((event, fields))

    warning = info

    def said(self, hook: str) -> list[object]:
        """The lines that it printed."""
        return [fields["reason"] for event, fields in self.records if event == "hook output" and fields["hook"] == hook]

    def failures(self) -> dict[object, object]:
        """Reasons by hook."""
        return {fields["hook"]: fields["reason"] for event, fields in self.records if event == "a hook failed"}


async def until_not(holds: Callable[[], object]) -> None:
    while holds():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def busy(hooks: Hooks) -> bool:
    """Whether there is something to tell, or what was told has left something running."""
    return bool(hooks._queue or hooks._running)


def script(path: Path, text: str, mode: int = 0o755) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.parent.chmod(0o755)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)
    return path


def run(
    directory: Path,
    *transitions: Transition,
    limit: float = 10.0,
    facts: InterfaceFacts | None = FACTS,
    until: Callable[[Hooks, Told], Awaitable[None]] | None = None,
) -> Told:
    """Tells the hooks of all transitions, and stops them when they have been told and are done."""
    told = Told()

    async def story() -> None:
        hooks = Hooks(str(directory), told, told.results.append, limit=limit)
        task = asyncio.create_task(hooks.run())
        for transition in transitions:
            hooks.notify(transition, LTE, facts)
        if until is None:
            async with asyncio.timeout(20):
                await until_not(lambda: busy(hooks))
        else:
            await until(hooks, told)
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(story())
    return told


def alive(pid: int) -> bool:
    """Whether it exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
