"""Is a working uplink a poor one? Thresholds on the window's loss, latency and jitter, with hysteresis."""

from __future__ import annotations

from collections.abc import Sequence

from mlbd.core.settings import Degrade
from mlbd.core.window import Quality

ENOUGH = 10
"""Of so many probes the fate must be known; of fewer, a single one would say too much."""


def poor(degrade: Degrade, qualities: Sequence[Quality], quorum: int, degraded: bool) -> str:
    """Which thresholds are passed, as a sentence; "" if none.

    What counts is the target that is best but for `quorum` - 1: a bad one by itself says nothing about the uplink.
    `degraded`: what was said before, since over one number it begins and only under another does it end.
    """
    reasons = []
    told = [q for q in qualities if q.known >= ENOUGH]
    losses = [q.loss for q in told if q.loss is not None]
    rtts = [q.rtt for q in told if q.rtt is not None]
    jitters = [q.jitter for q in told if q.jitter is not None]
    for what, values, bounds, scale, unit in (
        ("loss", losses, degrade.loss, 100, "%"),
        ("round trip", rtts, degrade.rtt, 1000, " ms"),
        ("jitter", jitters, degrade.jitter, 1000, " ms"),
    ):
        if bounds is None or len(values) < quorum:
            continue
        best, bound = sorted(values)[quorum - 1], bounds[1] if degraded else bounds[0]
        if best > bound:
            reasons.append(f"{what} {best * scale:.0f}{unit} is over {bound * scale:.0f}{unit}")
    return ", ".join(reasons)
