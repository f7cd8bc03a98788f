"""Probes of the kind neighbour: ARP or neighbour discovery by one long-lived socket per uplink and family.

They show that the neighbour is there, and no more: the kernel's own neighbour table is not looked at, as what stands
there may be old.
"""

from __future__ import annotations

from mlbd.core.probing import Order, Reply
from mlbd.core.settings import Family
from mlbd.probe import interface
from mlbd.probe.arp import ArpSocket
from mlbd.probe.channels import Channel, Channels
from mlbd.probe.errors import ProbeError
from mlbd.probe.solicitation import SolicitationSocket


class Neighbours(Channels[ArpSocket | SolicitationSocket]):
    """Those of uplinks."""

    def _make(self, family: Family, order: Order) -> ArpSocket | SolicitationSocket:
        own = interface.ethernet_address(order.interface)
        if own is None:
            raise ProbeError("no-address", f"{order.interface} is not Ethernet: there is no neighbour to ask")
        made = ArpSocket if family == 4 else SolicitationSocket
        return made(order.interface, order.interface_index, own)

    def _next(self, channel: Channel[ArpSocket | SolicitationSocket]) -> Reply | None:
        address, at = channel.socket.receive()
        return channel.answered(address, at) if address is not None else None
