"""Hooks as processes: how they begin, how they end, what is seen of them meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

from mlbd.hooks import Hooks
from tests.hooks.running import DEGRADED, LTE, Told, alive, busy, run, script, until_not


def test_process(directory: Path) -> None:
    """A hook has /dev/null, a pipe and nothing else open, leads its own session, is in /, and obeys SIGPIPE."""
    hook = script(directory / "look", "")
    hook.write_text(
        "#!/usr/bin/env python3\nimport os\n"
        "print(sorted(os.listdir('/proc/self/fd')), os.readlink('/proc/self/fd/0'), os.getcwd(),\n"
        "      os.getsid(0) == os.getpid(), os.getpriority(os.PRIO_PROCESS, 0))\n"
    )
    script(directory / "pipe", "kill -PIPE $$; echo it lives on")
    told = run(directory, DEGRADED)
    # 3 is the directory that is listed.
    priority = max(0, os.getpriority(os.PRIO_PROCESS, 0))
    assert told.said("look") == [f"['0', '1', '2', '3'] /dev/null / True {priority}"]
    assert told.said("pipe") == []


def test_failures(directory: Path, tmp_path: Path) -> None:
    """A hook that fails, is killed or can't be started is named with the reason, and the next ones run."""
    script(directory / "1-fails", "echo oh dear >&2; exit 3")
    script(directory / "2-dies", "kill -SEGV $$")
    (directory / "3-text").write_text("no program")
    (directory / "3-text").chmod(0o755)
    script(directory / "4-lost", "").write_text("#!/nonexistent/interpreter\n")
    script(directory / "5-works", "echo fine")
    told = run(directory, DEGRADED)
    assert told.results == ["failed"] * 4 + ["ok"]
    assert told.failures() == {
        "1-fails": "it exited with status 3",
        "2-dies": "it was ended by signal 11, Segmentation fault",
        "3-text": "it could not be started: Exec format error",
        "4-lost": "it could not be started: No such file or directory",
    }
    assert (told.said("1-fails"), told.said("5-works")) == (["oh dear"], ["fine"])


def test_time_limit(directory: Path, tmp_path: Path) -> None:
    """A hook that hangs is killed with its children: what ignores SIGTERM, what is in a session of its own, what has
    cleared its environment; and the next one runs.
    """
    pids = tmp_path / "pids"
    script(
        directory / "1-hangs",
        f"(setsid sleep 300 >/dev/null 2>&1 & echo $! >>{pids})\n(trap '' TERM; exec sleep 300) & echo $! >>{pids}\n"
        f"env -i sleep 300 & echo $! >>{pids}\ntrap '' TERM\nsleep 300\nsleep 300",
    )
    script(directory / "2-next", "echo ran")
    told = run(directory, DEGRADED, limit=0.5)
    assert told.results == ["timeout", "ok"]
    assert told.failures() == {"1-hangs": "it was still running after 0.5 s, and was killed"}
    found = [int(pid) for pid in pids.read_text().split()]
    assert (len(found), [pid for pid in found if alive(pid)]) == (3, [])


def test_politeness(directory: Path) -> None:
    """A hook whose time is up may say goodbye: SIGTERM comes first."""
    script(directory / "polite", 'trap "echo bye; exit 0" TERM; sleep 300 & wait')
    told = run(directory, DEGRADED, limit=0.3)
    assert (told.results, told.said("polite")) == (["timeout"], ["bye"])


def test_background(directory: Path, tmp_path: Path) -> None:
    """What a hook leaves running delays nobody. It is killed when the time is up and it still has the hook's output;
    what has not, as a service, is left alone.
    """
    pids = tmp_path / "pids"
    script(directory / "1", f"sleep 300 & echo $! >>{pids}")
    script(directory / "2", f"sleep 300 >/dev/null 2>&1 & echo $! >>{pids}")
    then: list[bool] = []

    async def until(hooks: Hooks, told: Told) -> None:
        await until_not(lambda: len(told.results) < 2)
        then.extend(alive(int(pid)) for pid in pids.read_text().split())
        await until_not(lambda: busy(hooks))

    told = run(directory, DEGRADED, limit=1.0, until=until)
    mine, detached = (int(pid) for pid in pids.read_text().split())
    try:
        assert (told.results, then, alive(mine), alive(detached)) == (["ok", "ok"], [True, True], False, True)
        assert [(event, fields["hook"]) for event, fields in told.records] == [("a hook left something running", "1")]
    finally:
        os.kill(detached, signal.SIGKILL)


def test_output_is_bounded(directory: Path) -> None:
    """A flood of output, lines without end and bytes of any kind are cut to what a log can bear; the hook may finish,
    and the daemon's event loop goes on.
    """
    script(directory / "1-lines", "seq 100000")
    script(
        directory / "2-long", "head -c 3000000 /dev/zero | tr '\\0' x; echo; printf '\\033[2J\\377\\tend\\n\\n\\nlast'"
    )
    script(directory / "3-fifty", "seq 50")
    gaps: list[float] = []

    async def until(hooks: Hooks, told: Told) -> None:
        while len(told.results) < 3:
            before = time.monotonic()
            await asyncio.sleep(0.001)
            gaps.append(time.monotonic() - before)

    told = run(directory, DEGRADED, until=until)
    assert told.results == ["ok"] * 3
    assert told.said("1-lines") == [*map(str, range(1, 51)), "(more is not logged)"]
    assert told.said("2-long") == ["x" * 500 + "...", " [2J\ufffd end", "last"]
    assert told.said("3-fifty") == [*map(str, range(1, 51))]
    assert sorted(gaps)[len(gaps) * 9 // 10] < 0.05


def test_stop(directory: Path, tmp_path: Path) -> None:
    """When the daemon stops, a hook that is nearly done may finish, and one that hangs is killed with its children."""
    pids = tmp_path / "pids"
    script(directory / "hangs", f"sleep 300 & echo $! >{pids}.new; mv {pids}.new {pids}; wait")

    async def until(_: Hooks, told: Told) -> None:
        await until_not(lambda: not pids.exists())

    told = run(directory, DEGRADED, until=until)
    assert told.results == ["failed"]
    assert told.failures() == {"hangs": "it was killed: the daemon stopped"}
    assert not alive(int(pids.read_text()))
    again = tmp_path / "again"
    script(directory / "hangs", f"touch {again}; sleep 0.3; echo done")

    async def soon(_: Hooks, told: Told) -> None:
        await until_not(lambda: not again.exists())

    told = run(directory, DEGRADED, until=soon)
    assert (told.results, told.said("hangs")) == (["ok"], ["done"])


def test_nothing_is_left_open(directory: Path, tmp_path: Path) -> None:
    """Runs leave no descriptors, no threads and no zombies behind."""
    script(directory / "1", "exit 0")
    script(directory / "2", "(sleep 0.1; echo late) &")
    before: dict[str, Any] = {}

    def there() -> dict[str, Any]:
        children = [p for p in Path("/proc/self/task").glob("*/children") if p.exists()]
        return {
            "fds": len([*Path("/proc/self/fd").iterdir()]),
            "threads": len([*Path("/proc/self/task").iterdir()]),
            "children": "".join(p.read_text() for p in children),
        }

    async def until(hooks: Hooks, told: Told) -> None:
        for count in (2, 20):
            while len(told.results) < count:
                hooks.notify(DEGRADED, LTE, None)
                await until_not(lambda: busy(hooks))
            if count == 2:
                before.update(there())
        assert there() == before
        assert told.said("2") == ["late"] * 10

    run(directory, until=until)
    assert before["children"] == ""
