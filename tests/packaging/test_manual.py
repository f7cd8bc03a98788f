"""The manual pages and the completion that a package has, as `python packaging/manual DIRECTORY` writes them."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from mlbd.cli import parser
from mlbd.config.schema import TABLES
from tests.report.values import STATUS

ROOT = Path(__file__).parents[2]
PAGES = ("mlbd.8", "mlbd.toml.5")
SCRIPTS = ("mlbd.bash", "_mlbd", "mlbd.fish")
EXAMPLE = ROOT / "etc/examples/two-uplinks.toml"


def generate(directory: Path) -> None:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, ROOT / "packaging/manual", directory], check=True, env=environment)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("manual")
    generate(directory)
    return directory


def shown(page: Path) -> str:
    """What a reader sees, without line breaks."""
    text = subprocess.run(["mandoc", "-T", "utf8", page], capture_output=True, text=True, check=True).stdout
    return " ".join(re.sub(".\b", "", text).split())


def plain(markdown: str) -> str:
    """Markdown without its signs, as `shown` shows it."""
    return " ".join(re.sub(r"\[([^]]*)\]\([^)#]*#[^)]*\)|`", r"\1", markdown).split())


def commands() -> Mapping[str, argparse.ArgumentParser]:
    (found,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(found.choices)


def test_same_again(made: Path, tmp_path: Path) -> None:
    """The same sources make the same files, byte for byte, and no others."""
    generate(tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(files) == {*PAGES, *SCRIPTS}
    assert files == {path.name: path.read_bytes() for path in made.iterdir()}


@pytest.mark.parametrize("page", PAGES)
def test_no_warnings(made: Path, page: str) -> None:
    """mandoc finds nothing to complain of in the pages."""
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", made / page], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_commands_are_told(made: Path) -> None:
    """Every command with its usage, every option and every help text of the parser is in mlbd(8)."""
    text = shown(made / "mlbd.8")
    for command in commands().values():
        usage = " ".join(command.format_usage().split()).removeprefix("usage: ").replace(" [-h]", "")
        assert text.count(usage) >= 2, "in the synopsis, and where it is explained"
        assert str(command.description) in text
        for action in command._actions:
            assert (action.help or "") % vars(action) in text
            assert all(option in text for option in action.option_strings)


def test_keys_are_told(made: Path) -> None:
    """Every key of the configuration is in mlbd.toml(5), with what it takes and what it means."""
    text = shown(made / "mlbd.toml.5")
    for table in (table for each in TABLES for table in (each, *each.below)):
        for key in table.keys:
            # Of a link that leads out of the page, the address is shown as well.
            meaning = plain(re.split(r"[;.] [Ss]ee \[[^]]*\]\((?!#)", key.explanation)[0])
            assert re.search(rf" {key.name} {re.escape(meaning)}.*? Value: .*?{re.escape(key.expected)}", text), (
                key.name
            )


def test_what_is_named_is_there(made: Path) -> None:
    """Documents and examples that the pages name are those that the package has."""
    texts = "".join(shown(made / page) for page in PAGES)
    named = set(re.findall(r"/usr/share/doc/mlbd/([\w./-]*\w)", texts))
    assert {"mlbd.toml", "examples/two-uplinks.toml", "docs/operations.md", "docs/schemes/bonds.md"} <= named
    assert [name for name in sorted(named) if not ((ROOT / name).exists() or (ROOT / "etc" / name).exists())] == []


def test_names_for_apropos(made: Path) -> None:
    """The pages begin as whatis(1) and apropos(1) need it: the name, and one line about it."""
    begin = [(made / page).read_text().split('.SH "NAME"\n')[1].split("\n")[0] for page in PAGES]
    assert begin == [
        "mlbd \\- keeps a Linux router with several uplinks working",
        "mlbd.toml \\- configuration of mlbd",
    ]


def test_text_is_not_taken_for_roff(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever a document says is text: dots at the beginning of lines, backslashes, quotes and other scripts."""
    monkeypatch.syspath_prepend(str(ROOT / "packaging/manual"))
    roff = importlib.import_module("roff")
    document = "## A \"b\" \\n\n\ntext\n.so /etc/passwd\n'br `-x \\fB 'y'` 5 µs\n\n```\n.PP\n\\*[x]\n```\n\n- `.TH`\n"
    page = tmp_path / "page.7"
    page.write_text(roff.page("page", 7, "2023-11-14", "mlbd", "Tests", document))
    assert page.read_text().isascii()
    assert "A \"B\" \\N text .so /etc/passwd 'br -x \\fB 'y' 5 µs .PP \\*[x] • .TH" in shown(page)


def test_what_has_no_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """A document that says something in a way for which there is no rule makes no page that lacks it."""
    monkeypatch.syspath_prepend(str(ROOT / "packaging/manual"))
    roff = importlib.import_module("roff")
    with pytest.raises(ValueError, match="line 3: no rule for blockquote_open"):
        roff.page("page", 7, "2023-11-14", "mlbd", "Tests", "text\n\n> quoted\n")
    with pytest.raises(ValueError, match="no rule for image"):
        roff.page("page", 7, "2023-11-14", "mlbd", "Tests", "![picture](x.png)\n")


def complete(made: Path, words: list[str], programs: Path, directory: Path) -> list[str]:
    """What bash offers for the last of the words, where only `programs` has an mlbd."""
    script = (
        f"source {made / 'mlbd.bash'}\n"
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))\n'
        '"$(complete -p mlbd | sed "s/.*-F \\([^ ]*\\).*/\\1/")"\n'
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", *words], cwd=directory,
        env={"PATH": f"{programs}:/usr/bin:/bin"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return sorted(done.stdout.split())


@pytest.fixture
def silent(tmp_path: Path) -> Path:
    """A directory with an mlbd that finds no daemon."""
    return program(tmp_path, "echo 'mlbd: no daemon answers' >&2; exit 1")


def program(tmp_path: Path, does: str) -> Path:
    directory = tmp_path / "bin"
    directory.mkdir()
    (directory / "mlbd").write_text(f"#!/bin/sh\n{does}\n")
    (directory / "mlbd").chmod(0o755)
    return directory


def test_completes_commands_and_options(made: Path, silent: Path, tmp_path: Path) -> None:
    """bash completes commands, the options of each, values of which there are few, and names of files."""
    (tmp_path / "mine.toml").touch()

    def offered(*words: str) -> list[str]:
        return complete(made, ["mlbd", *words], silent, tmp_path)

    assert offered("") == sorted(commands())
    assert offered("dr") == ["drain", "drill"]
    for name, command in commands().items():
        options = sorted(option for action in command._actions for option in action.option_strings)
        assert offered(name, "-") == options
    assert offered("demo", "--fault", "") == ["carrier", "flap", "silent"]
    assert offered("status", "-c", "m") == ["mine.toml"]
    assert offered("check", "m") == ["mine.toml"]
    assert offered("drain", "--for", "1h", "--conf") == ["--config"]


@pytest.mark.parametrize("command", ["drain", "resume", "drill"])
def test_completes_uplinks_of_the_file(made: Path, silent: Path, tmp_path: Path, command: str) -> None:
    """Without a daemon that answers, uplinks are offered that the configuration named on the line has."""
    before = ["mlbd", command, "-c", str(EXAMPLE)]
    assert complete(made, [*before, ""], silent, tmp_path) == ["cable", "fiber"]
    if command != "resume":
        before += ["--for", "1h"]
    assert complete(made, [*before, "f"], silent, tmp_path) == ["fiber"]
    assert complete(made, ["mlbd", command, "-c", "missing.toml", ""], silent, tmp_path) == []


def test_only_uplinks_of_the_file(made: Path, silent: Path, tmp_path: Path) -> None:
    """Names of policies, rules and bundles are not offered, nor is what stands in a comment."""
    text = (
        '#[[uplink]]\n#name = "old"\n[[uplink]] # here\n  interface = "x"\n\tname="a-1" # "b"\n'
        "[uplink.probe]\nfall = 3\n[[ uplink ]]\nname = 'c'\n"
        '[[policy]]\nname = "p"\n[[rule]]\nname = "r"\n[[bond]]\nname = "bond0"\n'
    )
    (tmp_path / "mine.toml").write_text(text)
    assert complete(made, ["mlbd", "drain", "-c", "mine.toml", ""], silent, tmp_path) == ["a-1", "c"]


def test_completes_uplinks_of_the_daemon(made: Path, tmp_path: Path) -> None:
    """A daemon that runs is asked, by the configuration named on the line; it is it that will drain."""
    (tmp_path / "status.json").write_text(json.dumps(msgspec.to_builtins(STATUS)))
    (tmp_path / "mine.toml").write_text('[[uplink]]\nname = "other"\ninterface = "x"\n')
    running = program(tmp_path, '[ "$*" = "status --json -c mine.toml" ] && cat status.json')
    assert complete(made, ["mlbd", "drain", "-c", "mine.toml", ""], running, tmp_path) == ["fiber", "lte"]


def test_daemon_that_hangs(made: Path, tmp_path: Path) -> None:
    """Nobody waits at a prompt for a daemon that does not answer."""
    hanging = program(tmp_path, "exec sleep 60")
    assert complete(made, ["mlbd", "drain", "-c", str(EXAMPLE), ""], hanging, tmp_path) == ["cable", "fiber"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_other_shells_ask_the_same(made: Path, script: str) -> None:
    """The scripts for zsh and fish have every command, and ask for uplinks as the one for bash does."""
    text = (made / script).read_text()
    assert [name for name in commands() if not re.search(rf"\b{name}\b", text)] == []
    asking = re.findall(r"^.*_mlbd_uplinks.*$", text, re.MULTILINE)
    assert len(asking) == 4, "the function, and in three commands"
    assert "timeout 1 mlbd status --json" in text
