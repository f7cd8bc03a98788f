"""A daemon that is not given what it needs says so in words, or goes on without it."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network, wait_until
from mlbd.lab.traffic import connect_many
from tests.lab.scene import kernel, tables, wait_usable

Build = Callable[..., Network]


def refused(net: Network, *command: str) -> str:
    """What the command says when it ends by itself, with status 1; it has changed nothing."""
    before = kernel(net)
    with net.inside("router"):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    said = done.stdout + done.stderr
    assert (done.returncode, "Traceback" in said) == (1, False), said
    assert kernel(net) == before
    return said


def run_in(prepare: str, *arguments: str) -> list[str]:
    """`mlbd ARGUMENTS` in a mount namespace of its own, after shell commands that prepare it."""
    command = f'{prepare} && exec "$0" -m mlbd "$@"'
    return ["unshare", "--mount", "--", "sh", "-ec", command, sys.executable, *arguments]


@pytest.mark.parametrize("command", ["run", "plan", "release"])
def test_without_privileges(network: Build, command: str) -> None:
    """Without CAP_NET_ADMIN it says that it may not change the network, and what to do."""
    net = network(2)
    file = Daemon(net, tables(net)).file
    without = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin", "--"]
    said = refused(net, *without, sys.executable, "-m", "mlbd", command, "-c", str(file))
    assert "CAP_NET_ADMIN" in said


@pytest.mark.parametrize("command", ["run", "plan", "release"])
def test_without_libnftables(network: Build, command: str) -> None:
    """Without libnftables it names the library and the package that has it."""
    net = network(2)
    file = Daemon(net, tables(net)).file
    find = "ldconfig -p | sed -n 's/.*libnftables.so.1 .*=> //p' | xargs readlink -f"
    hide = f"for file in $({find}); do mount --bind /dev/null $file; done"
    said = refused(net, *run_in(hide, command, "-c", str(file)))
    assert "libnftables" in said
    assert "apt-get install" in said


def test_a_control_directory_that_cannot_be_made(network: Build) -> None:
    """Where the control socket can't be, it does not start, and names the path."""
    net = network(2)
    daemon = Daemon(net, tables(net) + '[daemon]\ncontrol = "/proc/mlbd/control.sock"\nmetrics = "off"\n')
    said = refused(net, sys.executable, "-m", "mlbd", "run", "-c", str(daemon.file))
    assert "/proc/mlbd/control.sock" in said


def test_a_file_that_cannot_be_read(network: Build) -> None:
    """A configuration that is a directory, or not there, is said so, with status 2."""
    net = network(1)
    for path, reason in ((net.directory, "directory"), (Path("/nonexistent.toml"), "No such file")):
        with net.inside("router"):
            command = [sys.executable, "-m", "mlbd", "run", "-c", str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
        assert done.returncode == 2
        assert (str(path) in done.stderr, reason in done.stderr) == (True, True), done.stderr
        assert "Traceback" not in done.stderr


def test_a_metrics_port_in_use(network: Build) -> None:
    """With its port taken the daemon works without metrics, and says why."""
    net = network(2)
    with net.inside("router"):
        taken = socket.create_server(("127.0.0.1", 9617))
    with taken, Daemon(net, tables(net), metrics="127.0.0.1:9617") as daemon:
        wait_usable(daemon, "wan1", "wan2")
        assert set(connect_many(net, "lan1", 20)) == {1, 2}
        daemon.wait_for(lambda _: "9617" in daemon.log_text())
        assert "Traceback" not in daemon.log_text()


def test_with_sysctls_read_only(network: Build) -> None:
    """Where /proc/sys can't be written, as in some containers, it names what it could not set, and balances."""
    net = network(2)
    daemon = Daemon(net, tables(net))
    command = run_in("mount --bind -o ro /proc/sys /proc/sys", "run", "-c", str(daemon.file))
    said = net.directory / "said"
    with said.open("wb") as out:
        net.spawn("router", command, stdout=out, stderr=out)
    wait_until(lambda: "src_valid_mark" in said.read_text(), what="a word about src_valid_mark")
    wait_until(lambda: connect_many(net, "lan1", 20).keys() == {1, 2}, what="that both uplinks carry connections")
    told = daemon.status()
    assert any("src_valid_mark" in error for error in told["last_cycle"]["errors"])
    assert ("Traceback" in said.read_text(), told["settled"]) == (False, True)


@pytest.mark.parametrize("left", ["file", "socket"])
def test_a_control_socket_left_behind(network: Build, left: str) -> None:
    """A socket that a killed daemon left is replaced; what is no socket is not, and is named."""
    net = network(2)
    daemon = Daemon(net, tables(net))
    if left == "file":
        daemon.control.write_text("mine")
        said = refused(net, sys.executable, "-m", "mlbd", "run", "-c", str(daemon.file))
        assert str(daemon.control) in said
        assert daemon.control.read_text() == "mine"
        return
    with daemon:
        daemon.kill()
        assert daemon.control.exists()
        daemon.start()
        wait_usable(daemon, "wan1", "wan2")


def test_an_uplink_that_never_exists(network: Build) -> None:
    """An interface that is missing for good keeps nobody waiting for longer than the grace time, and is named."""
    net = network(1)
    config = tables(net) + '[[uplink]]\nname = "modem"\ninterface = "wwan0"\n[daemon]\ngrace = "1s"\n'
    with Daemon(net, config) as daemon:
        wait_usable(daemon, "wan1")
        assert daemon.uplink("modem")["reason"] == "interface wwan0 does not exist"
        assert set(connect_many(net, "lan1", 20)) == {1}
        assert "Traceback" not in daemon.log_text()
