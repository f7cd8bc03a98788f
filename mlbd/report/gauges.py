"""The metrics that are read from a `Status` when somebody asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from mlbd.core.machine import Verdict
from mlbd.core.status import Status, UplinkStatus

_UPLINK = ("uplink",)


def families(
    status: Status, connections: Mapping[str, int], device_bytes: Mapping[str, tuple[int, int]]
) -> Iterator[Metric]:
    """All of them. `connections`: totals by uplink name; `device_bytes`: received and transmitted by interface.

    What is not known has no sample: a round trip before the first reply, the bytes of an interface that is missing.
    """
    build = GaugeMetricFamily("mlbd_build_info", "1, with the version.", labels=("version",))
    build.add_metric((status.version,), 1)
    yield build
    yield from _about_uplinks(status)
    yield from _traffic(status, connections, device_bytes)
    share = GaugeMetricFamily(
        "mlbd_policy_member_share", "Ratio of a policy's new connections.", labels=("policy", "uplink")
    )
    for policy in status.policies:
        for member in policy.members:
            share.add_metric((policy.name, member.uplink), member.share)
    yield share
    active = GaugeMetricFamily(
        "mlbd_member_active", "1 if the kernel uses this member of the bundle.", labels=("bundle", "interface")
    )
    for bundle in status.bundles:
        for port in bundle.members:
            active.add_metric((bundle.name, port.interface), int(port.active))
    yield active


def _about_uplinks(status: Status) -> Iterator[Metric]:
    info = GaugeMetricFamily("mlbd_uplink_info", "1, with what it is.", labels=("uplink", "interface", "id"))
    verdict = GaugeMetricFamily("mlbd_uplink_verdict", "1 for the verdict that holds.", labels=("uplink", "verdict"))
    transitions = CounterMetricFamily("mlbd_uplink_transitions", "Changes of usable.", labels=_UPLINK)
    for uplink in status.uplinks:
        info.add_metric((uplink.name, uplink.interface, str(uplink.id)), 1)
        transitions.add_metric((uplink.name,), uplink.transitions)
        for each in get_args(Verdict):
            verdict.add_metric((uplink.name, each), int(uplink.verdict == each))
    yield from (info, verdict, transitions)
    values = [_values(uplink) for uplink in status.uplinks]
    for name, help_text in _GAUGES.items():
        gauge = GaugeMetricFamily(f"mlbd_uplink_{name}", help_text, labels=_UPLINK)
        for uplink, known in zip(status.uplinks, values, strict=True):
            value = known[name]
            if value is not None:
                gauge.add_metric((uplink.name,), float(value))
        yield gauge


_GAUGES = {
    "usable": "1 if it carries traffic.",
    "degraded": "1 if it is used only where nothing better is.",
    "drained": "1 if it gets no new connections because somebody said so.",
    "carrier": "1 if its interface exists and has carrier.",
    "loss_ratio": "Ratio of probes lost in the window.",
    "rtt_seconds": "Mean round trip in the window.",
    "jitter_seconds": "Mean difference of consecutive round trips in the window.",
    "last_transition_timestamp_seconds": "Unix time of the last change of usable.",
    "hold_seconds": "How long it has to be good before it carries traffic again.",
}


def _values(uplink: UplinkStatus) -> dict[str, float | None]:
    return {
        "usable": uplink.usable,
        "degraded": uplink.degraded,
        "drained": uplink.drained,
        "carrier": bool(uplink.carrier),
        "loss_ratio": uplink.loss,
        "rtt_seconds": uplink.rtt,
        "jitter_seconds": uplink.jitter,
        "last_transition_timestamp_seconds": uplink.last_transition,
        "hold_seconds": uplink.hold,
    }


def _traffic(
    status: Status, connections: Mapping[str, int], device_bytes: Mapping[str, tuple[int, int]]
) -> Iterator[Metric]:
    assigned = CounterMetricFamily("mlbd_uplink_connections", "Connections assigned.", labels=_UPLINK)
    received = CounterMetricFamily("mlbd_uplink_receive_bytes", "Bytes its interface received.", labels=_UPLINK)
    sent = CounterMetricFamily("mlbd_uplink_transmit_bytes", "Bytes its interface transmitted.", labels=_UPLINK)
    for uplink in status.uplinks:
        if uplink.name in connections:
            assigned.add_metric((uplink.name,), connections[uplink.name])
        if uplink.interface in device_bytes:
            into, out_of = device_bytes[uplink.interface]
            received.add_metric((uplink.name,), into)
            sent.add_metric((uplink.name,), out_of)
    yield from (assigned, received, sent)
