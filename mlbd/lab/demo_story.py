"""What happens in the demo: the network is built, the daemon started, an uplink broken and healed, the damage counted.

It is told in steps: `start`, `break_one` and `wait` are generators that yield whenever time may pass, so that whoever
runs them can draw and listen for Ctrl-C in between. Nothing here prints.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from mlbd.core.settings import Settings
from mlbd.lab import demo_outcome
from mlbd.lab.daemon import Daemon
from mlbd.lab.demo_outcome import CERTAIN, Outcome, Transition
from mlbd.lab.demo_screen import Event, Kind
from mlbd.lab.demo_traffic import Traffic
from mlbd.lab.namespaces import LabError
from mlbd.lab.network import Network
from mlbd.lab.stream import UdpStream

Fault = Literal["silent", "carrier", "flap"]
CONNECTIONS, CONVERSATIONS = 50.0, 8
"""New connections a second, and how many last."""

_SILENT, _PULLED = 10.0, 6.0
"""Seconds. The daemon's defaults find a silent failure in 1.5 s, and a client is reset within 4 s."""
_FLAPS, _FLAP_DOWN, _FLAP_UP = 6, 0.4, 0.6
_RATES = (1000.0, 200.0)
"""Datagrams a second: what is tried first, and what a machine gets that can't keep up."""
_CALM, _AFTERWARDS, _BACK = 4.0, 2.5, 15.0
"""Seconds before the first fault and after each, and the longest that a healed uplink may take to carry traffic."""
_ANSWERED = 0.5
"""Seconds after which a datagram without an answer is lost."""
_TRIES = 4
_WITNESSES, _RENEWAL = 2, 0.7
"""Conversations wanted on healthy uplinks before a fault, and the seconds in which others are made again for that."""
_IN_FLIGHT = 0.1
"""A connection that was started so shortly before a fault may suffer from it."""


class Story:
    """Owns network, daemon and traffic, from `with` to its end."""

    def __init__(self, settings: Settings, config: str) -> None:
        """`config` is the text that `settings` come from."""
        self.settings = settings
        self.began = time.monotonic()
        self.now, self.now_since, self.alarm = "the network is being built", self.began, False
        self.events: list[Event] = []
        self.outcomes: list[Outcome] = []
        self.marks: list[tuple[float, Literal["!", "+"]]] = []
        """When something was broken and when it was healed, monotonic seconds."""
        self.status: dict[str, Any] = {}
        """The daemon's last one; empty before it answered."""
        self.traffic: Traffic | None = None
        self.rate = _RATES[0]
        """Of the stream, datagrams a second."""
        self.datagrams = self.datagrams_lost = 0
        self.stream_uplink: int | None = None
        """By which the last answered datagram went."""
        self.reset = self.broken = 0
        """Conversations that ended, in all outcomes: on broken uplinks, on healthy ones."""
        self._stack = contextlib.ExitStack()
        self._config = config
        self._daemon: Daemon | None = None
        self._unix_to_monotonic = time.monotonic() - time.time()
        self._transitions: list[Transition] = []
        self._stream: UdpStream | None = None
        self._counted = 0.0
        self._accounted = self.began
        """What happened before is in the outcomes."""
        self._wrong_source = 0
        self._healthy = 0
        self._victim, self._broken_at, self._healed_at = 0, float("inf"), float("inf")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def name(self, number: int) -> str:
        """The uplink's in the configuration, by its number in the lab."""
        return self.settings.uplinks[number - 1].name

    def breaks(self) -> tuple[int, int]:
        """Conversations that ended since the last outcome: on the broken uplink, and on healthy ones."""
        found = self.traffic.breaks(self._accounted) if self.traffic else []
        excused = sum(b.uplink == self._victim and b.at >= self._broken_at for b in found)
        return excused, len(found) - excused

    # Steps

    def start(self) -> Iterator[None]:
        """Build everything, and let it run calmly for a while. Raises LabError."""
        yield
        uplinks = self.settings.uplinks
        self._net = self._stack.enter_context(Network(len(uplinks), interfaces=[u.interface for u in uplinks]))
        targets = {target.address for u in uplinks for target in u.probe.targets if target.address}
        for target in sorted(targets):  # whatever a configuration probes is in this internet
            self._net.run("internet", ["ip", "route", "replace", "local", target, "dev", "lo"])
        self._say("note", "LAN, router, providers and internet are there; the daemon starts")
        yield from self._start_daemon()
        self.traffic = self._stack.enter_context(Traffic(self._net, rate=CONNECTIONS, conversations=CONVERSATIONS))
        yield from self.start_stream()
        self._now("all is well")
        yield from self.wait(_CALM)
        if self.datagrams_lost > 0.01 * self.datagrams:
            self.rate = _RATES[1]
            self._say("note", f"this machine is too slow for {_RATES[0]:.0f} datagrams/s, so it is {self.rate:.0f}")
            self.datagrams = self.datagrams_lost = 0
            yield from self.start_stream()
            yield from self.wait(1.0)

    def break_one(self, fault: Fault) -> Iterator[None]:
        """Break the uplink of the stream, heal it, and add the outcome."""
        yield from self._spread_conversations()
        victim = self.stream_uplink or 1
        name = self.name(victim)
        self._healthy = self._elsewhere(victim)
        self._victim, self._broken_at = victim, time.monotonic()
        self.marks.append((self._broken_at, "!"))
        match fault:
            case "silent":
                title = f"{name} silent"
                yield from self._silence(victim)
            case "carrier":
                title = f"{name} unplugged"
                yield from self._unplug(victim)
            case "flap":
                title = f"{name} flapping"
                yield from self._flap(victim)
        healed = self._healed_at
        self.marks.append((healed, "+"))
        while (back := demo_outcome.first(self._transitions, "uplink_up", name, healed)) is None:
            if time.monotonic() > healed + _BACK or self._noticed(name) is None:
                break
            yield
        self._now("all is well")
        yield from self.wait(_AFTERWARDS)
        self._account(f"{title}, {healed - self._broken_at:.0f} s", name, healed, back)

    def wait(self, seconds: float) -> Iterator[None]:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            yield

    def look(self) -> None:
        """Take in what the daemon says and what became of the stream."""
        if self._daemon is None:
            return
        with contextlib.suppress(OSError, ValueError):
            self.status = self._daemon.status()
        found = demo_outcome.transitions(self._daemon.log(), self._unix_to_monotonic)
        for transition in found[len(self._transitions) :]:
            self._say("down" if transition.event == "uplink_down" else "up", transition.text, transition.at)
        self._transitions = found
        if self._stream is not None:
            self._count(self._stream, time.monotonic() - _ANSWERED)

    def start_stream(self) -> Iterator[None]:
        """Start the UDP stream, in place of the one that runs: a stream does not last for ever.

        It shall be on the uplink that carries most, since that is broken first, so a few are tried.
        """
        if self._stream is not None:
            self._count(self._stream, time.monotonic())
            self._stream.stop(0.0)
        self.look()
        for _ in range(_TRIES):
            self._stream = UdpStream(self._net, "lan1", rate=self.rate)
            yield
            self._stream.wait_started()
            self.stream_uplink = next(p.uplink for p in self._stream.so_far().packets if p.answered is not None)
            if self.stream_uplink == self._favourite():
                break
            self._stream.stop(0.0)
        self._counted = 0.0

    # How it is done

    def _start_daemon(self) -> Iterator[None]:
        daemon = self._daemon = Daemon(self._net, self._config)
        if re.search(r"^control\s*=", self._config, re.MULTILINE):
            daemon.control = Path(self.settings.daemon.control)
        failures: list[Exception] = []

        def start() -> None:
            try:
                daemon.start()
            except (LabError, OSError) as failure:
                failures.append(failure)

        starter = threading.Thread(target=start, daemon=True)
        starter.start()
        self._stack.callback(starter.join, 2.0)
        self._stack.callback(daemon.kill)
        self._now("the daemon waits for its first verdicts")
        while starter.is_alive():
            yield
        if failures:
            raise failures[0]

    def _spread_conversations(self) -> Iterator[None]:
        """After a fault all may be on one uplink, and then none could show that healthy uplinks are left alone."""
        assert self.traffic is not None
        for _ in range(_TRIES):
            if self._elsewhere(self.stream_uplink) >= _WITNESSES:
                return
            for talk in self.traffic.conversations[::2]:
                talk.renew = True
            yield from self.wait(_RENEWAL)

    def _elsewhere(self, uplink: int | None) -> int:
        assert self.traffic is not None
        return sum(talk.uplink not in (None, uplink) for talk in self.traffic.conversations)

    def _silence(self, victim: int) -> Iterator[None]:
        name = self.name(victim)
        probes_gateway = any(target.address is None for target in self.settings.uplink(name).probe.targets)
        self._net.silence(victim, gateway=probes_gateway)
        self._say("fault", f"{name}'s provider drops everything; the link stays up")
        self._now(f"{name}'s provider drops everything, its link stays up", alarm=True)
        yield from self.wait(_SILENT)
        self._healed_at = time.monotonic()
        self._net.speak(victim)
        self._say("heal", f"{name}'s provider works again")
        self._now(f"{name} is healed, and has to prove it")

    def _unplug(self, victim: int) -> Iterator[None]:
        name = self.name(victim)
        self._net.unplug(victim)
        self._say("fault", f"{name} is unplugged")
        self._now(f"{name} is unplugged", alarm=True)
        yield from self.wait(_PULLED)
        self._healed_at = time.monotonic()
        self._net.plug(victim)
        self._say("heal", f"{name} is plugged in again")
        self._now(f"{name} has a link again, and has to prove that it works")

    def _flap(self, victim: int) -> Iterator[None]:
        name = self.name(victim)
        self._say("fault", f"{name} has a loose contact, and loses its link {_FLAPS} times")
        self._now(f"{name} has a loose contact", alarm=True)
        for flap in range(_FLAPS):
            self._net.unplug(victim)
            yield from self.wait(_FLAP_DOWN)
            self._healed_at = time.monotonic()
            self._net.plug(victim)
            if flap < _FLAPS - 1:
                yield from self.wait(_FLAP_UP)
        self._say("heal", f"{name} is plugged in properly")
        self._now(f"{name} has a link again, and has to prove that it works")

    def _account(self, title: str, name: str, healed: float, back: float | None) -> None:
        assert self.traffic is not None
        assert self._stream is not None
        now = time.monotonic()
        attempts = self.traffic.attempts(self._accounted)
        calm = [a for a in attempts if not self._broken_at - _IN_FLIGHT <= a.started < healed]
        packets = [p for p in self._stream.so_far(self._broken_at).packets if p.sent < now - _ANSWERED]
        reset, broken = self.breaks()
        wrong = sum(self._net.wrong_source(uplink.number) for uplink in self._net.uplinks)
        self.outcomes.append(
            Outcome(
                title=title,
                noticed=self._noticed(name),
                recovered=demo_outcome.recovered(attempts, self._broken_at, healed),
                back=back,
                datagrams=len(packets),
                datagrams_lost=sum(packet.answered is None for packet in packets),
                stream_went_on=any(p.answered is not None for p in packets if 0 < healed - p.sent < CERTAIN),
                reset=reset,
                broken=broken,
                healthy=self._healthy,
                failed_outside=sum(a.took is None for a in calm),
                wrong_source=wrong - self._wrong_source,
            )
        )
        self.reset, self.broken = self.reset + reset, self.broken + broken
        self._accounted, self._wrong_source, self._broken_at = now, wrong, float("inf")

    def _noticed(self, name: str) -> float | None:
        return demo_outcome.first(self._transitions, "uplink_down", name, self._broken_at)

    def _favourite(self) -> int:
        """The uplink with the largest share of the first policy."""
        members = self.status["policies"][0]["members"]
        best: str = max(members, key=lambda member: member["share"])["uplink"]
        return next(n for n, uplink in enumerate(self.settings.uplinks, 1) if uplink.name == best)

    def _count(self, stream: UdpStream, until: float) -> None:
        """Add the stream's packets since the last time; the youngest have to wait for their answers."""
        packets = stream.so_far(self._counted).packets
        settled = [packet for packet in packets if packet.sent < until]
        self.datagrams += len(settled)
        self.datagrams_lost += sum(packet.answered is None for packet in settled)
        self._counted = next((packet.sent for packet in packets if packet.sent >= until), max(until, self._counted))
        answered = [packet for packet in packets if packet.answered is not None]
        if answered:
            self.stream_uplink = answered[-1].uplink

    def _now(self, text: str, *, alarm: bool = False) -> None:
        self.now, self.now_since, self.alarm = text, time.monotonic(), alarm

    def _say(self, kind: Kind, text: str, at: float | None = None) -> None:
        self.events.append(Event((time.monotonic() if at is None else at) - self.began, kind, text))
