"""Probes by one port of a bond: ARP from an address of the port's own, answered by any port.

The port asks from its own Ethernet address, not the bond's, and for no IPv4 address (RFC 5227 section 2.1.1): a switch
that learned the bond's address on a port that is not active, or a neighbour that learned the port's for the bond's
IPv4 address, would send the bond's traffic astray. Whom the reply is addressed to says which port had asked; a far end
that is a bundle itself sends it by a link of its choice, which may go by that address (bond_xmit_hash in
drivers/net/bonding/bond_main.c): so several may ask in turn, that one dead link does not take the replies to all, and
all ports of the bundle are listened to, by a socket each: others hear nothing of what comes in by a port that is not
active (deliver_exact in net/core/dev.c).

An answer shows that the port sends, and that some port of the bundle receives. There is none from a router that would
only answer in another's place (proxy ARP), or only those who have an address there (`arp_ignore` 2).
"""

from __future__ import annotations

import contextlib

from mlbd.core.probing import Order, Reply
from mlbd.core.settings import Family
from mlbd.probe import interface
from mlbd.probe.arp import PortSocket
from mlbd.probe.channels import Channel, Channels
from mlbd.probe.errors import ProbeError

_MOST_ADDRESSES = 200
"""That a socket can listen for."""


class Ports(Channels[PortSocket]):
    """Those of ports of bonds."""

    def _make(self, family: Family, order: Order) -> PortSocket:
        if family == 6:
            raise ProbeError("no-address", f"{order.address} is no IPv4 address: a port of a bond only asks by ARP")
        if not order.sources or interface.ethernet_address(order.interface) is None:
            raise ProbeError("no-address", f"{order.interface} has no Ethernet address of its own to ask from")
        return PortSocket(order.interface, [bytes.fromhex(source.replace(":", "")) for source in order.sources])

    def _listen(self, channel: Channel[PortSocket]) -> None:
        self._agree(channel.bundle, channel)

    def _close(self, channel: Channel[PortSocket]) -> None:
        super()._close(channel)
        self._agree(channel.bundle)

    def _agree(self, bundle: str, asking: Channel[PortSocket] | None = None) -> None:
        """Each port listens for the replies to all. Raises OSError if the one that is asking can't."""
        ports = self._of(bundle)
        sources = {source for port in ports for source in port.socket.sources}
        addresses = [*dict.fromkeys(address for port in ports for address in port.unanswered)][-_MOST_ADDRESSES:]
        for port in ports:
            # What is wrong with another port, its own probes say.
            with contextlib.nullcontext() if port is asking else contextlib.suppress(OSError):
                port.socket.listen_for(addresses)
                port.socket.receive_for(sources)

    def _next(self, channel: Channel[PortSocket]) -> Reply | None:
        found, at = channel.socket.receive()
        if found is None:
            return None
        address, asker = found
        # It comes first itself: links of one card may share an address.
        for port in (channel, *self._of(channel.bundle)):
            if asker in port.socket.sources:
                return self._answered(port, address, at)
        return None

    def _of(self, bundle: str) -> list[Channel[PortSocket]]:
        return [channel for channel in self._channels.values() if channel.bundle == bundle]

    def _answered(self, port: Channel[PortSocket], address: str, at: int) -> Reply | None:
        """A reply may come by every port (a far end in mode broadcast): its copies answer no earlier rounds."""
        reply = port.answered(address, at)
        if reply is not None:
            waiting = port.unanswered[address]
            waiting[:] = [(target, sent) for target, sent in waiting if sent.round >= reply.round]
        return reply
