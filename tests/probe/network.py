"""A provider in a namespace of its own behind a veth pair, for tests that run in a private network namespace."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def sh(command: str) -> None:
    """Run one command line; its failure fails the test and shows why."""
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"


def _enter(namespace: int) -> None:
    assert _libc.setns(namespace, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())


class Provider:
    """Number n: we have `wan<n>` with 10.<n>.0.2 and 2001:db8:<n>::2, it has 10.<n>.0.1 and 2001:db8:<n>::1."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.interface = f"wan{number}"
        self.gateway = f"10.{number}.0.1"
        self.gateway6 = f"2001:db8:{number}::1"
        self.gateway_link_local = f"fe80::{number}:1"
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY)
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        own = Path("/proc/self/ns/net").readlink()
        path = Path(f"/proc/{self._holder.pid}/ns/net")
        while path.readlink() == own:
            time.sleep(0.002)
        self._namespace = os.open(path, os.O_RDONLY)
        self.plug_in()
        # What mlbd gives every uplink: a probe table of its own, whatever else routing says.
        for family in ("-4", "-6"):
            sh(f"ip {family} rule add pref {11000 + number} oif {self.interface} lookup {20128 + number}")

    def plug_in(self) -> None:
        """Make the veth pair, with addresses and the route of the probe table."""
        n, wan = self.number, self.interface
        sh(f"ip link add {wan} type veth peer name port netns {self._holder.pid}")
        self.sh("ip link set lo up; ip link set port addrgenmode none; ip link set port up")
        self.sh("sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0")
        self.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
        self.sh(f"ip addr add 10.{n}.0.1/24 dev port; ip addr add 10.{n}.0.9/24 dev port")
        self.sh(f"ip addr add 2001:db8:{n}::1/64 dev port nodad; ip addr add fe80::{n}:1/64 dev port nodad")
        # Addresses without duplicate address detection, which would keep them unusable for seconds.
        sh(f"ip link set {wan} addrgenmode none; ip link set {wan} up; ip addr add 10.{n}.0.2/24 dev {wan}")
        sh(f"ip addr add 2001:db8:{n}::2/64 dev {wan} nodad; ip addr add fe80::{n}:2/64 dev {wan} nodad")
        sh(f"ip route add default via 10.{n}.0.1 dev {wan} table {20128 + n}")
        sh(f"ip -6 route add default via 2001:db8:{n}::1 dev {wan} table {20128 + n}")
        # Until the kernel has noticed the carrier, up to a second later, it drops what is to be sent.
        sh(f"until ip link show {wan} | grep -q 'state UP'; do sleep 0.01; done")
        self.sh("until ip link show port | grep -q 'state UP'; do sleep 0.01; done")

    @property
    def index(self) -> int:
        return socket.if_nametoindex(self.interface)

    def sh(self, command: str) -> None:
        """Run a command line in the provider's namespace."""
        done = subprocess.run(
            ["nsenter", "-t", str(self._holder.pid), "-n", "sh", "-ec", command],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"

    def deaf(self) -> None:
        """Stop answering pings, while link and gateway stay up."""
        self.sh("sysctl -qw net.ipv4.icmp_echo_ignore_all=1 net.ipv6.icmp.echo_ignore_all=1")

    def opened(self, address: str, port: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A server's socket in the provider's namespace, where it stays; it listens."""
        _enter(self._namespace)
        try:
            made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
            scope = socket.if_nametoindex("port") if address.startswith("fe80:") else 0
        finally:
            _enter(self._home)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port, 0, scope) if ":" in address else (address, port))
        made.setblocking(False)
        if kind == socket.SOCK_STREAM:
            made.listen(64)
        return made

    @contextmanager
    def raw(self, address: str = "") -> Iterator[socket.socket]:
        """A raw ICMP socket in the provider's namespace, which sees our requests and can answer by hand."""
        _enter(self._namespace)
        try:
            made = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        finally:
            _enter(self._home)
        with made:
            made.settimeout(2)
            if address:
                made.bind((address, 0))
            yield made

    def hardware(self) -> bytes:
        """Our Ethernet address on the link."""
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as made:
            made.bind((self.interface, 0))
            found: bytes = made.getsockname()[4]
        return found

    @contextmanager
    def frames(self) -> Iterator[Callable[[], Iterator[bytes]]]:
        """Everything that the provider's end of the link sees; the call gives what came until then."""
        _enter(self._namespace)
        try:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL
            made.bind(("port", 3))
        finally:
            _enter(self._home)

        def came() -> Iterator[bytes]:
            with suppress(BlockingIOError):
                while True:
                    yield made.recv(4096)

        with made:
            made.setblocking(False)
            yield came

    def close(self) -> None:
        subprocess.run(["ip", "link", "del", self.interface], capture_output=True, check=False)
        for family in ("-4", "-6"):
            sh(f"ip {family} rule del pref {11000 + self.number}")
            sh(f"ip {family} route flush table {20128 + self.number}")
        self._holder.kill()
        self._holder.wait()
        os.close(self._namespace)
        os.close(self._home)


def request(raw: socket.socket) -> bytes:
    """The next echo request that arrives, without its IP header."""
    while True:
        packet = raw.recv(2048)
        icmp = packet[(packet[0] & 15) * 4 :]
        if icmp[0] == 8:
            return icmp


def message(kind: int, code: int, rest: bytes) -> bytes:
    """An ICMP message with its checksum; `rest` begins behind the checksum field."""
    data = struct.pack("!BBH", kind, code, 0) + rest
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    total += total >> 16
    return struct.pack("!BBH", kind, code, ~total & 0xFFFF) + rest


def reply(echo_request: bytes) -> bytes:
    """The echo reply to a request."""
    return message(0, 0, echo_request[4:])


def quoting_ip(source: str, destination: str, quoted: bytes) -> bytes:
    """An IPv4 packet of ICMP as an error quotes it."""
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(quoted), 1, 0, 63, socket.IPPROTO_ICMP, 0)
    return header + socket.inet_aton(source) + socket.inet_aton(destination) + quoted
