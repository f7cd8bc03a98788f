"""A kernel in memory, with the knobs that tests of the loop need. `contract` keeps it like the real one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import groupby
from typing import get_args

from mlbd.core import plan
from mlbd.core.facts import InterfaceFacts, WideRoute
from mlbd.core.plan import Change
from mlbd.core.ports import NO_BUNDLES, ApplyError, Observation
from mlbd.core.state import KernelState, Key, Nft, Object, Route, Rule, Sysctl
from mlbd.kernel import sysctl

SYSCTLS = sysctl.NAMES
GLOBAL_SYSCTLS = ("/ipv4", "/ipv6", "/netfilter")
HASH_DEFAULTS = (("fib_multipath_hash_fields", "7"), ("fib_multipath_hash_policy", "0"))


class MemoryKernel:
    """Implements `Kernel`. Everything is public: tests set it and read it."""

    def __init__(self, interfaces: Iterable[InterfaceFacts] = (), objects: Iterable[Object] = ()) -> None:
        self.facts: dict[str, InterfaceFacts] = {}
        defaults = [Sysctl(scope, name, value) for scope in GLOBAL_SYSCTLS[:2] for name, value in HASH_DEFAULTS]
        defaults += (Sysctl("/netfilter", f"nf_conntrack_tcp_{name}", "0") for name in ("be_liberal", "loose"))
        self.state = KernelState([*defaults, *objects])
        self.cuts: list[tuple[int, int]] = []
        """Mark and mask of every `cut`."""
        self.abandoned: list[str] = []
        self.applied: list[Change] = []
        """Every change made, in order."""
        self.refuse: Callable[[Change], str | None] = lambda change: None
        """Gives the reason why a change is refused, None to let it happen."""
        self.observe_error: OSError | None = None
        """Raised by `observe`."""
        self.lan_prefixes: tuple[str, ...] = ()
        self.foreign_rules: tuple[Rule, ...] = ()
        self.wide_routes: tuple[WideRoute, ...] = ()
        for facts in interfaces:
            self.appear(facts)

    async def observe(
        self,
        interfaces: Collection[str],
        neighbours: Collection[str] = (),
        bundles: Mapping[str, Collection[str]] = NO_BUNDLES,
    ) -> Observation:
        if self.observe_error is not None:
            raise self.observe_error
        facts = {name: self.facts[name] for name in interfaces if name in self.facts}
        shown = (*facts, *GLOBAL_SYSCTLS)
        seen = [o for o in self.state.values() if not isinstance(o, Sysctl) or o.scope in shown]
        return Observation(KernelState(seen), facts, self.lan_prefixes, self.foreign_rules, self.wide_routes)

    async def apply(self, changes: Sequence[Change]) -> Sequence[ApplyError]:
        errors: list[ApplyError] = []
        for is_nft, group in groupby(changes, key=lambda change: isinstance(change.object, get_args(Nft))):
            together = list(group)
            for batch in [together] if is_nft else [[change] for change in together]:
                reason = next(filter(None, map(self._refusal, batch)), None)
                if reason is not None:
                    errors += [ApplyError(change, reason) for change in batch]
                else:
                    self.state = plan.apply(batch, self.state)
                    self.applied += batch
        return errors

    async def abandon(self, stranded: Collection[str], departed: Collection[str] = ()) -> None:
        self.abandoned += [*stranded, *departed]

    async def cut(self, mark: int, mask: int) -> None:
        if not mark or not mask:
            raise ValueError("it could mean all connections")
        self.cuts.append((mark, mask))

    async def begin_anew(self) -> None:
        """Connections are not kept here."""

    def appear(self, facts: InterfaceFacts) -> None:
        """An interface comes, or its facts change."""
        new = facts.name not in self.facts
        self.facts[facts.name] = facts
        if new:
            self.state = KernelState([*self.state.values(), *(Sysctl(facts.name, name, "0") for name in SYSCTLS)])

    def vanish(self, interface: str) -> None:
        """An interface goes, with its sysctls and the routes that use it, silently."""
        del self.facts[interface]
        self.delete(
            key
            for key, o in self.state.items()
            if (isinstance(o, Sysctl) and o.scope == interface)
            or (isinstance(o, Route) and any(hop.device == interface for hop in o.hops))
        )

    def delete(self, keys: Iterable[Key]) -> None:
        """Somebody else deletes objects."""
        gone = set(keys)
        self.state = KernelState(o for key, o in self.state.items() if key not in gone)

    def _refusal(self, change: Change) -> str | None:
        match change.new:
            case Route(hops=hops):
                missing = [hop.device for hop in hops if hop.device not in self.facts]
                if missing:
                    return f"there is no interface {missing[0]}"
            case Sysctl(scope) if scope not in (*self.facts, *GLOBAL_SYSCTLS):
                return f"there is no interface {scope}"
        return self.refuse(change)
