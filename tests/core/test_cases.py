"""Golden cases: a configuration, a story, and the whole kernel state at its end as text.

A story's lines:

    facts wan1 up carrier 10.1.0.2/24 via 10.1.0.1      all that a look finds; `gone`: the interface does not exist;
                                                        also `device` (its default route names no gateway), `peer A`;
                                                        and `answers A M`: who has this hardware address;
                                                        several such lines are one look
    good fiber | lost fiber | firewall fiber            what becomes of its probes from now on; at first: good
    wait 2s                                             time passes, and the kernel follows
    reload other.toml                                   a file beside config.toml
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from msgspec.structs import replace

from mlbd.config import parse
from mlbd.core.describe import describe_object
from mlbd.core.desired import FIVE_TUPLE
from mlbd.core.facts import Gateway, InterfaceFacts
from mlbd.core.peers import OF_CONNTRACK
from mlbd.core.plan import apply, plan
from mlbd.core.settings import Settings
from mlbd.core.state import Chain, KernelState, Sysctl
from tests.core.world import RTT, SYSCTLS, Answer, World

FATES: dict[str, Answer] = {"good": RTT, "lost": None, "firewall": "firewall"}
CASES = sorted(path.parent for path in (Path(__file__).parent.parent / "cases").glob("*/story.txt"))


def load(path: Path) -> Settings:
    return parse(path.read_text(), path.name).settings


def interface(name: str, index: int, words: list[str]) -> InterfaceFacts:
    found = InterfaceFacts(name=name, index=index, up="up" in words, carrier="carrier" in words)
    found = replace(found, addresses=tuple(sorted(w for w in words if "/" in w)))
    if "device" in words:
        found = replace(found, point_to_point=True, gateway4=Gateway(None))
    answers = tuple((words[n + 1], words[n + 2]) for n, word in enumerate(words) if word == "answers")
    found = replace(found, neighbours=answers)
    for what, value in pairwise(words):
        if what == "peer":
            found = replace(found, peer=value)
        elif what == "via" and ":" in value:
            found = replace(found, gateway6=Gateway(value))
        elif what == "via":
            found = replace(found, gateway4=Gateway(value))
    return found


def tell(case: Path) -> KernelState:
    """The kernel at the end of the story, which always followed what was desired."""
    world = World(load(case / "config.toml"), look=False)
    of_none = (
        *((scope, s) for scope in ("/ipv4", "/ipv6") for s in FIVE_TUPLE),
        *(("/netfilter", s) for s in OF_CONNTRACK),
    )
    kernel = KernelState(Sysctl(scope, s, "0") for scope, s in of_none)
    for line in (case / "story.txt").read_text().splitlines():
        words = line.split("#")[0].split()
        if words[:1] != ["facts"]:
            world.look()
        match words:
            case []:
                continue
            case ["facts", name, *words]:
                world.interfaces.pop(name, None)
                if words != ["gone"]:
                    world.interfaces[name] = interface(name, 10 + len(world.interfaces), words)
                    new = [Sysctl(name, s, "0") for s in SYSCTLS if ("sysctl", name, s) not in kernel]
                    kernel = KernelState([*kernel.values(), *new])
                continue
            case ["good" | "lost" | "firewall" as fate, name]:
                world.answers[name] = FATES[fate]
            case ["wait", seconds]:
                world.wait(float(seconds.removesuffix("s")))
            case ["reload", name]:
                world.load(load(case / name))
            case _:
                raise AssertionError(f"what does this mean: {line}")
        kernel = apply(plan(world.desired(kernel), kernel), kernel)
    return kernel


def text(state: KernelState) -> str:
    lines = []
    for item in sorted(state.values(), key=describe_object):
        lines.append(describe_object(item))
        if isinstance(item, Chain):
            lines += [f"    {statement.text}" for statement in item.statements]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Path, request: pytest.FixtureRequest) -> None:
    """The story ends in exactly the expected state."""
    got, expected = text(tell(case)), case / "expected.txt"
    if request.config.getoption("--update-cases", default=False):
        expected.write_text(got)
    assert got == expected.read_text()


def test_cases_are_complete() -> None:
    """No directory lacks a file, and none was forgotten."""
    directories = [path for path in CASES[0].parent.iterdir() if path.is_dir()]
    assert {(d.name, f) for d in directories for f in ("config.toml", "story.txt", "expected.txt")} <= {
        (p.parent.name, p.name) for d in directories for p in d.iterdir()
    }
