"""Taking away what is ours: all of it, and the order in which sysctls become what they were."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence

from mlbd.core.desired import released
from mlbd.core.plan import Change, Stages, plan
from mlbd.core.ports import ApplyError, Kernel
from mlbd.core.state import KernelState, Saved

TRIES = 5
"""Times that a release which failed is tried again."""
PAUSE = 0.1
"""Seconds before the first of them; doubled for each."""


async def release(kernel: Kernel) -> Sequence[ApplyError]:
    """Removes everything owned; sysctls become what they were. What fails is tried again for about three seconds.

    Raises OSError if the kernel could not be looked at all that time.
    """
    for number in range(TRIES):
        with contextlib.suppress(OSError):
            errors = await _release(kernel)
            if errors is None:
                return []
            if not errors:
                continue  # seen to be gone, it is gone
        await asyncio.sleep(PAUSE * 2**number)
    return await _release(kernel) or []


async def _release(kernel: Kernel) -> Sequence[ApplyError] | None:
    """None: there is nothing. Looks twice: sysctls are shown of known interfaces."""
    observation = await kernel.observe(())
    state = (await kernel.observe(saved_scopes(observation.state))).state
    steps = plan(released(state), state)
    if not steps:
        return None
    stages = Stages.of(steps)
    # Rules stay while marks need them, and sysctls while rules do.
    return (
        await kernel.apply(stages.switching)
        or await kernel.apply(stages.retiring)
        or await restore(kernel.apply, stages.restoring)
    )


async def restore(
    apply: Callable[[list[Change]], Awaitable[Sequence[ApplyError]]], changes: list[Change]
) -> list[ApplyError]:
    """The sysctls first: what was noted of those that can't be written is kept."""
    errors = list(await apply([c for c in changes if c.kind == "sysctl"]))
    unset = scopes(errors)
    return errors + list(await apply([c for c in changes if c.kind == "saved" and c.object.key[1] not in unset]))


def saved_scopes(state: KernelState) -> set[str]:
    """Scopes of which somebody's sysctls are to be put back one day."""
    return {item.scope for item in state.values() if isinstance(item, Saved)}


def scopes(errors: Iterable[ApplyError]) -> set[object]:
    """Of sysctls, and of notes of what they were."""
    return {e.change.object.key[1] for e in errors}
