"""What the administrator wants: the frozen result of a checked configuration. Durations are seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Family = Literal[4, 6]
FAMILIES: tuple[Family, Family] = (4, 6)

Method = Literal["random", "round-robin", "hash-source", "failover"]
LastResort = Literal["best", "unreachable", "blackhole", "main"]
Nat6 = Literal["none", "masquerade"]

MAX_UPLINK_ID = 100
"""Uplink ids are 1..100; the codes above them belong to `main` and to policies (see `mlbd.core.layout`)."""


@dataclass(frozen=True, slots=True)
class Target:
    """One thing a probe asks. `address` is None for the uplink's gateway, whatever that is at the moment."""

    text: str
    """The canonical address or "gateway"; the label in metrics and status."""
    address: str | None = None
    """Canonical IP address text (as `str(ipaddress.ip_address(...))`), or None for "gateway"."""
    family: Family | None = None
    """Family of `address`; None exactly when `address` is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """How an uplink is probed."""

    targets: tuple[Target, ...] = (Target("gateway"),)
    quorum: int = 1
    interval: float = 1.0
    timeout: float | None = None
    """None: from the round trips measured, as RFC 6298 computes a retransmission timeout, kept in 0.2..1 s."""
    suspect_interval: float = 0.1
    fall: int = 5
    rise: int = 3
    hold: float = 0.0
    hold_max: float = 300.0
    window: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySetting:
    """Where the next hop of a family comes from."""

    source: Literal["auto", "fixed", "none"]
    """auto: routes that others installed; fixed: `address`; none: point-to-point, the device is enough."""
    address: str | None = None


AUTO = GatewaySetting(source="auto")


@dataclass(frozen=True, slots=True, kw_only=True)
class Uplink:
    name: str
    interface: str
    gateway: GatewaySetting = AUTO
    gateway6: GatewaySetting = AUTO
    weight: int = 1
    masquerade: bool = True
    nat6: Nat6 = "none"
    id: int | None = None
    """The id the administrator chose; None: given once and kept by name (`mlbd.core.layout.assign`)."""
    carrier_delay: float = 0.0
    probe: Probe = field(default_factory=Probe)

    def gateway_setting(self, family: Family) -> GatewaySetting:
        return self.gateway if family == 4 else self.gateway6


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    name: str
    method: Method = "random"
    tiers: tuple[tuple[str, ...], ...]
    """Uplink names; the first tier with a usable member carries the traffic."""
    weights: tuple[tuple[str, int], ...] = ()
    """Weight of every member, in member order; resolved: the policy's own number or the uplink's default."""
    last_resort: LastResort = "best"

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(name for tier in self.tiers for name in tier)

    def weight(self, member: str) -> int:
        return dict(self.weights)[member]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conntrack:
    tcp: Literal["reset", "keep"] = "reset"
    tcp_reset_after: float = 1.0
    on_recover: Literal["keep", "flush"] = "keep"
    helpers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    metrics: tuple[str, int] | None = ("127.0.0.1", 9617)
    """Address and port; None: off."""
    control: str = "/run/mlbd/control.sock"
    on_exit: Literal["keep", "release"] = "keep"
    miimon: float = 0.1
    """Seconds between carrier readings; 0: events only."""
    grace: float = 5.0
    fwmark_mask: int = 0xFF000000
    table_base: int = 20000
    rule_priority: int = 10000
    protocol: int = 109


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    uplinks: tuple[Uplink, ...]
    policies: tuple[Policy, ...]
    """At least one; the first is what traffic takes when nothing else is said."""
    conntrack: Conntrack = Conntrack()
    daemon: Daemon = Daemon()

    def uplink(self, name: str) -> Uplink:
        """The uplink of that name; KeyError if there is none."""
        for uplink in self.uplinks:
            if uplink.name == name:
                return uplink
        raise KeyError(name)
