"""`mlbd explain` for a person: what decides, where it may leave, and what the kernel says. Text in, text out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from mlbd.core.explain import Candidate, Explanation, route_text
from mlbd.core.match import OWN
from mlbd.core.ports import Way
from mlbd.core.question import Question
from mlbd.core.settings import MAIN
from mlbd.report.screen import clean, percent

_NAMES = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6"}


def render(explanation: Explanation | Mapping[str, Any]) -> str:
    """Several lines without a final newline. Takes an `Explanation` or what `mlbd explain --json` says."""
    known = explanation if isinstance(explanation, Explanation) else msgspec.convert(explanation, Explanation)
    return "\n".join(clean(line) for line in _lines(known))


def _lines(known: Explanation) -> Iterator[str]:
    yield _headline(known.asked)
    for skipped in known.skipped:
        yield f"rule {skipped.rule} skipped: {skipped.uplink} is not usable"
    if known.rule is not None:
        yield f"rule {known.rule}, use = {known.use}"
    if known.policy is not None:
        tier = "" if known.tier is None else f", tier {known.tier + 1}"
        resort = "" if known.last_resort is None else f", last resort: {known.last_resort}"
        yield f"policy {known.policy} ({known.method}){tier}{resort}"
    elif known.use == MAIN:
        yield "main: not mlbd's to route"
    else:
        yield f"uplink {known.use}"
    width = max((len(c.uplink) for c in known.candidates), default=0)
    for candidate in known.candidates:
        yield f"  {candidate.uplink.ljust(width)}  {percent(candidate.share):>6}  {_way_of(candidate)}"
    if known.pinned is not None:
        yield f"existing connection: stays on {known.pinned}"
    elif known.connections:
        counts = ", ".join(f"{count} on {name}" for name, count in known.connections.items())
        yield f"existing connections: {counts}; each stays where it is"
    if known.route is not None and (known.pinned is not None or not known.candidates):
        yield f"route: {route_text(known.route)}"
    yield from (f"note: {note}" for note in known.notes)


def _headline(asked: Question) -> str:
    name = _NAMES.get(asked.protocol, f"protocol {asked.protocol}")
    port = "" if asked.port is None else f" port {asked.port}"
    source_port = "" if asked.source_port is None else f" from port {asked.source_port}"
    mark = f", mark {asked.mark:#x}" if asked.mark else ""
    source = "" if asked.source is None else f" from {asked.source}"
    origin = "the router's own" if asked.interface == OWN else f"coming in by {asked.interface}"
    return f"{name}{source_port} to {asked.destination}{port}{source}, {origin}{mark}"


def _way_of(candidate: Candidate) -> str:
    c = candidate
    return route_text(Way(table=None, device=c.device, gateway=c.gateway, source=c.source, error=c.error))
