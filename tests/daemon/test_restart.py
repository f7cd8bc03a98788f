"""A daemon starts, ends, is killed and starts again on a router that is in use: no packet and no connection notices,
and the kernel's objects stay the ones they were.
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlbd.lab import echo, layout
from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network, wait_until
from mlbd.lab.stream import UdpStream
from mlbd.lab.traffic import TcpConversation, connect_many
from tests.lab.scene import QUICK, Start, kernel, ruleset, tables, wait_usable

_TRACKING = """
table inet firewall {
  chain forward {
    type filter hook forward priority filter; policy accept;
    ct state established accept
  }
}
"""
_OFFICE = """
table inet office {
  chain post {
    type nat hook postrouting priority srcnat; policy accept;
    oifname "wan*" masquerade
  }
}
"""


class Users:
    """A stream of 1,000 datagrams a second, four conversations of the LAN and two of the router."""

    def __init__(self, net: Network) -> None:
        self.stream = UdpStream(net, "lan1", rate=1000)
        self.stream.wait_started()
        places = ["lan1"] * 4 + ["router"] * 2
        self.conversations = [TcpConversation(net, where, interval=0.02, server=n) for n, where in enumerate(places, 1)]

    def end(self) -> None:
        """Asserts that all of them were served all the time."""
        broken = [conversation.reset for conversation in self.conversations]
        for conversation in self.conversations:
            conversation.close()
        found = self.stream.stop()
        assert (found.lost, len(found.by_uplink())) == (0, 1)
        assert broken == [None] * 6
        assert all(max(e.answered - e.sent for e in c.exchanges) < 0.5 for c in self.conversations)
        assert len(self.stream.so_far().packets) > 500


@pytest.mark.parametrize("masquerades", [True, False])
def test_a_first_start_breaks_no_connection(network: Callable[..., Network], masquerades: bool) -> None:
    """Connections that began before the daemon first started go on where they are, whoever translates them."""
    net = network(2)
    net.run("router", ["nft", "-f", "-"], text=_OFFICE)
    users = Users(net)
    extra = [] if masquerades else ["masquerade = false", "masquerade = false"]
    with Daemon(net, tables(net, *extra)) as daemon:
        time.sleep(0.3)
        assert set(connect_many(net, "lan1", 40)) == {1, 2}
        users.end()
        assert "Traceback" not in daemon.log_text()
    assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]


def changes(net: Network, name: str) -> Path:
    """A file to which ip(8) writes every change of a rule or a route from now on."""
    file = net.directory / name
    with file.open("wb") as out:
        net.spawn("router", ["ip", "monitor", "rule", "route"], stdout=out)
    while b"198.51.100.0" not in file.read_bytes():  # it does not listen yet
        for action in ("add", "del"):
            net.run("router", ["ip", "route", action, "198.51.100.0/24", "dev", "lan1"])
        time.sleep(0.02)
    return file


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_restart_is_not_noticed(start: Start, how: str) -> None:
    """SIGTERM or SIGKILL, and a start, lose no packet, break no connection and make no kernel object anew."""
    net, daemon = start()
    users = Users(net)
    heard = changes(net, "heard")
    before = kernel(net)
    if how == "stop":
        assert daemon.stop() == 0
    else:
        daemon.kill()
    assert kernel(net) == before
    daemon.start()
    wait_usable(daemon, "wan1", "wan2")
    time.sleep(0.3)
    users.end()
    assert kernel(net) == before
    assert [line for line in heard.read_text().splitlines() if "198.51.100.0" not in line] == []
    assert daemon.status()["last_cycle"]["errors"] == []
    assert "repaired" not in daemon.log_text()


def test_a_restart_with_a_dead_uplink_keeps_it_out(start: Start) -> None:
    """A daemon that starts while an uplink is dead does not send anything there in the meantime."""
    net, daemon = start(config=QUICK)
    net.silence(1, gateway=True)
    wait_usable(daemon, "wan2")
    daemon.kill()
    assert connect_many(net, "lan1", 40) == {2: 40}
    daemon.start()
    assert connect_many(net, "lan1", 40) == {2: 40}
    assert daemon.uplink("wan1")["usable"] is False


def test_reordering_the_file_aims_nothing_anew(network: Callable[..., Network]) -> None:
    """Uplinks whose names begin alike keep ids, rules and connections when the file lists them in another order
    (scenario 14).
    """
    net = network(3, interfaces=["wan", "wan2", "wan22"])
    given = tables(net)
    entries = re.findall(r"\[\[uplink\]\][^[]*", given)
    daemon = Daemon(net, "".join(entries))
    with daemon:
        users = Users(net)
        before = kernel(net)
        ids = {u["name"]: u["id"] for u in daemon.status()["uplinks"]}
        daemon.stop()
        daemon.configure("".join(reversed(entries)))
        daemon.start()
        time.sleep(0.3)
        users.end()
        status = daemon.status()
        assert [u["name"] for u in status["uplinks"]] == ["wan22", "wan2", "wan"]
        assert {u["name"]: u["id"] for u in status["uplinks"]} == ids
        after = kernel(net)
        assert (after[0], after[2]) == (before[0], before[2])
        assert ruleset(net).count("goto wish_1_wan\n") == before[1].count("goto wish_1_wan\n")
        for number in (1, 2, 3):
            assert connect_many(net, "router", 10, sources=[net.uplink(number).address]) == {number: 10}
        assert "Traceback" not in daemon.log_text()
    assert [net.wrong_source(n) for n in (1, 2, 3)] == [0, 0, 0]


def test_a_flow_from_before_is_translated(network: Callable[..., Network]) -> None:
    """What a client sent while the router came up, untranslated, is answered once mlbd is there, without a pause."""
    net = network(2)
    net.run("router", ["nft", "-f", "-"], text=_TRACKING)
    with net.inside("lan1"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect((layout.server(1), echo.PORT))
        s.settimeout(0.05)

        def answered() -> bool:
            s.send(b"x")
            with contextlib.suppress(TimeoutError):
                return bool(s.recv(100))
            return False

        assert not any(answered() for _ in range(5))
        daemon = Daemon(net, tables(net))
        with ThreadPoolExecutor(1) as pool:
            starting = pool.submit(daemon.start)
            while not starting.done():
                answered()
            starting.result()
        wait_until(answered, timeout=1.0, what="that it is answered")
        daemon.stop()
