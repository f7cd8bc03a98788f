"""A network namespace of its own for each test that talks to the real kernel."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kernel.objects import DEVICES

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def run(*commands: str) -> str:
    """What the commands, split at blanks, print."""
    return "".join(
        subprocess.run(command.split(), check=True, capture_output=True, text=True).stdout for command in commands
    )


@contextmanager
def private_namespace() -> Iterator[None]:
    """This thread, and the ones it starts, are in a new network namespace; then in the old one again."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.unshare(_CLONE_NEWNET):
            pytest.fail(f"no new network namespace ({os.strerror(ctypes.get_errno())}): run the tests by `make test`")
        try:
            yield
        finally:
            assert _libc.setns(before, _CLONE_NEWNET) == 0
    finally:
        os.close(before)


@contextmanager
def veth_pairs() -> Iterator[None]:
    """The interfaces `DEVICES` in a private namespace: up, with addresses; their far ends are called far1, far2, ..."""
    with private_namespace():
        for name in ("all", "default"):
            Path(f"/proc/sys/net/ipv6/conf/{name}/accept_dad").write_text("0")
            Path(f"/proc/sys/net/ipv4/conf/{name}/promote_secondaries").write_text("0")
        run("ip link set lo up")
        for number, device in enumerate(DEVICES, 1):
            run(
                f"ip link add name {device} type veth peer name far{number}",
                f"ip link set {device} up",
                f"ip link set far{number} up",
                f"ip address add 10.9.{number}.2/24 dev {device}",
                f"ip address add 2001:db8:{number}::2/64 dev {device} nodad",
            )
        yield
