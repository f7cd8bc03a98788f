"""One seam for both drivers: a target takes bytes, and returns."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

Mutate = Callable[[bytes, Random], bytes]
"""Another input, made of one."""

SEEDS = Path(__file__).with_name("seeds")

AT_MOST = 2.0
"""Seconds of processor time for an input; all are far below, and a hang is far above."""


@dataclass(frozen=True, slots=True)
class Target:
    name: str
    run: Callable[[bytes], None]
    """Raises nothing: errors that the code under test documents are caught in it."""
    seeds: tuple[bytes, ...]
    mutate: Mutate
    longest: int
    """Bytes of an input."""
    inputs: int
    """Of a long run of a million."""
    fills: bool = False
    """It has caches or a history that are bounded, but not full after a few inputs."""


class SlowError(Exception):
    """An input took longer than `AT_MOST`."""


def put(target: Target, data: bytes) -> float:
    """One input; the processor time it took, seconds: wall time is others' business, too. Raises SlowError."""
    began = time.thread_time()
    target.run(data)
    took = time.thread_time() - began
    if took > AT_MOST:
        raise SlowError(f"{target.name}: {took:.1f} s for {data[:200]!r}")
    return took
