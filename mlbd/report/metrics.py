"""Prometheus metrics: what is counted as it happens, and what is read from the `Status` when somebody asks.

Names and labels are the public interface. Probes are counted one by one, so the label children of a target are bound
once. The clients are prometheus-client's own; the registry is ours, without the default one's extras.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import prometheus_client
from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from mlbd.core.plan import Change
from mlbd.core.probing import Failure, Order, Reply
from mlbd.core.status import CycleStatus, Status
from mlbd.report import exposition
from mlbd.report.gauges import families

_RTT_BUCKETS = [50e-6 * 2**n for n in range(16)]
"""50 us to 1.6 s."""
_CYCLE_BUCKETS = [0.0005 * 2**n for n in range(12)]
"""0.5 ms to 1 s."""
_FAILOVER_BUCKETS = [0.001 * 2**n for n in range(12)]
"""1 ms to 2 s."""

_DEVICES = Path("/proc/net/dev")
"""Of this network namespace; /sys/class/net is that of whoever mounted it."""

_log = logging.getLogger(__name__)


class _TargetCounters(Struct, frozen=True):
    text: str
    sent: Counter
    received: Counter
    rtt: Histogram


class Metrics:
    """`status` is called at scrapes, and when a target is first seen; `connections` gives totals by uplink name."""

    def __init__(self, status: Callable[[], Status], connections: Callable[[], Awaitable[Mapping[str, int]]]) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._status = status
        self._connections = connections
        self._connection_totals: Mapping[str, int] = {}
        self._bound: dict[tuple[str, int], _TargetCounters | None] = {}
        """None: no target of an uplink, or of one that is not in the configuration any more."""
        self.registry = registry = CollectorRegistry(auto_describe=False)
        target = ("uplink", "target")
        self._sent = Counter("mlbd_probe_sent", "Probes sent.", target, registry=registry)
        self._received = Counter("mlbd_probe_received", "Probes answered, however late.", target, registry=registry)
        self._errors = Counter(
            "mlbd_probe_errors",
            "Probes that could not be sent, or for which an ICMP error came back.",
            (*target, "kind"),
            registry=registry,
        )
        self._rtt = Histogram(
            "mlbd_probe_rtt_seconds", "Round trips of probes.", target, buckets=_RTT_BUCKETS, registry=registry
        )
        self._cycles = Counter("mlbd_cycles", "Cycles by result.", ("result",), registry=registry)
        self._cycle_duration = Histogram(
            "mlbd_cycle_duration_seconds", "Time a cycle took.", buckets=_CYCLE_BUCKETS, registry=registry
        )
        self._changes = Counter("mlbd_changes", "Changes made in the kernel.", ("kind", "action"), registry=registry)
        self._failover = Histogram(
            "mlbd_failover_duration_seconds",
            "Time from complete evidence to the kernel changed.",
            buckets=_FAILOVER_BUCKETS,
            registry=registry,
        )
        self._repairs = Counter(
            "mlbd_drift_repairs", "Objects of ours put right after others changed them.", ("kind",), registry=registry
        )
        self._flushed = Counter(
            "mlbd_flows_flushed", "Times that connections of an uplink were cut loose.", ("uplink",), registry=registry
        )
        self._overruns = Counter("mlbd_netlink_overruns", "Times netlink messages were lost.", registry=registry)
        self._hook_runs = Counter("mlbd_hook_runs", "Runs of hooks by result.", ("result",), registry=registry)
        self._reload_ok = Gauge(
            "mlbd_config_last_reload_successful", "1 if the configuration was last read well.", registry=registry
        )
        self._reload_at = Gauge(
            "mlbd_config_last_reload_success_timestamp_seconds",
            "Unix time when the configuration was last read well.",
            registry=registry,
        )
        # From the beginning: a series that begins with 1 has no increase.
        for result in ("unchanged", "changed", "failed"):
            self._cycles.labels(result)
        for result in ("ok", "failed", "timeout", "refused"):
            self._hook_runs.labels(result)
        self._reload_ok.set(1)
        self._reload_at.set_to_current_time()
        registry.register(_Scrape(self))
        ProcessCollector(registry=registry)

    def probe_sent(self, order: Order) -> None:
        counters = self._target(order.uplink, order.target)
        if counters is not None:
            counters.sent.inc()

    def probe_answered(self, reply: Reply) -> None:
        counters = self._target(reply.uplink, reply.target)
        if counters is not None:
            counters.received.inc()
            counters.rtt.observe(reply.rtt)

    def probe_failed(self, failure: Failure) -> None:
        counters = self._target(failure.uplink, failure.target)
        if counters is not None:
            self._errors.labels(failure.uplink, counters.text, failure.kind).inc()

    def cycle(self, cycle: CycleStatus, changes: Sequence[Change]) -> None:
        self._cycles.labels(cycle.result).inc()
        self._cycle_duration.observe(cycle.duration)
        for change in changes:
            self._changes.labels(change.kind, change.action).inc()

    def failover(self, took: float) -> None:
        """Seconds."""
        self._failover.observe(took)

    def repaired(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self._repairs.labels(change.kind).inc()

    def flushed(self, uplink: str) -> None:
        """`uplink` is "" for one that is not in the configuration any more; that is not counted."""
        if uplink:
            self._flushed.labels(uplink).inc()

    def overrun(self) -> None:
        self._overruns.inc()

    def hook_ran(self, result: str) -> None:
        """ok, failed, timeout or refused."""
        self._hook_runs.labels(result).inc()

    def reloaded(self, successful: bool) -> None:
        """Call it when `status` shows the new configuration: targets are looked up anew, vanished ones end."""
        self._reload_ok.set(int(successful))
        if successful:
            self._reload_at.set_to_current_time()
            before, self._bound = self._bound, {}
            self._bind()
            self._drop(_texts(before))

    async def run(self, host: str, port: int) -> None:
        """Serve until cancelled. An address that can't be had is said once and tried again every 30 s."""
        await exposition.serve(host, port, self.registry, self._prepare)

    async def _prepare(self) -> None:
        """Before a scrape: what only the kernel knows, and asking it may take a moment."""
        try:
            self._connection_totals = await self._connections()
        except OSError as error:
            _log.warning("connections could not be counted: %s", error)

    def families(self) -> Iterable[Metric]:
        """What is read when somebody asks."""
        return families(self._status(), self._connection_totals, device_bytes(_DEVICES.read_text()))

    def _target(self, uplink: str, index: int) -> _TargetCounters | None:
        """None for a target of a bundle's member, or one that is not in the configuration any more, of which something
        was heard late.
        """
        if (uplink, index) not in self._bound:
            self._bind()
        return self._bound.setdefault((uplink, index))

    def _bind(self) -> None:
        for uplink in self._status().uplinks:
            for index, status in enumerate(uplink.targets):
                labels = (uplink.name, status.target)
                self._bound[uplink.name, index] = _TargetCounters(
                    status.target, self._sent.labels(*labels), self._received.labels(*labels), self._rtt.labels(*labels)
                )

    def _drop(self, before: set[tuple[str, str]]) -> None:
        """End the series of those targets and uplinks that are no longer bound."""
        now = _texts(self._bound)
        for uplink, text in before - now:
            for metric in (self._sent, self._received, self._rtt):
                metric.remove(uplink, text)
            self._errors.remove_by_labels({"uplink": uplink, "target": text})
        for uplink in {uplink for uplink, _ in before} - {uplink for uplink, _ in now}:
            self._flushed.remove_by_labels({"uplink": uplink})


def _texts(bound: Mapping[tuple[str, int], _TargetCounters | None]) -> set[tuple[str, str]]:
    """Uplinks and their targets as written."""
    return {(uplink, counters.text) for (uplink, _), counters in bound.items() if counters is not None}


class _Scrape(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics.families()


def received_bytes() -> dict[str, int]:
    """By interface. Raises OSError."""
    return {name: received for name, (received, _) in device_bytes(_DEVICES.read_text()).items()}


def device_bytes(table: str) -> dict[str, tuple[int, int]]:
    """Bytes received and transmitted by interface, from the text of /proc/net/dev (proc_pid_net(5))."""
    totals = {}
    for line in table.splitlines()[2:]:
        name, _, numbers = line.rpartition(":")
        columns = numbers.split()
        totals[name.strip()] = (int(columns[0]), int(columns[8]))
    return totals
