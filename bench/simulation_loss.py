"""False alarms by random loss alone, which are too rare to wait for: by importance sampling.

An alarm needs an unbroken row of lost probes, since one that is answered makes the judge begin anew. So rows are
played, each of which begins with a lost probe; of the ones that follow far more are lost than should be, and what
comes of a row counts only as much as it is likely, its likelihood ratio (Rubinstein and Kroese, Simulation and the
Monte Carlo Method, chapter 5). A year has as many rows as it has probes that are the first ones lost.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

from bench.simulation_judge import Judge
from bench.simulation_link import JITTER, RTT, YEAR

_LOST = 0.8
"""Ratio of the probes of a row that are lost when played."""
_CALM = 12
"""Answered probes between two rows."""


def alarms_a_year(make: Callable[[], Judge], loss: float, rows: int, seed: int) -> float:
    rng = random.Random(seed)
    weights = 0.0
    player = _Player(make, rng)
    for _ in range(rows):
        weights += player.row(loss)
    return YEAR / player.interval * loss * weights / rows


class _Player:
    def __init__(self, make: Callable[[], Judge], rng: random.Random) -> None:
        self._make, self._rng = make, rng
        self._judge = make()
        self._replies: list[tuple[float, int, float]] = []
        self.interval = self._judge.interval

    def row(self, loss: float) -> float:
        """Plays a row; how likely it was if it ended in an alarm, else 0."""
        self._answer_until_calm()
        weight = lost = 1.0
        first = True
        answered: int | None = None
        while True:
            heard, sent = self._step()
            if not self._judge.up:
                self._judge, self._replies = self._make(), []
                return weight
            if answered is not None and answered in heard:
                return 0.0
            for number, now in sent:
                if first:
                    first = False
                elif answered is None:
                    lost = self._rng.random() < _LOST
                    weight *= loss / _LOST if lost else (1 - loss) / (1 - _LOST)
                if not lost:
                    answered = answered or number
                    self._reply(number, now)

    def _answer_until_calm(self) -> None:
        calm = 0
        while calm < _CALM or not self._judge.up:
            for number, now in self._step()[1]:
                calm += self._judge.up
                self._reply(number, now)

    def _reply(self, number: int, now: float) -> None:
        rtt = RTT + self._rng.expovariate(1 / JITTER)
        heapq.heappush(self._replies, (now + rtt, number, rtt))

    def _step(self) -> tuple[list[int], list[tuple[int, float]]]:
        """Goes on to what happens next: probes whose replies were heard, and those that were sent, with the time."""
        now = min(self._judge.deadline(), *(reply[0] for reply in self._replies[:1]), float("inf"))
        heard = []
        while self._replies and self._replies[0][0] <= now:
            _, number, rtt = heapq.heappop(self._replies)
            self._judge.hear(number, rtt, now)
            heard.append(number)
        return heard, [(number, now) for number in self._judge.wake(now)]
