"""A world with bundles: what is desired is done at once, and what follows for the members is seen."""

from __future__ import annotations

from msgspec.structs import replace

from mlbd.core.facts import InterfaceFacts, PortFacts
from mlbd.core.plan import apply, plan
from mlbd.core.settings import (
    Bond,
    BondMode,
    Daemon,
    Degrade,
    Policy,
    Probe,
    Settings,
    Target,
    Teql,
    TeqlMember,
    Uplink,
)
from mlbd.core.state import Bond as BondDevice
from mlbd.core.state import KernelState, Key, Object, Port
from mlbd.core.state import Teql as TeqlDevice
from mlbd.core.status import PortStatus, Transition
from tests.core.world import World

FAR = Target("arp:192.168.1.1", "192.168.1.1", 4, "neighbour")
PROBE = Probe(targets=(FAR,), degrade=Degrade())
BOND_MAC = "02:00:00:00:00:01"


def bond(mode: BondMode, *, primary: str | None = None, probe: Probe = PROBE, name: str = "bond0") -> Bond:
    """Of eth1 and eth2."""
    addresses = ("192.168.1.3/24",)
    return Bond(name=name, mode=mode, members=("eth1", "eth2"), addresses=addresses, primary=primary, probe=probe)


def teql(count: int = 2) -> Teql:
    members = (
        TeqlMember(interface=f"eth{n}", address=f"10.0.{n}.0/31", peer=f"10.0.{n}.1") for n in range(1, count + 1)
    )
    return Teql(name="teql0", members=tuple(members), address="10.0.0.0/31", probe=replace(PROBE, targets=()))


def bundled(*bundles: Bond | Teql, uplinks: tuple[Uplink, ...] = (), grace: float = 5.0) -> Settings:
    tier = tuple(u.name for u in uplinks)
    policy = Policy(name="balanced", tiers=(tier,), weights=tuple((name, 1) for name in tier))
    return Settings(
        uplinks=uplinks,
        policies=(policy,),
        bonds=tuple(b for b in bundles if isinstance(b, Bond)),
        teqls=tuple(b for b in bundles if isinstance(b, Teql)),
        daemon=Daemon(grace=grace),
    )


class Bundled(World):
    """Members eth1 and eth2 (and more) exist, with carrier while they are up; nothing is bundled yet."""

    def __init__(self, settings: Settings, state: KernelState | None = None) -> None:
        super().__init__(settings, look=False)
        members = [name for names in settings.bundles.values() for name in names]
        self.numbers = {name: n for n, name in enumerate(dict.fromkeys(members), 1)}
        self.unplugged: set[str] = set()
        self.state = KernelState(Port(name) for name in self.numbers) if state is None else state
        self.done: list[str] = []
        self.act()

    def act(self) -> list[Transition]:
        """A look, and a cycle; twice, as one follows each change."""
        found: list[Transition] = []
        for _ in range(2):
            self.interfaces |= {name: self._facts(name) for name in self.numbers}
            found += self.look()
            changes = plan(self.desired(self.state), self.state)
            self.done += [f"{c.action} {c.kind} {c.object.key[1]}" for c in changes]
            self.state = self._as_the_kernel_would(apply(changes, self.state))
        return found

    def live(self, seconds: float) -> list[Transition]:
        """Time passes; whatever happens is acted on within 10 ms."""
        before, end = len(self.transitions), self.now + seconds
        while self.now < end:
            seen = len(self.transitions)
            self.wait(0.01)
            if len(self.transitions) > seen or self.router.rerouted:
                self.router.rerouted = False
                self.act()
        return self.transitions[before:]

    def bond(self) -> BondDevice:
        found = self.state["bond", "bond0"]
        assert isinstance(found, BondDevice)
        return found

    def members(self) -> dict[str, str]:
        """The bundle that each interface is in."""
        return {item.device: item.bundle for item in self.state.values() if isinstance(item, Port)}

    def ups(self) -> set[str]:
        return {item.device for item in self.state.values() if isinstance(item, Port) and item.up}

    def port(self, interface: str) -> PortStatus:
        (bundle,) = self.router.bundle_status(self.now, 0.0)
        return next(m for m in bundle.members if m.interface == interface)

    def silence(self, *interfaces: str, bundle: str = "bond0") -> None:
        self.answers |= {f"{bundle}/{name}": None for name in interfaces}

    def hear_again(self, *interfaces: str, bundle: str = "bond0") -> None:
        self.answers |= {f"{bundle}/{name}": 0.001 for name in interfaces}

    def _facts(self, name: str) -> InterfaceFacts:
        port = self.state.get(("port", name))
        assert isinstance(port, Port)
        addresses = [a.address for a in self.state.values() if a.key[:2] == ("address", name)]  # type: ignore[union-attr]
        hardware = f"02:00:00:00:00:0{self.numbers[name]}"
        of_bundle = BOND_MAC if ("bond", "bond0") in self.state else ""
        return InterfaceFacts(
            name=name,
            index=self.numbers[name],
            up=port.up,
            carrier=port.up and name not in self.unplugged,
            addresses=tuple(sorted(addresses)),
            port=PortFacts(bundle=port.bundle, hardware=hardware, of_bundle=of_bundle, active=self._active(port)),
        )

    def _active(self, port: Port) -> bool:
        device = self.state.get(("bond", port.bundle))
        single = isinstance(device, BondDevice) and device.mode == 1
        return device.active == port.device if single else bool(port.bundle)  # type: ignore[union-attr]

    def _as_the_kernel_would(self, state: KernelState) -> KernelState:
        """A bond of a mode that has an active port has one, and a port that goes is it no more, but an interface."""
        gone = (name for name in self.numbers if ("port", name) not in state)
        changed: dict[Key, Object | None] = {port.key: port for port in (Port(name, up=False) for name in gone)}
        for item in state.values():
            if isinstance(item, BondDevice) and item.mode in (1, 5, 6):
                ports = [p.device for p in state.values() if isinstance(p, Port) and p.bundle == item.name]
                alive = [name for name in ports if name not in self.unplugged]
                first = item.primary if item.primary in alive else next(iter(alive), "")
                changed[item.key] = replace(item, active=item.active if item.active in alive else first)
        return state.changed(changed)


__all__ = ["FAR", "PROBE", "BondDevice", "Bundled", "TeqlDevice", "bond", "bundled", "teql"]
