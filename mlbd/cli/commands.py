"""The commands, one function each."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mlbd.config import ConfigError, Problem, load
from mlbd.control import NoDaemon, Refused, follow, request
from mlbd.core.settings import Daemon, Settings

if TYPE_CHECKING:
    from mlbd.kernel import LinuxKernel

T = TypeVar("T")

CLEAR = "\033[H\033[2J"


def init(options: argparse.Namespace) -> int:
    from mlbd.cli.init import init as write

    return write(options.file)


def run(options: argparse.Namespace) -> int:
    from mlbd.daemon import serve

    return asyncio.run(serve(options.config))


def check(options: argparse.Namespace) -> int:
    path: Path = options.file or options.config
    loaded = load_or_complain(path)
    if loaded is None:
        return 2
    settings, warnings = loaded
    _print_problems(warnings)
    parts = {
        "uplinks": [f"{u.name} ({u.interface})" for u in settings.uplinks],
        "policies": [f"{p.name} ({p.method})" for p in settings.policies if p.members],
        "bundles": [f"{name} ({', '.join(members)})" for name, members in settings.bundles.items()],
    }
    said = "; ".join(f"{kind} {', '.join(names)}" for kind, names in parts.items() if names)
    print(f"{path} is good: {said}.")
    return 0


def status(options: argparse.Namespace) -> int:
    from mlbd.report.screen import render

    if options.exit_code is not None:
        from mlbd.cli.carrying import carrying

        return carrying(options, _control(options.config))
    while True:
        try:
            answer = request(_control(options.config), "status")
        except (NoDaemon, Refused) as error:
            if not options.watch:
                return _say(str(error), 1)
            text = f"mlbd: {error}"  # it may be restarting
        else:
            text = json.dumps(answer) if options.json else render(answer, colour=sys.stdout.isatty())
            if not options.watch:
                print(text)
                ways = answer["uplinks"] or [m for bundle in answer["bundles"] for m in bundle["members"]]
                return 0 if any(way["usable"] for way in ways) else 3
        print((CLEAR if sys.stdout.isatty() and not options.json else "") + text, flush=True)
        time.sleep(1.0)


def plan(options: argparse.Namespace) -> int:
    """By the running daemon, which knows the verdicts; without one, as if all uplinks that facts allow were usable."""
    loaded = load_or_complain(options.config)
    if loaded is None:
        return 2
    note = ""
    try:
        changes = request(loaded[0].daemon.control, "plan", config=str(options.config.resolve()))
    except NoDaemon:
        note = "No daemon is running; shown is what it would have done once its probes had found the uplinks good."
        from mlbd.planning import plan_of

        settings = loaded[0]
        outcome = _with_kernel(settings.daemon, lambda kernel: plan_of(kernel, settings))
        if isinstance(outcome, int):
            return outcome
        changes = outcome
    except Refused as error:
        return _say("\n".join([str(error), *error.problems]), 2)
    if options.json:
        print(json.dumps(changes))
    else:
        print("\n".join(c["text"] for c in changes) or "Nothing to change.")
        if note:
            print(note, file=sys.stderr)
    return 3 if changes else 0


def explain(options: argparse.Namespace) -> int:
    """The daemon answers, since it knows the verdicts; what can't be asked is said without it."""
    from mlbd.core.question import question
    from mlbd.report.explanation import render

    keys = ("destination", "source", "interface", "protocol", "port", "source_port", "mark")
    asked = {key: value for key in keys if (value := getattr(options, key)) is not None}
    try:
        question(**asked)
    except ValueError as error:
        return _say(str(error), 2)
    try:
        answer = request(_control(options.config), "explain", **asked)
    except (NoDaemon, Refused) as error:
        return _say(str(error), 1)
    print(json.dumps(answer) if options.json else render(answer))
    return 0


def events(options: argparse.Namespace) -> int:
    """Followed, it waits for a daemon that restarts, and goes on where it was."""
    path = _control(options.config)
    last: dict[str, Any] | None = None
    connected = waiting = False
    try:
        while True:
            try:
                with contextlib.closing(follow(path, "events", follow=options.follow)) as parts:
                    for part in parts:
                        new = part[part.index(last) + 1 :] if last in part else part
                        _print_events(new, as_json=options.json)
                        if not options.follow:
                            return 0
                        last = new[-1] if new else last
                        connected, waiting = True, False
            except (NoDaemon, Refused) as error:
                if not connected:
                    return _say(str(error), 1)
                if not waiting:
                    waiting = True
                    _say(f"{error}; waiting for it", 1)
                time.sleep(1.0)
    except KeyboardInterrupt:
        return 0


def _print_events(told: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    from mlbd.report.history import sentence

    for event in told:
        print(json.dumps(event) if as_json else sentence(event), flush=True)


def drain(options: argparse.Namespace) -> int:
    from mlbd.cli import maintenance

    return maintenance.ask(options, _control(options.config))


resume = drain


def drill(options: argparse.Namespace) -> int:
    from mlbd.cli import maintenance

    return maintenance.drill(options, _control(options.config))


def reload(options: argparse.Namespace) -> int:
    loaded = load_or_complain(options.config)
    if loaded is None:
        return 2
    try:
        request(loaded[0].daemon.control, "reload", config=str(options.config.resolve()))
    except NoDaemon as error:
        return _say(str(error), 1)
    except Refused as error:
        return _say("\n".join([str(error), *error.problems]), 2)
    print("reloaded")
    return 0


def release(options: argparse.Namespace) -> int:
    from mlbd.control import AlreadyRunning, OneDaemon
    from mlbd.release import release as release_all

    settings = Daemon()
    if options.config.exists():
        loaded = load_or_complain(options.config)
        if loaded is None:
            return 2
        settings = loaded[0].daemon
    else:
        print(f"mlbd: there is no {options.config}; assuming the default protocol and tables", file=sys.stderr)
    one = OneDaemon()
    try:
        one.acquire()
    except AlreadyRunning as error:
        return _say(f"process {error.pid} is running mlbd and would put everything back; stop it first", 1)
    errors = _with_kernel(settings, release_all)
    if isinstance(errors, int):
        return errors
    for failed in errors:
        _say(failed.reason, 1)
    return 1 if errors else 0


def demo(options: argparse.Namespace) -> int:
    from mlbd.lab.demo import demo as show

    files = [] if options.config is None else [options.config]
    if options.config is not None and options.config.is_dir():
        from mlbd.lab.pair_demo import complaint

        if said := complaint(options.config, options.fault):
            return _say(said, 2)
        files = [options.config / f"router{n}" / "mlbd.toml" for n in (1, 2)]
    if None in [load_or_complain(file) for file in files]:
        return 2
    return show(options)


# What they share.


def load_or_complain(path: Path) -> tuple[Settings, Sequence[Problem]] | None:
    """The settings and warnings of a file; None after its errors were printed."""
    try:
        loaded = load(path)
    except ConfigError as error:
        _print_problems(error.problems)
        return None
    return loaded.settings, loaded.warnings


def _control(path: Path) -> str:
    """Where the daemon listens. A status must be had also while the file is being edited and wrong."""
    try:
        return load(path).settings.daemon.control
    except ConfigError:
        return Daemon().control


def _with_kernel(settings: Daemon, work: Callable[[LinuxKernel], Coroutine[Any, Any, T]]) -> T | int:
    """Runs it on the real kernel; an exit status instead of its result if the kernel can't be worked with."""
    from mlbd.core.ports import KernelUnavailableError
    from mlbd.kernel import LinuxKernel

    async def run() -> T:
        async with LinuxKernel(settings.protocol, settings.table_base) as kernel:
            return await work(kernel)

    try:
        return asyncio.run(run())
    except (KernelUnavailableError, OSError) as error:
        return _say(str(error), 1)


def _print_problems(problems: Sequence[Problem]) -> None:
    for problem in problems:
        print(problem, file=sys.stderr)


def _say(text: str, status: int) -> int:
    print(f"mlbd: {text}", file=sys.stderr)
    return status
