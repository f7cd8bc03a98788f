"""What every `Kernel` does. `test_contract` runs it on the real one and on the one in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings

from mlbd.core.plan import Change, plan
from mlbd.core.ports import ApplyError, Kernel
from mlbd.core.state import (
    AddressSet,
    Chain,
    Counter,
    Helper,
    Hook,
    Hop,
    KernelState,
    MarkSet,
    Nft,
    Object,
    Route,
    Rule,
    Saved,
    SlotMap,
    Statement,
    Sysctl,
)
from mlbd.kernel import sysctl
from tests.kernel.objects import DEVICES, MAIN_FIRST, TABLE_BASE, gateway, states

K1, K2, K3 = DEVICES
TABLE = TABLE_BASE + 1

wish = Chain(
    "wish_1", None, (Statement.of("meta mark set meta mark & 0x00ffffff | 0x01000000"), Statement.of("accept"))
)
wish2 = Chain("wish_2", None, (Statement.of("meta mark set meta mark & 0x00ffffff | 0x02000000"),))

# For every class of object: (what it needs, the object, the same object in another condition or None)
ADDED: dict[str, tuple[list[Object], Object, Object | None]] = {
    "route by a gateway": (
        [], Route(4, TABLE, 0, hops=(Hop(K1, gateway(K1, 4)),)), Route(4, TABLE, 0, hops=(Hop(K2, gateway(K2, 4)),)),
    ),
    "IPv6 route of metric 0": (
        [], Route(6, TABLE, 0, hops=(Hop(K1, "fe80::1"),)), Route(6, TABLE, 0, hops=(Hop(K1, gateway(K1, 6)),)),
    ),
    "route by a device": ([], Route(4, TABLE, 7, hops=(Hop(K1),)), Route(4, TABLE, 7, hops=(Hop(K2, gateway(K2, 4)),))),
    "IPv6 route by a device": ([], Route(6, TABLE, 7, hops=(Hop(K1),)), Route(6, TABLE, 7, hops=(Hop(K2),))),
    "route to a gateway on the link": (
        [], Route(4, TABLE, 7, hops=(Hop(K1, "192.0.2.1", onlink=True),)), Route(4, TABLE, 7, hops=(Hop(K1),)),
    ),
    "multipath route": (
        [],
        Route(4, TABLE, 7, hops=(Hop(K1, "10.9.1.1", 256), Hop(K2, "10.9.2.1", 1), Hop(K3, "10.9.3.1", 34))),
        Route(4, TABLE, 7, hops=(Hop(K3, gateway(K3, 4), 34), Hop(K1, gateway(K1, 4), 33))),
    ),
    "multipath route by devices": (
        [], Route(4, TABLE, 7, hops=(Hop(K1, None, 2), Hop(K2, None, 3))), Route(4, TABLE, 7, hops=(Hop(K2),)),
    ),
    "IPv6 multipath route": (
        [],
        Route(6, TABLE, 7, hops=(Hop(K1, gateway(K1, 6), 256), Hop(K2, "fe80::1", 1), Hop(K3, gateway(K3, 6), 34))),
        Route(6, TABLE, 7, hops=(Hop(K3, gateway(K3, 6)),)),
    ),
    "unreachable route": ([], Route(4, TABLE, 4294967295, "unreachable"), Route(4, TABLE, 4294967295, "blackhole")),
    "IPv6 unreachable route": (
        [], Route(6, TABLE, 4294967295, "unreachable"), Route(6, TABLE, 4294967295, "blackhole"),
    ),
    "route that turns unreachable": (
        [], Route(6, TABLE, 0, hops=(Hop(K1, gateway(K1, 6), 1), Hop(K2, gateway(K2, 6), 1))),
        Route(6, TABLE, 0, "unreachable"),
    ),
    "rule by mark": ([], Rule(4, 12001, table=TABLE, mark=0x01000000, mask=0xFF000000), None),
    "rule by unset mark": ([], Rule(4, 12001, table=TABLE, mark=0, mask=0xFF000000), None),
    "rule by outgoing interface": ([], Rule(6, 11001, table=TABLE, oif=K2), None),
    "rule by absent interface": ([], Rule(6, 11001, table=TABLE, oif="absent0"), None),
    "rule by source": ([], Rule(6, 13000, table=TABLE, source="2001:db8:1::/64"), None),
    "rule that suppresses defaults": ([], Rule(4, 10000, table=254, suppress_prefixlen=0), None),
    "rule for own traffic": ([], Rule(4, 14000, table=TABLE, iif="lo"), None),
    "rule that goes on elsewhere": (
        [Rule(4, 19990, "nop")], Rule(4, 12100, "goto", target=19990), Rule(4, 12100, "goto", target=19999),
    ),
    "rule by destination": ([], Rule(4, 14000, table=TABLE, destination="192.0.2.0/24"), None),
    "IPv6 rule by destination": ([], Rule(6, 14000, table=TABLE, destination="2001:db8::/32", iif="lo"), None),
    "rule by protocol": ([], Rule(6, 14000, table=TABLE, protocol=58), None),
    "rule by ports": ([], Rule(4, 14000, table=TABLE, protocol=6, ports=(80, 443)), None),
    "rule by source ports": ([], Rule(6, 14000, table=TABLE, protocol=17, source_ports=(1, 65534)), None),
    "rule by one port": ([], Rule(4, 14000, table=TABLE, protocol=17, ports=(53, 53), source_ports=(53, 53)), None),
    "rule by everything": (
        [Rule(4, 14000, table=TABLE), Rule(4, 14000, table=TABLE, source="10.0.0.0/8", ports=(22, 22))],
        Rule(
            4, 13999, table=TABLE, mark=1, mask=255, source="10.0.0.0/8", destination="192.0.2.7/32", iif=K1, oif=K2,
            protocol=132, source_ports=(1024, 65534), ports=(7, 7), suppress_prefixlen=0,
        ),
        None,
    ),
    "set of addresses": ([], AddressSet("sticky4_office_1", 4, 300), AddressSet("sticky4_office_1", 4, 86400)),
    "set of addresses that changes its family": ([], AddressSet("sticky", 4, 1), AddressSet("sticky", 6, 1)),
    "use of a set of addresses": (
        [
            AddressSet("sticky4", 4, 60),
            AddressSet("sticky6", 6, 60),
            Chain("wish_0123456789ab"),
            SlotMap("keep", ("", "", "", "wish_0123456789ab")),
            SlotMap("first", ("wish_0123456789ab",)),
        ],
        Chain(
            "sticky",
            Hook("filter", "prerouting", -150),
            (
                Statement.of("update @sticky4 { ip saddr }"),
                Statement.of("delete @sticky6 { ip6 saddr }"),
                Statement.of("ip saddr @sticky4 numgen inc mod 1 offset 3 vmap @keep"),
                Statement.of("ip6 saddr @sticky6 numgen inc mod 1 vmap @first"),
            ),
        ),
        Chain("sticky", Hook("filter", "prerouting", -150), (Statement.of("update @sticky4 { ip saddr }"),)),
    ),
    "counter": ([], Counter("uplink_fiber"), None),
    "helper": ([], Helper("ftp", "tcp"), None),
    "chain": ([], Chain("wish_1"), wish),
    "base chain": (
        [wish],
        Chain("prerouting", Hook("filter", "prerouting", -150), (Statement.of("ct mark != 0 goto wish_1"),)),
        Chain("prerouting", Hook("filter", "prerouting", -149)),
    ),
    "base chain that loses a rule": (
        [], Chain("srcnat", Hook("nat", "postrouting", 100), (Statement.of('oifname "k1" masquerade'),)),
        Chain("srcnat", Hook("nat", "postrouting", 100)),
    ),
    "set of marks": ([], MarkSet("dead", frozenset({1 << 24, 2 << 24})), MarkSet("dead", frozenset({3 << 24}))),
    "empty set of marks": ([], MarkSet("dead"), MarkSet("dead", frozenset({3 << 24}))),
    "map": (
        [wish, wish2], SlotMap("pick", ("wish_1", "", "wish_2", "")), SlotMap("pick", ("wish_1", "wish_2", "", "")),
    ),
    "map that grows": ([wish], SlotMap("pick", ("wish_1",)), SlotMap("pick", ("",) * 240)),
    "map of many slots": ([wish], SlotMap("pick", ("wish_1", "") * 700), SlotMap("pick", ("", "wish_1") * 600)),
    "map that shrinks": ([wish], SlotMap("pick", ("wish_1",) * 240), SlotMap("pick", ("wish_1", ""))),
    "empty map": ([wish], SlotMap("pick", ()), SlotMap("pick", ("", "wish_1"))),
    "saved sysctls": (
        [], Saved("ppp0.7", (("promote_secondaries", "0"), ("src_valid_mark", "1"))), Saved("ppp0.7", (("a", "2"),)),
    ),
    "saved global sysctls": (
        [], Saved("/ipv4", (("fib_multipath_hash_fields", "7"), ("fib_multipath_hash_policy", "0"))), None,
    ),
    "saved IPv6 sysctls": ([], Saved("/ipv6", (("fib_multipath_hash_policy", "0"),)), Saved("/ipv6", ())),
    "saved nothing": ([], Saved("ppp0", ()), Saved("ppp0", (("src_valid_mark", "1"),))),
}  # fmt: skip


class Subject:
    """A kernel and an event loop to ask it in."""

    def __init__(self, kernel: Kernel, runner: asyncio.Runner) -> None:
        self.kernel, self._runner = kernel, runner

    def look(self, interfaces: Sequence[str] = DEVICES) -> KernelState:
        return self._runner.run(self.kernel.observe(interfaces)).state

    def owned(self) -> KernelState:
        """What it has, without the sysctls, which exist always."""
        return KernelState(o for o in self.look().values() if not isinstance(o, Sysctl))

    def apply(self, changes: Iterable[Change]) -> Sequence[ApplyError]:
        return self._runner.run(self.kernel.apply(list(changes)))

    def reach(self, objects: Iterable[Object]) -> None:
        assert list(self.apply(plan(KernelState(objects), self.look()))) == []

    def cut(self, mark: int, mask: int) -> None:
        self._runner.run(self.kernel.cut(mark, mask))


def interruptions(changes: list[Change]) -> list[int]:
    """Numbers of changes after which the daemon can die: never inside a transaction."""
    ends, count = [0], 0
    for is_nft, group in groupby(changes, key=lambda change: isinstance(change.object, get_args(Nft))):
        size = len(list(group))
        ends += [count + size] if is_nft else range(count + 1, count + size + 1)
        count += size
    return ends


HASH = (("policy", "3"), ("fields", "55"))
GLOBAL = [
    *((scope, f"fib_multipath_hash_{name}") for scope in ("/ipv4", "/ipv6") for name in ("fields", "policy")),
    *(("/netfilter", f"nf_conntrack_tcp_{name}") for name in ("be_liberal", "loose")),
]
OF_DEVICES = [(device, name) for device in sorted(DEVICES) for name in sysctl.NAMES]

whole: list[Object] = [
    *MAIN_FIRST,
    Route(4, TABLE, 100, hops=(Hop(K1, gateway(K1, 4)),)),
    Route(4, TABLE, 4294967295, "unreachable"),
    Route(6, TABLE + 126, 100, hops=(Hop(K1, gateway(K1, 6), 3), Hop(K2, gateway(K2, 6), 1))),
    Rule(4, 12001, table=TABLE, mark=0x01000000, mask=0xFF000000),
    Rule(6, 19000, table=TABLE + 126),
    Saved(K1, (("src_valid_mark", "0"),)),
    Sysctl(K1, "src_valid_mark", "1"),
    Counter("uplink_fiber"),
    wish,
    SlotMap("pick", ("wish_1", "wish_1")),
    MarkSet("dead", frozenset({1 << 24})),
    Chain("prerouting", Hook("filter", "prerouting", -150), (Statement.of("numgen inc mod 2 vmap @pick"),)),
]
other: list[Object] = [
    *MAIN_FIRST,
    Route(4, TABLE, 100, hops=(Hop(K2, gateway(K2, 4)),)),
    Route(6, TABLE + 126, 100, hops=(Hop(K2, gateway(K2, 6)),)),
    Rule(6, 19000, table=TABLE + 126),
    Rule(6, 19500, "nop"),
    wish2,
    SlotMap("pick", ("wish_2",)),
    Chain("prerouting", Hook("filter", "prerouting", -150), (Statement.of("numgen inc mod 1 vmap @pick"),)),
]


class KernelContract:
    """Subclasses give the fixture `subject`."""

    @pytest.mark.parametrize("name", ADDED)
    def test_what_is_added_is_observed(self, subject: Subject, name: str) -> None:
        """observe(apply(x)) == x."""
        needed, thing, _ = ADDED[name]
        subject.reach([*needed, thing])
        assert subject.owned() == KernelState([*needed, thing])

    @pytest.mark.parametrize("name", [name for name, (_, _, changed) in ADDED.items() if changed is not None])
    def test_what_is_replaced_is_observed_as_it_is_now(self, subject: Subject, name: str) -> None:
        """A replacement leaves the new object, and nothing of the old, there and back."""
        needed, thing, changed = ADDED[name]
        assert changed is not None
        subject.reach([*needed, thing])
        subject.reach([*needed, changed])
        assert subject.owned() == KernelState([*needed, changed])
        subject.reach([*needed, thing])
        assert subject.owned() == KernelState([*needed, thing])

    @pytest.mark.parametrize("name", ADDED)
    def test_what_is_deleted_is_gone(self, subject: Subject, name: str) -> None:
        """A deletion leaves nothing, and neither does the deletion of all the rest."""
        needed, thing, _ = ADDED[name]
        subject.reach([*needed, thing])
        subject.reach(needed)
        assert subject.owned() == KernelState(needed)
        subject.reach([])
        assert subject.owned() == KernelState()

    @pytest.mark.parametrize("name", ADDED)
    def test_adding_again_and_deleting_again_is_success(self, subject: Subject, name: str) -> None:
        """Changes that are true already are no errors and change nothing."""
        needed, thing, _ = ADDED[name]
        everything = KernelState([*needed, thing])
        adding = plan(everything, KernelState())
        assert list(subject.apply(adding)) == []
        assert list(subject.apply(adding)) == []
        assert subject.owned() == everything
        deleting = plan(KernelState(), everything)
        assert list(subject.apply(deleting)) == []
        assert list(subject.apply(deleting)) == []
        assert subject.owned() == KernelState()

    def test_sysctl_is_set(self, subject: Subject) -> None:
        """A sysctl has the value it was given, and the others keep theirs."""
        before = subject.look()
        wanted = Sysctl(K2, "src_valid_mark", "1")
        subject.reach([wanted])
        assert subject.look() == KernelState([*before.values(), wanted])
        assert before[wanted.key] == Sysctl(K2, "src_valid_mark", "0")

    def test_absent_interface_is_an_error_of_its_change_only(self, subject: Subject) -> None:
        """A route or sysctl of an interface that is not there is reported; the other changes are made."""
        wanted: list[Object] = [
            Route(4, TABLE, 1, hops=(Hop("absent0", "10.9.1.1"),)),
            Route(4, TABLE, 2, hops=(Hop(K1, gateway(K1, 4)),)),
            Sysctl("absent0", "src_valid_mark", "1"),
            Counter("uplink_x"),
        ]
        errors = subject.apply(plan(KernelState(wanted), subject.look()))
        assert {error.change.object for error in errors} == {wanted[0], wanted[2]}
        assert subject.owned() == KernelState([wanted[1], wanted[3]])

    @pytest.mark.parametrize("scope", ["/ipv4", "/ipv6"])
    def test_global_sysctls_are_set(self, subject: Subject, scope: str) -> None:
        """The multipath hash policy and its fields are what they were set to, and the other family's stay."""
        before = subject.look()
        policy, fields = (Sysctl(scope, f"fib_multipath_hash_{name}", value) for name, value in HASH)
        subject.reach([policy, fields])
        assert subject.look() == KernelState([*before.values(), policy, fields])

    def test_sysctls_of_existing_interfaces_and_of_none_are_observed(self, subject: Subject) -> None:
        """`observe` shows those of each interface that exists, and always those of none."""
        shown = [o for o in subject.look([*DEVICES, "absent0", "/ipv4"]).values() if isinstance(o, Sysctl)]
        assert sorted((o.scope, o.name) for o in shown) == sorted((*GLOBAL, *OF_DEVICES))
        assert sorted((o.scope, o.name) for o in subject.look([]).values() if isinstance(o, Sysctl)) == GLOBAL

    @pytest.mark.parametrize(("before", "after"), [([], whole), (whole, other), (other, whole), (whole, [])])
    def test_dying_between_changes_leaves_what_the_next_plan_completes(
        self, subject: Subject, before: list[Object], after: list[Object]
    ) -> None:
        """After any number of changes a new look and a new plan reach the same end."""
        desired = KernelState(after)
        subject.reach(before)
        for count in interruptions(plan(desired, subject.look())):
            subject.reach(before)
            subject.apply(plan(desired, subject.look())[:count])
            subject.reach(after)
            assert plan(desired, subject.look()) == []

    @settings(
        max_examples=60,
        deadline=None,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.differing_executors,
            HealthCheck.too_slow,
        ],
    )
    @given(desired=states)
    def test_any_state_is_reached_from_any_other(self, subject: Subject, desired: KernelState) -> None:
        """Applying plan(desired, observed) gives desired, whatever the examples before left."""
        subject.reach(desired.values())
        observed = subject.look()
        assert plan(desired, observed) == []
        assert KernelState(o for k, o in observed.items() if k in desired or not isinstance(o, Sysctl)) == desired

    @pytest.mark.parametrize(("mark", "mask"), [(0, 0xFF000000), (1 << 24, 0), (0, 0)])
    def test_cutting_without_a_mark_is_refused(self, subject: Subject, mark: int, mask: int) -> None:
        """Nothing can ask for all connections to be cut."""
        with pytest.raises(ValueError, match="could mean all"):
            subject.cut(mark, mask)
