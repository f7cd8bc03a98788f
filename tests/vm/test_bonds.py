"""mlbd keeps a bond in active-backup, as in the document on two network cards: ports as their far ends are."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.vm.bonded import FAR, Bonded, bond, far_bridge
from tests.vm.pair import PATIENCE, Pair, lost_between, wait_until, wait_usable

PLAIN = bond()
PRIMARY = bond("active-backup", 'primary = "eth1"')


@pytest.fixture(scope="module")
def scene(bonding: None) -> Iterator[Bonded]:
    """The far end is on a bridge of b, to which the cables go."""
    with Pair() as net:
        far_bridge(net)
        first = bond("active-backup", 'mac = "02:00:00:00:aa:01"', "mtu = 1400", 'primary = "eth2"')
        with net.daemon("a", first) as daemon:
            yield Bonded(net, daemon)


def test_makes_a_bond(scene: Bonded) -> None:
    """A bond that is not there is made as configured, and carries traffic."""
    for cable in scene.net.cables:
        wait_usable(scene.daemon, cable)
    scene.wait_active("eth2")
    found, options = scene.net.links("a")["bond0"], scene.options()
    assert (found["address"], found["mtu"], options["mode"], options["miimon"], options["primary"]) == (
        "02:00:00:00:aa:01", 1400, "active-backup", 100, "eth2",
    )  # fmt: skip
    scene.answered()


def test_silent_far_end(scene: Bonded) -> None:
    """Carrier stays, but the far end of the active port is silent: the other takes over; the primary comes back."""
    scene.use(PRIMARY)
    scene.wait_active("eth1")
    with scene.net.stream("a", FAR) as stream:
        began = time.monotonic()
        scene.net.silence("eth1")
        wait_usable(scene.daemon, "eth1", False)
        scene.wait_active("eth2")
        moved = time.monotonic()
        time.sleep(2)
        end = time.monotonic()
        scene.net.speak("eth1")
        scene.wait_active("eth1")
        time.sleep(0.5)
        summary = stream.stop(2)
    assert lost_between(summary, began, moved) > 20
    assert lost_between(summary, moved + 0.3, end) == 0
    assert lost_between(summary, end, time.monotonic()) <= 5
    assert scene.net.ports("a") == {"eth1", "eth2"}


def test_the_kernel_does_not_go_back(scene: Bonded) -> None:
    """A port whose far end is silent is not used either when the other one's cable is pulled and put in again."""
    scene.use(PRIMARY)
    scene.net.silence("eth1")
    wait_usable(scene.daemon, "eth1", False)
    scene.wait_active("eth2")
    scene.net.ip("b", "link set eth2 down")
    wait_usable(scene.daemon, "eth2", False)
    scene.net.ip("b", "link set eth2 up")
    wait_usable(scene.daemon, "eth2")
    scene.wait_active("eth2")
    scene.answered()


def test_far_end_all_silent(scene: Bonded) -> None:
    """If nobody answers, nothing is taken out, and what gets through goes on: perhaps it is only who is asked."""
    scene.use(PRIMARY)
    scene.answered()
    quiet = "add table arp quiet\nadd chain arp quiet in { type filter hook input priority 0 ; policy drop ; }\n"
    scene.net.run("b", ["nft", "-f", "-"], text=quiet)
    try:
        for interface in ("eth1", "eth2"):
            wait_usable(scene.daemon, interface, False)
        time.sleep(1)
        assert scene.net.ports("a") == {"eth1", "eth2"}
        scene.answered()
    finally:
        scene.net.run("b", ["nft", "delete table arp quiet"])


def test_probes_disturb_nobody(scene: Bonded) -> None:
    """While active and inactive ports are probed, a stream of one direction only arrives without a loss, and the far
    end's neighbour entry stays as it is.
    """
    scene.use(PLAIN)
    assert scene.net.ping("b", "192.168.1.3", timeout=10)
    before = scene.net.run("b", ["ip", "neigh", "show", "192.168.1.3"]).split()[:5]
    with scene.net.stream("b", "192.168.1.3") as stream:
        time.sleep(4)
        summary = stream.stop(2)
    after = scene.net.run("b", ["ip", "neigh", "show", "192.168.1.3"]).split()[:5]
    assert (summary.lost, after) == (0, before)


def test_vanishes_and_returns(scene: Bonded) -> None:
    """A member that is deleted and made again is a port again; so is one that somebody released."""
    scene.use(PLAIN)
    net, daemon = scene.net, scene.daemon
    before = net.links("a")["eth2"]["ifindex"]
    net.replace("eth2")
    assert net.links("a")["eth2"]["ifindex"] != before
    net.ip("b", "link set eth2 master br0 up")
    scene.wait_ports("eth1", "eth2")
    wait_usable(daemon, "eth2")
    net.ip("a", "link set eth1 nomaster")
    scene.wait_ports("eth1", "eth2")
    assert any(r["event"] == "repaired what another program changed" for r in daemon.log())


def test_reload(scene: Bonded) -> None:
    """What the file says anew is in force after a reload: options, and a member less."""
    scene.use(bond("active-backup", 'miimon = "50ms"', 'updelay = "100ms"'))
    wait_until(lambda: scene.options()["updelay"] == 100, what="the new options")
    assert scene.options()["miimon"] == 50
    scene.daemon.configure(PLAIN.replace('["eth1", "eth2"]', '["eth1"]'))
    scene.daemon.reload()
    scene.wait_ports("eth1")
    scene.answered()


def test_release(scene: Bonded) -> None:
    """`mlbd release` removes a bond that mlbd made; a new start makes it anew."""
    scene.use(PLAIN)
    scene.daemon.kill()
    scene.net.run("a", ["mlbd", "release", "-c", str(scene.daemon.file)])
    assert "bond0" not in scene.net.links("a")
    scene.daemon.start(timeout=PATIENCE)
    scene.use(PLAIN)
    scene.answered()
