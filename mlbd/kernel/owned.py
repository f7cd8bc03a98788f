"""Ending the router's own sockets that can't get anywhere any more, as `ss --kill` does.

A socket keeps the source address it was given, and with it the uplink, whatever happens to routes. One that is still
connecting, or a connected UDP socket, would wait for its program's patience to end; an error at once lets the program
begin anew, by an uplink that works. Established TCP is not ended with its uplink: a rule in `mlbd.core.ruleset` resets
what sends, what is idle may survive. It is where its address is another's by now, as after a new lease.

Sources: the kernel's include/uapi/linux/inet_diag.h, net/ipv4/inet_diag.c; sock_diag(7).
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Collection, Iterator, Sequence
from itertools import product

from mlbd.kernel.netlink import HEADER, RefusedError, Requests

_NETLINK_SOCK_DIAG = 4
_BY_FAMILY, _DESTROY = 20, 21
"""SOCK_DIAG_BY_FAMILY, SOCK_DESTROY."""
_REQUEST = struct.Struct("=BBBxI48s")
"""struct inet_diag_req_v2: family, protocol, extensions, states, socket id."""
_SHOWN = struct.Struct("=BBBB48s")
"""struct inet_diag_msg, as far as it matters: family, state, timer, retransmits, socket id."""
_ID = struct.Struct("!HH16s16s4x8x")
"""struct inet_diag_sockid: ports, addresses, then device and cookie in the host's order."""
_DEVICE = struct.Struct("=36xI8x")
_ESTABLISHED, _SYN_SENT, _TIME_WAIT, _CLOSE, _LISTEN = 1, 2, 6, 7, 10
_CONNECTED = ((1 << 12) - 1) & ~(1 | 1 << _TIME_WAIT | 1 << _CLOSE | 1 << _LISTEN)
_STRANDED = ((socket.IPPROTO_TCP, 1 << _SYN_SENT), (socket.IPPROTO_UDP, 1 << _ESTABLISHED))
_DEPARTED = ((socket.IPPROTO_TCP, _CONNECTED), (socket.IPPROTO_UDP, 1 << _ESTABLISHED))
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOENT, errno.EINVAL)
"""Without CONFIG_INET_DIAG_DESTROY, or the module for a protocol."""


def abandon(stranded: Collection[str], departed: Collection[str] = ()) -> int:
    """End TCP sockets that are connecting and UDP sockets that are connected from these addresses; returns how many.

    From `departed` ones, as far as the router really does not have them, also established TCP. Not what is bound to a
    device: that was meant for it. Does nothing where the kernel can't. Blocks. Raises OSError.
    """
    gone = [address for address in departed if not _has(address)]
    if not stranded and not gone:
        return 0
    try:
        requests = Requests(_NETLINK_SOCK_DIAG)
    except OSError as error:
        if error.errno == errno.EPROTONOSUPPORT:
            return 0
        raise
    try:
        found = [*_found(requests, stranded, _STRANDED), *_found(requests, gone, _DEPARTED)]
        return sum([_ended(requests, request) for request in found])
    finally:
        requests.close()


def _has(address: str) -> bool:
    """Whether the router has it, if only by net.ipv4.ip_nonlocal_bind."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as trial:
        try:
            trial.bind((address, 0))
        except OSError as error:
            return error.errno != errno.EADDRNOTAVAIL
    return True


def _found(requests: Requests, addresses: Collection[str], kinds: Sequence[tuple[int, int]]) -> Iterator[bytes]:
    """Requests that name the sockets; `kinds` are protocols and bits of states."""
    wanted = {ipaddress.ip_address(address).packed for address in addresses}
    for family, (protocol, states) in product((socket.AF_INET, socket.AF_INET6), kinds if wanted else ()):
        try:
            shown = requests.dump(_BY_FAMILY, _REQUEST.pack(family, protocol, 0, states, bytes(48)))
        except RefusedError as error:
            if error.errno in _UNSUPPORTED:
                continue
            raise
        for message in shown:
            of_family, _, _, _, number = _SHOWN.unpack_from(message, HEADER.size)
            _, port, source, _ = _ID.unpack(number)
            (device,) = _DEVICE.unpack(number)
            if port and not device and _address(of_family, source) in wanted:
                yield _REQUEST.pack(of_family, protocol, 0, 0xFFFFFFFF, number)


def _address(family: int, field: bytes) -> bytes:
    """Packed; of a socket for both families that speaks IPv4, that of IPv4."""
    if family == socket.AF_INET:
        return field[:4]
    mapped = ipaddress.IPv6Address(field).ipv4_mapped
    return field if mapped is None else mapped.packed


def _ended(requests: Requests, request: bytes) -> bool:
    try:
        requests.request(_DESTROY, 0, request)
    except RefusedError as error:
        if error.errno in _UNSUPPORTED:  # ENOENT also: it has ended by itself
            return False
        raise
    return True
