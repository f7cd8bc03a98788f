"""What systemd is told: sd_notify(3), by sdnotify, which sends but does not know the watchdog or the clock.

Everything is ASCII: sdnotify encodes as Latin-1 and silently loses the whole message, READY=1 included, over a
character that Latin-1 lacks. Nothing happens without NOTIFY_SOCKET.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from sdnotify import SystemdNotifier

from mlbd.core.status import PortStatus, Status, UplinkStatus

_REFRESH = 5.0
"""Seconds between refreshes of the status text."""


class Service:
    def __init__(self) -> None:
        self._notifier = SystemdNotifier()
        if self._notifier.socket is not None:
            # A service manager that hangs must not hang the router.
            self._notifier.socket.setblocking(False)
        watchdog = _watchdog()
        self.period = _REFRESH if watchdog is None else min(_REFRESH, watchdog / 2)
        """Seconds after which `alive` wants to be called again."""

    def ready(self, status: Status) -> None:
        """Started, or done with reloading."""
        self._notify(f"READY=1\nSTATUS={summary(status)}")

    def alive(self, status: Status) -> None:
        """The event loop still turns: feeds the watchdog, and says how things are."""
        self._notify(f"WATCHDOG=1\nSTATUS={summary(status)}")

    def reloading(self) -> None:
        """Must be followed by `ready`, whether the reload succeeds or not (Type=notify-reload)."""
        self._notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._notify("STOPPING=1")

    def _notify(self, state: str) -> None:
        self._notifier.notify(state.encode("ascii", "replace").decode("ascii"))


def _watchdog() -> float | None:
    """Seconds within which systemd wants to hear from this process, or None: sd_watchdog_enabled(3)."""
    try:
        microseconds = int(os.environ["WATCHDOG_USEC"])
        pid = int(os.environ.get("WATCHDOG_PID") or os.getpid())
    except (KeyError, ValueError):
        return None
    return microseconds / 1e6 if microseconds > 0 and pid == os.getpid() else None


def summary(status: Status) -> str:
    """How things are in one line: `2 of 3 uplinks usable: lte DOWN (3 of 3 probes lost)`, and so of the members of
    bundles.
    """
    members = {f"{bundle.name}/{port.interface}": port for bundle in status.bundles for port in bundle.members}
    parts = []
    if status.uplinks or not members:
        parts.append(_part("uplinks", {uplink.name: uplink for uplink in status.uplinks}))
    if members:
        parts.append(_part("members", members))
    return " ".join("; ".join(parts).split())


def _part(what: str, those: Mapping[str, UplinkStatus | PortStatus]) -> str:
    usable = sum(one.usable for one in those.values())
    missing = ", ".join(_why(name, one) for name, one in those.items() if not one.usable)
    return f"{usable} of {len(those)} {what} usable" + (f": {missing}" if missing else "")


def _why(name: str, one: UplinkStatus | PortStatus) -> str:
    state = "drained" if isinstance(one, UplinkStatus) and one.drained else one.verdict
    return f"{name} {state}" + (f" ({one.reason})" if one.reason else "")
