"""`mlbd status` for a person: a table of uplinks, the policies with their shares, what is wrong. Text in, text out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from mlbd.core.status import BundleStatus, PolicyStatus, PortStatus, Status, UplinkStatus

_GREEN, _YELLOW, _RED, _DIM, _BOLD, _PLAIN = "\033[32m", "\033[33m", "\033[31m", "\033[2m", "\033[1m", "\033[0m"
_VERDICT_COLOURS = {"UP": _GREEN, "DOWN": _RED}
_BAR = 20
"""Characters of a whole share."""

_COLUMNS = ("UPLINK", "INTERFACE", "VERDICT", "USABLE", "LOSS", "RTT", "JITTER", "GATEWAY", "SINCE", "REASON")
_MEMBER_COLUMNS = ("INTERFACE", "ACTIVE", "VERDICT", "USABLE", "LOSS", "RTT", "SINCE", "REASON")


def render(status: Status | Mapping[str, Any], *, colour: bool = False, now: float | None = None) -> str:
    """Several lines without a final newline. Takes a `Status` or what `mlbd status --json` says. `now`: Unix time."""
    known = status if isinstance(status, Status) else msgspec.convert(status, Status)
    at = time.time() if now is None else now
    parts = [
        _headline(known, at, colour),
        _uplinks(known.uplinks, at, colour),
        _targets(known.uplinks),
        *(_bundle(bundle, at, colour) for bundle in known.bundles),
        _policies(known.policies, colour),
    ]
    parts += [_paint(f"warning: {clean(w)}", _YELLOW, colour) for w in known.warnings]
    if known.last_cycle is not None:
        parts += [_paint(f"error: {clean(e)}", _RED, colour) for e in known.last_cycle.errors]
    return "\n".join(part for part in parts if part)


def _headline(status: Status, now: float, colour: bool) -> str:
    members = [port for bundle in status.bundles for port in bundle.members]
    counts = [_usable("uplinks", status.uplinks)] if status.uplinks or not members else []
    count = ", ".join([*counts, _usable("members", members)] if members else counts)
    text = f"mlbd {status.version}, running for {ago(now - status.started)}: {count}"
    if not status.settled:
        text += "; still waiting for first verdicts"
    return _paint(text, _BOLD, colour) + "\n"


def _usable(what: str, those: Sequence[UplinkStatus | PortStatus]) -> str:
    return f"{sum(one.usable for one in those)} of {len(those)} {what} usable"


def _uplinks(uplinks: Sequence[UplinkStatus], now: float, colour: bool) -> str:
    if not uplinks:
        return ""
    return _table(_COLUMNS, [_row(uplink, now) for uplink in uplinks], uplinks, colour)


def _table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], about: Sequence[UplinkStatus | PortStatus], colour: bool
) -> str:
    """A row for each of those that it is about; verdict and usable are the third and the fourth column."""
    widths = [max(len(row[column]) for row in (columns, *rows)) for column in range(len(columns))]
    lines = [_paint(_aligned(columns, widths), _DIM, colour)]
    for one, row in zip(about, rows, strict=True):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        cells[2] = _paint(cells[2], _VERDICT_COLOURS.get(one.verdict, _YELLOW), colour and row[2] != "-")
        cells[3] = _paint(cells[3], _GREEN if one.usable else _RED, colour)
        lines.append("  ".join(cells).rstrip())
    return "".join(f"{line}\n" for line in lines)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _row(uplink: UplinkStatus, now: float) -> tuple[str, ...]:
    usable = "drained" if uplink.drained else "degraded" if uplink.degraded else "yes" if uplink.usable else "no"
    return (
        uplink.name,
        _interface(uplink),
        uplink.verdict,
        usable,
        percent(uplink.loss),
        milliseconds(uplink.rtt),
        milliseconds(uplink.jitter),
        ", ".join(g for g in (uplink.gateway, uplink.gateway6) if g) or "-",
        ago(now - uplink.since),
        clean(uplink.reason),
    )


def _interface(one: UplinkStatus | PortStatus) -> str:
    if one.carrier is None:
        return f"{one.interface} (missing)"
    return one.interface if one.carrier else f"{one.interface} (no carrier)"


def _bundle(bundle: BundleStatus, now: float, colour: bool) -> str:
    rows = [
        (
            _interface(port),
            "yes" if port.active else "no",
            port.verdict if port.targets else "-",
            "yes" if port.usable else "no",
            percent(port.loss),
            milliseconds(port.rtt),
            ago(now - port.since),
            clean(port.reason),
        )
        for port in bundle.members
    ]
    return f"bundle {bundle.name} ({bundle.mode or bundle.kind})\n" + _table(
        _MEMBER_COLUMNS, rows, bundle.members, colour
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
    return "".join(f"target {_aligned(row, widths)}\n" for row in rows)


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
