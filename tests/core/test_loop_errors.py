"""The cycle when the kernel refuses, forgets or says too much, and when others change what is ours."""

from __future__ import annotations

import asyncio
import errno
from itertools import pairwise

import pytest

from mlbd.core.plan import Change
from mlbd.core.state import KernelState, Route, Rule, Sysctl
from mlbd.loop import BACKOFF_MAX
from mlbd.release import release
from tests.core.virtual import A1, ABC, B2, C3, ROUTE_A, Shell, left_behind, shell
from tests.core.world import World, facts, policy, settings, uplink


def gaps(times: list[float]) -> list[float]:
    return [b - a for a, b in pairwise(times)]


def test_failed_looks_back_off() -> None:
    """0.1 s, doubled up to 30 s, never given up; afterwards all is as if nothing had been."""

    async def story(it: Shell) -> None:
        it.kernel.observe_error = OSError(errno.ENOBUFS, "too much")
        await asyncio.sleep(200.0)
        waits = gaps(it.kernel.times("look"))
        assert waits[:9] == pytest.approx([0.1 * 2**n for n in range(9)], abs=0.01)
        assert waits[9:] == pytest.approx([BACKOFF_MAX] * len(waits[9:]))
        assert it.cycles[-1].errors == ("the kernel could not be looked at: [Errno 105] too much",)
        it.kernel.observe_error = None
        await asyncio.sleep(40.0)
        assert (it.cycles[-1].result, it.kernel.members()) == ("unchanged", {A1, B2, C3})

    shell(story)


def test_refused_change_is_tried_again_and_stops_nothing_else() -> None:
    """One change fails with its reason; the others are made; the pauses grow."""

    def refuse(change: Change) -> str | None:
        return "not this one" if change.object.key == ROUTE_A else None

    async def story(it: Shell) -> None:
        it.kernel.refuse = refuse
        await asyncio.sleep(100.0)
        assert ROUTE_A not in it.kernel.state
        assert it.kernel.members() == {A1, B2, C3}
        assert it.cycles[-1].errors == (
            "not this one (ip -4 route default table 20001 metric 1: via 10.1.0.1 dev a0)",
        )  # fmt: skip
        assert 5 < len(it.kernel.times("apply")) < 20
        assert max(gaps(it.kernel.times("apply"))) <= BACKOFF_MAX + 1.0
        it.kernel.refuse = lambda change: None
        await asyncio.sleep(31.0)
        assert it.kernel.state == left_behind()

    shell(story)


def test_failover_is_not_held_up_by_a_refused_change() -> None:
    """Whatever fails for ever in the background, a transition is acted on at once."""

    async def story(it: Shell) -> None:
        it.kernel.refuse = lambda change: "no" if change.object.key == ROUTE_A else None
        await asyncio.sleep(100.0)
        it.carrier("b", False)
        await asyncio.sleep(0.05)
        assert it.kernel.members() == {A1, C3}

    shell(story)


def test_event_during_a_failing_cycle_is_not_forgotten() -> None:
    """A look that was asked for while a change was being refused takes place soon, not when the back-off is over."""

    async def story(it: Shell) -> None:
        it.kernel.refuse = lambda change: "no" if change.object.key == ROUTE_A else None
        await asyncio.sleep(100.0)
        it.kernel.apply_takes = 0.1
        began = it.clock()
        it.loop.look_again()
        await asyncio.sleep(0.08)  # the look is over, the refused change is under way
        it.kernel.vanish("c0")
        it.loop.look_again()
        await asyncio.sleep(1.5)
        assert it.clock() - began < 2.0
        assert it.kernel.members() == {A1, B2}

    shell(story)


def test_retiring_waits_for_what_comes_before() -> None:
    """Rules and tables of a vanished uplink stay while the new way could not be made."""

    async def story(it: Shell) -> None:
        await it.settled()
        it.kernel.refuse = lambda change: "no" if change.action == "replace" and change.kind == "route" else None
        it.loop.load(settings(uplink("b"), uplink("c")))
        await asyncio.sleep(5.0)
        tables = {o.table for o in it.kernel.state.values() if isinstance(o, Rule)}
        assert {20001, 20129} <= tables
        it.kernel.refuse = lambda change: None
        await asyncio.sleep(15.0)
        tables = {o.table for o in it.kernel.state.values() if isinstance(o, Rule | Route)}
        assert tables & {20001, 20129} == set()
        assert it.kernel.state["sysctl", "a0", "src_valid_mark"] == Sysctl("a0", "src_valid_mark", "0")

    shell(story)


# Others.


def test_drift_is_repaired_and_reported() -> None:
    """Deleted rules, a changed map and a foreign object in our table: put right within a second, and said."""

    async def story(it: Shell) -> None:
        await it.settled()
        ours = it.kernel.state
        rule = next(key for key, o in ours.items() if isinstance(o, Rule) and o.mark is not None)
        it.kernel.delete([rule, ("map", "pick4_balanced")])
        it.kernel.state = KernelState([*it.kernel.state.values(), Route(4, 20001, 7, "blackhole", foreign=True)])
        it.loop.look_again()
        await asyncio.sleep(1.0)
        assert it.kernel.state == ours
        ((_, repaired),) = it.repairs
        assert {change.object.key for change in repaired} == {
            rule, ("map", "pick4_balanced"), ("route", 4, 20001, "default", 7),
        }  # fmt: skip

    shell(story)


def test_drift_is_found_without_an_event() -> None:
    """The kernel drops some routes without a word: a look every 30 s."""

    async def story(it: Shell) -> None:
        await it.settled()
        it.kernel.delete([ROUTE_A])
        await asyncio.sleep(31.0)
        assert (ROUTE_A in it.kernel.state, len(it.repairs)) == (True, 1)

    shell(story)


def test_own_changes_are_no_drift() -> None:
    """Failover, recovery, reload: nobody else did that."""

    async def story(it: Shell) -> None:
        await it.settled()
        it.carrier("a", False)
        await asyncio.sleep(5.0)
        it.carrier("a", True)
        await asyncio.sleep(10.0)
        it.loop.load(settings(uplink("a"), uplink("c"), policies=[policy("c", "a")]))
        await asyncio.sleep(10.0)
        assert (it.kernel.members(), it.repairs) == ({C3}, [])

    shell(story)


def test_fight_slows_down() -> None:
    """Somebody who deletes our rule again at once is not outrun, but outlasted; failover stays quick."""

    async def story(it: Shell) -> None:
        await it.settled()
        rule = next(key for key, o in it.kernel.state.items() if isinstance(o, Rule))

        async def opponent() -> None:
            while True:
                if rule in it.kernel.state:
                    it.kernel.delete([rule])
                    it.loop.look_again()
                await asyncio.sleep(0.01)

        fight = asyncio.create_task(opponent())
        await asyncio.sleep(120.0)
        times = [at for at, _ in it.repairs]
        assert gaps(times)[0] < 0.5
        assert max(gaps(times)[-2:]) >= 10.0
        assert len(times) < 25
        it.carrier("a", False)
        await asyncio.sleep(0.05)
        assert it.kernel.members() == {B2, C3}
        fight.cancel()
        await asyncio.sleep(100.0)
        assert (rule in it.kernel.state, it.loop.last_cycle and it.loop.last_cycle.result) == (True, "unchanged")

    shell(story)


def test_storm_of_events_is_debounced() -> None:
    """The first event is acted on at once, a thousand more in two seconds cost about five looks a second."""

    async def story(it: Shell) -> None:
        await it.settled()
        began, cycles = it.clock(), len(it.cycles)
        for _ in range(1000):
            it.loop.look_again()
            await asyncio.sleep(0.002)
        looks = it.kernel.times("look", since=began)
        assert looks[0] == pytest.approx(began, abs=0.005)
        assert len(looks) <= 12
        assert len(it.cycles) - cycles <= 30

    shell(story)


def test_link_message_that_says_nothing_new_costs_nothing() -> None:
    """The kernel repeats itself."""

    async def story(it: Shell) -> None:
        await it.settled()
        began = it.clock()
        for _ in range(100):
            it.loop.link("a0", 1, True, True)
            it.loop.link("lan0", 77, True, False)
        await asyncio.sleep(0.1)
        assert it.kernel.times("look", since=began) == []

    shell(story)


def test_reload_during_a_look_does_not_miss_the_new_uplink() -> None:
    """A look that did not ask for an interface says nothing about it."""

    async def story(it: Shell) -> None:
        await it.settled()
        it.kernel.appear(facts("d", 4))
        it.kernel.look_takes = 0.5
        it.loop.look_again()
        await asyncio.sleep(0.1)
        it.loop.load(settings(uplink("a"), uplink("b"), uplink("c"), uplink("d")))
        await asyncio.sleep(5.0)
        assert [(t.uplink, t.event) for t, _ in it.transitions[3:]] == [("d", "uplink_up")]

    shell(story)


def test_interface_that_appears_is_taken_in() -> None:
    """An event makes the loop look; the uplink is proven, and gets its share."""

    async def story(it: Shell) -> None:
        await it.settled()
        assert it.kernel.members() == {A1, C3}
        it.kernel.appear(facts("b", 2))
        it.loop.look_again()
        await asyncio.sleep(5.0)
        assert it.kernel.members() == {A1, B2, C3}
        assert it.kernel.state == left_behind()

    shell(story, up="ac")


def test_idle_costs_little() -> None:
    """In ten quiet minutes: a look every 30 s, and no other cycle."""

    async def story(it: Shell) -> None:
        await it.settled()
        began, cycles = it.clock(), len(it.cycles)
        await asyncio.sleep(600.0)
        assert 19 <= len(it.kernel.times("look", since=began)) <= 21
        assert len(it.cycles) - cycles <= 21

    shell(story)


def test_release_leaves_nothing() -> None:
    """Everything owned goes, sysctls are as they were, whatever the configuration says meanwhile."""

    async def story(it: Shell) -> None:
        await it.settled()
        await it.stop()
        assert await release(it.kernel) == []
        assert it.kernel.state == World(ABC).untouched()

    shell(story)
