"""One uplink: facts and probe outcomes in, a verdict with its reason out.

A *round* asks every target once. It is good as soon as `quorum` targets answered, and bad when it is due without
that, or when too many have failed for it ever to be good. A reply after the due time turns a bad round good again.
A bad round older than the newest good one counts as loss but says nothing about now, so it moves no verdict. A round
that this router itself kept from being sent (its own firewall, no buffer space) is void: it is no evidence at all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

from mlbd.core.decision import View
from mlbd.core.facts import Gateway, InterfaceFacts
from mlbd.core.machine import CARRIES, TABLE, Signal, Verdict
from mlbd.core.probing import Failure, Order, Outcome, Reply
from mlbd.core.reach import Gateways, Reach
from mlbd.core.settings import Uplink
from mlbd.core.status import TargetStatus, Transition, UplinkStatus
from mlbd.core.window import Quality, Window

_KEPT_ROUNDS = 64
_KEPT_FOR = 3.0
"""At least so many rounds, and for at least so many seconds after they were due, can still turn good."""
_EVIDENCE = 20
_VOID = frozenset({"firewall", "no-buffer"})


@dataclass(slots=True, eq=False)
class Round:
    number: int
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


class UplinkState:
    """The mutable owner of everything known about one uplink."""

    def __init__(self, settings: Uplink, number: int, now: float) -> None:
        self.settings = settings
        self.id = number
        self.verdict: Verdict = "UNKNOWN"
        self.reason = "not probed yet"
        self._remark = ""
        self.usable = False
        self.since = now
        self.transitions = 0
        self.last_transition: float | None = None
        self.down_since = -inf
        self.deadline = inf
        self._reach = Reach()
        self._settling = True
        self._rounds: dict[int, Round] = {}
        self._open: list[Round] = []
        self._number = 0
        self._newest_good = 0
        self._newest_bad = 0
        self._good = 0
        self._bad = 0
        self._rising_since = now
        self._up_since = now
        self._flaps = 0
        self._next_send = inf
        self._last_send = -inf
        self._windows = [Window(settings.probe.window) for _ in settings.probe.targets]
        self._failures = ["" for _ in settings.probe.targets]

    # What the outside tells.

    def configure(self, settings: Uplink, now: float) -> list[Transition]:
        """New settings for the same uplink: facts, verdict and the windows of targets that stay are kept."""
        out: list[Transition] = []
        kept = dict(zip(self.settings.probe.targets, zip(self._windows, self._failures, strict=True), strict=True))
        moved = settings.interface != self.settings.interface
        if settings.probe.targets != self.settings.probe.targets:
            self._rounds.clear()
            self._open.clear()
            fresh = [kept.get(t, (Window(settings.probe.window), "")) for t in settings.probe.targets]
            self._windows = [window for window, _ in fresh]
            self._failures = [failure for _, failure in fresh]
        for window in self._windows:
            window.seconds = settings.probe.window
        self.settings = settings
        if self._next_send < inf:
            self._next_send = min(self._next_send, now + self._pace())
        if moved:
            self._reach.facts = None
        self._refresh(now, out)
        return out

    def see(self, facts: InterfaceFacts | None, now: float) -> list[Transition]:
        """A look at the interface; None: it does not exist."""
        out: list[Transition] = []
        before = self.facts
        if before is not None and facts is not None and before.index != facts.index:
            self._reach.facts = None
            self._refresh(now, out)  # another device under the same name proves nothing about this one
        self._reach.facts = facts
        self._refresh(now, out)
        return out

    def see_link(self, index: int, up: bool, carrier: bool, now: float) -> list[Transition]:
        """Carrier of the known interface changed; all else is as before. An unknown index waits for a full look."""
        facts = self.facts
        if facts is None or facts.index != index or (facts.up, facts.carrier) == (up, carrier):
            return []
        return self.see(replace(facts, up=up, carrier=carrier and up), now)

    def hear(self, outcome: Outcome, now: float) -> list[Transition]:
        out: list[Transition] = []
        window = self._windows[outcome.target] if outcome.target < len(self._windows) else None
        round_ = self._rounds.get(outcome.round)
        if window is None or round_ is None:
            return out
        if isinstance(outcome, Reply):
            if not window.answered(outcome.round, outcome.rtt):
                return out
            self._failures[outcome.target] = ""
            round_.replies += 1
            if round_.replies >= self.settings.probe.quorum and round_.good is not True:
                self._judge(round_, True, now, out)
            if round_.replies + round_.failures == len(self._windows):
                self._close(round_, now, out)
        else:
            self._fail(round_, outcome, now, out)
        return out

    def advance(self, now: float) -> list[Transition]:
        """Time has passed: judges what is due, ends what lingered."""
        out: list[Transition] = []
        for round_ in [r for r in self._open if r.due <= now]:
            self._close(round_, now, out)
        if self._reach.deadline() <= now:
            self._refresh(now, out)
        self._schedule()
        return out

    def orders(self, now: float) -> tuple[list[Order], list[Transition]]:
        """The probes to send now, if it is time for a round; they count as sent at `now`."""
        facts = self.facts
        if now < self._next_send or facts is None:
            return [], []
        out: list[Transition] = []
        probe = self.settings.probe
        self._number += 1
        number = self._number
        self._last_send = now
        timeout = probe.timeout
        if timeout is None:
            timeout = max(window.timeout() for window in self._windows)
        round_ = Round(number, now + timeout)
        self._rounds[number] = round_
        self._open.append(round_)
        while len(self._rounds) > _KEPT_ROUNDS:
            oldest = next(iter(self._rounds.values()))
            if oldest.due > now - _KEPT_FOR:
                break
            del self._rounds[oldest.number]
        orders = []
        failures = []
        for index in range(len(probe.targets)):
            self._windows[index].sent(number, now)
            address, missing = self._address(index)
            if address is None:
                failures.append(Failure(self.settings.name, index, number, "no-address", missing))
            else:
                orders.append(Order(self.settings.name, index, number, facts.name, facts.index, address))
        # The next round is due a pace after this one was, not after it was sent, unless that is past already.
        planned = self._next_send + self._pace()
        self._next_send = planned if planned > now else now + self._pace()
        for failure in failures:
            self._fail(round_, failure, now, out)
        self._schedule()
        return orders, out

    # What the outside asks.

    @property
    def facts(self) -> InterfaceFacts | None:
        return self._reach.facts

    @property
    def prefixes(self) -> tuple[str, ...]:
        return self._reach.prefixes

    @property
    def gateways(self) -> Gateways:
        return self._reach.gateways

    @property
    def settled(self) -> bool:
        """A first verdict was reached."""
        return not self._settling

    @property
    def hold(self) -> float:
        """Seconds of good rounds that are asked before it carries traffic again."""
        probe = self.settings.probe
        return min(probe.hold_max, probe.hold * 2.0 ** max(0, min(self._flaps - 1, 30)))

    def view(self) -> View:
        reach = self._reach
        families = frozenset(reach.families)
        return View(self.usable, reach.facts, reach.paths, reach.routes, families, self.down_since, reach.prefixes)

    def status(self, now: float, offset: float) -> UplinkStatus:
        """`offset` turns monotonic into Unix time."""
        qualities = [window.quality(now) for window in self._windows]
        facts = self.facts
        return UplinkStatus(
            name=self.settings.name,
            interface=self.settings.interface,
            id=self.id,
            usable=self.usable,
            degraded=False,
            drained=False,
            verdict=self.verdict,
            reason=self._remark or self.reason,
            since=self.since + offset,
            carrier=None if facts is None else facts.carrier,
            gateway=_gateway_text(self._reach.gateways[0]),
            gateway6=_gateway_text(self._reach.gateways[1]),
            loss=_mean([q.loss for q in qualities]),
            rtt=_mean([q.rtt for q in qualities]),
            jitter=_mean([q.jitter for q in qualities]),
            hold=self.hold,
            transitions=self.transitions,
            last_transition=None if self.last_transition is None else self.last_transition + offset,
            targets=tuple(self._target_status(i, quality) for i, quality in enumerate(qualities)),
        )

    def evidence(self) -> str:
        """The newest rounds, newest last: `.` good, `!` lost, `x` failed, `?` not judged."""
        return "".join(r.mark for r in list(self._rounds.values())[-_EVIDENCE:])

    # Inside.

    def _target_status(self, index: int, quality: Quality) -> TargetStatus:
        return TargetStatus(
            target=self.settings.probe.targets[index].text,
            address=self._address(index)[0],
            loss=quality.loss,
            rtt=quality.rtt,
            jitter=quality.jitter,
            evidence=self._windows[index].evidence(),
            reason=self._failures[index],
        )

    def _address(self, index: int) -> tuple[str | None, str]:
        target = self.settings.probe.targets[index]
        return self._reach.address_of(target.address, target.family)

    def _pace(self) -> float:
        probe = self.settings.probe
        return probe.suspect_interval if self.verdict in ("UNKNOWN", "FALLING") else probe.interval

    def _schedule(self) -> None:
        self.deadline = min([self._next_send, self._reach.deadline(), *(r.due for r in self._open)])

    def _refresh(self, now: float, out: list[Transition]) -> None:
        """Recomputes what the facts allow."""
        before = self._reach.missing
        self._reach.refresh(self.settings, now)
        missing = self._reach.missing
        if missing:
            self._signal("lost", missing, now, out)
            self._rounds.clear()
            self._open.clear()
            self._next_send = inf
            self._good = self._bad = 0
        elif before:
            self._next_send = now
            if self.verdict == "DOWN":
                after = "carrier is back" if before == "carrier lost" else "it can be sent to again"
                self.reason = f"{after}, not proven yet"
        self._schedule()

    def _fail(self, round_: Round, failure: Failure, now: float, out: list[Transition]) -> None:
        lost = failure.kind in ("unreachable", "no-route")
        self._windows[failure.target].settle(failure.round, "lost" if lost else "unsent")
        self._failures[failure.target] = failure.text
        round_.failures += 1
        round_.void += failure.kind in _VOID
        probe = self.settings.probe
        all_in = round_.replies + round_.failures == len(probe.targets)
        if all_in or (round_.good is None and len(probe.targets) - round_.failures < probe.quorum):
            self._close(round_, now, out)

    def _close(self, round_: Round, now: float, out: list[Transition]) -> None:
        """The round is due, or can't become good in time; targets that are silent until now have lost their probe."""
        if round_ not in self._open:
            return
        self._open.remove(round_)
        for index, window in enumerate(self._windows):
            if window.settle(round_.number, "lost"):
                self._failures[index] = "no reply"
        if round_.good is None:
            self._judge(round_, False, now, out)
        self._schedule()

    def _judge(self, round_: Round, good: bool, now: float, out: list[Transition]) -> None:
        round_.good = good
        probe = self.settings.probe
        if not good and round_.void and round_.replies + round_.void == len(self._windows):
            round_.is_void = True
            self._remark = f"{self._failure_text()}; the verdict stays as it was"
            return
        self._remark = ""
        if good:
            self._newest_good = max(self._newest_good, round_.number)
            if round_.number < self._newest_bad:
                # Bad rounds sent after this one stay as many as they are, however late its reply came.
                later = [r for r in self._rounds.values() if r.number > round_.number]
                self._bad = sum(r.good is False and not r.is_void for r in later)
                if self._bad:
                    return
            self._bad = 0
            if self._good == 0:
                self._rising_since = now
            self._good += 1
            held = self.verdict == "UNKNOWN" or now - self._rising_since >= self.hold
            proven = self._good >= probe.rise and held
            self._signal("proven" if proven else "good", f"{self._good} of {self._good} probes answered", now, out)
        elif round_.number > self._newest_good:
            self._newest_bad = max(self._newest_bad, round_.number)
            self._good = 0
            self._bad += 1
            failed = self._bad >= probe.fall
            self._signal("failed" if failed else "bad", self._failure_text(), now, out)
        self._schedule()

    def _failure_text(self) -> str:
        """Why rounds are bad: what was said about them, or that nothing was."""
        said = [text for text in self._failures if text not in ("", "no reply")]
        if said:
            return said[-1]
        return f"{self._bad} of {self._bad} probes lost"

    def _signal(self, signal: Signal, reason: str, now: float, out: list[Transition]) -> None:
        was, verdict = self.verdict, TABLE[self.verdict][signal]
        first = self._settling and verdict in ("UP", "DOWN")
        self.verdict = verdict
        if first:
            self._settling = False
        if verdict != was or signal in ("failed", "lost"):
            self.reason = reason
        if verdict != was:
            # A round at the new pace may be due sooner than the one that was planned at the old.
            self._next_send = min(self._next_send, max(now, self._last_send + self._pace()))
        usable = verdict in CARRIES and not self._reach.missing
        if usable == self.usable and not (first and verdict == "DOWN"):
            return
        if usable:
            self._up_since = now
        elif self.usable:
            self.down_since = now
            stable = int((now - self._up_since) // max(self.settings.probe.hold_max, 1.0))
            self._flaps = max(0, self._flaps - stable) + 1
        if usable != self.usable:
            self.transitions += 1
            self.last_transition = self.since = now
        self.usable = usable
        out.append(
            Transition(
                event="uplink_up" if usable else "uplink_down",
                uplink=self.settings.name,
                at=now,
                was=was,
                now=verdict,
                reason=reason,
                evidence=self.evidence(),
                usable=(),
            )
        )


def _gateway_text(gateway: Gateway | None) -> str | None:
    if gateway is None:
        return None
    return gateway.address if gateway.address is not None else "none"


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None
