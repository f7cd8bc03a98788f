"""Two uplinks as others configure them, fiber static and lte by DHCP, and the provider that leases addresses."""

from __future__ import annotations

import subprocess
from pathlib import Path

from mlbd.lab.namespaces import ip_each
from tests.vm.system import Router

UPLINKS = ("fiber", "lte")
METRICS = {"fiber": 101, "lte": 102}
"""Of the default routes: two of one metric are one too many for most programs."""

INTERFACES = Path("/etc/network/interfaces.d/uplinks")
IFUPDOWN = """
iface fiber inet static
  address 10.1.0.2/24
  gateway 10.1.0.1
  metric 101

iface fiber inet6 static
  address 2001:db8:1::2/64
  gateway 2001:db8:1::1
  metric 101

iface lte inet dhcp
  metric 102
"""

UNITS = Path("/run/systemd/network")
_NO_IPV6 = "LinkLocalAddressing=no\nIPv6AcceptRA=no\n"
NETWORKD = {
    "fiber": f"Address=10.1.0.2/24\n{_NO_IPV6}[Route]\nGateway=10.1.0.1\nMetric=101\n",
    "lte": f"DHCP=ipv4\n{_NO_IPV6}[DHCPv4]\nRouteMetric=102\n",
}

NM_FILE = Path("/run/NetworkManager/conf.d/uplinks.conf")
NETWORK_MANAGER = """
[main]
no-auto-default=*
dns=none
rc-manager=unmanaged

[keyfile]
unmanaged-devices=*,except:interface-name:fiber,except:interface-name:lte

# udev tells it to leave veths alone.
[device-uplinks]
match-device=interface-name:fiber,interface-name:lte
managed=1
"""
NM_CONNECTIONS = {
    "fiber": "ipv4.method manual ipv4.addresses 10.1.0.2/24 ipv4.gateway 10.1.0.1 ipv4.route-metric 101",
    "lte": "ipv4.method auto ipv4.route-metric 102",
}


class Leasing(Router):
    """The provider of lte has a DHCP server."""

    _server: subprocess.Popen[bytes] | None = None

    def lease(self, network: str) -> None:
        """From now on: the address `network`.2, by the gateway `network`.1."""
        self.end_leasing()
        ip_each({self.namespace("isp2"): [f"address replace {network}.1/24 dev customer"]})
        file = self.directory / network
        file.unlink(missing_ok=True)
        command = ["dnsmasq", "--keep-in-foreground", "--conf-file", "--pid-file", "--user=root", "--port=0"]
        command += ["--interface=customer", "--no-ping", "--dhcp-authoritative", f"--dhcp-leasefile={file}"]
        command += [f"--dhcp-range={network}.2,{network}.2,255.255.255.0,1h", f"--dhcp-option=3,{network}.1"]
        self._server = self.spawn("isp2", command, stderr=subprocess.DEVNULL)

    def end_leasing(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.wait()

    def let_dhcp_in(self) -> None:
        """Requests come from 0.0.0.0, which the provider takes for a wrong source."""
        self.run("isp2", ["nft", "insert rule inet provider arrive udp dport 67 accept"])
