"""Every operation of every change fails once, or several in a row, or for ever; the kernel is in memory."""

from __future__ import annotations

import pytest

from mlbd.core.state import KernelState
from tests.core.virtual import virtually
from tests.faults.changes import PAIRS, Act, InMemory, Scene
from tests.faults.injector import Some, nothing


@pytest.mark.parametrize("several", [1, 4])
@pytest.mark.parametrize("name", PAIRS)
def test_any_operation_fails(name: str, several: int) -> None:
    """Whichever operation fails, and those after it: it is said, and in the end all is as without the failure."""
    pair = PAIRS[name]

    async def failing(scene: Scene, act: Act, number: int, end: KernelState) -> bool:
        """False: there are not so many operations."""
        fault = Some(number, number + several - 1)
        told = 0 if scene.running is None else len(scene.running.failed)
        scene.kernel.before = fault
        await act(scene)
        scene.kernel.before = nothing
        assert await scene.state() == end, f"after operation {number} failed"
        if (daemon := scene.running) is not None:
            if several > 1 or not all(o.changes and {c.kind for c in o.changes} <= {"map", "set"} for o in fault.hit):
                assert (len(daemon.failed) > told) == bool(fault.hit)  # a mere switch is tried twice at once
            assert len(daemon.failed) == daemon.failed_in_metrics()
            assert daemon.repairs == []
            assert daemon.cycles[-1].result == "unchanged"
        return bool(fault.hit)

    async def story() -> None:
        scene = Scene(InMemory())
        if pair.begun:
            await scene.start()
        before = await scene.state()
        await pair.there(scene)
        after = await scene.state()
        await pair.back(scene)
        assert await scene.state() == before
        number, there, back = 0, True, True
        while there or back:
            there = await failing(scene, pair.there, number, after)
            back = await failing(scene, pair.back, number, before)
            number += 1
        assert number > 3
        await scene.stop()

    virtually(story)
