"""What the kernel says: inputs are netlink messages in a row, from which every request is answered.

The kernel does not lie, but kernels differ, and names in its messages are anybody's who may make an interface.
"""

from __future__ import annotations

import json
import socket
import struct
from collections import deque
from collections.abc import Iterable
from math import inf
from typing import cast

import msgspec

from mlbd import control
from mlbd.core.describe import describe
from mlbd.core.desired import desired
from mlbd.core.diversion import diversions
from mlbd.core.layout import Layout, adopted, assign
from mlbd.core.plan import plan
from mlbd.core.preview import preview
from mlbd.core.settings import FAMILIES, Settings, Uplink
from mlbd.core.state import KernelState
from mlbd.kernel import links, lookup, neighbours
from mlbd.kernel.commits import Commits
from mlbd.kernel.netlink import HEADER, NETLINK_NETFILTER, NETLINK_ROUTE, Requests, reading
from mlbd.kernel.nftlook import TableReader
from mlbd.kernel.rtnetlink import RtNetlink
from mlbd.kernel.watch import Watch
from tests.core.world import policy, settings
from tests.fuzz.mutation import split

_LENGTH_OF_ERROR, _ERROR, _DONE = 20, 2, 3
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
UPLINKS = ("wan1", "wan2")
"""As the seeds have them."""
_SETTINGS: Settings = settings(
    *(Uplink(name=name, interface=name) for name in UPLINKS), policies=[policy("wan1 wan2")]
)  # fmt: skip
_LAYOUT = Layout.of(_SETTINGS.daemon)


class _Link:
    """The kernel's end of a socket: answers a request with those messages that are of the kind it asks for."""

    def __init__(self, data: bytes, protocol: int) -> None:
        self._messages = split(data)
        self._protocol = protocol
        self._answer: deque[bytes] = deque()

    def send(self, request: bytes) -> int:
        _, kind, flags, sequence, _ = HEADER.unpack_from(request)
        wanted = kind & ~3 if self._protocol == NETLINK_ROUTE else kind - 1
        family = request[HEADER.size : HEADER.size + 1]
        chosen = [m for m in self._messages if self._belongs(m, wanted, family)]
        numbered = [m[:8] + struct.pack("=I", sequence) + m[12:] if len(m) >= HEADER.size else m for m in chosen]
        end = _ERROR if flags & 0x300 != 0x300 else _DONE
        numbered.append(HEADER.pack(_LENGTH_OF_ERROR, end, 0, sequence, 0) + bytes(4))
        self._answer = deque((b"".join(numbered[:-1]), numbered[-1]))
        return len(request)

    def recv(self, _: int) -> bytes:
        if not self._answer:
            raise TimeoutError("the kernel does not answer")
        return self._answer.popleft()

    def _belongs(self, message: bytes, wanted: int, family: bytes) -> bool:
        if len(message) < HEADER.size:
            return True
        kind = HEADER.unpack_from(message)[1]
        of = message[HEADER.size : HEADER.size + 1]
        other = self._protocol == NETLINK_ROUTE and of != family and family[0] in _FAMILIES and of[0:1] in _OF_FAMILY
        return kind in (_ERROR, _DONE) or (kind == wanted and not other)


_OF_FAMILY = tuple(bytes([family]) for family in _FAMILIES)


class _Requests(Requests):
    """To a kernel that says what the input has."""

    def __init__(self, data: bytes, protocol: int) -> None:
        self._link = _Link(data, protocol)
        super().__init__(protocol)

    def _opened(self) -> socket.socket:
        return cast(socket.socket, self._link)


def look(data: bytes) -> None:
    """A full look, what the core makes of it, and what `status` and `plan` tell of it. OSError: it can't be read."""
    kernel = RtNetlink(_SETTINGS.daemon.protocol, _SETTINGS.daemon.table_base)
    kernel.close()
    kernel._requests = _Requests(data, NETLINK_ROUTE)
    try:
        seen = kernel.look(UPLINKS, ("10.1.0.1",))
        kernel.neighbour_overflows()
    except OSError:
        return
    assert seen.expires > 0 or seen.expires == inf
    identities = assign(_SETTINGS, adopted(seen.state))
    decision = preview(_SETTINGS, identities, seen.facts, lan_prefixes=seen.lan_prefixes)
    changes = plan(desired(_SETTINGS, identities, decision, seen.state), seen.state)
    said = [*diversions(seen.foreign_rules, seen.wide_routes, _LAYOUT), *map(describe, changes)]
    granted = control._granted(said)
    assert json.loads(granted)["ok"]


def table(data: bytes) -> None:
    """Our nftables table. OSError: it can't be read."""
    reader = TableReader()
    reader.close()
    reader._requests = _Requests(data, NETLINK_NETFILTER)
    for ask in (reader.read, reader.counters):
        try:
            found = ask()
        except OSError:
            continue
        if isinstance(found, list):
            plan(KernelState(), KernelState(found))


def ways(data: bytes) -> None:
    """Look-ups for `explain`. OSError: they can't be read."""
    for family in FAMILIES:
        destination = "192.0.2.1" if family == 4 else "2001:db8::1"
        try:
            msgspec.json.encode(lookup.way(_Requests(data, NETLINK_ROUTE), family, destination))
        except OSError:
            continue


def connections(data: bytes) -> None:
    """Entries of connection tracking, TCP and UDP. OSError: they can't be read."""
    for family in FAMILIES:
        for protocol in (6, 17):
            try:
                with reading("connections"):
                    asked = _Requests(data, NETLINK_NETFILTER)
                    list(lookup._matching(asked, family, protocol, (None, None), (None, None)))
            except OSError:
                continue


class _Datagrams:
    def __init__(self, datagrams: Iterable[bytes]) -> None:
        self._left = deque(datagrams)

    def recv(self, _: int) -> bytes:
        if not self._left:
            raise BlockingIOError
        return self._left.popleft()


_told: list[object] = []
_watch = Watch(lambda *link: _told.append(link), lambda *who: _told.append(who), lambda: None, lambda: 4711)
_watch._socket.close()
_commits = Commits()
_commits.close()
_commits._on_change = _told.append


def notifications(data: bytes) -> None:
    """What the kernel tells unasked, of links and routes, and of nftables: an exception there ends the daemon."""
    messages = split(data)
    for listener in (_watch, _commits):
        listener._socket = cast(socket.socket, _Datagrams((b"".join(messages[:3]), *messages[3:])))
        listener._read()
    _told.clear()


def hardware(data: bytes) -> None:
    """The neighbour tables, which a look asks for where uplinks share an interface. OSError: it can't be read."""
    try:
        neighbours.read(_Requests(data, NETLINK_ROUTE).dump(neighbours.GET, neighbours.dump_request(2)))
        for message in _Requests(data, NETLINK_ROUTE).dump(neighbours.GET_TABLE, neighbours.TABLE_DUMP_REQUEST):
            neighbours.overflows(message)
        links.read_facts([], _Requests(data, NETLINK_ROUTE).dump(links.GET_ADDRESS, b"\0"), [], [], [])
    except OSError:
        return
