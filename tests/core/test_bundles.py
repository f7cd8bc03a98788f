"""Which members of bundles are in use, and what that means for the kernel."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from mlbd.core.facts import PortFacts
from mlbd.core.settings import BondMode, GatewaySetting, Probe, Uplink
from mlbd.core.state import Address, KernelState, Port, Sysctl
from tests.core.bundled import FAR, PROBE, BondDevice, Bundled, TeqlDevice, bond, bundled, teql


def proven(mode: BondMode, *, primary: str | None = None) -> Bundled:
    world = Bundled(bundled(bond(mode, primary=primary)))
    world.live(5.0)
    assert world.members() == {"eth1": "bond0", "eth2": "bond0"}
    return world


def test_a_bond_is_made() -> None:
    """A bond that is not there is made with its ports and its address at once, also before anything is proven."""
    world = Bundled(bundled(bond("active-backup")))
    assert world.done[:4] == ["add bond bond0", "replace port eth1", "replace port eth2", "add address bond0"]
    assert world.bond() == BondDevice(name="bond0", owned=True, mode=1, miimon=100, active="eth1")


def test_an_active_port_whose_far_end_is_silent_is_not_active_any_more() -> None:
    """active-backup: it stays a port, another one is active."""
    world = proven("active-backup")
    world.silence("eth1")
    (t,) = world.live(2.0)
    assert (t.event, t.uplink, t.bundle, t.usable) == ("member_down", "eth1", "bond0", ("eth2",))
    assert (world.bond().active, world.bond().primary) == ("eth2", "")
    assert world.members() == {"eth1": "bond0", "eth2": "bond0"}


def test_if_all_fall_silent_the_port_in_use_stays() -> None:
    """active-backup: also a primary that is out is not gone back to when the other one is silent, too."""
    world = proven("active-backup", primary="eth1")
    world.silence("eth1")
    world.live(2.0)
    world.silence("eth2")
    world.live(5.0)
    assert (world.bond().active, world.bond().primary) == ("eth2", "eth2")


def test_a_primary_of_others_is_theirs() -> None:
    """active-backup: one that the file does not name is left as it is, whoever is active."""
    found = BondDevice(name="bond0", mode=1, miimon=100, primary="eth1", active="eth1")
    world = Bundled(bundled(bond("active-backup")), KernelState([found, Port("eth1", "bond0"), Port("eth2", "bond0")]))
    world.live(5.0)
    world.silence("eth1")
    world.live(2.0)
    assert (world.bond().active, world.bond().primary) == ("eth2", "eth1")


def test_who_is_not_proven_yet_keeps_what_it_has() -> None:
    """active-backup: at a start the port in use stays in use, also if the other one is proven first."""
    found = BondDevice(name="bond0", mode=1, miimon=100, primary="eth2", active="eth2")
    state = KernelState([found, Port("eth1", "bond0"), Port("eth2", "bond0"), Address("bond0", "192.168.1.3/24")])
    world = Bundled(bundled(bond("active-backup")), state)
    world.answers["bond0/eth2"] = 0.5
    world.live(0.6)
    assert [world.port(name).usable for name in ("eth1", "eth2")] == [True, False]
    world.live(5.0)
    assert (world.bond(), world.done) == (found, [])


def test_without_a_primary_the_bond_stays_where_it_is() -> None:
    """active-backup: who recovers is a backup, and nobody is primary."""
    world = proven("active-backup")
    world.silence("eth1")
    world.live(2.0)
    world.hear_again("eth1")
    (t,) = world.live(5.0)
    assert (t.event, t.uplink) == ("member_up", "eth1")
    assert (world.bond().active, world.bond().primary) == ("eth2", "")


def test_the_primary_is_honoured() -> None:
    """active-backup: the configured primary is active again as soon as it is proven."""
    world = proven("active-backup", primary="eth1")
    assert (world.bond().active, world.bond().primary) == ("eth1", "eth1")
    world.silence("eth1")
    world.live(2.0)
    assert (world.bond().active, world.bond().primary) == ("eth2", "eth2")
    world.hear_again("eth1")
    world.live(5.0)
    assert world.bond().primary == "eth1"


@pytest.mark.parametrize("mode", ["active-backup", "balance-rr", "balance-xor", "balance-tlb", "balance-alb"])
def test_if_all_are_silent_nobody_is_out(mode: BondMode) -> None:
    """What nobody answers is no evidence against any member."""
    world = proven(mode)
    world.silence("eth1", "eth2")
    world.live(20.0)
    assert world.members() == {"eth1": "bond0", "eth2": "bond0"}
    assert world.ups() == {"eth1", "eth2"}


@pytest.mark.parametrize("mode", ["balance-tlb", "balance-alb"])
def test_a_released_port_is_probed_and_put_back(mode: BondMode) -> None:
    """balance-tlb and -alb: a silent port is released but stays up, and is back when it is proven."""
    world = proven(mode)
    world.silence("eth2")
    world.live(2.0)
    assert (world.members(), world.ups()) == ({"eth1": "bond0", "eth2": ""}, {"eth1", "eth2"})
    world.hear_again("eth2")
    world.live(5.0)
    assert world.members() == {"eth1": "bond0", "eth2": "bond0"}


@pytest.mark.parametrize("mode", ["balance-rr", "balance-xor"])
def test_a_port_that_cannot_be_probed_is_tried(mode: BondMode) -> None:
    """balance-rr and -xor: a silent port is released and down, and tried after 5 s, then 10 s, ... until it answers."""
    world = proven(mode)
    world.silence("eth2")
    world.live(2.0)
    assert (world.members(), world.ups()) == ({"eth1": "bond0", "eth2": ""}, {"eth1"})
    spans: list[int] = []
    was_in, since = False, world.now
    while len(spans) < 6:
        world.live(0.05)
        if (world.members()["eth2"] == "bond0") != was_in:
            spans.append(round(world.now - since))
            was_in, since = not was_in, world.now
    assert spans[1::2] == [pytest.approx(1.0, abs=0.6)] * 3
    assert spans[2::2] == [pytest.approx(s, abs=1.5) for s in (10, 20)]
    world.hear_again("eth2")
    world.live(45.0)
    assert world.members() == {"eth1": "bond0", "eth2": "bond0"}
    assert world.port("eth2").usable


def test_a_port_without_carrier_is_the_kernels() -> None:
    """A bond keeps a port that has lost its carrier: miimon deals with it, and its link must not be made to flap."""
    world = proven("balance-alb")
    world.unplugged.add("eth2")
    world.act()
    world.live(10.0)
    assert (world.members()["eth2"], world.port("eth2").reason) == ("bond0", "carrier lost")


def test_broadcast_keeps_silent_ports() -> None:
    """In broadcast a silent port takes nothing from the others."""
    world = proven("broadcast")
    world.silence("eth2")
    world.live(5.0)
    assert (world.members()["eth2"], world.port("eth2").usable) == ("bond0", False)


def test_probes_leave_with_an_address_of_their_own() -> None:
    """Never with the bond's address, even by the port whose address the bond has taken."""
    world = proven("active-backup")
    sources = {order.uplink: (order.sources, order.bundle) for _, order in world.orders}
    assert sources == {
        "bond0/eth1": (("06:00:00:00:00:01",), "bond0"),
        "bond0/eth2": (("02:00:00:00:00:02",), "bond0"),
    }


def test_probes_of_static_bundles_leave_with_several_addresses() -> None:
    """A far end that is a bond chooses the link of its replies by them; all are different."""
    world = proven("balance-xor")
    sources = {order.uplink: order.sources for _, order in world.orders}
    assert sources == {
        "bond0/eth1": ("02:80:00:00:00:01", "02:80:00:00:00:00"),
        "bond0/eth2": ("02:81:00:00:00:02", "02:81:00:00:00:03"),
    }


def test_lacp_decides_in_802_3ad() -> None:
    """A port that LACP does not use is reported with the reason, and nothing is done about it."""
    world = Bundled(bundled(bond("802.3ad", probe=replace(PROBE, targets=()))))
    world.live(1.0)
    assert world.port("eth2").usable
    fault = PortFacts(bundle="bond0", fault="LACP: the far end does not agree")
    world.interfaces["eth2"] = replace(world.interfaces["eth2"], port=fault)
    (t,) = world.look()
    assert (t.event, t.uplink, t.reason) == ("member_down", "eth2", "LACP: the far end does not agree")
    assert world.members()["eth2"] == "bond0"


def test_a_bond_of_others_is_taken_over() -> None:
    """What the configuration leaves open stays as it is found; the address of somebody else is nobody's to delete."""
    found = BondDevice(
        name="bond0", mode=1, miimon=50, updelay=200, primary="eth1", active="eth1", mac="02::", mtu=9000
    )
    address, foreign = Address("bond0", "192.168.1.3/24", owned=False), Address("bond0", "10.9.9.9/8", owned=False)
    state = KernelState([found, Port("eth1", "bond0"), Port("eth2", "bond0"), address, foreign])
    wanted = replace(bond("active-backup", primary="eth1"), updelay=0.3)
    world = Bundled(bundled(wanted), state)
    world.live(5.0)
    assert world.bond() == replace(found, miimon=100, updelay=300)
    assert world.done == ["replace bond bond0"]
    world.router.load(bundled(), world.now)
    assert world.desired(world.state) == world.state.changed({("saved", "/ipv4"): None})


def test_what_we_made_goes_with_the_configuration() -> None:
    """A bond that we made, its addresses and its ports are gone when the file does not have it any more."""
    world = proven("active-backup")
    world.router.load(bundled(), world.now)
    world.act()
    assert not [key for key in world.state if key[0] in ("bond", "address")]


def test_a_member_that_leaves_the_file_leaves_the_bond() -> None:
    """And one that is new is taken in."""
    world = proven("active-backup")
    world.numbers["eth3"] = 3
    world.state = world.state.changed({("port", "eth3"): Port("eth3", up=False)})
    world.router.load(bundled(replace(bond("active-backup"), members=("eth1", "eth3"))), world.now)
    world.act()
    assert world.members() == {"eth1": "bond0", "eth2": "", "eth3": "bond0"}


def teqled(count: int = 2, **there: KernelState) -> Bundled:
    """TEQL of bare interfaces, or of what is there."""
    bare = KernelState([TeqlDevice(name="teql0", up=False), *ports(count)])
    return Bundled(bundled(teql(count)), there.get("state") or bare)


def ports(count: int) -> list[Port]:
    return [Port(f"eth{n}", up=False) for n in range(1, count + 1)]


def test_a_member_of_teql_is_proven_first() -> None:
    """Members get their addresses and are up at once, but take packets only when their far ends answer."""
    world = teqled()
    assert world.members() == {"eth1": "", "eth2": ""}
    assert ("address", "eth1", "10.0.1.0/31") in world.state
    world.live(5.0)
    assert world.members() == {"eth1": "teql0", "eth2": "teql0"}
    assert world.state["teql", "teql0"] == TeqlDevice(name="teql0", owned=True)


def test_a_member_of_teql_whose_far_end_is_silent_is_out() -> None:
    """And back when it answers again."""
    world = teqled()
    world.live(5.0)
    world.silence("eth2", bundle="teql0")
    (t,) = world.live(2.0)
    assert (t.event, t.uplink, t.bundle) == ("member_down", "eth2", "teql0")
    assert (world.members(), world.ups()) == ({"eth1": "teql0", "eth2": ""}, {"eth1", "eth2"})
    world.hear_again("eth2", bundle="teql0")
    world.live(5.0)
    assert world.members() == {"eth1": "teql0", "eth2": "teql0"}


def test_a_member_of_teql_without_carrier_is_out() -> None:
    """Nothing else would tell the far end, or keep some drivers from losing what they are given."""
    world = teqled()
    world.live(5.0)
    world.unplugged.add("eth2")
    world.act()
    world.act()
    assert world.members() == {"eth1": "teql0", "eth2": ""}


def test_teql_without_any_proof_takes_no_packets() -> None:
    """Members that never answered are not attached; those that did are, even if none of them does any more."""
    world = teqled()
    world.silence("eth1", "eth2", bundle="teql0")
    world.live(10.0)
    assert world.members() == {"eth1": "", "eth2": ""}
    world.hear_again("eth1", bundle="teql0")
    world.live(5.0)
    world.silence("eth1", bundle="teql0")
    world.live(10.0)
    assert world.members() == {"eth1": "teql0", "eth2": ""}


def test_a_running_teql_is_taken_over() -> None:
    """What is attached stays attached while nothing is proven, and the device is not ours."""
    state = KernelState([TeqlDevice(name="teql0"), Port("eth1", "teql0"), Port("eth2", "teql0")])
    world = teqled(state=state)
    assert world.members() == {"eth1": "teql0", "eth2": "teql0"}
    assert world.state["teql", "teql0"] == TeqlDevice(name="teql0")


def test_an_uplink_by_teql_is_usable_while_a_member_is() -> None:
    """It is not probed itself: replies would come in by the members."""
    by_teql = Uplink(
        name="far",
        interface="teql0",
        gateway=GatewaySetting(source="fixed", address="10.0.0.1"),
        masquerade=False,
        probe=Probe(targets=()),
        members=("eth1", "eth2"),
    )
    state = KernelState([TeqlDevice(name="teql0", up=False), *ports(2)])
    world = Bundled(bundled(teql(), uplinks=(by_teql,)), state)
    world.interfaces["teql0"] = replace(world.interfaces["eth1"], name="teql0", index=9, addresses=("10.0.0.0/31",))
    world.live(5.0)
    assert world.usable() == {"far"}
    world.silence("eth1", "eth2", bundle="teql0")
    assert [t.uplink for t in world.live(3.0)] == ["eth1", "eth2", "far"]
    assert world.usable() == set()
    world.hear_again("eth2", bundle="teql0")
    assert [t.uplink for t in world.live(6.0)] == ["eth2", "far"]


@pytest.mark.parametrize(
    ("of_all", "own", "loose"),
    [("0", "0", False), ("0", "1", True), ("1", "0", True), ("1", "1", True), ("1", "2", False), ("2", "1", False)],
)
def test_a_strict_reverse_path_filter_is_loosened(of_all: str, own: str, loose: bool) -> None:
    """Only where it would drop what comes in by a member, and only of that member."""
    filters = [Sysctl("/all", "rp_filter", of_all), Sysctl("eth1", "rp_filter", own)]
    world = teqled(state=KernelState([TeqlDevice(name="teql0", up=False), *ports(2), *filters]))
    world.live(5.0)
    assert world.state["sysctl", "eth1", "rp_filter"] == Sysctl("eth1", "rp_filter", "2" if loose else own)
    assert world.state["sysctl", "/all", "rp_filter"] == Sysctl("/all", "rp_filter", of_all)
    world.router.load(bundled(), world.now)
    world.act()
    assert world.state["sysctl", "eth1", "rp_filter"] == Sysctl("eth1", "rp_filter", own)


def test_targets_are_asked_by_the_port() -> None:
    """Each port asks for the far end itself."""
    world = proven("balance-rr")
    assert {(o.interface, o.address, o.ask) for _, o in world.orders} == {
        ("eth1", "192.168.1.1", FAR),
        ("eth2", "192.168.1.1", FAR),
    }
