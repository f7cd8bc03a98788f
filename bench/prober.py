"""The reference for memory and CPU: asyncio, a raw socket per address, an echo request each interval, and nothing else.

    python -m bench.prober INTERVAL ADDRESS...

Answers are read and thrown away: no verdicts, no window, no timeouts, no kernel state.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys


def request(number: int) -> bytes:
    """An ICMP echo request (RFC 792) without data."""
    kind, identifier, sequence = 0x0800, 0x4D4C, number & 0xFFFF
    total = kind + identifier + sequence
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!HHHH", kind, ~(total + (total >> 16)) & 0xFFFF, identifier, sequence)


async def probe(address: str, interval: float) -> None:
    loop = asyncio.get_running_loop()
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    s.setblocking(False)
    s.connect((address, 0))
    loop.add_reader(s, s.recv, 2048)
    number = 0
    while True:
        with contextlib.suppress(OSError):  # no route, or a connection tracking entry that routing has left
            s.send(request(number))
        number += 1
        await asyncio.sleep(interval)


async def main() -> None:
    interval = float(sys.argv[1])
    await asyncio.gather(*(probe(address, interval) for address in sys.argv[2:]))


if __name__ == "__main__":
    asyncio.run(main())
