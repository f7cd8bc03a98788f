"""A kernel that tests look at and change, and what ip(8) says of the same."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from mlbd.core.facts import PortFacts
from mlbd.core.plan import Change
from mlbd.core.ports import Observation
from mlbd.core.state import Bond, Bundling, KernelState, Object
from mlbd.kernel import LinuxKernel

PROTOCOL = 109
ASKED = {"bond0": ("eth1", "eth2")}


class Subject:
    """A kernel, and an event loop to ask it in."""

    def __init__(self, kernel: LinuxKernel, runner: asyncio.Runner) -> None:
        self.kernel, self.runner = kernel, runner

    def observe(self, asked: Mapping[str, Sequence[str]] = ASKED, interfaces: Sequence[str] = ()) -> Observation:
        return self.runner.run(self.kernel.observe(interfaces, (), asked))

    def look(self, asked: Mapping[str, Sequence[str]] = ASKED) -> KernelState:
        return KernelState(o for o in self.observe(asked).state.values() if isinstance(o, Bundling))

    def bond(self, name: str = "bond0") -> Bond:
        found = self.look().get(("bond", name))
        assert isinstance(found, Bond)
        return found

    def port(self, name: str) -> PortFacts:
        found = self.observe().facts[name].port
        assert found is not None
        return found

    def change(self, old: Object | None, new: Object | None) -> str:
        """Why it was refused; "" if it was not."""
        return "".join(error.reason for error in self.runner.run(self.kernel.apply([Change(old, new)])))

    def add(self, *objects: Object) -> None:
        """As if nothing were there."""
        assert [self.change(None, each) for each in objects] == [""] * len(objects)

    def put(self, *objects: Object) -> None:
        """As changes of what is there."""
        seen = self.look()
        assert [self.change(seen.get(each.key), each) for each in objects] == [""] * len(objects)


def ip(*lines: str) -> None:
    for line in lines:
        subprocess.run(["ip", *line.split()], check=True, capture_output=True, text=True)


def links() -> dict[str, dict[str, Any]]:
    shown = subprocess.run(["ip", "-j", "-d", "link"], check=True, capture_output=True, text=True).stdout
    return {link["ifname"]: link for link in json.loads(shown)}
