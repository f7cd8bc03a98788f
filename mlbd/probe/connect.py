"""Probes of the kind tcp: a connection that is accepted, and closed again at once."""

from __future__ import annotations

from mlbd.core.probing import Order
from mlbd.probe.sockets import Connection


async def ask(order: Order) -> float:
    """Seconds until the connection was accepted. Raises ProbeError, OSError."""
    with await Connection.to(order) as connection:
        return connection.handshake()
