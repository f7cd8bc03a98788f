"""What others hear of an uplink that goes and comes back: hooks, scripts of Debian packages, `mlbd events`."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network, wait_until
from tests.lab.scene import QUICK, Start, mlbd, stream_by, tables, usable, wait_usable

_SCRIPTS = Path(__file__).parent.parent.parent / "build" / "debian" / "etc" / "network"


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o755)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def with_hooks(directory: Path) -> str:
    return f'{QUICK}[daemon]\nhooks = "{directory}"\n'


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def fails_and_returns(net: Network, daemon: Daemon, number: int = 1) -> None:
    names = [uplink.interface for uplink in net.uplinks]
    net.silence(number, gateway=True)
    wait_usable(daemon, *(name for name in names if name != f"wan{number}"))
    net.speak(number)
    wait_usable(daemon, *names)


def test_hooks_and_followers_hear_of_a_failover(start: Start, tmp_path: Path) -> None:
    """Hooks hear of each uplink's ups and downs in order, once per family; `mlbd events --follow` shows them as they
    happen, goes on over a restart by SIGKILL, and after that all are still there, with their evidence.
    """
    told = tmp_path / "told"
    script(tmp_path / "hooks.d" / "tell", f'echo "$MODE $PHASE $IFACE $ADDRFAM $METHOD: $MLBD_USABLE" >>{told}')
    net, daemon = start(config=with_hooks(tmp_path / "hooks.d"))
    command = [sys.executable, "-m", "mlbd", "events", "--follow", "--json", "-c", str(daemon.file)]
    following = net.spawn("router", command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert following.stdout is not None
    assert [json.loads(following.stdout.readline())["event"] for _ in "12"] == ["uplink_up"] * 2
    fails_and_returns(net, daemon)
    shown = [json.loads(following.stdout.readline()) for _ in "12"]
    assert [(e["event"], e["uplink"], e["usable"]) for e in shown] == [
        ("uplink_down", "wan1", ["wan2"]),
        ("uplink_up", "wan1", ["wan1", "wan2"]),
    ]
    assert re.fullmatch(r"\.*!{3,}\?*", shown[0]["evidence"])
    assert shown[0]["took_ms"] < 1000
    families = ("inet dhcp", "inet6 auto")
    expected = [
        *(f"start post-up wan1 {family}" for family in families),
        *(f"stop pre-down wan1 {family}: wan2" for family in families),
        *(f"start post-up wan1 {family}: wan1 wan2" for family in families),
    ]
    wait_until(lambda: len(lines(told)) == 8, what="that the hooks were run")
    heard = [line for line in lines(told) if "wan1 inet" in line]
    assert [heard[0].partition(":")[0], heard[1].partition(":")[0], *heard[2:]] == expected

    before = mlbd(net, "events", "--json", "-c", str(daemon.file)).stdout
    daemon.kill()
    daemon.start()
    wait_usable(daemon, "wan1", "wan2")
    after = mlbd(net, "events", "--json", "-c", str(daemon.file)).stdout
    assert after.startswith(before)
    assert [json.loads(line) for line in before.splitlines()][-2:] == shown
    shown_to_people = mlbd(net, "events", "-c", str(daemon.file)).stdout.splitlines()
    [down] = [line for line in shown_to_people if " is down" in line]
    sentence = r"wan1 is down \(FALLING -> DOWN\): .*probes lost.* \[\.*!{3,}\?*\]; usable: wan2, took .* ms"
    assert re.fullmatch(rf"20..-..-.. ..:..:..  {sentence}", down)
    again = [json.loads(following.stdout.readline()) for _ in "12"]
    assert [(e["event"], e["time"] > shown[1]["time"]) for e in again] == [("uplink_up", True)] * 2
    following.send_signal(signal.SIGINT)
    rest, errors = following.communicate(timeout=5)
    assert (following.returncode, rest) == (0, b"")
    assert b"no daemon answers" in errors
    assert len(errors.splitlines()) == 1
    daemon.stop()
    alone = mlbd(net, "events", "--follow", "-c", str(daemon.file))
    assert (alone.returncode, alone.stdout, len(alone.stderr.splitlines())) == (1, "", 1)


def test_bad_hooks_delay_no_failover(start: Start, tmp_path: Path) -> None:
    """While hooks hang, fork, fail and flood, a failover takes its usual time and a reload works; what hangs goes when
    the daemon stops (scenario 25).
    """
    hooks, told, pids = tmp_path / "hooks.d", tmp_path / "told", tmp_path / "pids"
    hooks.mkdir(mode=0o755)
    net, daemon = start(3, config=with_hooks(hooks))

    def gap(number: int) -> float:
        stream = stream_by(net, number, 500)
        fails_and_returns(net, daemon, number)  # each once: who fails again is kept out longer
        return stream.stop().longest_gap

    alone = gap(1)
    script(hooks / "1-fails", "exit 1")
    script(hooks / "2-floods", "yes 'a line of output' | head -n 1000000 &\nyes $$ | head -n 100000")
    script(hooks / "3-works", f'echo "$MODE" >>{told}')
    script(
        hooks / "4-hangs",
        f"[ -e {pids} ] && exit\n(trap '' TERM; setsid sleep 300) & echo $! >>{pids}\ntrap '' TERM\nsleep 300",
    )
    first = gap(2)
    wait_until(pids.exists, what="that a hook hangs")
    second = gap(3)
    assert (first < alone + 0.5, second < alone + 0.5) == (True, True), (alone, first, second)
    daemon.reload()
    wait_until(lambda: "configuration reloaded" in daemon.log_text())
    (pid,) = map(int, lines(pids))
    assert Path(f"/proc/{pid}").exists()
    assert lines(told) == ["stop"]
    log = [record for record in daemon.log() if record["event"] in ("hook output", "a hook failed")]
    assert {(r["event"], r["hook"]) for r in log} == {("a hook failed", "1-fails"), ("hook output", "2-floods")}
    assert len(log) < 120
    assert daemon.stop() == 0
    assert not any("sleep" in text for text in commands(net))


def commands(net: Network) -> list[str]:
    """Of the processes on the router."""
    found = []
    for pid in net.run("router", ["ip", "netns", "pids", net.namespace("router")]).split():
        try:
            found.append(Path(f"/proc/{pid}/cmdline").read_text())
        except OSError:
            continue
    return found


_IN_A_MOUNT_NAMESPACE = """
set -e
mkdir {stubs}
for name in avahi-autoipd resolvconf; do
    printf '#!/bin/sh\\necho "${{0##*/}} $*" >>{called}\\n' >{stubs}/$name
    chmod 755 {stubs}/$name
done
mount -t overlay overlay -o lowerdir={stubs}:/usr/sbin /usr/sbin
exec "$@"
"""
"""The scripts look for their packages' programs by absolute paths; where they are not installed they do nothing."""


@pytest.mark.skipif(not (_SCRIPTS / "if-up.d").exists(), reason="set-up got no scripts: Debian's apt-get is needed")
def test_scripts_of_debian_packages(network: Callable[..., Network], tmp_path: Path) -> None:
    """Scripts of /etc/network/if-up.d and if-down.d do on an uplink's up and down what they do for ifup and ifdown:
    avahi-autoipd, which wants METHOD and ADDRFAM, adds its route by IFACE; resolvconf drops what it knew of IFACE,
    once per ADDRFAM. Nothing in them was changed, and links to them are enough.
    """
    hooks, called = tmp_path / "hooks.d", tmp_path / "called"
    hooks.mkdir(mode=0o755)
    for directory in ("if-up.d", "if-down.d"):
        (hooks / directory).symlink_to(_SCRIPTS / directory)
    net = network(1)
    daemon = Daemon(net, tables(net) + with_hooks(hooks))
    wrapper = _IN_A_MOUNT_NAMESPACE.format(stubs=tmp_path / "stubs", called=called)
    command = ["unshare", "--mount", "sh", "-c", wrapper, "sh", sys.executable, "-m", "mlbd", "run"]
    log = tmp_path / "log"
    with log.open("wb") as out:
        net.spawn("router", [*command, "-c", str(daemon.file)], stdout=out, stderr=out)

    def settled(*names: str) -> bool:
        try:
            status: dict[str, Any] = daemon.status()
        except OSError:
            return False
        return usable(status) == list(names)

    def link_local() -> str:
        return net.run("router", ["ip", "route", "show", "169.254.0.0/16"]).strip()

    wait_until(lambda: settled("wan1"), timeout=10)
    wait_until(lambda: link_local() != "", what="that if-up.d/avahi-autoipd adds its route")
    assert link_local() == "169.254.0.0/16 dev wan1 scope link metric 1000"
    net.silence(1, gateway=True)
    wait_until(lambda: settled(), timeout=10)
    wait_until(lambda: len(lines(called)) == 3, what="that if-down.d/resolvconf has called resolvconf")
    assert lines(called) == [f"resolvconf -f -d {name}" for name in ("wan1", "wan1.inet", "wan1.inet6")]
    assert "a hook failed" not in log.read_text()
