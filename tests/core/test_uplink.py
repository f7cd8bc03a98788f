"""One uplink in virtual time: what probes and facts make of its verdict."""

from __future__ import annotations

from statistics import median

import pytest
from msgspec.structs import replace

from mlbd.core.probing import Failure, Order, Reply
from mlbd.core.settings import Probe
from tests.core.world import BEGIN, FAR, FAR2, GATEWAY, World, one, proven, settings, uplink

QUICK = Probe(interval=0.1, timeout=0.1, fall=3)


# The beginning.


@pytest.mark.parametrize("rise", [1, 3, 7])
def test_start_proves_after_rise_rounds_at_suspect_pace(rise: int) -> None:
    """The first verdict doesn't wait for the ordinary interval."""
    world = one(Probe(rise=rise))
    took = world.until(lambda: world.usable() == {"a"})
    assert world.sent("a") == pytest.approx([BEGIN + 0.1 * i for i in range(rise)])
    assert took == pytest.approx(0.1 * (rise - 1) + 0.01, abs=0.011)


def test_hold_is_not_asked_at_the_start() -> None:
    """`hold` is how long an uplink must have been good before it carries traffic again, not for the first time."""
    world = one(Probe(hold=30.0))
    world.wait(1.0)
    assert world.usable() == {"a"}


def test_start_on_a_dead_uplink_ends_in_a_verdict() -> None:
    """`fall` rounds at suspect pace, the longest timeout since nothing was measured, then DOWN with its reason."""
    world = one()
    world.answers["a"] = None
    (transition,) = world.wait(3.0)
    assert (transition.event, transition.was, transition.now) == ("uplink_down", "UNKNOWN", "DOWN")
    assert transition.at == pytest.approx(BEGIN + 0.4 + 1.0)
    assert transition.reason == "5 of 5 probes lost"


@pytest.mark.parametrize("probe", [Probe(), QUICK])
@pytest.mark.parametrize("lost", [1, 2, 3])
def test_one_lost_probe_at_the_start_is_no_verdict(probe: Probe, lost: int) -> None:
    """A restart must not take an uplink for dead, and cut its connections, because of one lost probe of the first."""
    world = one(probe)
    world.answers["a"] = lambda order: None if order.round == lost else 0.01
    assert [t.event for t in world.wait(5.0)] == ["uplink_up"]


def test_pace_settles_to_the_interval() -> None:
    """Once UP, one round a second."""
    world = proven()
    world.wait(10.0)
    gaps = [b - a for a, b in zip(world.sent("a")[5:], world.sent("a")[6:], strict=False)]
    assert gaps == pytest.approx([1.0] * len(gaps))


# Silence.


def detection(probe: Probe, phase: float) -> float:
    """Seconds from silence to DOWN, silence beginning `phase` of the interval after a probe."""
    world = proven(probe)
    world.wait(world.router.deadline() - world.now + 0.02 + phase * probe.interval * 0.97)
    world.answers["a"] = None
    return world.until(lambda: not world.usable())


@pytest.mark.parametrize(("probe", "usual", "worst"), [(Probe(), 1.5, 2.0), (QUICK, 0.4, 0.5)])
def test_silent_failure_is_found_soon(probe: Probe, usual: float, worst: float) -> None:
    """Over all phases of the interval, with round trips of 10 ms: the median and the worst."""
    times = [detection(probe, phase / 20) for phase in range(20)]
    assert (median(times) <= usual, max(times) <= worst) == (True, True), times


def test_a_dead_target_does_not_delay_what_the_others_tell() -> None:
    """One that never answers, silent or with a refusal, is not waited for, and is not the reason."""
    for dead in (None, "refused"):
        world = one(Probe(targets=(GATEWAY, FAR)))
        world.answers["a", 1] = dead
        world.wait(20.2)
        world.answers["a", 0] = None
        assert world.until(lambda: not world.usable()) <= 2.1  # noqa: B023
        assert world.transitions[-1].reason.endswith("probes lost")


def test_falling_carries_and_probes_fast() -> None:
    """The first bad round hurries the probing, and takes no traffic away."""
    world = proven()
    world.answers["a"] = None
    world.until(lambda: world.verdicts()["a"] == "FALLING")
    assert world.usable() == {"a"}
    world.answers["a"] = 0.01
    at = world.now
    assert world.wait(3.0) == []
    assert world.verdicts() == {"a": "UP"}
    assert min(t for t in world.sent("a") if t > at) - at <= 0.1


@pytest.mark.parametrize("lost", [1, 2, 3, 4])
def test_fewer_than_fall_lost_rounds_take_nothing_away(lost: int) -> None:
    """Four in a row of five are not enough."""
    world = proven()
    first = len(world.sent("a")) + 1
    world.answers["a"] = lambda order: None if first <= order.round < first + lost else 0.01
    assert world.wait(20.0) == []
    assert world.status("a").loss == pytest.approx(lost / len(world.sent("a")), abs=0.01)


def test_transition_carries_reason_evidence_and_what_is_left() -> None:
    """Everything a log record needs."""
    world = World(settings(uplink("a"), uplink("b")))
    world.wait(5.0)
    world.answers["a"] = None
    (transition,) = world.wait(5.0)
    assert (transition.event, transition.uplink, transition.was, transition.now, transition.reason) == (
        "uplink_down", "a", "FALLING", "DOWN", "9 of 9 probes lost",
    )  # fmt: skip
    assert transition.usable == ("b",)
    assert transition.evidence.rstrip("?").endswith(".!!!!!!!!!")


def test_recovery_needs_rise_good_rounds() -> None:
    """An answer alone is not enough, three in a row are."""
    world = proven()
    world.answers["a"] = None
    world.wait(5.0)
    world.answers["a"] = lambda order: 0.01 if order.round % 3 else None
    assert world.wait(30.0) == []
    world.answers["a"] = 0.01
    (transition,) = world.wait(5.0)
    assert (transition.event, transition.was, transition.now) == ("uplink_up", "RISING", "UP")


def test_probes_go_on_while_down() -> None:
    """At the ordinary interval."""
    world = proven()
    world.answers["a"] = None
    world.wait(10.0)
    before = len(world.sent("a"))
    world.wait(10.0)
    assert len(world.sent("a")) - before == 10


# Late, old and foreign replies.


def test_late_reply_turns_its_round_good() -> None:
    """Round trips longer than the timeout make rounds bad for a moment, and never an uplink DOWN."""
    world = proven(Probe(timeout=0.2))
    world.answers["a"] = 0.35
    assert world.wait(60.0) == []
    world.answers["a"] = 0.01
    world.wait(1.0)
    assert (world.status("a").loss, world.verdicts()) == (0.0, {"a": "UP"})


def test_very_late_replies_count() -> None:
    """Probing at the quickest pace the configuration allows, over a satellite, still finds the uplink."""
    world = one(Probe(interval=0.01, suspect_interval=0.01))
    world.answers["a"] = 0.7
    world.wait(5.0)
    assert world.usable() == {"a"}


def test_old_bad_round_moves_nothing() -> None:
    """A bad round older than the newest good one counts as loss, and says nothing about now."""
    world = proven(Probe(interval=0.5, timeout=2.0))
    first = len(world.sent("a")) + 1
    world.answers["a"] = lambda order: None if order.round == first else 0.01
    world.wait(1.9)
    assert world.status("a").loss == 0.0
    world.wait(1.0)
    assert world.status("a").loss > 0.0  # type: ignore[operator]
    assert (world.verdicts(), world.transitions[1:]) == ({"a": "UP"}, [])
    gaps = [b - a for a, b in zip(world.sent("a")[-4:], world.sent("a")[-3:], strict=False)]
    assert gaps == pytest.approx([0.5] * 3)


def test_newer_bad_rounds_survive_an_older_reply() -> None:
    """A reply to a round speaks for that round; the bad rounds after it remain as many as they are."""
    world = proven(Probe(interval=1.0, timeout=0.2, fall=3))
    first = len(world.sent("a")) + 1
    world.answers["a"] = lambda order: 0.45 if order.round == first else None
    (transition,) = world.wait(5.0)
    assert transition.evidence.rstrip("?").endswith("..!!!"), "three bad rounds after the one answered late suffice"


@pytest.mark.parametrize(
    "outcome",
    [
        Reply("a", 0, 999, 0.01),
        Reply("a", 7, 1, 0.01),
        Reply("z", 0, 1, 0.01),
        Failure("a", 0, 999, "no-route", "x"),
        Failure("z", 0, 1, "no-route", "x"),
    ],
)
def test_foreign_outcome_is_ignored(outcome: Reply | Failure) -> None:
    """What was never ordered proves nothing."""
    world = one()
    before = world.status("a")
    assert world.hear(outcome) == []
    assert world.status("a") == before


def test_duplicate_reply_counts_once() -> None:
    """One probe, one answer: three copies of one reply don't prove an uplink."""
    world = one()
    world.answers["a"] = lambda order: 0.01 if order.round == 1 else None
    world.wait(0.05)
    for _ in range(5):
        assert world.hear(Reply("a", 0, 1, 0.01)) == []
    assert world.verdicts() == {"a": "UNKNOWN"}


# Several targets.


def several(quorum: int, fall: int = 5) -> Probe:
    return Probe(targets=(GATEWAY, FAR, FAR2), quorum=quorum, fall=fall)


@pytest.mark.parametrize(("quorum", "silent", "usable"), [(1, 2, True), (2, 1, True), (2, 2, False), (3, 1, False)])
def test_quorum(quorum: int, silent: int, usable: bool) -> None:
    """A round is good when `quorum` targets answered, and bad when fewer did."""
    world = proven(several(quorum))
    for index in range(silent):
        world.answers["a", index] = None
    world.wait(20.0)
    assert world.usable() == ({"a"} if usable else set())


def test_silent_target_of_a_good_round_counts_as_lost() -> None:
    """A round that is good without a target says nothing good about that target."""
    world = proven(several(1))
    world.answers["a", 1] = None
    world.wait(120.0)
    gateway, far, _ = world.status("a").targets
    assert (gateway.loss, far.loss, far.reason) == (0.0, 1.0, "no reply")


def test_hopeless_round_is_bad_at_once() -> None:
    """As soon as too many targets have failed for it ever to be good, nothing is waited for."""
    world = proven(several(2, fall=1))
    world.answers |= {("a", 1): "unreachable", ("a", 2): "unreachable"}
    (transition,) = world.wait(1.5)
    assert transition.at in world.sent("a")
    assert transition.reason == "unreachable, says the test"


# Failures.


@pytest.mark.parametrize("kind", ["no-route", "no-device", "no-address", "unreachable", "other"])
def test_failure_is_a_bad_round_with_its_reason(kind: str) -> None:
    """What the kernel or a router on the way says about a probe is the reason of the transition."""
    world = proven()
    world.answers["a"] = kind  # type: ignore[assignment]
    (transition,) = world.wait(5.0)
    assert (transition.event, transition.reason) == ("uplink_down", f"{kind}, says the test")
    assert transition.evidence.endswith(".xxxxx")


@pytest.mark.parametrize("kind", ["firewall", "no-buffer"])
def test_void_round_is_no_evidence(kind: str) -> None:
    """A probe that this router refused to send says nothing about the uplink, and is no loss."""
    world = proven()
    world.answers["a"] = kind  # type: ignore[assignment]
    assert world.wait(60.0) == []
    status = world.status("a")
    assert (status.verdict, status.loss) == ("UP", None)
    assert status.reason.startswith(f"{kind}, says the test")


def test_reason_of_a_void_round_goes_with_it() -> None:
    """Status does not speak of a refused probe when probes have long been answered again."""
    world = proven()
    before = world.status("a").reason
    world.answers["a"] = "no-buffer"
    world.wait(1.0)
    world.answers["a"] = 0.01
    world.wait(10.0)
    assert world.status("a").reason == before


def test_only_sent_probes_count_as_lost() -> None:
    """An uplink without an address for its target is DOWN with that reason, and has no loss."""
    v6 = Probe(targets=(replace(FAR, text="2001:db8:f::1", address="2001:db8:f::1", family=6),))
    world = one(v6)
    (transition,) = world.wait(5.0)
    assert transition.reason == "no IPv6 address on a0 to probe from"
    assert (world.status("a").loss, world.orders) == (None, [])


def test_orders_name_the_interface_and_where_to() -> None:
    """Everything the prober needs stands in the order."""
    world = one(Probe(targets=(GATEWAY, FAR)))
    world.wait(0.0)
    assert [order for _, order in world.orders] == [
        Order("a", 0, 1, "a0", 1, "10.1.0.1", mark=0x01000000),
        Order("a", 1, 1, "a0", 1, "192.0.2.1", FAR, mark=0x01000000),
    ]


# Hold.


def flap(world: World, good: float, bad: float = 10.0) -> None:
    world.answers["a"] = None
    world.wait(bad)
    world.answers["a"] = 0.01
    world.wait(good)


def test_hold_doubles_with_each_flap() -> None:
    """Up to `hold_max`."""
    world = one(Probe(hold=10.0, hold_max=60.0))
    world.wait(30.0)
    holds = []
    for _ in range(5):
        flap(world, good=0.0)
        holds.append((world.status("a").hold, round(world.until(lambda: world.usable() == {"a"}, 90.0))))
        world.wait(1.0)
    assert [asked for asked, _ in holds] == pytest.approx([10.0, 20.0, 40.0, 60.0, 60.0], rel=0.02)
    assert all(asked - 1.0 <= took <= asked + 2.0 for asked, took in holds), holds


def test_without_a_hold_the_first_failure_costs_nothing() -> None:
    """But later ones do, from 10 s on."""
    world = proven()
    holds = []
    for _ in range(4):
        flap(world, good=0.0)
        holds.append(world.status("a").hold)
        world.until(lambda: world.usable() == {"a"}, 90.0)
        world.wait(5.0)
    assert holds == pytest.approx([0.0, 10.0, 20.0, 40.0], rel=0.01)


def test_hold_starts_over_with_a_bad_round() -> None:
    """It must have been good all the time."""
    world = one(Probe(hold=10.0))
    world.wait(15.0)
    flap(world, good=8.0)
    world.answers["a"] = None
    world.wait(1.5)
    world.answers["a"] = 0.01
    assert world.until(lambda: world.usable() == {"a"}) >= 9.0
