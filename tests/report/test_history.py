"""The history of transitions and its file."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from mlbd.report.history import Event, History, sentence
from tests.report.values import DOWN, UP


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def loaded(path: Path, bound: int = 1000) -> History:
    history = History(path, bound)
    history.load()
    return history


def numbered(history: History, *numbers: int) -> None:
    for number in numbers:
        history.add(replace(DOWN, reason=str(number)), None)


def reasons(history: History) -> list[int]:
    return [int(event.reason) for event in history.events]


def test_a_restart(path: Path) -> None:
    """Events are there again after a restart, with all that is known of them, by the names of the log."""
    history = loaded(path)
    history.add(replace(DOWN, at=time.monotonic() - 60), 0.0123)
    history.add(replace(UP, at=time.monotonic()), None)
    assert loaded(path).events == history.events
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert abs(first.pop("time") - (time.time() - 60)) < 5
    assert first == {
        **{"event": "uplink_down", "uplink": "lte", "from": "FALLING", "to": "DOWN", "reason": "3 of 3 probes lost"},
        **{"evidence": "..!!!", "usable": ["fiber"], "took_ms": 12.3},
    }
    assert (second["event"], second["took_ms"]) == ("uplink_up", None)
    assert path.stat().st_mode & 0o777 == 0o600


def test_bound(path: Path) -> None:
    """The newest are kept, in memory and in the file, which never has more than twice as many lines."""
    history = loaded(path, 10)
    most = 0
    for number in range(95):
        numbered(history, number)
        most = max(most, len(path.read_text().splitlines()))
    assert (most, reasons(history)) == (20, [*range(85, 95)])
    assert reasons(loaded(path, 10)) == reasons(history)
    assert [entry.name for entry in path.parent.iterdir()] == ["events.jsonl"]


GOOD = Event(
    time=1.5, event="x", uplink="u", was="UP", now="UP", reason="", evidence="", usable=[], took_ms=None
)  # fmt: skip
LINE = (
    '{"time":1.5,"event":"x","uplink":"u","from":"UP","to":"UP","reason":"","evidence":"","usable":[],"took_ms":null}'
)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"{LINE}\n{LINE}\n".encode()[:-20], 1),  # cut short
        (f"{LINE}\nnonsense\n{{}}\n[]\n\n{LINE}\n".encode(), 2),
        (b"\x00" * 5000, 0),
        (b"\xff\xfe\n", 0),
        (b"[" * 100_000 + b"\n", 0),
        (f"{LINE[:-1]}".encode() + b',"more":1}\n', 1),  # of a newer version
        (b'{"time":"soon"}\n', 0),
    ],
)
def test_broken_files(path: Path, caplog: pytest.LogCaptureFixture, text: bytes, kept: int) -> None:
    """Of a file that is broken, what can be read is kept, the file itself is put aside, and that is said once."""
    path.write_bytes(text)
    history = loaded(path)
    assert history.events == [GOOD] * kept
    numbered(history, 7)
    assert loaded(path).events == history.events
    aside = path.with_name("events.jsonl.broken")
    if b"more" in text:
        assert (caplog.messages, aside.exists()) == ([], False)
    else:
        assert (len(caplog.messages), aside.read_bytes()) == (1, text)
        assert str(aside) in caplog.messages[0]


def make_directory(path: Path) -> None:
    path.mkdir()


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_link(path: Path) -> None:
    (path.parent / "precious").write_text("precious")
    path.symlink_to("precious")


def make_no_directory(path: Path) -> None:
    path.parent.rmdir()


@pytest.mark.parametrize("make", [make_directory, make_fifo, make_link, make_no_directory])
def test_foreign_files(path: Path, caplog: pytest.LogCaptureFixture, make: Callable[[Path], None]) -> None:
    """With something else in the file's place, or no place, events are kept in memory; said once, nothing touched."""
    make(path)
    history = loaded(path)
    numbered(history, 1, 2, 3)
    assert reasons(history) == [1, 2, 3]
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("events are kept in memory only, and forgotten when the daemon stops: ")
    if make is make_link:
        assert (path.is_symlink(), path.read_text()) == (True, "precious")


def test_a_full_disk_is_got_over(path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be written, in part or at all, is written with the next event that can be."""
    history = loaded(path)
    numbered(history, 1)
    write = os.write
    full = True

    def half(descriptor: int, data: bytes) -> int:
        if full and len(data) < 20:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[:10] if full else data)

    monkeypatch.setattr(os, "write", half)
    numbered(history, 2, 3, 4)
    full = False
    numbered(history, 5)
    assert reasons(loaded(path)) == reasons(history) == [1, 2, 3, 4, 5]
    assert len([m for m in caplog.messages if "No space left" in m]) == 1


def test_a_file_that_goes_away(path: Path) -> None:
    """A file that somebody removed is made again, with all events."""
    history = loaded(path)
    numbered(history, 1, 2)
    path.unlink()
    numbered(history, 3)
    assert reasons(loaded(path)) == [1, 2, 3]


def test_what_is_no_text(path: Path) -> None:
    """A reason with bytes that were no UTF-8 does not stop anything."""
    history = loaded(path)
    history.add(replace(DOWN, reason="no \udc80"), None)
    assert [event.reason for event in loaded(path).events] == ["no ?"]


def test_a_huge_file(path: Path) -> None:
    """Of a file that grew without bound, its end is read."""
    path.write_bytes((LINE + "\n").encode() * 100_000)
    history = loaded(path)
    assert history.events == [GOOD] * 1000
    numbered(history, 7)
    assert len(path.read_text().splitlines()) == 1000


def test_writing_is_quick(path: Path) -> None:
    """An event costs little, the one with which the file is compacted too."""
    history = loaded(path)
    numbered(history, *range(999))
    took = []
    for number in range(2000):
        began = time.perf_counter()
        numbered(history, number)
        took.append(time.perf_counter() - began)
    assert sorted(took)[1000] < 0.005


def test_following(path: Path) -> None:
    """Who follows gets all there are, then each as it comes; who is slow misses the oldest, and costs nothing."""

    async def story() -> list[list[str]]:
        history = loaded(path, 10)
        numbered(history, 1, 2)
        parts = history.follow()
        got = [await anext(parts)]
        waiting = asyncio.ensure_future(anext(parts))
        await asyncio.sleep(0)
        assert not waiting.done()
        numbered(history, 3)
        got.append(await waiting)
        numbered(history, *range(4, 100))
        got.append(await anext(parts))
        numbered(history, 100)
        got.append(await anext(parts))
        empty = History(path.with_name("none"))
        got.append(await anext(empty.follow()))
        return [[event.reason for event in part] for part in got]

    assert asyncio.run(story()) == [["1", "2"], ["3"], [*map(str, range(90, 100))], ["100"], []]


def test_for_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event is one line in local time, whatever is in it."""
    monkeypatch.setenv("TZ", "UTC-2")
    time.tzset()
    try:
        event = Event(
            time=1_800_000_000.5, event="uplink_down", uplink="lte", was="FALLING", now="DOWN",
            reason="3 of 3 \n\033[2Jlost", evidence="..!!!", usable=["fiber", "cable"], took_ms=1.25,
        )  # fmt: skip
        assert sentence(event) == (
            "2027-01-15 10:00:00  lte is down (FALLING -> DOWN): 3 of 3   [2Jlost [..!!!]; usable: fiber, cable, "
            "took 1.2 ms"
        )
        told = {
            **{"time": 0.0, "event": "uplink_drained", "uplink": "lte", "from": "UP", "to": "UP", "reason": "for 1h"},
            **{"evidence": "", "usable": [], "took_ms": None},
        }
        assert sentence(told) == "1970-01-01 02:00:00  lte is drained: for 1h; usable: none"
    finally:
        monkeypatch.undo()
        time.tzset()
