"""Cutting 50,000 connections loose: how long the kernel works on it, and whether the event loop notices.

The reference is conntrack(8), which asks for the whole table and deletes one entry after the other. The CPU time is
that of turns in which the event loop has nothing else to do; all of it is the kernel's, in one request.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import struct
import subprocess
import time
from collections.abc import Iterator

from bench.row import Row, at_most, figure, percentile, ratio, spread
from mlbd.kernel import conntrack
from mlbd.kernel.netlink import CREATE, NETLINK_NETFILTER, Requests
from mlbd.lab import namespaces

ENTRIES = 50_000
LIMIT = 50
"""Milliseconds."""
MARK, MASK = 0x01000000, 0xFF000000
_CT_NEW = 1 << 8
_ORIGINAL, _REPLY, _STATUS, _TIMEOUT, _MARK = 1, 2, 3, 7, 8
_CONFIRMED = 1 << 3
_NESTED = 0x8000


def run(quick: bool) -> Iterator[Row]:
    namespaces.move_to_new()
    took, late, used, theirs, theirs_used = [], [], [], [], []
    for _ in range(5 if quick else 20):
        _fill()
        duration, lag = asyncio.run(_cut())
        took.append(1000 * duration)
        late.append(1000 * lag)
        _fill()
        used.append(1000 * asyncio.run(_cpu()))
    for _ in range(1 if quick else 3):
        _fill()
        began = time.perf_counter()
        command = ["conntrack", "-D", "-m", f"{MARK:#x}/{MASK:#x}"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            _, _, usage = os.wait4(process.pid, 0)
            process.returncode = 0
        theirs.append(1000 * (time.perf_counter() - began))
        theirs_used.append(1000 * (usage.ru_utime + usage.ru_stime))
    what = f"{ENTRIES:,} connections cut loose"
    for when, ours, other in (("until the kernel is done", took, theirs), ("CPU time", used, theirs_used)):
        middle = percentile(ours, 50)
        yield Row(
            f"{what}: {when}",
            spread(ours, "ms"),
            f"median at most {LIMIT} ms",
            f"{figure(middle - LIMIT, 'ms')} too much" if middle > LIMIT else "",
            f"conntrack -D: {spread(other, 'ms')}",
            ratio(middle, percentile(other, 50)),
        )
    yield at_most(f"{what}: longest time in which the event loop did nothing else", late, LIMIT, "ms")


async def _cpu() -> float:
    """Seconds of CPU time of this process, its threads included."""
    before = time.process_time()
    await conntrack.cut(MARK, MASK)
    return time.process_time() - before


async def _cut() -> tuple[float, float]:
    """Seconds that it took, and the longest gap between two turns of the event loop meanwhile."""
    gaps = [0.0]
    done = asyncio.Event()

    async def tick() -> None:
        before = time.perf_counter()
        while not done.is_set():
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - before - 0.001)
            before = now

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0.02)
    began = time.perf_counter()
    await conntrack.cut(MARK, MASK)
    took = time.perf_counter() - began
    done.set()
    await ticking
    return took, max(gaps)


def _fill() -> None:
    requests = Requests(NETLINK_NETFILTER)
    try:
        for number in range(ENTRIES):
            inside, outside = 0x0A000000 + number, 0xCB007101
            original = _tuple(_ORIGINAL, inside, outside, 1024 + number % 60000, 53)
            reply = _tuple(_REPLY, outside, inside, 53, 1024 + number % 60000)
            rest = _attribute(_STATUS, _CONFIRMED) + _attribute(_TIMEOUT, 600) + _attribute(_MARK, MARK)
            requests.request(_CT_NEW, CREATE, struct.pack("=BBH", 2, 0, 0) + original + reply + rest)
    finally:
        requests.close()


def _tuple(kind: int, source: int, destination: int, source_port: int, port: int) -> bytes:
    """CTA_TUPLE_ORIG or CTA_TUPLE_REPLY (linux/netfilter/nfnetlink_conntrack.h) of UDP over IPv4."""
    addresses = b"".join(
        struct.pack("=HH", 8, n) + ipaddress.IPv4Address(address).packed
        for n, address in ((1, source), (2, destination))
    )
    ports = struct.pack("=HHB3x", 5, 1, 17) + b"".join(
        struct.pack("=HH", 6, n) + struct.pack("!H2x", number) for n, number in ((2, source_port), (3, port))
    )
    parts = struct.pack("=HH", 4 + len(addresses), 1 | _NESTED) + addresses
    parts += struct.pack("=HH", 4 + len(ports), 2 | _NESTED) + ports
    return struct.pack("=HH", 4 + len(parts), kind | _NESTED) + parts


def _attribute(kind: int, value: int) -> bytes:
    return struct.pack("=HH", 8, kind) + struct.pack("!I", value)
