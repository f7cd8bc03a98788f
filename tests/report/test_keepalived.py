"""The files for keepalived's track_file."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mlbd.report.keepalived import STALE, TrackFiles

ROOT = Path(__file__).parents[2]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Of the files; it is not there yet."""
    return tmp_path / "keepalived"


def said(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}


def left(directory: Path, **texts: str) -> None:
    """Files of an earlier daemon, renewed a moment ago."""
    directory.mkdir(exist_ok=True)
    for name, text in texts.items():
        (directory / name).write_text(text)


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def test_values(directory: Path) -> None:
    """One file for each name: 1 for what carries traffic, 0 for what does not, none for what is not known."""
    TrackFiles(directory).show({"fiber": True, "lte": False, "cable": None, "balanced": True})
    assert said(directory) == {"fiber": "1\n", "lte": "0\n", "balanced": "1\n"}


def test_only_changes_are_written(directory: Path) -> None:
    """A file is the same one until its value changes, also over a restart."""
    files = TrackFiles(directory)
    files.show({"fiber": True, "lte": True})
    before = {name: (directory / name).stat().st_ino for name in ("fiber", "lte")}
    files.show({"fiber": True, "lte": False})
    files.renew()
    TrackFiles(directory).show({"fiber": True, "lte": False})
    assert (directory / "fiber").stat().st_ino == before["fiber"]
    assert (directory / "lte").stat().st_ino != before["lte"]
    assert said(directory) == {"fiber": "1\n", "lte": "0\n"}


def test_never_half_written(directory: Path) -> None:
    """Whoever reads finds one value or the other, whole, at any moment."""
    files, done, seen = TrackFiles(directory), threading.Event(), set()
    files.show({"fiber": True})

    def read() -> None:
        while not done.is_set():
            seen.add((directory / "fiber").read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(2000):
        files.show({"fiber": number % 2 == 0})
    done.set()
    reader.join()
    assert seen == {b"0\n", b"1\n"}
    assert [path.name for path in directory.iterdir()] == ["fiber"]


def test_before_a_verdict(directory: Path) -> None:
    """What an earlier daemon left stays as it is before there is a verdict, and is not renewed."""
    left(directory, fiber="1\n", lte="0\n")
    age(directory / "fiber", 10)
    before = (directory / "fiber").stat()
    files = TrackFiles(directory)
    files.show({"fiber": None, "lte": None})
    files.renew()
    after = (directory / "fiber").stat()
    assert (said(directory), after.st_ino, after.st_mtime) == (
        {"fiber": "1\n", "lte": "0\n"}, before.st_ino, before.st_mtime,
    )  # fmt: skip


@pytest.mark.parametrize("seconds", [STALE + 1, -STALE - 1])
def test_stale(directory: Path, seconds: float) -> None:
    """What is older than the watchdog time is removed, at the start and while there is no verdict; so is what is of the
    future, because the clock was set.
    """
    left(directory, fiber="1\n", lte="1\n")
    age(directory / "fiber", seconds)
    files = TrackFiles(directory)
    files.show({"fiber": None, "lte": None})
    assert said(directory) == {"lte": "1\n"}
    age(directory / "lte", seconds)
    files.renew()
    assert said(directory) == {}


def test_watchdog_time() -> None:
    """What the program takes for too old is what the service does: the watchdog's time."""
    unit = (ROOT / "packaging/systemd/mlbd.service").read_text()
    assert re.findall(r"^WatchdogSec=(\d+)$", unit, re.MULTILINE) == [f"{STALE:g}"]
    assert re.findall(r"-newermt -(\d+)sec", unit) == [f"{STALE:g}"]


def test_renewed(directory: Path) -> None:
    """As long as the event loop turns, files are as new as the last turn; one that somebody changed or deleted is put
    right, and so is the directory.
    """
    files = TrackFiles(directory)
    files.show({"fiber": True, "lte": True, "cable": False, "balanced": True})

    async def go() -> None:
        task = asyncio.create_task(files.run(0.02))
        age(directory / "fiber", 60)
        (directory / "lte").write_text("0\n")
        (directory / "cable").unlink()
        (directory / "balanced").unlink()
        os.mkfifo(directory / "balanced")
        await asyncio.sleep(0.05)
        assert time.time() - (directory / "fiber").stat().st_mtime < 5
        assert said(directory) == {"fiber": "1\n", "lte": "1\n", "cable": "0\n", "balanced": "1\n"}
        shutil.rmtree(directory)
        await asyncio.sleep(0.05)
        task.cancel()

    asyncio.run(go())
    assert said(directory) == {"fiber": "1\n", "lte": "1\n", "cable": "0\n", "balanced": "1\n"}


def test_removed_names(directory: Path) -> None:
    """Names that are not configured any more go at once, at the start and on a reload; directories are not ours."""
    left(directory, old="1\n", fiber="1\n")
    left(directory, **{".fiber.new": ""})
    (directory / "kept").mkdir()
    files = TrackFiles(directory)
    files.show({"fiber": None})
    assert {path.name for path in directory.iterdir()} == {"fiber", "kept"}
    files.show({"fiber": True})
    files.show({"glass": None})
    assert [path.name for path in directory.iterdir()] == ["kept"]
    files.show({"glass": True})
    (directory / "kept").rmdir()
    assert said(directory) == {"glass": "1\n"}


def test_many(directory: Path) -> None:
    """A hundred uplinks cost no more than some milliseconds every few seconds."""
    files = TrackFiles(directory)
    files.show({f"uplink{n}": n % 2 == 0 for n in range(100)})
    began = time.process_time()
    for _ in range(20):
        files.renew()
    assert (time.process_time() - began) / 20 < 0.05
    assert len(said(directory)) == 100


def nothing(directory: Path) -> Callable[[], object]:
    directory.parent.rename(directory.parent.with_name("gone"))
    return lambda: directory.parent.with_name("gone").rename(directory.parent)


def a_file(directory: Path) -> Callable[[], object]:
    directory.write_text("")
    return directory.unlink


def a_directory_instead(directory: Path) -> Callable[[], object]:
    (directory / "lte").mkdir(parents=True)
    return (directory / "lte").rmdir


@pytest.mark.parametrize("broken", [nothing, a_file, a_directory_instead])
def test_cannot_be_written(
    directory: Path, broken: Callable[[Path], Callable[[], object]], caplog: pytest.LogCaptureFixture
) -> None:
    """What can't be written is said once, tried again, and costs no other file; so is the next failure."""
    for _ in range(2):
        repair = broken(directory)
        files = TrackFiles(directory)
        files.show({"fiber": True, "lte": True})
        files.show({"fiber": False, "lte": False})
        files.renew()
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert f"can't be kept in {directory}" in caplog.text
        caplog.clear()
        repair()
        files.renew()
        assert said(directory) == {"fiber": "0\n", "lte": "0\n"}
        shutil.rmtree(directory)
    assert caplog.records == []


def test_disk_full(directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """On a disk that is full the old file stays, whole and alone; the new one is written when there is room."""
    files = TrackFiles(directory)
    files.show({"fiber": True})

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("mlbd.report.keepalived.os.write", full)
        files.show({"fiber": False})
        assert said(directory) == {"fiber": "1\n"}
        assert "No space left on device" in caplog.text
    files.renew()
    assert said(directory) == {"fiber": "0\n"}


def test_without_rights(directory: Path) -> None:
    """Who may not write there is told so, and nothing more happens."""
    directory.mkdir(mode=0o555)
    program = (
        "import sys\nfrom pathlib import Path\nfrom mlbd.report.keepalived import TrackFiles\n"
        "files = TrackFiles(Path(sys.argv[1]))\nfiles.show({'fiber': True})\nfiles.renew()\n"
    )
    command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    command += [sys.executable, "-c", program, str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, len(done.stderr.splitlines()), "Permission denied" in done.stderr) == (0, 1, True)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o555
    assert said(directory) == {}
