"""`mlbd status` for a person: a table of uplinks, the policies with their shares, what is wrong. Text in, text out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from mlbd.core.status import PolicyStatus, Status, UplinkStatus

_GREEN, _YELLOW, _RED, _DIM, _BOLD, _PLAIN = "\033[32m", "\033[33m", "\033[31m", "\033[2m", "\033[1m", "\033[0m"
_VERDICT_COLOURS = {"UP": _GREEN, "DOWN": _RED}
_BAR = 20
"""Characters of a whole share."""

_COLUMNS = ("UPLINK", "INTERFACE", "VERDICT", "USABLE", "LOSS", "RTT", "JITTER", "GATEWAY", "SINCE", "REASON")


def render(status: Status | Mapping[str, Any], *, colour: bool = False, now: float | None = None) -> str:
    """Several lines without a final newline. Takes a `Status` or what `mlbd status --json` says. `now`: Unix time."""
    known = status if isinstance(status, Status) else msgspec.convert(status, Status)
    at = time.time() if now is None else now
    parts = [
        _headline(known, at, colour),
        _uplinks(known.uplinks, at, colour),
        _targets(known.uplinks),
        _policies(known.policies, colour),
    ]
    parts += [_paint(f"warning: {clean(w)}", _YELLOW, colour) for w in known.warnings]
    if known.last_cycle is not None:
        parts += [_paint(f"error: {clean(e)}", _RED, colour) for e in known.last_cycle.errors]
    return "\n".join(part for part in parts if part)


def _headline(status: Status, now: float, colour: bool) -> str:
    usable = sum(u.usable for u in status.uplinks)
    count = f"{usable} of {len(status.uplinks)} uplinks usable"
    text = f"mlbd {status.version}, running for {ago(now - status.started)}: {count}"
    if not status.settled:
        text += "; still waiting for first verdicts"
    return _paint(text, _BOLD, colour) + "\n"


def _uplinks(uplinks: Sequence[UplinkStatus], now: float, colour: bool) -> str:
    rows = [_COLUMNS, *(_row(uplink, now) for uplink in uplinks)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = []
    for number, row in enumerate(rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        if number:
            uplink = uplinks[number - 1]
            cells[2] = _paint(cells[2], _VERDICT_COLOURS.get(uplink.verdict, _YELLOW), colour)
            cells[3] = _paint(cells[3], _GREEN if uplink.usable else _RED, colour)
        lines.append(_paint("  ".join(cells).rstrip(), _DIM, colour and not number))
    return "\n".join(lines) + "\n"


def _row(uplink: UplinkStatus, now: float) -> tuple[str, ...]:
    usable = "drained" if uplink.drained else "degraded" if uplink.degraded else "yes" if uplink.usable else "no"
    interface = uplink.interface
    if uplink.carrier is None:
        interface += " (missing)"
    elif not uplink.carrier:
        interface += " (no carrier)"
    return (
        uplink.name,
        interface,
        uplink.verdict,
        usable,
        percent(uplink.loss),
        milliseconds(uplink.rtt),
        milliseconds(uplink.jitter),
        ", ".join(g for g in (uplink.gateway, uplink.gateway6) if g) or "-",
        ago(now - uplink.since),
        clean(uplink.reason),
    )


def _targets(uplinks: Sequence[UplinkStatus]) -> str:
    """Of uplinks with several; of one target, the uplink's line says it all."""
    rows = [
        (
            uplink.name,
            clean(target.target),
            target.evidence,
            percent(target.loss),
            milliseconds(target.rtt),
            clean(target.reason),
        )
        for uplink in uplinks
        for target in uplink.targets
        if len(uplink.targets) > 1
    ]
    if not rows:
        return ""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "".join(f"target {line}\n" for line in lines)


def _policies(policies: Sequence[PolicyStatus], colour: bool) -> str:
    lines = []
    for policy in policies:
        note = "" if policy.last_resort is None else _paint(f"  last resort: {policy.last_resort}", _RED, colour)
        lines.append(f"policy {policy.name} ({policy.method}){note}")
        width = max((len(m.uplink) for m in policy.members), default=0)
        tiers = len({m.tier for m in policy.members}) > 1
        for member in policy.members:
            bar = "#" * round(member.share * _BAR)
            tier = f"tier {member.tier + 1}  " if tiers else ""
            share = f"{percent(member.share):>7}"
            shown = _paint(bar.ljust(_BAR), _GREEN, colour and bool(bar))
            lines.append(f"  {tier}{member.uplink.ljust(width)}  {share}  {shown}".rstrip())
    return "\n".join(lines)


def percent(ratio: float | None) -> str:
    """`12.5%`; `-` if unknown."""
    return "-" if ratio is None else f"{ratio * 100:.1f}%"


def milliseconds(seconds: float | None) -> str:
    """`12.3ms`; `-` if unknown."""
    return "-" if seconds is None else f"{seconds * 1000:.1f}ms"


def ago(seconds: float) -> str:
    """A duration in its largest unit and the next, `41s`, `5m 3s`, `2h 0m`, `3d 4h`; never negative."""
    whole = max(0, int(seconds))
    for size, unit, smaller, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // smaller}{small}"
    return f"{whole}s"


def clean(text: str) -> str:
    """On one line, and nothing that a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in text)


def _paint(text: str, code: str, colour: bool) -> str:
    return f"{code}{text}{_PLAIN}" if colour else text
