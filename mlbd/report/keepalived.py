"""Files for keepalived's `track_file`: one for each uplink and policy, with `1` where it carries traffic and else `0`.

keepalived watches their directory by inotify, and moves a router's addresses by what they say. So a file is replaced
in one step, and only by another value. Its time of modification says when that was true last: a file older than the
watchdog time was left by a daemon that hangs or is gone, and is removed, here or by the service (ExecStopPost= of
mlbd.service). For keepalived a missing file says 0.

Nothing here raises, or waits: a file that can't be written is tried again whenever the others are renewed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

STALE = 30.0
"""Seconds; WatchdogSec= of mlbd.service, after which a daemon that hangs is killed."""

_log = logging.getLogger(__name__)


class TrackFiles:
    def __init__(self, directory: Path) -> None:
        """The directory is made when it is needed; its parent must be there."""
        self._directory = directory
        self._values: dict[str, bool | None] = {}
        self._failed = False
        """Something can't be written, and that was said."""

    def show(self, values: Mapping[str, bool | None]) -> None:
        """By name; None: what an earlier daemon left stays, until it is too old. Files of other names go."""
        if values == self._values:
            return
        before, self._values = self._values, dict(values)
        if before.keys() != values.keys():
            self.renew()
            return
        self._write({name: value for name, value in values.items() if value != before[name]})

    def renew(self) -> None:
        """All that is said is true now."""
        self._write(self._values)

    async def run(self, period: float) -> None:
        """Renews them again and again, `period` in seconds, as long as the event loop turns."""
        while True:
            self.renew()
            await asyncio.sleep(period)

    def _write(self, values: Mapping[str, bool | None]) -> None:
        error = None
        try:
            self._directory.mkdir(exist_ok=True)
            self._tidy()
        except OSError as e:
            error = e
        for name, value in values.items():
            try:
                if value is not None:
                    _put(self._directory / name, b"1\n" if value else b"0\n")
            except OSError as e:
                error = error or e
        if error is not None and not self._failed:
            _log.warning(
                "files for keepalived can't be kept in %s, so it may not learn how uplinks are: %s",
                self._directory, error.strerror or error,
            )  # fmt: skip
        self._failed = error is not None

    def _tidy(self) -> None:
        """Removes what nobody vouches for. Directories are not ours. Raises OSError."""
        now = time.time()
        with os.scandir(self._directory) as entries:
            for entry in [e for e in entries if not e.is_dir(follow_symlinks=False)]:
                with contextlib.suppress(FileNotFoundError):
                    kept = entry.name in self._values
                    if kept and self._values[entry.name] is None:
                        # By the clock of the machine, which may have been set meanwhile.
                        kept = abs(now - entry.stat(follow_symlinks=False).st_mtime) <= STALE
                    if not kept:
                        Path(entry.path).unlink()


def _put(path: Path, text: bytes) -> None:
    """Renews the file, or replaces it if it says something else. Raises OSError."""
    if _text(path) == text:
        os.utime(path)
        return
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        try:
            os.write(descriptor, text)
        finally:
            os.close(descriptor)
        new.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise


def _text(path: Path) -> bytes | None:
    """None: whatever is there, it is no file of ours. Does not wait for a pipe."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(descriptor, 16)
    except OSError:
        return None
    finally:
        os.close(descriptor)
