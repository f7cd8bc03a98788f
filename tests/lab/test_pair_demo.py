"""The demo of two routers tells what happened, and says by its exit status whether traffic survived."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlbd.lab.demo_traffic import Break
from mlbd.lab.pair_outcome import Outcome, Step, outcome, table
from mlbd.lab.pair_programs import missing
from mlbd.lab.sandbox import MARKER
from mlbd.lab.stream import Packet, Summary
from mlbd.lab.traffic import Attempt

EXAMPLE = Path(__file__).parents[2] / "etc" / "examples" / "pair"
OUTSIDE = {name: value for name, value in os.environ.items() if name != MARKER}


def run(*arguments: str, environment: dict[str, str] = OUTSIDE) -> subprocess.CompletedProcess[str]:
    """As a user would, outside of any sandbox if the environment is not another one."""
    return subprocess.run(
        [sys.executable, "-m", "mlbd", "demo", *arguments], env=environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.skipif(bool(missing()), reason="keepalived or conntrackd is not installed")
def test_two_routers() -> None:
    """`mlbd demo --once` with the example breaks a line and a router, takes the router out, and traffic survives."""
    done = run("--once", "--config", str(EXAMPLE))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    events, _, summary = done.stdout.partition("\n\n")
    said = "\n".join(re.sub(r"^ +\d+\.\d\d s  ", "", line) for line in events.splitlines())
    for fault, moved in (
        ("line 1: its provider drops everything", "line 1 works again, and has to prove it"),
        ("router 1 loses its power", "router 1 has power again, and boots"),
        ("nothing is left on line 1: router 1's keepalived is stopped", "router 1 is switched off"),
    ):
        meanwhile = said.partition(fault)[2].partition(moved)[0]
        assert re.search(r"^gateway 1 is router 2, after \d\.\d\d s$", meanwhile, re.MULTILINE), done.stdout
    assert re.search(r"^[1-6] conversations of segment 1 that began on line 2 go on there", said, re.MULTILINE)
    returns = ("line 1 repaired", "router 1 returns", "router 1 back")
    for title in ("all is well", "line 1 drained", "router 1 off", *returns):
        row = rf"^ {title} +\d+ +0 +0 ms +\d+ +0 +0 ms +0 +- +0$"
        assert re.search(row, summary, re.MULTILINE), summary
    assert re.search(r"^ Traffic survived: (\d+) of \1 new connections were answered\.$", summary, re.MULTILINE)


@pytest.mark.parametrize(
    ("files", "fault", "said"),
    [
        ((), "silent", "found nothing"),
        (("router1/mlbd.toml", "mlbd.toml"), "silent", "found mlbd.toml, router1"),
        ((), "flap", "--fault flap: the demo of two routers knows silent and carrier"),
    ],
)
def test_a_directory_it_cannot_use(tmp_path: Path, files: tuple[str, ...], fault: str, said: str) -> None:
    """What is no pair of routers, and a fault that a pair does not have, are refused in words before anything runs."""
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    done = run("--once", "--config", str(tmp_path), "--fault", fault)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("mlbd: ")
    assert said in done.stderr
    assert fault == "flap" or "router2/conntrackd.conf" in done.stderr


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        (('interface = "wan"', 'interface = "eth9"'), 1, 'no uplinks with interface = "wan"'),
        (('interface = "wan"', "interface = 9"), 2, "mlbd.toml:"),
    ],
)
def test_a_file_it_cannot_use(tmp_path: Path, change: tuple[str, str], status: int, said: str) -> None:
    """A router's file that is wrong, or whose line is not where the demo's routers have theirs, is named."""
    shutil.copytree(EXAMPLE, tmp_path / "pair")
    file = tmp_path / "pair" / "router2" / "mlbd.toml"
    file.write_text(file.read_text().replace(*change))
    done = run("--once", "--config", str(tmp_path / "pair"))
    assert (done.returncode, done.stdout) == (status, "")
    assert str(file) in done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_programs_that_are_missing(tmp_path: Path) -> None:
    """Without keepalived and conntrackd it says what to install, and builds nothing."""
    inside = {**OUTSIDE, MARKER: "1", "PATH": str(tmp_path)}  # outside, /usr/sbin would be added
    done = run("--once", "--config", str(EXAMPLE), environment=inside)
    assert (done.returncode, done.stdout, done.stderr) == (
        1, "", "mlbd: keepalived and conntrackd: not installed. apt-get install keepalived conntrackd\n"
    )  # fmt: skip


# What became of the traffic


def stream(*answered: bool) -> Summary:
    """A datagram a second from 100 on."""
    return Summary([Packet(n, 100.0 + n, 100.1 + n if good else None, 1, 0) for n, good in enumerate(answered)])


STEP = Step(title="line 1 silent", began=101.0, ended=105.0, kills=1, begun_on_it=2)
ATTEMPTS = [Attempt(99.0, None, None), Attempt(101.5, 0.1, 1), Attempt(102.0, None, None)]
BREAKS = [Break(102.0, 1, "ECONNRESET"), Break(102.0, 2, "ECONNRESET"), Break(105.0, 1, "ECONNRESET")]


def test_an_outcome() -> None:
    """What was sent, begun and broken during the step counts, whatever stream it was in; nothing else does."""
    streams = {1: [stream(False, True, False), stream(True, False, True)], 2: [stream(True, True, True, True)]}
    assert outcome(STEP, streams, ATTEMPTS, BREAKS, []) == Outcome(
        step=STEP, sent={1: 4, 2: 3}, lost={1: 2, 2: 0}, gap={1: 1.0, 2: 0.0}, made=1, failed=1, excused=0, broken=1,
        broken_elsewhere=1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("streams", "step", "expected"),
    [
        ({1: [True] * 5, 2: [True] * 5}, STEP, []),
        ({1: [True, True, False, False, True], 2: [True] * 5}, STEP, []),
        ({1: [True] * 5, 2: [True, False, False, True]}, STEP, []),
        ({1: [True] * 5, 2: [True, False, False, False, True]}, STEP, ["segment 2 lost 3 datagrams"]),
        ({1: [False] * 8, 2: [True] * 5}, Step(title="x", began=100.0, ended=108.0, kills=1),
         ["segment 1 was without an answer for 7.00 s"]),
        ({1: [], 2: [True] * 5}, Step(title="x", began=100.0, complaints=("it did not move",)),
         ["it did not move", "segment 1 sent nothing"]),
    ],
)  # fmt: skip
def test_complaints(streams: dict[int, list[bool]], step: Step, expected: list[str]) -> None:
    """A segment whose line died may wait for a while; the other one loses nothing."""
    found = outcome(step, {k: [stream(*answered)] for k, answered in streams.items()}, [], [], [])
    assert found.complaints() == [f"{step.title}: {text}" for text in expected]


def test_a_connection_that_was_being_made() -> None:
    """One that was just begun when a line died may fail, and is counted; a later one may not."""
    attempts = [Attempt(started, None, None) for started in (100.95, 101.1, 101.3)]
    calm = Step(title="all is well", began=100.0, ended=101.0)
    sent = {1: [stream(True, True, True)]}
    found = [outcome(step, sent, attempts, [], [101.0]) for step in (calm, STEP)]
    assert [(one.failed, one.complaints()) for one in found] == [
        (1, []),
        (2, ["line 1 silent: 1 new connections failed"]),
    ]


def test_a_table() -> None:
    """A row for each step, then whether traffic survived, and what did not."""
    calm = Step(title="all is well", began=100.0, ended=101.0)
    streams = {1: [stream(True, True, False, False, True)], 2: [stream(True, True, True, True, True)]}
    found = [outcome(step, streams, ATTEMPTS, BREAKS[:2], []) for step in (calm, STEP)]
    assert table(found, colour=False) == [
        " Datagrams of each segment, new connections that failed, conversations that broke:",
        "",
        "                           segment 1          segment 2              broken on",
        "                   sent lost     gap  sent lost     gap  failed  line 1 others",
        " all is well          1    0    0 ms     1    0    0 ms       0       -      0",
        " line 1 silent        4    2  2.00 s     4    0    0 ms       1  1 of 2      1",
        "",
        " Traffic did not survive: 1 of 2 new connections were answered.",
        "   line 1 silent: 1 new connections failed",
        "   line 1 silent: 1 conversations broke on a line that was well",
    ]
