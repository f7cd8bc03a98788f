"""DHCP with Debian's own programs: dhcpd at a provider, dhclient and its script on the router. Set-up unpacks them."""

from __future__ import annotations

import ipaddress
import re
import subprocess
from pathlib import Path

import pytest

from mlbd.lab.network import Network, wait_until

_DEBIAN = Path(__file__).parent.parent.parent / "build" / "debian"
_DHCPD, _DHCLIENT = _DEBIAN / "usr" / "sbin" / "dhcpd", _DEBIAN / "sbin" / "dhclient"
_SCRIPT = _DEBIAN / "sbin" / "dhclient-script"
_SERVER = """\
authoritative;
ping-check false;
default-lease-time {lease};
min-lease-time {lease};
max-lease-time {lease};
option dhcp-renewal-time {renew};
option dhcp-rebinding-time {rebind};
{identifier}
subnet {network} netmask {mask} {{
  range {address} {address};
  option routers {router};
}}
"""
"""For dhcpd.conf(5)."""
_CLIENT = "initial-interval 1;\nbackoff-cutoff 1;\nretry 1;\nreboot 2;\nselect-timeout 0;\ninitial-delay 0;\n"
"""For dhclient.conf(5): not patient. Without it the first answer may take 10 s."""
_PRIVATE_ETC = 'mount -t tmpfs none /etc && exec "$@"'
"""The script may write /etc/resolv.conf, and reads hooks of the machine's own."""

NEEDS_DHCP = pytest.mark.skipif(
    not (_DHCPD.exists() and _DHCLIENT.exists()), reason="set-up got no DHCP programs: Debian's apt-get is needed"
)


class Dhcp:
    """A lease for one uplink's interface, which loses all its own addresses; nothing runs yet."""

    def __init__(self, net: Network, number: int = 1) -> None:
        self._net = net
        self._uplink = net.uplink(number)
        self._interface, self._isp = self._uplink.interface, f"isp{number}"
        self._directory = net.directory / f"dhcp{number}"
        self._directory.mkdir()
        (self._directory / "dhclient.conf").write_text(_CLIENT)
        self._server: subprocess.Popen[bytes] | None = None
        self._client: subprocess.Popen[bytes] | None = None
        for family in (4, 6):
            net.run("router", ["ip", f"-{family}", "address", "flush", "dev", self._interface, "scope", "global"])
            net.run("router", ["ip", f"-{family}", "route", "flush", "dev", self._interface, "default"])

    def serve(
        self, interface: str, router: str, *, identifier: str = "", lease: int = 60, renew: int = 30, rebind: int = 50
    ) -> None:
        """Lease `interface`, an address with prefix length, and its gateway, for `lease` seconds, until `end_server`.

        `renew`, `rebind`: T1 and T2 of RFC 2131 4.4.5, seconds. `identifier`: the address that renewals are sent to,
        if not that of the provider's interface.
        """
        found = ipaddress.ip_interface(interface)
        text = _SERVER.format(
            network=found.network.network_address,
            mask=found.netmask,
            address=found.ip,
            router=router,
            lease=lease,
            renew=renew,
            rebind=rebind,
            identifier=f"option dhcp-server-identifier {identifier};" if identifier else "",
        )
        config, leases = self._directory / "dhcpd.conf", self._directory / "dhcpd.leases"
        config.write_text(text)
        leases.write_text("")
        command = [str(_DHCPD), "-4", "-f", "-d", "--no-pid", "-cf", str(config), "-lf", str(leases), "customer"]
        with (self._directory / "dhcpd.log").open("ab") as log:
            self._server = self._net.spawn(self._isp, command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def end_server(self) -> None:
        """It answers nobody any more."""
        assert self._server is not None
        self._server.kill()
        self._server.wait()

    def start_client(self) -> None:
        """dhclient(8) in the foreground."""
        with (self._directory / "dhclient.log").open("ab") as log:
            command = self._dhclient("-d")
            self._client = self._net.spawn("router", command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill_client(self) -> None:
        """It ends without a word; what it configured stays."""
        assert self._client is not None
        self._client.kill()
        self._client.wait()

    def release(self) -> None:
        """`dhclient -r`: tells the server, takes the address from the interface, and ends the client."""
        self._net.run("router", self._dhclient("-r"))

    def _dhclient(self, how: str) -> list[str]:
        options = ["-4", "-v", how, "-sf", str(_SCRIPT), "-e", f"IF_METRIC={self._uplink.metric}"]
        for key, name in (("-cf", "dhclient.conf"), ("-lf", "dhclient.leases"), ("-pf", "dhclient.pid")):
            options += [key, str(self._directory / name)]
        inside = [str(_DHCLIENT), *options, self._interface]
        return ["unshare", "--mount", "--", "sh", "-ec", _PRIVATE_ETC, "sh", *inside]

    def said(self, pattern: str) -> int:
        """How many lines of the server's log match."""
        return len(re.findall(pattern, self.log("dhcpd"), re.MULTILINE))

    def log(self, program: str = "dhclient") -> str:
        path = self._directory / f"{program}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_renewed(self, times: int, *, timeout: float = 10.0) -> None:
        """Until so many more leases have been renewed. Raises LabError after the timeout, seconds."""
        before = self.said("^DHCPACK ")
        wait_until(lambda: self.said("^DHCPACK ") >= before + times, timeout=timeout, what="a renewal")
