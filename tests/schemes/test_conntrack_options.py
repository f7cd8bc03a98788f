"""Two options of `[conntrack]`: what moved away when a better tier recovers, FTP data that stays with its control."""

from __future__ import annotations

import ftplib
import json
import socket
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from mlbd.lab import layout
from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network, wait_until
from mlbd.lab.stream import UdpStream
from mlbd.lab.traffic import TcpConversation, connect_many
from tests.lab.scene import QUICK, Start, conversation_by, ruleset, stream_by, tables, wait_usable

_TIERS = '[[policy]]\nname = "p"\nmembers = [["wan1"], ["wan2"]]\n'


def uplinks_since(stream: UdpStream, moment: float) -> set[int | None]:
    """By which uplinks its packets went that were sent in the 0.2 s from then on; None stands for those lost."""
    wait_until(lambda: time.monotonic() > moment + 0.3)
    return {p.uplink for p in stream.so_far(since=moment).packets if p.sent < moment + 0.2}


@pytest.mark.parametrize(("on_recover", "afterwards"), [("flush", 1), ("keep", 2)])
def test_when_a_better_tier_recovers(start: Start, on_recover: str, afterwards: int) -> None:
    """A UDP stream that moved to a lower tier goes back with "flush" and stays with "keep"; neither breaks TCP."""
    net, daemon = start(config=QUICK + _TIERS + f'[conntrack]\non_recover = "{on_recover}"\n')
    with stream_by(net, 1, rate=200) as stream:
        net.silence(1, gateway=True)
        wait_usable(daemon, "wan2")
        assert uplinks_since(stream, time.monotonic() + 0.1) == {2}
        with conversation_by(net, 2, interval=0.02) as talking:
            net.speak(1)
            wait_usable(daemon, "wan1", "wan2")
            recovered = time.monotonic()
            assert connect_many(net, "lan1", 20) == {1: 20}
            assert uplinks_since(stream, recovered + 0.1) == {afterwards}
            assert goes_on_undisturbed(talking, recovered)
    assert [net.wrong_source(n) for n in (1, 2)] == [0, 0]


def goes_on_undisturbed(talking: TcpConversation, moment: float) -> bool:
    """Whether it was not reset, and exchanged more since then without a retransmission."""
    took = [e.answered - e.sent for e in talking.exchanges if e.answered > moment]
    return talking.reset is None and len(took) > 5 and max(took) < 0.5


class Session(socketserver.StreamRequestHandler):
    """One control connection: RFC 959 as far as ftplib asks for it, RFC 2428 for IPv6.

    The file is a line, repeated: the addresses that the control and the data connection have, as seen from here.
    """

    disable_nagle_algorithm = True
    connection: socket.socket
    _passive: socket.socket | None = None
    _active: tuple[str, int] | None = None

    def handle(self) -> None:
        self._reply("220 ready")
        for line in self.rfile:
            verb, _, argument = line.decode().strip().partition(" ")
            match verb:
                case "USER":
                    self._reply("230 logged in")
                case "TYPE":
                    self._reply("200 as you like")
                case "PASV" | "EPSV":
                    self._reply(self._listen(extended=verb == "EPSV"))
                case "PORT":
                    numbers = argument.split(",")
                    self._active = ".".join(numbers[:4]), int(numbers[4]) * 256 + int(numbers[5])
                    self._reply("200 will connect")
                case "EPRT":
                    _, _, address, port, _ = argument.split("|")
                    self._active = address, int(port)
                    self._reply("200 will connect")
                case "RETR":
                    self._send()
                case _:
                    self._reply("221 bye")
                    return

    def _reply(self, line: str) -> None:
        self.wfile.write(line.encode() + b"\r\n")

    def _here(self) -> str:
        address: str = self.connection.getsockname()[0]
        return address

    def _listen(self, *, extended: bool) -> str:
        self._passive = socket.create_server((self._here(), 0), family=self.connection.family)
        port = self._passive.getsockname()[1]
        if extended:
            return f"229 listening (|||{port}|)"
        return f"227 listening ({self._here().replace('.', ',')},{port // 256},{port % 256})"

    def _send(self) -> None:
        try:
            if self._passive is not None:
                with self._passive:
                    self._passive.settimeout(1)
                    data, peer = self._passive.accept()
            else:
                assert self._active is not None
                data = socket.create_connection(self._active, timeout=1, source_address=(self._here(), 0))
                peer = self._active
        except OSError as error:
            self._reply(f"425 {error.strerror}")
            return
        self._reply("150 here it comes")
        with data:
            data.sendall(f"{self.client_address[0]} {peer[0]}\n".encode() * 1000)
        self._reply("226 done")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True

    def __init__(self, family: int) -> None:
        self.address_family = socket.AF_INET if family == 4 else socket.AF_INET6
        super().__init__(("", 21), Session)


@contextmanager
def ftp_server(net: Network, family: int) -> Iterator[None]:
    """At every server's address."""
    with net.inside("internet"):  # threads stay where they were started
        server = Server(family)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True, slots=True)
class Transfer:
    """By which uplinks one file came; None, and the reply, if it did not."""

    control: int | None
    data: int | None
    error: str = ""


def fetch(net: Network, where: str, number: int, family: int, *, passive: bool) -> Transfer:
    """The file, from the server of that number."""
    lines: list[str] = []
    with net.inside(where), ftplib.FTP(layout.server(number, family), timeout=5) as client:
        client.login()  # says USER first: what begins a connection, the helper does not parse
        client.set_pasv(passive)
        try:
            client.retrlines("RETR file", lines.append)
        except ftplib.Error as error:
            return Transfer(None, None, str(error))
    assert (len(lines), len(set(lines))) == (1000, 1)
    control, data = lines[0].split()
    return Transfer(uplink_seen(net, control), uplink_seen(net, data))


def uplink_seen(net: Network, address: str) -> int | None:
    """By a provider's address, or by the router's, which a provider of the lab leaves in PORT and routes."""
    own = {uplink.address: uplink.number for uplink in net.uplinks}
    return own.get(address) or layout.uplink_of(address)


_MASQUERADE6 = ('nat6 = "masquerade"',) * 3
_ROUND_ROBIN = '[[policy]]\nname = "p"\nmethod = "round-robin"\nmembers = ["wan1", "wan2", "wan3"]\n'
_FIREWALL = """
table inet firewall {
  chain input {
    type filter hook input priority filter; policy accept;
    ct state { established, related } accept
    iifname { "wan1", "wan2", "wan3" } meta l4proto tcp reject with tcp reset
  }
}
"""


@pytest.fixture(scope="module")
def routed() -> Iterator[tuple[Network, Daemon]]:
    """Three uplinks in turn, IPv6 masqueraded too, on a router with a firewall of its own."""
    with Network(3) as net, Daemon(net, tables(net, *_MASQUERADE6) + _ROUND_ROBIN) as daemon:
        net.run("router", ["nft", "-f", "-"], text=_FIREWALL)
        yield net, daemon
        assert "Traceback" not in daemon.log_text()


def assign(net: Network, daemon: Daemon, helpers: list[str]) -> None:
    """Make the running daemon assign exactly these helpers."""
    daemon.configure(tables(net, *_MASQUERADE6) + _ROUND_ROBIN + f"[conntrack]\nhelpers = {json.dumps(helpers)}\n")
    daemon.reload()
    wait_until(lambda: ("ct helper set" in ruleset(net)) is bool(helpers), what=f"that {helpers} are assigned")


_TOGETHER = {Transfer(n, n): 4 for n in (1, 2, 3)}
_APART = {Transfer(n, n % 3 + 1): 4 for n in (1, 2, 3)}
"""A data connection that is like any other takes its turn after its control connection."""
_REFUSED = {Transfer(None, None, "425 Network is unreachable"): 12}
"""The server was told the client's address in the LAN."""


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(
    ("helpers", "passive", "expected"),
    [(["ftp"], True, _TOGETHER), ([], True, _APART), (["ftp"], False, _TOGETHER), ([], False, _REFUSED)],
    ids=["passive", "passive-unaided", "active", "active-unaided"],
)
def test_ftp_data_follows_its_control_connection(
    routed: tuple[Network, Daemon], helpers: list[str], passive: bool, expected: dict[Transfer, int], family: int
) -> None:
    """With the helper every data connection of a LAN's client uses the uplink of its control connection, passive and
    active; without it passive ones go elsewhere, and active ones nowhere.
    """
    net, daemon = routed
    assign(net, daemon, helpers)
    with ftp_server(net, family):
        assert Counter(fetch(net, "lan1", n, family, passive=passive) for n in range(1, 13)) == expected
    assert [net.wrong_source(n) for n in (1, 2, 3)] == [0, 0, 0]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize(("helpers", "errors"), [(["ftp"], {""}), ([], {"425 Connection refused"})])
def test_firewalls_know_active_ftp_of_the_router(
    routed: tuple[Network, Daemon], helpers: list[str], errors: set[str], family: int
) -> None:
    """With the helper the router's own active FTP passes a firewall that lets in what is related, and only then."""
    net, daemon = routed
    assign(net, daemon, helpers)
    with ftp_server(net, family):
        found = [fetch(net, "router", n, family, passive=False) for n in range(1, 7)]
    assert {transfer.error for transfer in found} == errors
    assert [transfer.data for transfer in found] == [transfer.control for transfer in found]
    assert [net.wrong_source(n) for n in (1, 2, 3)] == [0, 0, 0]
