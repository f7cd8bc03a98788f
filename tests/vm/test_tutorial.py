"""docs/tutorial.md, followed word by word: the machine is the bare router, the lab its LAN and its two providers.

A block that begins with `# /PATH` is written there, a `diff` changes mlbd.toml, a `console` is typed. Every line that
the tutorial shows after a command has to be among those that it prints, in which addresses, times, measured values and
what `...` stands for may be others. What a person does with hands stands in comments, `<!-- test: ... -->`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from mlbd.lab.namespaces import LabError, ip_each
from mlbd.lab.traffic import TcpConversation, connect_many
from tests.vm.pair import PATIENCE
from tests.vm.system import CONFIG, PACKAGE, Router, first_namespace, run, wait_until, without_package

TUTORIAL = Path(__file__).parents[2] / "docs/tutorial.md"
UPLINKS = ("eth1", "eth2")
TARGETS = ("9.9.9.9", "1.1.1.1")
COPIED = "the package is copied"
"""The deed that the next block describes: it is typed elsewhere."""
COPY = Path("/tmp/mlbd_0.1.0_amd64.deb")
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")

_STEP = re.compile(r"^<!-- test: (?P<deed>[^\n]+) -->$|^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
_VARIES = re.compile(
    r"(?P<evidence>\[[.!x?]{4,}\])"
    r"|(?P<anything>\.\.\.)"
    r"|(?P<when>\d{4}-\d\d-\d\d +\d\d:\d\d:\d\d)"
    r"|(?P<address>\b\d+\.\d+\.\d+\.\d+\b)"
    r"|(?P<time>\b\d+(?:\.\d+)? ?(?:ms|s|m|h)\b(?: \d+[sm]\b)?)"
    r"|(?P<measured>\b\d+\.\d+\b)"
    r"|(?P<space> +)"
)
_LOOKS = ("ip ", "mlbd status", "mlbd events", "journalctl", "promtool query")
"""Commands that one gives again until they show what one waits for."""


@dataclass(frozen=True, slots=True)
class Step:
    """A deed, or a block of the kind `console`, `diff`, ... with its text."""

    deed: str
    kind: str
    text: str

    @property
    def file(self) -> Path | None:
        """Where the text is to be written."""
        first = self.text.partition("\n")[0]
        return Path(first[2:]) if self.kind != "console" and first.startswith("# /") else None


def steps() -> list[Step]:
    found = [Step(*(m[name] or "" for name in ("deed", "kind", "text"))) for m in _STEP.finditer(TUTORIAL.read_text())]
    assert [step for step in found if not (step.deed or step.file or step.kind in ("console", "diff"))] == []
    return found


def dialogue(console: str) -> Iterator[tuple[str, list[str]]]:
    """Each command with its prompt, and the lines that are shown after it."""
    for part in re.split(r"^(?=[#$] \w)", console, flags=re.M)[1:]:
        command, *shown = part.splitlines()
        yield command, [line for line in shown if line != "..."]


def like(shown: str) -> re.Pattern[str]:
    """What a line may be that the tutorial shows so."""
    found, begin = "", 0
    for match in _VARIES.finditer(shown):
        found += re.escape(shown[begin : match.start()])
        whole = match[0]
        found += {
            "evidence": r"\[[.!x?]+\]",
            "anything": ".*",
            "when": r"\d{4}-\d\d-\d\d +\d\d:\d\d:\d\d",
            "address": r"\d+\.\d+\.\d+\.\d+",
            "time": r"\d+(\.\d+)? ?(ms|s|m|h)( \d+(s|m))?",
            "measured": r"\d+\.\d+",
            "space": " +",
        }[str(match.lastgroup)]
        begin = match.start() + len(whole)
    return re.compile(found + re.escape(shown[begin:]))


def typed(prompt_and_command: str) -> tuple[bool, str]:
    """Whether it succeeds and what it prints, errors too, to root or (`$`) to somebody else who has just logged in."""
    prompt, command = prompt_and_command.split(" ", 1)
    user = [] if prompt == "#" else ["runuser", "-u", "nobody", "--"]
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    done = subprocess.run(
        [*user, "sh", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False, cwd="/", env={"PATH": path, "HOME": "/root", "LANG": "C.UTF-8", "TERM": "dumb"},
    )  # fmt: skip
    return done.returncode == (3 if command == "mlbd plan" else 0), done.stdout


def follow(console: str) -> list[str]:
    """What was otherwise than it is shown."""
    return [complaint for command, shown in dialogue(console) if (complaint := try_out(command, shown))]


def try_out(command: str, shown: list[str]) -> str:
    """What it prints instead; "" if all lines are there."""
    wanted = [like(line) for line in shown]
    printed: list[str] = []

    def fits() -> bool:
        succeeded, text = typed(command)
        printed[:] = text.splitlines()
        return succeeded and all(any(pattern.fullmatch(line.rstrip()) for line in printed) for pattern in wanted)

    fine = fits()
    if not fine and command[2:].startswith(_LOOKS):
        with suppress(LabError):
            wait_until(fits, what="it")
            fine = True
    return "" if fine else "\n".join([command, *shown, "--- but:", *printed, ""])


def change(file: Path, diff: str) -> None:
    """Lines with `-` are there once each; those with `+` take the place of what went before."""
    text = file.read_text()
    for old, new in re.findall(r"((?:^-.*\n)+)((?:^\+.*\n)+)", diff, flags=re.M):
        before, after = (re.sub("^[-+]", "", part, flags=re.M) for part in (old, new))
        assert text.count(f"\n{before}") == 1, f"{before}is not once in\n{text}"
        text = text.replace(f"\n{before}", f"\n{after}")
    file.write_text(text)


def ip(net: Router, where: str, *lines: str) -> None:
    ip_each({net.namespace(where): lines})


@contextmanager
def bare(net: Router) -> Iterator[None]:
    """The router's cards have names and cables, and nothing else yet; the providers have DHCP servers, and the internet
    the targets. In the end everything that the tutorial writes is as before.
    """
    files = {step.file: step.file.read_bytes() if step.file.exists() else None for step in steps() if step.file}
    ip(net, "router", "link set lan1 down", "link set lan1 name eth0")
    for name in ("eth0", *UPLINKS):
        ip(net, "router", f"addr flush dev {name}", f"link set {name} down")
    FORWARDING.write_text("0")
    ip(net, "internet", *(f"route add local {target} dev lo" for target in TARGETS))
    for number in (1, 2):
        # Who has no address yet asks with none, which is a wrong source otherwise.
        net.run(f"isp{number}", ["nft", "insert rule inet provider arrive udp dport 67 accept"])
        gateway = net.uplink(number).gateway
        served = ["--interface=customer", f"--dhcp-range={gateway[:-1]}20,{gateway[:-1]}29", "--port=0"]
        program = ["dnsmasq", "--keep-in-foreground", "--user=root", "--conf-file=/dev/null", "--leasefile-ro"]
        net.spawn(
            f"isp{number}", [*program, f"--pid-file={net.directory}/{number}", *served], stderr=subprocess.DEVNULL
        )
    try:
        yield
    finally:
        subprocess.run(["systemctl", "stop", "prometheus", "mlbd"], check=False, capture_output=True)
        run("dpkg", "--purge", "mlbd")
        run("systemctl", "disable", "--now", "systemd-networkd.socket", "systemd-networkd")
        for file, content in files.items():
            if content is None:
                file.unlink(missing_ok=True)
            else:
                file.write_bytes(content)
        COPY.unlink(missing_ok=True)


class Hands:
    """What a person does beside typing, and watches in the LAN: two connections, one by each provider."""

    def __init__(self, net: Router) -> None:
        self._net = net
        self._open: dict[int, TcpConversation] = {}
        self.deeds: dict[str, Callable[[], None]] = {
            COPIED: self.copy,
            "pull the cable of eth1": self.pull,
            "put the cable of eth1 back in": self.put_back,
        }

    def copy(self) -> None:
        shutil.copy(PACKAGE, COPY)

    def pull(self) -> None:
        assert connect_many(self._net, "lan1", 20, timeout=PATIENCE).keys() == {1, 2}
        for server in range(1, 40):
            found = TcpConversation(self._net, "lan1", server=server, timeout=PATIENCE)
            if found.uplink in self._open:
                found.close()
            else:
                self._open[found.uplink or 0] = found
            if len(self._open) == 2:
                break
        for conversation in self._open.values():
            conversation.say(PATIENCE)
        ip(self._net, "isp1", "link set customer down")

    def put_back(self) -> None:
        """Meanwhile new connections have gone the other way, and so has what was open there."""
        assert connect_many(self._net, "lan1", 10, timeout=PATIENCE) == {2: 10}
        self._open[2].say(PATIENCE)
        with pytest.raises(ConnectionResetError):
            self._open[1].say(PATIENCE)
        ip(self._net, "isp1", "link set customer up")

    def look(self) -> None:
        """At the end: both providers are used, and what was open by the second one still is."""
        assert connect_many(self._net, "lan1", 20, timeout=PATIENCE).keys() == {1, 2}
        self._open[2].say(PATIENCE)
        for conversation in self._open.values():
            conversation.close()


@pytest.fixture(scope="module")
def router() -> Iterator[Router]:
    with first_namespace(), without_package(), Router(2, interfaces=UPLINKS, default_routes=False) as net, bare(net):
        yield net


@pytest.mark.timeout(240)
def test_word_by_word(router: Router) -> None:
    """Who types what the tutorial says, sees what it says: failover, alert and drill on a router that was bare, and
    connections of the LAN by the other provider go on.
    """
    hands = Hands(router)
    elsewhere, wrong = False, list[str]()
    for step in steps():
        if step.deed:
            hands.deeds[step.deed]()
            elsewhere = step.deed == COPIED
        elif elsewhere:
            elsewhere = False
        elif step.file:
            step.file.parent.mkdir(parents=True, exist_ok=True)
            step.file.write_text(step.text)
        elif step.kind == "diff":
            change(CONFIG, step.text)
        else:
            wrong += follow(step.text)
    hands.look()
    assert wrong == [], "\n".join(wrong)
