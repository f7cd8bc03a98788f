"""The machine itself as the router, with systemd and the package, and what it is connected with."""

from __future__ import annotations

import fcntl
import json
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlbd.lab import network
from mlbd.lab.namespaces import ip_here
from mlbd.lab.network import Network
from tests.vm.pair import PATIENCE

PACKAGE = Path("/srv/mlbd/mlbd.deb")
CONFIG = Path("/etc/mlbd/mlbd.toml")
UNIT_PATCH = Path("/run/systemd/system/mlbd.service.d/test.conf")


@contextmanager
def first_namespace() -> Iterator[None]:
    """The machine's own, in which systemd is: one file of tests at a time."""
    with Path("/run/first-namespace.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Router(Network):
    """Its place `router` is the machine's first namespace."""

    def __init__(self, uplinks: int, *, interfaces: Sequence[str], default_routes: bool = True) -> None:
        """As a `Network`. Without reverse path filters: namespaces that other tests make inherit what is set here."""
        super().__init__(uplinks, interfaces=interfaces, default_routes=default_routes, rp_filter=0)

    def close(self) -> None:
        """Its interfaces go now: with the namespaces of their peers they would go a little later."""
        there = {link["ifname"] for link in json.loads(run("ip", "-j", "link"))}
        ours = ("lan1", *(uplink.interface for uplink in self.uplinks))
        for name in (name for name in ours if name in there):
            run("ip", "link", "del", name)
        super().close()

    def _add(self, names: Iterable[str]) -> None:
        added = [*names]
        if "router" in added:
            self.places.append("router")
            ip_here([f"netns attach {self.namespace('router')} 1"])
        super()._add(name for name in added if name != "router")


def run(*command: str, status: int = 0) -> str:
    """What it printed, errors too."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == status, f"{' '.join(command)}: {done.returncode}\n{done.stdout}"
    return done.stdout


def show(name: str) -> str:
    """A property of the service."""
    return run("systemctl", "show", "--value", "--property", name, "mlbd.service").strip()


def status() -> dict[str, Any]:
    """As the installed program tells it."""
    done = subprocess.run(["/usr/bin/mlbd", "status", "--json"], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def journal(*matches: str) -> list[dict[str, str]]:
    """Records of the service, with all their fields."""
    shown = run("journalctl", "-b", "-o", "json", "--all", "-u", "mlbd.service", *matches)
    return [json.loads(line) for line in shown.splitlines() if line.startswith("{")]


def wait_text(text: str) -> None:
    """Until the service's status text has it."""
    wait_until(lambda: text in show("StatusText"), what=f"the status text to have {text!r}")


def wait_until(holds: Any, *, what: str) -> None:
    """Ask at a pace that leaves an emulated processor to those who are asked. Raises LabError."""
    network.wait_until(holds, timeout=PATIENCE, what=what, every=0.3)


@contextmanager
def installed() -> Iterator[None]:
    """The package, with nothing in the kernel and no configuration, before and after; others have it next."""
    if not Path("/usr/bin/mlbd").exists():
        apt("install", str(PACKAGE))
    try:
        yield
    finally:
        run("systemctl", "disable", "--quiet", "--now", "mlbd")
        subprocess.run(["systemctl", "reset-failed", "mlbd"], check=False, capture_output=True)
        run("mlbd", "release")
        CONFIG.unlink(missing_ok=True)


@contextmanager
def without_package() -> Iterator[None]:
    """As `installed` might have left it, it is purged; so it is afterwards."""
    run("dpkg", "--purge", "mlbd")
    try:
        yield
    finally:
        run("dpkg", "--purge", "mlbd")


def apt(*arguments: str) -> str:
    return run("apt-get", "-y", "-q", "-o", "Dpkg::Use-Pty=0", *arguments)


@contextmanager
def patched(*lines: str) -> Iterator[None]:
    """With these lines in the unit's [Service], until the block ends."""
    UNIT_PATCH.parent.mkdir(parents=True, exist_ok=True)
    UNIT_PATCH.write_text("\n".join(["[Service]", *lines, ""]))
    try:
        run("systemctl", "daemon-reload")
        yield
    finally:
        UNIT_PATCH.unlink()
        run("systemctl", "daemon-reload")


def tables(uplinks: Sequence[str]) -> str:
    return "".join(f'[[uplink]]\nname = "{name}"\ninterface = "{name}"\nnat6 = "masquerade"\n\n' for name in uplinks)
