"""Make the machine a router that is to be started: `python -m tests.vm.boot.prepare`, before it boots once more.

Its cards are the first ends of qemu's cables (`tests.vm.machine.CABLES`), renamed by udev; the second ends are the
client's and the providers', which nobody has set up yet when it boots.
"""

from __future__ import annotations

from pathlib import Path

from tests.vm.machine import mac
from tests.vm.system import CONFIG, PACKAGE, apt, run

NAMES = {1: ("fiber", "far1"), 2: ("lte", "far2"), 3: ("lan", "far3")}
"""What udev calls the two ends of each cable."""
_NETWORKS = {
    "lan": "Address=192.168.1.1/24\n",
    "fiber": "DHCP=ipv4\n[DHCPv4]\nRouteMetric=100\n",
    "lte": "Address=203.0.113.2/24\n[Route]\nGateway=203.0.113.1\nMetric=200\n",
}
_CONFIG = """
[[uplink]]
name = "fiber"
interface = "fiber"

[[uplink]]
name = "lte"
interface = "lte"

[probe]
interval = "300ms"
hold_max = "1s"
"""
_CLIENT = """#!/bin/sh
# A client of the LAN, from the first moment that there is a cable. It writes down when it got which answer.
until ip link set far3 netns client 2>/dev/null; do
    ip netns add client 2>/dev/null
    sleep 0.2
done
ip -n client link set far3 up
ip -n client addr add 192.168.1.2/24 dev far3
ip -n client route add default via 192.168.1.1
exec ip netns exec client ping -D -O -n -i 0.5 192.168.1.1
"""
_UNIT = """
[Unit]
DefaultDependencies=no
After=systemd-udevd.service systemd-tmpfiles-setup.service
[Service]
ExecStart=/usr/local/sbin/client
StandardOutput=file:/run/client
[Install]
WantedBy=sysinit.target
"""


def main() -> None:
    apt("install", str(PACKAGE))
    CONFIG.write_text(_CONFIG)
    units = Path("/etc/systemd/network")
    for cable, ends in NAMES.items():
        for end, name in enumerate(ends, 1):
            link = f"[Match]\nMACAddress={mac(cable, end)}\n[Link]\nName={name}\n"
            (units / f"10-{name}.link").write_text(link)
    for name, lines in _NETWORKS.items():
        (units / f"10-{name}.network").write_text(f"[Match]\nName={name}\n[Network]\n{lines}")
    Path("/etc/sysctl.d/forward.conf").write_text("net.ipv4.ip_forward = 1\n")
    client = Path("/usr/local/sbin/client")
    client.write_text(_CLIENT)
    client.chmod(0o755)
    Path("/etc/systemd/system/client.service").write_text(_UNIT)
    run("systemctl", "enable", "client", "systemd-networkd", "mlbd")


if __name__ == "__main__":
    main()
