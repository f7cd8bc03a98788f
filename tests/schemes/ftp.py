"""FTP with Debian's own programs: vsftpd in the internet, curl anywhere. Set-up unpacks vsftpd into build/debian."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import pytest

from mlbd.lab import layout
from mlbd.lab.network import Network, wait_until

_DEBIAN = Path(__file__).parent.parent.parent / "build" / "debian"
_VSFTPD = _DEBIAN / "usr" / "sbin" / "vsftpd"
_CONFIG = """\
listen=NO
listen_ipv6=YES
background=NO
run_as_launching_user=YES
ftp_username=root
nopriv_user=root
anonymous_enable=YES
no_anon_password=YES
anon_root={directory}/share
secure_chroot_dir={directory}/empty
connect_from_port_20=NO
pasv_promiscuous=YES
port_promiscuous=YES
seccomp_sandbox=NO
isolate=NO
isolate_network=NO
"""
"""For vsftpd.conf(5). In the sandbox there may be no other user than root, who may not change to one; and a data
connection that comes from elsewhere than its control connection is what tests want to see, not a reason to refuse it.
"""
_TRACK = "table inet ftp { chain arrive { type filter hook prerouting priority 0; ct state new accept; }; }"
_ENTRY = re.compile(r"src=(\S+) dst=(\S+) sport=(\d+) dport=(\d+)")

_CONTROL = 21

NEEDS_VSFTPD = pytest.mark.skipif(not _VSFTPD.exists(), reason="set-up got no vsftpd: Debian's apt-get is needed")


class FtpError(Exception):
    """The file did not come; the message is curl's."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """A file, and the uplinks by which the server saw its connections; None: by none."""

    content: bytes
    control: int | None
    data: int | None


class Ftp:
    """vsftpd, at the addresses of all servers, IPv4 and IPv6, with one file of 100 kB for anybody."""

    def __init__(self, net: Network) -> None:
        self._net = net
        self.content = secrets.token_bytes(100_000)
        self._directory = net.directory / "ftp"

    def __enter__(self) -> Self:
        for name in ("empty", "share"):
            (self._directory / name).mkdir(parents=True)
        (self._directory / "share" / "file").write_bytes(self.content)
        config = self._directory / "vsftpd.conf"
        config.write_text(_CONFIG.format(directory=self._directory))
        self._net.run("internet", ["nft", "-f", "-"], text=_TRACK)
        libraries = {str(path.parent) for path in _DEBIAN.rglob("*.so.*")}
        self._process = self._net.spawn(
            "internet",
            [str(_VSFTPD), str(config)],
            env={**os.environ, "LD_LIBRARY_PATH": ":".join(sorted(libraries))},
            start_new_session=True,  # its children, one for each session, end with it
        )
        wait_until(lambda: ":21 " in self._net.run("internet", ["ss", "-Htln"]), what="that vsftpd listens")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._net.run("internet", ["nft", "delete", "table", "inet", "ftp"])


def fetch(
    net: Network,
    where: str,
    *,
    mode: Literal["passive", "active"] = "passive",
    server: int = 1,
    family: int = 4,
    extended: bool = False,
    timeout: float = 5.0,
) -> Transfer:
    """The file from the server of that number, with curl, by PASV or PORT; over IPv6, or `extended`, by EPSV or EPRT
    (RFC 2428). Raises FtpError; the timeout is of the whole, seconds.
    """
    address = layout.server(server, family)
    before = _connections(net, address)
    url = f"ftp://{address}/file" if family == 4 else f"ftp://[{address}]/file"
    command = ["curl", "--silent", "--show-error", "--max-time", str(timeout), url]
    command += ["--ftp-port", "-"] if mode == "active" else []
    if not extended and family == 4:
        command.append("--disable-eprt" if mode == "active" else "--disable-epsv")
    with net.inside(where):
        done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0:
        raise FtpError(done.stderr.decode().strip())
    new = _connections(net, address) - before
    control = {entry.peer for entry in new if entry.port == _CONTROL}
    data = {entry.peer for entry in new if entry.port != _CONTROL}
    return Transfer(done.stdout, _uplink(net, control), _uplink(net, data))


@dataclass(frozen=True, slots=True)
class _Connection:
    """One of the server's, as it sees it; conntrack remembers it for two minutes."""

    peer: str
    port: int
    """The server's."""
    peer_port: int


def _connections(net: Network, server: str) -> set[_Connection]:
    family = "ipv6" if ":" in server else "ipv4"
    found = set()
    for line in net.run("internet", ["conntrack", "-L", "-f", family, "-p", "tcp"]).splitlines():
        entry = _ENTRY.search(line)
        if entry is None:
            continue
        source, destination, source_port, port = entry.groups()
        if destination == server:
            found.add(_Connection(source, int(port), int(source_port)))
        elif source == server:
            found.add(_Connection(destination, int(source_port), int(port)))
    return found


def _uplink(net: Network, peers: set[str]) -> int | None:
    """By a provider's address, or by the router's, which an active client names and a provider of the lab routes."""
    own = {uplink.address: uplink.number for uplink in net.uplinks}
    return next((own.get(peer) or layout.uplink_of(peer) for peer in peers), None) if len(peers) == 1 else None
