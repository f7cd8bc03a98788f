"""Uplinks that ifupdown, systemd-networkd or NetworkManager configures, one static and one by DHCP: mlbd follows."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from mlbd import control
from mlbd.lab.traffic import connect_many
from tests.vm.configured import (
    IFUPDOWN,
    INTERFACES,
    METRICS,
    NETWORK_MANAGER,
    NETWORKD,
    NM_CONNECTIONS,
    NM_FILE,
    UNITS,
    UPLINKS,
    Leasing,
)
from tests.vm.pair import PATIENCE
from tests.vm.system import CONFIG, first_namespace, installed, journal, run, show, status, tables, wait_until

PROBE = '[probe]\ninterval = "300ms"\nhold_max = "1s"\n'
SCRIPT = Path("/etc/network/if-up.d/another-package")
LINK = Path("/etc/mlbd/hooks.d/if-up.d/another-package")
TOLD = Path("/run/mlbd/told")


@pytest.fixture(scope="module")
def net() -> Iterator[Leasing]:
    """The service is running; nobody has configured its uplinks."""
    with ExitStack() as stack:
        stack.enter_context(first_namespace())
        stack.enter_context(installed())
        net = stack.enter_context(Leasing(2, interfaces=UPLINKS, default_routes=False))
        net.let_dhcp_in()
        CONFIG.write_text(tables(UPLINKS) + PROBE)
        stack.callback(run, "mlbd", "release")
        stack.callback(run, "systemctl", "stop", "mlbd")
        run("systemctl", "start", "mlbd")
        yield net


@pytest.fixture
def uplinks(net: Leasing) -> Iterator[Leasing]:
    """New interfaces, and a DHCP server behind the second; afterwards mlbd has nothing to complain of."""
    bare(net)
    since = time.time()
    net.lease("10.2.0")
    yield net
    assert [r["MESSAGE"] for r in journal(f"--since=@{since:.3f}") if int(r["PRIORITY"]) <= 3] == []


@pytest.fixture
def another_package() -> Iterator[None]:
    """One with a script that ifup runs, which somebody has also given to mlbd."""
    TOLD.touch()
    TOLD.chmod(0o666)
    SCRIPT.write_text(f'#!/bin/sh\necho "$(id -un): $IFACE $MODE $PHASE $ADDRFAM" >>{TOLD}\n')
    SCRIPT.chmod(0o755)
    LINK.symlink_to(SCRIPT)
    try:
        yield
    finally:
        for path in (LINK, SCRIPT, TOLD):
            path.unlink()


def bare(net: Leasing) -> None:
    """The uplinks' interfaces as a kernel has them that has just found them."""
    for uplink in net.uplinks:
        net.remove(uplink.number)
        net.restore(uplink.number)
        run("ip", "addr", "flush", "dev", uplink.interface)
        run("ip", "link", "set", uplink.interface, "down")


def gateways() -> dict[str, str | None]:
    """Of the usable uplinks."""
    told = control.request("/run/mlbd/control.sock", "status")  # the program takes seconds to start in here
    return {each["name"]: each["gateway"] for each in told["uplinks"] if each["usable"]}


def defaults() -> set[tuple[str, str, int, str]]:
    """IPv4 ones of `main`: interface, gateway, metric and who made it."""
    routes = json.loads(run("ip", "-j", "-4", "route", "show", "default"))
    return {(r["dev"], r["gateway"], r.get("metric", 0), r.get("protocol", "boot")) for r in routes}


def carried(net: Leasing, *by: int) -> None:
    """New connections of the LAN go by these, and none fails."""
    assert connect_many(net, "lan1", 30, timeout=PATIENCE).keys() == {*by}


def wait_both(net: Leasing, lte: str = "10.2.0.1") -> None:
    """Both are usable, by their gateways, and carry."""
    wait_until(lambda: gateways() == {"fiber": "10.1.0.1", "lte": lte}, what="both to be usable")
    carried(net, 1, 2)


def come_and_go(
    net: Leasing, up: Callable[[str], object], down: Callable[[str], object], names: Sequence[str] = UPLINKS
) -> None:
    """Each goes and comes as the program says, and what it made of `main` is as before."""
    wait_both(net)
    made = defaults()
    assert {(device, metric) for device, _, metric, _ in made} == {*METRICS.items()}
    for name in names:
        down(name)
        wait_until(lambda name=name: name not in gateways(), what=f"{name} to be out")
        carried(net, 2 - UPLINKS.index(name))
        up(name)
        wait_both(net)
    assert defaults() == made
    assert [each["usable"] for each in status()["uplinks"]] == [True, True]


def complaints(unit: str, since: float) -> list[str]:
    """Warnings and worse of a service or of a program without one."""
    run("journalctl", "--sync")
    which = ["-u", unit] if unit.endswith(".service") else ["-t", unit]
    shown = run("journalctl", "-b", "-q", "-o", "cat", "-p", "warning", f"--since=@{since:.3f}", *which)
    return shown.splitlines()


def told() -> list[str]:
    return TOLD.read_text().splitlines()


def test_ifupdown(uplinks: Leasing, another_package: None) -> None:
    """With ifupdown; and the script of another package is run by it, and by mlbd once the uplink is healthy."""
    since = time.time()
    INTERFACES.write_text(IFUPDOWN)
    try:
        run("ifup", "fiber", "lte")
        assert [line for line in told() if line.startswith("root")] == [
            "root: fiber start post-up inet",
            "root: fiber start post-up inet6",
            "root: lte start post-up inet",
        ]
        wait_until(lambda: {*told()} > {f"mlbd: {x} start post-up inet" for x in UPLINKS}, what="mlbd to run it")
        come_and_go(uplinks, lambda name: run("ifup", name), lambda name: run("ifdown", name))
        assert connect_many(uplinks, "lan1", 10, family=6, timeout=PATIENCE) == {1: 10}
        assert complaints("dhclient", since) == []
    finally:
        try:
            run("ifdown", "--force", *UPLINKS)
        finally:
            INTERFACES.unlink()
            for leases in Path("/var/lib/dhcp").glob("dhclient.*"):
                leases.unlink()


@contextmanager
def networkd() -> Iterator[None]:
    UNITS.mkdir(exist_ok=True)
    try:
        write_units()
        run("systemctl", "start", "systemd-networkd")
        yield
    finally:
        shutil.rmtree(UNITS)
        run("systemctl", "stop", "systemd-networkd.socket", "systemd-networkd")


def write_units(more: str = "") -> None:
    for name, text in NETWORKD.items():
        (UNITS / f"50-{name}.network").write_text(f"[Match]\nName={name}\n[Network]\n{more}{text}")


def wait_configured() -> None:
    """systemd-networkd has done to both what it has to."""
    listed = ("networkctl", "--no-legend", "list", *UPLINKS)
    wait_until(lambda: run(*listed).split()[4::5] == ["configured"] * 2, what="both to be configured")


def test_networkd(uplinks: Leasing) -> None:
    """With systemd-networkd. What a restart of it costs is put back, and where it keeps its addresses that is nothing;
    a lease of another network and gateway is followed.
    """
    since = time.time()
    with networkd():
        come_and_go(uplinks, lambda name: run("networkctl", "up", name), lambda name: run("networkctl", "down", name))
        before = ours()
        run("systemctl", "restart", "systemd-networkd")  # takes addresses away and adds them again: routes go with them
        wait_configured()
        wait_until(lambda: ours() == before, what="all to be as before")
        wait_both(uplinks)
        uplinks.lease("10.2.1")
        run("networkctl", "reconfigure", "lte")
        wait_both(uplinks, "10.2.1.1")
        assert defaults() == {("fiber", "10.1.0.1", 101, "static"), ("lte", "10.2.1.1", 102, "dhcp")}
        write_units("KeepConfiguration=yes\n")
        run("networkctl", "reload")  # which configures both anew
        wait_configured()
        wait_both(uplinks, "10.2.1.1")
        restart_alone()
        assert complaints("systemd-networkd.service", since) == []


def restart_alone() -> None:
    """systemd-networkd, while mlbd can't repair anything."""
    pid = int(show("MainPID"))
    os.kill(pid, signal.SIGSTOP)
    try:
        before = ours()
        assert "mlbd-uplink1" in before
        run("systemctl", "restart", "systemd-networkd")
        wait_configured()
        assert ours() == before
    finally:
        os.kill(pid, signal.SIGCONT)


def ours() -> str:
    return run("ip", "rule") + run("ip", "route", "show", "table", "all", "proto", "mlbd")


@contextmanager
def network_manager() -> Iterator[None]:
    """With two connections that do not outlive it."""
    common = ["type", "ethernet", "autoconnect", "no", "ipv6.method", "disabled"]
    NM_FILE.parent.mkdir(parents=True, exist_ok=True)
    NM_FILE.write_text(NETWORK_MANAGER)
    with ExitStack() as stack:
        stack.callback(NM_FILE.unlink)
        stack.callback(run, "systemctl", "disable", "--runtime", "NetworkManager-dispatcher")
        run("systemctl", "enable", "--runtime", "NetworkManager-dispatcher")
        stack.callback(run, "systemctl", "stop", "NetworkManager-dispatcher")  # after the other, which calls it
        stack.callback(run, "systemctl", "stop", "NetworkManager")
        run("systemctl", "start", "NetworkManager")
        for name, options in NM_CONNECTIONS.items():
            named = ["con-name", name, "ifname", name]
            run("nmcli", "connection", "add", "save", "no", *common, *named, *options.split())
            stack.callback(run, "nmcli", "connection", "delete", name)
        yield


def test_network_manager(uplinks: Leasing, another_package: None) -> None:
    """With NetworkManager, which runs the scripts of ifupdown as well; and mlbd theirs."""
    since = time.time()
    with network_manager():
        for name in UPLINKS:
            run("nmcli", "connection", "up", name)
        wait_until(lambda: {*told()} == everyone(), what="all to run the script")
        come_and_go(
            uplinks,
            lambda name: run("nmcli", "connection", "up", name),
            lambda name: run("nmcli", "connection", "down", name),
            ["lte"],
        )
        assert complaints("NetworkManager.service", since) == []


def everyone() -> set[str]:
    return {f"{user}: {name} start post-up inet" for user in ("root", "mlbd") for name in UPLINKS}
