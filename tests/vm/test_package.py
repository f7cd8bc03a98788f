"""The Debian package: it comes quietly, is upgraded under traffic, and leaves no trace."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mlbd.lab.stream import UdpStream
from mlbd.lab.traffic import connect_many
from tests.vm.pair import PATIENCE
from tests.vm.system import CONFIG, PACKAGE, Router, apt, first_namespace, run, show, tables, wait_text, without_package

UPLINKS = ("fiber", "lte")
_CHANGES = (
    *("/var/cache", "/var/log", "/var/lib/dpkg", "/var/lib/apt"),
    *(f"/etc/{name}-" for name in ("passwd", "group", "shadow", "gshadow", "subuid", "subgid")),
)
"""What every installation of a package, and every user that comes and goes, changes."""


@pytest.fixture(scope="module")
def net() -> Iterator[Router]:
    with ExitStack() as stack:
        stack.enter_context(first_namespace())
        stack.enter_context(without_package())
        yield stack.enter_context(Router(2, interfaces=UPLINKS))


def files() -> dict[str, str]:
    """All paths of the system, with the contents of small files in /etc."""
    found: dict[str, str] = {}
    for top in ("/etc", "/usr", "/var"):
        for directory, inner, names in os.walk(top):
            for name in (*inner, *names):
                path = Path(directory, name)
                if not str(path).startswith(_CHANGES) and "__pycache__" not in str(path):
                    plain = top == "/etc" and path.is_file() and not path.is_symlink() and path.suffix != ".cache"
                    found[str(path)] = path.read_bytes().decode(errors="replace") if plain else ""
    return found


def kernel() -> list[str]:
    """All that mlbd could have left there."""
    settings = [
        f"{path}: {path.read_text()}"
        for name in (*UPLINKS, "all", "lan1")
        for path in sorted(Path("/proc/sys/net/ipv4/conf", name).iterdir())
    ]
    looks = (["ip", "rule"], ["ip", "-6", "rule"], ["ip", "route", "show", "table", "all"], ["nft", "list", "ruleset"])
    return [*settings, *(run(*command) for command in looks)]


def newer(version: str) -> Path:
    """The same package with a higher version."""
    tree = Path("/run/newer")
    shutil.rmtree(tree, ignore_errors=True)
    run("dpkg-deb", "-R", str(PACKAGE), str(tree))
    control = tree / "DEBIAN/control"
    lines = control.read_text().splitlines()
    control.write_text("".join(f"Version: {version}\n" if x.startswith("Version") else f"{x}\n" for x in lines))
    built = Path("/run/newer.deb")
    run("dpkg-deb", "-Znone", "-b", str(tree), str(built))
    return built


@pytest.mark.timeout(400)
def test_comes_and_goes(net: Router) -> None:
    """From installing to purging, as its user has it: nothing starts by itself; `mlbd init` writes a file that works;
    an upgrade loses no packet and keeps what was edited; removing it takes everything out of the kernel; purging leaves
    the file system as it was.
    """
    before, kernel_before = files(), kernel()
    said = apt("install", str(PACKAGE))
    assert "mlbd init /etc/mlbd/mlbd.toml" in said
    assert (show("ActiveState"), show("UnitFileState")) == ("inactive", "disabled")
    assert kernel() == kernel_before
    assert Path("/usr/lib/mlbd/lib/python3.11/site-packages/mlbd/__pycache__").exists()

    run("mlbd", "init", str(CONFIG))
    run("mlbd", "init", str(CONFIG), status=2)
    run("systemctl", "enable", "--now", "mlbd")
    wait_text("2 of 2 uplinks usable")
    assert connect_many(net, "lan1", 40, timeout=PATIENCE).keys() == {1, 2}

    CONFIG.write_text(CONFIG.read_text() + "\n# mine\n")
    edited = Path("/etc/modules-load.d/mlbd.conf")
    edited.write_text("# mine\n")
    pid = show("MainPID")
    with UdpStream(net, "lan1", rate=100.0, limit=120.0) as stream:
        stream.wait_started(PATIENCE)
        apt("install", str(newer("99.0")))
        wait_text("2 of 2 uplinks usable")
        assert stream.stop(1).lost == 0
    assert show("MainPID") not in ("0", pid)
    assert (CONFIG.read_text().endswith("# mine\n"), edited.read_text()) == (True, "# mine\n")
    assert show("UnitFileState") == "enabled"

    apt("remove", "mlbd")
    assert CONFIG.exists()
    assert kernel() == kernel_before
    apt("purge", "mlbd")
    assert files() == before
    assert subprocess.run(["getent", "passwd", "mlbd"], check=False, capture_output=True).returncode == 2


def test_beside_others(net: Router) -> None:
    """Without a configuration, removing it leaves what other programs have; the user that it made goes with it."""
    run("ip", "rule", "add", "priority", "10500", "to", "203.0.113.9", "lookup", "main")
    try:
        before = kernel()
        apt("install", str(PACKAGE))
        apt("purge", "mlbd")
        assert kernel() == before
    finally:
        run("ip", "rule", "del", "priority", "10500")


def test_without_the_package(net: Router) -> None:
    """What docs/operations.md says for other systems works, word by word; the program is in /opt/mlbd already."""
    page = Path("/srv/mlbd/docs/operations.md").read_text()
    block = page.partition("### Without the package")[2].partition("```console\n")[2].partition("```")[0]
    commands = [line.removeprefix("# ") for line in block.splitlines()]
    assert commands[0].endswith("/opt/mlbd/bin/pip install .")
    made = ["/usr/local/bin/mlbd", "/etc/systemd/system/mlbd.service", "/etc/sysusers.d/mlbd.conf"]
    made.append("/etc/systemd/networkd.conf.d/mlbd.conf")
    CONFIG.parent.mkdir()
    CONFIG.write_text(tables(UPLINKS))
    try:
        for command in commands[1:]:
            run("sh", "-ec", f"cd /srv/mlbd && {command}")
        run("systemctl", "start", "mlbd")
        wait_text("2 of 2 uplinks usable")
        assert connect_many(net, "lan1", 40, timeout=PATIENCE).keys() == {1, 2}
    finally:
        run("systemctl", "stop", "mlbd")
        run("/opt/mlbd/bin/mlbd", "release")
        run("rm", "-r", "/etc/mlbd", *made)
        run("userdel", "mlbd")
        run("systemctl", "daemon-reload")
