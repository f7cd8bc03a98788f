"""Do probes fail for a reason that is not the uplinks'? Asked while they fail, so that no one is blamed for nothing.

A clock that is set, a daemon that was stopped or blocked and a firewall of the router itself need no asking: time is
monotonic, replies that have waited are read before anything is judged, and the firewall says EPERM.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Collection, Mapping

FULL = "the router's table of neighbours is full (see net.ipv4.neigh.default.gc_thresh3)"
_FULL_FOR = 2.0
"""Seconds for which an overflow explains what is lost."""
_ASK_EVERY = 1.0
_SPAN = 10.0
"""Seconds over which received bytes are counted."""
_TRAFFIC = 20_000
"""Bytes in that time that are more than what arrives by itself."""


class Suspicion:
    def __init__(self, overflows: Callable[[], int], received: Callable[[], Mapping[str, int]]) -> None:
        """`overflows`: how often the tables of neighbours were full, ever; `received`: bytes by interface. May raise
        OSError, and are asked again later.
        """
        self._overflows, self._received = overflows, received
        self._counted: int | None = None
        self._full_until = 0.0
        self._asked = -_ASK_EVERY
        self._bytes: deque[tuple[float, int]] = deque()
        self.doubt = ""
        """Why lost probes are no evidence; "" if they are."""
        self.warning = ""
        """What to tell people; "" if nothing."""

    def due(self, now: float) -> bool:
        return now >= self._asked + _ASK_EVERY

    def look(self, suspects: Collection[str], uplinks: int, now: float) -> None:
        """`suspects`: interfaces whose probes fail though facts are fine, of so many uplinks. To be called while there
        are any, and when it is `due`.
        """
        self._asked = now
        with contextlib.suppress(OSError):
            self._count(now)
            self._weigh(suspects, uplinks, now)
        self.doubt = FULL if now < self._full_until else ""

    def _count(self, now: float) -> None:
        counted = self._overflows()
        if self._counted is not None and counted > self._counted:
            self._full_until = now + _FULL_FOR
        self._counted = counted

    def _weigh(self, suspects: Collection[str], uplinks: int, now: float) -> None:
        """All uplinks at once, and yet something comes back?"""
        if len(suspects) < uplinks:
            self._bytes.clear()
            self.warning = ""
            return
        if self._bytes and now < self._bytes[-1][0] + _ASK_EVERY:
            return
        received = self._received()
        self._bytes.append((now, sum(received.get(name, 0) for name in suspects)))
        while self._bytes[0][0] < now - _SPAN:
            self._bytes.popleft()
        grown = self._bytes[-1][1] - self._bytes[0][1]
        self.warning = (
            f"the probes of all uplinks fail at once, yet {grown // 1000} kB were received in the last "
            f"{now - self._bytes[0][0]:.0f} s: it may be the targets that are dead, or a firewall that drops replies"
            if grown >= _TRAFFIC
            else ""
        )
