"""The walk: legs of a few events, and after each a settling in which everything is checked."""

from __future__ import annotations

import copy
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from mlbd.lab.daemon import Daemon
from mlbd.lab.namespaces import LabError
from mlbd.lab.network import Network
from tests.chaos import kernel, packets
from tests.chaos.events import EVENTS, Event, Lab
from tests.chaos.files import File
from tests.chaos.truth import FAMILIES, Line, Truth
from tests.chaos.witness import Witnesses

UPLINKS = 3
_MOST = 6
"""Events in a leg."""
_SETTLE = 20.0
"""Seconds until the daemon and the kernel must be as demanded: repairs slow down where others don't rest."""
_PAUSES = (0.0, 0.0, 0.02, 0.05, 0.1, 0.2, 0.8)
_WARM = 5
"""Settlings of one daemon after which its size is what it was and stays."""
_GROWTH = 6000
"""kB by which it may grow after that."""
_DESCRIPTORS = 4
_GOODBYE = 90.0
"""Seconds for which the router's own TCP tries to end a connection."""


class BrokenError(Exception):
    """The walk found something; the message tells what, and how to walk there again."""


@dataclass(frozen=True, slots=True)
class Step:
    """An event, to which line, and how long is waited after it."""

    event: Event
    line: int
    pause: float

    def __str__(self) -> str:
        return f"{self.event.name} {self.line}" if self.event.each else self.event.name


@dataclass
class Size:
    """What the daemon takes: of one process."""

    pid: int = 0
    settlings: int = 0
    memory: int = 0
    descriptors: int = 0


def drawn(rng: random.Random, truth: Truth) -> list[Step]:
    """The next leg. `truth` is changed as they will change it."""
    steps = []
    for _ in range(rng.randint(1, _MOST)):
        choices = [
            (event, line, event.weight / (len(truth.lines) if event.each else 1))
            for event in EVENTS.values()
            for line in ([*truth.lines.values()] if event.each else [truth.lines[1]])
            if event.possible(truth, line)
        ]
        event, line, _ = rng.choices(choices, [weight for *_, weight in choices])[0]
        steps.append(Step(event, line.number, rng.choice(_PAUSES)))
        event.changes(truth, line)
    return steps


def told(text: str) -> list[list[Step]]:
    """Legs as a failure tells them: `silence 1, kill; load-tiers`."""
    legs = []
    for leg in re.split(r"[;\n]", text):
        words = [step.split() for step in leg.split(",") if step.strip()]
        legs.append([_step(*w) for w in words])
    return [leg for leg in legs if leg]


def _step(name: str, line: str = "1", pause: str = "0.1") -> Step:
    return Step(EVENTS[name], int(line), float(pause))


@dataclass
class Walk:
    """A network, a daemon in it and the truth about both."""

    lab: Lab
    told: list[list[Step]] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)
    """Checks, and what they looked at."""
    _theirs: str = ""
    _parted: dict[int, float] = field(default_factory=dict)
    """When uplinks were last seen not to be in the file, or to part with an address."""
    _size: Size = field(default_factory=Size)

    @classmethod
    def begin(cls, net: Network) -> Self:
        kernel.settle_in(net)
        truth = Truth.begin(UPLINKS)
        theirs = kernel.theirs(net)
        daemon = Daemon(net, truth.file.toml()).start()
        walk = cls(Lab(net, daemon, truth), _theirs=theirs)
        if problems := walk._settle():
            raise BrokenError(walk._story(problems, "at the start"))
        return walk

    @property
    def truth(self) -> Truth:
        return self.lab.truth

    @property
    def events(self) -> int:
        return sum(len(leg) for leg in self.told)

    def at_random(self, seed: int, events: int, *, speak: bool = False) -> None:
        """So many events of a seed. Raises BrokenError."""
        rng = random.Random(seed)
        while self.events < events:
            leg = drawn(rng, copy.deepcopy(self.truth))
            self._guarded(leg, f"seed {seed}")
            if speak:
                print(f"{self.events:5} {time.strftime('%X')} {', '.join(map(str, leg))}", file=sys.stderr, flush=True)

    def along(self, text: str) -> None:
        """Legs that are written down. Raises BrokenError."""
        for leg in told(text):
            self._guarded(leg, "as told")

    def _guarded(self, leg: list[Step], whence: str) -> None:
        self.told.append(leg)
        try:
            problems = [*self._leg(leg)]
        except (LabError, AssertionError, OSError) as error:
            problems = [f"{type(error).__name__}: {error}"]
        if problems:
            raise BrokenError(self._story(problems, whence))

    def _story(self, problems: Sequence[str], whence: str) -> str:
        numbers = iter(range(1, self.events + 1))
        legs = ["   ".join(f"{next(numbers)} {step}" for step in leg) for leg in self.told]
        last = ", ".join(f"{step} {step.pause}" for leg in self.told[-1:] for step in leg)
        return "\n".join(
            [
                f"Broken after {self.events} events ({whence}); one line is a leg, after which all is checked:",
                *legs,
                f"The last leg with its pauses: {last}",
                "The truth:",
                f"  file {self.truth.file.name}, detour {self.truth.detour}, running {self.truth.running}",
                *(f"  {line}" for line in self.truth.lines.values()),
                "The daemon's log ends:",
                *(f"  {line[:600]}" for line in self.lab.daemon.log_text().splitlines()[-25:]),
                "What is wrong:",
                *(f"  {problem}" for problem in problems),
            ]
        )

    # One leg.

    def _leg(self, leg: list[Step]) -> Iterator[str]:
        truth, net = self.truth, self.lab.net
        before = truth.file
        foreseen = copy.deepcopy(truth)
        files = [before]
        for step in leg:
            step.event.changes(foreseen, foreseen.lines[step.line])
            files.append(foreseen.file)
        hurts = {step.event.hurts for step in leg}
        hurt = {step.line for step in leg if step.event.hurts == "line"}
        hurt |= {number for number in truth.lines if "all" in hurts or any(number not in f.uplinks for f in files)}
        spoils = any(step.event.spoils for step in leg)
        flushes = any(file.recover == "flush" for file in files)
        own = all(file.own == "route" for file in files)
        witnesses = Witnesses(net, truth, hurt, talking="talking" not in hurts, datagrams=not flushes, own=own)
        self.counted["witnesses"] += witnesses.count
        try:
            for step in leg:
                self._happen(step)
            if not truth.running:
                self._happen(Step(EVENTS["start"], 1, 0.0))
            problems = self._settle()
            yield from problems
            if not problems:
                yield from witnesses.problems()
        finally:
            witnesses.close()
        if spoils:
            self._forget_strangers()
        yield from self._always(files)

    def _happen(self, step: Step) -> None:
        line = self.truth.lines[step.line]
        if not step.event.possible(self.truth, line):
            raise LabError(f"{step} is not possible here.")
        step.event.do(self.lab, line)
        step.event.changes(self.truth, line)
        self.truth.seen(surely=False)
        self.counted[step.event.name] += 1
        time.sleep(step.pause)

    # One settling.

    def _settle(self) -> list[str]:
        """Wait for what is demanded, then check that it is so, and that it stays so while it is checked."""
        problems: list[str] = []
        for _ in range(3):
            status, problems = self._wait()
            if problems:
                return problems
            problems = packets.problems(self.lab.net, self.truth, status, self.counted["packet checks"])
            self.counted["packet checks"] += 1
            after = self.lab.daemon.status()
            both = zip(status["uplinks"], after["uplinks"], strict=True)
            moved = {u["name"] for u, v in both if _turns(u) != _turns(v)}
            unsteady = {line.name for line in self.truth.lines.values() if line.loss}
            if moved - unsteady:
                return [*problems, f"{moved - unsteady} changed while nothing happened"]
            if not moved:
                self.truth.torn = False
                return problems + self._kernel_problems(after)
        return problems

    def _wait(self) -> tuple[dict[str, Any], list[str]]:
        """Until status and kernel are as demanded; what is not, after the time for it."""
        deadline = time.monotonic() + _SETTLE
        while True:
            status = self.lab.daemon.status()
            problems = [*self._status_problems(status)]
            if not problems:
                self.truth.seen(surely=True)  # it says so
                problems = self._kernel_problems(status)
            if not problems or time.monotonic() > deadline:
                return status, problems
            time.sleep(0.03)

    def _kernel_problems(self, status: dict[str, Any]) -> list[str]:
        self.counted["looks"] += 1
        problems = kernel.problems(self.lab.net, self.truth, status)
        planned = self.lab.daemon.command("plan")
        return problems + [f"mlbd plan: {change['text']}" for change in planned]

    def _status_problems(self, status: dict[str, Any]) -> Iterator[str]:
        truth = self.truth
        if not status["settled"]:
            yield "not settled"
            return
        if [u["name"] for u in status["uplinks"]] != [line.name for line in truth.configured]:
            yield f"uplinks are {[u['name'] for u in status['uplinks']]}"
            return
        if status["last_cycle"]["errors"]:
            yield f"the last cycle failed: {status['last_cycle']['errors']}"
        for line, found in zip(truth.configured, status["uplinks"], strict=True):
            yield from self._uplink_problems(line, found)
        if {(u["name"], u["id"]) for u in status["uplinks"]} != {(u.name, u.id) for u in truth.configured}:
            yield f"identities have changed: {[(u['name'], u['id']) for u in status['uplinks']]}"
        for policy, found in zip(truth.file.policies, status["policies"], strict=True):
            demands = [truth.of_policy(policy, family) for family in FAMILIES]
            if any(demand.kind == "any" for demand in demands):
                continue
            # It shows the family that more members carry, IPv4 if equal; one that is the best of none counts as one.
            sizes = [len(d.uplinks) if d.kind == "all" else int(d.kind == "one") for d in demands]
            demand = demands[sizes.index(max(sizes))]
            shown = {int(m["uplink"].removeprefix("wan")) for m in found["members"] if m["share"]}
            if demand.kind == "all" and shown != demand.uplinks:
                yield f"policy {policy.name} shows {shown}, not {set(demand.uplinks)}"
            if (demand.kind == "all") != (found["last_resort"] is None):
                yield f"policy {policy.name}: last resort {found['last_resort']}, demanded is {demand}"

    def _uplink_problems(self, line: Line, found: dict[str, Any]) -> Iterator[str]:
        net, truth = self.lab.net, self.truth
        if line.id is None:
            line.id = found["id"]
        wanted = {"usable": truth.usable(line.number), "drained": line.drained, "degraded": False}
        wanted["carrier"] = (line.up and line.plugged) if line.exists else None  # type: ignore[assignment]
        uplink = net.uplink(line.number)
        for key, family, gateway in (("gateway", 4, uplink.gateway), ("gateway6", 6, uplink.gateway6)):
            if line.has_route(family):
                wanted[key] = gateway  # type: ignore[assignment]
        shown = {key: found[key] for key in wanted}
        if shown != wanted:
            yield f"{line.name} is {shown}, not {wanted}: {found['reason']}"

    # What always holds.

    def _always(self, files: Sequence[File]) -> Iterator[str]:
        net, daemon = self.lab.net, self.lab.daemon
        ours = {number for number in self.truth.lines if all(number in file.uplinks for file in files)}
        renumbered = {step.line for step in self.told[-1] if step.event.name == "renumber"}
        self._parted |= dict.fromkeys((self.truth.lines.keys() - ours) | renumbered, time.monotonic())
        for number in ours:
            for owner, stranger in kernel.strangers(net, number):
                # Who keeps an address that is no uplink's any more goes with it where others go, and says goodbye.
                if owner is None or time.monotonic() > self._parted.get(owner, 0.0) + _GOODBYE:
                    yield f"a packet left by wan{number} with a wrong source: {stranger}"
        self._forget_strangers()
        log = daemon.log_text()
        if "Traceback" in log or "internal error" in log:
            yield "the daemon's log has a traceback"
        if (theirs := kernel.theirs(net)) != self._theirs:
            yield f"others' objects have changed:\n{theirs}\nbefore:\n{self._theirs}"
        if lost := kernel.marks_lost(net):
            yield f"{lost} packets lost the mark of another program"
        yield from self._sized()

    def _forget_strangers(self) -> None:
        for number in self.truth.lines:
            kernel.forget_strangers(self.lab.net, number)

    def _sized(self) -> Iterator[str]:
        pid = self.lab.daemon.pid
        found = re.search(r"VmRSS:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        assert found is not None
        memory, descriptors = int(found[1]), len([*Path(f"/proc/{pid}/fd").iterdir()])
        if self._size.pid != pid:
            self._size = Size(pid)
        size = self._size
        if any(target.startswith("tcp:") for target in self.truth.file.targets):
            return  # each probe is a socket, and those that fail stay a while
        size.settlings += 1
        if size.settlings <= _WARM:
            size.memory, size.descriptors = memory, descriptors
        self.counted["most kB grown"] = max(self.counted["most kB grown"], memory - size.memory)
        if memory > size.memory + _GROWTH:
            yield f"the daemon has grown from {size.memory} to {memory} kB in {size.settlings} settlings"
        if descriptors > size.descriptors + _DESCRIPTORS:
            yield f"the daemon has {descriptors} open files, not {size.descriptors}"


def _turns(uplink: dict[str, Any]) -> tuple[Any, Any]:
    return uplink["transitions"], uplink["usable"]
