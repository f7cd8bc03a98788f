"""Hearing of changes, and reading carriers."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from mlbd.core.plan import plan
from mlbd.core.state import Hop, KernelState, Object, Route, Rule
from mlbd.kernel import CarrierReader, LinuxKernel, Watch
from mlbd.kernel import routes as route_codec
from mlbd.kernel.netlink import CREATE, REPLACE, Requests
from tests.kernel.contract import K1, K2
from tests.kernel.namespace import run, veth_pairs
from tests.kernel.objects import DEVICES, PROTOCOL, TABLE_BASE


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    with veth_pairs():
        yield


class Heard:
    """A watch, and what it said: link notifications as they came, the others counted, the programs named."""

    def __init__(self, own_port: int = -1) -> None:
        self.links: list[tuple[str, int, bool, bool]] = []
        self.programs: list[str] = []
        self.changes = self.overruns = 0
        self.watch = Watch(lambda *link: self.links.append(link), self._change, self._overrun, lambda: own_port)

    def _change(self, program: str) -> None:
        self.programs.append(program)
        self.changes += 1

    def _overrun(self) -> None:
        self.overruns += 1


def listen(heard: Heard, story: Callable[[], Awaitable[None]]) -> None:
    """Run the story while the watch runs."""

    async def main() -> None:
        running = asyncio.create_task(heard.watch.run())
        await story()
        running.cancel()

    asyncio.run(main())


async def until(true: Callable[[], bool]) -> None:
    """Wait for what the kernel may take a second to say."""
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 (nobody sets an event)
            await asyncio.sleep(0.01)


async def quiet(heard: Heard) -> None:
    """Wait until nothing more is heard of how the interfaces came up, then begin to count."""
    async with asyncio.timeout(5):
        heard.changes = -1
        while heard.changes:
            heard.changes = 0
            await asyncio.sleep(0.2)


def test_carrier_and_state_of_links_are_heard() -> None:
    """A lost carrier, an administrative down, and a vanished interface, each with name and index."""
    heard = Heard()
    index = socket.if_nametoindex(K1)

    async def story() -> None:
        run("ip link set far1 down")
        await until(lambda: (K1, index, True, False) in heard.links)
        run(f"ip link set {K1} down")
        await until(lambda: (K1, index, False, False) in heard.links)
        await quiet(heard)
        run(f"ip link del {K1}")
        await until(lambda: heard.changes > 0)

    listen(heard, story)


@pytest.mark.parametrize(
    "command",
    [
        f"ip address add 10.9.1.9/24 dev {K1}",
        f"ip -6 address add 2001:db8:1::9/64 dev {K1} nodad",
        "ip route add default via 10.9.1.1",
        f"ip -6 route add default via fe80::1 dev {K1}",
        "ip rule add priority 77 lookup 77",
        "ip -6 rule add priority 77 lookup 77",
        f"ip route add 192.0.2.0/24 via 10.9.1.1 table {TABLE_BASE + 1}",
    ],
)
def test_changes_by_others_are_heard(command: str) -> None:
    """Addresses, default routes, rules, and any route in a table of ours, IPv4 and IPv6."""
    heard = Heard()

    async def story() -> None:
        await quiet(heard)
        run(command)
        await until(lambda: heard.changes > 0)

    listen(heard, story)


def test_a_program_that_still_runs_is_named() -> None:
    """A route or a rule changed by a program's first netlink socket, as by a daemon's, carries its process number."""
    heard = Heard()
    program = """
import socket, sys
from mlbd.kernel import rules
from mlbd.core.state import Rule
from mlbd.kernel.netlink import CREATE, Requests
Requests().request(rules.NEW, CREATE, rules.encode(Rule(4, 77, table=77), 4))
input()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as running:

        async def story() -> None:
            await until(lambda: any(heard.programs))

        listen(heard, story)
        name = Path(f"/proc/{running.pid}/comm").read_text().strip()
        assert running.stdin is not None
        running.stdin.write(b"\n")
    assert name in heard.programs


def test_routes_to_somewhere_in_particular_are_not_worth_a_look() -> None:
    """A routing daemon that fills `main` does not wake us up."""
    heard = Heard()

    async def story() -> None:
        await quiet(heard)
        run("ip route add 192.0.2.0/24 via 10.9.1.1", "ip route del 192.0.2.0/24")
        await asyncio.sleep(0.1)

    listen(heard, story)
    assert heard.changes == 0


def test_our_own_changes_are_not_heard() -> None:
    """Routes and rules that this kernel object writes and deletes cause no call."""
    kernel = LinuxKernel(PROTOCOL, TABLE_BASE)
    heard = Heard(kernel.port)
    wanted: list[Object] = [
        Route(4, TABLE_BASE + 1, 100, hops=(Hop(K1, "10.9.1.1"), Hop(K2, "10.9.2.1"))),
        Route(6, TABLE_BASE + 1, 100, hops=(Hop(K1, "fe80::1"), Hop(K2, "fe80::1"))),
        Rule(4, 12001, table=TABLE_BASE + 1),
    ]

    async def story() -> None:
        await quiet(heard)
        for target in (KernelState(wanted), KernelState()):
            observed = (await kernel.observe(DEVICES)).state
            assert list(await kernel.apply(plan(target, observed))) == []
        await asyncio.sleep(0.1)

    listen(heard, story)
    assert heard.changes == 0
    kernel.close()


def test_an_overrun_is_said_and_survived() -> None:
    """More notifications than the buffer holds: `on_overrun`, and what comes later is heard as ever."""
    heard = Heard()
    index = socket.if_nametoindex(K1)
    requests = Requests()
    two = (Route(4, TABLE_BASE + 1, 1, "unreachable"), Route(4, TABLE_BASE + 1, 1, "blackhole"))
    payloads = [route_codec.encode(route, PROTOCOL) for route in two]
    for _ in range(25_000):
        for payload in payloads:
            requests.request(route_codec.NEW, CREATE | REPLACE, payload)
    requests.close()

    async def story() -> None:
        await until(lambda: heard.overruns == 1)
        run("ip link set far1 down")
        await until(lambda: (K1, index, True, False) in heard.links)

    listen(heard, story)


def test_carrier_now() -> None:
    """True with a far end that is up, False without or when down itself, None where there is no such interface."""
    with CarrierReader() as reader:
        assert reader.read([K1, "absent0"]) == {K1: True, "absent0": None}
        run("ip link set far1 down")
        assert reader.read([K1, K2]) == {K1: False, K2: True}
        run("ip link set far1 up", f"ip link set {K2} down")
        assert reader.read([K1, K2]) == {K1: True, K2: False}
        run(f"ip link del {K1}")
        assert reader.read([K1]) == {K1: None}
