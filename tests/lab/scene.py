"""What the lab's tests of the running daemon say to it, and how they look at what it left in the kernel."""

from __future__ import annotations

import re
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from mlbd.lab.daemon import Daemon
from mlbd.lab.network import Network, wait_until
from mlbd.lab.stream import UdpStream
from mlbd.lab.traffic import TcpConversation

P = ParamSpec("P")
T = TypeVar("T")
Start = Callable[..., tuple[Network, Daemon]]
"""Builds a network and starts a daemon in it: the fixture `start`."""

QUICK = """[probe]
interval = "100ms"
suspect_interval = "50ms"
timeout = "200ms"
fall = 3
rise = 2
hold_max = "0s"

"""
"""For claims that do not depend on how long a verdict takes."""


def tables(net: Network, *extra: str) -> str:
    """The `[[uplink]]` tables, named as the interfaces; `extra` has further lines for the first, the second, .."""
    lines = [*extra, *[""] * len(net.uplinks)]
    return "".join(
        f'[[uplink]]\nname = "{u.interface}"\ninterface = "{u.interface}"\n{more}\n\n'
        for u, more in zip(net.uplinks, lines, strict=False)
    )


def usable(status: dict[str, Any]) -> list[str] | None:
    """Names of the uplinks that are usable; None while the kernel may not have been told of the last change."""
    found = [u["name"] for u in status["uplinks"] if u["usable"]]
    cycle = status["last_cycle"]
    changed = max(u["last_transition"] or 0.0 for u in status["uplinks"])
    policies = [policy for policy in status["policies"] if policy["last_resort"] is None]
    carriers = {member["uplink"] for policy in policies for member in policy["members"] if member["share"]}
    told = cycle is not None and cycle["at"] >= changed and carriers <= {*found}
    return found if told else None


def wait_usable(daemon: Daemon, *names: str, timeout: float = 10.0) -> None:
    """Until exactly these uplinks are usable, and the kernel agrees."""
    daemon.wait_for(lambda status: usable(status) == list(names), timeout=timeout, what=f"that {names} are usable")


def mlbd(net: Network, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`mlbd ARGUMENTS` on the router, to its end. Whatever it says, it is no traceback."""
    command = [sys.executable, "-m", "mlbd", *arguments]
    if environment:
        command = ["env", *(f"{name}={value}" for name, value in environment.items()), *command]
    with net.inside("router"):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    return done


def in_background(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Runs it in a thread of its own; `result()` waits for it."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(work, *args, **kwargs)
    pool.shutdown(wait=False)
    return future


def conversation_by(net: Network, uplink: int, interval: float | None = None) -> TcpConversation:
    """A conversation of lan1 that goes by that uplink. One that talks has been answered once."""
    while True:
        found = TcpConversation(net, "lan1", interval=interval)
        if found.uplink == uplink:
            break
        found.close()
    wait_until(lambda: interval is None or bool(found.exchanges), what="the first answer")
    return found


def stream_by(net: Network, uplink: int, rate: float) -> UdpStream:
    """A stream of lan1 that goes by that uplink. It ends with the network if not before."""
    while True:
        found = UdpStream(net, "lan1", rate=rate)
        found.wait_started()
        if set(found.so_far().by_uplink()) == {uplink}:
            return found
        found.stop(linger=0.05)


def routing(net: Network) -> str:
    """Rules and routes of all tables, both families."""
    parts = [net.run("router", ["ip", f"-{family}", *what]) for family in (4, 6) for what in (["rule"], _ROUTES)]
    return "\n".join(parts)


_ROUTES = ["route", "show", "table", "all"]


def ruleset(net: Network) -> str:
    """All of nftables with the handles, which tell a rule from one made again, but without what counters count."""
    return re.sub(r"packets \d+ bytes \d+", "", net.run("router", ["nft", "-a", "list", "ruleset"]))


def sysctls(net: Network) -> dict[str, str]:
    """Everything below net.ipv4 and net.ipv6."""
    found = {}
    with net.inside("router"):
        for path in (p for family in ("ipv4", "ipv6") for p in Path("/proc/sys/net", family).rglob("*")):
            try:
                found[str(path)] = path.read_text()
            except OSError:  # directories, and what cannot be read
                continue
    return found


def kernel(net: Network) -> tuple[str, str, dict[str, str]]:
    """All that mlbd may touch."""
    return routing(net), ruleset(net), sysctls(net)


def forget_connections(net: Network) -> None:
    """As `conntrack -F`: a delete without a tuple (linux/netfilter/nfnetlink_conntrack.h)."""
    with net.inside("router"):
        netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)  # NETLINK_NETFILTER
    with netlink:
        netlink.send(struct.pack("=IHHIIBBH", 20, 1 << 8 | 2, 1 | 4, 1, 0, 0, 0, 0))
        assert struct.unpack_from("=i", netlink.recv(4096), 16) == (0,)
