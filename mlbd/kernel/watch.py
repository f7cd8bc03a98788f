"""Listening to the kernel: a second netlink socket, for notifications only.

A raw socket read by the event loop, because latency counts: from the peer's carrier loss to the callback it takes a
third of what pyroute2 needs (256 against 673 us), and three of the sixty attributes of a link are enough. Other
notifications are not decoded at all: they only say "look again". Answers to requests never come this way, so the two
can't be mixed up.

The kernel drops notifications when the buffer is full, says so once (ENOBUFS), and goes on dropping, without a word,
until the buffer has been read empty. So an overrun is answered with a new socket first: what happens after
`on_overrun` is heard, and what happened before is seen by the look that it asks for.

Sources: rtnetlink(7), netlink(7), linux/rtnetlink.h.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

from mlbd.kernel import bonds, links, routes, rules, teql
from mlbd.kernel.netlink import HEADER, NETLINK_ROUTE, split

_SO_RCVBUFFORCE = 33
_BUFFER = 8 << 20
_GROUPS = sum(1 << (group - 1) for group in (1, 4, 5, 7, 8, 9, 11, 19))
"""RTNLGRP_LINK; TC; IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE; IPV6_IFADDR, IPV6_ROUTE, IPV6_RULE."""
_OF_PROGRAMS = (routes.NEW, routes.DELETE, rules.NEW, rules.DELETE)
_OF_TRAFFIC_CONTROL = range(36, 47)
"""RTM_NEWQDISC to RTM_GETTFILTER, but actions and chains."""
_LAST_PROCESS = 1 << 22
"""PID_MAX_LIMIT."""
_AT_ONCE = 100
"""Datagrams read before the event loop may do something else."""


class Watch:
    """Hears from the moment it is made; calls back while `run` runs. Raises OSError when made.

    `on_link(name, index, up, carrier)` for every link notification, `on_change(program)` for an address, a default or
    foreign route, a rule, a vanished link, a member of a TEQL device, or what a link is as a bond or its port, unless
    its port is `own_port()`; the program is the one that changed a route or a rule, "" if that is not known.
    `on_overrun()` when notifications were lost.
    """

    def __init__(
        self,
        on_link: Callable[[str, int, bool, bool], None],
        on_change: Callable[[str], None],
        on_overrun: Callable[[], None],
        own_port: Callable[[], int],
    ) -> None:
        self._on_link, self._on_change, self._on_overrun = on_link, on_change, on_overrun
        self._own_port = own_port
        self._bonding: dict[int, object] = {}
        """What was told last of bonds and ports, by index."""
        self._socket = _listening()

    async def run(self) -> None:
        """Call back until cancelled, then close."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket, self._read)
        try:
            await loop.create_future()
        finally:
            loop.remove_reader(self._socket)
            self._socket.close()

    def _read(self) -> None:
        changed: dict[str, None] = {}
        for _ in range(_AT_ONCE):
            try:
                datagram = self._socket.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError:
                self._begin_again()
                self._on_overrun()
                return
            for kind, _, _, port, message in split(datagram):
                if kind == links.NEW:
                    try:
                        link = links.read_link(message)
                    except OSError:  # the look will say what can't be read
                        link, changed[""] = None, None
                    if link is not None:
                        self._on_link(link.name, link.index, link.up, link.carrier)
                        if self._bonds_otherwise(link) and port != self._own_port():
                            changed[""] = None
                elif port != self._own_port() and _matters(kind, message):
                    changed[_program(port) if kind in _OF_PROGRAMS else ""] = None
        for program in changed:
            self._on_change(program)

    def _bonds_otherwise(self, link: links.Link) -> bool:
        """Whether it is told of as another bond or port than before, or for the first time as one."""
        told, before = bonds.told(link), self._bonding.pop(link.index, None)
        if told is not None:
            self._bonding[link.index] = told
        return told != before

    def _begin_again(self) -> None:
        self._bonding.clear()
        try:
            fresh = _listening()
        except OSError:  # no descriptors left: the old socket will do, once it has been read empty
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        self._socket.close()
        self._socket = fresh
        loop.add_reader(self._socket, self._read)


def _listening() -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    listening = socket.socket(socket.AF_NETLINK, kind, NETLINK_ROUTE)
    try:
        listening.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    except PermissionError:  # root of a user namespace: as much as net.core.rmem_max allows
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    listening.bind((0, _GROUPS))
    return listening


def _program(port: int) -> str:
    """Whose port it is: a program's first one is its process number (net/netlink/af_netlink.c, netlink_autobind). Not
    known of one that has ended by now.
    """
    try:
        return Path(f"/proc/{port}/comm").read_text().strip() if 0 < port <= _LAST_PROCESS else ""
    except (OSError, UnicodeDecodeError):
        return ""


def _matters(kind: int, message: bytes) -> bool:
    """Not so routes of `local`, which come with addresses, and routes of `main` to somewhere in particular, but for
    the unreachable ones that tell what DHCPv6 delegated. Of traffic control, only what has to do with TEQL.
    """
    if kind in _OF_TRAFFIC_CONTROL:
        return teql.NAME in message
    if kind not in (routes.NEW, routes.DELETE) or len(message) < HEADER.size + 8:
        return True
    family, length, table, of_type = (message[HEADER.size + offset] for offset in (0, 1, 4, 7))
    narrow = length > routes.WIDE.get(family, 0) and of_type not in routes.REFUSING
    return table != routes.LOCAL and not (table == routes.MAIN and narrow)
