"""The settings that mlbd changes: those of an uplink's interface, how multipath routes spread, the reverse path filter
of members of TEQL devices, and with a peer how strict conntrack is.

/proc/sys/net shows the network namespace of the process that opens it. A file is a path component per part of the
name, so a dot in an interface name needs no care here, as it does for sysctl(8).

Source: the kernel's Documentation/networking/ip-sysctl.rst.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from mlbd.core.state import OF_IPV6, Sysctl

NAMES = (
    "accept_local",
    "arp_announce",
    "arp_filter",
    "arp_ignore",
    "ignore_routes_with_linkdown",
    "promote_secondaries",
    "src_valid_mark",
    "use_oif_addrs_only",
)
_MULTIPATH = ("fib_multipath_hash_fields", "fib_multipath_hash_policy")
"""The former from Linux 5.12 on."""
_CONNTRACK = ("nf_conntrack_tcp_be_liberal", "nf_conntrack_tcp_loose")
GLOBAL_SCOPES = {"/ipv4": _MULTIPATH, "/ipv6": _MULTIPATH, "/netfilter": _CONNTRACK}
"""With their names."""
FILTER = "rp_filter"
"""Only of interfaces that are asked for with it."""
ALL = "/all"
"""The scope of what is for all interfaces, as far as it is stricter than theirs; only read."""
_ROOT = "/proc/sys/net"


def _asked(interfaces: Iterable[str], filtered: Collection[str]) -> Iterator[tuple[str, str]]:
    for scope in dict.fromkeys((*interfaces, *GLOBAL_SCOPES)):
        for name in GLOBAL_SCOPES.get(scope, NAMES):
            yield scope, name
    for scope in (*filtered, ALL) if filtered else ():
        yield scope, FILTER


def observe(interfaces: Iterable[str], filtered: Collection[str] = ()) -> Iterator[Sysctl]:
    """The settings of those interfaces that exist, and those of no interface that this kernel has. The reverse path
    filter of the interfaces `filtered`, and what `/all` has of it, if any are.
    """
    for scope, name in _asked(interfaces, filtered):
        found = _read(scope, name)
        if found:  # else the interface does not exist, or vanishes at this moment
            value = found.decode(errors="replace").strip()
            yield Sysctl(scope, name, str(int(value)) if value.isdecimal() else value)


def raw() -> list[bytes]:
    """What the files of those settings have in them that are of no single interface, for comparison only."""
    return [_read(scope, name) for scope, name in (*_asked((), ()), (ALL, FILTER))]


def _read(scope: str, name: str) -> bytes:
    """What the file has in it, nothing if it can't be read. By system calls: a look reads seven for each interface, and
    `Path.read_text` takes five times as long.
    """
    try:
        file = os.open(_path(scope, name), os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError):
        return b""
    try:
        return os.read(file, 64)
    except OSError:
        return b""
    finally:
        os.close(file)


def write(sysctl: Sysctl) -> None:
    """Set it. Raises OSError: no such interface, /proc/sys is read-only. ValueError: it is none of ours."""
    if sysctl.scope == ALL:
        raise ValueError(f"net.ipv4.conf.all.{sysctl.name} is not a setting that mlbd changes")
    path = _path(sysctl.scope, sysctl.name)
    try:
        Path(path).write_text(sysctl.value)
    except FileNotFoundError as error:
        missing = f"setting {path}" if sysctl.scope in GLOBAL_SCOPES else f"interface {sysctl.scope}"
        raise OSError(error.errno, f"there is no {missing}") from None
    except OSError as error:
        raise OSError(error.errno, f"{path} can't be written: {error.strerror}") from None


@lru_cache(maxsize=4096)
def _path(scope: str, name: str) -> str:
    if name in GLOBAL_SCOPES.get(scope, ()):
        return f"{_ROOT}{scope}/{name}"
    if scope == ALL and name == FILTER:
        return f"{_ROOT}/ipv4/conf/all/{name}"
    if "/" in scope or scope in ("", ".", "..", "all", "default") or name not in (*NAMES, FILTER):
        raise ValueError(f"net.ipv4.conf.{scope}.{name} is not a setting that mlbd changes")
    return f"{_ROOT}/{'ipv6' if name in OF_IPV6 else 'ipv4'}/conf/{scope}/{name}"
