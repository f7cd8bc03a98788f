"""Sets of whole numbers as sorted, disjoint, non-adjacent inclusive ranges: addresses, ports, protocols."""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache

from mlbd.core.settings import Family

Range = tuple[int, int]
Ranges = tuple[Range, ...]


def ranges(parts: Iterable[Range]) -> Ranges:
    """The union of the parts."""
    merged: list[Range] = []
    for low, high in sorted(parts):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], high)
        else:
            merged.append((low, high))
    return tuple(merged)


def without(whole: Ranges, taken: Ranges) -> Ranges:
    left: list[Range] = []
    for low, high in whole:
        for start, end in taken:
            if start <= high and end >= low:
                if start > low:
                    left.append((low, start - 1))
                low = end + 1
        if low <= high:
            left.append((low, high))
    return tuple(left)


def includes(outer: Ranges, inner: Ranges) -> bool:
    """Whether all of `inner` is in `outer`."""
    starts = [low for low, _ in outer]
    for low, high in inner:
        at = bisect_right(starts, low) - 1
        if at < 0 or outer[at][1] < high:
            return False
    return True


def every(bits: int) -> Ranges:
    """All numbers of so many bits."""
    return ((0, 2**bits - 1),)


def bits(family: Family) -> int:
    """Of an address."""
    return 32 if family == 4 else 128


def family_of(prefix: str) -> Family:
    return 6 if ":" in prefix else 4


@lru_cache(maxsize=4096)
def of_prefix(prefix: str) -> Range:
    network = ipaddress.ip_network(prefix)
    return int(network.network_address), int(network.broadcast_address)


def of_prefixes(prefixes: Iterable[str], family: Family) -> Ranges:
    """Of those of the family."""
    return ranges(of_prefix(prefix) for prefix in prefixes if family_of(prefix) == family)


def address_text(number: int, family: Family) -> str:
    return str(ipaddress.IPv4Address(number) if family == 4 else ipaddress.IPv6Address(number))


def prefixes(found: Ranges, family: Family) -> list[str]:
    """The fewest prefixes with length that make up the addresses."""
    kind = ipaddress.IPv4Address if family == 4 else ipaddress.IPv6Address
    return [str(net) for low, high in found for net in ipaddress.summarize_address_range(kind(low), kind(high))]
