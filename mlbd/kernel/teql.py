"""TEQL: members of a device are the interfaces whose root queueing discipline has the device's name.

The devices are made by the module sch_teql when it is loaded, as many as it is told, in the first network namespace,
and never again; they can't be deleted (net/sched/sch_teql.c). Loading is all that mlbd runs a program for here.

Sources: linux/rtnetlink.h, linux/pkt_sched.h; modprobe(8).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import shutil
import socket
import struct
import time
from collections.abc import Collection, Iterable
from pathlib import Path

from mlbd.core.plan import Change
from mlbd.core.state import Port, Teql
from mlbd.kernel import bonds
from mlbd.kernel.links import Link
from mlbd.kernel.netlink import attribute, text

NEW_QDISC, DELETE_QDISC = 36, 37
"""RTM_NEWQDISC, RTM_DELQDISC."""
NAME = b"teql"
_TCMSG = struct.Struct("=BxxxiIII")
"""struct tcmsg: family, device index, handle, parent, info."""
_ROOT = 0xFFFFFFFF
"""TC_H_ROOT."""
_KIND = 1
"""TCA_KIND."""
_DEVICE = re.compile(r"teql(0|[1-9][0-9]{0,4})")

_TIME_LIMIT = 10.0
_TRY_AGAIN = 60.0
"""Seconds after which a module that could not be loaded is tried again."""


def is_name(name: str) -> bool:
    """Whether a TEQL device can have it."""
    return _DEVICE.fullmatch(name) is not None


def is_device(link: Link) -> bool:
    return is_name(link.name) and not bonds.kind(link)


def attached(link: Link) -> str:
    """The TEQL device that it is a member of; "" for none. The root queueing discipline is in every link message."""
    found = link.shown.get(bonds.QDISC, b"")
    return text(found) if found.startswith(NAME) and is_name(text(found)) else ""


def qdisc(index: int, kind: str) -> bytes:
    """The message that makes it the root of the interface, or deletes it there."""
    return _TCMSG.pack(socket.AF_UNSPEC, index, 0, _ROOT, 0) + attribute(_KIND, kind.encode() + b"\0")


def needed(changes: Iterable[Change]) -> set[str]:
    """TEQL devices without which these changes can't be made."""
    found = {c.new.name if isinstance(c.new, Teql) else c.new.bundle for c in changes if isinstance(c.new, Teql | Port)}
    return set(filter(is_name, found))


class Module:
    """sch_teql, loaded when it is needed and as long as nobody else has."""

    def __init__(self) -> None:
        self._tried = -_TRY_AGAIN
        self._trouble = ""

    async def provide(self, devices: Collection[str]) -> None:
        """Load it if a device is missing that it would bring. Whether it worked is seen by the device."""
        if all(map(_exists, devices)) or _is_loaded() or time.monotonic() < self._tried + _TRY_AGAIN:
            return
        self._tried = time.monotonic()
        self._trouble = await _modprobe(max(map(_number, devices)) + 1)

    def missing(self, device: str) -> OSError:
        """The error that tells what to do about it."""
        load = f"`modprobe sch_teql max_equalizers={_number(device) + 1}`"
        if _is_loaded():
            why = f"the module sch_teql makes its devices when it is loaded, and this one is not among them: {load} "
            return OSError(errno.ENODEV, f"there is no {device}: {why}after `modprobe -r sch_teql` makes it")
        trouble = f" ({self._trouble})" if self._trouble else ""
        advice = f"load the module by {load}, and at boot by /etc/modules-load.d"
        return OSError(errno.ENODEV, f"there is no {device}: {advice}{trouble}")


def _is_loaded() -> bool:
    return Path("/sys/module/sch_teql").exists()


def _exists(device: str) -> bool:
    try:
        socket.if_nametoindex(device)
    except OSError:
        return False
    return True


def _number(device: str) -> int:
    return int(device.removeprefix("teql"))


async def _modprobe(count: int) -> str:
    """Why it failed; "" if it did not."""
    program = shutil.which("modprobe", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        return "there is no modprobe"
    pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(
            program, "sch_teql", f"max_equalizers={count}", stdin=nothing, stdout=nothing, stderr=pipe
        )
    except OSError as error:
        return f"{program}: {error.strerror}"
    try:
        async with asyncio.timeout(_TIME_LIMIT):
            _, said = await process.communicate()
    except TimeoutError:
        return f"modprobe did not end in {_TIME_LIMIT:g} s"
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
    lines = said.decode(errors="replace").split("\n")
    return (lines[0] or f"modprobe ended with status {process.returncode}") if process.returncode else ""
