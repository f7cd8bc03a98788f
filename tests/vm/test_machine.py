"""The machine is what the other tests take it for."""

from __future__ import annotations

import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

import mlbd


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_systemd() -> None:
    """systemd is process 1, and all of its units are up."""
    assert Path("/proc/1/comm").read_text() == "systemd\n"
    assert output("systemctl", "is-system-running") == "running"


def test_debian() -> None:
    """It is Debian 12, and every package in it is installed and configured."""
    assert Path("/etc/debian_version").read_text().startswith("12.")
    assert set(output("dpkg-query", "-W", "-f", "${Status}\n").splitlines()) == {"install ok installed"}


@pytest.mark.parametrize(
    "module",
    ["bonding", "sch_teql", "sch_netem", "dummy", "8021q", "macvlan", "vrf", "wireguard", "ip_gre", "tun", "nf_tables"],
)
def test_modules(module: str, bonding: None, teql: None) -> None:
    """The kernel has what routers use and the tests are about."""
    output("modprobe", module)
    assert Path("/sys/module", module).is_dir()


def test_nft() -> None:
    """nftables has tables for both families in one."""
    output("nft", "add table inet trial { chain c { type filter hook input priority 0; } ; }")
    assert "table inet trial" in output("nft", "list", "tables")
    output("nft", "delete table inet trial")


def test_wheel() -> None:
    """mlbd is the installed one, not a checkout, and runs."""
    assert shutil.which("mlbd") == "/opt/mlbd/bin/mlbd"
    assert Path(mlbd.__file__).is_relative_to("/opt/mlbd")
    assert output("mlbd", "--version") == f"mlbd {metadata.version('mlbd')}"
