"""The router's own connections when their uplink dies: none waits for its program's patience to end."""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from mlbd.lab import echo, layout
from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network
from mlbd.lab.traffic import TcpConversation, connect_many
from tests.lab.inbound import asked
from tests.lab.scene import QUICK, tables, wait_usable

OWN = ["route", "mark"]
PROBES = QUICK.replace("[probe]\n", f'[probe]\ntargets = ["tcp://{layout.server(9)}:7"]\n')


def own(net: Network, uplink: int, interval: float | None = None) -> TcpConversation:
    """A conversation of the router that goes by that uplink."""
    while True:
        found = TcpConversation(net, "router", interval=interval)
        if found.uplink == uplink:
            return found
        found.close()


def udp(net: Network, uplink: int, interface: str = "") -> socket.socket:
    """A connected socket of the router whose packets leave by that uplink."""
    for number in range(1, 200):
        with net.inside("router"):
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        if interface:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        made.settimeout(1.0)
        made.connect((layout.server(number), echo.PORT))
        made.send(b"hello\n")
        if layout.uplink_of(made.recv(100).split()[0].decode()) == uplink:
            return made
        made.close()
    raise AssertionError(f"no socket leaves by {uplink}")


def connecting(net: Network, uplink: int) -> socket.socket:
    """A socket of the router that has sent a SYN by that uplink, which nobody answers."""
    for number in range(1, 200):
        with net.inside("router"):
            made = socket.socket()
        made.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            made.connect((layout.server(number), echo.PORT))
        if made.getsockname()[0] == net.uplink(uplink).address:
            return made
        made.close()
    raise AssertionError(f"no socket leaves by {uplink}")


def outcome(made: socket.socket, timeout: float) -> int:
    """The error that ends the wait for a connection, 0 if there is one, ETIMEDOUT after the timeout."""
    with selectors.DefaultSelector() as selector:
        selector.register(made, selectors.EVENT_WRITE)
        ready = selector.select(timeout)
    return made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if ready else errno.ETIMEDOUT


@dataclass
class Outage:
    """Of uplink 1, which is over when the tests look."""

    net: Network
    own_connections: str
    switched: float
    """When new connections had moved, monotonic seconds."""
    sending: TcpConversation
    idle: TcpConversation
    others: TcpConversation
    asked: float | None
    """Seconds from the switch until a connected UDP socket had an error; None: it had none."""
    after: int
    """The error that a new connect() got which was under way; 0: it connected."""
    waited: float
    """Seconds from the switch until then."""
    bound: int
    """Likewise of a UDP socket bound to the device, which is left alone."""
    inbound: bool
    """Whether somebody in the internet was answered meanwhile, as the uplink was dead for probes only."""


@pytest.fixture(scope="module", params=OWN)
def outage(request: pytest.FixtureRequest) -> Iterator[Outage]:
    daemon_table = f'[daemon]\nown_connections = "{request.param}"\n'
    with Network(2) as net, Daemon(net, tables(net) + PROBES + daemon_table) as daemon:
        wait_usable(daemon, "wan1", "wan2")
        with net.inside("router"):
            server = echo.start()
        sending, idle, others = own(net, 1, 0.05), own(net, 1), own(net, 2, 0.05)
        datagrams, device = udp(net, 1), udp(net, 1, "wan1")
        net.silence(1)
        begun = connecting(net, 1) if request.param == "route" else None
        wait_usable(daemon, "wan2")
        switched = time.monotonic()
        after, waited = (outcome(begun, 5.0), time.monotonic() - switched) if begun is not None else (0, 0.0)
        told = failed(datagrams, 3.0)
        alone = 0
        try:
            device.send(b"hello\n")
        except OSError as error:
            alone = error.errno or 0
        sending.wait_reset(5.0)
        inbound = False
        net.speak(1)
        inbound = asked(net, "tcp", 4, 1, echo.PORT)
        wait_usable(daemon, "wan1", "wan2")
        yield Outage(net, request.param, switched, sending, idle, others, told, after, waited, alone, inbound)
        for conversation in (sending, idle, others):
            conversation.close()
        server.kill()
        server.wait()
        assert "Traceback" not in daemon.log_text()


def failed(made: socket.socket, timeout: float) -> float | None:
    """Seconds until sending or receiving on it gives an error or an answer; None: an answer, or neither."""
    began = time.monotonic()
    made.settimeout(0.1)
    while time.monotonic() < began + timeout:
        try:
            made.send(b"hello\n")
            made.recv(100)
            return None
        except TimeoutError:
            continue
        except OSError:
            return time.monotonic() - began
    return timeout


def test_what_sends_is_reset(outage: Outage) -> None:
    """An established connection that goes on sending ends with a reset, at most 3 s after the switch."""
    assert outage.sending.reset is not None
    assert outage.sending.reset - outage.switched < 3.0
    assert isinstance(outage.sending.error, ConnectionResetError)


def test_what_is_idle_survives(outage: Outage) -> None:
    """A connection that sends nothing meanwhile goes on afterwards."""
    outage.idle.say()


def test_the_others_go_on(outage: Outage) -> None:
    """Connections by the other uplink are not touched."""
    assert outage.others.reset is None


def test_connected_udp_begins_anew(outage: Outage) -> None:
    """A connected UDP socket gets an error at once, so that another is made; where marks choose it moves."""
    if outage.own_connections == "mark":
        assert outage.asked is None
    else:
        assert outage.asked is not None
        assert outage.asked < 1.0


def test_connect_begins_anew(outage: Outage) -> None:
    """A connect() that waits for an answer by the dead uplink fails at once, so that its program tries again."""
    if outage.own_connections == "route":
        assert (errno.errorcode[outage.after], outage.waited < 1.0) == ("ECONNABORTED", True)


def test_what_is_bound_to_the_device_is_left_alone(outage: Outage) -> None:
    """Who bound a socket to the uplink's interface meant that uplink."""
    assert outage.bound == 0


def test_who_came_in_is_served(outage: Outage) -> None:
    """A client that comes in by the uplink before it is proven again is answered."""
    assert outage.inbound


def test_all_is_well_afterwards(outage: Outage) -> None:
    """New connections of the router use both, and no packet had a wrong source."""
    assert connect_many(outage.net, "router", 60).keys() == {1, 2}
    assert [outage.net.wrong_source(1), outage.net.wrong_source(2)] == [0, 0]
