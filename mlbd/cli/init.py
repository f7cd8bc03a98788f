"""`mlbd init`: a configuration made of what this machine has."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from mlbd.cli import DEFAULT_CONFIG
from mlbd.config import ConfigError, parse, values
from mlbd.config.problems import Problem, Unfit
from mlbd.core.draft import Draft, draft
from mlbd.core.settings import Daemon
from mlbd.core.survey import Survey

_MODE = 0o644
"""The daemon runs as a user of its own."""


def init(file: Path | None) -> int:
    """Print it, or write it to a file that does not exist yet.

    Returns the exit status: 0; 1 the kernel or the file system refuses; 2 the file exists; 3 what was written has to be
    completed first, as no uplink was found.
    """
    from mlbd.kernel.survey import survey

    if file is not None and os.path.lexists(file):
        return _say(_exists(file), 2)
    try:
        found = survey(Daemon().protocol, Daemon().table_base)
    except OSError as error:
        return _say(f"the kernel does not tell what there is: {error.strerror or error}", 1)
    made = draft(found, unfit(found))
    status = 0
    problems: tuple[Problem, ...] = ()
    try:
        problems = parse(made.text, "mlbd.toml" if file is None else str(file)).warnings
    except ConfigError as error:
        status = 3
        problems = error.problems if made.uplinks else ()  # else the remarks say it
    for remark in made.remarks:
        _say(remark, 0)
    for problem in problems:
        print(problem, file=sys.stderr)
    data = made.text.encode()  # TOML is UTF-8, whatever the terminal's encoding is
    try:
        if file is None:
            with open(1, "wb", closefd=False) as printed:
                printed.write(data)
        else:
            create(file, data)
            print(f"{file} is written: {_next(made, file)}")
    except FileExistsError:
        return _say(_exists(file), 2)
    except BrokenPipeError:
        raise
    except OSError as error:
        return _say(f"{file or 'the configuration'} cannot be written: {error.strerror or error}", 1)
    return status


def unfit(survey: Survey) -> dict[str, str]:
    """Interfaces that the configuration can't name, each with the reason."""
    found = {}
    for name in (each.name for each in survey.interfaces):
        try:
            name.encode()
            values.interface(name)
        except UnicodeEncodeError:
            found[name] = "its name is not UTF-8 text"
        except Unfit as reason:
            found[name] = reason.hint
    return found


def create(file: Path, data: bytes) -> None:
    """Write a new file as a whole or not at all, its last directory, too, if there is none.

    Raises FileExistsError, which also holds for two that try at the same time, or another OSError.
    """
    if not file.parent.exists():
        file.parent.mkdir()
        file.parent.chmod(0o755)
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=".mlbd-init-") as temporary:
        temporary.write(data)
        temporary.flush()
        os.fchmod(temporary.fileno(), _MODE)
        os.fsync(temporary.fileno())
        os.link(temporary.name, file)  # fails where there is something of this name, as rename(2) does not


def _next(made: Draft, file: Path) -> str:
    if not made.uplinks:
        return "name your uplinks in it."
    named = "" if file.absolute() == DEFAULT_CONFIG else f" -c {file}"
    return f"uplinks {', '.join(made.uplinks)}. Look at it, then `mlbd check{named}` and `mlbd plan{named}`."


def _exists(file: Path | None) -> str:
    return f"{file} exists and stays as it is; give another name, or none to see what would be written"


def _say(text: str, status: int) -> int:
    print(f"mlbd: {text}", file=sys.stderr)
    return status
