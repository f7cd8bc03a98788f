"""One netlink socket for requests, and what all messages are made of; they are written and read as their bytes.

pyroute2 knows every attribute, and costs what the fastest and smallest part of a daemon can't pay: 350 us to write a
route of seven hops where this takes 15, 40 us to read one where `attributes` takes 3, 50 ms of every start and 3 MiB.
Its sockets (`AsyncIPRoute`, 0.9.7) don't notice NLM_F_DUMP_INTR, so a dump that the kernel calls inconsistent looks
whole; a dump ends at the first datagram that yields no message; cancelled requests leave their queues behind. So it is
what the tests read our messages with. The kernel answers rtnetlink and ctnetlink requests inside `sendmsg`, so a plain
socket finds the answer waiting; the time limit only guards against an answer that got lost.

Sources: netlink(7), rtnetlink(7), the kernel's include/uapi/linux/netlink.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12
SOL_NETLINK = 270
_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 10, 11, 12

REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
REPLACE, EXCL, CREATE = 0x100, 0x200, 0x400
_DUMP_INTR = 0x10
_ACK_TLVS = 0x200
_ERROR, _DONE = 2, 3
_ATTR_MSG = 1

HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence number, port."""
_ATTRIBUTE = struct.Struct("=HH")
_NUMBER = struct.Struct("=I")
_TYPE_MASK = 0x3FFF
_TIME_LIMIT = 2.0
_INTERRUPTED_DUMPS = 5


Message = tuple[int, int, bytes]
"""Type, flags and payload of a message to be sent."""


class RefusedError(OSError):
    """The kernel's answer to a request is an error; `strerror` is its own explanation where it gives one."""


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Raises OSError where what the kernel says can't be read. None that is known says so, but kernels go on."""
    try:
        yield
    except (struct.error, LookupError, ValueError, OverflowError) as error:
        reason = f"the kernel says something of {what} that can't be read ({type(error).__name__}: {error})"
        raise OSError(errno.EBADMSG, reason) from error


def attributes(data: bytes, start: int, end: int | None = None) -> dict[int, bytes]:
    """Values by type of the attributes in `data[start:end]` (struct rtattr: length, type, value, padding to 4)."""
    found = {}
    end = len(data) if end is None else end
    while start + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        if length < 4:
            break
        found[kind & _TYPE_MASK] = data[start + 4 : start + length]
        start += (length + 3) & ~3
    return found


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute as it is sent. One of attributes is their bytes."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def each_attribute(data: bytes) -> Iterator[bytes]:
    """The values of a list of attributes, whatever their types."""
    start = 0
    while start + 4 <= len(data):
        length, _ = _ATTRIBUTE.unpack_from(data, start)
        if length < 4:
            return
        yield data[start + 4 : start + length]
        start += (length + 3) & ~3


def packed(value: int) -> bytes:
    """An attribute value of 32 bits, unsigned, in the host's byte order."""
    return _NUMBER.pack(value)


def packed_address(written: str) -> bytes:
    """The value of an IPv4 or IPv6 address. Raises OSError for what is none."""
    return socket.inet_pton(socket.AF_INET6 if ":" in written else socket.AF_INET, written)


def number(value: bytes) -> int:
    """An unsigned attribute value in the host's byte order."""
    return int.from_bytes(value, sys.byteorder)


def text(value: bytes) -> str:
    """A string attribute value, which ends with a zero byte."""
    return value.rstrip(b"\0").decode(errors="surrogateescape")


def address(value: bytes) -> str:
    """An IPv4 or IPv6 address, canonical."""
    return socket.inet_ntop(socket.AF_INET if len(value) == 4 else socket.AF_INET6, value)


def prefix(value: bytes, length: int) -> str:
    """An address with its prefix length. Raises ValueError for one that is too long."""
    if length > 8 * len(value):
        raise ValueError(f"a prefix of {length} bits")
    return f"{address(value)}/{length}"


def split(data: bytes) -> Iterator[tuple[int, int, int, int, bytes]]:
    """Type, flags, sequence number, port and bytes, header included, of each message of a datagram."""
    start = 0
    while start + HEADER.size <= len(data):
        length, kind, flags, sequence, port = HEADER.unpack_from(data, start)
        if length < HEADER.size or start + length > len(data):
            return
        yield kind, flags, sequence, port, data[start : start + length]
        start += (length + 3) & ~3


class Requests:
    """A socket for one request after the other. Every method blocks as long as the kernel works, no longer.

    Raises OSError: RefusedError if the kernel refused, anything else if its answer did not come whole; after that the
    next request uses a new socket, so that a late answer is never taken for another's.
    """

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        self._protocol = protocol
        self._sequence = 0
        self._socket: socket.socket | None = None
        self._opened()

    @property
    def port(self) -> int:
        """The port id that notifications of our own changes carry."""
        return int(self._opened().getsockname()[0])

    def request(self, kind: int, flags: int, payload: bytes) -> None:
        """Send one message and wait for its acknowledgement."""
        for _ in self._exchange(kind, flags | REQUEST | ACK, payload):
            pass

    def get(self, kind: int, payload: bytes) -> bytes:
        """The one message that answers a request, with its header."""
        answers = [m for answer, _, m in self._exchange(kind, REQUEST | ACK, payload) if answer != _ERROR]
        if len(answers) != 1:
            raise OSError(errno.EPROTO, f"the kernel answered with {len(answers)} messages instead of one")
        return answers[0]

    def dump(self, kind: int, payload: bytes) -> list[bytes]:
        """All messages of a dump, each with its header. A dump that the kernel interrupted is begun again."""
        for _ in range(_INTERRUPTED_DUMPS):
            messages = []
            whole = True
            for answer, flags, message in self._exchange(kind, REQUEST | DUMP, payload):
                whole = whole and not flags & _DUMP_INTR
                if answer != _DONE:
                    messages.append(message)
            if whole:
                return messages
        raise OSError(errno.EINTR, "the kernel's tables change faster than they can be read")

    def stream(self, kind: int, payload: bytes) -> Iterator[bytes]:
        """The messages of a dump one after the other, for a table too big to be kept; as it was while it was read."""
        for answer, _, message in self._exchange(kind, REQUEST | DUMP, payload):
            if answer != _DONE:
                yield message

    def batch(self, begin: Message, messages: Sequence[Message], end: Message) -> None:
        """Send messages as one nfnetlink transaction, each to be acknowledged. Raises the first refusal."""
        numbered = []
        first = self._sequence + 1
        for kind, flags, payload in (begin, *messages, end):
            self._sequence += 1
            acknowledge = ACK if first < self._sequence <= first + len(messages) else 0
            length = HEADER.size + len(payload)
            numbered.append(HEADER.pack(length, kind, flags | REQUEST | acknowledge, self._sequence, 0) + payload)
        waiting = set(range(first + 1, first + 1 + len(messages)))
        refusals: list[RefusedError] = []
        try:
            link = self._opened()
            link.send(b"".join(numbered))
            while waiting:
                for answer, flags, sequence, _, message in split(link.recv(1 << 18)):
                    if answer == _ERROR and first <= sequence <= self._sequence:
                        waiting.discard(sequence)
                        try:
                            _raise_error(flags, message)
                        except RefusedError as refusal:
                            refusals.append(refusal)
                            if sequence == first:  # the transaction as a whole
                                waiting.clear()
        finally:
            if waiting:
                self.close()
        if refusals:
            raise refusals[0]

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _opened(self) -> socket.socket:
        if self._socket is None:
            opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, self._protocol)
            opened.setsockopt(SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            opened.setsockopt(SOL_NETLINK, _NETLINK_EXT_ACK, 1)
            if self._protocol == NETLINK_ROUTE:
                opened.setsockopt(SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
            opened.bind((0, 0))
            opened.settimeout(_TIME_LIMIT)
            self._socket = opened
        return self._socket

    def _exchange(self, kind: int, flags: int, payload: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Type, flags and bytes of the answer's messages, the acknowledgement or the end of the dump included."""
        self._sequence += 1
        whole = False
        try:
            link = self._opened()
            link.send(HEADER.pack(HEADER.size + len(payload), kind, flags, self._sequence, 0) + payload)
            while not whole:
                datagram = link.recv(1 << 18)
                for answer, answer_flags, sequence, _, message in split(datagram):
                    if sequence != self._sequence:
                        continue
                    if answer in (_ERROR, _DONE):
                        whole = True
                        _raise_error(answer_flags, message)
                    yield answer, answer_flags, message
        finally:
            if not whole:
                self.close()


@reading("an error")
def _raise_error(flags: int, message: bytes) -> None:
    """Raises what an NLMSG_ERROR or NLMSG_DONE message says, unless it says that all went well."""
    if len(message) < HEADER.size + 4:
        return
    (code,) = struct.unpack_from("=i", message, HEADER.size)
    if code >= 0:
        return
    start = HEADER.size + 4 + (HEADER.size if HEADER.unpack_from(message)[1] == _ERROR else 0)
    explanation = attributes(message, start).get(_ATTR_MSG) if flags & _ACK_TLVS else None
    raise RefusedError(-code, text(explanation) if explanation else os.strerror(-code))
