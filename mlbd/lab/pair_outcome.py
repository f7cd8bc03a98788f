"""What the steps of the pair's demo did to the traffic of its two segments, and the table that says so.

Times are monotonic seconds, durations seconds. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from msgspec import Struct

from mlbd.lab.demo_screen import duration
from mlbd.lab.demo_traffic import Break
from mlbd.lab.stream import Summary
from mlbd.lab.traffic import Attempt

TOLERATED = 3.0
"""Seconds for which a segment may be without an answer when what it leaves by dies: mlbd's defaults take 2 at most."""
_IN_FLIGHT = 0.2
"""Seconds around a death: a connection that was just begun by what died ends like the conversations there."""
_STRAY = 2
"""Datagrams of a step that a busy machine may lose by itself."""
_COLUMNS = ("sent", "lost", "gap") * 2 + ("failed", "line 1", "others")
_WIDTHS = (6, 5, 8) * 2 + (8, 8, 7)
_LABEL = 16


class Step(Struct, frozen=True, kw_only=True):
    """One stretch of the story."""

    title: str
    began: float
    ended: float = math.inf
    kills: int | None = None
    """The line that died in this step: its segment may wait, and its conversations must end."""
    begun_on_it: int = 0
    """Conversations that were on that line when it died."""
    complaints: tuple[str, ...] = ()
    """What should have been seen and was not."""


class Outcome(Struct, frozen=True, kw_only=True):
    step: Step
    sent: Mapping[int, int]
    """Datagrams, by segment."""
    lost: Mapping[int, int]
    gap: Mapping[int, float]
    """The longest time without an answer, 0 if nothing was lost."""
    made: int
    """New connections that came about, of both segments."""
    failed: int
    excused: int
    """Of those that failed: they were being made when something died."""
    broken: int
    """Conversations that ended on the line that died."""
    broken_elsewhere: int

    def complaints(self) -> list[str]:
        """Why traffic did not survive, in words; empty if it did."""
        said = [*self.step.complaints]
        for segment, lost in self.lost.items():
            if segment != self.step.kills and lost > _STRAY:
                said.append(f"segment {segment} lost {lost} datagrams")
            elif self.gap[segment] > TOLERATED:
                said.append(f"segment {segment} was without an answer for {self.gap[segment]:.2f} s")
        said += [f"segment {segment} sent nothing" for segment, sent in self.sent.items() if not sent]
        if self.failed > self.excused:
            said.append(f"{self.failed - self.excused} new connections failed")
        if self.broken_elsewhere:
            said.append(f"{self.broken_elsewhere} conversations broke on a line that was well")
        return [f"{self.step.title}: {complaint}" for complaint in said]


def outcome(
    step: Step,
    streams: Mapping[int, Sequence[Summary]],
    attempts: Sequence[Attempt],
    breaks: Sequence[Break],
    deaths: Sequence[float],
) -> Outcome:
    """`streams`: all that each segment sent, by its number; attempts and breaks of both; when lines died."""
    during = {
        segment: [Summary([p for p in sent.packets if step.began <= p.sent < step.ended]) for sent in summaries]
        for segment, summaries in streams.items()
    }
    begun = [attempt for attempt in attempts if step.began <= attempt.started < step.ended]
    failed = [attempt.started for attempt in begun if attempt.took is None]
    ended = [found.uplink for found in breaks if step.began <= found.at < step.ended]
    return Outcome(
        step=step,
        sent={segment: sum(part.sent for part in parts) for segment, parts in during.items()},
        lost={segment: sum(part.lost for part in parts) for segment, parts in during.items()},
        gap={segment: max((part.longest_gap for part in parts), default=0.0) for segment, parts in during.items()},
        made=len(begun) - len(failed),
        failed=len(failed),
        excused=sum(any(abs(started - death) < _IN_FLIGHT for death in deaths) for started in failed),
        broken=ended.count(step.kills) if step.kills else 0,
        broken_elsewhere=sum(uplink != step.kills for uplink in ended),
    )


def table(outcomes: Sequence[Outcome], *, colour: bool) -> list[str]:
    """A row for each step, in 80 columns, and whether traffic survived."""
    groups = f"{'segment 1':>19}{'segment 2':>19}{'':8}{'broken on':>15}"
    head = "".join(f"{name:>{width}}" for name, width in zip(_COLUMNS, _WIDTHS, strict=True))
    lines = [
        " Datagrams of each segment, new connections that failed, conversations that broke:",
        "",
        f" {'':{_LABEL}}{groups}",
        f" {'':{_LABEL}}{head}",
    ]
    for found in outcomes:
        cells: list[str] = []
        for segment in found.sent:
            cells += [str(found.sent[segment]), str(found.lost[segment]), duration(found.gap[segment])]
        broken = f"{found.broken} of {found.step.begun_on_it}" if found.step.kills else "-"
        cells += [str(found.failed), broken, str(found.broken_elsewhere)]
        row = "".join(f"{cell:>{width}}" for cell, width in zip(cells, _WIDTHS, strict=True))
        lines.append(f" {found.step.title:{_LABEL}}{row}")
    complaints = [complaint for found in outcomes for complaint in found.complaints()]
    verdict, style = ("Traffic did not survive:", "1;31") if complaints else ("Traffic survived:", "1;32")
    made, failed = sum(found.made for found in outcomes), sum(found.failed for found in outcomes)
    painted = f"\033[{style}m{verdict}\033[0m" if colour else verdict
    lines += ["", f" {painted} {made} of {made + failed} new connections were answered."]
    return [*lines, *(f"   {complaint}" for complaint in complaints)]
