"""The installed package's service under systemd: started, watched, reloaded, confined."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mlbd.lab.stream import UdpStream
from mlbd.lab.traffic import connect_many
from tests.vm.pair import PATIENCE
from tests.vm.system import (
    CONFIG,
    Router,
    first_namespace,
    installed,
    journal,
    patched,
    run,
    show,
    status,
    tables,
    wait_text,
    wait_until,
)

UPLINKS = ("fiber", "lte")
PROBE = '[probe]\ninterval = "300ms"\nhold_max = "1s"\n'
GOOD = tables(UPLINKS) + PROBE
HOOKS = Path("/etc/mlbd/hooks.d")


@pytest.fixture(scope="module")
def net() -> Iterator[Router]:
    """The service is running, and both uplinks are usable."""
    with ExitStack() as stack:
        stack.enter_context(first_namespace())
        stack.enter_context(installed())
        net = stack.enter_context(Router(2, interfaces=UPLINKS))
        CONFIG.write_text(GOOD)
        assert show("ActiveState") == "inactive"
        run("systemctl", "start", "mlbd")
        wait_text("2 of 2 uplinks usable")
        yield net


@pytest.fixture
def router(net: Router) -> Iterator[Router]:
    """As above, before and after."""
    yield net
    for number in (1, 2):
        net.speak(number)
    wait_text("2 of 2 uplinks usable")


def stream(net: Router) -> UdpStream:
    found = UdpStream(net, "lan1", rate=100.0, limit=120.0)
    found.wait_started(PATIENCE)
    return found


def test_is_ready_when_the_kernel_is(router: Router) -> None:
    """When `systemctl start` returns, rules and routes are there, under their names; and nothing was enabled."""
    run("systemctl", "restart", "mlbd")
    rules, routes = run("ip", "rule"), run("ip", "route", "show", "table", "mlbd-uplink1")
    assert "mlbd-uplink1" in rules
    assert "proto mlbd" in routes
    assert run("systemctl", "is-enabled", "mlbd", status=1).strip() == "disabled"


def test_status_text(router: Router) -> None:
    """`systemctl status` says which uplinks are usable, and of the others why not."""
    router.silence(2, gateway=True)
    wait_text("1 of 2 uplinks usable: lte DOWN (")
    assert re.fullmatch(r"1 of 2 uplinks usable: lte DOWN \(\d+ of \d+ probes lost\)", show("StatusText"))


def test_confined(router: Router) -> None:
    """As a user of its own with two capabilities, and exposed as little as a router's daemon can be."""
    pid = show("MainPID")
    fields = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    net_admin_and_raw = f"{1 << 12 | 1 << 13:016x}"
    assert {fields[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {net_admin_and_raw}
    assert fields["Uid"].split()[0] == run("id", "-u", "mlbd").strip() != "0"
    assert exposure() == 2.0  # and why not less: docs/decisions/package.md


def test_tighter(router: Router) -> None:
    """The drop-in of docs/operations.md is as tight as it says, and a failover works in it, with our addresses."""
    page = Path("/srv/mlbd/docs/operations.md").read_text()
    lines = page.partition("mlbd.service.d/tighter.conf\n[Service]\n")[2].partition("```")[0].splitlines()
    allowed = f"IPAddressAllow=localhost {' '.join(uplink.gateway for uplink in router.uplinks)}"
    with patched(*(allowed if line.startswith("IPAddressAllow=") else line for line in lines)):
        run("systemctl", "restart", "mlbd")
        assert exposure() == 1.5
        wait_text("2 of 2 uplinks usable")
        router.silence(1, gateway=True)
        wait_text("fiber DOWN")
        assert connect_many(router, "lan1", 10, timeout=PATIENCE) == {2: 10}
        router.speak(1)
        wait_text("2 of 2 uplinks usable")
    run("systemctl", "restart", "mlbd")


def exposure() -> float:
    shown = run("systemd-analyze", "security", "--no-pager", "mlbd.service")
    found = re.search(r"Overall exposure level for mlbd.service: ([\d.]+)", shown)
    assert found is not None
    return float(found[1])


def test_works_in_there(router: Router) -> None:
    """Sockets, conntrack, sysctls, nftables and metrics work in the sandbox: a failover of both families, connections
    of the dead uplink are cut, and a setting that somebody changes is put back.
    """
    began, cut = time.time(), number("mlbd_flows_flushed_total")
    assert connect_many(router, "lan1", 40).keys() == {1, 2}
    router.silence(1, gateway=True)
    wait_text("fiber DOWN")
    for family in (4, 6):
        assert connect_many(router, "lan1", 10, family=family, timeout=PATIENCE) == {2: 10}
    router.speak(1)
    wait_text("2 of 2 uplinks usable")
    assert connect_many(router, "lan1", 40).keys() == {1, 2}
    changed = Path("/proc/sys/net/ipv4/conf/fiber/src_valid_mark")
    ours = changed.read_text()
    changed.write_text("0" if ours.strip() == "1" else "1")
    wait_until(lambda: changed.read_text() == ours, what="the setting to be put back")
    assert number("mlbd_uplink_usable") == 1.0
    assert number("mlbd_flows_flushed_total") == cut + 1
    assert [r["MESSAGE"] for r in journal(f"--since=@{began:.3f}") if int(r["PRIORITY"]) <= 3] == []


def number(metric: str) -> float:
    """Of the first uplink, as the service's metrics have it; 0 if they don't."""
    shown = run("/usr/lib/mlbd/bin/python", "-c", SCRAPE)
    found = re.search(rf'^{metric}{{uplink="fiber"}} (.+)$', shown, re.MULTILINE)
    return float(found[1]) if found else 0.0


SCRAPE = "from urllib.request import urlopen; print(urlopen('http://127.0.0.1:9617/metrics').read().decode())"


def test_hooks(router: Router) -> None:
    """Hooks are run in the sandbox, as the daemon's user, and can have root do something by a path unit."""
    hook = HOOKS / "10-tell"
    hook.write_text('#!/bin/sh\necho "$MLBD_EVENT $MLBD_UPLINK by $(id -un)"\ntouch /run/mlbd/told\n')
    hook.chmod(0o755)
    units = Path("/run/systemd/system")
    (units / "told.path").write_text("[Path]\nPathChanged=/run/mlbd/told\n")
    (units / "told.service").write_text("[Service]\nType=oneshot\nExecStart=sh -c 'id -un >/run/told-by'\n")
    run("systemctl", "daemon-reload")
    run("systemctl", "start", "told.path")
    try:
        router.silence(2, gateway=True)
        told = Path("/run/told-by")
        wait_until(lambda: told.exists() and told.read_text() == "root\n", what="root to be told")
        said = [r["MESSAGE"] for r in journal("MLBD_EVENT=hook output")]
        assert any("uplink_down lte by mlbd" in text for text in said), said
    finally:
        run("systemctl", "stop", "told.path")
        hook.unlink()
        for unit in ("told.path", "told.service"):
            (units / unit).unlink()
        run("systemctl", "daemon-reload")


def test_reload(router: Router) -> None:
    """`systemctl reload` takes a new file; a wrong one is refused with its line, and the old one stays."""
    CONFIG.write_text(tables(UPLINKS[:1]) + PROBE)
    run("systemctl", "reload", "mlbd")
    assert show("StatusText") == "1 of 1 uplinks usable"
    CONFIG.write_text(GOOD.replace("300ms", "soon"))
    run("systemctl", "reload", "mlbd", status=1)
    assert "mlbd.toml:" in run("journalctl", "-b", "-u", "mlbd", "-n", "10", "-o", "cat")
    assert [u["name"] for u in status()["uplinks"]] == ["fiber"]
    assert show("ActiveState") == "active"
    CONFIG.write_text(GOOD)
    run("systemctl", "reload", "mlbd")
    wait_text("2 of 2 uplinks usable")


def test_watchdog(router: Router) -> None:
    """A daemon that hangs is killed and started again by systemd, and no packet is lost."""
    with patched("WatchdogSec=4"):
        run("systemctl", "restart", "mlbd")
        wait_text("2 of 2 uplinks usable")
        pid = int(show("MainPID"))
        with stream(router) as packets:
            os.kill(pid, signal.SIGSTOP)
            wait_until(lambda: int(show("MainPID")) not in (0, pid), what="another process")
            wait_text("2 of 2 uplinks usable")
            assert packets.stop(1).lost == 0
        assert any("Watchdog timeout" in line for line in run("journalctl", "-b", "-u", "mlbd").splitlines())
    run("systemctl", "restart", "mlbd")


def test_killed(router: Router) -> None:
    """Killed again and again, it is started again and again."""
    for _ in range(3):
        pid = int(show("MainPID"))
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: int(show("MainPID")) not in (0, pid), what="another process")
    wait_text("2 of 2 uplinks usable")


def test_journal(router: Router) -> None:
    """A failover is found by the uplink's name, has a priority, and `journalctl -x` explains it."""
    router.silence(2, gateway=True)
    wait_text("lte DOWN")
    last = journal("MLBD_UPLINK=lte", "MLBD_EVENT=uplink_down")[-1]
    assert (last["PRIORITY"], last["SYSLOG_IDENTIFIER"], last["MLBD_TO"]) == ("4", "mlbd", "DOWN")
    assert last["MESSAGE"].startswith("lte is down")
    explained = run("journalctl", "-b", "-x", "-n", "1", "MLBD_EVENT=uplink_down")
    assert "Subject: Uplink lte is not usable any more" in explained


def test_journald_gone(router: Router) -> None:
    """A journald that hangs or is restarted holds up nothing, and gets what happens later."""
    pid = int(run("systemctl", "show", "--value", "--property", "MainPID", "systemd-journald"))
    os.kill(pid, signal.SIGSTOP)
    try:
        for number in (1, 2) * 6:
            router.silence(number, gateway=True)
            time.sleep(0.7)
            router.speak(number)
        wait_until(lambda: all(u["usable"] for u in status()["uplinks"]), what="both uplinks")
        assert connect_many(router, "lan1", 40).keys() == {1, 2}
    finally:
        os.kill(pid, signal.SIGCONT)
    run("systemctl", "restart", "systemd-journald")
    wait_text("2 of 2 uplinks usable")
    failures = ("MLBD_UPLINK=lte", "MLBD_EVENT=uplink_down")
    before = len(journal(*failures))
    router.silence(2, gateway=True)
    wait_text("lte DOWN")
    wait_until(lambda: len(journal(*failures)) > before, what="a record")


BUNDLES = """
[[bond]]
name = "bond7"
mode = "balance-xor"
members = ["port1", "port2"]
addresses = ["192.168.77.1/24"]

[[teql]]
name = "teql0"
members = [{ interface = "port3", address = "10.0.0.0/31", peer = "10.0.0.1" },
           { interface = "port4", address = "10.0.0.2/31", peer = "10.0.0.3" }]
address = "10.0.0.4/31"
"""


def test_bundles_in_there(net: Router, bonding: None, teql: None) -> None:
    """Bonds and TEQL work in the sandbox as well."""
    run("systemctl", "stop", "mlbd")
    run("mlbd", "release")
    for port in ("port1", "port2"):
        run("ip", "link", "add", port, "type", "dummy")
    net.attach("port3", "10.0.0.0/31")
    net.attach("port4", "10.0.0.2/31")
    try:
        CONFIG.write_text(BUNDLES + PROBE)
        run("systemctl", "start", "mlbd")
        shown = json.loads(run("ip", "-j", "-d", "link", "show", "master", "bond7"))
        assert {port["ifname"] for port in shown} == {"port1", "port2"}
        wait_until(lambda: attached() == {"port3", "port4"}, what="two members of teql0")
        assert [r["MESSAGE"] for r in journal("-n", "20") if int(r["PRIORITY"]) <= 3] == []
    finally:
        run("systemctl", "stop", "mlbd")
        run("mlbd", "release")
        for port in ("port1", "port2"):
            run("ip", "link", "del", port)
        CONFIG.write_text(GOOD)
    assert attached() == set()


def attached() -> set[str]:
    return {qdisc["dev"] for qdisc in json.loads(run("tc", "-j", "qdisc")) if qdisc["kind"] == "teql0"}
