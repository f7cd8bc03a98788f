"""Changes that a daemon carries out, each with the one that undoes it, in a world that is in memory or real."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from msgspec.structs import replace

from mlbd.core.facts import Gateway
from mlbd.core.ports import Kernel
from mlbd.core.settings import Daemon, Policy, Rule, Selector, Settings, Uplink
from mlbd.core.state import KernelState
from mlbd.release import release
from tests.core.world import facts
from tests.faults.injector import FaultyKernel
from tests.faults.inside import InsideKernel
from tests.faults.running import QUICK, RTT, Running
from tests.kernel.memory import MemoryKernel
from tests.kernel.namespace import run

NAMES = ("a", "b", "c")
INTERFACES = ("a0", "b0", "c0")
QUIET = 6.0
"""Virtual seconds after which all is done that can be done, also after some failures."""

UPLINKS = {name: Uplink(name=name, interface=f"{name}0", probe=QUICK) for name in NAMES}
DAEMON = Daemon(grace=2.0)


def policy(name: str, *tiers: str) -> Policy:
    split = tuple(tuple(tier.split()) for tier in tiers)
    return Policy(name=name, tiers=split, weights=tuple((member, 1) for tier in split for member in tier))


TWO = Settings(uplinks=(UPLINKS["a"], UPLINKS["b"]), policies=(policy("all", "a b"),), daemon=DAEMON)
THREE = Settings(uplinks=tuple(UPLINKS.values()), policies=(policy("all", "a b c"),), daemon=DAEMON)
OTHER = Settings(
    uplinks=(UPLINKS["b"], UPLINKS["a"]),
    policies=(policy("first", "b", "a"), policy("all", "a b")),
    rules=(
        Rule(name="web", use="a", protocols=Selector((6,)), ports=Selector(((80, 80),))),
        Rule(name="lan", use="all", sources=Selector(("192.168.1.0/24",)), destinations=Selector((), ("10.0.0.0/8",))),
    ),
    daemon=DAEMON,
)


class Devices(Protocol):
    """What is outside of mlbd."""

    def gateway(self, host: int) -> None:
        """Uplink a's gateway becomes 10.1.0.HOST."""

    def address(self, host: int) -> None:
        """Uplink a's address becomes 10.1.0.HOST."""


class InMemory:
    def __init__(self) -> None:
        self.kernel = MemoryKernel([facts(name, number) for number, name in enumerate(NAMES, 1)])

    def gateway(self, host: int) -> None:
        self.kernel.appear(replace(self.kernel.facts["a0"], gateway4=Gateway(f"10.1.0.{host}")))

    def address(self, host: int) -> None:
        self.kernel.appear(replace(self.kernel.facts["a0"], addresses=(f"10.1.0.{host}/24",)))


class InNamespace:
    """In the network namespace where this thread is, which must be a private one."""

    def __init__(self) -> None:
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
        Path("/proc/sys/net/ipv4/conf/default/promote_secondaries").write_text("0")
        run("ip link set lo up")
        for number, name in enumerate(NAMES, 1):
            run(
                f"ip link add name {name}0 type veth peer name far{number}",
                f"ip link set {name}0 up",
                f"ip link set far{number} up",
                f"ip address add 10.{number}.0.2/24 dev {name}0",
                f"ip route add default via 10.{number}.0.1 metric {100 + number} proto dhcp",
            )
        self.kernel = InsideKernel(DAEMON.protocol, DAEMON.table_base)

    def gateway(self, host: int) -> None:
        run(f"ip route replace default via 10.1.0.{host} metric 101 proto dhcp")

    def address(self, host: int) -> None:
        run(f"ip address add 10.1.0.{host}/24 dev a0", f"ip address del 10.1.0.{5 - host}/24 dev a0")


class Scene:
    """A daemon in a world, and a kernel between them that can fail."""

    def __init__(self, devices: InMemory | InNamespace) -> None:
        self.devices: Devices = devices
        self._kernel: Kernel = devices.kernel
        self.kernel = FaultyKernel(devices.kernel)
        self.answers: dict[str, float | None] = dict.fromkeys(NAMES, RTT)
        self.settings = TWO
        self.running: Running | None = None

    @property
    def daemon(self) -> Running:
        assert self.running is not None
        return self.running

    async def start(self) -> None:
        found = None
        while found is None:
            with contextlib.suppress(OSError):  # then it is started again
                found = await self.state()
        self.running = Running.begun(self.kernel, self.settings, self.answers, found)
        await self.wait()

    async def wait(self) -> None:
        """Until all is done."""
        await asyncio.wait({self.daemon.task}, timeout=QUIET)
        if self.daemon.task.done():
            self.daemon.task.result()

    async def stop(self) -> None:
        if self.running is not None:
            await self.running.stop()
            self.running = None

    async def state(self) -> KernelState:
        """What there is, whatever fails."""
        return (await self._kernel.observe(INTERFACES)).state


Act = Callable[[Scene], Awaitable[None]]


@dataclass(frozen=True)
class Pair:
    there: Act
    back: Act
    begun: bool = True
    """The daemon runs before."""


async def _start(scene: Scene) -> None:
    await scene.start()


async def _release(scene: Scene) -> None:
    await scene.stop()
    assert list(await release(scene.kernel)) == []


def _answers(b: float | None) -> Act:
    async def act(scene: Scene) -> None:
        scene.answers["b"] = b
        await scene.wait()

    return act


def _load(settings: Settings) -> Act:
    async def act(scene: Scene) -> None:
        scene.settings = settings
        scene.daemon.loop.load(settings)
        await scene.wait()

    return act


def _changed(change: Callable[[Devices], None]) -> Act:
    async def act(scene: Scene) -> None:
        change(scene.devices)
        scene.daemon.loop.look_again()
        await scene.wait()

    return act


PAIRS = {
    "first start and release": Pair(_start, _release, begun=False),
    "failover and recovery": Pair(_answers(None), _answers(RTT)),
    "an uplink more and less": Pair(_load(THREE), _load(TWO)),
    "a gateway moves": Pair(_changed(lambda it: it.gateway(254)), _changed(lambda it: it.gateway(1))),
    "an address changes": Pair(_changed(lambda it: it.address(3)), _changed(lambda it: it.address(2))),
    "other policies and rules": Pair(_load(OTHER), _load(TWO)),
}
