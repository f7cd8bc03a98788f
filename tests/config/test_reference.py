"""The schema, the reference configuration and the documentation say the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from mlbd.config import ConfigError, parse
from mlbd.config.keys import Absent
from mlbd.config.reference import renewed
from mlbd.config.schema import TABLES

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "etc/mlbd.toml").read_text()
DOCUMENT = (ROOT / "docs/configuration.md").read_text()

KNOWN = {table.name: table for each in TABLES for table in (each, *each.below)}
"""All tables, also those inside others."""

DEFAULTS = "\n".join(line.removeprefix("#") for line in REFERENCE.split("\n") if not line.startswith("# "))
"""The reference configuration with every default set."""


def shown() -> dict[str, dict[str, Any]]:
    """The keys of the reference configuration by table."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in tomllib.loads(DEFAULTS).items():
        for table in value if isinstance(value, list) else [value]:
            if "degrade" in table:
                found["degrade"] = table["degrade"]
            if name == "teql":
                (found["member"],) = table["members"]
            plain = {key: item for key, item in table.items() if key not in ("probe", "degrade")}
            order = [key.name for key in KNOWN[name].keys]
            assert sorted(plain, key=order.index) == list(plain)
            merged = plain | found.get(name, {})
            found[name] = {key: merged[key] for key in order if key in merged}
    return found


def test_reference_has_every_key() -> None:
    """Every key of the schema stands in etc/mlbd.toml, in the schema's order, and nothing else does."""
    assert {name: list(keys) for name, keys in shown().items()} == {
        table.name: [key.name for key in table.keys] for table in KNOWN.values()
    }


def test_reference_shows_defaults() -> None:
    """What etc/mlbd.toml shows behind a "#" is the default."""
    table, wrong = "", []
    for line in REFERENCE.split("\n"):
        if heading := re.match(r"#?\[+([a-z.]+)\]", line):
            table = heading[1].rpartition(".")[2]
        elif line.startswith("#") and not line.startswith(("# ", "#[")) and line != "#":
            ((name, value),) = tomllib.loads(line[1:]).items()
            key = KNOWN[table].key(name)
            if not isinstance(key.default, Absent) and (key.default, type(key.default)) != (value, type(value)):
                wrong.append(line)
    assert wrong == []


def test_reference_means_the_defaults() -> None:
    """Taking away every "#" of etc/mlbd.toml changes nothing but what is shown besides defaults, and is right."""
    without = DEFAULTS.replace("\nid = 1 ", "\n# id = 1 ")
    assert without != DEFAULTS
    loaded = parse(without, "f")
    assert [rule.name for rule in loaded.settings.rules] == ["web"]
    assert list(loaded.settings.bundles) == ["bond0", "bond1", "bond2", "teql0"]
    plain = replace(loaded.settings, rules=(), bonds=(), teqls=())
    assert (plain, loaded.warnings) == (parse(REFERENCE, "f").settings, ())


def test_tables_of_the_documentation() -> None:
    """The tables in docs/configuration.md are the schema's: `python -m mlbd.config.reference FILE` renews them."""
    assert renewed(DOCUMENT) == DOCUMENT
    assert re.findall(r"<!-- keys: (\w+) -->\n\| key", DOCUMENT) == [
        "uplink", "probe", "degrade", "policy", "rule", "conntrack", "bond", "teql", "member", "daemon",
    ]  # fmt: skip


def test_examples_of_the_documentation() -> None:
    """The pieces of configuration in docs/configuration.md, one after the other, are a right configuration."""
    pieces = re.findall(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL)
    loaded = parse("".join(pieces), "f")
    assert ([uplink.name for uplink in loaded.settings.uplinks], loaded.warnings) == (["fiber", "cable", "lte"], ())
    assert loaded.settings.bundles == {"bond0": ("eth4", "eth5"), "teql0": ("eth6", "eth7")}


def test_messages_of_the_documentation() -> None:
    """The errors that docs/configuration.md shows are what a person would see."""
    text = '# mistakes\n[[uplink]]\nname = "a"\ninterface = "eth1"\nweight = 300\nwieght = 3\n'
    with pytest.raises(ConfigError) as caught:
        parse(text, "/etc/mlbd/mlbd.toml")
    assert f"```\n{caught.value}\n```" in DOCUMENT


def test_every_key_is_explained_in_sentences() -> None:
    """An explanation begins like a sentence and ends like one, and what is expected completes one."""
    keys = [key for table in KNOWN.values() for key in table.keys]
    assert [key.name for key in keys if not re.fullmatch(r"[A-Z`].*\.", key.explanation)] == []
    assert [key.name for key in keys if not key.expected or key.expected.endswith(".")] == []
