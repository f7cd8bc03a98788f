"""`mlbd drain`, `resume` and `drill` on a running router, with traffic through it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network
from mlbd.lab.traffic import connect_many
from tests.lab.scene import QUICK, Start, conversation_by, in_background, mlbd, tables, wait_usable


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[Network, Daemon]]:
    with Network(2) as net, Daemon(net, tables(net) + QUICK) as daemon:
        wait_usable(daemon, "wan1", "wan2")
        yield net, daemon
        assert "Traceback" not in daemon.log_text()
        assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]


def say(net: Network, daemon: Daemon, *words: str) -> tuple[int, str]:
    """Exit status, and what was said."""
    done = mlbd(net, *words, "-c", str(daemon.file))
    return done.returncode, (done.stdout + done.stderr).strip()


def test_drain_and_resume(world: tuple[Network, Daemon]) -> None:
    """Existing connections finish, new ones take the other uplink from the command's end on, also after a restart;
    resume gives them back.
    """
    net, daemon = world
    talking = [conversation_by(net, 1 + n % 2, interval=0.05) for n in range(8)]
    assert say(net, daemon, "drain", "wan1") == (0, "wan1 is drained until it is resumed")
    assert connect_many(net, "lan1", 40) == {2: 40}
    status = daemon.uplink("wan1")
    assert (status["drained"], status["verdict"], status["reason"]) == (
        True, "UP", "drained until it is resumed",
    )  # fmt: skip
    daemon.reload()
    daemon.kill()
    daemon.start()
    daemon.wait_for(lambda s: s["settled"])
    wait_usable(daemon, "wan2")
    assert connect_many(net, "lan1", 40) == {2: 40}
    assert [c.reset for c in talking] == [None] * 8
    assert max(e.answered - e.sent for c in talking for e in c.exchanges) < 0.5
    for conversation in talking:
        conversation.close()
    assert say(net, daemon, "resume", "wan1") == (0, "wan1 is resumed")
    assert set(connect_many(net, "lan1", 60)) == {1, 2}
    assert say(net, daemon, "resume", "wan1") == (1, "mlbd: wan1 is not drained")


def test_a_drain_for_a_time(world: tuple[Network, Daemon]) -> None:
    """It ends by itself."""
    net, daemon = world
    assert say(net, daemon, "drain", "wan2", "--for", "1s") == (0, "wan2 is drained for 1s")
    wait_usable(daemon, "wan1")
    assert connect_many(net, "lan1", 20) == {1: 20}
    wait_usable(daemon, "wan1", "wan2")
    assert daemon.uplink("wan2")["drained_until"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("drain", "wan3"), "mlbd: there is no uplink 'wan3'; did you mean \"wan2\"?"),
        (("drain", "wan1", "--for", "5"), "mlbd: --for 5: expected a duration with its unit (ms, s, m, h, d)"),
        (("drill", "wan1", "--for", "1e9s"), "mlbd: --for 1e9s: expected a duration with its unit (ms, s, m, h, d)"),
    ],
)
def test_what_cannot_be_asked(world: tuple[Network, Daemon], words: tuple[str, ...], said: str) -> None:
    """An error says what would be right, and changes nothing."""
    net, daemon = world
    status, text = say(net, daemon, *words)
    assert (status, text[: len(said)]) == (1, said)
    assert [u["drained"] for u in daemon.status()["uplinks"]] == [False, False]


def test_a_drill_tells_what_happens(world: tuple[Network, Daemon]) -> None:
    """It is found, traffic moves, connections are cut loose, and it comes back; all that is told, step by step."""
    net, daemon = world
    running = in_background(mlbd, net, "drill", "wan1", "--for", "2s", "--json", "-c", str(daemon.file))
    wait_usable(daemon, "wan2")
    assert connect_many(net, "lan1", 20) == {2: 20}
    assert say(net, daemon, "drill", "wan2", "--for", "5s")[0] == 1
    done = running.result(20)
    begun, moved, ended, back = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert begun == {"step": "begun", "uplink": "wan1", "for": 2.0}
    assert (moved["step"], moved["usable"]) == ("moved", ["wan2"])
    assert moved["reason"].endswith("probes lost")
    assert 0.1 < moved["detected_after"] < 1.5
    assert moved["took_ms"] < 500
    assert (ended["step"], back["step"]) == ("ended", "back")
    assert back["after"] < 10
    wait_usable(daemon, "wan1", "wan2")


def test_an_interrupted_drill_ends(world: tuple[Network, Daemon]) -> None:
    """Whoever asked is gone, and so is the drill."""
    net, daemon = world
    command = [sys.executable, "-m", "mlbd", "drill", "wan2", "--for", "10m", "-c", str(daemon.file)]
    with net.inside("router"):
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_usable(daemon, "wan1")
    running.kill()
    running.wait()
    began = time.monotonic()
    daemon.wait_for(lambda s: all(u["usable"] for u in s["uplinks"]), timeout=20)
    assert time.monotonic() - began < 20


def test_a_drill_needs_somewhere_to_go(world: tuple[Network, Daemon]) -> None:
    """With nothing else usable it is refused."""
    net, daemon = world
    net.silence(2, gateway=True)
    wait_usable(daemon, "wan1")
    status, text = say(net, daemon, "drill", "wan1", "--for", "5s")
    net.speak(2)
    wait_usable(daemon, "wan1", "wan2")
    assert (status, text) == (1, "mlbd: nothing else is usable, so a drill of wan1 would cut everything off")


def test_a_drilled_uplink_may_be_removed(start: Start) -> None:
    """A reload that takes the uplink away ends its drill in words."""
    net, daemon = start(3, config=QUICK)
    wait_usable(daemon, "wan1", "wan2", "wan3")
    running = in_background(mlbd, net, "drill", "wan1", "--for", "2s", "-c", str(daemon.file))
    wait_usable(daemon, "wan2", "wan3")
    daemon.configure(tables(net).replace('name = "wan1"', 'name = "other"') + QUICK)
    daemon.reload()
    done = running.result(20)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[-1] == "wan1 is not back yet: it is not configured any more"
