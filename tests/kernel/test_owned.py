"""Ending sockets of our own."""

from __future__ import annotations

import contextlib
import errno
import socket
from contextlib import ExitStack

from mlbd.kernel import owned
from tests.kernel.contract import K1
from tests.kernel.namespace import run, veth_pairs


def error_of(made: socket.socket) -> str:
    return errno.errorcode.get(made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), "")


def test_only_what_can_not_go_on_is_ended() -> None:
    """Connected UDP and connecting TCP sockets from the address end with an error, in either family, and IPv4 ones that
    an IPv6 socket made; not those of another address, bound to a device, unconnected or listening.
    """
    with veth_pairs(), ExitStack() as stack:
        run("ip link set lo up", "ip address add 10.9.9.9/32 dev lo")
        for far in ("10.9.1.77", "2001:db8:1::77"):
            run(f"ip neigh replace {far} lladdr 02:00:00:00:00:77 dev {K1}")

        def opened(source: str, kind: socket.SocketKind, far: str = "", device: str = "") -> socket.socket:
            made = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET, kind))
            if device:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            made.setblocking(False)
            made.bind((source, 0))
            with contextlib.suppress(BlockingIOError):
                made.connect((far, 7)) if far else None
            return made

        udp, tcp = socket.SOCK_DGRAM, socket.SOCK_STREAM
        doomed = [
            opened("10.9.1.2", udp, "10.9.1.77"),
            opened("10.9.1.2", tcp, "10.9.1.77"),
            opened("2001:db8:1::2", udp, "2001:db8:1::77"),
            opened("2001:db8:1::2", tcp, "2001:db8:1::77"),
            opened("::ffff:10.9.1.2", udp, "::ffff:10.9.1.77"),
            opened("::ffff:10.9.1.2", tcp, "::ffff:10.9.1.77"),
        ]
        listening = opened("10.9.1.2", tcp)
        listening.listen()
        spared = [
            opened("10.9.9.9", udp, "10.9.1.77"),
            opened("10.9.9.9", tcp, "10.9.1.77"),
            opened("10.9.1.2", udp, "10.9.1.77", K1),
            opened("10.9.1.2", udp),
            listening,
        ]
        assert owned.abandon(["10.9.1.2", "2001:db8:1::2"]) == len(doomed)
        assert [error_of(made) for made in doomed] == ["ECONNABORTED"] * len(doomed)
        assert [error_of(made) for made in spared] == [""] * len(spared)
        assert owned.abandon(["10.9.1.2"]) == owned.abandon([]) == 0


def test_established_sockets_of_an_address_that_is_gone() -> None:
    """They end with an error once the router does not have the address any more, and not before."""
    with veth_pairs(), ExitStack() as stack:
        run("ip link set lo up", "ip address add 10.9.9.8/32 dev lo", "ip address add 10.9.9.9/32 dev lo")
        server = stack.enter_context(socket.create_server(("10.9.9.9", 7)))
        client = stack.enter_context(socket.create_connection(("10.9.9.9", 7), source_address=("10.9.9.8", 0)))
        stack.enter_context(server.accept()[0])
        assert owned.abandon([], ["10.9.9.8"]) == 0
        run("ip address del 10.9.9.8/32 dev lo")
        assert owned.abandon([], ["10.9.9.8"]) == 1
        assert error_of(client) == "ECONNABORTED"
