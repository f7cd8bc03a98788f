"""Which uplinks carry what now: the frozen value between evidence and kernel state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct, field

from mlbd.core.facts import Gateway, InterfaceFacts
from mlbd.core.reach import Gateways
from mlbd.core.settings import FAMILIES, Family, Policy, Settings
from mlbd.core.shares import Weights, slots


class View(Struct, frozen=True):
    """What deciding needs to know of an uplink."""

    usable: bool
    facts: InterfaceFacts | None
    paths: Gateways
    """Next hops of IPv4 and IPv6 that facts allow to send through; None: no path."""
    routes: Gateways
    """Next hops that the uplink's own tables lead to: like `paths`, but also without carrier."""
    families: frozenset[Family]
    """Families in which it has had a gateway since the start."""
    down_since: float
    """When it ceased to be usable; -inf if it never was."""
    prefixes: tuple[str, ...] = ()
    """IPv6 prefixes that were its own when it last had an address."""
    degraded: bool = False
    carries: bool = False
    """It could carry traffic: it is usable, or would be if it were not drained."""
    down: bool = False
    """Its verdict is DOWN; else it may work, although it is perhaps not proven yet."""
    peer: bool = False
    """It is the other router of a pair."""
    addresses: tuple[str, ...] = ()
    """IPv4 addresses that it has, or had last."""

    def path(self, family: Family) -> Gateway | None:
        return self.paths[0 if family == 4 else 1]

    def route(self, family: Family) -> Gateway | None:
        return self.routes[0 if family == 4 else 1]


class Standing(Struct, frozen=True):
    """What deciding needs to know of a member of a bundle."""

    facts: InterfaceFacts | None
    usable: bool = True
    out: bool = False
    """It is not to be used, and another one is."""


class Pick(Struct, frozen=True):
    """What one policy does with new connections of one family."""

    weights: Weights = ()
    """Of the tier in use, all its members; slots are laid out by these."""
    chosen: frozenset[str] = frozenset()
    """The members in use."""
    tier: int | None = None
    """Index of the tier in use; None: no member is usable."""
    last_resort: Literal["best", "unreachable", "blackhole", "main"] | None = None
    """Set exactly when `tier` is None."""

    def slots(self) -> tuple[str, ...]:
        """Uplink names, or nothing where no uplink is chosen."""
        return slots(self.weights, self.chosen) if self.chosen else ()


class Decision(Struct, frozen=True):
    views: Mapping[str, View]
    picks: Mapping[tuple[str, Family], Pick]
    dead: frozenset[tuple[str, Family]]
    """Uplinks whose established TCP connections, of a family, are reset when they send."""
    settled: bool
    lan_prefixes: tuple[str, ...] = ()
    """As of `mlbd.core.ports.Observation`."""
    standings: Mapping[str, Standing] = field(default_factory=dict)
    """Of members of bundles, by `mlbd.core.bundles.member_name`."""

    def carries(self, uplink: str, family: Family) -> bool:
        """Whether a rule that names the uplink may send new connections by it."""
        view = self.views[uplink]
        return self.settled and view.usable and view.path(family) is not None


MAIN = Pick(last_resort="main")


def decide(settings: Settings, views: Mapping[str, View], settled: bool) -> dict[tuple[str, Family], Pick]:
    """Before start-up has settled, everything is `main`'s."""
    return {
        (policy.name, family): decide_one(policy, family, views, settled)
        for policy in settings.policies
        for family in FAMILIES
    }


def decide_one(policy: Policy, family: Family, views: Mapping[str, View], settled: bool) -> Pick:
    return pick(policy, family, views) if settled else MAIN


def pick(policy: Policy, family: Family, views: Mapping[str, View]) -> Pick:
    """The first tier with a member that is usable and not degraded, else with a usable one; else the last resort."""
    weights = dict(policy.weights)
    for with_degraded in (False, True):
        for index, tier in enumerate(policy.tiers):
            usable = frozenset(
                name
                for name in tier
                if views[name].usable
                and views[name].path(family) is not None
                and (with_degraded or not views[name].degraded)
            )
            if usable:
                return Pick(tuple((name, weights[name]) for name in tier), usable, index)
    if not any(family in views[name].families for name in policy.members):
        return MAIN  # a family that no member ever had is not ours to refuse
    if policy.last_resort != "best":
        return Pick(last_resort=policy.last_resort)
    with_path = [name for name in policy.members if views[name].path(family) is not None]
    if not with_path:
        return MAIN
    # One that works, although it is drained, is better than none, and a line of our own than a peer that is no better
    # off; the first of equals.
    best = max(with_path, key=lambda name: (views[name].carries, not views[name].peer, views[name].down_since))
    return Pick(((best, 1),), frozenset({best}), None, "best")
