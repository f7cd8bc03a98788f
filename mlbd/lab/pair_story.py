"""What happens in the demo of two routers: a line dies, a router dies, a router is taken out, under traffic.

It is told in steps: `start` and `tell` are generators that yield whenever time may pass. Nothing here prints.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, Self

from msgspec.structs import replace

from mlbd.lab import demo_outcome, pair_outcome
from mlbd.lab.demo_screen import Event, Kind
from mlbd.lab.demo_traffic import Traffic
from mlbd.lab.namespaces import LabError
from mlbd.lab.pair import BOTH, Pair
from mlbd.lab.pair_outcome import Outcome, Step
from mlbd.lab.pair_programs import Programs
from mlbd.lab.stream import UdpStream

Fault = Literal["silent", "carrier"]
RATE, CONNECTIONS = 200.0, 25.0
"""Of each segment: datagrams and new connections a second."""

_CONVERSATIONS = 6
"""Of each segment: connections that last."""
_LIMIT = 120.0
"""Seconds that a stream may last: those of one telling."""
_CALM, _BROKEN, _OFF, _AFTERWARDS = 2.0, 1.5, 2.0, 2.0
"""Seconds that what was seen goes on: before all, with something dead, with a router off, after a repair."""
_PATIENCE = 12.0
"""Seconds in which what must happen has to."""
_ANSWERED = 0.3
"""Seconds after which a datagram without an answer is lost."""
_STAGGER = 0.15
"""Seconds between two conversations that end by themselves."""


class PairStory:
    """Owns the network, both routers' programs and the traffic, from `with` to its end."""

    def __init__(self, files: Mapping[int, Mapping[str, str]], lines: Mapping[int, str]) -> None:
        """The texts of each router's files by their names, and the names of their own uplinks."""
        self.lines = lines
        self.began = time.monotonic()
        self.now, self.now_since, self.alarm = "the network is being built", self.began, False
        self.events: list[Event] = []
        self.outcomes: list[Outcome] = []
        """Of the last telling that came to its end, and of those before."""
        self.marks: list[tuple[float, Literal["!", "+"]]] = []
        self.status: dict[int, dict[str, Any]] = {}
        """Of each router's mlbd, the last one."""
        self.traffic: dict[int, Traffic] = {}
        """By segment, as all that follows."""
        self.holders: dict[int, list[int]] = {}
        self._leaves: dict[int, int] = {}
        """By which line the last new connection went."""
        self._newest: dict[int, float] = {}
        """When that was begun."""
        self._programs: dict[int, Programs] = {}
        self._streams: dict[int, list[UdpStream]] = {}
        self._steps: list[Step] = []
        self._wrong = 0
        """Packets with a wrong source that are none of the story's."""
        self._told: Counter[int] = Counter()
        """Transitions of each router that are among the events."""
        self._files = files
        self._stack = contextlib.ExitStack()
        self._offset = time.monotonic() - time.time()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    # What is told; all are generators that yield while time passes

    def start(self) -> Iterator[None]:
        """Build everything. Raises LabError."""
        yield
        self._pair = self._stack.enter_context(Pair())
        self._programs.update((n, Programs(self._pair, n, self._files[n])) for n in BOTH)
        for programs in self._programs.values():
            self._stack.enter_context(programs)
        for k in BOTH:
            lan = self._pair.lan(k)
            self._say("note", f"segment {k} is {lan.subnet}, its gateway {lan.router}; router {k} has line {k}")
        self._say("note", "on both routers mlbd, keepalived and conntrackd start")
        self._now("both routers start")
        yield from self._boot(*BOTH)
        otherwise = "with both lines good, keepalived did not give gateway 1 to router 1 and gateway 2 to router 2"
        yield from self._until(self._at_home, f"{otherwise}: look at the priorities in both keepalived.conf.")
        for k in BOTH:
            traffic = Traffic(self._pair, rate=CONNECTIONS, conversations=_CONVERSATIONS, segment=k)
            self.traffic[k] = self._stack.enter_context(traffic)

    def tell(self, fault: Fault | None) -> Iterator[None]:
        """The whole story, or that of one fault of line 1, and its outcomes."""
        self._steps.clear()
        self._wrong = self._wrong_sources()
        yield from self._new_streams(*BOTH, kept=False)
        self._begin("all is well")
        self._now("all is well: each segment leaves by its own router and line")
        yield from self._wait(_CALM)
        yield from self._break_line(fault or "silent")
        if fault is None:
            yield from self._lose_router()
            yield from self._take_out()
        yield from self._account()

    def _break_line(self, fault: str) -> Iterator[None]:
        pair, what = self._pair, "silent" if fault == "silent" else "unplugged"
        self._fault(f"line 1 {what}", "line 1: " + ("its provider drops everything" if fault == "silent" else what))
        if fault == "silent":
            pair.silence(1)
        else:
            pair.unplug(1)
        yield from self._until(lambda: self._held([2], [2]), "gateway 1 did not move to router 2")
        yield from self._end_of_line_1()
        self._begin("line 1 repaired")
        self._heal("line 1 works again, and has to prove it")
        if fault == "silent":
            pair.speak(1)
        else:
            pair.plug(1)
        yield from self._until(self._at_home, "gateway 1 did not return to router 1")
        yield from self._settle()

    def _lose_router(self) -> Iterator[None]:
        yield from self._spread()
        self._fault("router 1 dies", "router 1 loses its power")
        self._programs[1].power_off()
        yield from self._until(lambda: self._held([2], [2]), "gateway 1 did not move to router 2")
        yield from self._end_of_line_1()
        self._begin("router 1 returns")
        yield from self._return()

    def _take_out(self) -> Iterator[None]:
        yield from self._spread()
        self._begin("line 1 drained")
        router, line = self._programs[1], self.lines[1]
        self._say("note", f"router 1 is to be taken out: mlbd drain {line}")
        self._now(f"{line} is drained: nothing new, and what is there ends by itself")
        router.daemon.command("drain", uplink=line)
        yield from self._until(lambda: self._leaves.get(1) == 2, "new connections still went by line 1")
        yield from self._new_streams(1)
        yield from self._renew(lambda uplink: uplink == 1)
        yield from self._until(lambda: self._on_line(1) == 0, "conversations stayed on line 1")
        self._begin("router 1 off")
        self._say("note", "nothing is left on line 1: router 1's keepalived is stopped")
        self._now("router 1 gives its gateway up")
        router.stop_keepalived()
        yield from self._until(lambda: self._held([2], [2]), "gateway 1 did not move to router 2")
        yield from self._wait(0.5)
        self._say("note", "router 1 is switched off")
        self._now("router 1 is off")
        router.power_off()
        yield from self._wait(_OFF)
        self._begin("router 1 back")
        yield from self._return(drained=True)

    def _end_of_line_1(self) -> Iterator[None]:
        """Its public address is gone, and each client learns of that when it next sends again what was not answered."""
        yield from self._until(lambda: self._on_line(1) == 0, "conversations of line 1 hang")
        ended = sum(found.uplink == 1 for found in self.traffic[1].breaks(self._steps[-1].began))
        if ended:
            self._say("note", f"{ended} conversations of line 1 have broken; their clients began anew on line 2")
        yield from self._wait(_BROKEN)

    def _return(self, *, drained: bool = False) -> Iterator[None]:
        self._heal("router 1 has power again, and boots")
        self._programs[1].power_on()
        yield from self._boot(1)
        if drained:
            self._say("note", f"mlbd resume {self.lines[1]}")
            self._programs[1].daemon.command("resume", uplink=self.lines[1])
        yield from self._until(self._at_home, "gateway 1 did not return to router 1")
        yield from self._settle()

    def _settle(self) -> Iterator[None]:
        stay = sum(talk.uplink == 2 for talk in self.traffic[1].conversations)
        if stay:
            text = f"{stay} conversations of segment 1 that began on line 2 go on there, through both routers"
            self._say("note", text)
        self._now("all is well; what began on line 2 stays there")
        yield from self._wait(_AFTERWARDS)

    # How it is done

    def _boot(self, *numbers: int) -> Iterator[None]:
        wrong = self._wrong_sources()
        for n in numbers:
            self._programs[n].daemon.start(wait=False)
        yield from self._until(lambda: all(self._settled(n) for n in numbers), "mlbd did not settle")
        # Before mlbd, a router's kernel forwards the other one's probes as they are.
        self._wrong += self._wrong_sources() - wrong
        for n in numbers:
            self._programs[n].start_conntrackd()
            try:
                self._programs[n].start_keepalived()
            except LabError as error:
                text = f"router{n}/keepalived.conf: keepalived did not start with it; `keepalived -t -f` may say why."
                raise LabError(text) from error
            yield

    def _settled(self, n: int) -> bool:
        daemon = self._programs[n].daemon
        if not daemon.runs():
            raise LabError(f"router {n}'s mlbd ended. {daemon.log_text()}")
        with contextlib.suppress(OSError, ValueError):
            return bool(daemon.status()["settled"])
        return False

    def _new_streams(self, *segments: int, kept: bool = True) -> Iterator[None]:
        """These segments begin other streams, then end those they had, which count on if they are `kept`."""
        new = {k: UdpStream(self._pair, f"lan{k}", rate=RATE, limit=_LIMIT) for k in segments}
        for stream in new.values():
            self._stack.enter_context(stream)
        yield
        for k, stream in new.items():
            stream.wait_started()
            before = self._streams.get(k, [])
            for old in before[-1:]:
                old.stop()
            self._streams[k] = [*before, stream] if kept else [stream]

    def _spread(self) -> Iterator[None]:
        """Segment 1 has its stream on line 1 again, and conversations on both lines, where it had them."""
        self._now("users end connections and begin others")
        yield from self._new_streams(1)
        yield from self._renew(lambda uplink: uplink != 1, most=_CONVERSATIONS // 2 - self._on_line(1))
        yield from self._wait(2 * _STAGGER)

    def _renew(self, which: Callable[[int | None], bool], *, most: int = _CONVERSATIONS) -> Iterator[None]:
        for talk in [talk for talk in self.traffic[1].conversations if which(talk.uplink)][: max(0, most)]:
            talk.renew = True
            yield from self._wait(_STAGGER)

    def _on_line(self, line: int) -> int:
        return sum(talk.uplink == line for traffic in self.traffic.values() for talk in traffic.conversations)

    def _held(self, *holders: list[int]) -> bool:
        return [self.holders.get(k) for k in BOTH] == [*holders]

    def _at_home(self) -> bool:
        return self._held([1], [2])

    def _wait(self, seconds: float) -> Iterator[None]:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._observe()
            yield

    def _until(self, holds: Callable[[], bool], otherwise: str) -> Iterator[None]:
        """Raises LabError if it does not hold in time before the first step; in a step that is a complaint."""
        end = time.monotonic() + _PATIENCE
        self._observe()
        while not holds():
            if time.monotonic() > end:
                if not self._steps:
                    raise LabError(otherwise)
                self._complain(otherwise)
                return
            yield
            self._observe()

    def _complain(self, text: str) -> None:
        self._steps[-1] = replace(self._steps[-1], complaints=(*self._steps[-1].complaints, text))

    def _wrong_sources(self) -> int:
        return sum(self._pair.wrong_source(n) for n in BOTH)

    def _begin(self, title: str, kills: int | None = None) -> None:
        now = time.monotonic()
        if self._steps:
            self._steps[-1] = replace(self._steps[-1], ended=now)
        on_it = 0 if kills is None else self._on_line(kills)
        self._steps.append(Step(title=title, began=now, kills=kills, begun_on_it=on_it))

    def _fault(self, title: str, text: str) -> None:
        self._begin(title, kills=1)
        self.marks.append((time.monotonic(), "!"))
        self._say("fault", text)
        self._now(text, alarm=True)

    def _heal(self, text: str) -> None:
        self.marks.append((time.monotonic(), "+"))
        self._say("heal", text)
        self._now(text)

    def _account(self) -> Iterator[None]:
        """What is under way has to come to its end first."""
        end = time.monotonic()
        self._steps[-1] = replace(self._steps[-1], ended=end)
        yield from self._wait(_ANSWERED)
        while any(since < end for traffic in self.traffic.values() for since in traffic.waiting()):
            yield
        if wrong := self._wrong_sources() - self._wrong:
            self._complain(f"the providers saw {wrong} packets with a wrong source")
        streams = {k: [stream.so_far() for stream in self._streams[k]] for k in BOTH}
        attempts = [attempt for traffic in self.traffic.values() for attempt in traffic.attempts()]
        breaks = [found for traffic in self.traffic.values() for found in traffic.breaks()]
        deaths = [step.began for step in self._steps if step.kills is not None]
        self.outcomes = [pair_outcome.outcome(step, streams, attempts, breaks, deaths) for step in self._steps]

    # What is seen

    def breaks(self) -> tuple[int, int]:
        """Conversations that ended in this telling: on a line that had died, and elsewhere."""
        began = self._steps[0].began if self._steps else self.began
        found = [b for traffic in self.traffic.values() for b in traffic.breaks(began)]
        excused = sum(b.uplink == s.kills and s.began <= b.at < s.ended for b in found for s in self._steps)
        return excused, len(found) - excused

    def datagrams(self) -> tuple[int, int]:
        """Sent and lost in this telling, but for the youngest."""
        until = time.monotonic() - _ANSWERED
        streams = [stream for streams in self._streams.values() for stream in streams]
        settled = [packet for stream in streams for packet in stream.so_far().packets if packet.sent < until]
        return len(settled), sum(packet.answered is None for packet in settled)

    def look(self) -> None:
        """Take in what the daemons say and by which line the streams leave."""
        for n, programs in self._programs.items():
            if programs.daemon.runs():
                with contextlib.suppress(OSError, ValueError, LabError):
                    self.status[n] = programs.daemon.status()
            found = demo_outcome.transitions(programs.daemon.log(), self._offset)
            own = [transition for transition in found if transition.uplink == self.lines[n]]
            for transition in own[self._told[n] :]:
                kind: Kind = "down" if transition.event == "uplink_down" else "up"
                self._say(kind, f"router {n}: {transition.text}", transition.at)
            self._told[n] = len(own)
        for k, traffic in self.traffic.items():
            for attempt in traffic.attempts(time.monotonic() - 1.0):
                if attempt.uplink is None or attempt.started <= self._newest.get(k, 0.0):
                    continue
                self._newest[k] = attempt.started
                if attempt.uplink != self._leaves.get(k):
                    self._leaves[k] = attempt.uplink
                    text = f"new connections of segment {k} leave by line {attempt.uplink}"
                    self._say("note", text + self._after(attempt.started), attempt.started)

    def _observe(self) -> None:
        holders = {k: self._pair.holders(k) for k in BOTH}
        for k in BOTH:
            if holders[k] != self.holders.get(k) and holders[k]:
                text = f"gateway {k} is router {' and router '.join(map(str, holders[k]))}"
                self._say("note", text + self._after(time.monotonic()))
        self.holders = holders

    def _after(self, moment: float) -> str:
        """How long after the step began, if it is one in which something is done."""
        return f", after {max(0.0, moment - self._steps[-1].began):.2f} s" if len(self._steps) > 1 else ""

    def _now(self, text: str, *, alarm: bool = False) -> None:
        self.now, self.now_since, self.alarm = text, time.monotonic(), alarm

    def _say(self, kind: Kind, text: str, at: float | None = None) -> None:
        self.events.append(Event((time.monotonic() if at is None else at) - self.began, kind, text))
