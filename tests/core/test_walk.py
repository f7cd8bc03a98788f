"""A model walk: any sequence of events ends, when the dust has settled, in the state that the last facts demand.

The oracle is independent and naive: it looks at the last facts and at whether probes are answered, and has no memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from mlbd.core.plan import Phase, apply, plan
from mlbd.core.settings import FAMILIES, Family, Policy, Probe, Settings
from mlbd.core.state import KernelState, Route, SlotMap, Sysctl
from tests.core import world as make
from tests.core.world import World, facts, policy, uplink

PROBE = Probe(hold=1.0, hold_max=4.0)
FILES: tuple[Settings, ...] = tuple(
    make.settings(*(uplink(name, probe=PROBE) for name in names), policies=policies)
    for names, policies in [
        ("abc", [policy("a b c")]),
        ("cab", [policy("a b", "c", last_resort="unreachable")]),
        ("ab", [policy("b", "a", name="other", last_resort="main"), policy("a b")]),
    ]
)

Event = tuple[str, str, object]
CONDITIONS = st.fixed_dictionaries({k: st.booleans() for k in ("v4", "v6", "up", "carrier")})
EVENTS = st.one_of(
    st.tuples(st.just("facts"), st.sampled_from("abc"), st.one_of(st.none(), CONDITIONS)),
    st.tuples(st.just("carrier"), st.sampled_from("abc"), st.booleans()),
    st.tuples(st.just("answer"), st.sampled_from("abc"), st.sampled_from([0.01, 0.3, None, "firewall", "no-route"])),
    st.tuples(st.just("load"), st.just(""), st.integers(0, 2)),
    st.tuples(st.just("wait"), st.just(""), st.sampled_from([0.0, 0.05, 0.5, 2.0, 20.0])),
)


@dataclass
class Walk:
    """The world, and a kernel that follows it as the loop would make it."""

    world: World = field(default_factory=lambda: World(FILES[0]))
    kernel: KernelState = field(default_factory=KernelState)

    def step(self, event: Event) -> None:
        what, name, value = event
        world = self.world
        match what:
            case "facts":
                number = "abc".index(name) + 1
                known = None if value is None else facts(name, number, **value)  # type: ignore[arg-type]
                world.see(name, known)
            case "carrier":
                if (old := world.interfaces.get(f"{name}0")) is not None and old.up:
                    world.carrier(name, bool(value))
            case "answer":
                world.answers[name] = value  # type: ignore[assignment]
            case "load":
                world.load(FILES[int(value)])  # type: ignore[call-overload]
            case "wait":
                world.wait(float(value))  # type: ignore[arg-type]
        self.follow()

    def follow(self) -> None:
        """A cycle: look, plan, and all of it done."""
        there = self.world.untouched()
        kept = [o for o in self.kernel.values() if not isinstance(o, Sysctl) or o.key in there]
        seen = KernelState([*there.values(), *kept])
        steps = plan(self.world.desired(seen), seen)
        if not self.world.router.settled:
            steps = [change for change in steps if change.phase is Phase.PREPARE]
        self.kernel = apply(steps, seen)
        for code in self.world.router.to_cut():
            self.world.router.cut(code)


def demanded(world: World) -> tuple[set[str], dict[tuple[str, Family], set[str]]]:
    """Who is usable, and who carries each policy's families (the last resort aside), from what is the case now."""
    ways: dict[str, set[Family]] = {}
    for u in world.router.settings.uplinks:
        known = world.interfaces.get(u.interface)
        if known is not None and known.up and known.carrier:
            ways[u.name] = {f for f in FAMILIES if known.addresses_of(f) and known.gateway(f) is not None}
    usable = {name for name, families in ways.items() if families and world.answers.get(name, 0.01) in (0.01, 0.3)}

    def carriers(p: Policy, family: Family) -> set[str]:
        return next((s for tier in p.tiers if (s := {n for n in tier if n in usable and family in ways[n]})), set())

    return usable, {
        (p.name, family): carriers(p, family) for p in world.router.settings.policies for family in FAMILIES
    }


@given(st.lists(EVENTS, max_size=25), st.data())
@settings(max_examples=150)
def test_any_walk_ends_where_the_last_facts_lead(events: list[Event], data: st.DataObject) -> None:
    """Usable uplinks, maps, policies' tables and uplinks' own tables follow from the present alone."""
    walk = Walk()
    for event in events:
        walk.step(event)
    for name in "abc":  # refused probes are no evidence, so what they leave behind does depend on the past
        if walk.world.answers.get(name) == "firewall":
            walk.step(("answer", name, data.draw(st.sampled_from([0.01, None]), label=name)))
    walk.step(("wait", "", 60.0))
    world, kernel = walk.world, walk.kernel
    usable, carriers = demanded(world)
    assert world.usable() == usable
    ids = world.router.identities
    for (name, family), members in carriers.items():
        if not members:
            continue
        slots = kernel["map", f"pick{family}_{name}"]
        assert isinstance(slots, SlotMap)
        assert set(slots.slots) == {f"wish_{ids.uplinks[m]}_{m}" for m in members}
        route = kernel["route", family, 20000 + ids.policies[name], "default", 1]
        assert isinstance(route, Route)
        assert {hop.device for hop in route.hops} == {f"{m}0" for m in members}
    for u in world.router.settings.uplinks:
        known = world.interfaces.get(u.interface)
        for family in FAMILIES:
            way = known is not None and known.up and known.gateway(family) is not None
            number = ids.uplinks[u.name]
            assert (("route", family, 20000 + number, "default", 1) in kernel) == way
            assert (("route", family, 20128 + number, "default", 1) in kernel) == way
    assert {key[2] for key in kernel if key[0] == "route"} <= {
        n + 20000 + more for n in ids.uplinks.values() for more in (0, 128)
    } | {20000 + code for code in ids.policies.values()}
