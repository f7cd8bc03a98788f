"""`mlbd explain` in the daemon: what `mlbd.core.explain` makes of the question, and what the kernel answers to it.

The kernel is asked for the way of a packet with the mark that mlbd would give it, once for every uplink that it may
leave by. So what is shown is the outcome of all routing rules and routes there are, not an opinion about them.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from mlbd.control import Refused
from mlbd.core.decision import Decision
from mlbd.core.diversion import MAIN_TABLE, diversions
from mlbd.core.explain import (
    LOCAL_TABLE,
    Candidate,
    Choice,
    Explanation,
    choose,
    source_after_translation,
    taken,
)
from mlbd.core.layout import Identities, Layout
from mlbd.core.match import ICMP, ICMPV6, OWN, TCP, Packet
from mlbd.core.ports import Connection, Observation, Way
from mlbd.core.question import Question, question
from mlbd.core.settings import MAIN, Family, Settings
from mlbd.core.sharing import by_hop

_PINGS = (ICMP, ICMPV6)


class Lookups(Protocol):
    """What `mlbd.kernel.LinuxKernel` can be asked about one packet."""

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
    ) -> Way: ...

    def connections(
        self,
        family: Family,
        protocol: int,
        source: str | None,
        destination: str,
        port: int | None,
        source_port: int | None,
    ) -> Sequence[Connection]: ...


class Explainer(Struct, frozen=True):
    """Answers by what is in force at one moment."""

    kernel: Lookups
    settings: Settings
    identities: Identities
    decision: Decision
    observation: Observation

    async def answer(self, asked: Mapping[str, object]) -> Explanation:
        """`asked`: the arguments of `mlbd.core.question.question`. Raises Refused for what can't be answered."""
        try:
            return await self._answer(self._located(self._read(asked)))
        except OSError as error:
            raise Refused(f"the kernel does not say: {error.strerror or error}") from error

    async def _answer(self, asked: Question) -> Explanation:
        choice = choose(self.settings, self.decision, self._packet(asked))
        connections = await self._connections(asked)
        new = self._way(asked, self._mark(choice, asked))
        choice = self._overruled(choice, new, asked)
        route: Way | None = new
        # Which ping is meant can't be said, and the next one is a new one.
        meant = connections if asked.protocol not in _PINGS else {}
        pinned = next(iter(meant)) if len(meant) == 1 else None
        if pinned is not None:
            route = self._way(asked, self._mark_of(pinned))
        elif meant or len(choice.shares) > 1:
            route = None
        notes = (
            *choice.notes,
            *self._resets(asked, connections),
            *diversions(self.observation.foreign_rules, self.observation.wide_routes, self._layout),
        )
        return Explanation(
            asked=asked,
            rule=choice.rule,
            use=choice.use,
            policy=choice.policy,
            method=choice.method,
            tier=choice.tier,
            last_resort=choice.last_resort,
            candidates=tuple(self._candidate(asked, name, share) for name, share in choice.shares),
            skipped=choice.skipped,
            pinned=pinned,
            connections=connections,
            route=route,
            notes=notes,
        )

    @property
    def _layout(self) -> Layout:
        return Layout.of(self.settings.daemon)

    def _mark_of(self, uplink: str) -> int:
        return self._layout.mark(self.identities.uplinks[uplink])

    def _read(self, asked: Mapping[str, object]) -> Question:
        try:
            read = question(**{key: value for key, value in asked.items() if isinstance(value, str)})
        except TypeError:
            raise Refused("explain takes a destination and what its options are called, all as text") from None
        except ValueError as error:
            raise Refused(str(error)) from None
        if read.mark & self._layout.mask:
            raise Refused(f"--mark {read.mark:#x} has bits of fwmark_mask {self._layout.mask:#x}, which are mlbd's own")
        return read

    def _located(self, asked: Question) -> Question:
        """Where it comes from: the router itself, or the interface that leads to its source."""
        if asked.interface is not None:
            return asked
        if asked.source is None:
            return replace(asked, interface=OWN)
        back = self.kernel.way(asked.family, asked.source)
        if back.table == LOCAL_TABLE:
            return replace(asked, interface=OWN)
        if back.error:
            raise Refused(f"nothing leads to {asked.source} ({back.error}); say where it comes in by --interface")
        return replace(asked, interface=back.device)

    def _packet(self, asked: Question) -> Packet:
        """Where marks choose for the router's own, its source address has been chosen before, by the first look-up."""
        packet = asked.packet()
        if asked.source is None and self.settings.marks_own(asked.family):
            source = self._ask(asked, 0, None, None).source
            return packet if source is None else replace(packet, source=int(ipaddress.ip_address(source)))
        return packet

    async def _connections(self, asked: Question) -> dict[str, int]:
        """How many there are that it may belong to, by uplink. In a thread: the kernel walks its whole table."""
        found = await asyncio.to_thread(
            self.kernel.connections,
            asked.family,
            asked.protocol,
            asked.source,
            asked.destination,
            asked.port,
            asked.source_port,
        )
        names = {self._mark_of(uplink.name): uplink.name for uplink in self.settings.uplinks}
        marked = [(c, name) for c in found if (name := names.get(c.mark & self._layout.code_mask)) is not None]
        if asked.source is None:  # only the router's own
            sources = {connection.source for connection, _ in marked}
            own = {source for source in sources if self.kernel.way(asked.family, source).table == LOCAL_TABLE}
            marked = [(connection, name) for connection, name in marked if connection.source in own]
        return dict(Counter(name for _, name in marked).most_common())

    def _mark(self, choice: Choice, asked: Question) -> int:
        """The mark that a new connection gets; routing rules choose for the router's own ones, without a mark."""
        if asked.interface == OWN and not self.settings.marks_own(asked.family):
            return 0
        if choice.shares:
            return self._mark_of(choice.shares[0][0])
        if choice.policy is not None and choice.last_resort != "main":
            return self._layout.mark(self.identities.policies[choice.policy])
        return 0

    def _way(self, asked: Question, mark: int) -> Way:
        """Of such a packet with our mark, and the source address with which it leaves."""
        own = asked.interface == OWN
        source, interface = asked.source, None if own else asked.interface
        way = self._ask(asked, mark, source, interface)
        if way.error or source is None:
            return way
        after = source_after_translation(self.settings, self.decision, way, source)
        if after is None:  # masquerade takes the address that the router itself would
            uplink = by_hop(self.settings.uplinks, way.device, way.gateway)
            assert uplink is not None
            after = self._ask(asked, self._mark_of(uplink.name), None, None).source
        return replace(way, source=after)

    def _ask(self, asked: Question, mark: int, source: str | None, interface: str | None) -> Way:
        return self.kernel.way(
            asked.family,
            asked.destination,
            source=source,
            interface=interface,
            mark=asked.mark | mark,
            protocol=asked.protocol,
            port=asked.port,
            source_port=asked.source_port,
        )

    def _overruled(self, choice: Choice, way: Way, asked: Question) -> Choice:
        """What is left of it where a route of `main` or somebody else's rule comes first."""
        by = taken(way, self._layout, asked.family, self.observation.foreign_rules)
        left_to_main = choice.use == MAIN or choice.last_resort == "main"
        if by is None or (left_to_main and way.table == MAIN_TABLE):
            return choice
        came_in = any(uplink.interface == asked.interface for uplink in self.settings.uplinks)
        return Choice(use=MAIN, notes=(*choice.notes, by) if came_in else (by,))

    def _candidate(self, asked: Question, uplink: str, share: float) -> Candidate:
        way = self._way(asked, self._mark_of(uplink))
        return Candidate(
            uplink=uplink, share=share, gateway=way.gateway, device=way.device, source=way.source, error=way.error
        )

    def _resets(self, asked: Question, connections: Mapping[str, int]) -> list[str]:
        return [
            f"{name} is not usable: an established connection by it is reset when its client next sends"
            for name in connections
            if (name, asked.family) in self.decision.dead and asked.protocol == TCP
        ]
