from __future__ import annotations

import asyncio
import http.client
import logging
import re
import socket
import time
from collections.abc import Awaitable, Callable, Mapping

import pytest
from msgspec.structs import replace
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from mlbd.core.plan import Change
from mlbd.core.probing import Failure, Order, Reply
from mlbd.core.state import Counter
from mlbd.core.status import CycleStatus, Status
from mlbd.report import exposition
from mlbd.report.metrics import Metrics, device_bytes
from tests.report.values import BOND, FIBER, LTE, STATUS

ORDER = Order("fiber", 1, 7, "lo", 1, "192.0.2.1")


class Told:
    """A status that can change, and totals of connections."""

    def __init__(self) -> None:
        self.status = STATUS
        self.broken = False
        self.asked = 0

    def __call__(self) -> Status:
        self.asked += 1
        return self.status

    async def connections(self) -> Mapping[str, int]:
        if self.broken:
            raise RuntimeError("a bug")
        return {"fiber": 12}


def metrics() -> tuple[Metrics, Told]:
    told = Told()
    return Metrics(told, told.connections), told


def samples(made: Metrics, prefix: str) -> dict[str, float]:
    """Samples of `mlbd_<prefix>...` as `name{label=value}`."""
    found = {}
    for family in text_string_to_metric_families(generate_latest(made.registry).decode()):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            if sample.name.startswith(f"mlbd_{prefix}"):
                found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


def test_names_and_labels() -> None:
    """The exposition has exactly the metrics of the public interface, with their labels, and those of the process."""
    made, told = metrics()
    told.status = replace(STATUS, bundles=(BOND,))
    made.probe_sent(ORDER)
    made.probe_answered(Reply("fiber", 1, 7, 0.01))
    made.probe_failed(Failure("fiber", 1, 8, "no-route", "?"))
    made.cycle(CycleStatus(at=1.0, result="changed", duration=0.002, changes=1), [Change(None, Counter("c"))])
    made.repaired([Change(Counter("c"), None)])
    made.failover(0.003)
    made.flushed("fiber")
    made.flushed("")
    made.hook_ran("ok")
    asyncio.run(made._prepare())
    families = text_string_to_metric_families(generate_latest(made.registry).decode())
    found = {
        f"{family.name}_total" if family.type == "counter" else family.name: tuple(sorted(family.samples[0].labels))
        for family in families
        if not family.name.startswith("process_")
    }
    assert found.pop("mlbd_probe_rtt_seconds") == ("le", "target", "uplink")
    assert found.pop("mlbd_cycle_duration_seconds") == found.pop("mlbd_failover_duration_seconds") == ("le",)
    assert found == {
        "mlbd_build_info": ("version",),
        "mlbd_uplink_info": ("id", "interface", "uplink"),
        "mlbd_uplink_usable": ("uplink",),
        "mlbd_uplink_degraded": ("uplink",),
        "mlbd_uplink_drained": ("uplink",),
        "mlbd_uplink_carrier": ("uplink",),
        "mlbd_uplink_verdict": ("uplink", "verdict"),
        "mlbd_uplink_loss_ratio": ("uplink",),
        "mlbd_uplink_rtt_seconds": ("uplink",),
        "mlbd_uplink_jitter_seconds": ("uplink",),
        "mlbd_uplink_transitions_total": ("uplink",),
        "mlbd_uplink_last_transition_timestamp_seconds": ("uplink",),
        "mlbd_uplink_hold_seconds": ("uplink",),
        "mlbd_uplink_receive_bytes_total": ("uplink",),
        "mlbd_uplink_transmit_bytes_total": ("uplink",),
        "mlbd_uplink_connections_total": ("uplink",),
        "mlbd_probe_sent_total": ("target", "uplink"),
        "mlbd_probe_received_total": ("target", "uplink"),
        "mlbd_probe_errors_total": ("kind", "target", "uplink"),
        "mlbd_policy_member_share": ("policy", "uplink"),
        "mlbd_member_active": ("bundle", "interface"),
        "mlbd_cycles_total": ("result",),
        "mlbd_changes_total": ("action", "kind"),
        "mlbd_drift_repairs_total": ("kind",),
        "mlbd_flows_flushed_total": ("uplink",),
        "mlbd_netlink_overruns_total": (),
        "mlbd_hook_runs_total": ("result",),
        "mlbd_config_last_reload_successful": (),
        "mlbd_config_last_reload_success_timestamp_seconds": (),
    }
    assert "process_resident_memory_bytes" in generate_latest(made.registry).decode()


def test_values_of_uplinks() -> None:
    """A scrape shows the status of that moment; what is not known has no sample."""
    made, told = metrics()
    asyncio.run(made._prepare())
    shown = samples(made, "uplink_")
    for name in ("receive", "transmit"):  # lo, whose bytes are whatever they are
        assert shown.pop(f"mlbd_uplink_{name}_bytes_total{{uplink=fiber}}") >= 0
    assert {k: v for k, v in shown.items() if "uplink=lte" in k} == {
        "mlbd_uplink_info{id=3,interface=wan3,uplink=lte}": 1,
        "mlbd_uplink_verdict{uplink=lte,verdict=UNKNOWN}": 0,
        "mlbd_uplink_verdict{uplink=lte,verdict=RISING}": 0,
        "mlbd_uplink_verdict{uplink=lte,verdict=UP}": 0,
        "mlbd_uplink_verdict{uplink=lte,verdict=FALLING}": 0,
        "mlbd_uplink_verdict{uplink=lte,verdict=DOWN}": 1,
        "mlbd_uplink_transitions_total{uplink=lte}": 4,
        "mlbd_uplink_usable{uplink=lte}": 0,
        "mlbd_uplink_degraded{uplink=lte}": 0,
        "mlbd_uplink_drained{uplink=lte}": 0,
        "mlbd_uplink_carrier{uplink=lte}": 0,
        "mlbd_uplink_loss_ratio{uplink=lte}": 1,
        "mlbd_uplink_last_transition_timestamp_seconds{uplink=lte}": 940,
        "mlbd_uplink_hold_seconds{uplink=lte}": 10,
    }
    assert shown["mlbd_uplink_rtt_seconds{uplink=fiber}"] == 0.012
    assert shown["mlbd_uplink_connections_total{uplink=fiber}"] == 12
    told.status = replace(STATUS, uplinks=(replace(FIBER, usable=False),))
    assert samples(made, "uplink_usable") == {"mlbd_uplink_usable{uplink=fiber}": 0}


def test_probe_counting() -> None:
    """Probes are counted under the target's text, from 0 for every target, and cost no look at the status each."""
    made, told = metrics()
    for round_ in range(1, 101):
        made.probe_sent(replace(ORDER, round=round_))
        made.probe_answered(Reply("fiber", 1, round_, 0.0003))
        made.probe_failed(Failure("fiber", 0, round_, "firewall", "?"))
    assert told.asked == 1
    assert samples(made, "probe_sent") == {
        "mlbd_probe_sent_total{target=gateway,uplink=fiber}": 0,
        "mlbd_probe_sent_total{target=192.0.2.1,uplink=fiber}": 100,
        "mlbd_probe_sent_total{target=gateway,uplink=lte}": 0,
    }
    assert samples(made, "probe_errors") == {"mlbd_probe_errors_total{kind=firewall,target=gateway,uplink=fiber}": 100}
    rtt = samples(made, "probe_rtt_seconds_bucket")
    mine = {k: v for k, v in rtt.items() if "target=192.0.2.1" in k}
    assert len(mine) == 17
    assert mine["mlbd_probe_rtt_seconds_bucket{le=0.0002,target=192.0.2.1,uplink=fiber}"] == 0
    assert mine["mlbd_probe_rtt_seconds_bucket{le=0.0004,target=192.0.2.1,uplink=fiber}"] == 100


def test_reload() -> None:
    """After a good reload vanished targets and uplinks end and kept ones go on; after a bad one nothing changes."""
    made, told = metrics()
    made.probe_sent(ORDER)
    made.probe_sent(replace(ORDER, target=0))
    made.probe_failed(Failure("lte", 0, 1, "firewall", "?"))
    made.flushed("lte")
    made.reloaded(False)
    assert samples(made, "config_last_reload_successful") == {"mlbd_config_last_reload_successful": 0}
    assert len(samples(made, "probe_sent")) == 3
    told.status = replace(STATUS, uplinks=(replace(FIBER, targets=FIBER.targets[1:]),))
    before = time.time()
    made.reloaded(True)
    made.probe_answered(Reply("lte", 0, 1, 0.1))
    made.probe_sent(replace(ORDER, target=0))
    assert samples(made, "probe_sent") == {"mlbd_probe_sent_total{target=192.0.2.1,uplink=fiber}": 2}
    assert samples(made, "probe_errors") == samples(made, "flows_flushed") == {}
    assert samples(made, "config_last_reload_successful") == {"mlbd_config_last_reload_successful": 1}
    [at] = samples(made, "config_last_reload_success_timestamp").values()
    assert before - 1 <= at <= time.time() + 1


def test_probe_counting_is_cheap() -> None:
    """Accounting for a probe and its reply stays far below what sending one costs (here: under 30 us on average)."""
    made, _ = metrics()
    reply = Reply("fiber", 1, 7, 0.01)
    made.probe_sent(ORDER)
    began = time.process_time()
    for _ in range(5000):
        made.probe_sent(ORDER)
        made.probe_answered(reply)
    assert (time.process_time() - began) / 5000 < 30e-6


def test_device_bytes() -> None:
    """The kernel's table of devices is read also where a long number touches the name."""
    table = (
        "Inter-|   Receive                  |  Transmit\n face |bytes packets ...\n"
        "    lo: 10 1 0 0 0 0 0 0 20 1 0 0 0 0 0 0\n  eth0:123456789012 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n"
    )
    assert device_bytes(table) == {"lo": (10, 20), "eth0": (123456789012, 5)}


def served(story: Callable[[int, Told], Awaitable[None]]) -> None:
    """Runs the story with a server on the port that it is given."""

    async def run() -> None:
        made, told = metrics()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        task = asyncio.create_task(made.run("127.0.0.1", port))
        try:
            await asyncio.sleep(0.05)
            await story(port, told)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


async def exchange(port: int, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    try:
        return await reader.read()
    finally:
        writer.close()


def test_http_get_and_head() -> None:
    """GET /metrics is answered with the exposition, HEAD with its length only, in the format that is asked for."""

    def get(port: int, method: str, accept: str) -> tuple[int, str, int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request(method, "/metrics?x=1", headers={"Accept": accept})
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], int(answer.headers["Content-Length"]), answer.read()

    async def story(port: int, _told: Told) -> None:
        status, kind, length, body = await asyncio.to_thread(get, port, "GET", "text/plain")
        assert (status, kind.split(";")[0], length) == (200, "text/plain", len(body))
        assert b'mlbd_uplink_connections_total{uplink="fiber"} 12.0' in body
        _, kind, _, body = await asyncio.to_thread(get, port, "GET", "application/openmetrics-text; version=1.0.0")
        assert (kind.split(";")[0], body[-6:]) == ("application/openmetrics-text", b"# EOF\n")
        status, _, length, body = await asyncio.to_thread(get, port, "HEAD", "*/*")
        assert (status, body) == (200, b"")
        assert length > 1000

    served(story)


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 404 "),
        (b"GET /metricsx HTTP/1.0\r\n\r\n", b"HTTP/1.1 404 "),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"HTTP/1.1 405 "),
        (b"\xff\x00\xfe nonsense\r\n\r\n", b"HTTP/1.1 400 "),
        (b"\r\n\r\n", b"HTTP/1.1 400 "),
        (b"GET /metrics HTTP/1.1\r\nno colon here\r\nAccept\r\n\r\n", b"HTTP/1.1 200 "),
        (b"x" * 20000, b""),
    ],
    ids=["root", "other path", "other method", "garbage", "empty", "odd headers", "oversize"],
)
def test_http_bad_requests(sent: bytes, answer: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is sent gets a plain answer or a closed connection, and the next request is served."""

    async def story(port: int, _told: Told) -> None:
        try:
            got = await exchange(port, sent)
        except ConnectionResetError:
            got = b""
        assert got[: len(answer)] == answer
        assert bool(got) == bool(answer)
        assert (await exchange(port, b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")

    served(story)
    assert caplog.records == []


def test_http_slow_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that never finishes its request is cut off, and holds up nobody meanwhile."""
    monkeypatch.setattr(exposition, "_TIME", 0.2)

    async def story(port: int, _told: Told) -> None:
        slow = asyncio.create_task(exchange(port, b"GET /met"))
        assert (await exchange(port, b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        assert not slow.done()
        async with asyncio.timeout(2):
            assert await slow == b""

    served(story)


def test_http_bug(caplog: pytest.LogCaptureFixture) -> None:
    """A bug in what is scraped costs that scrape, with a traceback in the log, and not the server."""

    async def story(port: int, told: Told) -> None:
        told.broken = True
        assert (await exchange(port, b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 500 ")
        told.broken = False
        assert (await exchange(port, b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200 ")

    served(story)
    assert [record.getMessage() for record in caplog.records] == ["a scrape failed"]


def test_address_in_use(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """An address in use is said once and tried again, until it is free."""
    monkeypatch.setattr(exposition, "RETRY", 0.02)

    async def run() -> None:
        made, _ = metrics()
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            task = asyncio.create_task(made.run("127.0.0.1", port))
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.1)
        assert (await exchange(port, b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert re.match(r"no metrics at 127.0.0.1 port \d+, trying again every 0 s; .* in use", record.getMessage())


def test_uplinks_without_targets_of_that_index() -> None:
    """An outcome of a target that the configuration no longer has is not counted, and does no harm."""
    made, told = metrics()
    told.status = replace(STATUS, uplinks=(LTE,))
    made.probe_answered(Reply("fiber", 0, 1, 0.1))
    assert samples(made, "probe_received") == {"mlbd_probe_received_total{target=gateway,uplink=lte}": 0}
