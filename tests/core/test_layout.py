"""Codes, marks, tables and priorities, and which name has which code."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlbd.core.layout import NOBODY, Identities, Layout, adopted, assign, chain_name
from mlbd.core.settings import Daemon, Policy, Settings
from mlbd.core.state import Chain, Counter, KernelState
from tests.core.world import policy, settings, uplink

FIRST, SECOND, THIRD = 0xFF000000, 0x0000FF00, 0x000000FF


@pytest.mark.parametrize(
    ("mask", "one", "last", "codes", "flag", "others"),
    [
        (FIRST, 0x01000000, 0x7F000000, 0x7F000000, 0x80000000, 0x00FFFFFF),
        (SECOND, 0x00000100, 0x00007F00, 0x00007F00, 0x00008000, 0xFFFF00FF),
        (THIRD, 0x00000001, 0x0000007F, 0x0000007F, 0x00000080, 0xFFFFFF00),
    ],
)
def test_marks(mask: int, one: int, last: int, codes: int, flag: int, others: int) -> None:
    """A byte of the mark holds a code in seven bits and the flag in the eighth; the other bits are others'."""
    layout = Layout.of(Daemon(fwmark_mask=mask))
    got = (layout.mark(1), layout.mark(127), layout.code_mask, layout.flag, layout.others_mask)
    assert got == (one, last, codes, flag, others)


@pytest.mark.parametrize("mask", [FIRST, 0x0FF00000, SECOND, 0x00000FF0, THIRD])
def test_every_mark_is_under_the_mask(mask: int) -> None:
    """No code touches the flag or a foreign bit, and no two codes are alike."""
    layout = Layout.of(Daemon(fwmark_mask=mask))
    marks = [layout.mark(code) for code in range(1, 128)]
    assert len(set(marks)) == 127
    assert {m & ~layout.code_mask for m in marks} == {0}
    assert (layout.code_mask | layout.flag, layout.code_mask & layout.flag) == (mask, 0)
    assert (mask | layout.others_mask, mask & layout.others_mask) == (0xFFFFFFFF, 0)


def test_tables_and_priorities() -> None:
    """As laid out: the numbers an administrator will see in `ip rule` and `ip route`."""
    layout = Layout.of(Daemon())
    assert (layout.table(1), layout.table(127), layout.probe_table(1)) == (20001, 20127, 20129)
    assert (layout.main_first, layout.bound_priority(1), layout.mark_priority(127), layout.source_priority(100)) == (
        10000, 11001, 12127, 13100,
    )  # fmt: skip
    assert layout.own_priority == 19000


def test_no_two_tables_are_one() -> None:
    """Uplinks' tables, their probe tables and policies' tables are all different."""
    layout = Layout.of(Daemon(table_base=500))
    tables = [layout.table(c) for c in range(1, 128)] + [layout.probe_table(i) for i in range(1, 101)]
    assert len(set(tables)) == len(tables)


# Who has which code.


def test_first_start() -> None:
    """Uplinks from 1, policies from 127 downwards, in the order of the file."""
    given_settings = settings(uplink("a"), uplink("b"), policies=[policy("a", name="p"), policy("b", name="q")])
    assert assign(given_settings, NOBODY) == Identities({"a": 1, "b": 2}, {"p": 127, "q": 126})


@pytest.mark.parametrize(
    ("ids", "before", "expected"),
    [
        ({"a": None, "b": None}, {"b": 1, "a": 2}, {"a": 2, "b": 1}),
        ({"a": 7, "b": None}, {}, {"a": 7, "b": 1}),
        ({"a": None, "b": 1}, {}, {"a": 2, "b": 1}),
        ({"a": None, "b": 1}, {"a": 1}, {"a": 2, "b": 1}),
        ({"a": 5, "b": None}, {"a": 1, "b": 5}, {"a": 5, "b": 2}),
        ({"a": None, "b": None}, {"a": 1, "gone": 2}, {"a": 1, "b": 3}),
        ({"a": None, "b": None}, {"a": 1, "twin": 1}, {"a": 1, "b": 2}),
    ],
)
def test_uplinks_codes(ids: dict[str, int | None], before: dict[str, int], expected: dict[str, int]) -> None:
    """The configured id, else the one it had, else the first that nobody has or had."""
    given_settings = settings(*(uplink(name, number=number) for name, number in ids.items()))
    assert dict(assign(given_settings, Identities(before, {})).uplinks) == expected


def test_full_house_reuses_the_codes_of_the_gone() -> None:
    """A hundred uplinks have a hundred ids, even if some of them belonged to others before."""
    before = Identities({f"old{i}": i for i in range(1, 101)}, {})
    given_settings = settings(*(uplink(f"n{i}") for i in range(100)))
    assert sorted(assign(given_settings, before).uplinks.values()) == list(range(1, 101))


names = st.text("abz019_-", min_size=1, max_size=15)


@given(
    st.dictionaries(names, st.one_of(st.none(), st.integers(1, 100)), min_size=1, max_size=10),
    st.dictionaries(names, st.integers(1, 100), max_size=10),
    st.dictionaries(names, st.integers(102, 127), max_size=5),
    st.sets(names, min_size=1, max_size=5),
)
def test_codes_are_different_and_stay(
    ids: dict[str, int | None], old: dict[str, int], old_policies: dict[str, int], policies: set[str]
) -> None:
    """Whatever the kernel remembers: no two names share a code, and a second look gives the same codes."""
    numbers = [number for number in ids.values() if number is not None]
    if len(set(numbers)) < len(numbers):
        return  # refused by the configuration
    uplinks = [uplink(name, number=number) for name, number in ids.items()]
    made: Settings = settings(*uplinks, policies=[policy(uplinks[0].name, name=name) for name in policies])
    got = assign(made, Identities(old, old_policies))
    assert len(set(got.uplinks.values())) == len(ids)
    assert len(set(got.policies.values())) == len(policies)
    assert all(got.uplinks[name] == number for name, number in ids.items() if number is not None)
    assert assign(made, got) == got


# What the kernel remembers.


@given(st.dictionaries(names, st.integers(1, 100), max_size=5), st.dictionaries(names, st.integers(102, 127)))
def test_adopted_reads_what_chain_name_writes(uplinks: dict[str, int], policies: dict[str, int]) -> None:
    """Names with dashes and underscores, also at their ends, and digits included."""
    chains = [Chain(chain_name(role, c, n)) for n, c in uplinks.items() for role in ("wish", "fact", "arrive")]
    chains += [Chain(chain_name("wish", code, name)) for name, code in policies.items()]
    assert adopted(KernelState(chains)) == Identities(uplinks, policies)


@pytest.mark.parametrize(
    "name",
    ["wish_", "wish_1", "wish_1_", "wish_x_a", "wish_0_a", "wish_101_a", "wish_128_a", "wish_٣_a", "wishful_1_a"],
)
def test_adopted_ignores_what_is_not_ours(name: str) -> None:
    """A half-made or foreign table is no reason to fail."""
    state = KernelState([Chain(name), Chain("prerouting"), Counter("wish_1_a")])
    assert adopted(state) == NOBODY


def test_policies_that_share_a_code_are_told_apart() -> None:
    """A kernel left with two chains of one code does not make two policies one."""
    twins = settings(uplink("a"), policies=[Policy(name=n, tiers=(("a",),), weights=(("a", 1),)) for n in "pq"])
    assert sorted(assign(twins, Identities({}, {"p": 127, "q": 127})).policies.values()) == [126, 127]
