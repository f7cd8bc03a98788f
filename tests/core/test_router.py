"""All uplinks together: start-up, reload, what is cut loose, who carries."""

from __future__ import annotations

import random

import pytest

from mlbd.core.decision import Pick
from mlbd.core.describe import describe
from mlbd.core.desired import desired
from mlbd.core.layout import Identities
from mlbd.core.plan import plan
from mlbd.core.preview import preview
from mlbd.core.probing import Order
from mlbd.core.settings import Conntrack, Daemon, Probe
from tests.core.world import (
    BEGIN,
    FAR,
    GATEWAY,
    RTT,
    A,
    Answer,
    B,
    C,
    World,
    facts,
    heal,
    kill,
    policy,
    settings,
    three,
    uplink,
)


def pick(world: World, name: str = "balanced") -> Pick:
    return world.decide().picks[name, 4]


# Start-up.


def test_settled_when_all_have_verdicts() -> None:
    """Start-up ends with the last first verdict, not with the grace time."""
    world = World(settings(A, B))
    world.until(lambda: world.usable() == {"a", "b"})
    assert world.decide().settled
    assert world.now - BEGIN < 0.5


def test_settled_when_grace_is_over() -> None:
    """An uplink that comes to no verdict is not waited for longer than `grace`."""
    world = World(settings(A, B, daemon=Daemon(grace=5.0)))
    world.answers["b"] = "firewall"
    world.wait(4.9)
    assert (world.decide().settled, world.router.reconsider(world.now)) == (False, BEGIN + 5.0)
    world.wait(0.1)
    assert world.decide().settled


def test_nothing_is_chosen_or_cut_before_settling() -> None:
    """Until then new connections are not ours, and existing ones are left in peace."""
    world = World(settings(A, B, C))
    world.answers["c"] = "firewall"
    world.see("a", None)
    world.wait(2.0)
    assert world.usable() == {"b"}
    assert pick(world) == Pick(last_resort="main")
    assert (world.decide().dead, world.router.to_cut()) == (frozenset(), frozenset())


def test_settled_stays() -> None:
    """Start-up ends once; a new uplink in a reload does not begin it again."""
    world = three()
    world.load(settings(A, B, C, uplink("d")))
    assert world.decide().settled


# Who carries.


def test_all_of_the_first_tier_carry() -> None:
    """A lower tier gets nothing while an upper one has a usable member."""
    world = three("a b", "c")
    assert pick(world) == Pick((("a", 1), ("b", 1)), frozenset("ab"), 0)
    kill(world, "a")
    assert pick(world) == Pick((("a", 1), ("b", 1)), frozenset("b"), 0)
    kill(world, "b")
    assert pick(world) == Pick((("c", 1),), frozenset("c"), 1)
    heal(world, "a")
    assert pick(world).chosen == frozenset("a")


@pytest.mark.parametrize("last_resort", ["unreachable", "blackhole", "main"])
def test_last_resort_other_than_best(last_resort: str) -> None:
    """With nobody usable, what the policy says."""
    world = three("a b c", last_resort=last_resort)
    kill(world, "a", "b", "c")
    assert pick(world) == Pick(last_resort=last_resort)  # type: ignore[arg-type]


def test_best_is_who_failed_last() -> None:
    """The member that failed last is the likeliest to be back first."""
    world = three()
    for name in "bca":
        kill(world, name)
    assert pick(world) == Pick((("a", 1),), frozenset("a"), None, "best")


def test_best_has_carrier() -> None:
    """A member without a path is no resort, and if none has one, `main` may know better."""
    world = three()
    kill(world, "a", "b")
    world.carrier("c", False)
    assert pick(world).chosen == frozenset("a")
    world.carrier("a", False)
    world.carrier("b", False)
    assert pick(world) == Pick(last_resort="main")


def test_family_that_nobody_ever_had_is_not_refused() -> None:
    """`unreachable` for IPv4 does not mean that IPv6 by some other way must end."""
    world = three("a b c", last_resort="unreachable")
    kill(world, "a", "b", "c")
    assert world.decide().picks["balanced", 6] == Pick(last_resort="main")


def test_status_of_policies() -> None:
    """Shares are those in force; a last resort is named."""
    world = three("a b", "c")
    kill(world, "a")
    (status,) = world.router.policy_status()
    assert [(m.uplink, m.tier, m.share) for m in status.members] == [("a", 0, 0.0), ("b", 0, 1.0), ("c", 1, 0.0)]
    kill(world, "b", "c")
    (status,) = world.router.policy_status()
    assert (status.last_resort, [m.share for m in status.members]) == ("best: b", [0.0, 1.0, 0.0])


# What is cut loose.


def test_dead_uplink_is_cut_when_there_is_another() -> None:
    """Once, until it is done."""
    world = three()
    kill(world, "b")
    assert world.router.to_cut() == {2}
    assert (world.router.cut(2), world.router.to_cut()) == ("b", frozenset())
    world.wait(60.0)
    assert world.router.to_cut() == frozenset()


def test_recovered_uplink_is_not_cut() -> None:
    """What could not be cut in time is left."""
    world = three()
    kill(world, "b")
    heal(world, "b")
    assert world.router.to_cut() == frozenset()


def test_last_uplink_is_not_cut() -> None:
    """There is nowhere else to go; once there is, the connections go there."""
    world = three()
    kill(world, "a")
    world.router.cut(1)
    kill(world, "c")
    world.router.cut(3)
    kill(world, "b")
    assert world.router.to_cut() == frozenset()
    heal(world, "c")
    assert world.router.to_cut() == {2}, "b died last, and was the last resort meanwhile"


def test_last_resort_is_cut_once_another_recovers() -> None:
    """Connections that began on the best of the dead move to the living; those of who recovers stay."""
    world = three()
    kill(world, "a", "b", "c")
    best = next(iter(pick(world).chosen))
    for code in (1, 2, 3):
        world.router.cut(code)
    world.decide()
    assert world.router.to_cut() == frozenset()
    other = "b" if best == "a" else "a"
    heal(world, other)
    assert world.router.to_cut() == {world.router.identities.uplinks[best]}


def test_alternative_must_share_a_policy() -> None:
    """A usable uplink of another policy is nowhere to go for these connections."""
    world = World(settings(A, B, C, policies=[policy("a b", name="one"), policy("c", name="two")]))
    world.wait(5.0)
    kill(world, "a", "b")
    assert world.router.to_cut() == frozenset()


@pytest.mark.parametrize(("on_recover", "codes"), [("keep", set()), ("flush", {3})])
def test_on_recover(on_recover: str, codes: set[int]) -> None:
    """flush: connections that went to a lower tier come back to the upper one."""
    world = three("a b", "c", conntrack=Conntrack(on_recover=on_recover))  # type: ignore[arg-type]
    kill(world, "a", "b")
    world.decide()
    for code in (1, 2):
        world.router.cut(code)
    heal(world, "a")
    world.decide()
    assert world.router.to_cut() == codes


def split(last_resort: str = "best") -> World:
    """IPv4 by a and b, IPv6 by a alone; a's verdict is DOWN."""
    world = World(settings(A, B, policies=[policy("a b", last_resort=last_resort)]))
    world.see("a", facts("a", 1, v6=True))
    world.wait(5.0)
    kill(world, "a")
    assert (pick(world).chosen, world.decide().picks["balanced", 6].chosen) == (frozenset("b"), frozenset("a"))
    return world


def test_last_resort_of_one_family_is_not_dead() -> None:
    """Connections that are sent by an uplink as a last resort are not reset on it; those of the other family are."""
    world = split()
    world.wait(60.0)
    assert world.decide().dead == {("a", 4)}


def test_last_resort_of_one_family_is_not_cut_again_and_again() -> None:
    """What was cut is not cut with every cycle, while the uplink is another family's last resort."""
    world = split()
    world.router.cut(1)
    world.wait(30.0)
    assert world.router.to_cut() == frozenset()


def test_dead_set_timing() -> None:
    """Established TCP is reset after `tcp_reset_after`, only if there is somewhere to go, and not once it recovers."""
    world = three(conntrack=Conntrack(tcp_reset_after=3.0))
    world.carrier("a", False)
    assert (world.decide().dead, world.router.reconsider(world.now)) == (frozenset(), world.now + 3.0)
    world.wait(3.0)
    assert world.decide().dead == {("a", 4)}
    world.carrier("b", False)
    world.carrier("c", False)
    world.wait(10.0)
    assert world.decide().dead == frozenset()
    world.carrier("c", True)
    world.wait(5.0)
    assert world.decide().dead == {("a", 4), ("b", 4)}
    world.carrier("a", True)
    world.wait(5.0)
    assert world.decide().dead == {("b", 4)}


def test_keep_resets_nothing() -> None:
    """`tcp = "keep"` is the administrator's word."""
    world = three(conntrack=Conntrack(tcp="keep"))
    kill(world, "a")
    world.wait(60.0)
    assert world.decide().dead == frozenset()
    assert world.router.to_cut() == {1}


# Small questions.


def test_outside_view() -> None:
    """Which interfaces are looked at, and what is believed of those that exist."""
    world = three()
    world.see("b", None)
    assert sorted(world.router.interfaces()) == ["a0", "b0", "c0"]
    assert world.router.watched() == {"a0": facts("a", 1), "c0": facts("c", 3)}
    assert world.router.see_link("lan0", 9, True, False, world.now) == []


def test_simultaneous_losses_say_what_is_left() -> None:
    """Each transition names the uplinks that are usable after it."""
    world = three()
    world.interfaces.clear()
    assert [(t.uplink, t.usable) for t in world.look()] == [("a", ("b", "c")), ("b", ("c",)), ("c", ())]


def test_preview_assumes_what_facts_allow() -> None:
    """A plan for settings not in force: known uplinks as they are, unknown ones usable if facts allow."""
    wanted = settings(A, B, uplink("d"), uplink("e"))
    seen = {f"{n}0": facts(n, i) for i, n in enumerate("abd", 1)}
    world = World(settings(A, B))
    world.wait(5.0)
    kill(world, "b")
    decision = preview(wanted, Identities({"a": 1, "b": 2, "d": 3, "e": 4}, {}), seen, world.decide())
    assert decision.picks["balanced", 4].chosen == frozenset("ad")


@pytest.mark.parametrize("dead", ["", "b", "ab", "acb"])
def test_preview_of_the_settings_in_force_changes_nothing(dead: str) -> None:
    """`mlbd plan` and the cycle say the same: where the kernel is as the daemon wants it, there is nothing to plan."""
    world = three()
    for name in dead:
        kill(world, name)
    kernel, router = world.kernel(), world.router
    now = router.decide(world.now)
    decision = preview(router.settings, router.identities, world.interfaces, now)
    wanted = desired(router.settings, router.identities, decision, kernel)
    assert [describe(change) for change in plan(wanted, kernel)] == []


@pytest.mark.parametrize("seed", range(5))
def test_ten_minutes_of_noise_cost_a_bounded_number_of_wakeups(seed: int) -> None:
    """Random loss, delay, refusals and facts: the core asks to be woken for rounds and their ends, never in a loop."""
    dice = random.Random(seed)

    fates: list[Answer] = [RTT, RTT, RTT, 0.15, 1.5, None, "firewall", "unreachable", "no-route"]

    def noise(_: Order) -> Answer:
        return dice.choice(fates)

    world = World(settings(*(uplink(n, probe=Probe(targets=(GATEWAY, FAR), hold=0.5)) for n in "abc")))
    world.answers = dict.fromkeys("abc", noise)
    for _ in range(60):
        name = dice.choice("abc")
        number = "abc".index(name) + 1
        world.see(name, dice.choice([None, facts(name, number), facts(name, number, carrier=False)]))
        world.wait(10.0)
    rounds = sum(len(world.sent(name)) for name in "abc")
    assert 100 < rounds < 3 * 600 / 0.1
    assert world.wakes <= 5 * rounds + 200


def test_settings_lookup() -> None:
    """By name, and a name that there is not is an error."""
    given = settings(A, B)
    assert given.uplink("b") == B
    with pytest.raises(KeyError):
        given.uplink("z")


def test_who_begins_or_ceases_to_rise_is_looked_at() -> None:
    """Whether established TCP is reset depends on RISING, which comes and goes without a transition."""
    world = three()
    kill(world, "b")
    for answer in (RTT, None):
        world.router.rerouted = False
        world.answers["b"] = answer
        while not world.router.rerouted:
            assert world.now < BEGIN + 60
            world.wait(0.02)
        verdicts = {u.name: u.verdict for u in world.router.uplink_status(world.now, 0.0)}
        assert verdicts["b"] == ("RISING" if answer else "DOWN")
