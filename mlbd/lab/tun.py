"""A point-to-point line between the router and a provider, as by PPP or a modem: two tun devices and a process.

The process hands packets from one to the other. Stopped, the line is silent; killed, its devices vanish, as those of
a program that dials. It replaces the cable of an uplink, and the provider's end has the cable's name, so that all that
a `Network` counts and breaks works as before.

    with TunLine(net, 2) as line:
        line.dial()
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from mlbd.lab.namespaces import LabError, has_ipv6, ip_each
from mlbd.lab.network import Network, wait_until

_DEVICE = Path("/dev/net/tun")
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_BIGGEST = 1 << 16


def unavailable() -> str:
    """Why there can be no such line here; "" if there can."""
    try:
        os.close(os.open(_DEVICE, os.O_RDWR))
    except OSError as error:
        return f"{_DEVICE}: {error.strerror}"
    return ""


class TunLine:
    """In place of uplink `number`'s cable. Nothing is there before it is dialled."""

    def __init__(self, net: Network, number: int) -> None:
        self._net = net
        self._uplink = net.uplink(number)
        self._places = {"router": self._uplink.interface, f"isp{number}": "customer"}
        self._process: subprocess.Popen[bytes] | None = None
        net.remove(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hang_up()

    def dial(self, *, host: int = 2) -> str:
        """Make the devices, with addresses, and return the router's IPv4 one, host number `host` of the network.

        The far end is always .1, and the peer's address of the router's end. Raises LabError.
        """
        near, far = (self._uplink.gateway.rpartition(".")[0] + f".{n}" for n in (host, 1))
        near6, far6 = self._uplink.address6, self._uplink.gateway6
        ends = [self._open(where, name) for where, name in self._places.items()]
        self._process = self._net.spawn("router", [sys.executable, "-m", __name__, *map(str, ends)], pass_fds=ends)
        for end in ends:
            os.close(end)
        lines = {}
        for (where, name), own, peer, own6 in zip(
            self._places.items(), (near, far), (far, near), (near6, far6), strict=True
        ):
            lines[self._net.namespace(where)] = [
                f"link set {name} up",
                f"address add {own} peer {peer} dev {name}",
                f"address add {own6}/64 dev {name} nodad",
            ]
        ip_each(lines)
        with self._net.inside("router"):
            wait_until(lambda: has_ipv6([near6]), what=f"that {near6} receives")
        return near

    def stop(self) -> None:
        """The line is silent; the device stays."""
        self._running().send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End `stop`. What waits in the devices arrives late."""
        self._running().send_signal(signal.SIGCONT)

    def hang_up(self) -> None:
        """The process dies, and the devices vanish with it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _open(self, where: str, name: str) -> int:
        with self._net.inside(where):
            try:
                end = os.open(_DEVICE, os.O_RDWR)
                fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
            except OSError as error:
                raise LabError(f"A tun device {name} in {where}: {error}") from error
        return end

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise LabError("The line was not dialled.")
        return self._process


def main() -> None:
    """Hand packets over until killed. A device that is down takes none, and they are lost."""
    first, second = map(int, sys.argv[1:])
    others = {first: second, second: first}
    while True:
        for end in select.select([first, second], [], [])[0]:
            try:
                os.write(others[end], os.read(end, _BIGGEST))
            except OSError:
                continue


if __name__ == "__main__":
    main()
