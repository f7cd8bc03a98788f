"""Programs that others install for the same purpose, as references: each changes the router when it notices.

keepalived is Debian's and only knows carriers. dpinger and foomuuri run where the variables DPINGER and FOOMUURI give
the paths of their programs; as tight as mlbd in the same benchmark (a probe every 100 ms, three or two of them lost),
and the command that they run then replaces the default route, as people have them do.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from mlbd.lab.network import Network

GIVEN = {"dpinger": "DPINGER", "foomuuri": "FOOMUURI"}
"""The variable of each program."""

_QUIET = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

_KEEPALIVED = """
global_defs {{
    vrrp_garp_master_repeat 1
}}
vrrp_instance clients {{
    version 3
    state MASTER
    interface lan1
    virtual_router_id 51
    priority 100
    advert_int 0.1
    virtual_ipaddress {{
        {address} dev lan1
    }}
    track_interface {{
        {interface}
    }}
}}
"""

_FOOMUURI = """
target first {{
    command fping --interval=10 --period=100 {gateway}
    command_up {up}
    command_down {down}
    history_size 10
    history_up 3
    history_down 10
    consecutive_up 3
    consecutive_down 3
}}
"""


def keepalived(net: Network) -> bool:
    """Have it hold an address of the LAN while the first uplink has carrier; whether it is installed."""
    program = shutil.which("keepalived")
    if program is None:
        return False
    config = net.directory / "keepalived.conf"
    address = f"{net.lan(1).source(1)}/32"
    config.write_text(_KEEPALIVED.format(address=address, interface=net.uplink(1).interface))
    pids = [f"--pid={net.directory}/keepalived.pid", f"--vrrp_pid={net.directory}/vrrp.pid"]
    net.spawn("router", [program, "--dont-fork", "--vrrp", f"--use-file={config}", *pids], **_QUIET)
    return True


def start(name: str, net: Network) -> bool:
    """Have it watch the first uplink's gateway, and move the default route; whether its program was given."""
    path = os.environ.get(GIVEN[name])
    if not path:
        return False
    first = net.uplink(1)
    down, up = (_command(net, n) for n in (2, 1))
    if name == "dpinger":
        alert = net.directory / "alert"
        _script(alert, f'[ "$2" != 0 ] && exec {down}\nexec {up}')
        settings = ["-s", "100", "-t", "1000", "-L", "20", "-A", "100", "-H", "100", "-r", "0"]
        command = [path, "-f", "-B", first.address, *settings, "-C", str(alert), first.gateway]
    else:
        config = Path(net.directory, "foomuuri")
        config.mkdir()
        (config / "first.conf").write_text(_FOOMUURI.format(gateway=first.gateway, up=up, down=down))
        places = [f"--set={key}={config}" for key in ("etc_dir", "share_dir", "state_dir", "run_dir")]
        command = [path, *places, "monitor"]
    net.spawn("router", command, **_QUIET)
    return True


def _command(net: Network, number: int) -> Path:
    """A program that makes this uplink the default."""
    path = net.directory / f"to-{number}"
    _script(path, f"exec {shutil.which('ip')} route replace default via {net.uplink(number).gateway}")
    return path


def _script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
