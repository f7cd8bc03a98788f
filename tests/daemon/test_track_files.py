"""What keepalived is told of uplinks and policies, by files and by `mlbd status --exit-code`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network, wait_until
from tests.lab.scene import QUICK, Start, mlbd, tables, wait_usable

POLICIES = """
[[policy]]
name = "both"
method = "random"
members = ["wan1", "wan2"]

[[policy]]
name = "first"
method = "random"
members = ["wan1"]
"""
ALL = {"wan1": "1\n", "wan2": "1\n", "both": "1\n", "first": "1\n"}


def said(daemon: Daemon) -> dict[str, str]:
    return {path.name: path.read_text() for path in files(daemon).iterdir()}


def files(daemon: Daemon) -> Path:
    return daemon.directory / "keepalived"


def wait_said(daemon: Daemon, expected: dict[str, str]) -> None:
    wait_until(lambda: said(daemon) == expected, timeout=10.0, what=f"the files to say {expected}")


@contextmanager
def watched(path: Path) -> Iterator[set[tuple[str, int]]]:
    """What the file says, and its inode, again and again; it must be there all the time."""
    seen: set[tuple[str, int]] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            try:
                seen.add((path.read_text(), path.stat().st_ino))
            except OSError as error:
                seen.add((str(error), 0))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()


def asked(net: Network, daemon: Daemon, *names: str) -> list[tuple[int, str]]:
    """What `mlbd status --exit-code` says of each: status and line."""
    done = [mlbd(net, "status", "-c", str(daemon.file), "--exit-code", name) for name in names]
    return [(d.returncode, (d.stdout + d.stderr).rstrip("\n")) for d in done]


def test_files_and_exit_codes(start: Start) -> None:
    """A silent line is 0 as soon as the kernel is changed, and its policies as long as no other is there; 1 when it is
    back. A drain, which keeps connections, changes nothing. `--exit-code` says the same.
    """
    net, daemon = start(config=QUICK + POLICIES)
    wait_usable(daemon, "wan1", "wan2")
    wait_said(daemon, ALL)
    assert asked(net, daemon, "wan1", "both") == [(0, "wan1 carries traffic"), (0, "both carries traffic")]
    daemon.command("drain", uplink="wan1")
    wait_usable(daemon, "wan2")
    assert said(daemon) == ALL
    assert asked(net, daemon, "wan1") == [(0, "wan1 carries traffic")]
    daemon.command("resume", uplink="wan1")
    net.silence(1, gateway=True)
    wait_usable(daemon, "wan2")
    assert said(daemon) == {**ALL, "wan1": "0\n", "first": "0\n"}
    told = asked(net, daemon, "wan1", "first", "both")
    assert [code for code, _ in told] == [3, 3, 0]
    assert told[0][1].startswith("wan1 does not carry traffic: DOWN (")
    assert told[1][1].startswith("first does not carry traffic: wan1 DOWN (")
    net.speak(1)
    wait_usable(daemon, "wan1", "wan2")
    wait_said(daemon, ALL)


def test_restarts(start: Start) -> None:
    """A daemon that is killed or ends, and starts again, leaves the files alone, as the same files, all the time."""
    _, daemon = start(config=QUICK + POLICIES)
    wait_said(daemon, ALL)
    with watched(files(daemon) / "wan1") as first, watched(files(daemon) / "both") as both:
        for end in (daemon.kill, daemon.stop):
            end()
            daemon.start()
            wait_usable(daemon, "wan1", "wan2")
    assert [{text for text, _ in seen} for seen in (first, both)] == [{"1\n"}, {"1\n"}]
    assert [len(seen) for seen in (first, both)] == [1, 1]
    assert "files for keepalived" not in daemon.log_text()


def test_reloads(start: Start) -> None:
    """A reload that gives an uplink another name gives the file another, and the old one is gone; fifty reloads change
    no file that says the same.
    """
    net, daemon = start(config=QUICK)
    wait_said(daemon, {"wan1": "1\n", "wan2": "1\n", "balanced": "1\n"})
    with watched(files(daemon) / "wan2") as second, watched(files(daemon) / "balanced") as policy:
        daemon.configure((tables(net) + QUICK).replace('name = "wan1"', 'name = "fiber"'))
        for _ in range(50):
            daemon.command("reload")
        assert "wan1" not in said(daemon)
        wait_said(daemon, {"fiber": "1\n", "wan2": "1\n", "balanced": "1\n"})
    assert [len(second), len(policy)] == [1, 1]


def test_exit_codes_of_others(start: Start, network: Callable[..., Network]) -> None:
    """An unknown name is 2, with the name that may be meant; so are options that contradict; without a daemon it is 1,
    and without a verdict 3.
    """
    net, daemon = start(1, config=QUICK)
    assert asked(net, daemon, "wan", "zebra") == [
        (2, "mlbd: there is no uplink or policy 'wan'; did you mean \"wan1\"?"),
        (2, "mlbd: there is no uplink or policy 'zebra'; there are wan1, balanced"),
    ]
    for option in ("--json", "--watch"):
        done = mlbd(net, "status", "-c", str(daemon.file), option, "--exit-code", "wan1")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "mlbd: --exit-code goes with neither --json nor --watch\n"
    daemon.stop()
    ((code, line),) = asked(net, daemon, "wan1")
    assert (code, "no daemon answers" in line) == (1, True)
    net.silence(1, gateway=True)
    daemon.configure(tables(net) + '[probe]\ninterval = "5s"\ntimeout = "4s"\nfall = 10\n')
    for path in files(daemon).iterdir():
        path.unlink()
    daemon.start(wait=False)
    daemon.wait_for(lambda status: True)
    assert asked(net, daemon, "wan1", "balanced") == [
        (3, "wan1 has no verdict yet"),
        (3, "balanced has no verdict yet"),
    ]
    assert said(daemon) == {}
