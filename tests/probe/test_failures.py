from __future__ import annotations

import errno
import socket
import struct

import pytest
from msgspec.structs import replace

from mlbd.core.probing import Failure
from mlbd.probe import errors
from tests.probe.asking import ORDER, Asking, asking, kinds, to
from tests.probe.network import Provider, message, quoting_ip, request, sh


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("203.0.113.1", "host unreachable, says 10.1.0.1"),
        ("2001:db8:ffff::1", "no route to destination, says 2001:db8:1::1"),
    ],
)
def test_unreachable_says_the_router(isp1: Provider, address: str, text: str) -> None:
    """A router's ICMP error becomes a failure of the very probe it quotes, and says who said it."""
    isp1.sh(f"ip route add unreachable {address}")

    async def story(asked: Asking) -> None:
        asked.prober.send(to(isp1, address, 7, target=2))
        assert await asked.until(1) == [Failure("fiber", 2, 7, "unreachable", text)]

    asking(story)


def test_unreachable_of_the_right_probe(isp1: Provider) -> None:
    """An error that quotes the older of two probes fails that one only; one that quotes a stranger's fails none."""
    isp1.deaf()

    async def story(asked: Asking) -> None:
        with isp1.raw() as raw:
            asked.prober.send(to(isp1, isp1.gateway, 1))
            asked.prober.send(to(isp1, isp1.gateway, 2))
            first, _second = request(raw), request(raw)
            stranger = bytearray(first[:8])
            stranger[4] ^= 0xFF

            def complain(about: bytes, destination: str) -> None:
                error = message(11, 0, struct.pack("!I", 0) + quoting_ip("10.1.0.2", destination, about))
                raw.sendto(error, ("10.1.0.2", 0))

            complain(bytes(stranger), "10.1.0.1")
            complain(first, "10.1.0.77")
            assert await asked.silence() == []
            complain(first[:8], "10.1.0.1")
            expected = Failure("fiber", 0, 1, "unreachable", "time to live exceeded, says 10.1.0.1")
            assert await asked.silence() == [expected]

    asking(story)


def test_firewall(isp1: Provider) -> None:
    """A probe refused by this router's own output chain is told from a lost one; so is the next, and then it works."""
    sh("nft 'table inet t { chain o { type filter hook output priority 0; ip daddr 10.1.0.1 drop; }; }'")

    async def story(asked: Asking) -> None:
        for round_ in (1, 2):
            asked.prober.send(to(isp1, isp1.gateway, round_))
        assert asked.heard == []
        text = "EPERM: a firewall on this router refused the packet"
        assert await asked.until(2) == [Failure("fiber", 0, r, "firewall", text) for r in (1, 2)]
        sh("nft delete table inet t")
        asked.prober.send(to(isp1, isp1.gateway, 3))
        assert kinds(await asked.until(3))[2:] == ["fiber/0/3 reply"]

    asking(story)


@pytest.mark.parametrize("address", ["10.1.0.1", "2001:db8:1::1"])
def test_interface_made_again(isp1: Provider, address: str) -> None:
    """An interface deleted and made again is probed again with the next order that knows its new index."""

    async def story(asked: Asking) -> None:
        old = to(isp1, address, 1)
        asked.prober.send(old)
        await asked.until(1)
        sh("ip link del wan1")
        asked.prober.send(replace(old, round=2))
        asked.prober.send(replace(old, round=3))
        await asked.until(3)
        isp1.plug_in()
        assert isp1.index != old.interface_index
        asked.prober.send(to(isp1, address, 4))
        reported = kinds(await asked.until(4))
        local = "no-route" if ":" in address else "no-device"  # IPv6 finds no route before it misses the device
        assert reported == [
            "fiber/0/1 reply", f"fiber/0/2 {local}", f"fiber/0/3 {local}", "fiber/0/4 reply",
        ]  # fmt: skip

    asking(story)


def test_no_such_interface() -> None:
    """An order for an interface that does not exist fails with its name."""

    async def story(asked: Asking) -> None:
        asked.prober.send(replace(ORDER, interface="nope7"))
        expected = Failure("fiber", 0, 1, "no-device", "ENODEV: there is no interface nope7")
        assert await asked.until(1) == [expected]

    asking(story)


def test_interface_down(isp1: Provider) -> None:
    """An interface that is administratively down has no route."""
    sh("ip link set wan1 down")

    async def story(asked: Asking) -> None:
        asked.prober.send(to(isp1, isp1.gateway))
        text = "ENETUNREACH: no route to 10.1.0.1 by wan1"
        assert await asked.until(1) == [Failure("fiber", 0, 1, "no-route", text)]

    asking(story)


def test_no_route(isp1: Provider) -> None:
    """Without a route by the interface IPv6 says so at once. (IPv4 would look for the target on the link.)"""
    sh("ip -6 route flush table 20129")

    async def story(asked: Asking) -> None:
        asked.prober.send(to(isp1, "2001:db8:ffff::1"))
        text = "ENETUNREACH: no route to 2001:db8:ffff::1 by wan1"
        assert await asked.until(1) == [Failure("fiber", 0, 1, "no-route", text)]

    asking(story)


def test_no_privileges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without CAP_NET_RAW the failure says which right is missing and how to get it."""
    real = socket.socket

    def refuse(family: int, kind: int, protocol: int = 0) -> socket.socket:
        if kind == socket.SOCK_RAW:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return real(family, kind, protocol)

    async def story(asked: Asking) -> None:
        monkeypatch.setattr("mlbd.probe.echo_socket.socket.socket", refuse)
        asked.prober.send(ORDER)
        monkeypatch.undo()
        text = "EPERM: no right to open a raw socket; run mlbd as root or give it CAP_NET_RAW"
        assert await asked.until(1) == [Failure("fiber", 0, 1, "other", text)]

    asking(story)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EPERM, "firewall"),
        (errno.ENETUNREACH, "no-route"),
        (errno.EHOSTUNREACH, "no-route"),
        (errno.EACCES, "no-route"),
        (errno.EINVAL, "no-route"),
        (errno.ENODEV, "no-device"),
        (errno.ENXIO, "no-device"),
        (errno.ENETDOWN, "no-device"),
        (errno.EADDRNOTAVAIL, "no-address"),
        (errno.ENOBUFS, "no-buffer"),
        (errno.EAGAIN, "no-buffer"),
        (errno.ENOMEM, "no-buffer"),
        (errno.EMSGSIZE, "other"),
    ],
)
def test_kinds_of_local_errors(number: int, kind: str) -> None:
    """Every errno has the kind that `FailureKind` promises, and a text that begins with its name."""
    got, text = errors.sending(OSError(number, "?"), ORDER)
    assert (got, text.split(":")[0]) == (kind, errno.errorcode[number])
