"""The one mutable owner: all uplinks, and what is still to be done because of what happened to them.

The shell calls it with what it learned and the time, gets transitions back, asks it which probes to send, and sleeps
until `deadline()`. `decide()` is the input of `mlbd.core.desired`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from math import inf

from msgspec.structs import replace

from mlbd.core import sharing
from mlbd.core.bundles import Bundles
from mlbd.core.carrying import carrying
from mlbd.core.decision import Decision, Pick, View, decide
from mlbd.core.facts import InterfaceFacts
from mlbd.core.layout import Identities, Layout, assign, vanished
from mlbd.core.probing import Order, Outcome
from mlbd.core.settings import FAMILIES, Family, Settings
from mlbd.core.shares import shares
from mlbd.core.state import KernelState, Rule
from mlbd.core.status import BundleStatus, MemberStatus, PolicyStatus, Transition, UplinkStatus
from mlbd.core.uplink import UplinkState


class Router:
    def __init__(self, settings: Settings, adopted: Identities, now: float, left: KernelState | None = None) -> None:
        """`left`: what a daemon before this one left in the kernel."""
        self.settings = settings
        self.identities = assign(settings, adopted)
        self.settled = False
        self.rerouted = False
        """A gateway ran out, or an uplink began or ceased to rise, which decides who is reset, or a member of a bundle
        is out, or in again: perhaps without a transition. Who reads it puts it back.
        """
        self._grace_end = now + settings.daemon.grace
        self._uplinks = {u.name: UplinkState(u, self.identities.uplinks[u.name], now) for u in settings.uplinks}
        self._by_interface = _by_interface(self._uplinks.values())
        self._bundles = Bundles(settings, now)
        self._uncut: set[str] = set()
        self._orphans = vanished(adopted, self.identities)
        self._addresses: dict[tuple[str, Family], frozenset[str]] = {}
        """The last ones that an uplink had, without length."""
        self._departed: set[str] = set()
        self._picks: dict[tuple[str, Family], Pick] = {}
        self._lan_prefixes: tuple[str, ...] = ()
        self._watched: dict[str, InterfaceFacts] | None = None
        if left is not None:
            self._remember(left)

    # What the outside tells.

    def load(self, settings: Settings, now: float) -> list[Transition]:
        """New settings. An uplink that keeps its name keeps its id, facts, windows and verdict."""
        before, self._watched = self.identities, None
        self.identities = assign(settings, before)
        self._orphans |= vanished(before, self.identities)
        out: list[Transition] = []
        uplinks = {}
        for uplink in settings.uplinks:
            code = self.identities.uplinks[uplink.name]
            state = self._uplinks.get(uplink.name)
            if state is None:
                state = UplinkState(uplink, code, now)
            else:
                state.id = code
                if state.settings != uplink:
                    out += state.configure(uplink, now)
            uplinks[uplink.name] = state
        self.settings = settings
        self._uplinks = uplinks
        self._by_interface = _by_interface(uplinks.values())
        self._uncut &= set(uplinks)
        self._picks = {}
        return self._noted(out) + self._bundles.load(settings, now)

    def see(
        self, facts: Mapping[str, InterfaceFacts], now: float, lan_prefixes: tuple[str, ...] = ()
    ) -> list[Transition]:
        """A full look."""
        self._lan_prefixes, self._watched = lan_prefixes, None
        of_members = self._follow(self._bundles.see(facts, now), now)
        facts = self._attributed(self._carried(facts))
        shared = sharing.shared(self.settings.uplinks)
        found = [
            (u, sharing.narrowed(shared, u.settings, facts.get(u.settings.interface))) for u in self._uplinks.values()
        ]
        for uplink, its in found:
            self._follow_addresses(uplink.settings.name, None if uplink.settings.peer else its)
        return of_members + self._noted(t for uplink, its in found for t in uplink.see(its, now))

    def see_link(self, name: str, index: int, up: bool, carrier: bool, now: float) -> list[Transition]:
        """The kernel said something about one interface."""
        self._watched = None
        of_members = self._follow(self._bundles.see_link(name, index, up, carrier, now), now)
        uplinks = [u for u in self._by_interface.get(name, ()) if not u.settings.members]
        return of_members + self._noted(t for uplink in uplinks for t in uplink.see_link(index, up, carrier, now))

    def hear(self, outcome: Outcome, now: float) -> list[Transition]:
        uplink = self._uplinks.get(outcome.uplink)
        if uplink is None:
            member = self._bundles.state(outcome.uplink)
            return [] if member is None else self._follow(self._bundles.noted(member.hear(outcome, now), now), now)
        was = uplink.verdict
        out = uplink.hear(outcome, now)
        self.rerouted |= uplink.verdict != was and "RISING" in (was, uplink.verdict)
        return self._noted(out) if out else out

    def advance(self, now: float) -> list[Transition]:
        out: list[Transition] = []
        for uplink in self._uplinks.values():
            if uplink.deadline <= now:
                gateways, was = uplink.reach.gateways, uplink.verdict
                out += uplink.advance(now)
                self.rerouted |= uplink.reach.gateways != gateways
                self.rerouted |= uplink.verdict != was and "RISING" in (was, uplink.verdict)
        due = [member for member in self._bundles.states() if member.deadline <= now]
        of_members = self._bundles.noted([t for member in due for t in member.advance(now)], now)
        return self._noted(out) + self._follow(of_members, now)

    def orders(self, now: float) -> tuple[list[Order], list[Transition]]:
        """The probes to send now; they count as sent."""
        layout = Layout.of(self.settings.daemon)
        orders: list[Order] = []
        out: list[Transition] = []
        for uplink in self._uplinks.values():
            if uplink.deadline <= now:
                more, transitions = uplink.orders(now)
                mark = layout.mark(uplink.id)
                orders += [replace(order, mark=mark) for order in more]
                out += transitions
        of_members: list[Transition] = []
        for member in self._bundles.states():
            if member.deadline <= now:
                more, transitions = member.orders(now)
                orders += [self._bundles.addressed(order) for order in more]
                of_members += transitions
        return orders, self._noted(out) + self._follow(self._bundles.noted(of_members, now), now)

    # What people ask for. All raise KeyError for an uplink that there is not.

    def drain(self, name: str, until: float, reason: str, now: float) -> list[Transition]:
        """No new connections by it before `until`, while another is usable; inf: until it is resumed."""
        return self._noted(self._uplinks[name].drain(until, reason, now))

    def resume(self, name: str, reason: str, now: float) -> list[Transition]:
        return self._noted(self._uplinks[name].resume(now, reason))

    def drill(self, name: str, until: float) -> None:
        """Until then, replies to its probes count as if they had never come."""
        self._uplinks[name].drilled_until = until

    def doubt(self, reason: str) -> None:
        """See `UplinkState.doubt`; of all uplinks."""
        for uplink in self._uplinks.values():
            uplink.doubt = reason

    # What the outside asks.

    def suspects(self) -> Collection[str]:
        """Interfaces of the lines whose probes fail although facts say that they could be answered."""
        return [
            u.settings.interface
            for u in self._uplinks.values()
            if u.verdict in ("FALLING", "DOWN") and not u.settings.peer and u.view().paths != (None, None)
        ]

    def interfaces(self) -> Collection[str]:
        """Of uplinks."""
        return list(self._by_interface)

    def concerned(self, interface: str) -> bool:
        """Whether a look is due when something happens to it."""
        return interface in self._by_interface or self._bundles.knows(interface)

    def gateways(self) -> Collection[str]:
        """Addresses whose hardware addresses a look should find."""
        return sharing.gateways(sharing.shared(self.settings.uplinks), self.settings.uplinks)

    def watched(self) -> Mapping[str, InterfaceFacts]:
        """What is believed of the interfaces that exist."""
        if self._watched is None:
            own = {name: uplinks[0] for name, uplinks in self._by_interface.items() if not uplinks[0].settings.members}
            found = {name: uplink.facts for name, uplink in own.items()}
            self._watched = {name: facts for name, facts in found.items() if facts is not None}
        members = self._bundles.watched()
        return self._watched | members if members else self._watched

    def deadline(self) -> float:
        """When `advance` or `orders` will have something to do although nothing happens."""
        return min([self._bundles.deadline(), *(u.deadline for u in self._uplinks.values())])

    def reconsider(self, now: float) -> float:
        """When `decide` will say something else although nothing happens; inf: not before something does."""
        times = [] if self.settled else [self._grace_end]
        if self.settings.conntrack.tcp == "reset":
            after = self.settings.conntrack.tcp_reset_after
            times += [u.down_since + after for u in self._uplinks.values() if not u.carries]
        return min((t for t in times if t > now), default=inf)

    def decide(self, now: float) -> Decision:
        """What should be, given what is known; also latches the end of start-up."""
        if not self.settled:
            waits = not self._bundles.settled() or not all(u.settled for u in self._uplinks.values())
            self.settled = now >= self._grace_end or not waits
            self._bundles.noted((), now)
        views = {name: u.view() for name, u in self._uplinks.items()}
        picks = decide(self.settings, views, self.settled)
        if self.settled:
            self._note_picks(picks)
        standings = self._bundles.standings()
        return Decision(views, picks, self._dead(views, now), self.settled, self._lan_prefixes, standings)

    def to_cut(self) -> frozenset[int]:
        """Codes of the uplinks whose connections are to be cut loose now: there is somewhere else for them to go."""
        if not self.settled:
            return frozenset()
        usable = self._usable()
        codes = {self._uplinks[name].id for name in self._uncut if self._alternative(name, usable)}
        if usable:
            codes |= self._orphans
        return frozenset(codes)

    def stranded(self, code: int) -> tuple[str, ...]:
        """Addresses with which the router's own sockets can't leave but by this uplink, while it is out."""
        uplink = next((u for u in self._uplinks.values() if u.id == code), None)
        if uplink is None or uplink.carries or uplink.settings.peer:
            return ()
        every = [u.facts for u in self._uplinks.values()]
        shared = sharing.shared(self.settings.uplinks)
        own = sharing.own_addresses(shared, uplink.settings, uplink.facts, every)
        own6 = () if uplink.facts is None else uplink.facts.addresses_of(6)
        families = (own if not self.settings.marks_own(4) else ()), (own6 if not self.settings.marks_own(6) else ())
        return tuple(address.partition("/")[0] for found in families for address in found)

    def departed(self) -> tuple[str, ...]:
        """Addresses in whose place uplinks have others since this was asked last: nothing will be answered there."""
        found, self._departed = tuple(sorted(self._departed)), set()
        return found

    def cut(self, code: int) -> str:
        """That was done; returns the uplink's name, or "" for one that is not configured any more."""
        self._orphans -= {code}
        for name, uplink in self._uplinks.items():
            if uplink.id == code:
                self._uncut -= {name}
                return name
        return ""

    def uplink_status(self, now: float, offset: float) -> tuple[UplinkStatus, ...]:
        """`offset` turns monotonic into Unix time."""
        return tuple(u.status(now, offset) for u in self._uplinks.values())

    def bundle_status(self, now: float, offset: float) -> tuple[BundleStatus, ...]:
        """`offset` turns monotonic into Unix time."""
        return self._bundles.status(now, offset)

    def carrying(self) -> dict[str, bool | None]:
        """Of every uplink and policy, as its status tells it."""
        known = {name: u.carries if u.settled else None for name, u in self._uplinks.items()}
        return carrying(self.settings, known, self.settled)

    def policy_status(self) -> tuple[PolicyStatus, ...]:
        """Shares are those of the family that more of the members serve, IPv4 if equal."""
        out, known = [], self.carrying()
        for policy in (p for p in self.settings.policies if p.members):
            picks = [self._picks.get((policy.name, family), Pick()) for family in FAMILIES]
            chosen = max(picks, key=lambda p: len(p.chosen))
            ratio, resort = shares(chosen.slots()), chosen.last_resort
            members = tuple(
                MemberStatus(uplink=name, tier=tier, share=ratio.get(name, 0.0))
                for tier, names in enumerate(policy.tiers)
                for name in names
            )
            text = f"best: {next(iter(chosen.chosen))}" if resort == "best" else resort
            name, method = policy.name, policy.method
            out.append(PolicyStatus(name=name, method=method, carries=known[name], members=members, last_resort=text))
        return tuple(out)

    # Inside.

    def _follow(self, of_members: list[Transition], now: float) -> list[Transition]:
        """What became of members, and what follows for uplinks by TEQL: these have what carrier their members give."""
        self.rerouted |= self._bundles.altered
        self._bundles.altered = False
        if not of_members:
            return []
        above = [u for u in self._uplinks.values() if u.settings.members and u.facts is not None]
        out: list[Transition] = []
        for uplink in above:
            assert uplink.facts is not None
            works = self._bundles.works(uplink.settings.interface)
            out += uplink.see_link(uplink.facts.index, uplink.facts.up, works, now)
        return of_members + self._noted(out)

    def _carried(self, facts: Mapping[str, InterfaceFacts]) -> Mapping[str, InterfaceFacts]:
        devices = {u.settings.interface for u in self._uplinks.values() if u.settings.members}
        changed = {
            name: replace(facts[name], carrier=facts[name].up and self._bundles.works(name))
            for name in devices
            if name in facts
        }
        return {**facts, **changed} if changed else facts

    def _remember(self, left: KernelState) -> None:
        """What only rules still tell: in which families uplinks have had a gateway, and the IPv4 addresses and IPv6
        prefixes of those that are away, so that nothing with such an address leaves by another uplink.
        """
        layout = Layout.of(self.settings.daemon)
        rules = [item for item in left.values() if isinstance(item, Rule) and item.source is not None]
        for uplink in self._uplinks.values():
            own = [(r.family, r.source or "") for r in rules if r.priority == layout.source_priority(uplink.id)]
            uplink.reach.families |= {family for family, _ in own}
            uplink.reach.addresses, uplink.reach.prefixes = (tuple(s for f, s in own if f == each) for each in FAMILIES)

    def _attributed(self, facts: Mapping[str, InterfaceFacts]) -> Mapping[str, InterfaceFacts]:
        """A prefix is given to the uplink whose address is most like it; but one whose own uplink has lost its
        addresses is not another's, as with two lines of one provider.
        """
        addressless = {
            interface: {prefix for u in uplinks for prefix in u.reach.prefixes}
            for interface, uplinks in self._by_interface.items()
            if (found := facts.get(interface)) is None or not found.addresses_of(6)
        }
        kept = set[str]().union(*addressless.values())
        others = {interface: kept - addressless.get(interface, set()) for interface in facts}
        return {
            interface: replace(found, delegated=tuple(p for p in found.delegated if p not in others[interface]))
            for interface, found in facts.items()
        }

    def _follow_addresses(self, name: str, facts: InterfaceFacts | None) -> None:
        """An address is not given up before there is another: a line may come back with the one it had."""
        for family in FAMILIES:
            now = (
                frozenset(a.partition("/")[0] for a in facts.addresses_of(family)) if facts is not None else frozenset()
            )
            if now:
                self._departed |= self._addresses.get((name, family), now) - now
                self._addresses[name, family] = now

    def _noted(self, transitions: Iterable[Transition]) -> list[Transition]:
        """Completes transitions with what is left, and remembers whose connections are stranded."""
        out = []
        for t in transitions:
            if t.event == "uplink_up":
                self._uncut.discard(t.uplink)
            elif t.event == "uplink_down":
                self._uncut.add(t.uplink)
            usable = tuple(name for name, u in self._uplinks.items() if u.usable)
            out.append(replace(t, usable=usable))
        return out

    def _usable(self) -> frozenset[str]:
        return frozenset(name for name, u in self._uplinks.items() if u.usable)

    def _alternative(self, name: str, usable: frozenset[str]) -> bool:
        """Whether connections of this uplink, begun again, would find another. A rule that uses it alone is passed by
        while it is not usable, and what comes next may use any.
        """
        policies = self.settings.policies
        named = any(rule.use == name for rule in self.settings.rules)
        shared = policies if named else [policy for policy in policies if name in policy.members]
        others = usable - {name}
        return any(not others.isdisjoint(policy.members) for policy in shared)

    def _dead(self, views: Mapping[str, View], now: float) -> frozenset[tuple[str, Family]]:
        conntrack = self.settings.conntrack
        if conntrack.tcp != "reset" or not self.settled:
            return frozenset()
        before, dead = now - conntrack.tcp_reset_after, set[tuple[str, Family]]()
        # Not while it is RISING: it answers again, and would carry what has waited.
        silent = [name for name, u in self._uplinks.items() if u.verdict == "DOWN" and u.down_since <= before]
        for family in FAMILIES if silent else ():
            usable = frozenset(name for name, v in views.items() if v.usable and v.path(family) is not None)
            chosen = {name for key, pick in self._picks.items() if key[1] == family for name in pick.chosen}
            dead |= {(name, family) for name in silent if name not in chosen and self._alternative(name, usable)}
        return frozenset(dead)

    def _note_picks(self, picks: Mapping[tuple[str, Family], Pick]) -> None:
        in_use = frozenset(name for p in picks.values() for name in p.chosen)
        for key, now in picks.items():
            before = self._picks.get(key)
            if before is None:
                continue
            if before.last_resort == "best":  # connections were sent into an uplink that may well be dead
                self._uncut |= {name for name in before.chosen - now.chosen if not self._uplinks[name].carries}
            improved = before.tier is not None and now.tier is not None and now.tier < before.tier
            if improved and self.settings.conntrack.on_recover == "flush":
                self._uncut |= before.chosen - in_use
        self._picks = dict(picks)


def _by_interface(uplinks: Iterable[UplinkState]) -> Mapping[str, list[UplinkState]]:
    found: dict[str, list[UplinkState]] = {}
    for uplink in uplinks:
        found.setdefault(uplink.settings.interface, []).append(uplink)
    return found
