"""Other programs' objects: outside our ranges they are left alone, inside they are retired."""

from __future__ import annotations

import asyncio
import re
import subprocess
import time
from collections.abc import Iterator
from typing import Literal

import pytest
from msgspec.structs import replace

from mlbd.core.plan import Change, plan
from mlbd.core.state import (
    AddressSet,
    Chain,
    Counter,
    Hook,
    Hop,
    KernelState,
    MarkSet,
    Object,
    Route,
    Rule,
    Saved,
    SlotMap,
    Statement,
    Sysctl,
)
from mlbd.kernel import LinuxKernel
from mlbd.kernel.elements import Elements
from mlbd.kernel.netlink import Requests
from tests.kernel.contract import K1, K2, Subject, other, whole
from tests.kernel.namespace import run, veth_pairs
from tests.kernel.objects import MAIN_FIRST, PROTOCOL, TABLE_BASE

pre = Chain("prerouting", Hook("filter", "prerouting", -150), (Statement.of("ct mark 1 accept"),))


@pytest.fixture
def subject() -> Iterator[Subject]:
    with veth_pairs(), asyncio.Runner() as runner:
        kernel = LinuxKernel(PROTOCOL, TABLE_BASE)
        yield Subject(kernel, runner)
        kernel.close()


def nft(text: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)


def everything() -> str:
    """What ip and nft show of routing and nftables, without counts."""
    shown = run("ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all", "nft -s list ruleset")
    return re.sub(r"expires \d+sec", "", shown)


def test_release_leaves_everything_as_it_was(subject: Subject) -> None:
    """Rules, routes and tables of others, some of them in the midst of ours, survive all that mlbd does."""
    run(
        f"ip rule add priority 12001 fwmark 0x01000000/0xff000000 lookup {TABLE_BASE + 1}",
        f"ip rule add priority 12001 lookup {TABLE_BASE + 1} fwmark 0x01000000/0xff000000 ipproto tcp",
        "ip -6 rule add priority 19000 lookup 20127 protocol 99",
        "ip route add default via 10.9.2.1 metric 100",
        "ip route add default via 10.9.3.1 table 19999",
        "ip -6 route add default via 2001:db8:2::9 table 20512",
    )
    nft(
        """
        table inet mlbd2 {
          set dead { type mark; elements = { 1 }; }
          chain prerouting { accept; }
        }
        table ip mlbd {
          chain prerouting { type filter hook prerouting priority -150; policy accept; }
        }
        """
    )
    before = everything()
    subject.reach(whole)
    assert everything() != before
    subject.reach(other)
    subject.reach([])
    assert everything() == before


def test_routes_of_others_in_our_tables_are_retired(subject: Subject) -> None:
    """A foreign route in our range is observed as such, replaced where we want another, else deleted; so are twins."""
    table = TABLE_BASE + 1
    ours: list[Object] = [
        *MAIN_FIRST,
        Route(4, table, 100, hops=(Hop(K1, "10.9.1.1"),)),
        Route(6, table, 100, hops=(Hop(K1, "2001:db8:1::1"),)),
    ]
    subject.reach(MAIN_FIRST)
    run(
        f"ip route add default via 10.9.2.1 table {table} metric 100",
        f"ip route add prohibit default table {table}",
        f"ip route append default via 10.9.3.1 table {table} metric 100",
        f"ip route add throw 192.0.2.0/24 table {table + 1}",
        f"ip -6 route add default dev {K1} table {table} metric 100",
        f"ip -6 route append default dev {K2} table {table} metric 100",
        f"ip -6 route add prohibit default table {table}",
        f"ip route add 192.0.2.0/24 via 10.9.1.1 src 10.9.1.2 table {table} protocol {PROTOCOL}",
    )
    seen = [o for o in subject.owned().values() if isinstance(o, Route)]
    assert len(seen) == 6
    assert all(route.foreign for route in seen)
    subject.reach(ours)
    assert subject.owned() == KernelState(ours)


def test_rules_with_our_protocol_that_we_would_not_make_are_retired_exactly(subject: Subject) -> None:
    """A rule with more selectors than ours is another rule; it goes without taking ours or a foreign one along."""
    ours = [*MAIN_FIRST, Rule(4, 12001, table=TABLE_BASE + 1, mark=1 << 24, mask=0xFF000000)]
    subject.reach(ours)
    selectors = f"priority 12001 fwmark 0x01000000/0xff000000 lookup {TABLE_BASE + 1} protocol {PROTOCOL}"
    run(
        f"ip rule add {selectors} ipproto tcp dport 80",
        f"ip rule add {selectors} tos 0x10",
        f"ip rule add not {selectors} to 192.0.2.0/24",
        f"ip rule add priority 12002 prohibit protocol {PROTOCOL}",
        f"ip rule add priority 12002 lookup {TABLE_BASE + 1}",
    )
    assert len(subject.owned()) == len(ours) + 4
    subject.reach(ours)
    assert subject.owned() == KernelState(ours)
    assert f"12002:\tfrom all lookup {TABLE_BASE + 1}" in run("ip rule")


def test_a_rule_that_would_take_another_along_is_not_deleted(subject: Subject) -> None:
    """Where the kernel would delete an earlier rule with more selectors, the deletion is refused, not done wrongly."""
    narrow = Rule(4, 12001, table=TABLE_BASE + 1, mark=1 << 24, mask=0xFF000000)
    wide = Rule(4, 12001, table=TABLE_BASE + 1)
    subject.reach([narrow, wide])
    errors = subject.apply(plan(KernelState([narrow]), subject.look()))
    assert [error.change.old for error in errors] == [wide]
    assert subject.owned() == KernelState([narrow, wide])


def test_things_in_our_nftables_table_that_we_never_make_are_retired(subject: Subject) -> None:
    """Sets, maps, objects, chains and rules of others inside `inet mlbd` go; what we want stays or is set right."""
    ours: list[Object] = [pre, MarkSet("dead", frozenset({1})), Counter("c"), SlotMap("pick", ())]
    subject.reach([pre, Counter("c")])
    nft(
        """
        table inet mlbd {
          set dead { type ipv4_addr; flags interval; elements = { 192.0.2.0/24 }; }
          set blocked { type ipv4_addr . inet_service; timeout 1h; }
          map pick { type mark : counter; elements = { 1 : "c" }; }
          counter theirs { }
          quota q { 100 mbytes }
          limit slow { rate 10/second }
          ct timeout patient { protocol tcp; l3proto ip; policy = { established: 100 }; }
          ct expectation later { protocol tcp; dport 1; timeout 1m; size 1; l3proto ip; }
          ct helper files { type "ftp" protocol tcp; }
          chain input { type filter hook input priority 0; policy drop; }
          chain theirs { ip daddr @dead counter name "theirs" accept; }
          chain prerouting { jump theirs; }
        }
        """
    )
    assert Chain("set blocked") in subject.owned().values()
    subject.reach(ours)
    assert subject.owned() == KernelState(ours)


@pytest.mark.parametrize(
    "drift",
    [
        "flush map inet mlbd pick",
        "delete element inet mlbd pick { 1 }",
        "add element inet mlbd pick { 7 : drop }",
        "add element inet mlbd pick { 4294967295 : accept }",
        "delete element inet mlbd pick { 0 }; add element inet mlbd pick { 0 : jump wish_1 }",
        "flush chain inet mlbd prerouting",
        "insert rule inet mlbd prerouting accept",
        'add rule inet mlbd prerouting accept comment "theirs"',
        "delete chain inet mlbd prerouting; "
        "add chain inet mlbd prerouting { type filter hook prerouting priority -149; policy accept; }",
        "add chain inet mlbd prerouting { policy drop; }",
        "flush set inet mlbd dead",
        "delete table inet mlbd",
    ],
)
def test_what_others_change_in_ours_is_put_right(subject: Subject, drift: str) -> None:
    """Whatever is done to our table, the next look shows it and the next plan mends it."""
    subject.reach(whole)
    nft(drift.replace("; add", "\nadd") + "\n")
    changed = subject.look()
    assert plan(KernelState(whole), changed) != []
    subject.reach(whole)
    assert plan(KernelState(whole), subject.look()) == []


@pytest.mark.parametrize("wanted", [[], other])
@pytest.mark.parametrize(
    "drift", ["delete table inet mlbd", "flush chain inet mlbd prerouting; delete map inet mlbd pick"]
)
def test_drift_between_look_and_apply(subject: Subject, wanted: list[Object], drift: str) -> None:
    """A plan that is out of date when applied still deletes and replaces what it can, or says so for the next one."""
    subject.reach(whole)
    changes = plan(KernelState(wanted), subject.look())
    nft(drift.replace("; ", "\n") + "\n")
    assert list(subject.apply(changes)) == []
    subject.reach(wanted)
    assert subject.owned() == KernelState(o for o in wanted if not isinstance(o, Sysctl))


@pytest.mark.parametrize(
    "drift",
    ["flush map inet mlbd pick", "delete element inet mlbd pick { 0 }", "add element inet mlbd pick { 2 : drop }"],
)
def test_drift_in_a_map_between_look_and_apply(subject: Subject, drift: str) -> None:
    """Where an element change does not fit what is there any more, it is made for what is there."""
    chains = [Chain("a"), Chain("b")]
    subject.reach([*chains, SlotMap("pick", ("a", "b"))])
    changes = plan(KernelState([*chains, SlotMap("pick", ("b", "b", "a"))]), subject.look())
    nft(drift + "\n")
    assert list(subject.apply(changes)) == []
    assert subject.owned() == KernelState([*chains, SlotMap("pick", ("b", "b", "a"))])


def test_elements_are_changed_without_libnftables(subject: Subject) -> None:
    """What netlink itself writes is what nft reads: other slots, more slots, none, and marks."""
    a, b = Chain("a"), Chain("b")
    states: list[tuple[SlotMap, MarkSet]] = [
        (SlotMap("pick", ("a", "")), MarkSet("dead", frozenset({1 << 24}))),
        (SlotMap("pick", ("b", "a", "", "b")), MarkSet("dead", frozenset({1 << 31, 7}))),
        (SlotMap("pick", ()), MarkSet("dead")),
    ]
    subject.reach([a, b, *states[0]])
    elements = Elements()
    for before, after in zip(states, states[1:] + states[:1], strict=True):
        elements.change([Change(before[0], after[0]), Change(before[1], after[1])])
        assert subject.owned() == KernelState([a, b, *after])
    elements.close()


def test_a_route_that_is_gone_already_takes_no_other_along(subject: Subject) -> None:
    """IPv4 takes a metric of 0 for "any": a second deletion must not find the table's backstop."""
    table = TABLE_BASE + 1
    for gone, left in (
        (Route(4, table, 0, hops=(Hop(K1, "10.9.1.1"),)), Route(4, table, 4294967295, "unreachable")),
        (Route(4, table, 0, "unreachable"), Route(4, table, 7, "blackhole")),
        (Route(4, table, 0, hops=(Hop(K1, "10.9.1.1"),)), Route(4, table, 7, hops=(Hop(K2, "10.9.2.1"),))),
    ):
        subject.reach([left])
        assert list(subject.apply([Change(gone, None)])) == []
        assert subject.owned() == KernelState([left])


def test_a_goto_elsewhere_makes_way_for_the_wanted_one(subject: Subject) -> None:
    """The kernel says "exists" whatever the goto's target is; the wanted one is there before the other one goes."""
    old, new = Rule(4, 100, "goto", target=200), Rule(4, 100, "goto", target=300)
    beside = Rule(4, 100, "goto", target=200, iif="lo")
    subject.reach([old, beside])
    assert list(subject.apply([Change(None, new), Change(old, None)])) == []
    assert subject.owned() == KernelState([new, beside])


@pytest.mark.parametrize("action", ["lookup", "goto"])
@pytest.mark.parametrize(("source", "destination"), [("10.9.1.0/24", None), (None, "10.8.0.0/16")])
def test_a_rule_takes_the_place_of_narrower_ones(
    subject: Subject,
    monkeypatch: pytest.MonkeyPatch,
    action: Literal["lookup", "goto"],
    source: str | None,
    destination: str | None,
) -> None:
    """The kernel says "exists" where a rule matches less; a packet of both finds its way after every single step."""
    table, past = TABLE_BASE + 1, TABLE_BASE + 2
    objects: list[Object] = [
        Route(4, table, 0, hops=(Hop(K1, "10.9.1.1"),)), Route(4, past, 0, hops=(Hop(K2, "10.9.2.1"),)),
        Rule(4, 100, "goto", target=300), Rule(4, 200, table=past), Rule(4, 300, "nop"), Rule(4, 301, table=table),
    ]  # fmt: skip
    if action == "lookup":
        objects = [o for o in objects if not isinstance(o, Rule) or o.priority == 200] + [Rule(4, 100, table=table)]
    wide = next(o for o in objects if isinstance(o, Rule) and o.priority == 100)
    narrow = replace(wide, source=source, destination=destination)
    without = [o for o in objects if o != wide]
    subject.reach([*without, narrow])
    found: list[str] = []
    request = Requests.request

    def watched(self: Requests, kind: int, flags: int, payload: bytes) -> None:
        request(self, kind, flags, payload)
        found.append(run("ip route get 10.8.0.1 from 10.9.1.2"))

    monkeypatch.setattr(Requests, "request", watched)
    subject.reach(objects)
    subject.reach([*without, narrow])
    assert len(found) >= 4
    assert {f"dev {K1}" in each for each in found} == {True}
    assert subject.owned() == KernelState([*without, narrow])


def test_a_map_can_not_lead_to_a_chain_that_is_not_there(subject: Subject) -> None:
    """An element change that the kernel refuses leaves the map as it was, and is reported with a reason."""
    before: list[Object] = [Chain("a"), SlotMap("pick", ("a", "a"))]
    subject.reach(before)
    change = Change(before[1], SlotMap("pick", ("a", "nowhere")))
    assert [error.change for error in subject.apply([change])] == [change]
    assert subject.owned() == KernelState(before)


def test_failover_does_not_wait_for_big_sets_of_others(subject: Subject) -> None:
    """Beside a blocklist of 20,000 networks a map is switched, and the table read, as without one."""
    chains = [Chain("a"), Chain("b")]
    for part in range(10):  # a user's socket does not hold all of it at once
        networks = ", ".join(f"{part}.{i // 250}.{i % 250}.0/25" for i in range(2_000))
        text = f"set bad_{part} {{ type ipv4_addr; flags interval; elements = {{ {networks} }}; }}"
        nft(f"table inet blocklist {{\n {text}\n}}\n")
    subject.reach([*chains, SlotMap("pick", ("a",) * 240)])
    durations = []
    for slots in (("b", "a") * 120, ("a", "b") * 120, ("b",) * 240):
        changes = plan(KernelState([*chains, SlotMap("pick", slots)]), subject.look())
        begin = time.perf_counter()
        assert list(subject.apply(changes)) == []
        subject.owned()
        durations.append(time.perf_counter() - begin)
    assert min(durations) < 0.1


def test_a_refused_transaction_changes_nothing_and_says_why(subject: Subject) -> None:
    """One bad object in a transaction: an error for each of its changes, nftables' reason, and nothing is half done."""
    good, bad = Counter("good"), Chain("bad", None, (Statement.of("goto nowhere"),))
    errors = subject.apply(plan(KernelState([good, bad]), subject.look()))
    assert {error.change.object for error in errors} == {good, bad}
    assert {error.reason.partition(" (in: ")[0] for error in errors} == {
        "Could not process rule: No such file or directory"
    }
    assert subject.owned() == KernelState()


@pytest.mark.parametrize(
    "bad",
    [
        Chain("x", None, (Statement.of("accept; flush ruleset"),)),
        Chain("x", None, (Statement.of('iifname "a\nflush ruleset" accept'),)),
        Chain("x } ; flush ruleset"),
        Counter('a"b'),
        SlotMap("pick", ('a"',)),
        Rule(4, 12000, table=1, mark=1),
        Rule(4, 12000, table=1, other="not"),
        Rule(4, 12000, table=1, protocol=0),
        Rule(4, 12000, table=1, protocol=6, ports=(1024, 65535)),
        AddressSet("saved", 4, 1),
        Saved("/ipv5", ()),
        Sysctl("/ipv4", "src_valid_mark", "1"),
        Route(6, TABLE_BASE + 1, 1024, "unreachable"),
    ],
)
def test_what_can_not_be_written_is_an_error(subject: Subject, bad: Object) -> None:
    """Text that could end a string or a command, and objects that could not be read back, never reach the kernel."""
    (error,) = subject.apply(plan(KernelState([bad]), KernelState()))
    assert error.change.new == bad
    assert error.reason
    assert subject.owned() == KernelState()
