"""What is known at one moment, for `mlbd status`, the metrics and the service manager. Base units throughout."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from mlbd.core.machine import Verdict

Event = Literal[
    "uplink_up", "uplink_down", "uplink_degraded", "uplink_restored", "uplink_drained", "uplink_resumed",
    "member_up", "member_down",
]  # fmt: skip
"""What a transition can be. The first two follow facts and verdict, also while the uplink is drained; `member_`: of a
member of a bundle."""


class TargetStatus(Struct, frozen=True, kw_only=True):
    target: str
    """As written in the configuration."""
    address: str | None
    loss: float | None
    """Ratio of lost probes in the window; None before the first probe was due."""
    rtt: float | None
    """Mean round trip in the window, seconds."""
    jitter: float | None
    """Mean difference of consecutive round trips in the window, seconds."""
    evidence: str
    """Newest last: `.` answered, `!` lost, `x` could not be sent, `?` not due yet."""
    reason: str
    """Why the last probe failed; "" if it did not."""


class UplinkStatus(Struct, frozen=True, kw_only=True):
    name: str
    interface: str
    id: int
    carries: bool | None
    """By facts and verdict it carries traffic, drained or not; None before it has a first verdict."""
    usable: bool
    degraded: bool
    drained: bool
    drained_until: float | None
    """Unix time; None: until it is resumed, or not drained."""
    verdict: Verdict
    reason: str
    since: float
    """Unix time of the last change of `usable`, or of the start."""
    carrier: bool | None
    """None: the interface does not exist."""
    gateway: str | None
    gateway6: str | None
    loss: float | None
    """Of the targets together; see `TargetStatus`."""
    rtt: float | None
    jitter: float | None
    hold: float
    transitions: int
    last_transition: float | None
    """Unix time."""
    targets: tuple[TargetStatus, ...]


class MemberStatus(Struct, frozen=True, kw_only=True):
    uplink: str
    tier: int
    """0 is the first."""
    share: float
    """Ratio of new connections of the family that more members serve; the members of a policy sum up to 1 or 0."""


class PolicyStatus(Struct, frozen=True, kw_only=True):
    name: str
    method: str
    carries: bool | None
    """A member that is no peer does; None before that is known."""
    members: tuple[MemberStatus, ...]
    last_resort: str | None
    """What the policy fell back to because no member is usable: `best: cable`, `unreachable`, ...; None normally."""


class PortStatus(Struct, frozen=True, kw_only=True):
    """A member of a bundle."""

    interface: str
    active: bool
    """The kernel uses it."""
    usable: bool
    """By facts and verdict it could be used."""
    verdict: Verdict
    reason: str
    since: float
    """Unix time of the last change of `usable`, or of the start."""
    carrier: bool | None
    """None: the interface does not exist."""
    loss: float | None
    """Of the targets together, as of an uplink; None, like the next two, of members that nobody probes."""
    rtt: float | None
    jitter: float | None
    transitions: int
    targets: tuple[TargetStatus, ...]


class BundleStatus(Struct, frozen=True, kw_only=True):
    name: str
    kind: Literal["bond", "teql"]
    mode: str
    """Of a bond, by name; "" of TEQL."""
    members: tuple[PortStatus, ...]


class CycleStatus(Struct, frozen=True, kw_only=True):
    at: float
    """Unix time."""
    result: Literal["unchanged", "changed", "failed"]
    duration: float
    changes: int
    errors: tuple[str, ...] = ()


class Status(Struct, frozen=True, kw_only=True):
    version: str
    pid: int
    config: str
    started: float
    settled: bool
    """False while start-up still waits for first verdicts; until then nothing in the kernel is switched."""
    uplinks: tuple[UplinkStatus, ...]
    policies: tuple[PolicyStatus, ...]
    bundles: tuple[BundleStatus, ...] = ()
    last_cycle: CycleStatus | None = None
    warnings: tuple[str, ...] = ()


class Transition(Struct, frozen=True, kw_only=True):
    """Usable or degraded changed, or a first verdict was reached. `at` is monotonic seconds, as always in the core."""

    event: Event
    uplink: str
    at: float
    was: Verdict
    now: Verdict
    reason: str
    evidence: str
    usable: tuple[str, ...]
    """The uplinks, or the bundle's members, that are left."""
    bundle: str = ""
    """Of which `uplink` is a member; then it is an interface."""
