"""Hooks that others than root could have put there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlbd.hooks.files import exposed
from tests.hooks.running import DEGRADED, run, script
from tests.report.values import UP


def test_what_others_could_write_is_refused(directory: Path, tmp_path: Path) -> None:
    """A hook is not run if its file, a directory above it, or a link on the way to it is others' to change."""
    elsewhere = tmp_path / "elsewhere"
    script(elsewhere / "open" / "target", "echo ran")
    (elsewhere / "link").symlink_to("open/target")
    script(directory / "1-good", "echo ran")
    script(directory / "2-group", "echo ran", mode=0o775)
    script(directory / "3-other", "echo ran", mode=0o757)
    (directory / "4-link").symlink_to(elsewhere / "link")
    script(directory / "if-up.d" / "x", "echo ran")
    (directory / "if-up.d").chmod(0o1777)  # sticky does not help: anybody may add a file
    told = run(directory, UP, facts=None)
    assert told.results == ["ok", "refused", "refused", "ok", "refused"]
    (elsewhere / "open").chmod(0o777)
    told = run(directory, DEGRADED)
    assert told.results == ["ok", "refused", "refused", "refused"]
    writable = f"others than its owner may write to {elsewhere}/open; take that away by chmod go-w {elsewhere}/open"
    assert told.failures()["4-link"] == writable
    (elsewhere / "open").chmod(0o755)
    elsewhere.chmod(0o777)  # the first link could be replaced
    assert str(elsewhere) in str(run(directory, DEGRADED).failures()["4-link"])
    elsewhere.chmod(0o1777)  # as /tmp: others can't replace what is ours
    assert run(directory, DEGRADED).results == ["ok", "refused", "refused", "ok"]
    directory.chmod(0o777)
    told = run(directory, DEGRADED)
    assert told.results == ["refused"]


def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    """Links in a circle, and files that went away, are no hooks."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("../" + tmp_path.name + "/a")
    assert "too many symbolic links" in exposed(tmp_path / "a")
    assert "could not be looked at: No such file or directory" in exposed(tmp_path / "c")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_of_another_user(directory: Path) -> None:
    """A hook of another user is refused, and so is a link that another user has put there."""
    hook = script(directory / "his", "echo ran")
    try:
        os.chown(hook, 12345, 0)
    except OSError:
        pytest.skip("there are no other users in this namespace")
    (directory / "link").symlink_to("/bin/true")
    os.chown(directory / "link", 12345, 0, follow_symlinks=False)
    told = run(directory, DEGRADED)
    assert told.results == ["refused", "refused"]
    assert told.failures() == {
        name: f"{directory / name} belongs to the user 12345; it must be root's" for name in ("his", "link")
    }
