"""Probes that take several steps, each a task with a socket of its own that is closed when the task ends.

A probe ends with an answer, with a failure, or after `LIFETIME` in silence. What is in flight is bounded: when a
target has `IN_FLIGHT` probes that nobody has answered, the next one ends the oldest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from mlbd.core.probing import Failure, Order, Outcome, Reply
from mlbd.probe import errors
from mlbd.probe.errors import ProbeError

LIFETIME = 3.0
"""Seconds; so long can a reply turn its round good (`mlbd.core`)."""
IN_FLIGHT = 32

Ask = Callable[[Order], Coroutine[Any, Any, float]]
"""Sends what is ordered and returns the round trip, seconds. Raises ProbeError, OSError, TimeoutError for silence."""


class Attempts:
    """All that are in flight."""

    def __init__(self, on_outcome: Callable[[Outcome], None]) -> None:
        self._on_outcome = on_outcome
        self._tasks: dict[tuple[str, int], list[asyncio.Task[None]]] = {}

    def start(self, order: Order, ask: Ask) -> None:
        key = (order.uplink, order.target)
        tasks = self._tasks.setdefault(key, [])
        if len(tasks) >= IN_FLIGHT:
            tasks.pop(0).cancel()
        task = asyncio.create_task(self._attempt(order, ask))
        tasks.append(task)
        task.add_done_callback(lambda done: tasks.remove(done) if done in tasks else None)

    def forget(self, uplink: str) -> None:
        """End the uplink's probes; nothing is heard of them any more."""
        for key in [key for key in self._tasks if key[0] == uplink]:
            for task in self._tasks.pop(key):
                task.cancel()

    def close(self) -> None:
        for uplink in {uplink for uplink, _ in self._tasks}:
            self.forget(uplink)

    async def _attempt(self, order: Order, ask: Ask) -> None:
        try:
            async with asyncio.timeout(LIFETIME):
                outcome: Outcome = Reply(order.uplink, order.target, order.round, await ask(order))
        except TimeoutError:  # ETIMEDOUT, too
            return
        except ProbeError as failed:
            outcome = Failure(order.uplink, order.target, order.round, failed.kind, failed.text)
        except OSError as error:
            outcome = Failure(order.uplink, order.target, order.round, *errors.sending(error, order))
        except Exception as error:  # whatever a stranger's bytes do to a library, the uplink is probed on
            said = f"{type(error).__name__}: {error}"[:200]
            outcome = Failure(order.uplink, order.target, order.round, "other", said)
        self._on_outcome(outcome)
