"""Cutting connections loose, with connections made by real packets."""

from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator

import pytest

from mlbd.kernel import LinuxKernel
from mlbd.kernel.netlink import HEADER, NETLINK_NETFILTER, Requests, attributes
from tests.kernel.namespace import veth_pairs
from tests.kernel.objects import PROTOCOL, TABLE_BASE

_CT_GET = (1 << 8) | 1
_CTA_MARK = 8
MARKS = {7001: 0x01000000, 7002: 0x81000000, 7003: 0x02000000, 7004: 0x01000005, 7005: 0}


@pytest.fixture
def kernel() -> Iterator[LinuxKernel]:
    with veth_pairs():
        rules = "".join(f"  udp dport {port} ct mark set {mark:#x}\n" for port, mark in MARKS.items())
        text = f"table inet marks {{\n chain output {{\n  type filter hook output priority 0\n{rules} }}\n}}\n"
        subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family, socket.SOCK_DGRAM) as sender:
                for port in MARKS:
                    sender.sendto(b"x", (address, port))
        linux = LinuxKernel(PROTOCOL, TABLE_BASE)
        yield linux
        linux.close()


def marks_of_connections() -> Counter[tuple[int, int]]:
    """How many UDP connections there are, by address family and mark."""
    requests = Requests(NETLINK_NETFILTER)
    try:
        found: Counter[tuple[int, int]] = Counter()
        for family in (socket.AF_INET, socket.AF_INET6):
            for message in requests.dump(_CT_GET, struct.pack("=BBH", family, 0, 0)):
                value = attributes(message, HEADER.size + 4).get(_CTA_MARK, bytes(4))
                found[int(family), int.from_bytes(value, "big")] += 1
        return found
    finally:
        requests.close()


def test_only_connections_of_the_mark_are_cut(kernel: LinuxKernel) -> None:
    """IPv4 and IPv6 connections that match under the mask go, all others stay."""
    before = marks_of_connections()
    assert before == {(family, mark): 1 for family in (socket.AF_INET, socket.AF_INET6) for mark in MARKS.values()}
    asyncio.run(kernel.cut(0x01000000, 0xFF000000))
    assert marks_of_connections() == {key: n for key, n in before.items() if key[1] & 0xFF000000 != 0x01000000}
    asyncio.run(kernel.cut(0x01000000, 0x7F000000))
    assert marks_of_connections() == {key: n for key, n in before.items() if key[1] & 0x7F000000 != 0x01000000}


def test_cutting_nothing_is_no_error(kernel: LinuxKernel) -> None:
    """A mark that no connection has: nothing happens."""
    before = marks_of_connections()
    asyncio.run(kernel.cut(0x33000000, 0xFF000000))
    assert marks_of_connections() == before


def test_a_mark_that_can_not_match_is_refused(kernel: LinuxKernel) -> None:
    """A mark with bits outside the mask is a mistake of the caller."""
    with pytest.raises(ValueError, match="outside mask"):
        asyncio.run(kernel.cut(0x01000001, 0xFF000000))
