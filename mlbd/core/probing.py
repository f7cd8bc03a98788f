"""What the core asks of the prober, and what the prober answers.

The core decides when to probe, so a simulation with a virtual clock sees the same behaviour as a router. The prober
sends an `Order` at once, and reports exactly one `Reply` or `Failure` for it if anything is heard at all; silence is
not reported, the core knows when a reply was due. A reply may be reported arbitrarily late.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from mlbd.core.settings import GATEWAY, Target

FailureKind = Literal[
    "firewall", "no-route", "no-device", "no-address", "no-buffer", "unreachable", "refused", "wrong-answer", "other"
]
"""firewall: EPERM, a rule of this router refused the packet. no-route: ENETUNREACH, EHOSTUNREACH, EACCES, EINVAL when
sending. no-device: ENODEV, ENXIO, ENETDOWN. no-address: EADDRNOTAVAIL, or nothing to send from or to. no-buffer:
ENOBUFS, EAGAIN, ENOMEM. unreachable: an ICMP error came back for this very probe. refused: somebody answered for the
target and would not (a TCP reset, a DNS or TLS error). wrong-answer: another answer than the one wanted (an HTTP
status). other: said in the text."""

VOID: frozenset[FailureKind] = frozenset({"firewall", "no-buffer"})
"""What this router itself kept from being sent is no evidence."""
LOST: frozenset[FailureKind] = frozenset({"unreachable", "no-route", "refused", "wrong-answer"})
"""Failures that count as loss; with the others nothing was sent."""


class Order(Struct, frozen=True):
    """Send one probe now."""

    uplink: str
    target: int
    """Index into the uplink's targets."""
    round: int
    """Ever increasing per uplink. One round asks every target once."""
    interface: str
    interface_index: int
    address: str
    """Where to; a link-local IPv6 address is meant on `interface`. "" for a target with a name, to be resolved."""
    ask: Target = GATEWAY
    """What to send."""
    sources: tuple[str, ...] = ()
    """Of a port of a bond: Ethernet addresses to ask from, in turn; the reply may come by any port of `bundle`."""
    bundle: str = ""
    mark: int = 0
    """Of the packet: it is this uplink's, also where another has the same interface, and whatever becomes of others."""


class Reply(Struct, frozen=True):
    uplink: str
    target: int
    round: int
    rtt: float
    """Seconds."""


class Failure(Struct, frozen=True):
    """The probe could not be sent, or something else than the wanted reply came back for it."""

    uplink: str
    target: int
    round: int
    kind: FailureKind
    text: str
    """For a person: `EPERM: a firewall on this router refused the packet`, `network unreachable, says 10.1.0.1`."""


Outcome = Reply | Failure
