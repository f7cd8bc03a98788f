"""What became of the probes to one target: the last `window` seconds, and the timeout that follows from them."""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Literal

from msgspec import Struct

Fate = Literal["pending", "answered", "lost", "unsent"]
MARKS: dict[Fate, str] = {"answered": ".", "lost": "!", "unsent": "x", "pending": "?"}

TIMEOUT_MIN = 0.1
TIMEOUT_MAX = 1.0


class Sample(Struct):
    round: int
    sent: float
    fate: Fate = "pending"
    rtt: float = 0.0


class Quality(Struct, frozen=True):
    """Ratio lost of the probes whose fate is known, mean round trip, mean difference of consecutive round trips."""

    loss: float | None
    rtt: float | None
    jitter: float | None
    known: int = 0
    """Of how many probes."""


class Window:
    """Adding and settling a probe costs the same however long the window is; quality is computed when asked.

    So a late reply turns a loss back, and nothing has to be recomputed for it.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._samples: deque[Sample] = deque()
        self._by_round: dict[int, Sample] = {}
        self._srtt: float | None = None
        self._rttvar = 0.0

    def sent(self, number: int, now: float) -> None:
        horizon = now - self.seconds
        samples = self._samples
        while samples and samples[0].sent < horizon:
            del self._by_round[samples.popleft().round]
        sample = Sample(number, now)
        samples.append(sample)
        self._by_round[number] = sample

    def answered(self, number: int, rtt: float) -> bool:
        """False if that probe was answered before, or is too old to be remembered."""
        sample = self._by_round.get(number)
        if sample is None or sample.fate == "answered":
            return False
        sample.fate = "answered"
        sample.rtt = rtt
        if self._srtt is None:
            self._srtt, self._rttvar = rtt, rtt / 2
        else:  # RFC 6298, 2.3
            self._rttvar += (abs(self._srtt - rtt) - self._rttvar) / 4
            self._srtt += (rtt - self._srtt) / 8
        return True

    def settle(self, number: int, fate: Literal["lost", "unsent"]) -> bool:
        """Says what became of a probe that was not answered (yet); False if its fate was known."""
        sample = self._by_round.get(number)
        if sample is None or sample.fate != "pending":
            return False
        sample.fate = fate
        return True

    @property
    def measured(self) -> bool:
        """Something was answered, ever."""
        return self._srtt is not None

    def timeout(self) -> float:
        """RFC 6298's retransmission timeout, within bounds that suit a probe; the upper one before any answer."""
        if self._srtt is None:
            return TIMEOUT_MAX
        return min(TIMEOUT_MAX, max(TIMEOUT_MIN, self._srtt + 4 * self._rttvar))

    def quality(self, now: float, since: float = -inf) -> Quality:
        """Of the window, or of its part since a given time."""
        since = max(since, now - self.seconds)
        answered = lost = 0
        total = differences = 0.0
        previous: float | None = None
        for sample in self._samples:
            if sample.sent < since:
                continue
            if sample.fate == "lost":
                lost += 1
            elif sample.fate == "answered":
                answered += 1
                total += sample.rtt
                if previous is not None:
                    differences += abs(sample.rtt - previous)
                previous = sample.rtt
        return Quality(
            loss=lost / (answered + lost) if answered + lost else None,
            rtt=total / answered if answered else None,
            jitter=differences / (answered - 1) if answered > 1 else None,
            known=answered + lost,
        )

    def evidence(self, length: int = 20) -> str:
        """The newest probes, newest last."""
        samples = self._samples
        return "".join(MARKS[samples[i].fate] for i in range(max(0, len(samples) - length), len(samples)))


def mean(values: list[float | None]) -> float | None:
    """Of those that are known."""
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None
