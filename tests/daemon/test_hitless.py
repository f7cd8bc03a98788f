"""The daemon ends and starts at any moment, also into a changed world, under traffic that would notice."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator

import pytest

from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network, wait_until
from mlbd.lab.stream import UdpStream
from mlbd.lab.traffic import TcpConversation, connect_many
from tests.lab.scene import QUICK, Start, kernel, mlbd, tables, wait_usable

_MARKER = "198.51.100.0"
_OFFICE = """
table ip nat {
  chain post {
    type nat hook postrouting priority srcnat; policy accept;
    oifname "wan1" masquerade
  }
}
"""


class Traffic:
    """A stream of 1,000 datagrams a second and 100 open TCP connections, forwarded and the router's own."""

    def __init__(self, net: Network) -> None:
        self.stream = UdpStream(net, "lan1", rate=1000)
        self.stream.wait_started()
        places = [("lan1", 4)] * 50 + [("lan1", 6)] * 20 + [("router", 4)] * 30
        self.held = [TcpConversation(net, where, family=family) for where, family in places]

    def check(self) -> None:
        """Every connection works, and the stream has lost nothing so far."""
        for conversation in self.held:
            conversation.say()

    def end(self, *, but: Callable[[TcpConversation], bool] = lambda _: False) -> None:
        """Asserts that nothing was lost or broken, `but` connections for which that is too much to ask."""
        for conversation in self.held:
            if not but(conversation):
                conversation.say()
            conversation.close()
        found = self.stream.stop()
        assert (found.lost, len(found.by_uplink())) == (0, 1)
        assert len(found.packets) > 500


class Monitor:
    """What the kernel says about changes of rules, routes and nftables, from now on."""

    def __init__(self, net: Network, name: str) -> None:
        self._net = net
        self._files = [net.directory / f"{name}.{what}" for what in ("ip", "nft")]
        for file, command in zip(self._files, (["ip", "monitor", "rule", "route"], ["nft", "monitor"]), strict=True):
            with file.open("wb") as out:
                net.spawn("router", command, stdout=out)
        wait_until(self._awake, what="that both monitors listen")

    def _awake(self) -> bool:
        for action in ("add", "del"):
            self._net.run("router", ["ip", "route", action, f"{_MARKER}/24", "dev", "lan1"])
            self._net.run("router", ["nft", "add" if action == "add" else "delete", "table", "ip", "marker"])
        time.sleep(0.02)
        return all(marker in file.read_text() for marker, file in zip((_MARKER, "marker"), self._files, strict=True))

    def heard(self) -> list[str]:
        """The lines, without those that only say that something was said."""
        lines = [line for file in self._files for line in file.read_text().splitlines()]
        return [line for line in lines if _MARKER not in line and "marker" not in line and "# new gen" not in line]


@pytest.fixture
def masquerading(start: Start) -> Iterator[tuple[Network, Daemon]]:
    """Three uplinks, IPv6 translated, too."""
    net, daemon = start(3, config=QUICK, extra=('nat6 = "masquerade"',) * 3)
    wait_usable(daemon, "wan1", "wan2", "wan3")
    time.sleep(0.3)  # the look after the last change
    yield net, daemon
    assert [net.wrong_source(n) for n in (1, 2, 3)] == [0, 0, 0]


def test_ends_and_starts_at_any_moment(masquerading: tuple[Network, Daemon]) -> None:
    """SIGKILL or SIGTERM anywhere in start-up or after it, ten times: no packet is lost, no connection broken, and no
    object of the kernel is made anew or even touched.
    """
    net, daemon = masquerading
    traffic, monitor, before = Traffic(net), Monitor(net, "restarts"), kernel(net)
    moments = random.Random(6)
    for number in range(10):
        if number % 3:
            daemon.kill()
        else:
            assert daemon.stop() in (0, -15)  # before it could say what to do about SIGTERM
        daemon.start(wait=False)
        time.sleep(moments.uniform(0.0, 0.9))
    daemon.kill()
    daemon.start()
    wait_usable(daemon, "wan1", "wan2", "wan3")
    time.sleep(0.3)
    traffic.end()
    assert kernel(net) == before
    assert monitor.heard() == []


def test_only_what_differs_is_corrected(masquerading: tuple[Network, Daemon]) -> None:
    """What another version left, and what somebody changed while no daemon ran, is put right, and only that."""
    net, daemon = masquerading
    traffic, before = Traffic(net), kernel(net)
    (used,) = traffic.stream.so_far().by_uplink()
    lacking = f"1200{next(n for n in (1, 2, 3) if n != used)}"  # what leaves by that uplink would notice at once
    daemon.kill()
    net.run("router", ["ip", "rule", "del", "pref", lacking])
    net.run(
        "router",
        ["ip", "rule", "add", "pref", "10555", "fwmark", "0x55000000/0xff000000", "lookup", "20055", "proto", "109"],
    )
    net.run("router", ["ip", "route", "add", "default", "via", net.uplink(3).gateway, "table", "20055", "proto", "109"])
    older = (
        "flush chain inet mlbd leases; add chain inet mlbd older { type filter hook input priority 7; policy accept; }"
    )
    net.run("router", ["nft", older])
    monitor = Monitor(net, "changed")
    daemon.start()
    wait_usable(daemon, "wan1", "wan2", "wan3")
    time.sleep(0.5)
    traffic.end()
    after = kernel(net)
    assert (after[0], after[2]) == (before[0], before[2])
    assert re.sub(r"# handle \d+", "", after[1]) == re.sub(r"# handle \d+", "", before[1])
    touched = [line for line in monitor.heard() if line]
    assert [line for line in touched if not re.search(rf"{lacking}|10555|20055|leases|older", line)] == []
    assert touched


def test_the_world_changed_meanwhile(masquerading: tuple[Network, Daemon]) -> None:
    """A gateway that moved and an uplink that died while no daemon ran are followed at its start; the third uplink does
    not notice.
    """
    net, daemon = masquerading
    held = [c for c in (TcpConversation(net, "lan1") for _ in range(40)) if c.uplink == 3]
    daemon.kill()
    moved = net.move_gateway(2)
    net.silence(1, gateway=True)
    daemon.start()
    wait_usable(daemon, "wan2", "wan3")
    assert daemon.uplink("wan2")["gateway"] == moved.gateway
    for where in ("lan1", "router"):
        assert connect_many(net, where, 40).keys() == {2, 3}
    for conversation in held:
        conversation.say()
        conversation.close()
    assert held


def test_release_under_traffic(network: Callable[..., Network]) -> None:
    """`mlbd release` breaks no connection that leaves by main's own default uplink, where the router's owner translates
    too; without any chain for it the kernel ends all translation. Afterwards all leave there.
    """
    net = network(2)
    net.run("router", ["nft", "-f", "-"], text=_OFFICE)
    with Daemon(net, tables(net, *['nat6 = "masquerade"'] * 2)) as daemon:
        held = [TcpConversation(net, where) for where in ["lan1"] * 40 + ["router"] * 20]
        by_main = [conversation for conversation in held if conversation.uplink == 1]
        assert 0 < len(by_main) < 60
        daemon.stop()
        assert mlbd(net, "release", "-c", str(daemon.file)).returncode == 0
        for conversation in by_main:
            conversation.say()
        for conversation in held:
            conversation.close()
        for where in ("lan1", "router"):
            assert connect_many(net, where, 20) == {1: 20}
    assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]
