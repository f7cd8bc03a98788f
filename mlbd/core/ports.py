"""The seam between the loop and the kernel. `mlbd.kernel.LinuxKernel` and the tests' memory kernel implement it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import inf
from typing import Protocol

from msgspec import Struct, field

from mlbd.core.facts import InterfaceFacts, WideRoute
from mlbd.core.plan import Change
from mlbd.core.settings import Family
from mlbd.core.state import KernelState, Rule

NO_BUNDLES: Mapping[str, Collection[str]] = {}


class Observation(Struct, frozen=True):
    """One full look."""

    state: KernelState
    """Everything owned, in whatever condition; the sysctls of the interfaces asked for that exist, and those of the
    scopes `/ipv4` and `/ipv6` that this kernel has. Of bundles that were asked for or are owned the device, a `Port`
    for each interface that is in it or was asked for, and all addresses of these; of members of TEQL also `rp_filter`,
    and that of the scope `/all`."""
    facts: Mapping[str, InterfaceFacts] = field(default_factory=dict)
    """Of the interfaces asked for and the members of the bundles asked for, those that exist."""
    lan_prefixes: tuple[str, ...] = ()
    """IPv6 prefixes of /64 or shorter, canonical and sorted, of usable global addresses on interfaces that were not
    asked for (so no uplinks) and are up; not of loopback."""
    foreign_rules: tuple[Rule, ...] = ()
    """Routing rules of others, in the kernel's order, without the kernel's own of priority 0, 32766 and 32767."""
    wide_routes: tuple[WideRoute, ...] = ()
    expires: float = inf
    """Seconds until a default route that facts come from runs out, of which nothing will tell."""


class ApplyError(Struct, frozen=True):
    """A change that did not happen, and the kernel's reason as one sentence."""

    change: Change
    reason: str


class Way(Struct, frozen=True):
    """What the kernel does with a packet, ip-route(8) `get`."""

    table: int | None
    """In which the route was found."""
    device: str
    """"" if there is none."""
    gateway: str | None
    source: str | None
    """The address that the router would send from."""
    error: str
    """"" or the kernel's words for why not, "No route to host"."""


class Connection(Struct, frozen=True):
    """An entry of connection tracking, in its original direction."""

    family: Family
    protocol: int
    source: str
    source_port: int | None
    destination: str
    port: int | None
    mark: int


class KernelUnavailableError(Exception):
    """The kernel cannot be observed at all; the message says why and what to do. Not retried at start-up."""


class Kernel(Protocol):
    async def observe(
        self,
        interfaces: Collection[str],
        neighbours: Collection[str] = (),
        bundles: Mapping[str, Collection[str]] = NO_BUNDLES,
    ) -> Observation:
        """Look at everything, also at the hardware addresses of `neighbours`, and at `bundles`: names of devices and
        of the interfaces that are to be their members. Changes nothing.

        Raises OSError when the kernel's answer did not come whole.
        """
        ...

    async def apply(self, changes: Sequence[Change]) -> Sequence[ApplyError]:
        """Make the changes in the given order; consecutive changes of nftables objects are one transaction.

        One change that fails does not stop those after it, but a transaction fails as a whole. Deleting what is
        already gone, and adding what is already there as wanted, is success. Never raises for a refused change.
        """
        ...

    async def abandon(self, stranded: Collection[str], departed: Collection[str] = ()) -> None:
        """End the router's own sockets, not bound to a device, that are connected by UDP or connecting by TCP from one
        of these addresses, so that their programs begin anew; established ones, too, from addresses that departed, if
        the router does not have them elsewhere. Raises OSError; the event loop is not blocked meanwhile.
        """
        ...

    async def cut(self, mark: int, mask: int) -> None:
        """Delete the conntrack entries, of both families, for which `ct mark & mask == mark`. Raises OSError.

        It is one message that the kernel works through; the event loop is not blocked meanwhile.
        """
        ...

    async def begin_anew(self) -> None:
        """Delete the conntrack entries that nobody has answered and that are not translated. Raises OSError.

        Whether a connection is translated is decided by its first packet. One that began before there were rules for
        that, as while the router started, would leave with an address that nobody can answer for as long as it sends.
        """
        ...
