from __future__ import annotations

import ast
import fcntl
import io
import json
import logging
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import mlbd
from mlbd.core.status import Event
from mlbd.report.journal import Journal
from mlbd.report.log import Log
from mlbd.report.messages import MESSAGE_IDS
from tests.report.values import DOWN, UP

ROOT = Path(mlbd.__file__).parent


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def records(stream: io.StringIO) -> list[dict[str, object]]:
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    for record in found:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", record.pop("timestamp"))
    return found


def test_transition_as_json() -> None:
    """To a file or pipe a transition is one JSON object with the documented fields."""
    stream = io.StringIO()
    log = Log(stream)
    log.transition(DOWN, 0.0021)
    log.transition(UP, None)
    assert records(stream) == [
        {
            "level": "warning", "event": "uplink_down", "uplink": "lte", "from": "FALLING", "to": "DOWN",
            "reason": "3 of 3 probes lost", "evidence": "..!!!", "usable": ["fiber"], "took_ms": 2.1,
        },
        {
            "level": "info", "event": "uplink_up", "uplink": "lte", "from": "RISING", "to": "UP",
            "reason": "3 good rounds", "evidence": "!!...", "usable": ["fiber", "lte"], "took_ms": None,
        },
    ]  # fmt: skip


def test_on_a_terminal() -> None:
    """On a terminal every record is one line that a person can read, and nothing in it is obeyed by the terminal."""
    stream = Terminal()
    log = Log(stream)
    log.transition(DOWN, 0.0021)
    log.info("configuration reloaded", config="a\n\033[2Jb")
    log.error("could not run", reason="no luck")
    lines = [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in stream.getvalue().splitlines()]
    assert lines == [
        "warning lte is down (FALLING -> DOWN): 3 of 3 probes lost [..!!!]; usable: fiber, took 2.1 ms",
        "info    configuration reloaded (config=a  [2Jb)",
        "error   could not run: no luck",
    ]


def test_refusals() -> None:
    """What the kernel refuses is told once as a warning, once more as an error when it lasts, and that it is over."""
    stream = io.StringIO()
    log = Log(stream)
    for now, errors in enumerate(("", "a", "a", "ab", "ab", "ab", "ab", "", "", "a")):
        log.refused(tuple(errors), float(now))
    assert [(r["level"], r.get("errors")) for r in records(stream)] == [
        ("warning", ["a"]), ("warning", ["a", "b"]), ("error", ["a", "b"]), ("info", None), ("warning", ["a"]),
    ]  # fmt: skip


def test_standard_logging_joins_in() -> None:
    """Warnings and exceptions of the standard library's logging become records of the same form, once each."""
    stream = io.StringIO()
    Log(io.StringIO())
    Log(stream)
    logging.getLogger("asyncio").debug("noise")
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        logging.getLogger("asyncio").exception("a task failed")
    [record] = records(stream)
    assert str(record.pop("exception")).endswith("RuntimeError: boom")
    assert record == {"level": "error", "event": "a task failed", "logger": "asyncio"}


def fields(datagram: bytes) -> dict[str, str]:
    """The native protocol taken apart: `NAME=value`, or NAME, a little-endian length, and a value of many lines."""
    found = {}
    while datagram:
        head, _, rest = datagram.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if equals:
            found[name.decode()], datagram = value.decode(), rest
        else:
            length = int.from_bytes(rest[:8], "little")
            found[name.decode()], datagram = rest[8 : 8 + length].decode(), rest[8 + length + 1 :]
    return found


def journalled(program: str, count: int) -> list[dict[str, str]]:
    """The fields of the records that journald gets from a program with a `log`, which prints nothing."""
    assert os.environ.get("MLBD_PRIVATE_NAMESPACE"), "this test makes journald's socket: run it by `make test`"
    path = Path("/run/systemd/journal/socket")
    path.parent.mkdir(parents=True, exist_ok=True)
    program = (
        "import os; s = os.fstat(2); os.environ['JOURNAL_STREAM'] = f'{s.st_dev}:{s.st_ino}'\n"
        f"from mlbd.report.log import Log; log = Log()\n{program}"
    )
    with (path.parent / "lock").open("w") as lock, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        fcntl.flock(lock, fcntl.LOCK_EX)  # files of tests run side by side, and there is one such place
        journald.bind(str(path))
        journald.settimeout(5)
        try:
            done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
            found = [fields(journald.recv(65536)) for _ in range(count)]
        finally:
            path.unlink()
    assert (done.stdout, done.stderr) == ("", "")
    return found


def test_under_journald() -> None:
    """With stderr connected to journald, records are native fields with an id and a priority, and stderr is silent."""
    down, up, repaired = journalled(
        "from tests.report.values import DOWN, UP\n"
        "log.transition(DOWN, 0.0021); log.transition(UP, None)\n"
        "log.warning('repaired what another program changed', changes=['+ a', '- b'])\n",
        3,
    )
    assert down == {
        "MESSAGE": "lte is down (FALLING -> DOWN): 3 of 3 probes lost [..!!!]; usable: fiber, took 2.1 ms",
        "MESSAGE_ID": MESSAGE_IDS["uplink_down"],
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "mlbd",
        "MLBD_EVENT": "uplink_down",
        "MLBD_UPLINK": "lte",
        "MLBD_FROM": "FALLING",
        "MLBD_TO": "DOWN",
        "MLBD_REASON": "3 of 3 probes lost",
        "MLBD_EVIDENCE": "..!!!",
        "MLBD_USABLE": "fiber",
        "MLBD_TOOK_MS": "2.1",
    }
    assert (up["PRIORITY"], up["MESSAGE_ID"], up["MLBD_USABLE"]) == ("5", MESSAGE_IDS["uplink_up"], "fiber\nlte")
    assert repaired["MLBD_CHANGES"] == "+ a\n- b"


def test_journal_stream_of_another_descriptor() -> None:
    """A JOURNAL_STREAM that was inherited, while stderr now leads elsewhere, does not count."""
    program = "from mlbd.report.log import Log; Log().info('the kernel agrees again')"
    environment = {**os.environ, "JOURNAL_STREAM": "1:2"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert json.loads(done.stderr)["event"] == "the kernel agrees again"


def test_journald_that_does_not_listen(tmp_path: Path) -> None:
    """A journald that is full or gone blocks nothing: records are dropped, and the next one through says how many."""
    path = tmp_path / "socket"
    journal = Journal(str(path))
    journal.send({"MESSAGE": "nobody there"})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(path))
        journald.setblocking(False)
        for number in range(1, 2000):
            journal.send({"MESSAGE": str(number)})
        lost = journal.dropped
        received = []
        while True:
            try:
                received.append(fields(journald.recv(65536)))
            except BlockingIOError:
                break
        assert received[0] == {"MESSAGE": "1", "MLBD_DROPPED": "1"}
        assert len(received) + lost == 1999
        assert lost > 0
        journal.send({"MESSAGE": "after"})
        assert fields(journald.recv(65536)) == {"MESSAGE": "after", "MLBD_DROPPED": str(lost)}
        journal.send({"MESSAGE": "x" * 1_000_000})
        assert fields(journald.recv(65536)) == {"MESSAGE": "x" * 16384}


SPEAKERS = ("daemon.py", "hooks/__init__.py", "report/log.py")


def _kinds(source: str) -> set[str]:
    """Texts that the program hands to info, warning and error of a log."""
    return {
        call.args[0].value
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call)
        and re.search(r"(^|\.)(_?log\.|self\.)(info|warning|error)$", ast.unparse(call.func))
        and call.args
        and isinstance(call.args[0], ast.Constant)
        and isinstance(call.args[0].value, str)
    }


def test_every_kind_has_its_message_id() -> None:
    """Each kind of record that the daemon writes has a MESSAGE_ID, all different and of the form systemd wants."""
    said = {kind for path in SPEAKERS for kind in _kinds((ROOT / path).read_text())}
    said |= set(get_args(Event))
    assert said == set(MESSAGE_IDS)
    assert len(set(MESSAGE_IDS.values())) == len(MESSAGE_IDS)
    assert all(re.fullmatch("[0-9a-f]{32}", i) for i in MESSAGE_IDS.values())


@pytest.fixture(autouse=True)
def _quiet_root() -> object:
    """Takes the handler off again that a Log puts on the root logger."""
    before = list(logging.getLogger().handlers)
    yield
    logging.getLogger().handlers = before
