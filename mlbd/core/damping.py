"""How long an uplink must be good before it carries traffic again: the longer, the more often it failed of late.

As in RFC 2439 (BGP route flap damping, 4.2) failures add up to a figure that time takes down again, and what is asked
doubles with each. Unlike there the first failure costs nothing but `hold`, and who has been good for long enough comes
back, whatever the figure. The numbers are those of docs/health.md.
"""

from __future__ import annotations

import math

from mlbd.core.settings import Probe

RELAX = 4 * 3600.0
"""Seconds without a failure that take back one: flaps may be an hour apart and yet be flaps."""
BASE = 5.0
"""Seconds, doubled by the second failure, where `hold` says nothing."""
SETBACK = 5.0
"""Seconds by which a bad round sets back the time it has been good; to zero would be never done with it at 1 % loss."""


class Damping:
    def __init__(self) -> None:
        self._failures = 0.0
        self._failed_at = 0.0
        self._good_since: float | None = None

    def failed(self, now: float) -> None:
        """It ceased to carry traffic."""
        self._failures = self._left(now) + 1.0
        self._failed_at = now
        self._good_since = None

    def good(self, now: float) -> None:
        """A good round."""
        if self._good_since is None:
            self._good_since = now

    def bad(self, now: float, *, certain: bool) -> None:
        """A bad round; `certain`: not the first one in a row, but enough to be taken for dead."""
        if certain:
            self._good_since = None
        elif self._good_since is not None:
            self._good_since = min(now, self._good_since + SETBACK)

    def hold(self, probe: Probe, now: float) -> float:
        """Seconds: `hold` after the first failure, then doubling up to `hold_max`; less, the longer ago that is."""
        more = self._left(now) - 1.0
        if more <= 0.0:
            return min(probe.hold, probe.hold_max)
        return min(probe.hold_max, (probe.hold or BASE) * math.pow(2.0, min(more, 30.0)))

    def held(self, probe: Probe, now: float) -> bool:
        """Whether it has been good for long enough."""
        return self._good_since is not None and now - self._good_since >= self.hold(probe, now)

    def _left(self, now: float) -> float:
        return max(0.0, self._failures - (now - self._failed_at) / RELAX)
