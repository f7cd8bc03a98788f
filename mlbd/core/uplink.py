"""One uplink: facts and probe outcomes in, a verdict with its reason out.

What rounds of probes are, and what counts as good and bad, is in `mlbd.core.rounds`; facts are judged in
`mlbd.core.reach`, verdicts in `mlbd.core.machine`.
"""

from __future__ import annotations

from math import inf

from msgspec.structs import replace

from mlbd.core.damping import Damping
from mlbd.core.decision import View
from mlbd.core.facts import InterfaceFacts, told
from mlbd.core.grade import poor
from mlbd.core.machine import CARRIES, TABLE, Signal, Verdict
from mlbd.core.probing import LOST, VOID, Failure, Order, Outcome, Reply
from mlbd.core.reach import Reach
from mlbd.core.rounds import Round, Rounds
from mlbd.core.settings import Target, Uplink
from mlbd.core.status import Event, Transition, UplinkStatus
from mlbd.core.targets import Targets
from mlbd.core.window import mean

GRADE_EVERY = 1.0
"""Seconds between looks at a whole window, which cost by its length."""
PATIENCE = 0.95
"""Seconds after which a reply is not late but missing, where timeouts are measured: a queue that fills up all of a
sudden adds this much to a round trip. So a silent failure is found in 1.5 s at the median (docs/health.md)."""


class UplinkState:
    """The mutable owner of everything known about one uplink."""

    def __init__(self, settings: Uplink, number: int, now: float) -> None:
        self.settings = settings
        self.id = number
        self.verdict: Verdict = "UNKNOWN"
        self.reason = "not probed yet"
        self._remark = ""
        self.carries = False
        """It could carry traffic: by facts and verdict."""
        self.degraded = ""
        """Why; "" if it is not."""
        self.drained = ""
        """Likewise."""
        self.since = now
        self.transitions = 0
        self.last_transition: float | None = None
        self.down_since = -inf
        self.deadline = inf
        self._reach = Reach()
        self._settling = True
        self._rounds = Rounds()
        self._damping = Damping()
        self._up_since = now
        self._grade_at = inf
        self._drained_until = inf
        self.drilled_until = -inf
        """Until then, replies count as if they had never come."""
        self.doubt = ""
        """Why a bad round is no evidence now, as it is this router's own fault; "": it is evidence."""
        self._missing_at = inf
        """When enough bad rounds take it down, as what they wait for is missing then."""
        self._next_send = inf
        self._last_send = -inf
        self._targets = Targets(settings.probe)

    # What the outside tells.

    def configure(self, settings: Uplink, now: float) -> list[Transition]:
        """New settings for the same uplink: facts, verdict and the windows of targets that stay are kept."""
        out: list[Transition] = []
        moved = settings.interface != self.settings.interface
        if self._targets.configure(settings.probe):
            self._rounds.clear()
            self._next_send = inf if self._reach.missing else now
        self.settings = settings
        if self._next_send < inf:
            self._next_send = min(self._next_send, now + self._pace())
        if moved:
            self._reach.facts = None
        self._refresh(now, out)
        self._grade(now, out)
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
        round_ = self._rounds.get(outcome.round)
        if round_ is None or outcome.target >= len(self._targets):
            return out
        if isinstance(outcome, Reply):
            if now < self.drilled_until or not self._targets.answered(outcome.target, outcome.round, outcome.rtt):
                return out
            round_.replies += 1
            if round_.replies >= self.settings.probe.quorum and round_.good is not True:
                self._judge(round_, True, now, out)
            if round_.replies + round_.failures == len(self._targets):
                self._close(round_, now, out)
        else:
            self._fail(round_, outcome, now, out)
        return out

    def advance(self, now: float) -> list[Transition]:
        """Time has passed: judges what is due, ends what lingered."""
        out: list[Transition] = []
        for round_ in [r for r in self._rounds.open if r.due <= now]:
            self._close(round_, now, out)
        if self._reach.deadline() <= now:
            self._refresh(now, out)
        if self._missing_at <= now:
            self._missing_at = inf
            if not self.doubt:
                self._signal("failed", self._failure_text(), now, out)
        if self._grade_at <= now:
            self._grade(now, out)
        if self.drained and self._drained_until <= now:
            out += self.resume(now, "the time for which it was drained is over")
        self._schedule()
        return out

    def orders(self, now: float) -> tuple[list[Order], list[Transition]]:
        """The probes to send now, if it is time for a round; they count as sent at `now`."""
        facts = self.facts
        if now < self._next_send or facts is None:
            return [], []
        out: list[Transition] = []
        probe = self.settings.probe
        self._last_send = now
        round_ = self._rounds.begin(now, self._targets.timeout() if probe.timeout is None else probe.timeout)
        number = round_.number
        self._targets.sent(number, now)
        orders = []
        failures = []
        for index, target in enumerate(probe.targets):
            address, missing = self._address(target)
            if address is None:
                failures.append(Failure(self.settings.name, index, number, "no-address", missing))
            else:
                orders.append(Order(self.settings.name, index, number, facts.name, facts.index, address, target))
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
    def reach(self) -> Reach:
        """What facts say."""
        return self._reach

    @property
    def settled(self) -> bool:
        """A first verdict was reached."""
        return not self._settling

    @property
    def silent(self) -> bool:
        """Its probes, and no facts, take it for dead."""
        return not self.carries and self._rounds.bad >= self.settings.probe.fall

    @property
    def usable(self) -> bool:
        return self.carries and not self.drained

    def view(self) -> View:
        reach, families = self._reach, frozenset(self._reach.families)
        routed = reach.facts, reach.paths, reach.routes, families, self.down_since, reach.prefixes
        judged = bool(self.degraded), self.carries, self.verdict == "DOWN"
        return View(self.usable, *routed, *judged, self.settings.peer, reach.addresses)

    def status(self, now: float, offset: float) -> UplinkStatus:
        """`offset` turns monotonic into Unix time."""
        qualities = self._targets.qualities(now)
        facts = self.facts
        return UplinkStatus(
            name=self.settings.name,
            interface=self.settings.interface,
            id=self.id,
            carries=self.carries if self.settled else None,
            usable=self.usable,
            degraded=bool(self.degraded),
            drained=bool(self.drained),
            drained_until=None if self._drained_until == inf else self._drained_until + offset,
            verdict=self.verdict,
            reason=self._remark or self.drained or self.degraded or self.reason,
            since=self.since + offset,
            carrier=None if facts is None else facts.carrier,
            gateway=told(self._reach.gateways[0]),
            gateway6=told(self._reach.gateways[1]),
            loss=mean([q.loss for q in qualities]),
            rtt=mean([q.rtt for q in qualities]),
            jitter=mean([q.jitter for q in qualities]),
            hold=self._damping.hold(self.settings.probe, now),
            transitions=self.transitions,
            last_transition=None if self.last_transition is None else self.last_transition + offset,
            targets=tuple(
                self._targets.status(i, self._address(self.settings.probe.targets[i])[0] or None, quality)
                for i, quality in enumerate(qualities)
            ),
        )

    # What people ask for.

    def drain(self, until: float, reason: str, now: float) -> list[Transition]:
        """No new connections before `until`; inf: until it is resumed."""
        was = self.usable
        self.drained, self._drained_until = reason, until
        self._schedule()
        return [self._transition("uplink_drained", self.verdict, reason, was, now)]

    def resume(self, now: float, reason: str) -> list[Transition]:
        """Ends a drain; nothing if there is none."""
        if not self.drained:
            return []
        was = self.usable
        self.drained, self._drained_until = "", inf
        self._schedule()
        return [self._transition("uplink_resumed", self.verdict, reason, was, now)]

    # Inside.

    def _address(self, target: Target) -> tuple[str | None, str]:
        if target.name or self.settings.port:
            return target.address or "", ""
        return self._reach.address_of(target.address, target.family)

    def _pace(self) -> float:
        probe = self.settings.probe
        return probe.suspect_interval if self.verdict in ("UNKNOWN", "FALLING") else probe.interval

    def _schedule(self) -> None:
        if not self.settings.probe.targets:
            self._next_send = inf
        drained_until = self._drained_until if self.drained else inf
        dues = [r.due for r in self._rounds.open]
        self.deadline = min(
            [self._next_send, self._reach.deadline(), self._missing_at, self._grade_at, drained_until, *dues]
        )

    def _refresh(self, now: float, out: list[Transition]) -> None:
        """Recomputes what the facts allow."""
        before = self._reach.missing
        self._reach.refresh(self.settings, now)
        missing = self._reach.missing
        if missing:
            self._signal("lost", missing, now, out)
            self._rounds.clear()
            self._damping.bad(now, certain=True)
            self._next_send = self._missing_at = inf
        elif before:
            self._next_send = now
            if self.verdict == "DOWN":
                after = "carrier is back" if before == "carrier lost" else "it can be sent to again"
                self.reason = f"{after}, not proven yet"
        if not missing and not self.settings.probe.targets:
            self._signal("proven", "it can be sent to, and nothing is probed", now, out)
        self._schedule()

    def _fail(self, round_: Round, failure: Failure, now: float, out: list[Transition]) -> None:
        self._targets.failed(failure.target, failure.round, failure.kind in LOST, failure.text)
        round_.failures += 1
        round_.void += failure.kind in VOID
        probe = self.settings.probe
        all_in = round_.replies + round_.failures == len(probe.targets)
        if all_in or (round_.good is None and len(probe.targets) - round_.failures < probe.quorum):
            self._close(round_, now, out)

    def _close(self, round_: Round, now: float, out: list[Transition]) -> None:
        """The round is due, or can't become good in time; targets that are silent until now have lost their probe."""
        if not self._rounds.close(round_):
            return
        self._targets.due(round_.number, self.doubt)
        if round_.good is None:
            self._judge(round_, False, now, out)
        self._schedule()

    def _judge(self, round_: Round, good: bool, now: float, out: list[Transition]) -> None:
        probe, rounds = self.settings.probe, self._rounds
        kept_here = round_.void and round_.replies + round_.void == len(self._targets)
        if not good and (kept_here or self.doubt):
            round_.good, round_.is_void = False, True
            self._remark = f"{self.doubt or self._failure_text(round_)}; the verdict stays as it was"
            return
        self._remark = ""
        if not rounds.judge(round_, good):
            still = self._missing_at < inf and rounds.bad >= probe.fall
            self._missing_at = rounds.bad_since + PATIENCE if still else inf
            return
        if good:
            self._missing_at = inf
            self._damping.good(now)
            held = self.verdict == "UNKNOWN" or self._damping.held(probe, now)
            proven = rounds.good >= probe.rise and held
            self._signal("proven" if proven else "good", f"{rounds.good} of {rounds.good} probes answered", now, out)
        else:
            failed = rounds.bad >= probe.fall
            self._damping.bad(now, certain=failed)
            self._missing_at = inf
            if failed and self.verdict == "FALLING" and probe.timeout is None and not self._told(round_):
                # Round trips may have become longer at this very moment: replies are late, and not missing yet.
                self._missing_at = rounds.bad_since + PATIENCE
                failed = now >= self._missing_at
            self._signal("failed" if failed else "bad", self._failure_text(round_), now, out)
        self._schedule()

    def _told(self, round_: Round) -> bool:
        """Whether failures alone make it bad, without waiting for anything."""
        return len(self._targets) - round_.failures < self.settings.probe.quorum

    def _failure_text(self, round_: Round | None = None) -> str:
        """Why it, and rounds before, are bad: what was said about them, or that nothing was."""
        said = self._targets.said() if round_ is not None and self._told(round_) else ""
        return said or f"{self._rounds.bad} of {self._rounds.bad} probes lost"

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
        carries, usable = verdict in CARRIES and not self._reach.missing, self.usable
        if carries == self.carries and not (first and verdict == "DOWN"):
            return
        if carries:
            self._up_since = now
            self._grade_at = now + self.settings.probe.window / 2
        elif self.carries:
            self.down_since = now
            self._damping.failed(now)
            self._grade_at, self.degraded = inf, ""
        self.carries = carries
        out.append(self._transition("uplink_up" if carries else "uplink_down", was, reason, usable, now))

    def _grade(self, now: float, out: list[Transition]) -> None:
        """Whether it is degraded, once half a window is filled; what was lost before it was up does not count."""
        if not self.carries:
            return
        filled = self._up_since + self.settings.probe.window / 2
        self._grade_at = max(now + GRADE_EVERY, filled)
        if now < filled:
            return
        probe, was = self.settings.probe, self.degraded
        self.degraded = poor(probe.degrade, self._targets.qualities(now, self._up_since), probe.quorum, bool(was))
        if bool(was) != bool(self.degraded):
            event: Event = "uplink_degraded" if self.degraded else "uplink_restored"
            reason = self.degraded or "its quality is good again"
            out.append(self._transition(event, self.verdict, reason, self.usable, now))

    def _transition(self, event: Event, was: Verdict, reason: str, usable: bool, now: float) -> Transition:
        """`usable`: whether it was."""
        if usable != self.usable:
            self.transitions += 1
            self.last_transition = self.since = now
        return Transition(
            event=event,
            uplink=self.settings.name,
            at=now,
            was=was,
            now=self.verdict,
            reason=reason,
            evidence=self._rounds.evidence(),
            usable=(),
        )
