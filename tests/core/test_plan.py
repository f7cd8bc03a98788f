"""The difference between two kernel states, and the laws it obeys, for states that the core really desires."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from mlbd.core.desired import released
from mlbd.core.layout import Layout
from mlbd.core.plan import Change, Phase, apply, plan
from mlbd.core.routing import BACKSTOP_METRIC
from mlbd.core.settings import Conntrack, Daemon
from mlbd.core.state import (
    Chain,
    Counter,
    Helper,
    KernelState,
    MarkSet,
    Object,
    Route,
    Rule,
    Saved,
    SlotMap,
    Statement,
    Sysctl,
)  # fmt: skip
from tests.core import world as make
from tests.core.world import World, facts, policy, uplink

NAMES = "abc"


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Up to three uplinks in random conditions, after start-up."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
    tiers = [" ".join(names)] if draw(st.booleans()) else names
    world = World(
        make.settings(
            *(uplink(name, weight=draw(st.integers(1, 256))) for name in names),
            policies=[
                policy(*tiers, method=draw(st.sampled_from(["random", "hash-source"])),
                       last_resort=draw(st.sampled_from(["best", "unreachable", "blackhole", "main"]))),
                policy(names[0], name="other_-1"),
            ],
            conntrack=Conntrack(helpers=draw(st.sampled_from([(), ("ftp",), ("ftp", "sip")]))),
            daemon=Daemon(fwmark_mask=draw(st.sampled_from([0xFF000000, 0xFF00, 0xFF]))),
        )
    )  # fmt: skip
    for name in names:
        number = NAMES.index(name) + 1
        world.answers[name] = draw(st.sampled_from([0.01, None]))
        if draw(st.booleans()):
            flags = draw(st.tuples(*[st.booleans()] * 4))
            v4, v6, up, carrier = flags
            world.interfaces[f"{name}0"] = facts(name, number, v4=v4, v6=v6, up=up, carrier=carrier)
        elif draw(st.integers(0, 4)) == 0:
            del world.interfaces[f"{name}0"]
    world.look()
    world.wait(draw(st.sampled_from([0.0, 6.0])))
    return world


def any_object() -> st.SearchStrategy[Object]:
    """Also what nobody desires."""
    names = st.sampled_from(["wish_1_a", "restore", "pick4_balanced", "zzz"])
    return st.one_of(
        st.builds(Chain, names, st.none(), st.sampled_from([(), (Statement.of("accept"),), (Statement(""),)])),
        st.builds(SlotMap, names, st.sampled_from([("",), ("wish_1_a", "zzz")])),
        st.builds(MarkSet, st.just("dead"), st.frozensets(st.integers(1, 3))),
        st.builds(Counter, names),
        st.builds(Helper, st.just("ftp"), st.sampled_from(["tcp", "udp"])),
        st.builds(Saved, st.sampled_from(["a0", "x0"]), st.just((("src_valid_mark", "0"),))),
        st.builds(Sysctl, st.sampled_from(["a0", "x0"]), st.just("src_valid_mark"), st.sampled_from("01")),
        st.builds(
            Route, st.sampled_from([4, 6]), st.sampled_from([20001, 20127]), st.sampled_from([1, BACKSTOP_METRIC]),
            st.sampled_from(["unreachable", "blackhole"]), foreign=st.booleans(),
        ),
        st.builds(Rule, st.sampled_from([4, 6]), st.sampled_from([10000, 12001]), table=st.sampled_from([254, 20001])),
    )  # fmt: skip


def states() -> st.SearchStrategy[KernelState]:
    return st.lists(any_object(), max_size=12).map(KernelState)


def but_sysctls(state: KernelState, desired: KernelState) -> KernelState:
    """Without the sysctls that are not desired: they are the administrator's."""
    return KernelState(o for key, o in state.items() if key in desired or not isinstance(o, Sysctl))


# The laws.


@given(states(), states())
def test_plan_leads_to_what_is_desired(desired: KernelState, observed: KernelState) -> None:
    """Whatever there is, applying the plan gives what is desired, and then nothing is left to plan."""
    after = apply(plan(desired, observed), observed)
    assert but_sysctls(after, desired) == desired
    assert plan(desired, after) == []


@given(worlds(), worlds())
@settings(max_examples=40)
def test_one_desired_state_leads_to_another(one: World, two: World) -> None:
    """From any state of affairs to any other, also with other settings."""
    observed = one.kernel()
    desired = two.desired(observed)
    assert but_sysctls(apply(plan(desired, observed), observed), desired) == desired


@given(worlds())
@settings(max_examples=40)
def test_second_cycle_has_nothing_to_do(world: World) -> None:
    """What is desired does not depend on what was observed, once it was carried out."""
    kernel = world.kernel()
    assert plan(world.desired(kernel), kernel) == []


@given(worlds())
@settings(max_examples=40)
def test_release_leaves_nothing(world: World) -> None:
    """After it only sysctls are there, as they were."""
    kernel = world.kernel()
    assert apply(plan(released(kernel), kernel), kernel) == world.untouched()


def place(change: Change, leaving: set[str]) -> int:
    """Where a change belongs: the documented order, written down a second time."""
    match change.action, change.object:
        case _, Sysctl(scope) if scope in leaving:
            return 8
        case "delete", Saved():
            return 9
        case (("add" | "replace"), Saved()):
            return 0
        case _, Sysctl():
            return 1
        case "add", Route():
            return 2
        case "add", Rule():
            return 3
        case "replace", Route():
            return 5
        case "delete", Rule():
            return 6
        case "delete", Route():
            return 7
    return 4


@given(states(), states())
def test_order_of_changes(desired: KernelState, observed: KernelState) -> None:
    """Originals saved, sysctls, tables, rules to them, nftables at once, tables replaced, rules gone, tables gone, and
    sysctls of what is ours no more as they were.
    """
    changes = plan(desired, observed)
    leaving = {c.object.scope for c in changes if isinstance(c.object, Saved) and c.new is None}
    places = [place(change, leaving) for change in changes]
    assert places == sorted(places)


@given(states(), states())
def test_phases(desired: KernelState, observed: KernelState) -> None:
    """PREPARE adds or sets sysctls, SWITCH replaces, RETIRE deletes."""
    for change in plan(desired, observed):
        expected = {"add": Phase.PREPARE, "replace": Phase.SWITCH, "delete": Phase.RETIRE}[change.action]
        assert change.phase == (Phase.PREPARE if isinstance(change.object, Sysctl) else expected)
        assert change.kind == change.object.key[0]


def test_foreign_route_in_our_place_is_replaced() -> None:
    """A route of another program under our key is not ours, whatever it says."""
    ours = Route(4, 20001, 1, "unreachable")
    theirs = Route(4, 20001, 1, "unreachable", foreign=True)
    assert plan(KernelState([ours]), KernelState([theirs])) == [Change(theirs, ours)]


def test_changed_rule_is_added_before_the_old_one_goes() -> None:
    """The kernel can't replace rules, and a moment without one is a moment too many."""
    old, new = Rule(4, 12001, table=20001, mark=1, mask=255), Rule(4, 12001, table=20001, mark=2, mask=255)
    assert plan(KernelState([new]), KernelState([old])) == [Change(None, new), Change(old, None)]


# What every desired state must be like.


def statements(state: KernelState) -> Sequence[str]:
    return [s.text for item in state.values() if isinstance(item, Chain) for s in item.statements]


@given(worlds())
@settings(max_examples=60)
def test_references_resolve(world: World) -> None:
    """Chains, maps, sets, counters and helpers that are named exist; interfaces that are named are configured."""
    state = world.kernel()
    names = {kind: {o.name for o in state.values() if isinstance(o, kind)}
             for kind in (Chain, SlotMap, MarkSet, Counter, Helper)}  # fmt: skip
    for text in statements(state):
        assert set(re.findall(r"\b(?:goto|jump) (\S+)", text)) <= names[Chain]
        assert set(re.findall(r"@(?!th,)(\S+)", text)) <= names[SlotMap] | names[MarkSet]
        assert set(re.findall(r'counter name "([^"]+)"', text)) <= names[Counter]
        assert set(re.findall(r'ct helper set "([^"]+)"', text)) <= names[Helper]
        if "ifname" in text:
            assert set(re.findall(r'"([^"]+)"', text)) <= {"lo", *(u.interface for u in world.router.settings.uplinks)}
    for item in state.values():
        if isinstance(item, SlotMap):
            assert set(item.slots) - {""} <= names[Chain]


@given(worlds())
@settings(max_examples=60)
def test_pick_maps_name_usable_uplinks(world: World) -> None:
    """New connections go to chains of usable uplinks; without any, to the last resort's, all of them."""
    state, decision = world.kernel(), world.decide()
    for (name, family), chosen in decision.picks.items():
        slots = state["map", f"pick{family}_{name}"]
        assert isinstance(slots, SlotMap)
        members = {re.sub(r"^wish_\d+_", "", chain) for chain in slots.slots}
        usable = {n for n, view in decision.views.items() if view.usable and view.path(family) is not None}
        tiers = next(p for p in world.router.settings.policies if p.name == name).tiers
        first = next((usable & set(tier) for tier in tiers if usable & set(tier)), None)
        if first is not None:
            assert members == (first if decision.settled else {""})
        else:
            assert members <= ({*chosen.chosen} or {"", name})
            assert len(members) == 1


@given(worlds())
@settings(max_examples=60)
def test_rules_lead_to_tables_that_never_fall_through(world: World) -> None:
    """Behind every rule by mark or by source of an uplink there is a table with a backstop, in the same family."""
    state = world.kernel()
    layout = Layout.of(world.router.settings.daemon)
    ids = set(world.router.identities.uplinks.values())
    own = {layout.table(number) for number in ids}
    rules = [o for o in state.values() if isinstance(o, Rule)]
    assert {(r.family, r.mark) for r in rules if r.table in own and r.mark is not None} == {
        (f, layout.mark(n)) for f in (4, 6) for n in ids
    }
    for rule in rules:
        if rule.table in own:
            assert isinstance(state.get(("route", rule.family, rule.table, "default", BACKSTOP_METRIC)), Route)
            assert rule.mark is not None or rule.source is not None


@given(worlds())
@settings(max_examples=60)
def test_marks_stay_under_the_mask(world: World) -> None:
    """Statements change no bit of others: what is cleared and what is set lies under the mask."""
    layout = Layout.of(world.router.settings.daemon)
    for text in statements(world.kernel()):
        for keep, put in re.findall(r"mark set \w+ mark (?:& (0x\w+) )?\| (0x\w+)", text):
            assert int(put, 16) & ~layout.mask == 0
            assert keep in ("", f"{layout.others_mask:#010x}")
    for rule in world.kernel().values():
        if isinstance(rule, Rule) and rule.mark is not None:
            assert (rule.mask, rule.mark & ~layout.code_mask) == (layout.code_mask, 0)


@given(worlds())
@settings(max_examples=60)
def test_restoring_needs_no_lookup(world: World) -> None:
    """An established connection's way is found by comparisons: a set or map can miss while it is replaced."""
    state = world.kernel()
    wishes = [o for o in state.values() if isinstance(o, Chain) and o.name.startswith("wish_")]
    for chain in [state["chain", "restore"], state["chain", "output"], *wishes]:
        assert isinstance(chain, Chain)
        assert not [s.text for s in chain.statements if "@" in s.text or "vmap" in s.text]
    first = state["chain", "prerouting"]
    assert isinstance(first, Chain)
    assert first.statements[0].text.endswith("!= 0 goto restore")
