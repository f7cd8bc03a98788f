"""One measured figure beside what is wanted of it and what the reference did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True, slots=True)
class Row:
    what: str
    figure: str
    wanted: str = ""
    """"" if nothing is wanted of it."""
    missed: str = ""
    """By how much it misses what is wanted; "" if it does not."""
    reference: str = ""
    ratio: str = ""
    """Ours divided by the reference's: under 1 is less time, fewer packets, less CPU."""

    @property
    def met(self) -> str:
        if not self.wanted:
            return ""
        return f"no, {self.missed}" if self.missed else "yes"


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that so many percent do not exceed (nearest rank): of less than 100, p99 is the largest."""
    return sorted(samples)[ceil(len(samples) * percent / 100) - 1]


def spread(samples: Sequence[float], unit: str) -> str:
    """Median, 99th percentile and largest, and of how many."""
    found = [percentile(samples, 50), percentile(samples, 99), max(samples)]
    median, high, most = (figure(value, unit) for value in found)
    shown = [f"median {median}", *([f"p99 {high}"] if len(samples) >= 100 else []), f"max {most}"]
    return f"{', '.join(shown)} (n={len(samples)})"


def figure(value: float, unit: str) -> str:
    """Three significant digits, without an exponent."""
    if value == int(value):
        return f"{int(value)} {unit}".strip()
    digits = 2 if abs(value) < 1 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f} {unit}".strip()


def ratio(ours: float, reference: float) -> str:
    return f"{ours / reference:.2f}" if reference else ""


def at_most(
    what: str, samples: Sequence[float], limit: float, unit: str, *, reference: Sequence[float] = (), name: str = ""
) -> Row:
    """A row about samples whose 99th percentile must not exceed the limit; `name` is of the reference.

    The ratio is that of the medians.
    """
    worst = percentile(samples, 99)
    return Row(
        what,
        spread(samples, unit) if len(samples) > 1 else figure(worst, unit),
        f"at most {figure(limit, unit)}",
        f"{figure(worst - limit, unit)} too much" if worst > limit else "",
        f"{name}: {spread(reference, unit) if len(reference) > 1 else figure(reference[0], unit)}" if reference else "",
        ratio(percentile(samples, 50), percentile(reference, 50)) if reference else "",
    )


def all_of(what: str, right: int, total: int) -> Row:
    """A row about something that must always happen."""
    missing = total - right
    return Row(what, f"{right} of {total}", "all", f"{missing} did not" if missing else "")


def within(
    what: str,
    samples: Sequence[float],
    unit: str,
    *,
    median: float | None = None,
    p99: float | None = None,
    most: float | None = None,
    reference: Sequence[float] = (),
    name: str = "",
    times: float | None = None,
) -> Row:
    """A row with several limits: of the median, the 99th percentile, the largest, and of the ratio of the medians.

    With `name` and no samples of it, the name is all that the row's reference says.
    """
    limits = [("median", 50, median), ("p99", 99, p99), ("max", 100, most)]
    wanted = [(key, percentile(samples, percent), limit) for key, percent, limit in limits if limit is not None]
    texts = [f"{key} at most {figure(limit, unit)}" for key, _, limit in wanted]
    missed = [f"{key} {figure(found - limit, unit)} too much" for key, found, limit in wanted if found > limit]
    by = percentile(samples, 50) / percentile(reference, 50) if reference else None
    if times is not None:
        texts.append(f"ratio at most {times:g}")
        if by is not None and by > times:
            missed.append(f"ratio {by:.2f}")
    return Row(
        what,
        spread(samples, unit),
        ", ".join(texts),
        ", ".join(missed),
        f"{name}: {spread(reference, unit)}" if reference else name,
        f"{by:.2f}" if by is not None else "",
    )
