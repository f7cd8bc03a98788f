"""The cycle: look, decide, plan, apply, report. It knows the core and the `Kernel` protocol, no adapter.

Two clocks drive it. The *tick* is synchronous and cheap: it lets the core judge what is due and sends the probes that
the core orders. The *cycle* talks to the kernel; it runs when a transition happened, when something said "look
again", and every 30 s in any case. A transition is acted on from the mirror, the last observed state with our own
changes applied, so that a failover costs one small write; a full look follows every change and finds what the mirror
got wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Sequence
from math import inf
from typing import Protocol

from mlbd.core.describe import describe_object
from mlbd.core.desired import desired
from mlbd.core.drift import advice
from mlbd.core.layout import Layout
from mlbd.core.plan import ASIDE, Change, Stages, apply, begins_to_translate, plan, urgent
from mlbd.core.ports import ApplyError, Kernel, Observation
from mlbd.core.probing import Failure, Order, Outcome
from mlbd.core.router import Router
from mlbd.core.settings import Settings
from mlbd.core.state import KernelState, Saved
from mlbd.core.status import CycleStatus, Transition
from mlbd.release import restore, saved_scopes, scopes

LOOK_EVERY = 30.0
"""Seconds between full looks when nothing says "look again": the kernel drops some routes without a message."""
LOOK_AFTER_CHANGE = 0.1
EXPIRED = 0.05
"""A look that much after a route runs out finds it run out, by any clock."""
LOOK_PAUSE = 0.2
"""At most one look caused by events in this time, but the first is never delayed."""
BACKOFF_MIN = 0.1
BACKOFF_MAX = 30.0


class Report(Protocol):
    """Who is told what happened. Called from the event loop; must not block."""

    def transition(self, transition: Transition, took: float | None) -> None:
        """`took`: seconds from complete evidence to the kernel changed; None if it could not be."""

    def cycle(self, cycle: CycleStatus, changes: Sequence[Change]) -> None:
        """A cycle ended; `changes` are those that were made."""

    def repaired(self, changes: Sequence[Change], by: Collection[str]) -> None:
        """Somebody else changed what is ours, and it is put right; `by`: programs that may have done it."""

    def fight(self, advice: str) -> None:
        """Somebody does that again and again, so repairs will wait longer."""

    def cut(self, uplink: str) -> None:
        """The connections of an uplink were cut loose."""

    def probe_sent(self, order: Order) -> None: ...

    def probe_outcome(self, outcome: Outcome) -> None: ...


class Loop:
    def __init__(
        self,
        kernel: Kernel,
        router: Router,
        send: Callable[[Order], None],
        report: Report,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.router = router
        self.last_cycle: CycleStatus | None = None
        self.observation: Observation | None = None
        """The last full look."""
        self._kernel = kernel
        self._send = send
        self._report = report
        self._clock = clock
        self._mirror = KernelState()
        self._notes = KernelState()
        self._mirror_true = False
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._armed = inf
        self._look_at = -inf
        self._looked = -inf
        self._retry_at = inf
        self._backoff = BACKOFF_MIN
        self._seen = False
        self._repairs = 0
        self._truce_until = -inf
        self.fight = ""
        """About somebody who does not stop changing what is ours; "" if nobody does."""
        self._others: set[str] = set()
        """Programs that changed something since the last look."""
        self._pending: list[Transition] = []
        self._first = asyncio.Event()
        self._cycled = asyncio.Event()
        """Set when the cycle that is going on, or the next one, has ended."""

    # What the outside tells. All synchronous, all cheap.

    def outcome(self, outcome: Outcome) -> None:
        """A probe was answered or failed."""
        self._report.probe_outcome(outcome)
        self._note(self.router.hear(outcome, self._clock()))
        if isinstance(outcome, Failure):
            self._arm()

    def link(self, name: str, index: int, up: bool, carrier: bool) -> None:
        """The kernel says how an interface is; acted on at once, and looked at thoroughly after that."""
        facts = self.router.watched().get(name)
        if facts is not None and (facts.index, facts.up, facts.carrier) == (index, up, carrier):
            return
        self._note(self.router.see_link(name, index, up, carrier, self._clock()))
        self._arm()
        if self.router.concerned(name):
            self.look_again()

    def look_again(self, by: str = "") -> None:
        """Something that is ours, or that facts come from, may have changed; `by` a program, if that is known."""
        if by:
            self._others.add(by)
        self._look_at = min(self._look_at, max(self._clock(), self._looked + LOOK_PAUSE, self._truce_until))
        self._wake.set()

    def load(self, settings: Settings) -> None:
        """New settings; the next cycle carries them out."""
        self._note(self.router.load(settings, self._clock()))
        self._look_at = self._clock()
        self._wake.set()

    # What people ask for. All raise KeyError for an uplink that there is not.

    def drain(self, uplink: str, seconds: float, reason: str) -> None:
        """No new connections by it for so long (inf: until it is resumed), while another is usable."""
        now = self._clock()
        self._note(self.router.drain(uplink, now + seconds, reason, now))
        self._arm()

    def resume(self, uplink: str, reason: str) -> None:
        self._note(self.router.resume(uplink, reason, self._clock()))

    def drill(self, uplink: str, seconds: float) -> None:
        """For so long, replies to its probes count as if they had never come; 0 ends it."""
        self.router.drill(uplink, self._clock() + seconds)

    # The two clocks.

    async def run(self) -> None:
        """Runs until cancelled. Errors of the kernel are reported and retried, never raised."""
        while True:
            began = self._clock()
            await self._cycle()
            self._cycled.set()
            self._cycled = asyncio.Event()
            self._arm()
            reconsider = self.router.reconsider(began)
            while not self._pending:
                due = min(self._look_at, self._retry_at, reconsider)
                if due <= self._clock():
                    break
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(due - self._clock()):
                        await self._wake.wait()
                self._wake.clear()

    async def first_cycle(self) -> None:
        """Returns when a first cycle has been made, as far as the kernel lets it."""
        await self._first.wait()

    async def followed(self) -> None:
        """Returns when the kernel has followed what has happened so far, as far as it lets itself."""
        while self._pending:
            await self._cycled.wait()

    def stop(self) -> None:
        """No more probes."""
        if self._timer is not None:
            self._timer.cancel()
        self._armed = -inf

    def _tick(self) -> None:
        self._timer, self._armed = None, inf
        now = self._clock()
        transitions = self.router.advance(now)
        orders, more = self.router.orders(now)
        for order in orders:
            self._report.probe_sent(order)
            self._send(order)
        self._note(transitions + more)
        self._arm()

    def _arm(self) -> None:
        """Sets the timer to the core's deadline, if that is sooner than what it is set to. Not before the cycle that is
        due: a switch does not wait for probes.
        """
        if self._pending:
            return
        deadline = self.router.deadline()
        if deadline >= self._armed:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._armed = deadline
        self._timer = asyncio.get_running_loop().call_later(max(0.0, deadline - self._clock()), self._tick)

    def _note(self, transitions: list[Transition]) -> None:
        if transitions:
            self._pending += transitions
            self._wake.set()
        if self.router.rerouted:
            self.router.rerouted = False
            self.look_again()

    # The cycle.

    async def _cycle(self) -> None:
        began = self._clock()
        changes: list[Change] = []
        errors: list[str] = []
        # What is known to have happened is acted on by the mirror; the look, if one is due, comes right after.
        looking = self._look_at <= began and not (self._pending and self._seen)
        if looking:
            try:
                await self._look()
            except OSError as error:
                errors.append(f"the kernel could not be looked at: {error}")
        if self._seen:
            changes, refused = await self._act()
            errors += refused
            self._first.set()  # also if something is refused, which may be so for ever
        self._settle(looking, bool(changes), bool(errors))
        self.last_cycle = CycleStatus(
            at=time.time(),
            result="failed" if errors else "changed" if changes else "unchanged",
            duration=self._clock() - began,
            changes=len(changes),
            errors=tuple(dict.fromkeys(errors)),
        )
        self._report.cycle(self.last_cycle, changes)

    def _settle(self, looked: bool, changed: bool, failed: bool) -> None:
        """When to look and to try again."""
        now = self._clock()
        if failed:
            self._retry_at = now + self._backoff
            self._look_at = min(self._look_at, self._retry_at)
            self._backoff = min(BACKOFF_MAX, self._backoff * 2)
        elif looked or self._retry_at == inf:
            self._retry_at = inf
            self._backoff = BACKOFF_MIN
            if changed:
                self._look_at = min(self._look_at, max(now + LOOK_AFTER_CHANGE, self._truce_until))

    async def _look(self) -> None:
        """A full look; the mirror becomes true. Raises OSError."""
        self._looked = self._clock()
        self._look_at = self._looked + LOOK_EVERY
        asked: set[str] | None = None
        saved = saved_scopes(self._mirror)
        # A reload may come in between, and what an earlier run has changed is only known from a look.
        while asked is None or not asked.issuperset(saved.union(self.router.interfaces())):
            asked = saved.union(self.router.interfaces())
            observation = await self._kernel.observe(asked, self.router.gateways(), self.router.settings.bundles)
            saved = saved_scopes(observation.state)
        expected = self._mirror if self._mirror_true else None
        others, self._others = self._others, set()
        self._notes = KernelState(item for item in self._mirror.values() if isinstance(item, Saved))
        self._mirror, self._mirror_true, self._seen = observation.state, True, True
        self.observation = observation
        self._look_at = min(self._look_at, self._looked + observation.expires + EXPIRED)
        self._note(self.router.see(observation.facts, self._clock(), observation.lan_prefixes))
        if expected is not None:
            self._note_repairs(expected, others)

    def _note_repairs(self, expected: KernelState, others: Collection[str]) -> None:
        """Reports what somebody else changed: it is not as we left it, and not as we want it."""
        changes = plan(self._desired(self._mirror), self._mirror)
        foreign = [c for c in changes if c.new is not None and expected.get(c.new.key) == c.new]
        extra = [c for c in changes if c.new is None and c.object.key not in expected]
        if not foreign and not extra:
            self._repairs, self.fight = 0, ""
            return
        self._report.repaired(foreign + extra, others)
        self._repairs += 1
        if self._repairs > 3:  # a fight; nobody wins it by hurrying
            if not self.fight:
                self.fight = advice(foreign + extra, others)
                self._report.fight(self.fight)
            self._truce_until = self._clock() + min(BACKOFF_MAX, BACKOFF_MIN * 2.0 ** min(self._repairs, 10))

    def _desired(self, observed: KernelState) -> KernelState:
        router = self.router
        # What the sysctls were is still true when somebody flushed the table in which it is noted.
        known = KernelState.merged([self._notes, observed])
        return desired(router.settings, router.identities, router.decide(self._clock()), known)

    async def _act(self) -> tuple[list[Change], list[str]]:
        """Makes the kernel agree with what is known now; returns what was changed, and what could not be."""
        router = self.router
        transitions, self._pending = self._pending, []
        wanted = self._desired(self._mirror)
        steps = plan(wanted, self._mirror)
        stranded = router.to_cut()
        stages = Stages.of(steps, settled=router.settled)
        errors = list(await self._apply(stages.saving))
        unsaved = scopes(errors)
        setting = [c for c in stages.setting if c.object.key[1] not in unsaved]
        errors += await self._apply(setting)
        errors += await self._apply(stages.switching)
        made = [*stages.saving, *setting, *stages.switching]
        # A transaction fails as a whole; what a failover needs of it is tried alone.
        moving = [move for e in errors if (move := urgent(e.change, self._mirror)) is not None]
        stuck = {e.change.object.key for e in await self._apply(moving)}
        errors = [e for e in errors if e.change not in moving or e.change.object.key in stuck]
        at = self._clock()
        refused = {e.change.kind for e in errors}
        switched = refused <= {*ASIDE, "rule", "route"}
        bundled = refused.isdisjoint({"bond", "port"})
        cutting = asyncio.create_task(self._cut(stranded & router.to_cut())) if switched else None
        await asyncio.sleep(0)  # it begins: packets wait for it
        for transition in transitions:
            done = bundled if transition.bundle else switched
            self._report.transition(transition, at - transition.at if done else None)
        texts = [] if cutting is None else await cutting
        unmade = {e.change for e in errors}
        if any(begins_to_translate(change) and change not in unmade for change in made):
            try:
                await self._kernel.begin_anew()
            except OSError as error:
                texts.append(f"connections from before could not be made to begin anew: {error}")
        if refused <= ASIDE:
            gone = await self._apply(stages.retiring)
            made += stages.retiring
            if not gone:
                gone = await restore(self._apply, stages.restoring)
                made += stages.restoring
            errors += gone
        failed = {e.change for e in errors}
        self._mirror = self._mirror.sharing(wanted)  # so that the next comparison is of what has changed
        return [c for c in made if c not in failed], [_error_text(e) for e in errors] + texts

    async def _apply(self, changes: list[Change]) -> Sequence[ApplyError]:
        if not changes:
            return []
        errors = await self._kernel.apply(changes)
        failed = {e.change for e in errors}
        self._mirror = apply((c for c in changes if c not in failed), self._mirror)
        if failed:
            self._mirror_true = False
        return errors

    async def _cut(self, codes: frozenset[int]) -> list[str]:
        """Cuts loose the connections of uplinks that are out, and ends sockets of the router that are stuck there; the
        switch must have been made for all of them.
        """
        layout = Layout.of(self.router.settings.daemon)
        errors = []
        stranded: set[str] = set()
        for code in sorted(codes):
            try:
                await self._kernel.cut(layout.mark(code), layout.mask)
            except OSError as error:
                errors.append(f"connections of uplink id {code} could not be cut loose: {error}")
            else:
                stranded |= set(self.router.stranded(code))
                self._report.cut(self.router.cut(code))
        departed = self.router.departed()
        if stranded or departed:
            try:
                await self._kernel.abandon(stranded, departed)
            except OSError as error:
                errors.append(f"sockets of the router could not be ended: {error}")
        return errors


def _error_text(error: ApplyError) -> str:
    return f"{error.reason} ({describe_object(error.change.object)})"
