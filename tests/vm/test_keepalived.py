"""What Debian's keepalived is told of uplinks, by mlbd and by what systemd does when mlbd ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.vm.system import CONFIG, Router, first_namespace, installed, patched, run, show, tables, wait_until

UPLINKS = ("fiber", "lte")
GOOD = tables(UPLINKS) + '[probe]\ninterval = "300ms"\nhold_max = "1s"\n'
FILES = Path("/run/mlbd/keepalived")
ALL = {"fiber": "1\n", "lte": "1\n", "balanced": "1\n"}
KEEPALIVED = Path("/etc/keepalived/keepalived.conf")
ADDRESS = "192.168.1.250"

VRRP = """
vrrp_instance lan {{
    interface lan1
    virtual_router_id 51
    version 3
    priority {priority}
    advert_int 1
    virtual_ipaddress {{
        {address}/24
    }}
    {more}
}}
"""
TRACKING = """
track_file fiber {
    file /run/mlbd/keepalived/fiber
}
"""


@pytest.fixture(scope="module")
def net() -> Iterator[Router]:
    """keepalived is running on the router with 100, and 50 more while fiber carries traffic; elsewhere with 120."""
    with ExitStack() as stack:
        stack.enter_context(first_namespace())
        stack.enter_context(installed())
        net = stack.enter_context(Router(2, interfaces=UPLINKS))
        CONFIG.write_text(GOOD)
        stack.callback(KEEPALIVED.unlink)
        more = "track_file {\n fiber weight 50\n }"
        KEEPALIVED.write_text(TRACKING + VRRP.format(priority=100, address=ADDRESS, more=more))
        stack.callback(run, "systemctl", "stop", "keepalived")
        run("systemctl", "start", "keepalived")
        other = net.directory / "keepalived.conf"
        other.write_text(VRRP.format(priority=120, address=ADDRESS, more="").replace("lan1", "eth0"))
        pids = [f"--{kind}={net.directory}/{kind}" for kind in ("pid", "vrrp_pid", "checkers_pid")]
        net.spawn("lan1", ["keepalived", "--dont-fork", "--vrrp", f"--use-file={other}", *pids])
        shown = ["ip", "-br", "address", "show", "eth0"]
        wait_until(lambda: ADDRESS in net.run("lan1", shown), what="the other router to be the master")
        yield net


@pytest.fixture
def good(net: Router) -> Router:
    """Everything is well, and this router the master."""
    run("systemctl", "start", "mlbd")
    wait_until(lambda: said() == ALL and is_master(), what="this router to be the master")
    return net


def said() -> dict[str, str]:
    return {path.name: path.read_text() for path in FILES.iterdir()}


def is_master() -> bool:
    return ADDRESS in run("ip", "-br", "address", "show", "lan1")


def wait_other() -> None:
    """Until nothing is said for good, and the other router has taken over."""
    wait_until(lambda: said() == {} and not is_master(), what="the other router to take over")


@contextmanager
def unmoved() -> Iterator[None]:
    """All the time the files are the same ones, and this router is the master."""
    seen: set[object] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            try:
                seen.add((is_master(), *((p.name, p.read_text(), p.stat().st_ino) for p in sorted(FILES.iterdir()))))
            except OSError as error:
                seen.add(str(error))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    assert (len(seen), is_master(), said()) == (1, True, ALL)


def age() -> None:
    """As if they had been renewed a minute ago."""
    for path in FILES.iterdir():
        os.utime(path, (time.time() - 60,) * 2)


def test_stopped(good: Router) -> None:
    """`systemctl stop` says at once that nothing is good, and the other router takes over; so does an end by SIGTERM,
    after which systemd starts nothing.
    """
    run("systemctl", "stop", "mlbd")
    assert said() == {}
    wait_other()
    run("systemctl", "start", "mlbd")
    wait_until(lambda: said() == ALL, what="the files")
    os.kill(int(show("MainPID")), signal.SIGTERM)
    wait_until(lambda: said() == {}, what="the files to go")


def test_restarted(good: Router) -> None:
    """`systemctl restart` and kill -9 move nothing."""
    with unmoved():
        run("systemctl", "restart", "mlbd")
        pid = int(show("MainPID"))
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: int(show("MainPID")) not in (0, pid), what="another process")
        wait_until(lambda: show("StatusText") == "2 of 2 uplinks usable", what="its first verdicts")


def test_frozen(good: Router) -> None:
    """A daemon that is frozen dies of the watchdog within seconds, and what it said then goes."""
    with patched("WatchdogSec=3"):
        run("systemctl", "restart", "mlbd")
        wait_until(lambda: show("StatusText") == "2 of 2 uplinks usable", what="both uplinks")
        inode = (FILES / "fiber").stat().st_ino
        os.kill(int(show("MainPID")), signal.SIGSTOP)
        age()
        wait_until(lambda: said() == {}, what="the files to go")
        wait_until(lambda: said() == ALL, what="another process to say the same")
        assert (FILES / "fiber").stat().st_ino != inode


def test_wrong_file(good: Router) -> None:
    """A daemon that is killed, and can't start again because the file is wrong, leaves nothing."""
    CONFIG.write_text("nonsense")
    try:
        os.kill(int(show("MainPID")), signal.SIGKILL)
        wait_until(lambda: said() == {}, what="the files to go")
        wait_until(lambda: show("ActiveState") == "failed", what="the service to be given up")
    finally:
        CONFIG.write_text(GOOD)


def test_crash_loop(good: Router) -> None:
    """A daemon that never gets ready again leaves what it said for the watchdog time, and nothing when stopped."""
    with patched("ExecStartPre=/bin/false"):
        os.kill(int(show("MainPID")), signal.SIGKILL)
        wait_until(lambda: int(show("NRestarts")) >= 2, what="the second restart")
        assert said() == ALL
        age()
        wait_until(lambda: said() == {}, what="the files to go")
        (FILES / "fiber").write_text("1\n")
        run("systemctl", "stop", "mlbd")
        assert said() == {}
