"""What is really the case, kept beside the lab and without asking mlbd, and what follows from it by the documentation.

Naive on purpose: no memory but of what was done, no time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tests.chaos.files import FILES, File, Policy, name_of

FAMILIES = (4, 6)
UPSTREAM, GATEWAY, NEIGHBOURS = 1, 2, 3
"""What has fallen silent: the way behind the gateway, the gateway as well, its ARP as well."""


@dataclass
class Line:
    """One uplink."""

    number: int
    exists: bool = True
    up: bool = True
    """Not taken down on the router."""
    plugged: bool = True
    leases: dict[int, bool] = field(default_factory=lambda: {4: True, 6: True})
    """Per family: address and default route are there."""
    silent: int = 0
    pings: bool = True
    loss: float = 0.0
    drained: bool = False
    id: int | None = None
    """By which mlbd calls it; None: it is free to choose one."""
    met: set[int] = field(default_factory=set)
    """Families in which this daemon has seen a gateway."""
    glimpsed: set[int] = field(default_factory=set)
    """Families in which it may have."""

    @property
    def name(self) -> str:
        return name_of(self.number)

    @property
    def intact(self) -> bool:
        """Of the link nothing is missing."""
        return self.exists and self.up and self.plugged and all(self.leases.values())

    @property
    def healthy(self) -> bool:
        return self.intact and not self.silent and self.pings and not self.loss

    def has_route(self, family: int) -> bool:
        """The kernel would take a route to its gateway."""
        return self.exists and self.up and self.leases[family]

    def has_path(self, family: int) -> bool:
        return self.has_route(family) and self.plugged

    def passes(self, family: int) -> bool:
        """Packets reach the internet, at least some."""
        return self.has_path(family) and not self.silent

    def answers(self, target: str) -> bool:
        families = [f for f in FAMILIES if self.has_path(f)]
        if target == "arp:gateway":
            return bool(families) and self.silent < NEIGHBOURS
        if target == "gateway":
            return bool(families) and self.silent < GATEWAY and self.pings
        family = 6 if target.startswith("2001:") else 4
        return self.passes(family) and (self.pings or target.startswith("tcp:"))


@dataclass(frozen=True, slots=True)
class Demand:
    """What new connections are to do."""

    kind: Literal["all", "one", "unreachable", "blackhole", "main", "any"]
    """`all`: go by all of these uplinks; `one`: by one of them, always the same; `main`: where main's default route
    leads, which is the one uplink here if it is any; `any`: the model does not know.
    """
    uplinks: frozenset[int] = frozenset()
    some: bool = False
    """By some of them will do."""


@dataclass
class Truth:
    file: File
    lines: dict[int, Line]
    running: bool = True
    detour: int | None = None
    """By which uplink another default route, with a lower metric, leads."""
    torn: bool = False
    """Its table was deleted, and perhaps not repaired yet."""
    forgot: bool = False
    """It was deleted while no daemon ran, and what sysctls were before with it."""

    @classmethod
    def begin(cls, uplinks: int) -> Truth:
        return cls(FILES["plain"], {n: Line(n) for n in range(1, uplinks + 1)})

    @property
    def configured(self) -> list[Line]:
        return [self.lines[number] for number in self.file.uplinks]

    # What is demanded of uplinks and policies.

    def works(self, line: Line) -> bool:
        """Facts and probes let it carry traffic."""
        if not any(line.has_path(family) for family in FAMILIES):
            return False
        return sum(line.answers(target) for target in self.file.targets) >= self.file.quorum

    def usable(self, number: int) -> bool:
        line = self.lines[number]
        return self.works(line) and not line.drained

    def carries(self, number: int, family: int) -> bool:
        return self.usable(number) and self.lines[number].has_path(family)

    def tier(self, policy: Policy, family: int) -> frozenset[int]:
        """The usable members of the tier in use; none: the last resort."""
        tiers = (frozenset(n for n in tier if self.carries(n, family)) for tier in policy.tiers)
        return next((tier for tier in tiers if tier), frozenset())

    def of_policy(self, policy: Policy, family: int) -> Demand:
        carriers = self.tier(policy, family)
        if carriers:
            return Demand("all", carriers)
        members = [self.lines[n] for n in policy.members]
        if not any(family in line.met for line in members):  # then it is not mlbd's to refuse
            glimpsed = any(family in line.glimpsed for line in members)
            return Demand("any") if glimpsed and policy.resort != "main" else self.of_main(family)
        if policy.resort == "unreachable":
            return Demand("unreachable")
        if policy.resort == "blackhole":
            return Demand("blackhole")
        ways = [line for line in members if line.has_path(family)]
        if policy.resort == "main" or not ways:
            return self.of_main(family)
        working = [line for line in ways if self.works(line)]
        return Demand("one", frozenset(line.number for line in working or ways))

    def of_main(self, family: int) -> Demand:
        """By the default route of lowest metric; in IPv4 of those whose links have carrier, as mlbd asks Linux for."""
        if len(self.file.uplinks) < len(self.lines):
            return Demand("any")  # perhaps by one that is not configured, whose dead routes the kernel may well use
        order = ([] if self.detour is None else [self.detour]) + sorted(self.lines)
        usual = Line.has_path if family == 4 else Line.has_route
        found = next((n for n in order if usual(self.lines[n], family)), None)
        return Demand("main", frozenset() if found is None else frozenset([found]))

    def of_connection(self, place: str, family: int, port: int) -> Demand:
        """By the first rule that holds."""
        policies = {policy.name: policy for policy in self.file.policies}
        for rule in self.file.rules:
            if not rule.holds(place, port):
                continue
            if rule.use == "main":
                return self.of_main(family)
            if rule.use in policies:
                found = self.of_policy(policies[rule.use], family)
                sticks = rule.sticky and found.kind == "all" and not (place == "router" and self.file.own == "route")
                return Demand("all", found.uplinks, some=True) if sticks else found
            number = int(rule.use.removeprefix("wan"))
            if self.carries(number, family):
                return Demand("all", frozenset([number]))
        return self.of_policy(self.file.policies[0], family)

    def reset(self, family: int) -> set[int]:
        """Uplinks whose established TCP is reset: they are dead, and what begins again finds another."""
        if self.file.tcp != "reset":
            return set()
        return {line.number for line in self.configured if not self.works(line) and self._alternative(line, family)}

    def _alternative(self, line: Line, family: int) -> bool:
        named = any(rule.use == line.name for rule in self.file.rules)
        shared = [p for p in self.file.policies if named or line.number in p.members]
        return any(self.carries(n, family) for p in shared for n in p.members if n != line.number)

    # What events do beyond one line.

    def loaded(self, file: File) -> None:
        """The daemon has read it, or will when it is started."""
        self.file = file
        if self.running:
            self.forget_removed()

    def lost_table(self) -> None:
        self.torn = True
        if not self.running:
            self.forgot = True
            for line in self.lines.values():
                line.id = None

    def stopped(self) -> None:
        self.running = False
        if self.torn:
            self.lost_table()

    def started(self) -> None:
        self.running = True
        self.forget_removed()
        for line in self.lines.values():
            line.met.clear()  # it may remember them, by what the one before it left

    def forget_removed(self) -> None:
        for line in self.lines.values():
            if line.number not in self.file.uplinks:
                line.drained, line.id = False, None
                line.met.clear()
                line.glimpsed.clear()

    def seen(self, *, surely: bool) -> None:
        """A running daemon has seen what there is, or may have."""
        for line in self.configured if self.running else []:
            found = {family for family in FAMILIES if line.has_route(family)}
            line.glimpsed |= found
            if surely:
                line.met |= found
