"""A router in virtual time: what the network does is set, what the core makes of it is read.

It is a shell in miniature: it wakes when the core's deadlines or a reply's arrival say so, and counts its wake-ups,
so that a core that asks to be woken for nothing is noticed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from math import inf

from msgspec.structs import replace

from mlbd.core.decision import Decision
from mlbd.core.desired import OF_ADDRESSED, OF_NEIGHBOURS, desired
from mlbd.core.facts import Gateway, InterfaceFacts
from mlbd.core.layout import NOBODY, Identities
from mlbd.core.peers import OF_CONNTRACK, OF_LAN
from mlbd.core.plan import apply, plan
from mlbd.core.probing import Failure, FailureKind, Order, Outcome, Reply
from mlbd.core.router import Router
from mlbd.core.settings import Conntrack, Daemon, Method, Policy, Probe, Settings, Target, Uplink
from mlbd.core.state import KernelState, Sysctl
from mlbd.core.status import Transition, UplinkStatus

GATEWAY = Target("gateway")
FAR = Target("192.0.2.1", "192.0.2.1", 4)
FAR2 = Target("192.0.2.2", "192.0.2.2", 4)

CONNTRACK, DAEMON = Conntrack(), Daemon()

BEGIN = 1000.0
SYSCTLS = (*OF_ADDRESSED, *OF_NEIGHBOURS, *OF_LAN)
"""Of an interface."""
HASH_DEFAULTS = (("fib_multipath_hash_fields", "7"), ("fib_multipath_hash_policy", "0"))
"""As Linux has them."""
RTT = 0.01

Answer = float | FailureKind | None
"""What becomes of a probe: the reply's round trip, a failure, or silence."""


def uplink(
    name: str, *, probe: Probe | None = None, carrier_delay: float = 0.0, number: int | None = None, weight: int = 1
) -> Uplink:
    """On the interface `<name>0`."""
    return Uplink(
        name=name, interface=f"{name}0", probe=probe or Probe(), carrier_delay=carrier_delay, id=number, weight=weight
    )  # fmt: skip


def policy(*tiers: str, name: str = "balanced", method: Method = "random", last_resort: str = "best") -> Policy:
    """Each tier as names with blanks between them; equal weights."""
    split = tuple(tuple(tier.split()) for tier in tiers)
    weights = tuple((member, 1) for tier in split for member in tier)
    return Policy(name=name, method=method, tiers=split, weights=weights, last_resort=last_resort)  # type: ignore[arg-type]


def settings(
    *uplinks: Uplink, policies: Iterable[Policy] = (), conntrack: Conntrack = CONNTRACK, daemon: Daemon = DAEMON
) -> Settings:
    """All uplinks in one tier unless policies are given."""
    implicit = (policy(" ".join(u.name for u in uplinks)),)
    return Settings(uplinks=uplinks, policies=tuple(policies) or implicit, conntrack=conntrack, daemon=daemon)


def facts(
    name: str, number: int, *, v4: bool = True, v6: bool = False, up: bool = True, carrier: bool = True
) -> InterfaceFacts:
    """Of the interface `<name>0` with index `number`: 10.<number>.0.2/24 by 10.<number>.0.1, and the like in IPv6."""
    addresses = [f"10.{number}.0.2/24"] * v4 + [f"2001:db8:{number}::2/64"] * v6
    return InterfaceFacts(
        name=f"{name}0",
        index=number,
        up=up,
        carrier=carrier and up,
        addresses=tuple(sorted(addresses)),
        gateway4=Gateway(f"10.{number}.0.1") if v4 else None,
        gateway6=Gateway(f"fe80::{number}") if v6 else None,
    )


class World:
    """`answers` says what becomes of probes, by uplink, or by uplink and target's index; at first all are answered."""

    def __init__(self, settings: Settings, *, adopted: Identities = NOBODY, look: bool = True) -> None:
        self.now = BEGIN
        self.router = Router(settings, adopted, self.now)
        self.interfaces = {u.interface: facts(u.name, i) for i, u in enumerate(settings.uplinks, 1)} if look else {}
        self.answers: dict[str | tuple[str, int], Answer | Callable[[Order], Answer]] = {}
        self.transitions: list[Transition] = []
        self.orders: list[tuple[float, Order]] = []
        self.wakes = 0
        self._arriving: list[tuple[float, int, Outcome]] = []
        if look:
            self.look()

    # What happens.

    def look(self) -> list[Transition]:
        return self._noted(self.router.see(self.interfaces, self.now))

    def see(self, name: str, new: InterfaceFacts | None) -> list[Transition]:
        """Full facts of one uplink's interface; None: it is gone."""
        interface = f"{name}0"
        self.interfaces.pop(interface, None)
        if new is not None:
            self.interfaces[interface] = new
        return self.look()

    def carrier(self, name: str, carrier: bool) -> list[Transition]:
        """A message of the kernel."""
        old = self.interfaces[f"{name}0"]
        self.interfaces[old.name] = replace(old, carrier=carrier)
        return self._noted(self.router.see_link(old.name, old.index, old.up, carrier, self.now))

    def load(self, settings: Settings) -> list[Transition]:
        """A reload, and the look that follows it."""
        return self._noted(self.router.load(settings, self.now)) + self.look()

    def hear(self, outcome: Outcome) -> list[Transition]:
        return self._noted(self.router.hear(outcome, self.now))

    def wait(self, seconds: float) -> list[Transition]:
        """Lets time pass; the transitions in it."""
        end, before = self.now + seconds, len(self.transitions)
        while True:
            deadline = self.router.deadline()
            at = max(self.now, min(deadline, self._arriving[0][0] if self._arriving else inf))
            if at > end:
                break
            idle = at == self.now and deadline <= self.now
            self.now = at
            self.wakes += 1
            while self._arriving and self._arriving[0][0] <= at:
                self._noted(self.router.hear(heapq.heappop(self._arriving)[2], at))
            self._noted(self.router.advance(at))
            orders, more = self.router.orders(at)
            self._noted(more)
            for order in orders:
                self._send(order)
            assert not (idle and self.router.deadline() <= at), "woken at once, again and again, for nothing"
        self.now = end
        self.router.decide(end)
        return self.transitions[before:]

    def until(self, condition: Callable[[], bool], limit: float = 60.0) -> float:
        """Lets time pass in steps of 10 ms until the condition holds; how long that took."""
        began = self.now
        while not condition():
            assert self.now - began < limit, "it never came to pass"
            self.wait(0.01)
        return self.now - began

    # What is to be seen.

    def status(self, name: str) -> UplinkStatus:
        return next(u for u in self.router.uplink_status(self.now, 0.0) if u.name == name)

    def usable(self) -> set[str]:
        return {u.name for u in self.router.uplink_status(self.now, 0.0) if u.usable}

    def verdicts(self) -> dict[str, str]:
        return {u.name: u.verdict for u in self.router.uplink_status(self.now, 0.0)}

    def sent(self, name: str) -> list[float]:
        """When the rounds of one uplink were sent."""
        return [at for at, order in self.orders if order.uplink == name and order.target == 0]

    def decide(self) -> Decision:
        return self.router.decide(self.now)

    def untouched(self) -> KernelState:
        """A kernel that nobody has touched: only sysctls."""
        of_interfaces = [Sysctl(name, sysctl, "0") for name in self.interfaces for sysctl in SYSCTLS]
        of_none = [Sysctl(scope, *pair) for scope in ("/ipv4", "/ipv6") for pair in HASH_DEFAULTS]
        return KernelState([*of_interfaces, *of_none, *(Sysctl("/netfilter", name, "0") for name in OF_CONNTRACK)])

    def kernel(self) -> KernelState:
        """What the kernel holds when all that is desired now was done to an untouched one."""
        before = self.untouched()
        return apply(plan(self.desired(before), before), before)

    def desired(self, observed: KernelState) -> KernelState:
        return desired(self.router.settings, self.router.identities, self.decide(), observed)

    # Inside.

    def _send(self, order: Order) -> None:
        self.orders.append((self.now, order))
        answer = self.answers.get((order.uplink, order.target), self.answers.get(order.uplink, RTT))
        if callable(answer):
            answer = answer(order)
        if isinstance(answer, str):
            failure = Failure(order.uplink, order.target, order.round, answer, f"{answer}, says the test")
            self._noted(self.router.hear(failure, self.now))
        elif answer is not None:
            reply = Reply(order.uplink, order.target, order.round, answer)
            heapq.heappush(self._arriving, (self.now + answer, len(self.orders), reply))

    def _noted(self, transitions: list[Transition]) -> list[Transition]:
        self.transitions += transitions
        return transitions


def one(probe: Probe | None = None, carrier_delay: float = 0.0) -> World:
    """A single uplink "a", just looked at, not probed."""
    return World(settings(uplink("a", probe=probe, carrier_delay=carrier_delay)))


def proven(probe: Probe | None = None, carrier_delay: float = 0.0) -> World:
    """The same, UP for five seconds."""
    world = one(probe, carrier_delay)
    world.wait(5.0)
    assert world.verdicts() == {"a": "UP"}
    return world


A, B, C = uplink("a"), uplink("b"), uplink("c")


def three(*tiers: str, conntrack: Conntrack = CONNTRACK, last_resort: str = "best") -> World:
    """Uplinks a, b and c with ids 1, 2 and 3, all proven."""
    policies = [policy(*tiers, last_resort=last_resort)] if tiers else []
    world = World(settings(A, B, C, policies=policies, conntrack=conntrack))
    world.wait(5.0)
    assert (world.usable(), world.router.settled) == ({"a", "b", "c"}, True)
    return world


def kill(world: World, *names: str) -> None:
    world.answers |= dict.fromkeys(names)
    world.wait(5.0)


def heal(world: World, *names: str) -> None:
    world.answers |= dict.fromkeys(names, RTT)
    world.wait(5.0)
