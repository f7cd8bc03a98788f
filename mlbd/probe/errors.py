"""Why a probe could not be sent or was turned away: an errno as a `FailureKind` and a sentence for a person."""

from __future__ import annotations

import errno
import os

from mlbd.core.probing import FailureKind, Order

_KINDS: dict[int, FailureKind] = {
    errno.EPERM: "firewall",
    errno.ENETUNREACH: "no-route",
    errno.EHOSTUNREACH: "no-route",
    errno.EACCES: "no-route",
    errno.EINVAL: "no-route",
    errno.ENODEV: "no-device",
    errno.ENXIO: "no-device",
    errno.ENETDOWN: "no-device",
    errno.EADDRNOTAVAIL: "no-address",
    errno.ENOBUFS: "no-buffer",
    errno.EAGAIN: "no-buffer",
    errno.ENOMEM: "no-buffer",
}

_TEXTS = {
    errno.EPERM: "a firewall on this router refused the packet",
    errno.ENETUNREACH: "no route to {address} by {interface}",
    errno.EHOSTUNREACH: "the route to {address} by {interface} says unreachable",
    errno.EACCES: "the route to {address} by {interface} says prohibited",
    errno.EINVAL: "the route to {address} by {interface} says blackhole",
    errno.ENODEV: "there is no interface {interface}",
    errno.ENXIO: "there is no interface {interface}",
    errno.ENETDOWN: "{interface} is down",
    errno.EADDRNOTAVAIL: "{interface} has no address to send from",
    errno.ENOBUFS: "the queue of {interface} is full",
    errno.EAGAIN: "the send buffer for {interface} is full",
    errno.ENOMEM: "the kernel has no memory for the packet",
}


_HEARD: dict[int, tuple[FailureKind, str]] = {
    errno.ECONNREFUSED: ("refused", "{address} refuses port {port}"),
    errno.ECONNRESET: ("refused", "{address} broke the connection off"),
    errno.EPIPE: ("refused", "{address} broke the connection off"),
    errno.EHOSTUNREACH: ("unreachable", "{address} by {interface}, says a router, or nobody there has this address"),
    errno.EHOSTDOWN: ("unreachable", "{address} by {interface}, says a router"),
    errno.ENETUNREACH: ("unreachable", "{address} by {interface}, says a router"),
    errno.ENONET: ("unreachable", "{address} by {interface}, says a router"),
    errno.ENOPROTOOPT: ("unreachable", "{address} by {interface}, says a router"),
}
"""What ICMP errors become (icmp_err_convert in net/ipv4/icmp.c, icmpv6_err_convert in net/ipv6/icmp.c), and resets."""


class ProbeError(Exception):
    """The probe could not be sent, or something else than the wanted reply came back for it."""

    def __init__(self, kind: FailureKind, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text


def heard(error: OSError, order: Order) -> ProbeError:
    """An error that a socket reported after something had been sent by it."""
    known = _HEARD.get(error.errno or 0)
    if known is None:
        return ProbeError(*sending(error, order))
    kind, text = known
    said = text.format(address=order.address, interface=order.interface, port=order.ask.port)
    return ProbeError(kind, f"{errno.errorcode[error.errno or 0]}: {said}")


def sending(error: OSError, order: Order) -> tuple[FailureKind, str]:
    """The kind and the text of an error that sending gave for this order."""
    return _KINDS.get(error.errno or 0, "other"), _sentence(error, order)


def opening(error: OSError, order: Order) -> tuple[FailureKind, str]:
    """The kind and the text of an error met while the socket for this order was opened."""
    if error.errno in (errno.EPERM, errno.EACCES):
        # Not the firewall: the right to open a raw socket is missing, and no packet was refused.
        name = errno.errorcode[error.errno]
        return "other", f"{name}: no right to open a raw socket; run mlbd as root or give it CAP_NET_RAW"
    kind = _KINDS.get(error.errno or 0, "other")
    return (kind, _sentence(error, order)) if kind == "no-device" else ("other", f"no socket: {_plain(error)}")


def _sentence(error: OSError, order: Order) -> str:
    text = _TEXTS.get(error.errno or 0)
    if text is None:
        return _plain(error)
    said = text.format(address=order.address, interface=order.interface)
    return f"{errno.errorcode[error.errno or 0]}: {said}"


def _plain(error: OSError) -> str:
    if error.errno is None:
        return str(error)
    return f"{errno.errorcode.get(error.errno, error.errno)}: {os.strerror(error.errno)}"
