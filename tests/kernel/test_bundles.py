"""Reading and writing what bundles consist of, where the kernel has no bonds: messages that Linux 6.1 sent.

`tests/vm/test_kernel_bonds.py` and `test_kernel_teql.py` do the same on a kernel that has them.
"""

from __future__ import annotations

import asyncio
import base64
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from mlbd.core.facts import InterfaceFacts, PortFacts
from mlbd.core.plan import Change
from mlbd.core.ports import Observation
from mlbd.core.state import Address, Bond, KernelState, Object, Port, Sysctl, Teql
from mlbd.kernel import LinuxKernel, bonds, links, sysctl, teql
from mlbd.kernel.bundles import Bundles, on_teql
from mlbd.kernel.netlink import HEADER
from tests.kernel.contract import K1, K2
from tests.kernel.namespace import run, veth_pairs
from tests.kernel.objects import PROTOCOL, TABLE_BASE

ASKED = {"bond0": ("eth1", "eth2"), "teql0": ("t1",)}


def _recorded() -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for line in Path(__file__).with_name("bundles.recorded").read_text().splitlines():
        if not line.startswith("#"):
            scene, message = line.split()
            found.setdefault(scene, []).append(zlib.decompress(base64.b64decode(message)))
    return found


RECORDED = _recorded()


def read(messages: list[bytes], asked: dict[str, tuple[str, ...]] = ASKED) -> Bundles:
    found = [link for link in map(links.read_link, messages) if link is not None]
    return Bundles(asked, {link.index: link for link in found}, PROTOCOL)


def ports(bundles: Bundles) -> dict[str, PortFacts | None]:
    facts = {
        link.name: InterfaceFacts(name=link.name, index=link.index, up=link.up, carrier=link.carrier)
        for link in bundles.links.values()
        if link.name in bundles.members
    }
    return {name: each.port for name, each in bundles.with_ports(facts).items()}


def test_a_bond_and_its_ports() -> None:
    """A bond in active-backup with all that mlbd sets, and what its ports are to it."""
    bundles = read(RECORDED["backup"])
    mac = "76:4d:63:ab:dd:5f"
    assert KernelState(bundles.objects([])) == KernelState([
        Bond(
            name="bond0", owned=True, mode=1, miimon=100, updelay=200, downdelay=300, primary="eth2", active="eth2",
            arp_targets=("192.168.1.1", "192.168.1.9"), mac=mac,
        ),
        Port("eth1", "bond0"),
        Port("eth2", "bond0"),
    ])  # fmt: skip
    assert ports(bundles) == {
        "eth1": PortFacts(bundle="bond0", hardware=mac, of_bundle=mac),
        "eth2": PortFacts(bundle="bond0", hardware="ca:71:aa:28:a1:11", of_bundle=mac, active=True),
    }


def test_ports_of_802_3ad() -> None:
    """Of two without a partner the kernel uses one; of the other it is told what LACP has against it."""
    bundles = read(RECORDED["lacp"])
    (bond, *_) = (each for each in bundles.objects([]) if isinstance(each, Bond))
    assert (bond.mode, bond.lacp_rate, bond.miimon) == (4, 1, 100)
    mac = bond.mac
    assert ports(bundles) == {
        "eth1": PortFacts(bundle="bond0", hardware=mac, of_bundle=mac, active=True),
        "eth2": PortFacts(
            bundle="bond0",
            hardware="ee:62:9b:1e:66:88",
            of_bundle=mac,
            fault="LACP: the far end does not agree (state 0x47)",
        ),
    }


def test_a_teql_device_and_its_member() -> None:
    """A member is known by its root queueing discipline."""
    bundles = read(RECORDED["teql"])
    found = KernelState(bundles.objects([]))
    assert found == KernelState([Teql(name="teql0", owned=True), Port("t1", "teql0")])
    assert ports(bundles)["t1"] == PortFacts(bundle="teql0", hardware=_hardware(bundles, "t1"), active=True)
    assert on_teql({}, found) == ["t1"]
    assert on_teql({"teql1": ("t1",)}, KernelState([Port("t1")])) == ["t1"]
    assert on_teql({"bond0": ("t1",)}, KernelState([Port("t1", "bond0")])) == []


def _hardware(bundles: Bundles, name: str) -> str:
    return next(bonds.hardware(link) for link in bundles.links.values() if link.name == name)


def test_what_is_ours_is_seen_though_nobody_asks() -> None:
    """By its alias; what is not asked for and not ours is not."""
    ours = read(RECORDED["backup"], {})
    assert [type(each) for each in ours.objects([])] == [Bond, Port, Port]
    theirs = [message.replace(b"mlbd\0", b"mlb\0\0") for message in RECORDED["backup"]]
    assert read(theirs, {}).objects([]) == []
    assert [each.owned for each in read(theirs).objects([]) if isinstance(each, Bond)] == [False]


@given(st.data())
def test_what_is_torn_is_read_or_is_an_error(data: st.DataObject) -> None:
    """Whatever the kernel says, it raises OSError or nothing."""
    messages = list(RECORDED[data.draw(st.sampled_from(sorted(RECORDED)))])
    for _ in range(data.draw(st.integers(1, 4))):
        which = data.draw(st.integers(0, len(messages) - 1))
        torn = bytearray(messages[which])
        start = data.draw(st.integers(HEADER.size, len(torn) - 1))
        torn[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
        messages[which] = bytes(torn)
    try:
        bundles = read(messages)
        bundles.objects([])
        ports(bundles)
    except OSError:
        pass
    for message in messages:
        try:
            link = links.read_link(message)
        except OSError:
            continue
        assert link is None or bonds.told(link) is None or isinstance(bonds.told(link), tuple)


def test_told_is_only_of_bonds_and_ports() -> None:
    """What the watch compares is nothing for other links, and differs when a port becomes the active one."""
    told = {link.name: bonds.told(link) for link in map(links.read_link, RECORDED["backup"] + RECORDED["teql"]) if link}
    assert {name for name, each in told.items() if each is not None} == {"bond0", "eth1", "eth2"}
    assert told["eth1"] != told["eth2"]


# Writing. Expected bytes are spelled out from linux/if_link.h, not by the encoder's own names.


def u8(kind: int, value: int) -> bytes:
    return struct.pack("=HHB3x", 5, kind, value)


def u32(kind: int, value: int) -> bytes:
    return struct.pack("=HHI", 8, kind, value)


NOW = Bond(name="bond0", mode=1, miimon=100, updelay=200, arp_targets=("192.168.1.1",), active="eth1")
MII = [u32(3, 50), u32(4, 125), u32(5, 0)]
TARGETS = struct.pack("=HHHH4sHH4s", 20, 8, 8, 0, b"\x0a\0\0\x01", 8, 0, b"\x0a\0\0\x02")

# From one bond to the other: what is written for it, by option.
WRITTEN: list[tuple[Bond, Bond, dict[str, list[bytes]]]] = [
    (NOW, NOW, {}),
    (NOW, replace(NOW, active="", mac="02:00:00:00:00:01", mtu=1400, up=False, mode=2, lacp_rate=1), {}),
    (NOW, replace(NOW, updelay=250), {}),  # the kernel makes 200 of it
    (NOW, replace(NOW, miimon=50, updelay=125), {"miimon": MII}),
    (NOW, replace(NOW, miimon=0, updelay=0), {"miimon": [u32(3, 0)]}),
    (NOW, replace(NOW, miimon=0, updelay=0, arp_interval=250), {"arp_interval": [u32(7, 250)]}),
    (NOW, replace(NOW, arp_targets=("10.0.0.1", "10.0.0.2")), {"arp_interval": [TARGETS]}),
    (NOW, replace(NOW, arp_targets=()), {"arp_interval": [struct.pack("=HH", 4, 8)]}),
    (NOW, replace(NOW, xmit_hash_policy=2), {"xmit_hash_policy": [u8(14, 2)]}),
    (NOW, replace(NOW, primary="eth2", active="eth2"), {"primary": [u32(11, 8)], "active port": [u32(2, 8)]}),
    (replace(NOW, primary="eth2"), NOW, {"primary": [u32(11, 0)]}),
]


@pytest.mark.parametrize(("now", "new", "written"), WRITTEN)
def test_only_options_that_differ_are_written(now: Bond, new: Bond, written: dict[str, list[bytes]]) -> None:
    """As linux/if_link.h has them; what the kernel would refuse or round is not written."""
    indexes = {"eth1": 7, "eth2": 8}
    found = {name: option(now, new, indexes.__getitem__) for name, option in bonds.OPTIONS.items()}
    assert {name: data for name, data in found.items() if data} == {
        name: b"".join(parts) for name, parts in written.items()
    }


def test_options_of_a_new_bond() -> None:
    """Mode first; a monitor always, as some modes would begin with one; others as far as they are wanted."""
    assert bonds.first_options(Bond(name="bond0"), 0) == u8(1, 0) + u32(3, 0) + u8(14, 0)
    lacp = Bond(name="bond0", mode=4, miimon=50, updelay=125, lacp_rate=1, xmit_hash_policy=1)
    assert bonds.first_options(lacp, 0) == u8(1, 4) + b"".join(MII) + u8(14, 1) + u8(21, 1)
    arp = Bond(name="bond0", mode=1, arp_interval=250, arp_targets=("10.0.0.1", "10.0.0.2"), primary="eth2")
    assert bonds.first_options(arp, 8) == u8(1, 1) + u32(7, 250) + TARGETS + u32(11, 8) + u8(14, 0)
    assert bonds.options_of_a_bond_that_is_down(NOW, lacp) == u8(1, 4) + u8(21, 1)


def test_a_member_is_made_by_its_root_queueing_discipline() -> None:
    """struct tcmsg for the interface's root, and the kind."""
    kind = struct.pack("=HH6s2x", 10, 1, b"teql0\0")
    assert teql.qdisc(7, "teql0") == struct.pack("=BxxxiIII", 0, 7, 0, 0xFFFFFFFF, 0) + kind


@pytest.mark.parametrize(("name", "is_one"), [("teql0", True), ("teql10", True), ("teql", False), ("teql01", False)])
def test_names_of_teql_devices(name: str, is_one: bool) -> None:
    """The module numbers them."""
    assert teql.is_name(name) is is_one


# On this machine's kernel, whatever it is.


@pytest.fixture
def kernel() -> Iterator[Callable[..., Observation]]:
    """Looks, after changes were made."""
    with veth_pairs(), asyncio.Runner() as runner:
        it = LinuxKernel(PROTOCOL, TABLE_BASE)

        def made(*changes: Change, asked: Mapping[str, tuple[str, ...]] = BUNDLE) -> Observation:
            assert [error.reason for error in runner.run(it.apply(changes))] == []
            return runner.run(it.observe([K2], [], asked))

        yield made
        it.close()


BUNDLE = {"bond0": (K1, "absent0")}


def addresses_of(seen: Observation) -> set[Object]:
    return {each for each in seen.state.values() if isinstance(each, Address)}


def test_addresses_of_members(kernel: Callable[..., Observation]) -> None:
    """All of a member's are seen, ours everywhere; added and deleted again is success, and others' stay."""
    theirs = {Address(K1, "10.9.1.2/24", owned=False), Address(K1, "2001:db8:1::2/64", owned=False)}
    ours = {Address(K1, "10.0.0.0/31"), Address(K2, "2001:db8:7::1/64"), Address(K2, "192.168.7.3/24")}
    adding = [Change(None, each) for each in ours]
    assert addresses_of(kernel(*adding, *adding)) == ours | theirs
    assert addresses_of(kernel(asked={})) == ours
    broadcasts = {
        line.split()[1]: " brd " in line for line in run("ip -4 address show").splitlines() if "inet " in line
    }
    assert (broadcasts["10.0.0.0/31"], broadcasts["192.168.7.3/24"]) == (False, True)
    deleting = [Change(each, None) for each in (*ours, Address("absent0", "10.0.0.1/32"))]
    assert addresses_of(kernel(*deleting, *deleting)) == theirs


def test_members_have_facts(kernel: Callable[..., Observation]) -> None:
    """Members asked for, if they exist, also as ports; an interface that is none has no port."""
    seen = kernel()
    assert {name: facts.port is not None for name, facts in seen.facts.items()} == {K1: True, K2: False}
    assert [each for each in seen.state.values() if isinstance(each, Port)] == [Port(K1)]
    down = kernel(Change(Port(K1), Port(K1, up=False)))
    assert [each for each in down.state.values() if isinstance(each, Port)] == [Port(K1, up=False)]
    assert not down.facts[K1].up


def test_reverse_path_filters(kernel: Callable[..., Observation]) -> None:
    """Of members of TEQL, and of `all`; without such there are none."""

    def filters(seen: Observation) -> list[str]:
        return [o.scope for o in seen.state.values() if isinstance(o, Sysctl) and o.name == "rp_filter"]

    assert filters(kernel()) == []
    assert sorted(filters(kernel(asked={"teql0": (K1, "absent0")}))) == ["/all", K1]


def test_the_filter_of_all_is_only_read() -> None:
    """mlbd does not write what is everybody's."""
    with pytest.raises(ValueError, match=r"net\.ipv4\.conf\.all\.rp_filter is not a setting that mlbd changes"):
        sysctl.write(Sysctl("/all", "rp_filter", "0"))


@pytest.mark.skipif(Path("/sys/module/bonding").exists(), reason="this kernel has bonds")
def test_without_the_module() -> None:
    """A kernel without bonds, or without TEQL, is told with what to do."""
    with veth_pairs(), asyncio.Runner() as runner:
        it = LinuxKernel(PROTOCOL, TABLE_BASE)
        wanted: list[Object] = [
            Bond(name="bond0", owned=True),
            Port(K1, "bond0"),
            Teql(name="teql0"),
            Port(K1, "teql0"),
        ]
        reasons = [error.reason for error in runner.run(it.apply([Change(None, each) for each in wanted]))]
        it.close()
    advice = "there is no teql0: load the module by `modprobe sch_teql max_equalizers=1`, and at boot by "
    assert reasons[:2] == [
        "the bond bond0 can't be made: this kernel has no module bonding",
        f"{K1} can't be a member: there is no bond bond0",
    ]
    assert [reason[: len(advice)] for reason in reasons[2:]] == [advice, advice]
