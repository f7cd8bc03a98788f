"""Long rules, long lists of rules, and sets that packets fill: they work, and looking at them stays cheap."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator

import pytest

from mlbd.core.plan import Change, plan
from mlbd.core.state import (
    AddressSet,
    Chain,
    Counter,
    Hook,
    KernelState,
    Object,
    Rule,
    SlotMap,
    Statement,
)
from mlbd.kernel import LinuxKernel
from mlbd.kernel.netlink import Requests
from mlbd.kernel.nftlook import TableReader
from tests.kernel.contract import Subject
from tests.kernel.namespace import run, veth_pairs
from tests.kernel.objects import PROTOCOL, TABLE_BASE

MANY = 2000
CLASSES = ("class_0123456789ab", "class_ba9876543210")


@pytest.fixture
def subject() -> Iterator[Subject]:
    with veth_pairs(), asyncio.Runner() as runner:
        kernel = LinuxKernel(PROTOCOL, TABLE_BASE)
        yield Subject(kernel, runner)
        kernel.close()


def map_of(key: str, elements: list[str]) -> Statement:
    verdicts = (f"goto {CLASSES[0]}", f"jump {CLASSES[1]}")
    return Statement.of(f"{key} vmap {{ {', '.join(f'{e} : {verdicts[i % 2]}' for i, e in enumerate(elements))} }}")


LONG = {
    "IPv4 ranges": ("ip saddr", [f"10.{i // 250}.{i % 250}.0-10.{i // 250}.{i % 250}.255" for i in range(MANY)]),
    "IPv6 ranges": ("ip6 saddr", [f"2001:db8:{i:x}::-2001:db8:{i:x}::ffff" for i in range(MANY)]),
    "ports": ("th dport", [f"{i * 10}-{i * 10 + 5}" for i in range(MANY)]),
    "all ports": ("th dport", ["0-79", "80", "81-65535"]),
    "all addresses": ("ip saddr", ["0.0.0.0-9.255.255.255", "10.0.0.0-255.255.255.255"]),
    "protocols": ("meta l4proto", [str(i) for i in range(256)]),
    "interfaces": ("iifname", [f'"eth{i}.1234"' for i in range(MANY)]),
}


@pytest.mark.parametrize("name", LONG)
def test_long_maps_in_rules(subject: Subject, name: str) -> None:
    """A map of thousands of intervals in a rule is accepted, recognised, and costs no look anything."""
    chains: list[Object] = [Chain(name) for name in CLASSES]
    wanted = [*chains, Chain("classify", Hook("filter", "prerouting", -150), (map_of(*LONG[name]),))]
    subject.reach(wanted)
    reader = TableReader()
    begin = time.process_time()
    found = reader.read()
    duration = time.process_time() - begin
    reader.close()
    assert found is not None
    assert KernelState(found) == KernelState(wanted)
    assert duration < 0.05


def test_sets_that_packets_fill(subject: Subject) -> None:
    """A packet's source is remembered, found again and forgotten; a slot is reached by a constant key."""
    chains = [Chain("kept", None, (Statement.of("counter name kept"),)), Chain("odd", None, (Statement.of("drop"),))]
    steps = (
        "meta l4proto != udp accept",
        "udp dport 3 delete @sticky { ip saddr }",
        "ip saddr @sticky numgen inc mod 1 offset 3 vmap @keep",
        "udp dport 1 update @sticky { ip saddr }",
        "udp dport 4 numgen inc mod 1 vmap @only",
    )
    wanted: list[Object] = [
        *chains,
        Counter("kept"),
        AddressSet("sticky", 4, 300),
        SlotMap("keep", ("odd", "odd", "odd", "kept")),
        SlotMap("only", ("kept",)),
        Chain("steer", Hook("filter", "output", -150), tuple(map(Statement.of, steps))),
    ]
    subject.reach(wanted)

    def send(port: int) -> int:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", ("10.9.1.9", port))
        assert isinstance(subject.kernel, LinuxKernel)
        return subject.kernel.counters()["kept"]

    assert [send(port) for port in (2, 1, 2, 5, 3, 2, 4)] == [0, 0, 1, 2, 2, 2, 3]
    send(1)
    assert "10.9.1.2 expires" in run("nft list set inet mlbd sticky")
    assert plan(KernelState(wanted), subject.look()) == []
    longer = [AddressSet("sticky", 4, 900) if isinstance(o, AddressSet) else o for o in wanted]
    subject.reach(longer)
    assert subject.owned() == KernelState(longer)
    assert "10.9.1.2 timeout" in run("nft list set inet mlbd sticky")


def test_sets_of_addresses_of_another_shape_are_replaced(subject: Subject) -> None:
    """What we would not make under that name goes, and ours comes."""
    wanted = AddressSet("sticky", 4, 300)
    for shape in ("type ipv4_addr; timeout 300s;", "type ipv4_addr; flags dynamic,timeout; timeout 300s; size 9;"):
        subject.reach([Counter("c")])
        run(f"nft add set inet mlbd sticky {{ {shape} }}")
        assert subject.owned() == KernelState([Counter("c"), Chain("set sticky")])
        subject.reach([Counter("c"), wanted])
        assert subject.owned() == KernelState([Counter("c"), wanted])


@pytest.mark.parametrize("spread", [0, 1])
def test_many_rules(subject: Subject, spread: int) -> None:
    """A thousand rules come, come again and go in a fraction of a second, also of one priority and backwards."""
    rules = [
        Rule(4, 13000 + i * spread, table=TABLE_BASE + 1, source=f"10.{i // 250}.{i % 250}.0/24") for i in range(1000)
    ]
    adding, deleting = [Change(None, rule) for rule in rules], [Change(rule, None) for rule in rules]
    durations = []
    for changes in (adding, adding, deleting, deleting, adding, deleting[::-1]):
        begin = time.process_time()
        assert list(subject.apply(changes)) == []
        durations.append(time.process_time() - begin)
    assert subject.owned() == KernelState()
    assert max(durations) < 0.6


@pytest.mark.parametrize("torn", [1, 9])
def test_a_map_that_is_resized_while_it_is_read(subject: Subject, monkeypatch: pytest.MonkeyPatch, torn: int) -> None:
    """Elements shown twice mean that others were not shown at all: it is read again, though not for ever."""
    wanted: list[Object] = [Chain("wish_1"), SlotMap("pick", ("wish_1", "") * 700)]
    subject.reach(wanted)
    dump, tears = Requests.dump, iter(range(torn))

    def resized(self: Requests, kind: int, payload: bytes) -> list[bytes]:
        shown = dump(self, kind, payload)
        return [*shown[:-1], shown[0]] if len(shown) > 2 and next(tears, None) is not None else shown

    monkeypatch.setattr(Requests, "dump", resized)
    reader = TableReader()
    if torn == 1:
        assert KernelState(reader.read() or []) == KernelState(wanted)
        assert next(tears, None) is None
    else:
        with pytest.raises(OSError, match="the elements of pick move faster"):
            reader.read()
    reader.close()
