"""A sandbox keeps everything in, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from mlbd.lab.network import wait_until
from mlbd.lab.sandbox import MARKER

SANDBOX = [sys.executable, "-m", "mlbd.lab.sandbox"]
OUTSIDE = {name: value for name, value in os.environ.items() if name != MARKER}
"""So that the sandbox under test is a new one, inside the one the tests run in."""


def run(*command: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, *SANDBOX, *command], env=OUTSIDE, capture_output=True, text=True, timeout=30, check=False
    )


def alive(word: str) -> list[int]:
    """Processes with this word in their environment, zombies not counted."""
    found = []
    for directory in Path("/proc").iterdir():
        try:
            if directory.name.isdigit() and word.encode() in (directory / "environ").read_bytes():
                found.append(int(directory.name))
        except OSError:
            continue
    return found


def test_it_is_private() -> None:
    """Inside there are only lo, an empty /run, its own processes, and the marker."""
    script = f"ip -br link | cut -d' ' -f1; ls -A /run; ls -d /proc/[0-9]* | wc -l; echo ${MARKER}"
    done = run("sh", "-c", script)
    interfaces, processes, marker = done.stdout.split()
    assert (interfaces, marker, done.stderr) == ("lo", "1", "")
    assert int(processes) < 10


def test_it_names_namespaces_for_itself() -> None:
    """A network namespace that is named inside is not there outside, nor in the next sandbox."""
    name = f"n{uuid.uuid4().hex[:8]}"
    for _ in range(2):
        assert run("sh", "-c", f"ip netns add {name} && ip netns").stdout == f"{name}\n"
    assert not Path("/run/netns", name).exists()


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137), ("kill -TERM $$", 143)]
)
def test_the_commands_status_is_its_own(script: str, status: int) -> None:
    """The exit status passes through; a signal counts 128 and its number."""
    assert run("sh", "-c", script).returncode == status


def test_a_command_that_does_not_exist() -> None:
    """It is said in a sentence."""
    done = run("no-such-command")
    assert (done.returncode, done.stderr) == (1, "no-such-command: there is no such command.\n")


def _kill_outer(outer: subprocess.Popen[bytes]) -> None:
    outer.kill()


def _kill_command(outer: subprocess.Popen[bytes]) -> None:
    init = _only_child(outer.pid)
    os.kill(_only_child(init), signal.SIGKILL)


def _terminate_outer(outer: subprocess.Popen[bytes]) -> None:
    outer.terminate()


def _interrupt_all(outer: subprocess.Popen[bytes]) -> None:
    os.killpg(outer.pid, signal.SIGINT)  # as the terminal does on Ctrl-C


def _only_child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


@pytest.mark.parametrize("end", [_kill_outer, _kill_command, _terminate_outer, _interrupt_all])
def test_nothing_survives(end: Callable[[subprocess.Popen[bytes]], None]) -> None:
    """Whoever is killed or interrupted, every process of the sandbox is gone soon, also one in a session of its own."""
    word = f"WORD={uuid.uuid4().hex}"
    name, value = word.split("=")
    script = "setsid sleep 1000 & sleep 1000 & wait"
    outer = subprocess.Popen([*SANDBOX, "sh", "-c", script], env=OUTSIDE | {name: value}, start_new_session=True)
    try:
        wait_until(lambda: len(alive(word)) == 5, what="that outer, init, sh and two sleeps run")
        end(outer)
        outer.wait(timeout=5)
        wait_until(lambda: alive(word) == [], what="that all are gone")
    finally:
        outer.kill()
        outer.wait()


def test_without_privileges_a_network_is_built_in_a_user_namespace() -> None:
    """Who may do nothing with networks builds one all the same, and gets an answer from its internet."""
    script = (
        "from pathlib import Path; from mlbd.lab.network import Network\n"
        "with Network(3) as net: print(net.ping('router', '203.0.113.1'), net.ping('router', '2001:db8:f::1'))\n"
        "print(Path('/proc/self/uid_map').read_text().split())"
    )
    # Whoever is user 0 may only be mapped with this one capability (user_namespaces(7)).
    powerless = ("setpriv", "--bounding-set=-all,+setfcap", "--inh-caps=-all")
    before = time.monotonic()
    done = run(sys.executable, "-c", script, prefix=powerless)
    assert (done.stdout, done.stderr) == ("True True\n['0', '0', '1']\n", "")
    assert time.monotonic() - before < 5
