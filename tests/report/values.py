"""Statuses and transitions to report about."""

from __future__ import annotations

from mlbd.core.status import (
    CycleStatus,
    MemberStatus,
    PolicyStatus,
    Status,
    TargetStatus,
    Transition,
    UplinkStatus,
)


def target(text: str = "gateway") -> TargetStatus:
    return TargetStatus(target=text, address="10.1.0.1", loss=0.0, rtt=0.012, jitter=0.001, evidence="...", reason="")


FIBER = UplinkStatus(
    name="fiber", interface="lo", id=1, usable=True, degraded=False, drained=False, drained_until=None,
    verdict="UP", reason="", since=900.0, carrier=True, gateway="10.1.0.1", gateway6="fe80::1",
    loss=0.0, rtt=0.012, jitter=0.001, hold=0.0,
    transitions=1, last_transition=900.0, targets=(target(), target("192.0.2.1")),
)  # fmt: skip
LTE = UplinkStatus(
    name="lte", interface="wan3", id=3, usable=False, degraded=False, drained=False, drained_until=None, verdict="DOWN",
    reason="3 of 3 probes lost", since=940.0, carrier=None, gateway=None, gateway6=None, loss=1.0, rtt=None,
    jitter=None, hold=10.0, transitions=4, last_transition=940.0, targets=(target(),),
)  # fmt: skip
BALANCED = PolicyStatus(
    name="balanced",
    method="random",
    members=(MemberStatus(uplink="fiber", tier=0, share=1.0), MemberStatus(uplink="lte", tier=1, share=0.0)),
    last_resort=None,
)
STATUS = Status(
    version="1.2", pid=7, config="/etc/mlbd/mlbd.toml", started=100.0, settled=True, uplinks=(FIBER, LTE),
    policies=(BALANCED,), last_cycle=CycleStatus(at=941.0, result="changed", duration=0.002, changes=3),
    warnings=("rp_filter is strict",),
)  # fmt: skip
DOWN = Transition(
    event="uplink_down", uplink="lte", at=5.0, was="FALLING", now="DOWN", reason="3 of 3 probes lost",
    evidence="..!!!", usable=("fiber",),
)  # fmt: skip
UP = Transition(
    event="uplink_up", uplink="lte", at=9.0, was="RISING", now="UP", reason="3 good rounds", evidence="!!...",
    usable=("fiber", "lte"),
)  # fmt: skip
