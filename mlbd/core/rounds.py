"""Rounds of probes of one uplink, and how many good or bad ones in a row there are.

A *round* asks every target once. It is good as soon as `quorum` targets answered, and bad when it is due without
that, or when too many have failed for it ever to be good. A reply after the due time turns a bad round good again.
A bad round older than the newest good one counts as loss but says nothing about now. A round that this router itself
kept from being sent (its own firewall, no buffer space) is void: it is no evidence at all.
"""

from __future__ import annotations

from msgspec import Struct

_KEPT = 64
_KEPT_FOR = 3.0
"""At least so many rounds, and for at least so many seconds after they were due, can still turn good."""
_EVIDENCE = 20


class Round(Struct, eq=False):
    number: int
    sent: float
    due: float
    replies: int = 0
    failures: int = 0
    void: int = 0
    good: bool | None = None
    """None: not judged."""
    is_void: bool = False

    @property
    def mark(self) -> str:
        if self.good is None:
            return "?"
        if self.good:
            return "."
        return "x" if self.failures else "!"


class Rounds:
    def __init__(self) -> None:
        self.open: list[Round] = []
        """Neither due nor complete."""
        self.good = 0
        """In a row, up to now."""
        self.bad = 0
        self.bad_since = 0.0
        """When the first of the bad ones was sent."""
        self._all: dict[int, Round] = {}
        self._number = 0
        self._newest_good = 0
        self._newest_bad = 0

    def begin(self, now: float, timeout: float) -> Round:
        self._number += 1
        made = Round(self._number, now, now + timeout)
        self._all[made.number] = made
        self.open.append(made)
        while len(self._all) > _KEPT:
            oldest = next(iter(self._all.values()))
            if oldest.due > now - _KEPT_FOR:
                break
            del self._all[oldest.number]
        return made

    def get(self, number: int) -> Round | None:
        """None: it was forgotten."""
        return self._all.get(number)

    def clear(self) -> None:
        """Forget them, also how many in a row there were."""
        self._all.clear()
        self.open.clear()
        self.good = self.bad = 0

    def close(self, closed: Round) -> bool:
        """False if it was closed before."""
        if closed not in self.open:
            return False
        self.open.remove(closed)
        return True

    def judge(self, judged: Round, good: bool) -> bool:
        """Counts it; False if it says nothing about now."""
        judged.good = good
        if good:
            self._newest_good = max(self._newest_good, judged.number)
            if self._newest_good < self._newest_bad:
                # Bad rounds sent after the newest good one stay as many as they are, however late a reply came.
                after = (r for r in self._all.values() if r.number > self._newest_good)
                later = [r for r in after if r.good is False and not r.is_void]
                self.bad = len(later)
                if later:
                    self.bad_since = later[0].sent
                    return False
            self.bad = 0
            self.good += 1
            return True
        if judged.number <= self._newest_good:
            return False
        self._newest_bad = max(self._newest_bad, judged.number)
        self.good = 0
        self.bad += 1
        if self.bad == 1:
            self.bad_since = judged.sent
        return True

    def evidence(self) -> str:
        """The newest rounds, newest last: `.` good, `!` lost, `x` failed, `?` not judged."""
        return "".join(r.mark for r in list(self._all.values())[-_EVIDENCE:])
