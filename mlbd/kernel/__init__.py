"""The kernel as `mlbd.core.ports.Kernel` describes it, of the network namespace that the process is in.

    LinuxKernel          looks and changes; what the loop uses
      rtnetlink          routes, rules, links, addresses       netlink, routes, rules, links, addresses: its codec
                         bundles                               bonds, teql: their codec; bundles: reads them; devices,
                                                               ports, linkchanges: change them
      nftables           the table inet mlbd                   nftlook: reads it; libnftables, nftext, elements: change
                                                               it; commits: hears who else does
      sysctl             settings of an interface, and of multipath routes
      conntrack, owned   cut connections loose, end sockets of our own
      lookup             where a packet would go, and the connections there are
    Watch                says that something happened
    CarrierReader        reads carriers now
    survey               what `mlbd init` makes a configuration of

Everything but `cut`, `begin_anew`, `abandon` and `connections` is done on the thread of the event loop: the kernel
answers within the system call, so a thread would add its own latency to a failover and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Self, get_args

from msgspec.structs import replace

from mlbd.core.plan import Change
from mlbd.core.ports import NO_BUNDLES, ApplyError, Connection, KernelUnavailableError, Observation, Way
from mlbd.core.settings import Family
from mlbd.core.state import KernelState, Nft, Object, Saved, Sysctl
from mlbd.kernel import conntrack, lookup, owned, sysctl, teql
from mlbd.kernel.bundles import on_teql
from mlbd.kernel.carrier import CarrierReader
from mlbd.kernel.libnftables import NftError
from mlbd.kernel.netlink import Requests
from mlbd.kernel.nftables import NfTables
from mlbd.kernel.rtnetlink import RtNetlink
from mlbd.kernel.watch import Watch

__all__ = ["CarrierReader", "LinuxKernel", "Watch"]

_CAP_NET_ADMIN = 12
_REFUSALS = (OSError, LookupError, ValueError, NftError)


class LinuxKernel:
    """Implements `Kernel`. Close it, or use it in an `async with` statement.

    Raises KernelUnavailableError when made where the kernel can't be used: no privileges, no libnftables, no nf_tables.
    """

    def __init__(self, protocol: int, table_base: int) -> None:
        if not _may_administer():
            raise KernelUnavailableError(_unavailable("not permitted"))
        self._nftables = NfTables()
        try:
            self._nftables.look()
            self._routing = RtNetlink(protocol, table_base)
            self._lookups = Requests()
        except (NftError, OSError) as error:
            self._nftables.close()
            raise KernelUnavailableError(_unavailable(str(error))) from None

    @property
    def port(self) -> int:
        """The netlink port id that notifications of our own changes carry; `Watch` wants to know."""
        return self._routing.port

    async def observe(
        self,
        interfaces: Collection[str],
        neighbours: Collection[str] = (),
        bundles: Mapping[str, Collection[str]] = NO_BUNDLES,
    ) -> Observation:
        """See `Kernel.observe`."""
        seen = self._routing.look(interfaces, neighbours, bundles)
        table = self._nftables.look()
        existing = [name for name in seen.facts if name in interfaces]
        filtered = {*on_teql(bundles, seen.state), *_to_be_restored(existing, table)}
        settings = sysctl.observe(existing, filtered)
        return replace(seen, state=KernelState([*settings, *seen.state.values(), *table]))

    async def apply(self, changes: Sequence[Change]) -> Sequence[ApplyError]:
        """See `Kernel.apply`."""
        if devices := teql.needed(changes):
            await self._routing.teql_module.provide(devices)
        errors: list[ApplyError] = []
        for is_nft, group in groupby(changes, key=lambda change: isinstance(change.object, get_args(Nft))):
            together = list(group)
            for batch in [together] if is_nft else [[change] for change in together]:
                try:
                    self._change(batch, is_nft)
                except _REFUSALS as error:
                    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
                    errors += [ApplyError(change, reason) for change in batch]
        self._routing.forget()
        return errors

    async def abandon(self, stranded: Collection[str], departed: Collection[str] = ()) -> None:
        """See `Kernel.abandon`."""
        await asyncio.to_thread(owned.abandon, stranded, departed)

    async def cut(self, mark: int, mask: int) -> None:
        """See `Kernel.cut`. ValueError for a mark or mask of 0."""
        await conntrack.cut(mark, mask)

    async def begin_anew(self) -> None:
        """See `Kernel.begin_anew`."""
        await conntrack.begin_anew()

    def way(
        self,
        family: Family,
        destination: str,
        *,
        source: str | None = None,
        interface: str | None = None,
        mark: int = 0,
        protocol: int | None = None,
        port: int | None = None,
        source_port: int | None = None,
    ) -> Way:
        """See `lookup.way`. Raises OSError."""
        return lookup.way(
            self._lookups,
            family,
            destination,
            source=source,
            interface=interface,
            mark=mark,
            protocol=protocol,
            port=port,
            source_port=source_port,
        )

    def connections(
        self,
        family: Family,
        protocol: int,
        source: str | None,
        destination: str | None,
        port: int | None,
        source_port: int | None,
    ) -> list[Connection]:
        """See `lookup.connections`. Blocks; may be called in a thread. Raises OSError."""
        return lookup.connections(family, protocol, source, destination, port, source_port)

    def sysctls(self, indexes: Collection[int]) -> list[bytes]:
        """All settings of these interfaces and of multipath routes, for comparison only. Raises OSError."""
        return [*sysctl.raw(), *self._routing.configurations(indexes)]

    def counters(self) -> dict[str, int]:
        """Packets by the name of each nftables counter. Raises OSError."""
        return self._nftables.counters()

    def neighbour_overflows(self) -> int:
        """How often a table of neighbours was full, since the system started. Raises OSError."""
        return self._routing.neighbour_overflows()

    async def hear_nftables(self, on_change: Callable[[str], None]) -> None:
        """See `Commits.run`. Raises OSError."""
        await self._nftables.others.run(on_change)

    def close(self) -> None:
        self._lookups.close()
        self._routing.close()
        self._nftables.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def _change(self, batch: Sequence[Change], is_nft: bool) -> None:
        (first, *_) = batch
        obj: Object = first.object
        if is_nft:
            self._nftables.change(batch)
        elif isinstance(obj, Sysctl):
            if first.new is not None:  # it goes with its interface, it can't be deleted
                sysctl.write(obj)
        else:
            self._routing.change(first)


def _to_be_restored(interfaces: Collection[str], table: Iterable[Object]) -> Iterator[str]:
    """Those of the interfaces whose reverse path filter was changed once."""
    for item in table:
        if isinstance(item, Saved) and item.scope in interfaces and sysctl.FILTER in dict(item.values):
            yield item.scope


def _may_administer() -> bool:
    """Whether CAP_NET_ADMIN is in effect (capabilities(7)). Asked first: libnftables would print that it is not."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return bool(int(fields["CapEff"], 16) & 1 << _CAP_NET_ADMIN)


def _unavailable(reason: str) -> str:
    if "not permitted" in reason:
        return "this process may not change the network: run mlbd as root, or with the capability CAP_NET_ADMIN"
    return f"nf_tables can't be used ({reason}): mlbd needs Linux with CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET"
