"""A tunnel program's own packets, by etc/examples/tunnels.toml: they leave by the policy's uplink and fail over too."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlbd.lab import echo, layout
from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network
from mlbd.lab.traffic import attempts, connect_many
from tests.lab.scene import QUICK, wait_usable
from tests.schemes import neighbours
from tests.schemes.neighbours import TAILSCALE_MARK, WG_MARK

EXAMPLE = (Path(__file__).parents[2] / "etc" / "examples" / "tunnels.toml").read_text()
INTERFACES = ("eth1", "wwan0")
FIBER, LTE = 1, 2
MARKS = (TAILSCALE_MARK, WG_MARK)

Scene = tuple[str, Network, Daemon]


@pytest.fixture(scope="module", params=["alone", "tailscale", "wg-quick first", "wg-quick later"])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    """The example, and who else is there."""
    with Network(2, interfaces=INTERFACES) as net:
        net.serve("lan1")
        if request.param == "tailscale":
            neighbours.tailscale(net)
        if request.param.startswith("wg-quick"):
            neighbours.wg_device(net)
        if request.param == "wg-quick first":
            neighbours.wg_quick(net)
        with Daemon(net, EXAMPLE + QUICK) as daemon:
            wait_usable(daemon, "fiber", "lte")
            if request.param == "wg-quick later":
                neighbours.wg_quick(net)
            yield request.param, net, daemon
            assert "Traceback" not in daemon.log_text()
            assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]


def marks(scene: str) -> tuple[int, ...]:
    """Of the programs whose packets leave: what tailscale sends enters a full tunnel that stands before all."""
    return (WG_MARK,) if scene == "wg-quick later" else MARKS


def outer(net: Network, mark: int, uplink: int) -> None:
    """All of a program's own packets, TCP and UDP over IPv4 and IPv6, leave by the uplink."""
    for family in (4, 6):
        for udp in (False, True):
            found = connect_many(net, "router", 25, family=family, udp=udp, mark=mark)
            assert found == {uplink: 25}, (hex(mark), family, udp)


def test_a_programs_own_packets_fail_over(scene: Scene) -> None:
    """With the first tier alive they leave by it, with it dead by the second, and by the first when it is back."""
    name, net, daemon = scene
    for mark in marks(name):
        outer(net, mark, FIBER)
    net.silence(FIBER, gateway=True)
    try:
        wait_usable(daemon, "lte")
        for mark in marks(name):
            outer(net, mark, LTE)
    finally:
        net.speak(FIBER)
        wait_usable(daemon, "fiber", "lte")
    for mark in marks(name):
        outer(net, mark, FIBER)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("fault", ["silent", "unplugged"])
def test_a_tunnel_goes_on_elsewhere(scene: Scene, fault: str, family: int) -> None:
    """A socket that sends without a pause is answered by the second tier within 1 s, and keeps its port."""
    name, net, daemon = scene
    for mark in marks(name):
        with Tunnel(net, mark, family) as tunnel:
            tunnel.wait_answer(FIBER, timeout=1.0)
            net.silence(FIBER, gateway=True) if fault == "silent" else net.unplug(FIBER)
            try:
                tunnel.wait_answer(LTE, timeout=1.0)
            finally:
                net.speak(FIBER) if fault == "silent" else net.plug(FIBER)
                wait_usable(daemon, "fiber", "lte")
            tunnel.wait_answer(FIBER, timeout=1.0)


def test_a_programs_packets_to_the_lan_stay_there(scene: Scene) -> None:
    """A marked packet to a host of the LAN arrives there, with the router's address in the LAN."""
    name, net, _ = scene
    for mark in MARKS:
        for family, host, router in ((4, "192.168.1.2", "192.168.1.1"), (6, "fd00:10:1::2", "fd00:10:1::1")):
            for udp in (False, True):
                found = attempts(net, "router", 5, family=family, udp=udp, mark=mark, servers=[host])
                assert {a.seen or a.error for a in found} == {router}, (name, hex(mark), family, udp)


def test_without_a_rule_main_decides(network: Callable[..., Network]) -> None:
    """Without a rule of the configuration, tailscale's rule 5210 sends its packets by the best default route of
    `main`, whether that way works or not; an exit node's own clients fail over all the same.
    """
    net = network(2, interfaces=INTERFACES)
    neighbours.tailscale(net)
    with Daemon(net, EXAMPLE.split("[[rule]]")[0] + QUICK) as daemon:
        wait_usable(daemon, "fiber", "lte")
        outer(net, TAILSCALE_MARK, FIBER)
        net.silence(FIBER, gateway=True)
        wait_usable(daemon, "lte")
        assert connect_many(net, "router", 10, udp=True, mark=TAILSCALE_MARK, timeout=0.3) == {None: 10}
        assert connect_many(net, "tailscale0", 10) == {LTE: 10}


class Tunnel:
    """A UDP socket with a mark, neither bound nor connected, that sends to one far end every 10 ms."""

    def __init__(self, net: Network, mark: int, family: int) -> None:
        self._to = (layout.server(9, family), echo.PORT)
        self._ended = threading.Event()
        self._last: dict[int | None, float] = {}
        with net.inside("router"):
            self._socket = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        self._socket.setblocking(False)
        self._socket.bind(("", 0))
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Tunnel:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=5)
        self._socket.close()

    def _run(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(OSError):  # nowhere to go for a moment; a tunnel's program tries again
                self._socket.sendto(b"x", self._to)
            if select.select([self._socket], [], [], 0.01)[0]:
                try:
                    seen = self._socket.recv(100).split()[0].decode()
                except OSError:
                    continue
                self._last[layout.uplink_of(seen)] = time.monotonic()
            self._ended.wait(0.01)

    def wait_answer(self, uplink: int, timeout: float) -> None:
        """Until one is answered by the uplink, from now on, seconds."""
        begin = time.monotonic()
        while self._last.get(uplink, 0.0) < begin:
            assert time.monotonic() - begin < timeout, self._last
            time.sleep(0.005)
