"""Two routers by etc/examples/pair, and what is asked of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mlbd.lab.network import wait_until
from mlbd.lab.pair import BOTH, Pair
from mlbd.lab.pair_programs import Programs
from mlbd.lab.stream import Summary, UdpStream

EXAMPLE = Path(__file__).parents[2] / "etc" / "examples" / "pair"
RATE = 200
"""Datagrams a second of each segment's stream."""


def as_written(number: int) -> dict[str, str]:
    """The files of that router."""
    return {path.name: path.read_text() for path in (EXAMPLE / f"router{number}").iterdir()}


def example(number: int) -> dict[str, str]:
    """The files of that router, but without the delay of an uplink that has just failed before."""
    found = as_written(number)
    at_once = found["mlbd.toml"].replace("[probe] ", '[probe]\nhold_max = "0s" ')
    assert at_once != found["mlbd.toml"]
    return found | {"mlbd.toml": at_once}


@dataclass
class Scene:
    pair: Pair
    programs: Mapping[int, Programs]
    wrong: list[int] = field(default_factory=lambda: [0, 0])
    """Packets with a wrong source that are no fault: the other router's probes, before mlbd has started here."""

    def start(self, *numbers: int) -> None:
        """What runs on these routers, at the same time, until both routers agree that all is well."""
        for n in numbers:
            self.programs[n].daemon.start(wait=False)
        for n in numbers:
            self.programs[n].daemon.wait_for(lambda status: bool(status["settled"]))
        for n in numbers:
            self.programs[n].start_conntrackd()
            self.programs[n].start_keepalived()
        self.wrong = self.wrong_sources()

    def wait_at_home(self) -> None:
        """Until each gateway is where it belongs, and both routers find both lines usable."""
        for n in BOTH:
            self.programs[n].daemon.wait_for(lambda status: all(u["usable"] for u in status["uplinks"]), timeout=15)
        self.wait_held([1], [2])

    def wait_held(self, *holders: list[int], timeout: float = 5.0) -> None:
        """Until the gateways of segment 1 and 2 are with these routers."""
        wait_until(
            lambda: [self.pair.holders(k) for k in BOTH] == [*holders], timeout=timeout, what=f"gateways at {holders}"
        )

    def transitions(self) -> dict[tuple[int, int], list[str]]:
        """What keepalived did so far, by router and segment."""
        return {(n, k): self.programs[n].transitions(k) for n in BOTH for k in BOTH}

    def since(self, before: Mapping[tuple[int, int], list[str]]) -> dict[tuple[int, int], list[str]]:
        """What it did since then, where it did anything."""
        return {key: new for key, found in self.transitions().items() if (new := found[len(before[key]) :])}

    @contextmanager
    def streams(self) -> Iterator[dict[int, UdpStream]]:
        """One from each segment, by its number, answered already."""
        one, two = (UdpStream(self.pair, f"lan{k}", rate=RATE, limit=60) for k in BOTH)
        with one, two:
            one.wait_started()
            two.wait_started()
            yield {1: one, 2: two}

    def wrong_sources(self) -> list[int]:
        return [self.pair.wrong_source(n) for n in BOTH]


@contextmanager
def scene(files: Callable[[int], dict[str, str]] = example) -> Iterator[Scene]:
    """Both routers, all that runs on them, and each gateway where it belongs."""
    with Pair() as pair:
        found = Scene(pair, {n: Programs(pair, n, files(n)) for n in BOTH})
        found.start(*BOTH)
        found.wait_at_home()
        yield found
        assert found.wrong_sources() == found.wrong
        for programs in found.programs.values():
            log = programs.daemon.log_text()
            assert "Traceback" not in log, log


def lost(summary: Summary) -> list[float]:
    """When the datagrams were sent that got no answer, seconds from the first one on."""
    start = summary.packets[0].sent
    return [round(packet.sent - start, 3) for packet in summary.packets if packet.answered is None]
