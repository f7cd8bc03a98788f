"""Statuses and transitions to report about."""

from __future__ import annotations

from msgspec.structs import replace

from mlbd.core.status import (
    BundleStatus,
    CycleStatus,
    MemberStatus,
    PolicyStatus,
    PortStatus,
    Status,
    TargetStatus,
    Transition,
    UplinkStatus,
)


def target(text: str = "gateway") -> TargetStatus:
    return TargetStatus(target=text, address="10.1.0.1", loss=0.0, rtt=0.012, jitter=0.001, evidence="...", reason="")


FIBER = UplinkStatus(
    name="fiber", interface="lo", id=1, carries=True, usable=True, degraded=False, drained=False, drained_until=None,
    verdict="UP", reason="", since=900.0, carrier=True, gateway="10.1.0.1", gateway6="fe80::1",
    loss=0.0, rtt=0.012, jitter=0.001, hold=0.0,
    transitions=1, last_transition=900.0, targets=(target(), target("192.0.2.1")),
)  # fmt: skip
LTE = UplinkStatus(
    name="lte", interface="wan3", id=3, carries=False, usable=False, degraded=False, drained=False, drained_until=None,
    verdict="DOWN", reason="3 of 3 probes lost", since=940.0, carrier=None, gateway=None, gateway6=None, loss=1.0,
    rtt=None, jitter=None, hold=10.0, transitions=4, last_transition=940.0, targets=(target(),),
)  # fmt: skip
BALANCED = PolicyStatus(
    name="balanced",
    method="random",
    carries=True,
    members=(MemberStatus(uplink="fiber", tier=0, share=1.0), MemberStatus(uplink="lte", tier=1, share=0.0)),
    last_resort=None,
)
BOND = BundleStatus(
    name="bond0", kind="bond", mode="active-backup", members=(
        PortStatus(
            interface="eth1", active=False, usable=False, verdict="DOWN", reason="3 of 3 probes lost", since=940.0,
            carrier=True, loss=1.0, rtt=None, jitter=None, transitions=2, targets=(target("192.168.1.1"),),
        ),
        PortStatus(
            interface="eth2", active=True, usable=True, verdict="UP", reason="", since=100.0,
            carrier=True, loss=0.0, rtt=0.0003, jitter=0.0001, transitions=0, targets=(target("192.168.1.1"),),
        ),
    ),
)  # fmt: skip
LAG = BundleStatus(
    name="bond1", kind="bond", mode="802.3ad", members=(
        PortStatus(
            interface="eth3", active=True, usable=True, verdict="UNKNOWN", reason="", since=100.0, carrier=True,
            loss=None, rtt=None, jitter=None, transitions=0, targets=(),
        ),
        PortStatus(
            interface="eth4", active=False, usable=False, verdict="UNKNOWN", reason="no carrier", since=970.0,
            carrier=False, loss=None, rtt=None, jitter=None, transitions=1, targets=(),
        ),
    ),
)  # fmt: skip
TEQL = BundleStatus(
    name="teql0", kind="teql", mode="",
    members=(replace(BOND.members[1], interface="t1", targets=(target("10.0.0.1"),)),),
)  # fmt: skip
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
MEMBER_DOWN = Transition(
    event="member_down", uplink="eth1", bundle="bond0", at=5.0, was="FALLING", now="DOWN", reason="3 of 3 probes lost",
    evidence="..!!!", usable=("eth2",),
)  # fmt: skip
MEMBER_UP = Transition(
    event="member_up", uplink="eth1", bundle="bond0", at=9.0, was="RISING", now="UP", reason="3 good rounds",
    evidence="!!...", usable=("eth1", "eth2"),
)  # fmt: skip
