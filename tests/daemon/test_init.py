"""`mlbd init` on a router that is already connected, and a daemon that runs with what it wrote."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from mlbd.cli.init import create
from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network
from mlbd.lab.traffic import connect_many
from tests.lab.scene import kernel, mlbd, wait_usable


def test_the_daemon_runs_with_it(network: Callable[..., Network]) -> None:
    """What it writes is right as it is: both uplinks become usable, and connections of the LAN are spread over both.

    Beside the running daemon it prints the same again, as what mlbd made is no input; and it changes nothing.
    """
    net = network(2, interfaces=["dsl", "cable.7"])
    file = net.directory / "etc" / "mlbd.toml"
    before = kernel(net)
    done = mlbd(net, "init", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{file} is written: uplinks dsl, cable-7. ")
    assert kernel(net) == before
    assert mlbd(net, "check", str(file)).stdout == (
        f"{file} is good: uplinks dsl (dsl), cable-7 (cable.7); policies balanced (random).\n"
    )
    with Daemon(net, file.read_text()) as daemon:
        wait_usable(daemon, "dsl", "cable-7")
        went = connect_many(net, "lan1", 40)
        assert ({*went}, went.total()) == ({1, 2}, 40)
        assert mlbd(net, "init").stdout == file.read_text()


def test_a_machine_without_uplinks(network: Callable[..., Network]) -> None:
    """It is told on stderr, the template is written nevertheless, and the status is 3."""
    net = network(1, default_routes=False)
    done = mlbd(net, "init")
    assert (done.returncode, "no uplink was found" in done.stderr) == (3, True)
    assert "It is a template" in done.stdout


def test_a_file_that_exists_stays(network: Callable[..., Network], tmp_path: Path) -> None:
    """It is refused with status 2, be it a file, a link to nowhere or a directory; and what fails leaves nothing."""
    net = network(1)
    file, link = tmp_path / "mlbd.toml", tmp_path / "link"
    file.write_text("mine")
    link.symlink_to("nowhere")
    for path in (file, link, tmp_path):
        done = mlbd(net, "init", str(path))
        assert (done.returncode, done.stdout) == (2, "")
        assert f"{path} exists and stays as it is" in done.stderr
    done = mlbd(net, "init", str(tmp_path / "a" / "b" / "c"))
    assert (done.returncode, "cannot be written: No such file or directory" in done.stderr) == (1, True)
    assert (file.read_text(), sorted(p.name for p in tmp_path.iterdir())) == ("mine", ["link", "mlbd.toml"])


def test_files_are_whole_and_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon's user can read it, whatever the umask is; of two that write one fails; a full disk leaves nothing."""
    file = tmp_path / "new" / "mlbd.toml"
    umask = os.umask(0o077)
    try:
        create(file, b"whole")
    finally:
        os.umask(umask)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent)] == [0o644, 0o755]
    with pytest.raises(FileExistsError):
        create(file, b"second")
    assert file.read_bytes() == b"whole"

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        create(tmp_path / "new" / "other", b"half")
    assert [path.name for path in file.parent.iterdir()] == ["mlbd.toml"]
