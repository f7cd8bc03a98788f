"""Orders for ports of a bond, what they ask seen on the wire, and what their neighbour believes."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from mlbd.core.probing import Order
from mlbd.core.settings import Target
from tests.vm.pair import Pair

FAR = "192.168.1.1"
_NEIGHBOUR = Target(FAR, kind="neighbour")
ETH_P_ARP = 0x0806


def ask(port: str, round_: int, source: str, address: str = FAR) -> Order:
    """To be sent from within the place that the port is in."""
    index = socket.if_nametoindex(port)
    return Order(f"bond0/{port}", 0, round_, port, index, address, _NEIGHBOUR, sources=(source,), bundle="bond0")


@contextmanager
def arp_heard(net: Pair, where: str, port: str) -> Iterator[socket.socket]:
    """What ARP comes in there; whole frames."""
    with net.inside(where):
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL: also what a bridge takes
        made.bind((port, 3))
    with made:
        made.setblocking(False)
        yield made


def requests(heard: socket.socket) -> list[tuple[str, str, str]]:
    """Ethernet source, and the sender's Ethernet and IPv4 address, of the ARP requests that came in until now."""
    found: list[tuple[str, str, str]] = []
    while True:
        try:
            frame, about = heard.recvfrom(2048)
        except BlockingIOError:
            return found
        if about[2] != socket.PACKET_OUTGOING and frame[12:14] == b"\x08\x06" and frame[20:22] == b"\x00\x01":
            found.append((frame[6:12].hex(":"), frame[22:28].hex(":"), socket.inet_ntoa(frame[28:32])))


def neighbours(net: Pair, where: str) -> dict[str, str]:
    """Ethernet addresses by IPv4 address, as the kernel there believes."""
    known = json.loads(net.run(where, ["ip", "-4", "-j", "neigh"]))
    return {entry["dst"]: entry["lladdr"] for entry in known if "lladdr" in entry}
