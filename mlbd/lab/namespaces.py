"""Named network namespaces, as ip-netns(8) keeps them: made in batches, entered by one thread and left again."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import ipaddress
import os
import socket
import struct
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_libc = ctypes.CDLL(None, use_errno=True)


class LabError(Exception):
    """The lab could not be built or broken as asked; the message has what the tool said."""


def path_of(namespace: str) -> Path:
    return Path("/run/netns", namespace)


@contextlib.contextmanager
def entered(namespace: str) -> Iterator[None]:
    """What this thread opens or starts in the block belongs to the namespace: sockets, programs, /proc/sys/net.

    Other threads stay where they are; sockets and programs stay where they were made. Raises FileNotFoundError.
    """
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(path_of(namespace), os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _setns(here)
    finally:
        os.close(here)


def move_to_new() -> None:
    """Put this thread, and what it starts from now on, into a network namespace without a name, with lo up."""
    if _libc.unshare(_CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "unshare")
    ip_here(["link set lo up"])


def ip_here(lines: Iterable[str]) -> None:
    """Run a batch of commands, as ip(8) takes them, where this thread is. Raises LabError."""
    ip_each({"": lines})


def ip_each(batches: Mapping[str, Iterable[str]]) -> None:
    """Run such a batch in each namespace, all at the same time; "" is where this thread is. Raises LabError."""
    running = []
    for namespace, lines in batches.items():
        command = ["ip", *(["-n", namespace] if namespace else []), "-batch", "-"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert process.stdin is not None
        text = "".join(line + "\n" for line in lines)
        process.stdin.write(text.encode())
        process.stdin.close()
        process.stdin = None
        running.append((namespace, text, process))
    failures = []
    for namespace, text, process in running:
        _, errors = process.communicate()
        if process.returncode != 0:
            failures.append(f"ip in {namespace or 'this namespace'}: {errors.decode().strip()}; asked:\n{text}")
    if failures:
        raise LabError("\n".join(failures))


def set_sysctls(values: Mapping[str, object]) -> None:
    """Write below /proc/sys/net of the namespace this thread is in; names as `ipv4/ip_forward`. Raises OSError."""
    for name, value in values.items():
        Path("/proc/sys/net", name).write_text(str(value))


def has_ipv6(addresses: Iterable[str]) -> bool:
    """Whether all addresses receive, where this thread is.

    The kernel makes an address's local route in a work queue after the address is there (net/ipv6/addrconf.c,
    addrconf_dad_work); what arrives in between is forwarded, and lost for about a second.
    """
    found = {
        line.split()[0] for line in Path("/proc/thread-self/net/ipv6_route").read_text().splitlines() if " 80 " in line
    }
    return all(ipaddress.IPv6Address(address).packed.hex() in found for address in addresses)


def set_down(interface: str) -> None:
    """Take an interface down, where this thread is, within microseconds: faults are timed. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        request = struct.pack("16s24x", interface.encode())
        (flags,) = struct.unpack_from("=H", fcntl.ioctl(s, _SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(s, _SIOCSIFFLAGS, struct.pack("=16sH22x", interface.encode(), flags & ~_IFF_UP))


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "setns")
