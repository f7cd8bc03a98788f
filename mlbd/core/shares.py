"""From weights to slots: which uplink each of a policy's slots leads to.

A policy's new connections draw a slot (at random, in turn, or by a hash of their source), and the slot names the
uplink. Slots of uplinks that can't be used are given to the others; all other slots stay where they are, so a source
that is hashed to a healthy uplink keeps it while another one fails, and a failover changes few map elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

SLOTS = 240
"""Divisible by 1..6, 8, 10, 12: equal members get equal shares exactly; any other share is right to 1/480."""

Weights = tuple[tuple[str, int], ...]


@lru_cache(maxsize=256)
def slots(weights: Weights, usable: frozenset[str]) -> tuple[str, ...]:
    """`SLOTS` names, interleaved; all are among `usable`, in proportion to their weights. Needs one usable name."""
    full = _interleave(_counts(weights))
    if all(name in usable for name, _ in weights):
        return full
    wanted = dict(_counts(tuple((n, w) for n, w in weights if n in usable)))
    for name in full:
        if name in usable:
            wanted[name] -= 1
    # A member may have one slot more than it is due, by rounding; then another simply gets one less.
    moved = iter(_interleave(tuple((n, c) for n, c in wanted.items() if c > 0)))
    spare = next(name for name, _ in weights if name in usable)
    return tuple(name if name in usable else next(moved, spare) for name in full)


@lru_cache(maxsize=256)
def _counts(weights: Weights) -> Weights:
    """Slots for each name: what it is due, rounded so that the sum is right, and at least one."""
    total = sum(weight for _, weight in weights)
    due = {name: SLOTS * weight / total for name, weight in weights}
    counts = {name: max(1, int(share)) for name, share in due.items()}
    missing = SLOTS - sum(counts.values())
    for name in sorted(due, key=lambda n: counts[n] - due[n])[: max(0, missing)]:
        counts[name] += 1
    for _ in range(-missing):
        counts[max((n for n in due if counts[n] > 1), key=lambda n: counts[n] - due[n])] -= 1
    return tuple(counts.items())


@lru_cache(maxsize=256)
def _interleave(counts: Weights) -> tuple[str, ...]:
    """Smooth weighted round robin: every name comes as often as its count, as evenly spread as can be."""
    total = sum(count for _, count in counts)
    credit = {name: 0 for name, _ in counts}
    order = []
    for _ in range(total):
        for name, count in counts:
            credit[name] += count
        chosen = max(credit, key=lambda n: credit[n])
        credit[chosen] -= total
        order.append(chosen)
    return tuple(order)


def shares(chosen: Sequence[str]) -> dict[str, float]:
    """Ratio of the slots by name; empty if there are no slots."""
    return {name: chosen.count(name) / len(chosen) for name in dict.fromkeys(chosen)}
