"""The cycle, in virtual time, over a kernel in memory."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable

import pytest

from mlbd.core.plan import Phase
from mlbd.core.settings import Conntrack
from mlbd.core.status import Transition
from tests.core.virtual import A1, B2, C3, Shell, left_behind, shell
from tests.core.world import settings, uplink

# Start-up.


def test_start_ends_in_what_is_desired() -> None:
    """An untouched kernel holds all that a settled cycle wants, and then nothing more is changed."""

    async def story(it: Shell) -> None:
        await it.settled()
        assert it.kernel.state == left_behind()
        before = len(it.kernel.applied)
        await asyncio.sleep(300.0)
        assert len(it.kernel.applied) == before

    shell(story)


def test_only_preparations_before_settling() -> None:
    """A restart leaves the running state alone until verdicts are in, and switches then."""

    async def story(it: Shell) -> None:
        it.answers["b"] = None
        await asyncio.sleep(1.0)
        assert it.loop.router.settled is False
        assert {change.phase for change in it.kernel.applied} <= {Phase.PREPARE}
        assert (it.kernel.members(), it.kernel.cuts) == ({A1, B2, C3}, [])
        await asyncio.sleep(1.0)
        assert (it.kernel.members(), it.cuts) == ({A1, C3}, ["b"])

    shell(story, before=left_behind())


def test_restart_changes_nothing() -> None:
    """With all as it was, not one change is made."""

    async def story(it: Shell) -> None:
        await it.settled()
        assert (it.kernel.applied, it.kernel.cuts, it.repairs) == ([], [], [])

    shell(story, before=left_behind())


def test_nothing_is_changed_before_a_first_look() -> None:
    """If the kernel can't be looked at, what it holds is not known, and is not touched, grace time or not."""

    async def story(it: Shell) -> None:
        it.kernel.observe_error = OSError(errno.ENOBUFS, "too much")
        await asyncio.sleep(20.0)
        assert (it.kernel.times("apply"), it.kernel.members()) == ([], {A1, B2, C3})
        it.kernel.observe_error = None
        await asyncio.sleep(35.0)
        assert (it.kernel.members(), it.kernel.cuts) == ({A1, B2, C3}, [])

    shell(story, before=left_behind())


def test_first_cycle_is_waited_for() -> None:
    """Ready means that a cycle went through."""

    async def story(it: Shell) -> None:
        it.kernel.observe_error = OSError(errno.ENOBUFS, "too much")
        first = asyncio.create_task(it.loop.first_cycle())
        await asyncio.sleep(20.0)
        assert not first.done()
        it.kernel.observe_error = None
        await asyncio.sleep(31.0)
        assert first.done()

    shell(story)


# Failover.


def carrier_lost(it: Shell) -> None:
    it.carrier("a", False)


def probes_lost(it: Shell) -> None:
    it.answers["a"] = None


@pytest.mark.parametrize("fault", [carrier_lost, probes_lost])
def test_failover_does_not_wait_for_a_look(fault: Callable[[Shell], None]) -> None:
    """A transition is acted on from the mirror: the first call to the kernel is the switch, and a look follows."""

    async def story(it: Shell) -> None:
        it.kernel.look_takes = 0.5
        await it.settled()
        began = it.clock()
        fault(it)
        await asyncio.sleep(3.0)
        at, kind, _ = next(c for c in it.kernel.calls if c[0] >= began)
        ((transition, took),) = it.transitions[3:]
        assert kind == "apply"
        assert at == pytest.approx(transition.at)
        assert took == pytest.approx(0.001, abs=0.0005)
        assert it.kernel.members() == {B2, C3}
        assert 0.0 < it.kernel.times("look", since=at)[0] - at < 0.5

    shell(story)


def test_cut_follows_the_switch() -> None:
    """Connections cut loose earlier would be pinned to the dead uplink again."""

    async def story(it: Shell) -> None:
        await it.settled()
        began = it.clock()
        it.carrier("a", False)
        await asyncio.sleep(5.0)
        calls = [kind for at, kind, _ in it.kernel.calls if at >= began and kind != "look"]
        assert calls[:2] == ["apply", "cut"]
        assert (it.kernel.cuts, it.cuts) == ([(0x01000000, 0xFF000000)], ["a"])

    shell(story)


def test_no_cut_without_a_switch() -> None:
    """If the switch is refused, connections stay; when it goes through at last, they are cut."""

    async def story(it: Shell) -> None:
        await it.settled()
        it.kernel.refuse = lambda change: "no" if change.kind == "map" else None
        it.carrier("a", False)
        await asyncio.sleep(5.0)
        assert (it.kernel.cuts, it.kernel.members()) == ([], {A1, B2, C3})
        it.kernel.refuse = lambda change: None
        await asyncio.sleep(10.0)
        assert (it.cuts, it.kernel.members()) == (["a"], {B2, C3})

    shell(story)


def test_transition_that_could_not_be_carried_out_took_nothing() -> None:
    """No time is claimed for a switch that the kernel refused."""

    async def story(it: Shell) -> None:
        await it.settled()
        it.kernel.refuse = lambda change: "no" if change.kind == "map" else None
        it.carrier("a", False)
        await asyncio.sleep(1.0)
        ((transition, took),) = it.transitions[3:]
        assert (transition.uplink, transition.reason, took) == ("a", "carrier lost", None)

    shell(story)


def test_transition_is_reported_when_the_kernel_has_changed() -> None:
    """Also one that comes while another is being carried out."""

    async def story(it: Shell) -> None:
        await it.settled()
        it.kernel.apply_takes = 0.1
        seen: dict[str, set[str]] = {}

        def note(transition: Transition) -> None:
            seen[transition.uplink] = it.kernel.members()

        it.on_transition = note
        it.carrier("a", False)
        await asyncio.sleep(0.05)
        it.carrier("b", False)
        await asyncio.sleep(5.0)
        assert (A1 in seen["a"], B2 in seen["b"]) == (False, False)
        took = {t.uplink: took for t, took in it.transitions[3:]}
        assert (took["a"] or 0.0, took["b"] or 0.0) >= (0.1, 0.1)

    shell(story)


def test_uplink_that_dies_while_another_is_switched_is_cut_after_its_own_switch() -> None:
    """Connections cut loose while new ones still go to the dead uplink would be pinned to it again, for good."""

    async def story(it: Shell) -> None:
        await it.settled()
        it.kernel.apply_takes = 0.1
        it.carrier("a", False)
        await asyncio.sleep(0.05)
        it.carrier("b", False)
        await asyncio.sleep(5.0)
        cuts = [about for _, kind, about in it.kernel.calls if kind == "cut"]
        assert (0x01000000, {B2, C3}) in cuts or (0x01000000, {C3}) in cuts
        assert [about for about in cuts if about[0] == 0x02000000] == [(0x02000000, {C3})]  # type: ignore[index]

    shell(story)


def test_all_down_and_back() -> None:
    """A last resort holds the traffic; whoever recovers gets it, and what went by the last resort."""

    async def story(it: Shell) -> None:
        await it.settled()
        for name in "abc":
            it.answers[name] = None
            await asyncio.sleep(5.0)
        assert (it.kernel.members(), it.cuts) == ({C3}, ["a", "b"])
        it.answers["a"] = 0.01
        await asyncio.sleep(5.0)
        assert (it.kernel.members(), it.cuts) == ({A1}, ["a", "b", "c"])

    shell(story)


def test_reset_of_established_tcp_comes_on_time() -> None:
    """The core's own time wakes the loop, though nothing happens."""

    async def story(it: Shell) -> None:
        await it.settled()
        it.carrier("a", False)
        await asyncio.sleep(1.9)
        assert it.kernel.state["set", "dead4"].marks == frozenset()  # type: ignore[union-attr]
        await asyncio.sleep(0.2)
        assert it.kernel.state["set", "dead4"].marks == {0x01000000}  # type: ignore[union-attr]

    shell(story, settings(uplink("a"), uplink("b"), uplink("c"), conntrack=Conntrack(tcp_reset_after=2.0)))
