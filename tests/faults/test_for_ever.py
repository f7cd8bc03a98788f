"""What is refused for ever costs what depends on it, and nothing else; the kernel is in memory."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import dataclass, field

import pytest

from mlbd.core.plan import Change, plan
from mlbd.core.state import Key, SlotMap
from mlbd.loop import BACKOFF_MAX
from mlbd.release import release
from tests.core.virtual import virtually
from tests.faults.changes import PAIRS, QUIET, THREE, InMemory, Scene
from tests.faults.injector import Operation, nothing


@dataclass
class Refusing:
    """Refuses whatever makes one object what it is to be, and so the transactions that it is in. Counts the rest."""

    key: Key | None = None
    seen: list[Operation] = field(default_factory=list)
    refused: list[Change] = field(default_factory=list)

    def __call__(self, operation: Operation) -> None:
        self.seen.append(operation)
        if any(change.object.key == self.key for change in operation.changes):
            self.refused += operation.changes
            raise OSError(errno.ENOMEM, "no memory for that")

    def count(self, kind: str) -> int:
        return sum(operation.kind == kind for operation in self.seen)


def waits(change: Change) -> bool:
    """Whether it is done last, if all else went well."""
    return change.new is None and change.kind in ("rule", "route")


@pytest.mark.parametrize("name", PAIRS)
def test_a_change_that_is_refused_for_ever(name: str) -> None:
    """The rest is made at once, but for what retires; tries become rare; all is made when it is refused no more."""
    pair = PAIRS[name]

    async def story() -> None:
        scene = Scene(InMemory())
        if pair.begun:
            await scene.start()
        before = await scene.state()
        await pair.there(scene)
        after = await scene.state()
        await pair.back(scene)
        changes = plan(after, before)
        for number, change in enumerate(changes):
            scene.kernel.before = fault = Refusing(change.object.key)
            await pair.there(scene)
            daemon = scene.daemon
            missing = plan(after, await scene.state())
            assert change in missing, f"without {change}"
            excused = {c.object.key for c in fault.refused}
            unsaved = {key[1] for key in excused if key[0] == "saved"}  # so their sysctls can't be changed
            missing = [c for c in missing if not waits(c) and not (c.kind == "sysctl" and c.object.key[1] in unsaved)]
            assert {c.object.key for c in missing} <= excused, f"without {change}"
            assert all("no memory for that" in error for error in daemon.cycles[-1].errors)
            assert daemon.cycles[-1].errors != ()
            if number % 10 == 0:
                await asyncio.sleep(2 * BACKOFF_MAX)
                scene.kernel.before = idle = Refusing(change.object.key)
                await asyncio.sleep(4 * BACKOFF_MAX)
                assert 2 <= idle.count("look") <= 8
                assert 2 <= idle.count("change") <= 40
            scene.kernel.before = nothing
            await asyncio.sleep(BACKOFF_MAX if number % 10 == 0 else 2 * QUIET)
            assert await scene.state() == after
            assert daemon.cycles[-1].result == "unchanged"
            await pair.back(scene)
            assert await scene.state() == before
        await scene.stop()

    virtually(story)


@pytest.mark.parametrize("name", [name for name, pair in PAIRS.items() if pair.begun and "failover" not in name])
def test_failover_beside_it(name: str) -> None:
    """An uplink that fails is left at once, whatever is refused for ever."""
    pair = PAIRS[name]

    async def story() -> None:
        scene = Scene(InMemory())
        await scene.start()
        before = await scene.state()
        await pair.there(scene)
        after = await scene.state()
        await pair.back(scene)
        for change in plan(after, before):
            if change.kind == "map":
                continue
            scene.kernel.before = Refusing(change.object.key)
            await pair.there(scene)
            scene.answers["b"] = None
            await asyncio.sleep(2.0)
            maps = [item for item in (await scene.state()).values() if isinstance(item, SlotMap)]
            left = {slot for item in maps for slot in item.slots if slot.endswith("_b")}
            assert left == set(), f"beside {change}"
            scene.kernel.before = nothing
            scene.answers["b"] = 0.01
            await asyncio.sleep(3 * QUIET)
            assert await scene.state() == after
            await pair.back(scene)
            assert await scene.state() == before
        await scene.stop()

    virtually(story)


def test_release_that_is_refused() -> None:
    """Release ends with what was refused, after some seconds, and nothing else is left but what that is needed for."""

    async def story() -> None:
        scene = Scene(InMemory())
        scene.settings = THREE
        clean = await scene.state()
        await scene.start()
        full = await scene.state()
        await scene.stop()
        for change in plan(clean, full):
            scene.kernel.before = fault = Refusing(change.object.key)
            began = asyncio.get_running_loop().time()
            errors = await release(scene.kernel)
            assert change in {error.change for error in errors}
            assert 1.0 < asyncio.get_running_loop().time() - began < 10.0
            excused = {c.object.key for c in fault.refused}
            left = {c.object.key for c in plan(clean, await scene.state())}
            own = {key for key in left if key[0] not in ("sysctl", "saved")}
            if change.kind == "sysctl":
                assert left == {change.object.key, ("saved", change.object.key[1])}
            elif change.kind == "saved" or waits(change):
                assert left >= excused >= own
            else:
                assert {key for key in own if key[0] not in ("rule", "route")} == excused - {("saved", "a0")}
            scene.kernel.before = nothing
            assert list(await release(scene.kernel)) == []
            assert await scene.state() == clean
            await scene.start()
            await scene.stop()
            assert await scene.state() == full

    virtually(story)
