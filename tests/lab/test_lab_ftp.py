"""Debian's FTP server and client work in the lab, and it tells by which uplinks their connections went."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pytest

from mlbd.lab.network import Network
from tests.schemes.ftp import NEEDS_VSFTPD, Ftp, FtpError, Transfer, fetch

pytestmark = NEEDS_VSFTPD
_ROUTER = """
table inet nat {
  ct helper ftp { type "ftp" protocol tcp; }
  chain pre {
    type filter hook prerouting priority 0; policy accept;
    iifname "lan1" tcp dport 21 ct helper set "ftp"
  }
  chain post {
    type nat hook postrouting priority srcnat; policy accept;
    oifname "wan*" masquerade
  }
}
"""


@pytest.fixture(scope="module")
def ftp() -> Iterator[tuple[Network, Ftp]]:
    with Network(2, lans=2) as net, Ftp(net) as server:
        net.run("router", ["nft", "-f", "-"], text=_ROUTER)
        yield net, server


@pytest.mark.parametrize("mode", ["passive", "active"])
@pytest.mark.parametrize(("family", "extended"), [(4, False), (4, True), (6, True)])
@pytest.mark.parametrize("where", ["lan1", "router"])
def test_a_file_comes(
    ftp: tuple[Network, Ftp], where: str, mode: Literal["passive", "active"], family: int, extended: bool
) -> None:
    """By all commands that open data connections, both connections seen by the uplink they went by."""
    net, server = ftp
    found = fetch(net, where, mode=mode, server=7, family=family, extended=extended)
    assert found == Transfer(server.content, 1, 1)
    assert net.wrong_source(1) == 0


def test_connections_may_go_apart(ftp: tuple[Network, Ftp]) -> None:
    """Without a helper the data connection may take another uplink, and the server does not mind."""
    net, server = ftp
    gateway = net.uplink(2).gateway
    rule = ["from", "192.168.2.0/24", "ipproto", "tcp", "dport", "1024-65534", "lookup", "77"]
    net.run("router", ["ip", "route", "add", "default", "via", gateway, "table", "77"])
    net.run("router", ["ip", "rule", "add", *rule])
    assert fetch(net, "lan2") == Transfer(server.content, 1, 2)


def test_a_file_that_cannot_come(ftp: tuple[Network, Ftp]) -> None:
    """Active, from behind translation without a helper: the client's error is told."""
    net, _server = ftp
    with pytest.raises(FtpError, match=r"curl: "):
        fetch(net, "lan2", mode="active")
