"""Bundles and their members, wherever they are reported."""

from __future__ import annotations

import io
import json
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from mlbd.core.probing import Failure, Reply
from mlbd.report.history import sentence
from mlbd.report.log import Log
from mlbd.report.screen import render
from mlbd.report.service import summary
from tests.report.test_history import loaded
from tests.report.test_log import Terminal, journalled, records
from tests.report.test_metrics import ORDER, metrics, samples
from tests.report.values import BOND, FIBER, LAG, MEMBER_DOWN, MEMBER_UP, STATUS, TEQL

ROUTER = replace(
    STATUS, uplinks=(), policies=(), bundles=(BOND, LAG, TEQL), warnings=(), last_cycle=None
)  # fmt: skip

SCREEN = """\
mlbd 1.2, running for 15m 0s: 3 of 5 members usable

bundle bond0 (active-backup)
INTERFACE  ACTIVE  VERDICT  USABLE  LOSS    RTT    SINCE   REASON
eth1       no      DOWN     no      100.0%  -      1m 0s   3 of 3 probes lost
eth2       yes     UP       yes     0.0%    0.3ms  15m 0s

bundle bond1 (802.3ad)
INTERFACE          ACTIVE  VERDICT  USABLE  LOSS  RTT  SINCE   REASON
eth3               yes     -        yes     -     -    15m 0s
eth4 (no carrier)  no      -        no      -     -    30s     no carrier

bundle teql0 (teql)
INTERFACE  ACTIVE  VERDICT  USABLE  LOSS  RTT    SINCE   REASON
t1         yes     UP       yes     0.0%  0.3ms  15m 0s
"""


def test_on_the_screen() -> None:
    """Each bundle has a table of its members, with `-` where nobody probes, in colours, and from the JSON as well."""
    assert render(ROUTER, now=1000.0) == SCREEN
    assert render(json.loads(msgspec.json.encode(ROUTER)), now=1000.0) == SCREEN
    coloured = render(ROUTER, now=1000.0, colour=True)
    assert [line.rstrip() for line in re.sub(r"\033\[\d+m", "", coloured).splitlines()] == SCREEN.splitlines()
    assert "\033[31mDOWN" in coloured


def test_after_the_uplinks() -> None:
    """With uplinks, these come first, in the headline too; with neither it is of them."""
    lines = render(replace(STATUS, bundles=(BOND,)), now=1000.0).splitlines()
    assert lines[0] == "mlbd 1.2, running for 15m 0s: 1 of 2 uplinks usable, 1 of 2 members usable"
    headings = [line.split()[0] for line in lines if line.startswith(("UPLINK", "bundle", "policy"))]
    assert headings == ["UPLINK", "bundle", "policy"]
    neither = render(replace(ROUTER, bundles=()), now=1000.0)
    assert neither == "mlbd 1.2, running for 15m 0s: 0 of 0 uplinks usable\n"


def test_summary() -> None:
    """The service manager is told of members beside uplinks, and of them alone where there are no uplinks."""
    members = "1 of 2 members usable: bond0/eth1 DOWN (3 of 3 probes lost)"
    assert summary(replace(STATUS, uplinks=(FIBER,), bundles=(BOND,))) == f"1 of 1 uplinks usable; {members}"
    assert summary(replace(ROUTER, bundles=(BOND,))) == members
    assert summary(replace(ROUTER, bundles=())) == "0 of 0 uplinks usable"


def test_metrics() -> None:
    """Which members the kernel uses; in the metrics of uplinks they are not."""
    made, told = metrics()
    told.status = ROUTER
    assert samples(made, "member") == {
        "mlbd_member_active{bundle=bond0,interface=eth1}": 0,
        "mlbd_member_active{bundle=bond0,interface=eth2}": 1,
        "mlbd_member_active{bundle=bond1,interface=eth3}": 1,
        "mlbd_member_active{bundle=bond1,interface=eth4}": 0,
        "mlbd_member_active{bundle=teql0,interface=t1}": 1,
    }
    assert samples(made, "uplink") == {}


def test_probes_are_no_uplinks() -> None:
    """Probes of members are not counted among those of uplinks, and cost no look at the status each."""
    made, told = metrics()
    told.status = replace(STATUS, bundles=(BOND,))
    for round_ in range(1, 101):
        made.probe_sent(replace(ORDER, uplink="bond0/eth1", target=0, round=round_, bundle="bond0"))
        made.probe_answered(Reply("bond0/eth1", 0, round_, 0.0003))
        made.probe_failed(Failure("bond0/eth1", 0, round_, "no-device", "?"))
    assert told.asked == 1
    made.reloaded(True)
    assert {*samples(made, "probe_sent").values(), *samples(made, "probe_errors").values()} == {0}


LINE = "eth1 of bond0 is down (FALLING -> DOWN): 3 of 3 probes lost [..!!!]; usable: eth2"


@pytest.fixture(autouse=True)
def _quiet_root() -> Iterator[None]:
    """Takes the handler off again that a Log puts on the root logger."""
    before = list(logging.getLogger().handlers)
    yield
    logging.getLogger().handlers = before


def test_in_the_log() -> None:
    """A member's transition names bundle and interface, in place of an uplink; to be out is a warning."""
    stream = io.StringIO()
    Log(stream).transition(MEMBER_DOWN, None)
    assert records(stream) == [
        {
            "level": "warning", "event": "member_down", "bundle": "bond0", "interface": "eth1", "from": "FALLING",
            "to": "DOWN", "reason": "3 of 3 probes lost", "evidence": "..!!!", "usable": ["eth2"], "took_ms": None,
        },
    ]  # fmt: skip
    terminal = Terminal()
    Log(terminal).transition(MEMBER_DOWN, None)
    assert terminal.getvalue()[9:] == f"warning {LINE}\n"


def test_under_journald() -> None:
    """journald gets MLBD_BUNDLE and MLBD_INTERFACE, and ids of their own; to be back is worth notice."""
    down, up = journalled(
        "from tests.report.values import MEMBER_DOWN, MEMBER_UP\n"
        "log.transition(MEMBER_DOWN, None); log.transition(MEMBER_UP, 0.001)\n",
        2,
    )
    assert down.pop("MESSAGE_ID") != up["MESSAGE_ID"]
    assert down == {
        "MESSAGE": LINE,
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "mlbd",
        "MLBD_EVENT": "member_down",
        "MLBD_BUNDLE": "bond0",
        "MLBD_INTERFACE": "eth1",
        "MLBD_FROM": "FALLING",
        "MLBD_TO": "DOWN",
        "MLBD_REASON": "3 of 3 probes lost",
        "MLBD_EVIDENCE": "..!!!",
        "MLBD_USABLE": "eth2",
        "MLBD_TOOK_MS": "",
    }
    assert (up["PRIORITY"], up["MLBD_EVENT"]) == ("5", "member_up")


def test_history(tmp_path: Path) -> None:
    """Events of members are kept with bundle and interface in place of an uplink, and read as in the log."""
    path = tmp_path / "events.jsonl"
    history = loaded(path)
    history.add(replace(MEMBER_DOWN, at=time.monotonic()), None)
    history.add(replace(MEMBER_UP, at=time.monotonic()), 0.001)
    assert loaded(path).events == history.events
    first = json.loads(path.read_text().splitlines()[0])
    assert sentence(first)[21:] == LINE
    first.pop("time")
    assert first == {
        **{"event": "member_down", "bundle": "bond0", "interface": "eth1", "from": "FALLING", "to": "DOWN"},
        **{"reason": "3 of 3 probes lost", "evidence": "..!!!", "usable": ["eth2"], "took_ms": None},
    }
