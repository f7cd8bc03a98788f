"""Answers that the real kernel gives too rarely to wait for."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Iterator

import pytest

from mlbd.kernel.netlink import ACK, DUMP, HEADER, REQUEST, RefusedError, Requests

ANSWER, ERROR, DONE = 24, 2, 3
MULTI, INTERRUPTED = 2, 0x10


class Scripted(Requests):
    """A socket whose far end is the test's: what it will answer is there before it is asked, as with the kernel."""

    def __init__(self) -> None:
        self.opened = 0
        super().__init__()

    def _opened(self) -> socket.socket:
        if self._socket is None:
            self.opened += 1
            self._socket, self.kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.settimeout(0.05)
        return self._socket

    def will_answer(self, sequence: int, *messages: tuple[int, int, bytes]) -> None:
        parts = [HEADER.pack(16 + len(data), kind, flags, sequence, 0) + data for kind, flags, data in messages]
        self.kernel.send(b"".join(parts))


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    requests = Scripted()
    yield requests
    requests.close()
    requests.kernel.close()


def number(value: int) -> bytes:
    return value.to_bytes(4, sys.byteorder, signed=True)


def test_an_interrupted_dump_is_begun_again(scripted: Scripted) -> None:
    """Only a dump that the kernel does not call inconsistent counts, wherever in it the flag stands."""
    scripted.will_answer(1, (ANSWER, MULTI | INTERRUPTED, b"old!"), (DONE, MULTI, number(0)))
    scripted.will_answer(2, (ANSWER, MULTI, b"old!"), (DONE, MULTI | INTERRUPTED, number(0)))
    scripted.will_answer(3, (ANSWER, MULTI, b"new!"))
    scripted.will_answer(3, (ANSWER, MULTI, b"too!"), (DONE, MULTI, number(0)))
    assert [message[16:] for message in scripted.dump(26, b"")] == [b"new!", b"too!"]
    assert scripted.opened == 1


def test_a_dump_that_is_always_interrupted_is_an_error(scripted: Scripted) -> None:
    """It is not tried for ever."""
    for sequence in range(1, 10):
        scripted.will_answer(sequence, (DONE, MULTI | INTERRUPTED, number(0)))
    with pytest.raises(OSError, match="change faster") as caught:
        scripted.dump(26, b"")
    assert caught.value.errno == errno.EINTR


def test_an_answer_that_never_comes(scripted: Scripted) -> None:
    """The wait has an end, and a late answer is not taken for another's: the next request has a new socket."""
    with pytest.raises(TimeoutError):
        scripted.request(24, 0, b"")
    scripted._opened()
    scripted.will_answer(1, (ERROR, 0, number(-errno.EPERM)))
    scripted.will_answer(2, (ERROR, 0, number(0)))
    scripted.request(24, 0, b"")
    assert scripted.opened == 2


def test_a_refusal_keeps_the_socket(scripted: Scripted) -> None:
    """An error is an answer like any other."""
    scripted.will_answer(1, (ERROR, 0, number(-errno.ESRCH)))
    with pytest.raises(RefusedError) as caught:
        scripted.request(25, 0, b"")
    assert caught.value.errno == errno.ESRCH
    assert scripted.opened == 1


def test_a_request_on_the_wire(scripted: Scripted) -> None:
    """Length, type, flags, sequence number and payload, as netlink(7) has them."""
    scripted.will_answer(1, (ERROR, 0, number(0)))
    scripted.request(24, 0x400, b"body")
    assert scripted.kernel.recv(100) == HEADER.pack(20, 24, 0x400 | REQUEST | ACK, 1, 0) + b"body"
    scripted.will_answer(2, (DONE, MULTI, number(0)))
    assert scripted.dump(26, b"") == []
    assert scripted.kernel.recv(100) == HEADER.pack(16, 26, REQUEST | DUMP, 2, 0)


def test_a_transaction_refused_as_a_whole(scripted: Scripted) -> None:
    """The kernel may answer for the first message only; nobody waits for the others then."""
    scripted.will_answer(1, (ERROR, 0, number(-errno.EPERM)))
    with pytest.raises(RefusedError) as caught:
        scripted.batch((0x10, 0, b""), [(1, 0, b""), (2, 0, b"")], (0x11, 0, b""))
    assert caught.value.errno == errno.EPERM
