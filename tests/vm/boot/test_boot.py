"""The router boots while both providers are dead, and these come up later; see `tests.vm.boot.prepare`."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlbd.lab import network
from mlbd.lab.places import Places
from tests.vm.system import journal, run, show, status

LATE = 90.0
"""Seconds: a DHCP client asks less and less often."""
SERVER = "198.51.100.1"
CLIENT = ("ip", "netns", "exec", "client")


class Providers(Places):
    """Both have the server; the first gives addresses by DHCP."""

    def __init__(self) -> None:
        super().__init__()
        self._add(["isp1", "isp2"])

    def begin(self, number: int, address: str) -> None:
        where, cable = f"isp{number}", f"far{number}"
        run("ip", "link", "set", cable, "netns", self.namespace(where))
        for line in (
            f"link set {cable} up",
            f"addr add {address} dev {cable}",
            f"addr add {SERVER}/32 dev lo",
            "link set lo up",
        ):
            self.run(where, ["ip", *line.split()])

    def lease(self) -> None:
        command = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=far1"]
        command += ["--dhcp-range=192.0.2.100,192.0.2.100,1h", "--dhcp-leasefile=/run/leases", "--user=root"]
        self.spawn("isp1", command, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def providers() -> Iterator[Providers]:
    with Providers() as found:
        yield found


def wait_usable(*names: str) -> None:
    network.wait_until(
        lambda: {u["name"] for u in status()["uplinks"] if u["usable"]} == {*names},
        timeout=LATE,
        every=0.5,
        what=f"{names} to be usable",
    )


def answered() -> bool:
    """Whether the server answers the client."""
    return (
        subprocess.run([*CLIENT, "ping", "-c", "1", "-W", "2", SERVER], check=False, capture_output=True).returncode
        == 0
    )


def test_starts_without_any_uplink() -> None:
    """With all uplinks dead the service is ready early, at its first start, and says how it is."""
    assert (show("ActiveState"), show("NRestarts")) == ("active", "0")
    assert show("StatusText").startswith("0 of 2 uplinks usable")
    ready, multi_user = (
        int(run("systemctl", "show", "--value", "-p", f"{what}TimestampMonotonic", unit))
        for what, unit in (("ActiveEnter", "mlbd"), ("ActiveEnter", "multi-user.target"))
    )
    assert 0 < ready <= multi_user
    assert [r["MESSAGE"] for r in journal() if int(r["PRIORITY"]) <= 3] == []


def test_a_late_uplink(providers: Providers) -> None:
    """A provider that comes up after the router is used, with nothing done about it."""
    providers.begin(2, "203.0.113.1/24")
    wait_usable("lte")
    assert answered()


def test_a_slow_lease(providers: Providers) -> None:
    """So is one whose DHCP server answers only then; its gateway is found in what the client of DHCP makes of it."""
    providers.begin(1, "192.0.2.1/24")
    providers.lease()
    wait_usable("fiber", "lte")
    assert answered()
    assert "via 192.0.2.1" in run("ip", "route", "show", "table", "mlbd-uplink1")


def test_the_lan_was_always_there() -> None:
    """The client of the LAN has reached the router since the router had its address, whatever happened to uplinks."""
    lines = Path("/run/client").read_text().splitlines()
    answers = [
        int(found[1]) for line in lines if "bytes from" in line and (found := re.search(r"icmp_seq=(\d+)", line))
    ]
    assert len(answers) > 20
    assert [*range(answers[0], answers[-1] + 1)] == answers
