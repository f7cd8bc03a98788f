"""All seven modes of bonds, each against a far end that it is for, and ports whose far ends are silent."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.vm.bonded import FAR, Bonded, bond, far_bond, far_bridge
from tests.vm.pair import Pair, lost_between, wait_usable


@pytest.fixture(scope="module")
def scene(bonding: None) -> Iterator[Bonded]:
    with Pair() as net:
        far_bridge(net)
        with net.daemon("a", bond("broadcast")) as daemon:
            yield Bonded(net, daemon)


@pytest.mark.parametrize("mode", ["broadcast", "active-backup"])
def test_by_name(scene: Bonded, mode: str) -> None:
    """By its name, and without a silent far end (the others are below)."""
    far_bond(scene.net, "bridge")
    scene.use(bond(mode))
    scene.answered()


def test_by_number(scene: Bonded) -> None:
    """By its number; and LACP decides which ports are in use: one that hears no LACPDUs is not, until it does."""
    far_bond(scene.net, "802.3ad")
    config = bond("802.3ad", 'lacp_rate = "fast"', asked="")
    scene.use(config)
    scene.wait_all_active()
    scene.answered()
    scene.daemon.configure(config.replace('"802.3ad"', "4"))
    scene.daemon.reload()
    scene.net.silence("eth2")
    wait_usable(scene.daemon, "eth2", False)
    assert scene.net.ports("a") == {"eth1", "eth2"}
    scene.answered()
    scene.net.speak("eth2")
    wait_usable(scene.daemon, "eth2")


@pytest.mark.parametrize("mode", ["balance-tlb", "balance-alb"])
def test_released_and_probed(scene: Bonded, mode: str) -> None:
    """balance-tlb, -alb: a port whose far end is silent is released, probed where it is, and put back."""
    far_bond(scene.net, "bridge")
    scene.use(bond(mode))
    scene.net.silence("eth2")
    scene.wait_ports("eth1")
    scene.answered()
    with scene.net.stream("a", FAR) as stream:
        time.sleep(2)
        summary = stream.stop(2)
    assert lost_between(summary, summary.packets[0].sent + 0.5, time.monotonic()) == 0
    scene.net.speak("eth2")
    scene.wait_ports("eth1", "eth2")
    scene.answered()


@pytest.mark.parametrize("mode", ["balance-rr", "balance-xor"])
def test_released_and_tried(scene: Bonded, mode: str) -> None:
    """balance-rr, -xor against a bond of the same mode: a port whose far end is silent is released, nothing is lost any
    more, and it is tried again until it answers.
    """
    far_bond(scene.net, mode)
    scene.use(bond(mode).replace('hold_max = "3s"', 'hold_max = "10s"'))
    scene.wait_all_active()
    with scene.net.stream("a", FAR) as stream:
        scene.net.silence("eth2")
        scene.wait_ports("eth1")
        released = time.monotonic()
        time.sleep(3)  # and it is tried again after 5
        summary = stream.stop(1)
    assert lost_between(summary, released + 1.0, released + 3.0) == 0  # the far end has miimon
    scene.answered()
    scene.wait(lambda s: "tried again in" in s["bundles"][0]["members"][1]["reason"], "a rest")
    scene.net.speak("eth2")
    scene.wait_ports("eth1", "eth2")
    scene.answered()


def test_arp_monitor(scene: Bonded) -> None:
    """With arp_interval the kernel asks itself; mlbd tells what it finds."""
    far_bond(scene.net, "bridge")
    scene.use(bond("active-backup", 'arp_interval = "200ms"'))
    scene.net.silence("eth1")
    wait_usable(scene.daemon, "eth1", False)
    scene.wait_active("eth2")
    scene.answered()
