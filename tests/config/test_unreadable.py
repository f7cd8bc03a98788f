"""Files that are not configurations at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlbd.config import ConfigError, load
from tests.config.test_messages import A, messages

SYNTAX = {
    "a = 1\nb = [1,,]": "f:2: not TOML: Invalid value, at column 8",
    "a = 1\n[b": "f:2: not TOML: Expected ']' at the end of a table declaration, at the end of the file",
    "\n\n[b\n\n": "f:3: not TOML: Expected ']' at the end of a table declaration, at column 3",
    "\na = [1,\n\n": "f:2: not TOML: Invalid value, at the end of the file",
    "[a]\n\n[a]": "f:3: not TOML: Cannot declare ('a',) twice, at column 3",
    "\0": "f:1: not TOML: Invalid statement, at column 1",
    "a = " + "[\n" * 5000: "f: arrays or tables nested too deep",
    "# x\n#" + "x" * 1000: "f:2: a line of more than 1000 characters; break it",
}


@pytest.mark.parametrize("text", SYNTAX)
def test_syntax(text: str) -> None:
    """What is not TOML is told with its line."""
    assert messages(text) == [SYNTAX[text]]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A file that is missing, a directory, not text or far too large is a problem, not a traceback."""
    (tmp_path / "latin1").write_bytes(b"# fiber\n# caf\xe9\n")
    (tmp_path / "large").write_bytes(b"#\n" * 200_000)
    expected = {
        "missing": "cannot be read: No such file or directory",
        "": "this is a directory, not a file",
        "latin1": "not UTF-8 text: byte 0xe9",
        "large": "larger than 256 KiB, which no configuration is",
        "latin1/x": "cannot be read: Not a directory",
        "nul\0": "cannot be read: embedded null byte",
    }
    found = {}
    for name in expected:
        with pytest.raises(ConfigError) as caught:
            load(tmp_path / name)
        (problem,) = caught.value.problems
        found[name] = problem.found
        assert (problem.file, problem.line) == (str(tmp_path / name), 2 if name == "latin1" else None)
    assert found == expected


def test_byte_order_mark(tmp_path: Path) -> None:
    """The mark that some editors put before UTF-8 text does no harm."""
    (tmp_path / "f").write_text(A, encoding="utf-8-sig")
    assert [uplink.name for uplink in load(tmp_path / "f").settings.uplinks] == ["a"]
