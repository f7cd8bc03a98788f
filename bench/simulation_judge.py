"""Who judges the simulated link: mlbd's own core, and two ways that other programs do it.

A judge is woken when its deadline has come, says which probes it sends, and hears the replies.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Protocol

from mlbd.core.facts import Gateway, InterfaceFacts
from mlbd.core.layout import NOBODY
from mlbd.core.probing import Reply
from mlbd.core.router import Router
from mlbd.core.settings import Policy, Probe, Settings, Uplink
from mlbd.core.status import Transition


class Judge(Protocol):
    up: bool
    """Whether it lets the link carry traffic."""
    interval: float
    """Seconds between probes while all is well."""
    memory: float
    """Seconds without anything bad after which its next verdict depends on nothing before them."""

    fills: bool
    """Whether it needs that time again after it skipped some."""

    def hold(self, now: float) -> float:
        """Seconds that it must be good before it carries traffic again."""

    def deadline(self) -> float: ...

    def wake(self, now: float) -> list[int]:
        """Numbers of the probes that it sends now."""

    def hear(self, number: int, rtt: float, now: float) -> None: ...


_FACTS = InterfaceFacts(
    name="a0", index=1, up=True, carrier=True, addresses=("10.0.0.2/24",), gateway4=Gateway("10.0.0.1"), gateway6=None
)


class Core:
    """mlbd's core, driven as the daemon drives it, with one uplink and one target."""

    fills = False

    def __init__(self, probe: Probe) -> None:
        self.interval = probe.interval
        # By then RFC 6298's estimate has come back to three digits from a spike of a second.
        self.memory = 60 * probe.interval
        self.up = False
        policy = Policy(name="balanced", tiers=(("a",),), weights=(("a", 1),))
        uplink = Uplink(name="a", interface="a0", probe=probe)
        self._router = Router(Settings(uplinks=(uplink,), policies=(policy,)), NOBODY, 0.0)
        self._note(self._router.see({"a0": _FACTS}, 0.0))

    def hold(self, now: float) -> float:
        return self._router.uplink_status(now, 0.0)[0].hold

    def deadline(self) -> float:
        return self._router.deadline()

    def wake(self, now: float) -> list[int]:
        self._note(self._router.advance(now))
        orders, transitions = self._router.orders(now)
        self._note(transitions)
        return [order.round for order in orders]

    def hear(self, number: int, rtt: float, now: float) -> None:
        self._note(self._router.hear(Reply("a", 0, number, rtt), now))

    def _note(self, transitions: list[Transition]) -> None:
        for transition in transitions:
            if transition.event == "uplink_up":
                self.up = True
            elif transition.event == "uplink_down":
                self.up = False


class Counter:
    """`fall` lost probes in a row take it out, `rise` answered ones bring it back; keepalived's and mwan3's way.

    A probe is sent at every interval whatever happens, and a reply after its timeout is not looked at.
    """

    fills = False

    def __init__(self, interval: float, timeout: float, fall: int, rise: int) -> None:
        self.up = False
        self.interval, self.memory = interval, 5 * interval
        self._timeout, self._fall, self._rise = timeout, fall, rise
        self._count = 0
        self._number = 0
        self._next = 0.0
        self._due: dict[int, float] = {}

    def hold(self, now: float) -> float:
        return 0.0

    def deadline(self) -> float:
        return min(self._next, next(iter(self._due.values()), inf))

    def wake(self, now: float) -> list[int]:
        while self._due and next(iter(self._due.values())) <= now:
            del self._due[next(iter(self._due))]
            self._judge(False)
        if now < self._next:
            return []
        self._number += 1
        self._due[self._number] = now + self._timeout
        self._next = max(self._next + self.interval, now + self.interval / 2)
        return [self._number]

    def hear(self, number: int, rtt: float, now: float) -> None:
        if self._due.pop(number, None) is not None:
            self._judge(True)

    def _judge(self, good: bool) -> None:
        self._count = 0 if good == self.up else self._count + 1
        if self._count >= (self._rise if good else self._fall):
            self.up, self._count = good, 0


class LossWindow:
    """Out above a loss in the last `seconds`, back when not any more; dpinger's way, as pfSense sets it up.

    Loss is counted of probes older than `overdue`, once a second.
    """

    fills = True

    def __init__(self, interval: float = 0.5, seconds: float = 60.0, overdue: float = 2.0, above: float = 0.2) -> None:
        self.up = True
        self.interval, self.memory = interval, seconds + 2 * overdue
        self._seconds, self._overdue, self._above = seconds, overdue, above
        self._number = 0
        self._next = self._look = 0.0
        self._sent: deque[tuple[float, int]] = deque()
        self._judged: deque[tuple[float, bool]] = deque()
        self._lost = 0
        self._answered: set[int] = set()

    def hold(self, now: float) -> float:
        return 0.0

    def deadline(self) -> float:
        return min(self._next, self._look)

    def wake(self, now: float) -> list[int]:
        if now >= self._look:
            self._look = max(self._look + 1.0, now + 0.5)
            self._count(now)
        if now < self._next:
            return []
        self._next = max(self._next + self.interval, now + self.interval / 2)
        self._number += 1
        self._sent.append((now, self._number))
        return [self._number]

    def hear(self, number: int, rtt: float, now: float) -> None:
        if self._sent and number >= self._sent[0][1]:
            self._answered.add(number)

    def _count(self, now: float) -> None:
        while self._sent and self._sent[0][0] <= now - self._overdue:
            at, number = self._sent.popleft()
            lost = number not in self._answered
            self._answered.discard(number)
            self._judged.append((at, lost))
            self._lost += lost
        while self._judged and self._judged[0][0] <= now - self._seconds - self._overdue:
            self._lost -= self._judged.popleft()[1]
        self.up = not self._judged or self._lost / len(self._judged) <= self._above
