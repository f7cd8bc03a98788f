"""What a fault of the demo did to the traffic, computed from what clients, servers and providers recorded.

Times are monotonic seconds, durations seconds. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from msgspec import Struct

from mlbd.lab.traffic import Attempt

PROMPT = 0.5
"""A connection that is answered within this took its way at once; the kernel sends a lost SYN again after 1 s."""
CERTAIN = 1.0
"""For so long before the end of a fault traffic must have been fine to say that it was again."""


class Transition(Struct, frozen=True):
    """What the daemon logged."""

    at: float
    """When its evidence was complete; the log is written when the kernel has been changed."""
    event: Literal["uplink_down", "uplink_up"]
    uplink: str
    text: str


class Outcome(Struct, frozen=True, kw_only=True):
    """Of one fault."""

    title: str
    """`fiber silent, 8 s`."""
    noticed: float | None
    """From the fault to the daemon's decision; None if there was none."""
    recovered: float | None
    """From the fault until new connections were answered at once again; None if that was not before its end."""
    back: float | None
    """From the end of the fault until the uplink carried traffic again; None if it did not."""
    datagrams: int
    datagrams_lost: int
    """Of the stream, which was on the broken uplink."""
    stream_went_on: bool
    """It got answers again before the end of the fault."""
    reset: int
    """Conversations on the broken uplink that ended. Their clients connected again."""
    broken: int
    """Conversations on healthy uplinks that ended."""
    healthy: int
    """Conversations that were on healthy uplinks."""
    failed_outside: int
    """Connections that failed although nothing was broken when they were started."""
    wrong_source: int
    """Packets with a source that is not the customer's, at all providers."""

    def complaints(self) -> list[str]:
        """Why traffic did not survive, in words; empty if it did."""
        said = []
        if self.noticed is None:
            said.append("the daemon did not notice")
        if self.recovered is None:
            said.append("new connections did not succeed until the fault was over")
        if not self.stream_went_on:
            said.append("the stream of datagrams did not go on until the fault was over")
        if self.back is None:
            said.append("the uplink was not used again after it was healed")
        if self.broken:
            said.append(f"{self.broken} connections broke on healthy uplinks")
        if self.failed_outside and self.recovered is not None:  # else they fail until the uplink is used again
            said.append(f"{self.failed_outside} connections failed while nothing was broken")
        if self.wrong_source:
            said.append(f"the providers saw {self.wrong_source} packets with a wrong source")
        return [f"{self.title}: {complaint}" for complaint in said]


def transitions(records: Iterable[Mapping[str, Any]], offset: float) -> list[Transition]:
    """Those in the daemon's log. `offset`: monotonic minus Unix time, seconds."""
    found = []
    for record in records:
        if record.get("event") not in ("uplink_down", "uplink_up"):
            continue
        logged = datetime.fromisoformat(record["timestamp"]).timestamp()
        at = logged + offset - (record["took_ms"] or 0.0) / 1000
        evidence = f" [{record['evidence']}]" if record["evidence"] else ""
        left = ", ".join(record["usable"]) or "none"
        text = f"{record['uplink']} {record['to']}: {record['reason']}{evidence}; usable: {left}"
        found.append(Transition(at, record["event"], record["uplink"], text))
    return found


def first(found: Iterable[Transition], event: str, uplink: str, since: float) -> float | None:
    """How long after the moment an uplink's next transition of this kind was; None if there was none."""
    return next((t.at - since for t in found if (t.event, t.uplink) == (event, uplink) and t.at >= since), None)


def recovered(attempts: Sequence[Attempt], began: float, ended: float) -> float | None:
    """When, after the begin of a fault, a connection was answered at once and so were all that followed it.

    0 if all were from the first on. None if some hesitated or failed in the last second before the end.
    """
    during = sorted((a for a in attempts if began <= a.started < ended), key=lambda a: a.started)
    last_bad = max((n for n, a in enumerate(during) if a.took is None or a.took > PROMPT), default=-1)
    good = during[last_bad + 1 :]
    if not good or (last_bad >= 0 and good[0].started > ended - CERTAIN):
        return None
    return good[0].started - began if last_bad >= 0 else 0.0
