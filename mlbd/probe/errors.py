"""Why a probe could not be sent: the errno of a raw socket as a `FailureKind` and a sentence for a person."""

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


def sending(error: OSError, order: Order) -> tuple[FailureKind, str]:
    """The kind and the text of an error that `sendto` gave for this order."""
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
