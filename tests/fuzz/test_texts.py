"""Texts of strangers on their way out: into journald's fields, and into hooks' environments."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest
import structlog

from mlbd.core.status import Transition
from mlbd.hooks import _environments
from mlbd.report.journal import Journal
from mlbd.report.log import _ToJournal
from tests.fuzz.people_input import fields

TEXTS = (
    "a\nMLBD_EVENT=uplink_up", "a\nMESSAGE_ID=0\nPRIORITY=0\n", "\n", "a\0b\0PATH=/tmp", "a\r\nb", "=",
    "a\udcff\x1b[2J", "a\n" + "\x05" + "\0" * 7 + "b",
)  # fmt: skip
"""What would be a field, a variable or an end of one, if it were pasted."""


def transition(text: str) -> Transition:
    return Transition(
        event="uplink_down", uplink="lte", was="UP", now="DOWN", reason=text, evidence="", usable=("a", "b"), at=0.0
    )


@pytest.mark.parametrize("text", TEXTS)
def test_fields(text: str, tmp_path: Path) -> None:
    """journald gets the fields that there are, once each, and a reason exactly as it is, whatever is in it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "socket"))
        record = {"event": "something", "level": "info", "reason": text, "usable": [text, "b"]}
        with contextlib.suppress(structlog.DropEvent):
            _ToJournal(Journal(str(tmp_path / "socket")))(None, "info", record)
        found = fields(end.recv(1 << 16))
    sent = text.encode(errors="replace")
    assert [(name, value) for name, value in found if name != "MESSAGE"] == [
        ("PRIORITY", b"6"), ("SYSLOG_IDENTIFIER", b"mlbd"), ("MLBD_EVENT", b"something"), ("MLBD_REASON", sent),
        ("MLBD_USABLE", sent + b"\nb"),
    ]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_environment(text: str) -> None:
    """A hook has the variables that there are, and the reason in one of them, on one line."""
    (environment,) = _environments(transition(text), "wwan0", "", {4: "dhcp"})
    assert list(environment) == [
        "PATH", "LANG", "IFACE", "LOGICAL", "VERBOSITY",
        "MLBD_UPLINK", "MLBD_BUNDLE", "MLBD_EVENT", "MLBD_REASON", "MLBD_USABLE",
    ]  # fmt: skip
    assert all(value.isprintable() for value in environment.values())
