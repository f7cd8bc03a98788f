"""The reference for a silent provider: the loop of ping and `ip route replace` that people run from a terminal.

It has the same interval, timeout and count as mlbd, and no quicker pace once it suspects something.
"""

from __future__ import annotations

import subprocess

from mlbd.lab.network import Network

_SCRIPT = """
bad=0
while :; do
    if ping -n -q -c 1 -W "$TIMEOUT" -I "$FIRST" "$FIRST_GATEWAY" >/dev/null 2>&1; then
        [ "$bad" -ge "$FALL" ] && ip route replace default via "$FIRST_GATEWAY"
        bad=0
    else
        bad=$((bad + 1))
        [ "$bad" -eq "$FALL" ] && ip route replace default via "$SECOND_GATEWAY"
    fi
    sleep "$INTERVAL"
done
"""


def start(net: Network, *, interval: float, timeout: float, fall: int) -> None:
    """Run it in the router, from the first uplink to the second, until the network is closed; seconds."""
    settings: dict[str, object] = {"INTERVAL": interval, "TIMEOUT": timeout, "FALL": fall}
    first, second = net.uplink(1), net.uplink(2)
    settings |= {"FIRST": first.interface, "FIRST_GATEWAY": first.gateway, "SECOND_GATEWAY": second.gateway}
    net.run("router", ["ip", "route", "replace", "default", "via", first.gateway])
    command = ["env", *(f"{key}={value}" for key, value in settings.items()), "sh", "-c", _SCRIPT]
    net.spawn("router", command, stdin=subprocess.DEVNULL)
