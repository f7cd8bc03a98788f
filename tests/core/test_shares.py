"""From weights to slots."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlbd.core.shares import SLOTS, Weights, shares, slots

NAMES = [f"u{i}" for i in range(30)]


@st.composite
def some_weights(draw: st.DrawFn) -> Weights:
    """Of 1 to 30 members, each 1..256."""
    numbers = draw(st.lists(st.integers(1, 256), min_size=1, max_size=30))
    return tuple(zip(NAMES, numbers, strict=False))


@st.composite
def some_usable(draw: st.DrawFn) -> tuple[Weights, frozenset[str]]:
    """Weights, and at least one usable member."""
    weights = draw(some_weights())
    return weights, frozenset(draw(st.sets(st.sampled_from([n for n, _ in weights]), min_size=1)))


def all_of(weights: Weights) -> frozenset[str]:
    return frozenset(name for name, _ in weights)


def due(weights: Weights, name: str) -> float:
    """Slots that a member should have, as a real number."""
    return SLOTS * dict(weights)[name] / sum(weight for _, weight in weights)


@given(some_weights())
def test_shares_are_right_to_a_slot(weights: Weights) -> None:
    """Every member is within one slot of what its weight is due, unless members that are due less than one need it."""
    given_slots = slots(weights, all_of(weights))
    assert len(given_slots) == SLOTS
    lent = sum(max(0.0, 1.0 - due(weights, name)) for name, _ in weights)
    for name, _ in weights:
        assert -1.0 - lent < given_slots.count(name) - due(weights, name) < 1.0


@given(some_usable())
def test_slots_are_of_usable_members_only(case: tuple[Weights, frozenset[str]]) -> None:
    """Every slot leads to a usable member, and every usable member has one."""
    weights, usable = case
    assert len(slots(weights, usable)) == SLOTS
    assert set(slots(weights, usable)) == usable


@given(some_usable())
def test_slots_of_healthy_members_stay(case: tuple[Weights, frozenset[str]]) -> None:
    """Who fails gives slots away, nobody else loses one."""
    weights, usable = case
    before, after = slots(weights, all_of(weights)), slots(weights, usable)
    moved = {was for was, now in zip(before, after, strict=True) if was != now}
    assert moved == all_of(weights) - usable


@given(some_usable())
def test_shares_of_the_rest_keep_their_proportions(case: tuple[Weights, frozenset[str]]) -> None:
    """What the failed had is divided by weight, right to two slots."""
    weights, usable = case
    rest = tuple((n, w) for n, w in weights if n in usable)
    after = slots(weights, usable)
    lent = sum(max(0.0, 1.0 - due(weights, name)) for name, _ in weights)
    for name, _ in rest:
        assert -2.0 - lent < after.count(name) - due(rest, name) < 2.0


def test_equal_members_take_turns() -> None:
    """With equal weights nobody comes twice before everybody came once."""
    for count in (1, 2, 3, 4, 5, 6, 8, 10, 12):
        weights = tuple((name, 7) for name in NAMES[:count])
        given_slots = slots(weights, all_of(weights))
        assert {given_slots[i : i + count] for i in range(0, SLOTS, count)} == {tuple(NAMES[:count])}


def gaps(given_slots: tuple[str, ...], name: str) -> list[int]:
    """Between the occurrences of a name, going round."""
    places = [i for i, slot in enumerate(given_slots) if slot == name]
    return [(b - a - 1) % SLOTS + 1 for a, b in zip(places, places[1:] + places[:1], strict=True)]


def test_small_shares_are_spread_evenly() -> None:
    """3:1 is a-a-b-a, over and over, not runs of a."""
    given_slots = slots((("a", 3), ("b", 1)), frozenset("ab"))
    assert given_slots == ("a", "a", "b", "a") * 60


@given(some_weights())
def test_nobody_waits_much_longer_than_its_share(weights: Weights) -> None:
    """The longest way between two slots of a member is less than twice the average one."""
    given_slots = slots(weights, all_of(weights))
    for name, _ in weights:
        assert max(gaps(given_slots, name)) <= 2 * SLOTS / given_slots.count(name) + 1


def test_slots_do_not_depend_on_the_order_of_failures() -> None:
    """A restart finds what the daemon before it left: slots follow from weights and who is usable."""
    weights = (("a", 2), ("b", 1), ("c", 1))
    slots.cache_clear()
    direct = slots(weights, frozenset("b"))
    slots.cache_clear()
    for usable in ("abc", "ab", "b"):
        last = slots(weights, frozenset(usable))
    assert (direct, set(last)) == (last, {"b"})


def test_shares_as_ratios() -> None:
    """Of what was chosen; nothing where nothing is."""
    assert shares(slots((("a", 3), ("b", 1)), frozenset("ab"))) == {"a": 0.75, "b": 0.25}
    assert shares(()) == {}
