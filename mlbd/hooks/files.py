"""Which files are hooks, and whether anybody else than root could have put them there."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_NOT_A_NAME = re.compile(r".*\.(dpkg-[a-z]+|bak|disabled)")
_MOST_LINKS = 40
"""As the kernel has it, path_resolution(7)."""


def found(directory: Path, inner: str) -> Iterator[tuple[str, Path, str]]:
    """Name, place and what speaks against it, for the hooks in the directory, then for those in its `inner` one."""
    places = [(directory, ""), (directory / inner, f"{inner}/")] if inner else [(directory, "")]
    for where, prefix in places:
        try:
            names = sorted(entry.name for entry in where.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            yield str(where), where, f"{where} could not be read: {error.strerror}"
            continue
        if problem := exposed(where, listed=True):
            yield str(where), where, problem
            continue
        for name in names:
            path = where / name
            named = _NAME.fullmatch(name) and not _NOT_A_NAME.fullmatch(name)
            if named and path.is_file() and os.access(path, os.X_OK):
                yield prefix + name, path, exposed(path)


def exposed(path: Path, *, listed: bool = False) -> str:
    """Who else than root and this daemon's user could put something else there, in one sentence; "" if nobody.

    Every directory and every link on the way counts. A directory in which everybody may make files but not touch
    others' (sticky) is fine on the way, as what is then found there is looked at, too; but not if it is `listed`.
    Who owns the root directory may do anything anyway; in a user namespace that is nobody in particular.
    """
    trusted = {0, os.geteuid(), Path("/").stat().st_uid}
    here, todo, links = Path("/"), [*reversed(path.absolute().parts)], 0
    while todo:
        name = todo.pop()
        entry = here.parent if name == ".." else here / name
        try:
            there = entry.lstat()
            target = entry.readlink() if stat.S_ISLNK(there.st_mode) else None
        except OSError as error:
            return f"{entry} could not be looked at: {error.strerror}"
        if there.st_uid not in trusted:
            return f"{entry} belongs to the user {there.st_uid}; it must be root's"
        if target is not None:
            links += 1
            if links > _MOST_LINKS:
                return f"{path} has too many symbolic links"
            todo += reversed(target.parts)
            continue
        sticky = stat.S_ISDIR(there.st_mode) and there.st_mode & stat.S_ISVTX and (todo or not listed)
        if there.st_mode & 0o022 and not sticky:
            return f"others than its owner may write to {entry}; take that away by chmod go-w {entry}"
        here = entry
    return ""
