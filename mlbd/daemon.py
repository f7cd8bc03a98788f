"""The composition root: builds the parts, runs them in one TaskGroup, handles signals, reload and the end.

Whatever happens here, the kernel keeps what it has: forwarding does not depend on this process. Only `on_exit =
"release"` and `mlbd release` take it away.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from mlbd import __version__
from mlbd.config import ConfigError, Loaded, load
from mlbd.control import AlreadyRunning, ControlServer, OneDaemon, Refused
from mlbd.core.bundles import member_name
from mlbd.core.describe import describe
from mlbd.core.diversion import diversions
from mlbd.core.layout import Layout, adopted
from mlbd.core.plan import Change
from mlbd.core.ports import KernelUnavailableError
from mlbd.core.probing import Failure, Order, Outcome
from mlbd.core.router import Router
from mlbd.core.ruleset import counter_name
from mlbd.core.settings import Settings
from mlbd.core.status import CycleStatus, Status, Transition
from mlbd.explaining import Explainer
from mlbd.hooks import Hooks
from mlbd.kernel import CarrierReader, LinuxKernel, Watch
from mlbd.loop import Loop
from mlbd.maintenance import Maintenance
from mlbd.miimon import Miimon
from mlbd.planning import plan_of
from mlbd.probe import Prober
from mlbd.release import release
from mlbd.report import History, Log, Metrics, Service, TrackFiles, received_bytes
from mlbd.suspicion import Suspicion

GUARD_EVERY = 0.8
"""Seconds between looks whether anybody changed a sysctl."""

_FIXED = ("metrics", "control", "fwmark_mask", "table_base", "rule_priority", "protocol")
"""Keys of [daemon] that are read at start only."""


class Daemon:
    def __init__(self, config: Path, settings: Settings, kernel: LinuxKernel, router: Router, log: Log) -> None:
        self.config = config
        self.settings = settings
        self.started = time.time()
        self.warnings: tuple[str, ...] = ()
        self._kernel = kernel
        self._log = log
        self._metrics = Metrics(self.status, self._connections)
        self._service = Service()
        self._history = History(Path(settings.daemon.control).with_name("events.jsonl"))
        self._tracks = TrackFiles(Path(settings.daemon.control).with_name("keepalived"))
        self._hooks = Hooks(settings.daemon.hooks, log, self._metrics.hook_ran)
        self._prober = Prober(self._heard)
        self.loop = Loop(kernel, router, self._prober.send, self)
        self._maintenance = Maintenance(
            self.loop,
            Path(settings.daemon.control).with_name("drained.json"),
            self._assigned,
            lambda why: log.warning("maintenance", reason=why),
        )
        self._suspicion = Suspicion(kernel.neighbour_overflows, received_bytes)
        self._watch = Watch(self.loop.link, self.loop.look_again, self._overrun, lambda: kernel.port)
        self._carrier = CarrierReader()
        self._miimon = Miimon(self.loop, self._carrier.read, self._doubt)
        self._stop = asyncio.Event()
        self._failure: Exception | None = None

    async def run(self) -> None:
        """Returns when told to stop. Raises what a part failed of; the kernel then keeps what it has."""
        control = ControlServer(
            self.settings.daemon.control,
            {
                "status": self._on_status,
                "plan": self._on_plan,
                "explain": self._on_explain,
                "reload": self._on_reload,
                "events": self._on_events,
                "drain": self._maintenance.on_drain,
                "resume": self._maintenance.on_resume,
                "drill": self._maintenance.on_drill,
            },
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        loop.set_exception_handler(self._on_exception)
        await control.start()
        self._history.load()
        self._maintenance.restore()
        self._show_tracks()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self.loop.run(), name="loop"),
                    group.create_task(self._watch.run(), name="watch"),
                    group.create_task(self._miimon.run(), name="miimon"),
                    group.create_task(self._kernel.hear_nftables(self.loop.look_again), name="nftables"),
                    group.create_task(self._guard_sysctls(), name="sysctls"),
                    group.create_task(self._ready(), name="ready"),
                    group.create_task(self._tracks.run(self._service.period), name="track files"),
                    group.create_task(self._hooks.run(), name="hooks"),
                ]
                if self.settings.daemon.metrics is not None:
                    tasks.append(group.create_task(self._metrics.run(*self.settings.daemon.metrics), name="metrics"))
                await self._stop.wait()
                self._service.stopping()
                for task in tasks:
                    task.cancel()
        finally:
            self.loop.stop()
            await control.stop()
            self._prober.close()
        if self._failure is not None:
            raise self._failure
        if self.settings.daemon.on_exit == "release":
            for error in await release(self._kernel):
                self._log.error("could not release", reason=error.reason)

    # Who asks.

    def status(self) -> Status:
        now, offset = time.monotonic(), time.time() - time.monotonic()
        router = self.loop.router
        return Status(
            version=__version__,
            pid=os.getpid(),
            config=str(self.config),
            started=self.started,
            settled=router.settled,
            uplinks=router.uplink_status(now, offset),
            policies=router.policy_status(),
            bundles=router.bundle_status(now, offset),
            last_cycle=self.loop.last_cycle,
            warnings=(*self.warnings, *self._diversions(), *filter(None, [self._suspicion.warning, self.loop.fight])),
        )

    def _diversions(self) -> tuple[str, ...]:
        seen = self.loop.observation
        return () if seen is None else diversions(seen.foreign_rules, seen.wide_routes, Layout.of(self.settings.daemon))

    async def _on_status(self, _: dict[str, object]) -> object:
        return self.status()

    async def _on_reload(self, asked: dict[str, object]) -> object:
        self._refuse_other_file(asked)
        self.reload()
        return "reloaded"

    async def _on_plan(self, asked: dict[str, object]) -> object:
        """What a cycle would change now, with the configuration file as it is now."""
        self._refuse_other_file(asked)
        settings = self._read()[0]
        now = self.loop.router.decide(time.monotonic())
        return await plan_of(self._kernel, settings, now)

    async def _on_events(self, asked: dict[str, object]) -> object:
        return self._history.follow() if asked.get("follow") is True else self._history.events

    async def _on_explain(self, asked: dict[str, object]) -> object:
        """Where a packet would go, by what is in force."""
        router, seen = self.loop.router, self.loop.observation
        if seen is None:
            raise Refused("the kernel has not been looked at yet; ask again in a moment")
        now = router.decide(time.monotonic())
        return await Explainer(self._kernel, router.settings, router.identities, now, seen).answer(asked)

    def _refuse_other_file(self, asked: dict[str, object]) -> None:
        """Who names a file means that one; the daemon has only its own, and does not read others' for whoever asks."""
        own = self.config.resolve()
        if asked.get("config", str(own)) != str(own):
            raise Refused(f"the daemon runs with {own}, not with {asked['config']}")

    def _on_hangup(self) -> None:
        with contextlib.suppress(Refused):  # said in the log
            self.reload()

    def _on_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback that failed may be the one that probes: better a fresh start than half a daemon."""
        loop.default_exception_handler(context)
        if "handle" in context and isinstance(context.get("exception"), Exception):
            self._failure = context["exception"]
            self._stop.set()

    def reload(self) -> None:
        """Reads the file again. Raises Refused with every problem, and nothing has changed."""
        self._service.reloading()
        try:
            settings, warnings = self._read()
        except Refused as refused:
            self._log.error("configuration not reloaded, the old one stays", reason=str(refused))
            self._metrics.reloaded(False)
            raise
        else:
            for uplink in self.settings.uplinks:
                if uplink not in settings.uplinks:
                    self._prober.forget(uplink.name)
            for bundle, interface in self.settings.memberships - settings.memberships:
                self._prober.forget(member_name(bundle, interface))
            self.settings, self.warnings = settings, warnings
            self._hooks.directory = settings.daemon.hooks
            self.loop.load(settings)
            self._maintenance.reloaded()
            self._log.info("configuration reloaded", config=str(self.config))
            self._metrics.reloaded(True)
        finally:
            self._service.ready(self.status())

    def _read(self) -> tuple[Settings, tuple[str, ...]]:
        try:
            loaded = load(self.config)
        except ConfigError as error:
            count = len(error.problems)
            raise Refused(
                f"{self.config} has {count} error{'s' if count > 1 else ''}: {error.problems[0]}",
                tuple(str(p) for p in error.problems),
            ) from None
        new, old = loaded.settings.daemon, self.settings.daemon
        fixed = [f"daemon.{key}" for key in _FIXED if getattr(new, key) != getattr(old, key)]
        if fixed:
            raise Refused(f"{' and '.join(fixed)} can't change while the daemon runs; restart it for that")
        return loaded.settings, tuple(str(w) for w in loaded.warnings)

    async def _connections(self) -> dict[str, int]:
        """Connections assigned to each uplink since the table was made."""
        counters = self._kernel.counters()
        return {u.name: counters.get(counter_name(u.name), 0) for u in self.settings.uplinks}

    # What keeps running.

    def _doubt(self) -> None:
        """Asks whether lost probes are evidence, and says so when that changes."""
        router, suspicion, now = self.loop.router, self._suspicion, time.monotonic()
        suspects = router.suspects()
        if not suspects and not suspicion.due(now):
            return
        before = suspicion.doubt, suspicion.warning
        suspicion.look(suspects, sum(not u.peer for u in router.settings.uplinks), now)
        if suspicion.doubt != before[0]:
            router.doubt(suspicion.doubt)
            if suspicion.doubt:
                self._log.warning("probes are no evidence", reason=suspicion.doubt)
            else:
                self._log.info("probes are evidence again")
        if suspicion.warning and not before[1]:
            self._log.warning("all probes fail", reason=suspicion.warning)

    def _assigned(self, uplink: str) -> int:
        """Connections that it was given since the table was made; 0 if the kernel does not say."""
        try:
            return self._kernel.counters().get(counter_name(uplink), 0)
        except OSError:
            return 0

    async def _guard_sysctls(self) -> None:
        """Nothing tells that one was changed."""
        before: list[bytes] = []
        while True:
            with contextlib.suppress(OSError):  # the next look finds that out, too
                now = self._kernel.sysctls([facts.index for facts in self.loop.router.watched().values()])
                if now != before:
                    self.loop.look_again()
                before = now
            await asyncio.sleep(GUARD_EVERY)

    async def _ready(self) -> None:
        """READY after the first applied cycle; then the watchdog is fed from this event loop, and no other."""
        await self.loop.first_cycle()
        self._service.ready(self.status())
        while True:
            await asyncio.sleep(self._service.period)
            self._service.alive(self.status())

    def _show_tracks(self) -> None:
        self._tracks.show(self.loop.router.carrying())

    def _overrun(self) -> None:
        """The kernel dropped netlink messages: whatever they said, look."""
        self._metrics.overrun()
        self._log.warning("netlink messages were lost, looking again")
        self.loop.look_again()

    # What the loop reports.

    def transition(self, transition: Transition, took: float | None) -> None:
        self._log.transition(transition, took)
        self._history.add(transition, took)
        self._show_tracks()
        if transition.bundle:
            self._hooks.notify(transition, None, None)
            return
        self._maintenance.transition(transition, took)
        for uplink in self.settings.uplinks:
            if uplink.name == transition.uplink:
                self._hooks.notify(transition, uplink, self.loop.router.watched().get(uplink.interface))
        if took is not None and transition.event == "uplink_down":
            self._metrics.failover(took)

    def cycle(self, cycle: CycleStatus, changes: Sequence[Change]) -> None:
        self._show_tracks()
        self._metrics.cycle(cycle, changes)
        self._log.refused(cycle.errors, time.monotonic())

    def repaired(self, changes: Sequence[Change], by: Collection[str]) -> None:
        self._metrics.repaired(changes)
        who = {"by": " or ".join(sorted(by))} if by else {}
        told = [describe(c) for c in changes][:20]
        self._log.warning("repaired what another program changed", **who, changes=told)

    def fight(self, advice: str) -> None:
        self._log.warning("another program works against mlbd", reason=advice)

    def cut(self, uplink: str) -> None:
        self._maintenance.cut(uplink)
        self._metrics.flushed(uplink)
        self._log.info("connections cut loose", uplink=uplink or "(removed)")

    def probe_sent(self, order: Order) -> None:
        self._metrics.probe_sent(order)

    def _heard(self, outcome: Outcome) -> None:
        self.loop.outcome(outcome)

    def probe_outcome(self, outcome: Outcome) -> None:
        if isinstance(outcome, Failure):
            self._metrics.probe_failed(outcome)
        else:
            self._metrics.probe_answered(outcome)


async def serve(config: Path) -> int:
    """`mlbd run`: the exit status."""
    try:
        loaded = load(config)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return 2
    daemon = loaded.settings.daemon
    one = OneDaemon()
    try:
        one.acquire()
        with contextlib.closing(LinuxKernel(daemon.protocol, daemon.table_base)) as kernel:
            return await _serve(config, loaded, kernel)
    except (AlreadyRunning, KernelUnavailableError) as error:
        print(f"mlbd: {error}", file=sys.stderr)
        return 1
    finally:
        one.release()


async def _serve(config: Path, loaded: Loaded, kernel: LinuxKernel) -> int:
    log = Log()
    for warning in loaded.warnings:
        log.warning("configuration", reason=str(warning))
    settings = loaded.settings
    try:
        left = (await kernel.observe([u.interface for u in settings.uplinks])).state
        router = Router(settings, adopted(left), time.monotonic(), left)
        daemon = Daemon(config, settings, kernel, router, log)
        daemon.warnings = tuple(str(w) for w in loaded.warnings)
        await daemon.run()
    except OSError as error:
        log.error("could not start", reason=str(error))
        return 1
    except Exception as error:  # a defect; whoever supervises us starts us afresh, and that adopts what is there
        cause = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
        where = traceback.extract_tb(cause.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        log.error("internal error, please report it", reason=f"{type(cause).__name__}: {cause}, at {place}")
        return 1
    return 0
