"""The demo shows what happened, and says so by its exit status."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from mlbd.lab import demo_outcome, demo_screen
from mlbd.lab.demo_outcome import Outcome, Transition
from mlbd.lab.demo_screen import Event, Health, Picture, UplinkRow
from mlbd.lab.sandbox import MARKER
from mlbd.lab.traffic import Attempt

OUTSIDE = {name: value for name, value in os.environ.items() if name != MARKER}
DEMO = [sys.executable, "-m", "mlbd", "demo"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """As a user would, outside of any sandbox."""
    return subprocess.run(
        [*DEMO, *arguments], env=OUTSIDE, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip


# The real thing


def test_traffic_survives_a_pulled_cable() -> None:
    """`mlbd demo --once --fault carrier` breaks an uplink under traffic, ends by itself, and sums up what happened."""
    done = run("--once", "--fault", "carrier")
    assert (done.returncode, done.stderr) == (0, "")
    events, _, summary = done.stdout.partition("\n\n")
    said = [re.sub(r"^ +\d+\.\d\d s  ", "", line) for line in events.splitlines()]
    broken = re.search(r"^(fiber|cable) is unplugged$", "\n".join(said), re.MULTILINE)
    assert broken, done.stdout
    name = broken[1]
    story = [line for line in said if line.startswith(name)]
    assert [line.partition(" [")[0] for line in story] == [
        f"{name} UP: 3 of 3 probes answered",
        f"{name} is unplugged",
        f"{name} DOWN: carrier lost",
        f"{name} is plugged in again",
        f"{name} UP: 3 of 3 probes answered",
    ]
    cells = dict(re.split(r"  +", line.strip(), maxsplit=1) for line in summary.splitlines() if line[1:2].islower())
    assert re.fullmatch(r"0 of [1-8]", cells["conversations broken on healthy uplinks"])
    assert cells["wrong-source packets seen by providers"] == "0"
    assert re.fullmatch(r"\d+ ms", cells["new connections were fine again after"])
    assert re.search(r"^ Traffic survived: \d+ of \d+ new connections were answered\.$", summary, re.MULTILINE)


def test_traffic_that_has_nowhere_to_go(tmp_path: Path) -> None:
    """With a policy that knows one uplink only, the demo says what did not survive, and exits 1."""
    config = tmp_path / "mlbd.toml"
    config.write_text(
        '[probe]\ntargets = ["203.0.113.253"]\n'
        '[[uplink]]\nname = "fiber"\ninterface = "eth1"\n'
        '[[uplink]]\nname = "cable"\ninterface = "eth2"\n'
        '[[policy]]\nname = "stubborn"\nmembers = ["fiber"]\nlast_resort = "unreachable"\n'
    )
    done = run("--once", "--fault", "carrier", "-c", str(config))
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.partition("Traffic did not survive: ")[2].rstrip().splitlines()[1:] == [
        "   fiber unplugged, 6 s: new connections did not succeed until the fault was over",
        "   fiber unplugged, 6 s: the stream of datagrams did not go on until the fault was over",
    ]


def test_an_interrupt_ends_it_at_once() -> None:
    """On Ctrl-C the demo ends within two seconds, without a word, with status 130."""
    process = subprocess.Popen(
        [*DEMO, "--once"], env=OUTSIDE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline().endswith("the daemon starts\n")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=2)
    assert (process.returncode, errors) == (130, "")


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        (
            '[[uplink]]\nname = "fiber"\ninterface = "eth1"\ngateway = "192.0.2.1"\n',
            1,
            'mlbd: fiber: the demo has gateways of its own; set gateway = "auto" in a copy of the file.\n',
        ),
        ("[[uplink]\n", 2, None),
    ],
)
def test_a_file_it_cannot_use(tmp_path: Path, text: str, status: int, said: str | None) -> None:
    """A file that is wrong, or that names gateways the lab does not have, is refused in words before anything runs."""
    config = tmp_path / "mlbd.toml"
    config.write_text(text)
    done = run("--once", "-c", str(config))
    assert (done.returncode, done.stdout) == (status, "")
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith(str(config)) if said is None else done.stderr == said


# What became of the traffic

OK, LATE, FAILED = 0.001, 1.04, None


@pytest.mark.parametrize(
    ("took", "expected"),
    [
        ([OK, OK, OK, OK], 0.0),
        ([LATE, LATE, OK, OK], 2.0),
        ([OK, FAILED, OK, OK], 2.0),
        ([LATE, OK, OK, FAILED], None),
        ([FAILED, FAILED, FAILED, OK], None),
        ([], None),
    ],
)
def test_recovered(took: list[float | None], expected: float | None) -> None:
    """New connections are fine again from the first on that has no slow or failed one after it, if that is certain."""
    attempts = [Attempt(100.0 + n, t, None if t is None else 1) for n, t in enumerate(took)]
    outside = [Attempt(99.0, FAILED, None), Attempt(103.5, FAILED, None)]
    assert demo_outcome.recovered([*outside, *attempts], 100.0, 103.5) == expected


def record(event: str, uplink: str, second: int, **fields: Any) -> dict[str, Any]:
    known = {"to": "DOWN", "reason": "carrier lost", "evidence": "..!", "usable": ["cable"], "took_ms": None}
    return {"timestamp": f"1970-01-01T00:00:{second:02}Z", "event": event, "uplink": uplink, **known, **fields}


def test_transitions() -> None:
    """The daemon's log tells when the evidence of each transition was complete, and what it was."""
    found = demo_outcome.transitions(
        [
            record("uplink_down", "fiber", 10, took_ms=250.0),
            {"text": "not a record"},
            record("connections cut loose", "fiber", 10),
            record("uplink_down", "cable", 11, evidence="", usable=[]),
            record("uplink_up", "fiber", 12, to="UP", reason="3 of 3 probes answered", evidence="..."),
        ],
        offset=100.0,
    )
    assert found == [
        Transition(109.75, "uplink_down", "fiber", "fiber DOWN: carrier lost [..!]; usable: cable"),
        Transition(111.0, "uplink_down", "cable", "cable DOWN: carrier lost; usable: none"),
        Transition(112.0, "uplink_up", "fiber", "fiber UP: 3 of 3 probes answered [...]; usable: cable"),
    ]
    assert demo_outcome.first(found, "uplink_down", "fiber", 109.0) == 0.75
    assert demo_outcome.first(found, "uplink_down", "fiber", 110.0) is None


GOOD = Outcome(
    title="fiber silent, 10 s", noticed=1.43, recovered=1.45, back=3.0, datagrams=14500, datagrams_lost=1450,
    stream_went_on=True, reset=4, broken=0, healthy=3, failed_outside=0, wrong_source=0,
)  # fmt: skip
BAD = Outcome(
    title="cable unplugged, 6 s", noticed=None, recovered=None, back=None, datagrams=10000, datagrams_lost=6000,
    stream_went_on=False, reset=0, broken=2, healthy=5, failed_outside=3, wrong_source=7,
)  # fmt: skip


def test_complaints() -> None:
    """Each thing that traffic must survive is complained of if it did not, and an outcome without is good."""
    assert GOOD.complaints() == []
    assert [text.removeprefix("cable unplugged, 6 s: ") for text in BAD.complaints()] == [
        "the daemon did not notice",
        "new connections did not succeed until the fault was over",
        "the stream of datagrams did not go on until the fault was over",
        "the uplink was not used again after it was healed",
        "2 connections broke on healthy uplinks",
        "the providers saw 7 packets with a wrong source",
    ]
    assert replace(GOOD, failed_outside=3).complaints() == [
        "fiber silent, 10 s: 3 connections failed while nothing was broken"
    ]


# How it looks


def uplink(name: str, **fields: Any) -> UplinkRow:
    known = {"verdict": "UP", "loss": 0.0, "rtt": 0.0123, "gateway": "10.2.0.1", "evidence": "." * 20}
    return UplinkRow(name=name, **{**known, **fields})


PICTURE = Picture(
    elapsed=65.4,
    title="3 uplinks, 50 new connections/s, 1000 datagrams/s",
    now="fiber's provider drops everything, its link stays up  3 s",
    alarm=True,
    uplinks=(
        uplink("fiber", verdict="DOWN", loss=0.125, gateway="10.1.0.1", evidence="." * 13 + "!!!!!!?", share=0.25,
               history=(0.6, 0.6, 0.3, 0.0)),
        uplink("cable", share=0.75, history=(0.4, 0.4, 0.4, 1.2)),
        uplink("lte", verdict="-", loss=None, rtt=None, gateway="-", evidence="", share=None, history=(0, 0, 0, 0)),
    ),
    trouble=(0.0, 0.0, 0.3, 0.01),
    marks=(" ", "+", "!", " "),
    health=Health(
        answered=1234, waiting=2, failed=0, datagrams=56789, datagrams_lost=1501, stream="by cable", alive=6,
        stalled=2, reset=3, broken=0,
    ),
    events=tuple(Event(float(n), "note", f"event {n}") for n in range(20)),
)  # fmt: skip


def test_a_picture_for_a_small_terminal() -> None:
    """80 columns and 24 lines hold everything, with the newest events."""
    assert demo_screen.render(PICTURE, 80, 24, colour=False) == [
        " mlbd demo  3 uplinks, 50 new connections/s, 1000 datagrams/s              1:05",
        " fiber's provider drops everything, its link stays up  3 s",
        "",
        " UPLINK   VERDICT   LOSS     RTT  GATEWAY   PROBES         NEW CONNECTIONS",
        " fiber    DOWN     12.5% 12.30ms  10.1.0.1  ......!!!!!!?  ████░░░░░░░░░░  25%",
        " cable    UP        0.0% 12.30ms  10.2.0.1  .............  ██████████░░░░  75%",
        " lte      -            -       -  -                        ░░░░░░░░░░░░░░   0%",
        "",
        " which way new connections went, 34 s",
        " fiber                                                                     ▅▅▃",
        " cable                                                                     ▄▄▄█",
        " lte",
        " waited                                                                      ▃▁",
        "                                                                            ▲▲",
        "",
        " connections    1 234 answered   2 waiting   0 failed",
        " datagrams      56 789 sent   1 501 lost   now by cable",
        " conversations  6 alive   2 waiting   3 reset and moved   0 broken elsewhere",
        "",
        "  15.00 s  event 15",
        "  16.00 s  event 16",
        "  17.00 s  event 17",
        "  18.00 s  event 18",
        "  19.00 s  event 19",
    ]


@pytest.mark.parametrize("width", [20, 60, 80, 97, 120, 300])
@pytest.mark.parametrize("height", [10, 24, 60])
def test_colours_only_colour(width: int, height: int) -> None:
    """With colours the same text is shown, and no line is wider than the terminal, if that has 60 columns, or 120."""
    plain = demo_screen.render(PICTURE, width, height, colour=False)
    coloured = demo_screen.render(PICTURE, width, height, colour=True)
    assert [re.sub(r"\033\[[0-9;]*m", "", line).rstrip() for line in coloured] == plain
    assert max(len(line) for line in plain) <= max(60, min(width, 120))
    assert len(plain) <= height
    assert all(line.count("\033[") % 2 == 0 for line in coloured)


def test_an_event_as_a_line() -> None:
    """Without a terminal an event is one plain line."""
    assert demo_screen.event_line(Event(12.34, "down", "fiber DOWN: lost")) == "  12.34 s  fiber DOWN: lost"


def test_a_summary() -> None:
    """A column for each fault, then whether traffic survived, and what did not."""
    assert demo_screen.summary([GOOD, BAD], 1505, 3, 100, colour=False) == [
        "                                              fiber silent, 10 s  cable unplugged, 6 s",
        " the daemon noticed after                                 1.43 s                 never",
        " new connections were fine again after                    1.45 s                 never",
        " datagrams of the stream on it lost              1 450 of 14 500       6 000 of 10 000",
        " conversations on it reset, and moved                          4                     0",
        " healed, it carried traffic again after                   3.00 s                 never",
        " conversations broken on healthy uplinks                  0 of 3                2 of 5",
        " wrong-source packets seen by providers                        0                     7",
        "",
        " Traffic did not survive: 1 505 of 1 508 new connections were answered.",
        *(f"   {complaint}" for complaint in BAD.complaints()),
    ]
    assert demo_screen.summary([GOOD], 1505, 0, 80, colour=False)[-1] == (
        " Traffic survived: 1 505 of 1 505 new connections were answered."
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "never"), (0.0, "0 ms"), (0.0482, "48 ms"), (0.9994, "999 ms"), (0.9996, "1.00 s"), (1.43, "1.43 s")],
)
def test_duration(seconds: float | None, text: str) -> None:
    """Milliseconds under a second, seconds from there on."""
    assert demo_screen.duration(seconds) == text
