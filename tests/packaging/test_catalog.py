"""What `journalctl -x` says below each record: packaging/systemd/mlbd.catalog, https://systemd.io/CATALOG/."""

from __future__ import annotations

import ast
import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest

from mlbd.core.status import Event
from mlbd.report.log import Log
from mlbd.report.messages import MESSAGE_IDS
from tests.report.values import DOWN

ROOT = Path(__file__).parents[2]
CATALOG = ROOT / "packaging/systemd/mlbd.catalog"
OPERATIONS = ROOT / "docs/operations.md"
KINDS = {number: kind for kind, number in MESSAGE_IDS.items()}
SHORT = {"MLBD_UPLINK", "MLBD_BUNDLE", "MLBD_INTERFACE", "MLBD_HOOK", "MLBD_COUNT"}
"""Fields that are never long: journalctl does not insert more than 256 bytes."""


@dataclass(frozen=True)
class Entry:
    number: str
    headers: Mapping[str, str]
    body: str

    @property
    def fields(self) -> set[str]:
        return set(re.findall(r"@([A-Z0-9_]+)@", "".join(self.headers.values()) + self.body))


def entries() -> Iterator[Entry]:
    comment, *parts = re.split(r"^-- ", CATALOG.read_text(), flags=re.MULTILINE)
    assert all(line.startswith("#") for line in comment.splitlines() if line)
    for part in parts:
        head, _, body = part.partition("\n\n")
        number, *headers = head.splitlines()
        yield Entry(number, dict(header.split(": ", 1) for header in headers), body)


def written() -> dict[str, set[str]]:
    """By kind of record the fields that each one of it has, as in the journal."""
    stream = io.StringIO()
    Log(stream).transition(DOWN, None)
    common = set(json.loads(stream.getvalue())) - {"timestamp", "level", "event", "uplink"}
    found = {kind: common | ({"uplink"} if "uplink" in kind else {"bundle", "interface"}) for kind in get_args(Event)}
    for name in ("daemon.py", "hooks/__init__.py", "report/log.py"):
        for call in ast.walk(ast.parse((ROOT / "mlbd" / name).read_text())):
            match call:
                case ast.Call(func=ast.Attribute(attr="info" | "warning" | "error"), args=[ast.Constant(str(kind))]):
                    fields = {keyword.arg for keyword in call.keywords if keyword.arg is not None}
                    found[kind] = found.get(kind, fields) & fields
                case _:
                    pass
    return {kind: {f"MLBD_{name.upper()}" for name in fields} for kind, fields in found.items()}


def test_every_kind_is_explained_once() -> None:
    """Each MESSAGE_ID of the daemon has one entry, and there is no entry for any other."""
    numbers = [entry.number for entry in entries()]
    assert sorted(numbers) == sorted(MESSAGE_IDS.values())


def test_form() -> None:
    """Each entry has a subject, who it is of, where to read on, and a text that fits a terminal when indented."""
    for entry in entries():
        assert list(entry.headers) == ["Subject", "Defined-By", "Support", "Documentation"]
        assert entry.headers["Defined-By"] == "mlbd"
        assert entry.body.strip()
        assert [line for line in entry.body.splitlines() if not re.fullmatch(r"|(?!#).{,76}\S", line)] == []
        for document in re.findall(r"file:///usr/share/doc/mlbd/(\S+)", "\n".join(entry.headers.values())):
            assert (ROOT / document).exists()


def test_fields_are_those_of_the_record() -> None:
    """A field that stands in a text is one that every record of that kind has, and never a long one."""
    known = written()
    assert set(known) == set(MESSAGE_IDS)
    wrong = {KINDS[e.number]: e.fields - (known[KINDS[e.number]] & SHORT) for e in entries()}
    assert {kind: fields for kind, fields in wrong.items() if fields} == {}


def test_commands_are_ours() -> None:
    """A command of mlbd that a text names is one that there is."""
    from mlbd.cli import parser

    named = set(re.findall(r'(?:^  |"|; )mlbd ([a-z]+)', CATALOG.read_text(), re.MULTILINE))
    assert {"status", "events", "drain", "check"} <= named
    assert [name for name in sorted(named) if f" {name} " not in " ".join(parser().format_help().split()) + " "] == []


def test_operations_page_has_every_kind() -> None:
    """The table of what the log says has every kind of record, and no others."""
    section = OPERATIONS.read_text().partition("## What the log says")[2].partition("\n## ")[0]
    first = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`([^`]+)`", " ".join(first))) == set(MESSAGE_IDS)


def test_systemd_reads_it(tmp_path: Path) -> None:
    """journalctl makes its database of the catalogue without complaint, and lists every entry by its subject."""
    if shutil.which("journalctl") is None:
        pytest.skip("systemd is not installed; the form is tested all the same")
    place = tmp_path / "usr/lib/systemd/catalog"
    place.mkdir(parents=True)
    shutil.copy(CATALOG, place)
    (tmp_path / "var/lib/systemd/catalog").mkdir(parents=True)
    done = subprocess.run(["journalctl", "--root", tmp_path, "--update-catalog"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run(["journalctl", "--root", tmp_path, "--list-catalog"], capture_output=True, text=True)
    listed = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert listed == {entry.number: f"mlbd: {entry.headers['Subject']}" for entry in entries()}
