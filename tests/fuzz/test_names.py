"""Names of interfaces, which may hold nearly every character: they work from the file to the packet, or are refused."""

from __future__ import annotations

import json
import string
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mlbd.config import ConfigError, parse
from mlbd.config.problems import Unfit
from mlbd.config.values import any_interface
from mlbd.core.plan import Change
from mlbd.core.state import Chain, Saved, Statement
from mlbd.kernel.libnftables import LibNftables
from mlbd.kernel.nftext import transaction
from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network
from mlbd.lab.traffic import connect_many
from tests.lab.scene import QUICK, mlbd, usable, wait_usable

pytestmark = pytest.mark.lab

LETTERS = [*(set(string.printable) - {*string.ascii_letters[1:], *string.digits[1:]}), "\0", "\x7f", "é", "à", "\xa0"]
ODD = ("$(id);{x}`id`", "a,b=@|&<é>!~")

REFUSED = {
    "": "Linux takes names of 1 to 15 bytes, this has 0",
    "sixteen-letters.": "Linux takes names of 1 to 15 bytes, this has 16",
    'wan"1': 'nftables cannot express `"` in the name of an interface',
    "a\\b": "nftables cannot express `\\` in the name of an interface",
    "wan*": "nftables cannot express `*` in the name of an interface",
    "a\x1bb": "nftables cannot express control characters in the name of an interface",
    "a\0b": "nftables cannot express control characters in the name of an interface",
    "a\nb": "Linux takes no white space in the name of an interface",
    "a\u2003b": "Linux takes no white space in the name of an interface",
    "a\xa0b": "Linux takes no letter with the byte 0xa0 in the name of an interface",
    "voilà": "Linux takes no letter with the byte 0xa0 in the name of an interface",
    "wan%d": "Linux takes no `%` in the name of an interface",
    "wan0:1": "Linux takes no `:` in the name of an interface",
    "../eth0": "Linux takes no `/` in the name of an interface",
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    """What Linux or nftables cannot take is refused with the reason, as an uplink's interface and as a rule's."""
    written = json.dumps(name)
    text = f"""[[uplink]]
name = "a"
interface = {written}

[[rule]]
name = "r"
interface = {written}
use = "a"
"""
    with pytest.raises(ConfigError) as caught:
        parse(text, "f")
    assert [(problem.key, problem.hint) for problem in caught.value.problems] == [
        ("uplink[0].interface", REFUSED[name]),
        ("rule[0].interface", REFUSED[name]),
    ]


def test_letters() -> None:
    """Of every letter: Linux takes what the configuration takes, which is all that Linux takes but `"`, `\\` and `*`;
    and nftables takes it literally.
    """
    taken = set()
    for letter in LETTERS:
        name = f"m{letter}x"
        try:
            any_interface(name)
        except Unfit:
            continue
        taken.add(letter)
    assert {letter for letter in LETTERS if _linux_takes(f"m{letter}x")} - taken == {'"', "\\", "*"} | _CONTROL
    assert all(_linux_takes(f"n{letter}x") for letter in taken)
    names = [f"m{letter}x" for letter in sorted(taken)]
    rule = Statement.of("iifname { " + ", ".join(f'"{name}"' for name in names) + " } accept")
    chain = Chain("odd", None, (rule,))
    saved = [Saved(name, (("arp_filter", "0"),)) for name in names]
    nft = LibNftables()
    nft.run(transaction([Change(None, chain), *(Change(None, each) for each in saved)]))
    listed = subprocess.run(["nft", "list", "table", "inet", "mlbd"], capture_output=True, text=True, check=True).stdout
    nft.run("delete table inet mlbd")
    nft.close()
    assert [name for name in names if listed.count(f'"{name}"') != 2] == []


_CONTROL = {"\x7f"}


def _linux_takes(name: str) -> bool:
    """Asked of the kernel."""
    if "\0" in name:
        return False
    made = subprocess.run(
        ["ip", "link", "add", name, "type", "veth", "peer", "name", "p"], stderr=subprocess.PIPE, check=False
    )
    if made.returncode == 0:
        subprocess.run(["ip", "link", "del", "p"], check=True)
    return made.returncode == 0


@pytest.fixture(scope="module")
def odd() -> Iterator[tuple[Network, Daemon]]:
    with Network(2, interfaces=ODD) as net:
        net.serve("lan1")
        tables = (
            f'[[uplink]]\nname = "{name}"\ninterface = "{interface}"\nnat6 = "masquerade"\n\n'
            for name, interface in zip(("one", "two"), ODD, strict=True)
        )
        with Daemon(net, "".join(tables) + QUICK) as daemon:
            wait_usable(daemon, "one", "two")
            yield net, daemon
            assert "Traceback" not in daemon.log_text()
            assert [net.wrong_source(1), net.wrong_source(2)] == [0, 0]


def test_end_to_end(odd: tuple[Network, Daemon]) -> None:
    """Uplinks on interfaces with such names carry connections, fail over and come back; nothing is run by a shell."""
    net, daemon = odd
    hooks = daemon.directory / "hooks.d"
    hooks.mkdir()
    told = daemon.directory / "told"
    hook = hooks / "tell"
    hook.write_text(f'#!/bin/sh\nprintf "%s\\n" "$IFACE" >>{told}\n')
    hook.chmod(0o755)
    assert set(connect_many(net, "lan1", 40)) == {1, 2}
    assert set(connect_many(net, "lan1", 40, family=6)) == {1, 2}
    net.silence(1, gateway=True)
    wait_usable(daemon, "two")
    assert set(connect_many(net, "lan1", 20)) == {2}
    net.speak(1)
    wait_usable(daemon, "one", "two")
    daemon.wait_for(lambda _: told.exists() and told.read_text().count(ODD[0]) >= 2, what="that the hooks have run")
    assert set(told.read_text().splitlines()) == {ODD[0]}


def _names(device: str, status: dict[str, Any]) -> bool:
    return any(device in warning for warning in status["warnings"])


def test_of_others(odd: tuple[Network, Daemon]) -> None:
    """Other interfaces' names, also such as no text is, break neither the daemon nor what it tells of them."""
    net, daemon = odd
    before = daemon.pid
    for number, name in enumerate((b"{x}", b"\xff\xfe", b'q"\\')):
        route = [b"default" if number else b"0.0.0.0/1", b"dev", name, b"table", b"777" if number else b"main"]
        with net.inside("router"):
            subprocess.run([b"ip", b"link", b"add", name, b"type", b"veth", b"peer", b"name", b"peer"], check=True)
            subprocess.run([b"ip", b"link", b"set", name, b"up"], check=True)
            subprocess.run([b"ip", b"link", b"set", b"peer", b"up"], check=True)
            subprocess.run([b"ip", b"route", b"add", *route], check=True)
            if number:
                subprocess.run(["ip", "rule", "add", "priority", "50", "table", "777"], check=True)
        shown = {0: "{x}", 1: "??", 2: 'q"\\'}[number]
        named = partial(_names, f"dev {shown}")
        daemon.wait_for(named, what=f"that a warning names {shown}")
        assert mlbd(net, "status", "-c", str(daemon.file)).returncode == 0
        with net.inside("router"):
            subprocess.run([b"ip", b"link", b"del", name], check=True)
            subprocess.run(["ip", "rule", "del", "priority", "50"], check=False, capture_output=True)
    daemon.wait_for(lambda status: usable(status) == ["one", "two"], what="that all is as before")
    assert daemon.pid == before
    assert Path(f"/proc/{before}").exists()
