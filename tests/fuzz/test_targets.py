"""Few inputs for each target; the many are in `__main__`."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.catalogue import TARGETS
from tests.fuzz.target import Target, put

_ROUNDS = 4
_SLACK = 30
"""Blocks by which the interpreter's own tables differ from one round to the next."""
_FILLING = 4
"""Blocks for each input, at most, while something bounded fills."""


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """A daemon directs the standard library's logging to its own log; other tests have theirs."""
    root = logging.getLogger()
    before = [*root.handlers]
    yield
    root.handlers[:] = before


def names(target: Target) -> str:
    return target.name


@pytest.mark.parametrize("target", TARGETS, ids=names)
def test_seeds(target: Target) -> None:
    """What is well-formed passes."""
    for seed in target.seeds:
        put(target, seed)


@pytest.mark.parametrize("target", TARGETS, ids=names)
def test_any_input(target: Target) -> None:
    """Whatever comes is understood or refused, without an unexpected error, in bounded time."""

    def changed(seed: bytes, number: int, times: int) -> bytes:
        random = Random(number)
        for _ in range(times):
            seed = target.mutate(seed, random)
        return seed[: target.longest]

    likely = st.builds(changed, st.sampled_from(target.seeds), st.integers(0, 2**32), st.integers(1, 4))

    @settings(max_examples=60, deadline=None, database=None, suppress_health_check=[*HealthCheck])
    @given(likely | likely | likely | st.binary(max_size=100))
    def holds(data: bytes) -> None:
        put(target, data)

    holds()


@pytest.mark.parametrize("target", TARGETS, ids=names)
def test_no_growth(target: Target) -> None:
    """The same inputs again leave nothing behind: neither memory nor file descriptors."""
    inputs = [target.mutate(target.seeds[n % len(target.seeds)], Random(n))[: target.longest] for n in range(40)]
    grown = []
    for _ in range(_ROUNDS):
        for data in (*target.seeds, *inputs):
            put(target, data)
        gc.collect()
        grown.append((sys.getallocatedblocks(), len([*Path("/proc/self/fd").iterdir()])))
    # What leaks does so in each round; what other tests of this process left may go, or a cache of theirs fill, in one.
    blocks, descriptors = (min(b - a for a, b in pairwise(each)) for each in zip(*grown, strict=True))
    assert blocks < _SLACK + target.fills * _FILLING * len(inputs)
    assert descriptors <= 0
