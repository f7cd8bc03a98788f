"""A set clock, or a daemon that gets no time, is not taken for the death of all uplinks (scenario 20)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network
from mlbd.lab.stream import UdpStream
from mlbd.lab.traffic import connect_many
from tests.health.pace import SOON
from tests.lab.scene import Start, tables, wait_usable

_DEBIAN = Path(__file__).parent.parent.parent / "build" / "debian"
FAKETIME = next(iter(_DEBIAN.glob("usr/lib/*/faketime/libfaketimeMT.so.1")), None)


@contextmanager
def nothing_happens(net: Network, daemon: Daemon) -> Iterator[None]:
    """In the block no verdict changes, and a stream of datagrams loses none."""
    before = {u["name"]: (u["usable"], u["verdict"], u["transitions"]) for u in daemon.status()["uplinks"]}
    with UdpStream(net, "lan1", rate=100) as stream:
        stream.wait_started()
        yield
        assert stream.stop().lost == 0
    after = {u["name"]: (u["usable"], u["verdict"], u["transitions"]) for u in daemon.status()["uplinks"]}
    assert after == before


def suspend(daemon: Daemon, seconds: float) -> None:
    """It gets no processor for so long; the kernel goes on, and replies wait for it."""
    os.kill(daemon.pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(daemon.pid, signal.SIGCONT)


@pytest.mark.parametrize("pauses", [[1.5], [0.35] * 4], ids=["once", "again and again"])
def test_a_suspended_daemon_blames_no_uplink(start: Start, pauses: list[float]) -> None:
    """A daemon that is stopped for longer than it takes to find an uplink dead changes no verdict when it goes on."""
    net, daemon = start(config=SOON)
    with nothing_happens(net, daemon):
        for pause in pauses:
            suspend(daemon, pause)
            time.sleep(0.02)
        time.sleep(0.8)


def test_what_happened_meanwhile_is_found(start: Start) -> None:
    """An uplink that died while the daemon was stopped is found dead after that, and the other one is not."""
    net, daemon = start(config=SOON)
    other = daemon.uplink("wan2")["transitions"]
    os.kill(daemon.pid, signal.SIGSTOP)
    net.silence(1, gateway=True)
    time.sleep(1.0)
    os.kill(daemon.pid, signal.SIGCONT)
    wait_usable(daemon, "wan2")
    assert connect_many(net, "lan1", 20) == {2: 20}
    assert daemon.uplink("wan2")["transitions"] == other


@pytest.mark.skipif(FAKETIME is None, reason="set-up got no libfaketime: Debian's apt-get is needed")
def test_a_set_clock_changes_nothing(
    network: Callable[..., Network], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """When the wall clock is set, an hour back or a year forward, no verdict changes, round trips stay what they are,
    and a real failure is found as before.

    Nobody can set the clock of a namespace, so that the daemon is lied to (libfaketime), and the kernel, which stamps
    replies, is not: worse than in life, where the two agree again after the probes that were under way.
    """
    net = network(2)
    offset = tmp_path / "offset"
    offset.write_text("+0")
    daemon = Daemon(net, tables(net) + SOON)
    with monkeypatch.context() as environment:
        environment.setenv("LD_PRELOAD", str(FAKETIME))
        environment.setenv("FAKETIME_TIMESTAMP_FILE", str(offset))
        environment.setenv("FAKETIME_NO_CACHE", "1")
        environment.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        daemon.start()
    wait_usable(daemon, "wan1", "wan2")
    for step in ("-1h", "+365d"):
        before = daemon.status()["uplinks"]
        with nothing_happens(net, daemon):
            offset.write_text(step)
            time.sleep(0.8)
        for uplink, was in zip(daemon.status()["uplinks"], before, strict=True):
            assert abs(uplink["since"] - was["since"]) > 3000  # it has noticed: times are told by the new clock
            assert 0 <= uplink["rtt"] < 0.5
            assert uplink["loss"] <= was["loss"]
        net.silence(1, gateway=True)
        wait_usable(daemon, "wan2")
        net.speak(1)
        wait_usable(daemon, "wan1", "wan2")
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log_text()
