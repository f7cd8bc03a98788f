"""Any message of any change to the real kernel fails once: it is refused, or done and its answer lost."""

from __future__ import annotations

import pytest

from mlbd.core.state import KernelState
from tests.core.virtual import virtually
from tests.faults.changes import PAIRS, Act, InNamespace, Scene
from tests.faults.injector import Messages
from tests.kernel.namespace import private_namespace, run

pytestmark = pytest.mark.lab

FOREIGN = (
    "ip rule add pref 11500 fwmark 0x42 lookup 42",
    "ip rule add pref 32764 fwmark 0x7 lookup main",
    "ip route add 192.0.2.0/24 via 10.2.0.1 table 42",
    "nft add table inet office",
    "nft add chain inet office pre { type filter hook prerouting priority mangle ; }",
    "nft add rule inet office pre ip saddr 192.168.1.9 meta mark set 0x42",
)
FIRST = 15
"""More than the messages of a look."""
SHOWN = ("ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all", "nft -a list ruleset")


@pytest.mark.parametrize("name", PAIRS)
def test_any_message_fails(name: str) -> None:
    """Whichever message fails: in the end all is as without the failure, and what others have is untouched."""
    pair = PAIRS[name]

    async def clean(scene: Scene, act: Act) -> list[int]:
        """The messages that are to fail. Of looks at the kernel, which are all alike, the first is enough."""
        sent = Messages(-1, -1)
        with sent.below():
            await act(scene)
        return [i for i, kind in enumerate(sent.kinds) if i < FIRST or kind in ("request", "batch", "run")]

    async def failing(scene: Scene, act: Act, numbers: list[int], even: bool, end: KernelState) -> None:
        """The next of these fails: even ones are refused, odd ones done without an answer, or the other way round."""
        if not numbers:
            return
        number = numbers.pop(0)
        with Messages(number, number, lost=(number % 2 == 0) == even).below():
            await act(scene)
        assert await scene.state() == end, f"after message {number} failed"
        if scene.running is not None:
            daemon = scene.running
            assert daemon.cycles[-1].result == "unchanged"
            assert len(daemon.failed) == daemon.failed_in_metrics()
            assert daemon.repairs == []

    async def story() -> None:
        scene = Scene(InNamespace())
        run(*FOREIGN)
        foreign = run(*SHOWN)
        if pair.begun:
            await scene.start()
        before = await scene.state()
        there = await clean(scene, pair.there)
        after = await scene.state()
        back = await clean(scene, pair.back)
        assert await scene.state() == before
        assert min(len(there), len(back)) >= FIRST
        while there or back:
            await failing(scene, pair.there, there, True, after)
            await failing(scene, pair.back, back, False, before)
        await PAIRS["first start and release"].back(scene)
        assert run(*SHOWN) == foreign

    with private_namespace():
        virtually(story)
