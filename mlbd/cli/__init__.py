"""The command line. Each command is a function from parsed arguments to an exit status; errors go to stderr in words.

Imports happen inside the commands: `mlbd check` must not load netlink, nor `mlbd status` the daemon.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from mlbd import __version__

DEFAULT_CONFIG = Path("/etc/mlbd/mlbd.toml")


def main(arguments: list[str] | None = None) -> int:
    """`mlbd ...`; returns the exit status. Never shows a traceback for something a user can do."""
    options = parser().parse_args(arguments)
    from mlbd.cli import commands

    try:
        return int(getattr(commands, options.command)(options))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "-c", "--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help="configuration (%(default)s)"
    )
    root = argparse.ArgumentParser(
        prog="mlbd", description="Keeps a Linux router with several uplinks working.", parents=[]
    )
    root.add_argument("--version", action="version", version=f"mlbd {__version__}")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, *, configured: bool = True) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, parents=[common] if configured else [])

    init = command("init", "Print a configuration made of what is there, ready to be used.", configured=False)
    init.add_argument("file", nargs="?", type=Path, metavar="FILE", help="write it there; never over a file")
    command("run", "Run the daemon, in the foreground.")
    check = command("check", "Check a configuration; touches nothing, needs no privileges.")
    check.add_argument("file", nargs="?", type=Path, metavar="FILE", help="instead of --config")
    command("plan", "Show what a cycle would change in the kernel now.").add_argument(
        "--json", action="store_true", help="for programs"
    )
    status = command("status", "Show uplinks, verdicts with reasons, quality, shares.")
    status.add_argument("--json", action="store_true", help="for programs")
    status.add_argument("--watch", action="store_true", help="again every second, until interrupted")
    status.add_argument(
        "--exit-code",
        metavar="NAME",
        help="only whether this uplink or policy carries traffic, also by the exit status",
    )
    explain = command("explain", "Say where a packet would go, and why.")
    explain.add_argument("destination", metavar="DST", help="an IPv4 or IPv6 address")
    explain.add_argument("--from", dest="source", metavar="SRC", help="who sends it; without it, the router itself")
    explain.add_argument("--interface", metavar="IF", help="by which it comes in; if not given, what leads to SRC")
    explain.add_argument("--protocol", metavar="P", help="tcp (if not given), udp, icmp, ..., or a number")
    explain.add_argument("--port", metavar="N", help="the destination's port")
    explain.add_argument("--source-port", metavar="N", help="the source's port")
    explain.add_argument("--mark", metavar="V", help="the packet's mark as other programs set it, 0x80000")
    explain.add_argument("--json", action="store_true", help="for programs")
    events = command("events", "Show what happened to uplinks of late, with the evidence, newest last.")
    events.add_argument("--follow", action="store_true", help="go on as more happens, until interrupted")
    events.add_argument("--json", action="store_true", help="for programs: an object for each event, one a line")
    drain = command("drain", "Give an uplink no new connections; existing ones finish.")
    drain.add_argument("uplink", metavar="UPLINK", help="its name")
    drain.add_argument("--for", dest="for_", metavar="TIME", help="for so long, such as 1h; else until it is resumed")
    command("resume", "End a drain.").add_argument("uplink", metavar="UPLINK", help="its name")
    drill = command("drill", "Treat an uplink as dead for a while, and tell what happens.")
    drill.add_argument("uplink", metavar="UPLINK", help="its name")
    drill.add_argument("--for", dest="for_", metavar="TIME", required=True, help="how long, such as 30s")
    drill.add_argument("--json", action="store_true", help="for programs: an object for each step, one a line")
    command("reload", "Make the daemon read its file again; a wrong file changes nothing.")
    command("release", "Remove everything that mlbd owns from the kernel.")
    demo = command(
        "demo", "Build a network in namespaces, run the daemon on it, break uplinks, show what happens.",
        configured=False,
    )  # fmt: skip
    demo.add_argument(
        "-c", "--config", type=Path, metavar="FILE",
        help="run the demo's daemon with this file; a directory with router1/ and router2/: the demo of two routers",
    )  # fmt: skip
    demo.add_argument(
        "--fault", choices=("silent", "carrier", "flap"), help="only this one, instead of one after the other"
    )
    demo.add_argument("--once", action="store_true", help="end after the faults instead of staying until Ctrl-C")
    return root
