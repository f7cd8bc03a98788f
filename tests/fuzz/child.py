"""One target in a process of its own: `python -m tests.fuzz.child TARGET INPUTS SEED DIRECTORY`.

With atheris, inputs are chosen by what code they reach; without it, they are changed at random. DIRECTORY gets
`corpus/`, `report.json` at the end, and of an input that fails `crash-...`.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import importlib
import importlib.util
import json
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.fuzz.target import Target

MEASURED = ["mlbd", "dns", "h11", "tomllib"]
"""Packages whose code tells where an input got."""
_CACHE = functools._lru_cache_wrapper
_WARM = 0.25
"""The share of inputs after which memory should not grow any more."""
_LONGEST_WAIT = 30
"""Seconds of wall time after which libFuzzer calls an input a hang."""


class Run:
    """Counts what is put to the target, and writes the report when all is done."""

    def __init__(self, target: Target, inputs: int, directory: Path) -> None:
        self._target, self._inputs, self._directory = target, inputs, directory
        self._began = time.monotonic()
        self._count = 0
        self._slowest = 0.0
        self._before = (0, 0)

    def put(self, data: bytes) -> None:
        from tests.fuzz.target import put

        try:
            self._slowest = max(self._slowest, put(self._target, data))
        except BaseException:
            name = "crash-" + hashlib.sha256(data).hexdigest()[:16]
            (self._directory / name).write_bytes(data)
            raise
        self._count += 1
        if self._count == int(self._inputs * _WARM):
            self._before = _memory()
        if self._count == self._inputs:
            self._report()

    def _report(self) -> None:
        resident, blocks = _memory()
        report = {
            "inputs": self._count,
            "seconds": round(time.monotonic() - self._began, 1),
            "slowest_ms": round(self._slowest * 1000, 1),
            "rss_growth_kib": (resident - self._before[0]) // 1024,
            "block_growth": blocks - self._before[1],
        }
        (self._directory / "report.json").write_text(json.dumps(report))


def _memory() -> tuple[int, int]:
    """Bytes of resident memory, which has libFuzzer's corpus in it; and blocks of Python's, which has not. Caches that
    are bounded are emptied before.
    """
    for each in gc.get_objects():
        if isinstance(each, _CACHE):
            each.cache_clear()
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), sys.getallocatedblocks()


def atheris() -> Any:
    """The module; None where it is not installed."""
    return importlib.import_module("atheris") if importlib.util.find_spec("atheris") else None


def main() -> None:
    name, inputs, seed, place = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    guide = atheris()
    with nullcontext() if guide is None else guide.instrument_imports(include=MEASURED):
        from tests.fuzz.catalogue import TARGETS
    target = next(each for each in TARGETS if each.name == name)
    run = Run(target, inputs, place)
    if guide is None:
        _at_random(target, run, inputs, Random(seed))
    else:
        _guided(guide, target, run, inputs, seed, place)


def _at_random(target: Target, run: Run, inputs: int, random: Random) -> None:
    for number in range(inputs):
        data = target.seeds[number % len(target.seeds)]
        for _ in range(random.randint(1, 4) if number >= len(target.seeds) else 0):
            data = target.mutate(data, random)
        run.put(data[: target.longest])


def _guided(guide: Any, target: Target, run: Run, inputs: int, seed: int, place: Path) -> None:
    corpus = place / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, data in enumerate(target.seeds):
        (corpus / f"seed-{number:03}").write_bytes(data)

    def mutate(data: bytes, most: int, number: int) -> bytes:
        random = Random(number)
        changed = guide.Mutate(data, most) if not random.randrange(4) else target.mutate(data, random)
        return bytes(changed[:most])

    options = [
        f"-runs={inputs}", f"-seed={seed}", f"-max_len={target.longest}", f"-timeout={_LONGEST_WAIT}",
        f"-artifact_prefix={place}/", "-len_control=0", "-rss_limit_mb=1024",
    ]  # fmt: skip
    guide.Setup([sys.argv[0], *options, str(corpus)], run.put, custom_mutator=mutate)
    guide.Fuzz()


if __name__ == "__main__":
    main()
