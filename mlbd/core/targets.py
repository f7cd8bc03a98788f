"""What became of the probes to each target of one uplink."""

from __future__ import annotations

from math import inf

from mlbd.core.settings import Probe
from mlbd.core.status import TargetStatus
from mlbd.core.window import TIMEOUT_MAX, Quality, Window


class Targets:
    """In the order of the settings."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._windows = [Window(probe.window) for _ in probe.targets]
        self._failures = ["" for _ in probe.targets]

    def __len__(self) -> int:
        return len(self._windows)

    def configure(self, probe: Probe) -> bool:
        """New settings; targets that stay keep what is known of them. True if there are others, or in another order."""
        before, self._probe = self._probe, probe
        known = dict(zip(before.targets, zip(self._windows, self._failures, strict=True), strict=True))
        pairs = [known.get(target, (Window(probe.window), "")) for target in probe.targets]
        self._windows, self._failures = [window for window, _ in pairs], [failure for _, failure in pairs]
        for window in self._windows:
            window.seconds = probe.window
        return probe.targets != before.targets

    def sent(self, number: int, now: float) -> None:
        """A round was."""
        for window in self._windows:
            window.sent(number, now)

    def answered(self, target: int, number: int, rtt: float) -> bool:
        """False if that probe was answered before, or is too old to be remembered."""
        if not self._windows[target].answered(number, rtt):
            return False
        self._failures[target] = ""
        return True

    def failed(self, target: int, number: int, lost: bool, text: str) -> None:
        """It was lost for a known reason, or could not be sent."""
        self._windows[target].settle(number, "lost" if lost else "unsent")
        self._failures[target] = text

    def due(self, number: int, doubt: str) -> None:
        """Those that are silent until now have lost the round's probe, unless there is a doubt that it ever left."""
        for index, window in enumerate(self._windows):
            if window.settle(number, "unsent" if doubt else "lost"):
                self._failures[index] = doubt or "no reply"

    def timeout(self) -> float:
        """Seconds: as long as the slowest target needs, of those that have ever answered."""
        return max((window.timeout() for window in self._windows if window.measured), default=TIMEOUT_MAX)

    def said(self) -> str:
        """Of failures that are not silence, the last target's."""
        return next((text for text in reversed(self._failures) if text not in ("", "no reply")), "")

    def qualities(self, now: float, since: float = -inf) -> list[Quality]:
        """Of the window, or of its part since a given time."""
        return [window.quality(now, since) for window in self._windows]

    def status(self, target: int, address: str | None, quality: Quality) -> TargetStatus:
        """`quality`: its own."""
        return TargetStatus(
            target=self._probe.targets[target].text,
            address=address,
            loss=quality.loss,
            rtt=quality.rtt,
            jitter=quality.jitter,
            evidence=self._windows[target].evidence(),
            reason=self._failures[target],
        )
