"""Bundles: which members of bonds and TEQL devices are to be in use.

Every member is probed and judged like an uplink (`mlbd.core.uplink`): a port of a bond by ARP requests that leave by
that port, a member of a TEQL device by echo requests to the far end of its link. A member is taken *out* while it is no
good and another one is; if none is, all are in, as the probes may be what is wrong. What out means, and what it takes,
is by kind of bundle:

    active-backup       not the active port: what facts or probes are against
    balance-rr, -xor    released and down: what is silent. The far end may be a bond as well, which sends into every
                        port that is up. So it can't be probed, but is put back on trial, after longer and longer rests
    balance-tlb, -alb   released, but up and probed: what is silent. Carrier is the kernel's: taking a port out or in
                        makes its link come up anew
    TEQL                detached: what facts or probes are against. One that is new is proven first, as the kernel does
                        not survive every member that can't send
    the others          nothing: in broadcast a dead port costs nothing; LACP, or the kernel's ARP monitor, decide
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import ceil, inf
from typing import Literal

from msgspec.structs import replace

from mlbd.core.decision import Standing
from mlbd.core.facts import InterfaceFacts
from mlbd.core.probing import Order
from mlbd.core.settings import Bond, Bundle, GatewaySetting, Settings, Target, Teql, Uplink
from mlbd.core.status import BundleStatus, PortStatus, Transition
from mlbd.core.uplink import UplinkState

REST = 5.0
"""Seconds before the first trial of a port that can't be probed while it is out, at most `hold_max`; doubled by each
that fails, up to that."""

Out = Literal["inactive", "released", "detached"]
_OUT: dict[str, Out] = {
    "active-backup": "inactive",
    "balance-rr": "released",
    "balance-xor": "released",
    "balance-tlb": "released",
    "balance-alb": "released",
}
_BY_TRIAL = ("balance-rr", "balance-xor")


def out_is(bundle: Bundle) -> Out | None:
    """What becomes of a member that is out; None: none ever is."""
    if isinstance(bundle, Teql):
        return "detached"
    return _OUT.get(bundle.mode) if bundle.probe.targets else None


def by_trial(bundle: Bundle) -> bool:
    """Whether a member that is out is down, and not probed."""
    return isinstance(bundle, Bond) and bundle.mode in _BY_TRIAL


def member_name(bundle: str, interface: str) -> str:
    """Of a member among uplinks, whose names have no slash."""
    return f"{bundle}/{interface}"


class Bundles:
    """The mutable owner of everything known about members."""

    def __init__(self, settings: Settings, now: float) -> None:
        self.altered = False
        """Somebody is out, or in again, perhaps without a transition. Who reads it puts it back."""
        self._bundles: dict[str, dict[str, _Member]] = {}
        self._settings: dict[str, Bundle] = {}
        self.load(settings, now)

    # What the outside tells.

    def load(self, settings: Settings, now: float) -> list[Transition]:
        """New settings. A member that keeps its bundle keeps facts, windows and verdict."""
        transitions: list[Transition] = []
        before, self._bundles = self._bundles, {}
        self._settings = {bond.name: bond for bond in settings.bonds}
        self._settings |= {teql.name: teql for teql in settings.teqls}
        for bundle in self._settings.values():
            known = before.get(bundle.name, {})
            members = {}
            for uplink in _as_uplinks(bundle):
                member = known.get(uplink.interface) or _Member(uplink, now)
                if member.state.settings != uplink:
                    transitions += member.state.configure(uplink, now)
                members[uplink.interface] = member
            self._bundles[bundle.name] = members
        return self.noted(transitions, now)

    def see(self, facts: Mapping[str, InterfaceFacts], now: float) -> list[Transition]:
        """A full look."""
        transitions: list[Transition] = []
        for bundle, interface, member in self._each():
            found = facts.get(interface)
            if found is not None and not member.seen:
                member.seen = True
                member.out = self._begins_out(bundle, interface, found, facts)
            member.facts = found
            member.awaited &= found is None or not found.carrier
            if member.watched:
                transitions += member.state.see(found, now)
        return self.noted(transitions, now)

    def see_link(self, name: str, index: int, up: bool, carrier: bool, now: float) -> list[Transition]:
        """The kernel said something about one interface."""
        found = [m for _, interface, m in self._each() if interface == name and m.watched]
        return self.noted((t for m in found for t in m.state.see_link(index, up, carrier, now)), now)

    def noted(self, transitions: Iterable[Transition], now: float) -> list[Transition]:
        """What `states` told, as it is told of members; also decides who is out now."""
        found = list(transitions)
        for name, members in self._bundles.items():
            self._decide(self._settings[name], members, now)
        return [self._told(t) for t in found]

    # What the outside asks.

    def states(self) -> Iterator[UplinkState]:
        """Of all members that are probed, or would be."""
        return (member.state for _, _, member in self._each() if member.watched)

    def state(self, name: str) -> UplinkState | None:
        """By the name of a member; None if there is none."""
        bundle, _, interface = name.partition("/")
        member = self._bundles.get(bundle, {}).get(interface)
        return member.state if member is not None and member.watched else None

    def addressed(self, order: Order) -> Order:
        """With what a port needs to be asked by."""
        bundle, _, interface = order.uplink.partition("/")
        members, settings = list(self._bundles[bundle]), self._settings[bundle]
        facts = self._bundles[bundle][interface].facts
        if facts is None or facts.port is None or isinstance(settings, Teql):
            return order
        hardware = facts.port.hardware
        one, count = (_source(hardware, facts.port.of_bundle),), len(members)
        sources = _spread(hardware, members.index(interface), count) if by_trial(settings) else one
        return replace(order, bundle=bundle, sources=sources)

    def watched(self) -> dict[str, InterfaceFacts]:
        """What is believed of the members that exist."""
        return {name: m.state.facts for _, name, m in self._each() if m.state.facts is not None and m.watched}

    def knows(self, interface: str) -> bool:
        """Whether it is a bundle or a member."""
        return interface in self._bundles or any(interface in members for members in self._bundles.values())

    def works(self, bundle: str) -> bool:
        """Whether anything can get through."""
        return any(member.state.usable for member in self._bundles.get(bundle, {}).values())

    def settled(self) -> bool:
        """First verdicts were reached."""
        return all(state.settled for state in self.states())

    def deadline(self) -> float:
        """When `rested`, or a state, will have something to do although nothing happens."""
        times = [state.deadline for state in self.states()]
        times += [member.rests_until for _, _, member in self._each() if member.resting]
        return min(times, default=inf)

    def standings(self) -> dict[str, Standing]:
        """By names of members."""
        return {
            member_name(bundle.name, name): Standing(member.facts, member.state.usable, member.out)
            for bundle, name, member in self._each()
        }

    def status(self, now: float, offset: float) -> tuple[BundleStatus, ...]:
        """`offset` turns monotonic into Unix time."""
        return tuple(
            BundleStatus(
                name=name,
                kind="teql" if isinstance(self._settings[name], Teql) else "bond",
                mode=getattr(self._settings[name], "mode", ""),
                members=tuple(_status(interface, m, now, offset) for interface, m in members.items()),
            )
            for name, members in self._bundles.items()
        )

    # Inside.

    def _each(self) -> Iterator[tuple[Bundle, str, _Member]]:
        for name, members in self._bundles.items():
            for interface, member in members.items():
                yield self._settings[name], interface, member

    def _begins_out(
        self, bundle: Bundle, interface: str, its: InterfaceFacts, facts: Mapping[str, InterfaceFacts]
    ) -> bool:
        """Whether what is not in it yet has to be proven first, as others of the bundle are at work."""
        if out_is(bundle) in (None, "inactive") or by_trial(bundle) or _is_in(bundle, its):
            return False
        others = (facts.get(name) for name in self._bundles[bundle.name] if name != interface)
        return isinstance(bundle, Teql) or any(_is_in(bundle, other) for other in others)

    def _decide(self, bundle: Bundle, members: Mapping[str, _Member], now: float) -> None:
        """Who is out."""
        what = out_is(bundle)
        usable = [m for m in members.values() if m.state.usable]
        for member in members.values():
            member.proven_once |= member.state.usable
            hopeless = not usable and (what != "detached" or member.proven_once)
            if what is None or member.state.usable or hopeless:
                self._take_in(member, now)
            elif member.out:
                if member.resting and member.rests_until <= now:
                    self._take_in(member, now)
            elif usable and (
                member.state.silent or (what != "released" and member.state.verdict in ("DOWN", "RISING"))
            ):
                member.out = self.altered = True
                if by_trial(bundle):
                    member.rest(member.state.settings.probe.hold_max, now)

    def _take_in(self, member: _Member, now: float) -> None:
        self.altered |= member.out
        member.out = False
        if member.resting:
            member.begin_trial(now)
        elif member.state.usable:
            member.proven(now)

    def _told(self, transition: Transition) -> Transition:
        bundle, _, interface = transition.uplink.partition("/")
        usable = tuple(name for name, m in self._bundles.get(bundle, {}).items() if m.state.usable)
        event: Literal["member_up", "member_down"] = "member_up" if transition.event == "uplink_up" else "member_down"
        return replace(transition, event=event, uplink=interface, bundle=bundle, usable=usable)


class _Member:
    def __init__(self, settings: Uplink, now: float) -> None:
        self.state = UplinkState(settings, 0, now)
        self.facts: InterfaceFacts | None = None
        """As they are, also while it rests."""
        self.seen = False
        self.proven_once = False
        self.out = False
        self.rests_until = -inf
        self.resting = False
        """It is down and not probed."""
        self.awaited = False
        """It was until a moment ago, and has no carrier yet."""
        self._rest = REST
        self._proven_at = inf

    @property
    def watched(self) -> bool:
        return not (self.resting or self.awaited)

    def rest(self, longest: float, now: float) -> None:
        """Down and not probed, for a while."""
        if now - self._proven_at > longest:
            self._rest = REST
        self._proven_at = inf
        self.resting, self.rests_until = True, now + min(longest, self._rest)
        self._rest = min(longest, 2 * self._rest)

    def begin_trial(self, now: float) -> None:
        """Back in, as if nothing were known of it."""
        before = self.state
        self.resting, self.awaited = False, True
        self.state = UplinkState(before.settings, 0, now)
        self.state.transitions, self.state.since = before.transitions, before.since
        self.state.reason = "on trial"

    def proven(self, now: float) -> None:
        self._proven_at = min(self._proven_at, now)


def _as_uplinks(bundle: Bundle) -> Iterator[Uplink]:
    """Members as what can be probed and judged."""
    none = GatewaySetting(source="none")
    if isinstance(bundle, Bond):
        for interface in bundle.members:
            name = member_name(bundle.name, interface)
            yield Uplink(name=name, interface=interface, gateway=none, gateway6=none, probe=bundle.probe, port=True)
        return
    for member in bundle.members:
        yield Uplink(
            name=member_name(bundle.name, member.interface),
            interface=member.interface,
            gateway=GatewaySetting(source="fixed", address=member.peer),
            gateway6=none,
            probe=replace(bundle.probe, targets=(Target(member.peer, member.peer, 4),)),
        )


def _is_in(bundle: Bundle, facts: InterfaceFacts | None) -> bool:
    return facts is not None and facts.port is not None and facts.port.bundle == bundle.name


def _source(hardware: str, of_bond: str) -> str:
    """The address that probes leave with: the port's own, but if that is the bond's, a switch would from now on look
    for the bond at this port. So it is another one then, which nobody else has who keeps to IEEE 802 8.2.
    """
    if hardware != of_bond or not hardware:
        return hardware
    first = int(hardware[:2], 16)
    return f"{first ^ (0x04 if first & 0x02 else 0x02):02x}{hardware[2:]}"


def _spread(hardware: str, position: int, count: int) -> tuple[str, ...]:
    """As many addresses, again nobody else's, as a far end that is a bond too may tell links apart by: of its replies
    to one of them some come by each link, whichever the others take (bond_xmit_hash in drivers/net/bonding).
    """
    if not hardware:
        return ()
    first, second, *rest, last = bytes.fromhex(hardware.replace(":", ""))
    own = (first | 0x02) & ~0x01, second ^ 0x80 ^ position, *rest
    return tuple(bytes((*own, last ^ number)).hex(":") for number in range(count))


def _status(interface: str, member: _Member, now: float, offset: float) -> PortStatus:
    status = member.state.status(now, offset)
    facts = member.facts
    reason = status.reason
    if member.resting:
        reason = f"{reason}; tried again in {max(0, ceil(member.rests_until - now))} s"
    elif not member.state.settings.probe.targets and status.usable:
        reason = "nobody probes it; it has carrier"
    return PortStatus(
        interface=interface,
        active=facts is not None and facts.port is not None and facts.port.active,
        usable=status.usable,
        verdict=status.verdict,
        reason=reason,
        since=status.since,
        carrier=None if facts is None else facts.carrier,
        loss=status.loss,
        rtt=status.rtt,
        jitter=status.jitter,
        transitions=status.transitions,
        targets=status.targets,
    )
