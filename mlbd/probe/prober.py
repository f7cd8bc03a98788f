"""Takes orders, and hands each to those who know its kind. What only some kinds need is loaded when they are asked for.

Every kind leaves by the device of its uplink whatever routing says, never blocks the event loop for longer than a
system call takes, and starts neither processes nor threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from mlbd.core.probing import Order, Outcome
from mlbd.core.settings import Target
from mlbd.probe.attempts import Ask, Attempts
from mlbd.probe.echo import Echoes
from mlbd.probe.errors import ProbeError

if TYPE_CHECKING:
    from mlbd.probe.names import Names
    from mlbd.probe.neighbours import Neighbours
    from mlbd.probe.ports import Ports


class Prober:
    """Sends what is ordered and calls `on_outcome` with what is heard of it, exactly once per probe, if at all.

    It belongs to the running event loop it is made in. `on_outcome` is called by that loop, never from within `send`.
    """

    def __init__(self, on_outcome: Callable[[Outcome], None]) -> None:
        self._on_outcome = on_outcome
        self.echoes = Echoes(on_outcome)
        self._attempts = Attempts(on_outcome)
        self._neighbours: Neighbours | None = None
        self._ports: Ports | None = None
        self._names: Names | None = None
        self._asks: dict[tuple[str, bool], Ask] = {}
        """By kind, and whether there is a name to resolve first."""
        self._devices: dict[str, tuple[str, int]] = {}
        """Name and index by uplink; an index that changed is another device under the same name."""

    def send(self, order: Order) -> None:
        """Send one probe now; never blocks, never raises. A probe that cannot be sent becomes a `Failure`."""
        if order.ask.kind == "icmp":
            self.echoes.send(order)
            return
        device = (order.interface, order.interface_index)
        if self._devices.setdefault(order.uplink, device) != device:
            self._forget_connections(order.uplink)
            self._devices[order.uplink] = device
        if order.ask.kind == "neighbour":
            self._neighbours_for(order).send(order)
        else:
            self._attempts.start(order, self._ask(order.ask))

    def forget(self, uplink: str) -> None:
        """Close the uplink's sockets: replies are no longer heard. A failure to send may still be on its way."""
        self.echoes.forget(uplink)
        self._forget_connections(uplink)

    def close(self) -> None:
        """Close all sockets."""
        self.echoes.close()
        for uplink in list(self._devices):
            self._forget_connections(uplink)

    def _forget_connections(self, uplink: str) -> None:
        """All but echo requests, which have sockets for each device."""
        self._devices.pop(uplink, None)
        self._attempts.forget(uplink)
        if self._neighbours is not None:
            self._neighbours.forget(uplink)
        if self._ports is not None:
            self._ports.forget(uplink)
        if self._names is not None:
            self._names.forget(uplink)

    def _neighbours_for(self, order: Order) -> Neighbours | Ports:
        if order.bundle:
            if self._ports is None:
                from mlbd.probe.ports import Ports

                self._ports = Ports(self._on_outcome)
            return self._ports
        if self._neighbours is None:
            from mlbd.probe.neighbours import Neighbours

            self._neighbours = Neighbours(self._on_outcome)
        return self._neighbours

    def _ask(self, target: Target) -> Ask:
        key = (target.kind, bool(target.name))
        found = self._asks.get(key)
        if found is None:
            found = self._by_kind(target)
            self._asks[key] = found = self._resolving(found) if target.name else found
        return found

    def _by_kind(self, target: Target) -> Ask:
        match target.kind:
            case "dns":
                from mlbd.probe import queries

                return queries.ask
            case "http":
                from mlbd.probe.web import Web

                return Web().ask
            case _:
                from mlbd.probe import connect

                return connect.ask

    def _resolving(self, ask: Ask) -> Ask:
        """The same for targets with a name."""
        if self._names is None:
            from mlbd.probe.names import Names

            self._names = Names()
        names = self._names

        async def resolve_and_ask(order: Order) -> float:
            resolved = await names.resolve(order)
            try:
                return await ask(resolved)
            except (ProbeError, OSError, asyncio.CancelledError):  # cancelled: too late, too
                names.disappointed(resolved)
                raise

        return resolve_and_ask
