"""What people and files say, and texts that go out to where they might mean something."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import socket
import struct
import tempfile
from collections.abc import Iterable
from pathlib import Path

import structlog
from msgspec.structs import replace

from mlbd.config import ConfigError, load, parse
from mlbd.config.schema import TABLES
from mlbd.core.desired import desired
from mlbd.core.layout import NOBODY, assign
from mlbd.core.plan import Change, plan
from mlbd.core.preview import preview
from mlbd.core.question import question
from mlbd.core.settings import Settings
from mlbd.core.state import KernelState, Route, Rule
from mlbd.core.status import Transition
from mlbd.hooks import _environments
from mlbd.kernel import nftext, routes, rules
from mlbd.report.history import History, sentence
from mlbd.report.journal import Journal
from mlbd.report.log import Log, _ToJournal
from tests.core.world import facts

ROOT = Path(__file__).parents[2]
EXAMPLES = tuple(path.read_text() for path in sorted((ROOT / "etc" / "examples").glob("*.toml")))
WORDS = sorted({name for table in TABLES for name in (table.name, *table.names)})
VALUES = (
    *sorted({line.partition(" = ")[2].partition(" #")[0] for text in EXAMPLES for line in text.splitlines()} - {""}),
    '"gateway"', '"auto"', '"none"', '"a"', '"main"', '"192.0.2.1"', '"fe80::1"', '"1s"', '"0s"', '"off"', "[]", "0",
    "-1", "true", "1e400", "nan", "0x" + "f" * 300, "'''\n'''", '"\\u0000"', '"x;y"', '"$(id)"', '"a\\"b"', '"a\\\\b"',
    "[[1, '2'], {}]", "1979-05-27T07:32:00Z", '"!10.0.0.0/8"', '["80", "!443", "1-65535"]', '"0x80000/0xff0000"',
    '"%d"', '"{a}"', '"tcp://192.0.2.1:443"', '"https://example.org/x#204"', '"dns://192.0.2.53/example.org"',
    '"arp:gateway"',
)  # fmt: skip
LINES = sorted({line for text in EXAMPLES for line in text.splitlines() if line and line[0] != "#"})

_directory = tempfile.TemporaryDirectory(prefix="mlbd-fuzz-")
PLACE = Path(_directory.name)


def config(data: bytes) -> None:
    """A file: settings, or problems that are sorted, short and harmless. ConfigError."""
    path = PLACE / "f"
    path.write_bytes(data)
    try:
        problems = load(path).warnings
    except ConfigError as error:
        problems = error.problems
        assert problems
    lines = [problem.line or 0 for problem in problems]
    assert lines == sorted(lines)
    assert all(str(problem).isprintable() and len(str(problem)) < 700 for problem in problems), problems


def transaction(data: bytes) -> None:
    """A configuration that is good can be written: in nft's language, a command a line, and as routes and rules."""
    try:
        settings = parse(data.decode(errors="replace"), "f").settings
    except ConfigError:
        return
    seen = [replace(facts("x", n % 200 + 1, v6=True), name=u.interface) for n, u in enumerate(settings.uplinks)]
    identities = assign(settings, NOBODY)
    decision = preview(settings, identities, {each.name: each for each in seen})
    changes = plan(desired(settings, identities, decision, KernelState()), KernelState())
    nft = [change for change in changes if change.kind not in ("route", "rule", "sysctl")]
    text = nftext.transaction(nft)
    assert {line.split(" ")[0] for line in text.splitlines()} <= {"add", "delete", "flush"}, text
    _encodable(settings, changes)


def _encodable(settings: Settings, changes: Iterable[Change]) -> None:
    for change in changes:
        if isinstance(change.new, Rule):
            rules.encode(change.new, settings.daemon.protocol)
        elif isinstance(change.new, Route):
            try:
                routes.encode(change.new, settings.daemon.protocol)
            except OSError:  # no such device
                continue


_OPTIONS = ("destination", "source", "interface", "protocol", "port", "source_port", "mark")
QUESTIONS = tuple(
    json.dumps(asked).encode()
    for asked in (
        {"destination": "203.0.113.1"},
        {"destination": "203.0.113.1", "source": "192.168.1.2", "interface": "lan1", "protocol": "udp", "port": "53"},
        {"destination": "2001:db8::1", "protocol": "icmp", "mark": "0x10"},
        {"destination": "192.0.2.1", "source": "10.0.0.1", "port": "80", "source_port": "1024"},
    )
)


def asked(data: bytes) -> None:
    """What `mlbd explain` is asked: a packet. ValueError."""
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        fields = {"destination": data.decode(errors="surrogateescape")}
    if not isinstance(fields, dict):
        return
    texts = {key: value for key, value in fields.items() if key in _OPTIONS and isinstance(value, str)}
    with contextlib.suppress(ValueError):
        question(**{"destination": "", **texts}).packet()


EVENTS = b"".join(
    json.dumps(
        {
            "time": 1.7e9, "event": "uplink_down", "uplink": "lte", "from": "UP", "to": "DOWN", "reason": "lost",
            "evidence": "..!!", "usable": ["fiber"], "took_ms": took,
        }
    ).encode() + b"\n"
    for took in (None, 2.1)
)  # fmt: skip


def events(data: bytes) -> None:
    """What an earlier daemon left of `mlbd events`, and how it is told."""
    path = PLACE / "events.jsonl"
    path.write_bytes(data)
    history = History(path)
    complaints = logging.getLogger("mlbd.report.history")
    complaints.disabled = True  # of nearly every input
    try:
        history.load()
    finally:
        complaints.disabled = False
    for event in history.events:
        assert sentence(event).isprintable()
    path.unlink(missing_ok=True)


_journal_path = PLACE / "journal"
_journal_end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
_journal_end.bind(str(_journal_path))
_journal_end.setblocking(False)
_journal = Journal(str(_journal_path))


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def reason(data: bytes) -> None:
    """A text of strangers as the reason of a transition: a line, a field, a variable, and no more than that."""
    text = data.decode(errors="surrogateescape")
    transition = Transition(
        event="uplink_down", uplink="lte", was="UP", now="DOWN", reason=text, evidence="!", usable=("a",), at=0.0
    )
    for environment in _environments(transition, "wwan0", "stop", {4: "dhcp"}):
        assert environment["MLBD_REASON"].isprintable()
        assert all(b"\0" not in os.fsencode(value) for value in environment.values())
    lines, terminal = io.StringIO(), _Terminal()
    Log(lines).transition(transition, None)
    Log(terminal).transition(transition, None)
    (line,) = lines.getvalue().split("\n")[:-1]
    assert json.loads(line)["reason"] == text
    assert terminal.getvalue()[:-1].isprintable()
    _told_to_journal(text)


def _told_to_journal(text: str) -> None:
    record = {"event": "x", "level": "info", "reason": text, "usable": [text, "b"]}
    with contextlib.suppress(structlog.DropEvent):
        _ToJournal(_journal)(None, "info", record)
    sent = text.encode(errors="replace")
    found = fields(_journal_end.recv(1 << 20))
    assert [name for name, _ in found] == [
        "MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "MLBD_EVENT", "MLBD_REASON", "MLBD_USABLE",
    ]  # fmt: skip
    assert dict(found)["MLBD_REASON"] == sent[:16384]


def fields(datagram: bytes) -> list[tuple[str, bytes]]:
    """As journald reads it (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/)."""
    found = []
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack_from("<Q", rest)
            value, rest = rest[8 : 8 + size], rest[9 + size :]
        found.append((name.decode(), value))
        datagram = rest
    return found
