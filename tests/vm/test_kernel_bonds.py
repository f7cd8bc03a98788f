"""Bonds as the kernel adapter has them: what is applied is what is observed."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from mlbd.core.facts import PortFacts
from mlbd.core.state import Address, Bond, KernelState, Port
from mlbd.kernel import LinuxKernel, Watch
from tests.vm.pair import Pair, wait_until
from tests.vm.subject import ASKED, PROTOCOL, Subject, ip, links

MODES = range(7)


@pytest.fixture(scope="module")
def cables(bonding: None) -> Iterator[Pair]:
    """eth1 and eth2 of a lead to a bridge of b with 192.168.1.1."""
    with Pair() as net:
        net.ip(
            "b",
            "link add br0 type bridge",
            *(f"link set eth{n} master br0 up" for n in (1, 2)),
            "link set br0 up",
            "addr add 192.168.1.1/24 dev br0",
        )
        yield net


@pytest.fixture
def subject(cables: Pair) -> Iterator[Subject]:
    """In a, without bonds, its ports down and without addresses."""
    with cables.inside("a"), asyncio.Runner() as runner:
        kernel = LinuxKernel(PROTOCOL, 20000)
        yield Subject(kernel, runner)
        kernel.close()
        for name, link in links().items():
            if link.get("linkinfo", {}).get("info_kind") in ("bond", "bridge", "dummy"):
                ip(f"link del {name}")
        for n in (1, 2):
            ip(f"link set eth{n} down", f"link set eth{n} mtu 1500", f"addr flush dev eth{n}")


def made(mode: int, **options: Any) -> Bond:
    return Bond(name="bond0", owned=True, mode=mode, **({"miimon": 100} | options))


def unsteered(state: KernelState) -> KernelState:
    """Without the active port, which the kernel chooses in its own time."""
    return KernelState(replace(o, active="") if isinstance(o, Bond) else o for o in state.values())


PORTS = (Port("eth1", "bond0"), Port("eth2", "bond0"))
FREE = (Port("eth1", up=False), Port("eth2", up=False))


@pytest.mark.parametrize("mode", MODES)
def test_a_bond_is_observed_as_it_was_made(subject: Subject, mode: int) -> None:
    """In every mode, with and without ports; made again and deleted again it is success; then it is gone."""
    wanted = made(mode, updelay=200, downdelay=300, xmit_hash_policy=1, mtu=1400, mac="02:00:5e:00:00:07")
    subject.add(wanted)
    assert subject.look() == KernelState([wanted, *FREE])
    subject.add(*PORTS)
    assert unsteered(subject.look()) == KernelState([wanted, *PORTS])
    subject.add(wanted, *PORTS)
    assert unsteered(subject.look()) == KernelState([wanted, *PORTS])
    assert unsteered(subject.look({})) == KernelState([wanted, *PORTS])  # ours is shown although nobody asks for it
    for _ in range(2):
        assert subject.change(wanted, None) == ""
    assert subject.look() == KernelState(FREE)


OPTIONS: dict[str, tuple[Sequence[int], dict[str, Any]]] = {
    "miimon": (MODES, {"miimon": 50, "updelay": 100, "downdelay": 150}),
    "no monitor": (MODES, {"miimon": 0}),
    "delays": (MODES, {"updelay": 400}),
    "xmit_hash_policy": (MODES, {"xmit_hash_policy": 1}),
    "arp_interval": ((0, 1, 2, 3), {"miimon": 0, "arp_interval": 250, "arp_targets": ("192.168.1.1", "192.168.1.9")}),
    "arp_targets": (MODES, {"arp_targets": ("192.168.1.7",)}),
    "primary": ((1, 5, 6), {"primary": "eth2", "active": "eth2"}),
    "active": ((1, 5, 6), {"active": "eth2"}),
    "lacp_rate": ((4,), {"lacp_rate": 1}),
    "mac": (MODES, {"mac": "02:00:5e:00:00:09"}),
    "mtu": (MODES, {"mtu": 1400}),
    "down": (MODES, {"up": False}),
}


@pytest.mark.parametrize("mode", MODES)
def test_options_are_changed_there_and_back(subject: Subject, mode: int) -> None:
    """Each one, on a bond at work, leaves the others, the ports and the marking as they were."""
    subject.add(made(mode), *PORTS)
    wait_until(lambda: subject.port("eth1").active or mode == 4, what="an active port")
    for name, (modes, options) in OPTIONS.items():
        if mode not in modes:
            continue
        before = subject.bond()
        subject.put(replace(before, **options))
        after = subject.bond()
        if "active" not in options:
            after = replace(after, active=before.active)
        assert after == replace(before, **options), name
        subject.put(replace(before, active=""))
        if name != "down":
            assert replace(subject.bond(), active="") == replace(before, active=""), name
        assert {*KernelState(PORTS).items()} <= {*subject.look().items()}, name


def test_lacp_comes_with_its_rate(subject: Subject) -> None:
    """From ARP monitoring to 802.3ad, fast and by carrier, in one change, and back."""
    before = made(1, miimon=0, arp_interval=200, arp_targets=("192.168.1.1",))
    subject.add(before, *PORTS)
    mac = subject.bond().mac
    subject.put(made(4, lacp_rate=1, updelay=200, primary=""))
    expected = made(4, lacp_rate=1, updelay=200, mac=mac)
    assert unsteered(subject.look()) == KernelState([expected, *PORTS])
    subject.put(replace(before, lacp_rate=1))
    assert unsteered(subject.look()) == KernelState([replace(before, lacp_rate=1, mac=mac), *PORTS])


def test_refused_options(subject: Subject) -> None:
    """Each is told with its name and the kernel's words; the bond stays as it is."""
    subject.add(made(1), PORTS[0])
    before = subject.bond()
    refused: dict[str, dict[str, Any]] = {
        "the active port of bond0 can't be changed: invalid option value": {"active": "eth2"},
        "there is no interface eth9": {"primary": "eth9"},
        "the xmit_hash_policy of bond0 can't be changed: invalid option value": {"xmit_hash_policy": 9},
        "the arp_interval of bond0 can't be changed: invalid option value": {"arp_targets": ("255.255.255.255",)},
        "bond0 can't be changed: mtu less than device minimum": {"mtu": 1},
    }
    found = {subject.change(before, replace(before, **options)): options for options in refused.values()}
    assert found == refused
    assert replace(subject.bond(), active="") == replace(before, active="")
    assert subject.change(None, replace(made(6), name="bond7", lacp_rate=1)) == (
        "the bond bond7 can't be made: option not supported in mode"
    )
    assert "bond7" not in links()


@pytest.mark.parametrize("mode", MODES)
def test_the_mode_is_changed_with_ports_in_it(subject: Subject, mode: int) -> None:
    """The ports, the address and the state are as before; a mode that there is not is refused and changes nothing."""
    subject.add(made(1), *PORTS)
    before = subject.bond()
    subject.put(replace(before, mode=mode, active=""))
    assert replace(subject.bond(), active="") == replace(before, mode=mode, active="")
    assert {*KernelState(PORTS).items()} <= {*subject.look().items()}
    reason = subject.change(subject.bond(), replace(subject.bond(), mode=9))
    assert reason == "the mode or lacp_rate of bond0 can't be changed: invalid option value"
    assert replace(subject.bond(), active="") == replace(before, mode=mode, active="")
    assert {*KernelState(PORTS).items()} <= {*subject.look().items()}


def test_a_bond_of_others_is_adopted(subject: Subject) -> None:
    """It is observed as theirs, changed as any other, and not deleted; one that came meanwhile is not made again."""
    ip("link add bond0 type bond mode active-backup miimon 100", "link set bond0 up")
    ip("link set eth1 master bond0")
    there = subject.bond()
    assert there == Bond(name="bond0", owned=False, mode=1, miimon=100, mac=there.mac, active=there.active)
    assert subject.look() == KernelState([there, PORTS[0], FREE[1]])
    assert subject.look({}) == KernelState()
    subject.put(replace(there, miimon=200, active=""))
    assert replace(subject.bond(), active=there.active) == replace(there, miimon=200)
    assert subject.change(None, made(1)) == "bond0 exists by now, and somebody else made it"
    assert subject.change(replace(there, owned=True), None) == "bond0 is not deleted: it is not of ours"
    assert subject.bond().miimon == 200


def test_what_is_no_bond_is_left_alone(subject: Subject) -> None:
    """A bridge called bond0 is no bundle, and stays."""
    ip("link add bond0 type bridge", "link set eth1 master bond0")
    assert subject.look() == KernelState(FREE)
    assert subject.change(None, replace(made(1), owned=False)) == "bond0 exists, and is no bond"
    assert subject.change(None, PORTS[0]) == "eth1 can't be a member: bond0 is no bond"
    assert links()["eth1"]["master"] == "bond0"


def test_ports_come_and_go(subject: Subject) -> None:
    """Into a bond though up, over into another one, out and up, out and down, and again what is so already."""
    ip("link set eth1 up")
    subject.add(made(1), replace(made(1), name="bond1"), PORTS[0], PORTS[0])
    for wanted in (Port("eth1", "bond1"), Port("eth1"), PORTS[0], Port("eth1", up=False), Port("eth1", "bond0", False)):
        for _ in range(2):
            subject.put(wanted)
            assert subject.look()["port", "eth1"] == wanted
    subject.put(PORTS[0])
    for _ in range(2):
        assert subject.change(PORTS[0], None) == ""
        assert subject.look()["port", "eth1"] == Port("eth1", up=False)


def test_ports_that_can_not_be(subject: Subject) -> None:
    """Each is told with its reason, and is as up as before."""
    assert subject.change(None, PORTS[0]) == "eth1 can't be a member: there is no bond bond0"
    subject.add(made(1))
    assert subject.change(None, Port("eth9", "bond0")) == "there is no interface eth9"
    assert subject.change(Port("eth9", "bond0"), None) == ""
    ip("link add br7 type bridge", "link set eth1 master br7", "link set eth1 up")
    assert subject.change(None, PORTS[0]) == "eth1 can't be a port of bond0: it is a port of something else"
    ip("link set eth1 nomaster")
    subject.add(PORTS[1])
    ip("link add tun1 type gre local 192.0.2.1 remote 192.0.2.2", "link set tun1 up")
    reason = subject.change(None, Port("tun1", "bond0"))
    ip("link del tun1")
    assert reason == "tun1 can't be a port of bond0: Device type is different from other slaves"


def test_facts_of_ports(subject: Subject) -> None:
    """Bundle, addresses and activity of members, in the bond and out of it; others have none."""
    own = {name: links()[name]["address"] for name in ("eth1", "eth2")}
    assert subject.port("eth1") == PortFacts(hardware=own["eth1"])
    subject.add(made(1), *PORTS)
    mac = subject.bond().mac
    wait_until(lambda: subject.bond().active == "eth1", what="an active port")
    assert subject.port("eth1") == PortFacts(bundle="bond0", hardware=own["eth1"], of_bundle=mac, active=True)
    assert subject.port("eth2") == PortFacts(bundle="bond0", hardware=own["eth2"], of_bundle=mac)
    subject.add(Port("eth2"))
    assert subject.port("eth2") == PortFacts(hardware=own["eth2"], of_bundle=mac)
    found = subject.observe(ASKED, ["bond0", "lo", "eth9"]).facts
    assert {name: facts.port is not None for name, facts in found.items()} == {
        "bond0": False, "lo": False, "eth1": True, "eth2": True,
    }  # fmt: skip
    assert set(subject.observe({}, ["eth1"]).facts) == {"eth1"}


def test_faults_of_ports(subject: Subject, cables: Pair) -> None:
    """What the kernel's own monitors have against a port with carrier is told."""
    subject.add(made(1, miimon=0, arp_interval=200, arp_targets=("192.168.1.99",)), *PORTS)
    silent = "the far end does not answer the bond's ARP requests"
    wait_until(lambda: subject.port("eth1").fault == silent, what="a fault")
    assert subject.observe().facts["eth1"].carrier
    subject.put(replace(made(4), active=""))
    wait_until(lambda: subject.port("eth1").active, what="a port in use though nobody speaks LACP")
    port = subject.port("eth2")
    assert (port.active, port.fault.rpartition(" ")[0]) == (False, "LACP: the far end does not agree (state")
    cables.ip("b", "link set eth1 down")
    try:
        wait_until(lambda: not subject.port("eth1").active, what="the loss of carrier")
        assert (subject.observe().facts["eth1"].carrier, subject.port("eth1").fault) == (False, "")
    finally:
        cables.ip("b", "link set eth1 up")


def test_addresses(subject: Subject) -> None:
    """Ours and others' of devices and members; only ours are deleted; those that are there are left."""
    subject.add(made(1))
    Path("/proc/sys/net/ipv6/conf/bond0/disable_ipv6").write_text("0")
    ours = [
        Address("bond0", "192.168.1.3/24"),
        Address("bond0", "10.0.0.4/31"),
        Address("bond0", "2001:db8::3/64"),
        Address("eth1", "10.0.0.0/31"),
    ]
    subject.add(*ours, *ours)
    ip("addr add 172.16.0.1/12 dev bond0", "addr add 169.254.7.7/16 dev eth2")
    theirs = [Address("bond0", "172.16.0.1/12", owned=False), Address("eth2", "169.254.7.7/16", owned=False)]
    seen = [o for o in subject.look().values() if isinstance(o, Address)]
    assert KernelState(seen) == KernelState([*ours, *theirs])
    assert [o for o in subject.look({}).values() if o.key == ours[3].key] == [ours[3]]
    shown = subprocess.run(["ip", "-j", "addr"], check=True, capture_output=True, text=True).stdout
    broadcasts = {a["local"]: a.get("broadcast") for link in json.loads(shown) for a in link["addr_info"]}
    assert (broadcasts["192.168.1.3"], broadcasts["10.0.0.4"]) == ("192.168.1.255", None)
    subject.add(replace(theirs[0], owned=True))
    assert subject.look()[theirs[0].key] == theirs[0]
    assert subject.change(theirs[0], None) == "172.16.0.1/12 of bond0 is not deleted: it is not of ours"
    for each in (*ours, Address("eth9", "10.0.0.9/32")):
        for _ in range(2):
            assert subject.change(each, None) == ""
    assert KernelState(o for o in subject.look().values() if isinstance(o, Address)) == KernelState(theirs)
    assert subject.change(None, Address("eth9", "10.0.0.9/32")) == "there is no interface eth9"


def test_a_port_that_changes_is_heard(subject: Subject) -> None:
    """A move to another active port by somebody else means: look again. A notification that tells nothing new does
    not, and links that have nothing to do with bonds never do.
    """
    subject.add(made(1), *PORTS)
    wait_until(lambda: subject.port("eth1").active and subject.port("eth2").active is False, what="eth1")
    heard: list[str] = []
    links_heard: list[str] = []
    watch = Watch(lambda name, *_: links_heard.append(name), heard.append, lambda: None, lambda: subject.kernel.port)

    async def story() -> list[int]:
        running = asyncio.create_task(watch.run())
        counts = []
        for command in (
            "link set bond0 type bond active_slave eth2",
            "link set bond0 txqueuelen 500",
            "link set lo txqueuelen 500",
            "link set lo txqueuelen 501",
            "link set bond0 txqueuelen 501",
        ):
            heard.clear()
            links_heard.clear()
            await asyncio.to_thread(ip, command)
            await asyncio.sleep(0.4)
            counts.append(len(heard))
            assert links_heard
        running.cancel()
        return counts

    first, *_, last = counts = subject.runner.run(story())
    assert first > 0
    assert counts[2:] == [0, 0, 0], (first, last)


def test_a_bond_that_others_made_meanwhile(subject: Subject) -> None:
    """What was not there a moment ago, and somebody else has made, does not become ours."""
    ip("link add bond0 type bond")
    assert subject.change(None, made(5)) == "bond0 exists by now, and somebody else made it"
