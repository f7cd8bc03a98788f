"""A daemon that ends after any single operation leaves a router through which traffic flows, and the next completes it.

The daemon runs in this process, in virtual time, on the kernel of a lab's router. Packets are real.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest
from msgspec.structs import replace

from mlbd.core.settings import AUTO, Daemon, GatewaySetting, Policy, Rule, Selector, Settings, Uplink
from mlbd.core.state import KernelState
from mlbd.lab.network import Network
from mlbd.lab.traffic import TcpConversation, attempts
from mlbd.release import release
from tests.core.virtual import virtually
from tests.faults.injector import Ended, FaultyKernel, Operation, nothing
from tests.faults.inside import InsideKernel
from tests.faults.running import QUICK, RTT, Running

pytestmark = pytest.mark.lab

OWNER = """
table inet owner {
  chain leave {
    type nat hook postrouting priority srcnat; policy accept;
    oifname { "wan1", "wan2", "wan3" } masquerade
  }
  chain own {
    type filter hook output priority filter; policy accept;
    ip6 daddr 2001:db8::/32 icmpv6 type destination-unreachable drop
  }
}
"""
"""The router translates without mlbd too. What it tells an address that was its own, when packets of old connections
don't find their gateway any more, leaves with any address: conntrack relates it to them, and does not translate it."""
DAEMON = Daemon(grace=2.0)
LONG_ENOUGH = 4.0
"""Virtual seconds, for probes, cycles and looks."""


def fixed(address: str) -> GatewaySetting:
    return GatewaySetting(source="fixed", address=address)


def uplink(number: int) -> Uplink:
    return Uplink(
        name=f"wan{number}", interface=f"wan{number}", nat6="masquerade", probe=QUICK,
        gateway=fixed(f"10.{number}.0.1"), gateway6=fixed(f"2001:db8:{number}::1"),
    )  # fmt: skip


def policy(name: str, *tiers: str) -> Policy:
    split = tuple(tuple(tier.split()) for tier in tiers)
    return Policy(name=name, tiers=split, weights=tuple((member, 1) for tier in split for member in tier))


TWO = Settings(uplinks=(uplink(1), uplink(2)), policies=(policy("all", "wan1 wan2"),), daemon=DAEMON)
THREE = Settings(
    uplinks=(uplink(1), uplink(2), uplink(3)), policies=(policy("all", "wan1 wan2 wan3"),), daemon=DAEMON
)  # fmt: skip
FOLLOWING = replace(TWO, uplinks=tuple(replace(each, gateway=AUTO, gateway6=AUTO) for each in TWO.uplinks))
"""By the gateways that `main` has."""
OTHER = Settings(
    uplinks=(uplink(2), uplink(1)),
    policies=(policy("first", "wan2", "wan1"), policy("all", "wan1 wan2")),
    rules=(
        Rule(name="web", use="wan1", protocols=Selector((6,)), ports=Selector(((80, 80),), ())),
        Rule(name="lan", use="all", sources=Selector(("192.168.1.0/24",)), destinations=Selector((), ("10.0.0.0/8",))),
        Rule(name="servers", use="first", destinations=Selector(("203.0.113.0/24", "2001:db8:f::/64")), sticky=60.0),
    ),
    daemon=DAEMON,
)


class Scene:
    """A router with its traffic."""

    def __init__(self, net: Network) -> None:
        self.net = net
        self._inside = InsideKernel(DAEMON.protocol, DAEMON.table_base, lambda: net.inside("router"))
        self.kernel = FaultyKernel(self._inside)
        self.answers: dict[str, float | None] = {f"wan{n}": RTT for n in (1, 2, 3)}
        self.settings = TWO
        self.running: Running | None = None
        self._wrong = self._wrong_sources()
        self._held: list[TcpConversation] = []

    # What happens.

    async def start(self) -> None:
        """Raises Ended."""
        self.running = Running.begun(self.kernel, self.settings, self.answers, await self.state())
        await self.wait()

    async def wait(self) -> None:
        """Until all is done. Raises Ended."""
        assert self.running is not None
        await asyncio.wait({self.running.task}, timeout=LONG_ENOUGH)
        if self.running.task.done():
            self.running.task.result()

    async def stop(self) -> None:
        if self.running is not None:
            await self.running.stop()
            self.running = None

    def load(self, settings: Settings) -> None:
        self.settings = settings
        assert self.running is not None
        self.running.loop.load(settings)

    def alone(self, alone: bool) -> None:
        """Whether `main` has no default route, so that what mlbd does not send is not sent."""
        action = "del" if alone else "add"
        routes = [route for number in (1, 2, 3) for route in self.net.uplink(number).default_routes()]
        self.net.run("router", ["ip", "-batch", "-"], text="".join(f"route {action} {route}\n" for route in routes))

    def look(self) -> None:
        assert self.running is not None
        self.running.loop.look_again()

    # What is to be seen.

    async def state(self) -> KernelState:
        return (await self._inside.observe(["wan1", "wan2", "wan3"])).state

    def hold(self, uplinks: Sequence[int]) -> None:
        """Connections by these uplinks that must go on, forwarded and the router's own, of both families."""
        for conversation in self._held:
            conversation.close()
        self._held = [
            self._conversation(where, number, family)
            for where in ("lan1", "router") for number in uplinks for family in (4, 6)
        ]  # fmt: skip

    def _conversation(self, where: str, number: int, family: int) -> TcpConversation:
        for server in range(1, 100):
            found = TcpConversation(self.net, where, family=family, server=server)
            if found.uplink == number:
                return found
            found.close()
        raise AssertionError(f"no connection of {where} goes by uplink {number}")

    def problems(self, silent: bool) -> list[str]:
        """What is wrong with traffic now. `silent`: what goes by one of the uplinks is lost."""
        found = []
        for conversation in self._held:
            try:
                conversation.say(timeout=3.0)
            except OSError as error:
                found.append(f"a connection by uplink {conversation.uplink} broke: {error}")
        allowed = {"", "timeout"} if silent else {""}
        for where, family, count in (("lan1", 4, 4), ("lan1", 6, 2), ("router", 4, 4), ("router", 6, 2)):
            tried = attempts(self.net, where, count, family=family, timeout=0.15 if silent else 3.0)
            errors = [a.error for a in tried if a.error not in allowed]
            found += [f"a new IPv{family} connection of {where}: {error}" for error in errors]
        # The router itself, by its address in the LAN and by one that it has outside.
        own = ["192.168.1.1", self.net.uplink(2).address]
        for each in attempts(self.net, "lan1", 2, servers=own, timeout=3.0):
            if each.seen != "192.168.1.2":
                found.append(f"a connection of lan1 to the router: {each.error}")
        wrong = self._wrong_sources()
        if wrong != self._wrong:
            found.append(f"providers saw {wrong - self._wrong} packets with a wrong source")
        self._wrong = wrong
        return found

    def _wrong_sources(self) -> int:
        return sum(self.net.wrong_source(uplink.number) for uplink in self.net.uplinks)

    def close(self) -> None:
        for conversation in self._held:
            conversation.close()
        self._inside.close()


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with Network(3, prompt_carrier=True) as net:
        net.run("router", ["nft", "-f", "-"], text=OWNER)
        net.serve("router")
        found = Scene(net)
        yield found
        found.close()


@dataclass
class Ending:
    """After so many operations, looks not counted, the daemon ends."""

    left: int
    last: Operation | None = None

    def __call__(self, operation: Operation) -> None:
        if operation.kind == "look":
            return
        if self.left == 0:
            raise Ended
        self.left -= 1
        self.last = operation


Act = Callable[[Scene], Awaitable[None]]


@dataclass(frozen=True)
class Pair:
    """A change and the one that undoes it."""

    there: Act
    back: Act
    settings: Settings = TWO
    hold: tuple[int, ...] = (1, 2)
    """Uplinks whose connections go on all the time."""
    silent: bool = False
    """One of the uplinks loses everything until the change is made."""
    comes_back: bool = True
    """The state before comes again."""
    begun: bool = True
    """mlbd runs before the change."""
    alone: bool = False
    """`main` has no default route meanwhile."""


def acting(act: Callable[[Scene], None]) -> Act:
    async def carried_out(scene: Scene) -> None:
        act(scene)
        await scene.wait()

    return carried_out


def fail(scene: Scene) -> None:
    scene.net.silence(2)
    scene.answers["wan2"] = None


def recover(scene: Scene) -> None:
    scene.net.speak(2)
    scene.answers["wan2"] = RTT


def move(scene: Scene) -> None:
    scene.net.move_gateway(1)
    scene.look()


def renumber(scene: Scene) -> None:
    scene.net.renumber(1)
    scene.look()


async def released(scene: Scene) -> None:
    await scene.stop()
    assert list(await release(scene.kernel)) == []


PAIRS = {
    "first start and release": Pair(Scene.start, released, hold=(1,), begun=False),
    "failover and recovery": Pair(acting(fail), acting(recover), hold=(1,), silent=True, alone=True),
    "an uplink more and less": Pair(acting(lambda it: it.load(THREE)), acting(lambda it: it.load(TWO)), alone=True),
    "other policies and rules": Pair(acting(lambda it: it.load(OTHER)), acting(lambda it: it.load(TWO)), alone=True),
    "a gateway moves": Pair(acting(move), acting(move), settings=FOLLOWING, hold=(2,), silent=True),
    # The last one: the router's own sockets go on for a while with an address that is not there any more.
    "an address changes": Pair(
        acting(renumber), acting(renumber), settings=FOLLOWING, hold=(2,), silent=True, comes_back=False
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_ending_after_any_operation(scene: Scene, name: str) -> None:
    """After each operation traffic flows by healthy uplinks, and the next daemon reaches what one alone would have."""
    pair = PAIRS[name]
    scene.settings = pair.settings

    async def clean(act: Act) -> KernelState:
        await act(scene)
        assert scene.problems(silent=False) == []
        return await scene.state()

    async def ended(act: Act, after: int, end: KernelState) -> bool:
        """False: there are not so many operations."""
        scene.kernel.before = ending = Ending(after)
        try:
            await act(scene)
        except Ended:
            assert scene.problems(pair.silent) == [], f"after {after} operations, the last one {ending.last}"
        else:
            return False
        finally:
            scene.kernel.before = nothing
        await scene.stop()
        if act is released:
            await released(scene)
        else:
            await scene.start()
        if after % 5 == 0:
            assert scene.problems(silent=False) == []
        if pair.comes_back:
            assert await scene.state() == end
        assert scene.running is None or scene.running.cycles[-1].result == "unchanged"
        return True

    async def story() -> None:
        scene.running = None
        if pair.begun:
            await scene.start()
        if pair.alone:
            scene.alone(True)
        scene.hold(pair.hold)
        before = await scene.state()
        after = await clean(pair.there)
        again = await clean(pair.back)
        if pair.comes_back:
            assert again == before
        count = 0
        there = back = True
        while there or back:
            there = await ended(pair.there, count, after)
            back = await ended(pair.back, count, before)
            count += 1
        assert count > 3
        if pair.alone:
            scene.alone(False)
        await released(scene)

    virtually(story)
