"""The three IPv4 settings of an uplink's interface that mlbd changes.

/proc/sys/net shows the network namespace of the process that opens it. A file is a path component per part of the
name, so a dot in an interface name needs no care here, as it does for sysctl(8).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from mlbd.core.state import Sysctl

NAMES = ("ignore_routes_with_linkdown", "promote_secondaries", "src_valid_mark")
_ROOT = Path("/proc/sys/net/ipv4/conf")


def observe(interfaces: Iterable[str]) -> Iterator[Sysctl]:
    """The settings of those interfaces that exist."""
    for interface in interfaces:
        for name in NAMES:
            try:
                yield Sysctl(interface, name, _path(interface, name).read_text().strip())
            except (OSError, ValueError):
                continue  # the interface does not exist, or vanishes at this moment


def write(sysctl: Sysctl) -> None:
    """Set it. Raises OSError: no such interface, /proc/sys is read-only."""
    path = _path(sysctl.interface, sysctl.name)
    try:
        path.write_text(sysctl.value)
    except FileNotFoundError as error:
        raise OSError(error.errno, f"there is no interface {sysctl.interface}") from None
    except OSError as error:
        raise OSError(error.errno, f"{path} can't be written: {error.strerror}") from None


def _path(interface: str, name: str) -> Path:
    if "/" in interface or interface in ("", ".", "..", "all", "default") or name not in NAMES:
        raise ValueError(f"net.ipv4.conf.{interface}.{name} is not the setting of an interface")
    return _ROOT / interface / name
