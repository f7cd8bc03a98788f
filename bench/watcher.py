"""From outside of all programs: when the router's kernel told of a lost carrier, and when it was changed.

    python -m bench.watcher

A process with two netlink sockets: links, addresses and IPv4 routes, and nftables. It reads the clock as soon as a
notification can be read, keeps both, and decodes and prints them only when nothing has come for 20 ms, so nothing of it
but a `recv` runs between the events that are measured. What mlbd and a reference do is seen by the same program in the
same way. Where it may, it has real-time priority: else it would be late whenever the program under test is woken first
on its core, by the same notification, and the time between would seem shorter than it is.

What it costs: one more process to wake when the carrier is lost. The bare listener's route changed no later after the
call that pulls the cable than with a watcher that does not hear of links (medians 0.55 and 0.71 ms of 150 pulls with
it, 0.58 and 0.73 ms without): less than what can be seen.

Sources: rtnetlink(7), sched(7), linux/rtnetlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from bench.listener import carriers
from mlbd.lab.namespaces import LabError
from mlbd.lab.network import Network

What = Literal["lost", "map", "route", "address"]
"""The kernel told that an interface has no carrier; that an element of mlbd's maps for new IPv4 connections, an IPv4
route, or an IPv4 address came or went."""

_LINK, _IPV4_ADDRESS, _IPV4_ROUTE, _NFTABLES = (1 << (group - 1) for group in (1, 5, 7, 7))
"""RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE; NFNLGRP_NFTABLES."""
_NETFILTER = 12
_KINDS: dict[int, What] = {20: "address", 21: "address", 24: "route", 25: "route"}
"""RTM_NEWADDR, RTM_DELADDR, RTM_NEWROUTE, RTM_DELROUTE."""
_ELEMENTS = (10 << 8 | 12, 10 << 8 | 14)
"""NFT_MSG_NEWSETELEM, NFT_MSG_DELSETELEM of NFNL_SUBSYS_NFTABLES."""
_MAPS = b"\0pick4_"
"""How the names of these maps begin; those of IPv6 follow other probes, and change at other times."""
_READY = "ready\n"
_QUIET = 20
"""Milliseconds."""
_BUFFER = 1 << 20
_Decode = Callable[[bytes], list[tuple[What, int]]]


@dataclass(frozen=True, slots=True)
class Event:
    at: float
    """Monotonic seconds."""
    what: What
    index: int
    """Of the interface that has no carrier; else 0."""


class Watcher:
    """Runs in the router from the moment it is made until the network is closed. Raises LabError if it has ended."""

    def __init__(self, net: Network) -> None:
        command = [sys.executable, "-m", __name__]
        self._process = net.spawn("router", command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        self._rest = b""
        self._events: list[Event] = []
        os.read(self._output, len(_READY))

    def first(self, what: What, since: float, *, index: int = 0, timeout: float = 5.0) -> float:
        """When the first such thing at or after a moment was told, monotonic seconds; `index`: of which interface.

        Waits for it until so many seconds after that moment, then raises LabError. Forgets what was before that moment.
        """
        while True:
            self._events = [event for event in self._events if event.at >= since]
            found = (event.at for event in self._events if event.what == what and event.index == index)
            at = next(found, None)
            if at is not None:
                return at
            left = since + timeout - time.monotonic()
            if left <= 0 or not self._read(left):
                raise LabError(f"Waited {timeout:g} s, and the kernel told of no {what}.")

    def _read(self, timeout: float) -> bool:
        """Whether something was told in time, seconds."""
        if not select.select([self._output], [], [], timeout)[0]:
            return False
        data = os.read(self._output, 1 << 16)
        if not data:
            raise LabError(f"The watcher ended with {self._process.wait()}.")
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            at, name, index = line.decode().split()
            what = next(what for what in get_args(What) if what == name)
            self._events.append(Event(float(at), what, int(index)))
        return True


def _of_routing(datagram: bytes) -> list[tuple[What, int]]:
    found: list[tuple[What, int]] = [("lost", index) for index, carrier in carriers(datagram) if not carrier]
    return found + [(_KINDS[kind], 0) for kind, _ in _messages(datagram) if kind in _KINDS]


def _of_nftables(datagram: bytes) -> list[tuple[What, int]]:
    changed = any(kind in _ELEMENTS and _MAPS in message for kind, message in _messages(datagram))
    return [("map", 0)] if changed else []


def _messages(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and content of each."""
    while len(datagram) >= 16:
        length, kind = struct.unpack_from("=IH", datagram)
        yield kind, datagram[16:length]
        datagram = datagram[(length + 3) & ~3 :]


def _listening(protocol: int, groups: int) -> socket.socket:
    listening = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    listening.bind((0, groups))
    return listening


def main() -> None:
    with contextlib.suppress(PermissionError):  # root of a user namespace
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    routing = _listening(socket.NETLINK_ROUTE, _LINK | _IPV4_ADDRESS | _IPV4_ROUTE)
    nftables = _listening(_NETFILTER, _NFTABLES)
    poll = select.poll()
    of: dict[int, tuple[socket.socket, _Decode]] = {
        routing.fileno(): (routing, _of_routing),
        nftables.fileno(): (nftables, _of_nftables),
    }
    for descriptor in of:
        poll.register(descriptor, select.POLLIN)
    heard: list[tuple[float, bytes, _Decode]] = []
    sys.stdout.write(_READY)
    sys.stdout.flush()
    while True:
        ready = poll.poll(_QUIET if heard else None)
        now = time.monotonic()
        for descriptor, _ in ready:
            listening, decode = of[descriptor]
            heard.append((now, listening.recv(1 << 16), decode))
        if not ready or len(heard) > 10_000:
            for at, datagram, decode in heard:
                for what, index in decode(datagram):
                    print(at, what, index)
            sys.stdout.flush()
            heard.clear()


if __name__ == "__main__":
    main()
