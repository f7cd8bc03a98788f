from __future__ import annotations

import struct
import subprocess
import sys
import time

import pytest

from mlbd.core.probing import Reply
from mlbd.probe import echo, timing
from tests.probe.asking import Asking, asking, kinds, to
from tests.probe.network import Provider, message, reply, request, sh


@pytest.mark.parametrize("address", ["10.1.0.1", "2001:db8:1::1", "fe80::1:1"])
def test_answered(isp1: Provider, address: str) -> None:
    """A gateway that answers gives one reply with a plausible round trip, in both families and link-local."""

    async def story(asked: Asking) -> None:
        for round_ in range(1, 4):
            asked.prober.send(to(isp1, address, round_))
            await asked.until(round_)
        assert kinds(await asked.silence()) == ["fiber/0/1 reply", "fiber/0/2 reply", "fiber/0/3 reply"]
        assert all(0 < o.rtt < 0.5 for o in asked.heard if isinstance(o, Reply))
        assert (asked.prober.echoes.duplicates, asked.prober.echoes.foreign) == (0, 0)

    asking(story)


@pytest.mark.parametrize("address", ["203.0.113.1", "2001:db8:ffff::1"])
def test_beyond_the_gateway(isp1: Provider, address: str) -> None:
    """A far target is reached through the gateway of the interface's probe table though `main` has no route at all."""
    isp1.sh(f"ip addr add {address} dev lo")
    isp1.sh(f"until ip route get {address} | grep -q ^local; do sleep 0.01; done")  # an IPv6 one comes a moment later

    async def story(asked: Asking) -> None:
        asked.prober.send(to(isp1, address))
        assert kinds(await asked.until(1)) == ["fiber/0/1 reply"]

    asking(story)


@pytest.mark.parametrize("address", ["10.1.0.1", "2001:db8:1::1"])
def test_blackhole(isp1: Provider, address: str) -> None:
    """Silence is not reported."""
    isp1.deaf()

    async def story(asked: Asking) -> None:
        asked.prober.send(to(isp1, address))
        assert await asked.silence(0.3) == []

    asking(story)


def test_blocked_event_loop_does_not_lengthen_the_round_trip(isp1: Provider) -> None:
    """The round trip ends when the kernel receives the reply, not when the event loop gets to it."""

    async def story(asked: Asking) -> None:
        # The kernel begins to take timestamps a moment after the first socket has asked for them.
        asked.prober.send(to(isp1, isp1.gateway, 1))
        await asked.silence()
        asked.prober.send(to(isp1, isp1.gateway, 2))
        time.sleep(0.1)  # noqa: ASYNC251  (blocking the loop is the point)
        outcome = (await asked.until(2))[1]
        assert isinstance(outcome, Reply)
        assert outcome.rtt < 0.08

    asking(story)


@pytest.mark.parametrize(
    ("received", "expected"),
    [(1_000_300, 300), (500_000, 50_000), (9_000_000, 50_000), (0, 50_000)],
    ids=["as measured", "clock set back", "clock set forward", "no kernel time"],
)
def test_clock_steps(received: int, expected: int) -> None:
    """A round trip that the monotonic clock contradicts is replaced by the monotonic difference."""
    sent = timing.Sent(round=1, address="", realtime=1_000_000, monotonic=70_000)
    assert timing.round_trip(sent, received, 120_000) == expected


def test_late_and_duplicate(isp1: Provider) -> None:
    """A reply counts however late, with its full round trip, and once: what comes again is counted and dropped."""
    isp1.deaf()

    async def story(asked: Asking) -> None:
        with isp1.raw() as raw:
            for round_ in (1, 2):
                asked.prober.send(to(isp1, isp1.gateway, round_))
            first, second = request(raw), request(raw)
            await asked.silence(0.2)
            raw.sendto(reply(second), ("10.1.0.2", 0))
            raw.sendto(reply(first), ("10.1.0.2", 0))
            raw.sendto(reply(first), ("10.1.0.2", 0))
            assert kinds(await asked.silence()) == ["fiber/0/2 reply", "fiber/0/1 reply"]
            assert all(0.2 < o.rtt < 0.9 for o in asked.heard if isinstance(o, Reply))
            assert (asked.prober.echoes.duplicates, asked.prober.echoes.foreign) == (1, 0)

    asking(story)


def test_only_the_last_probes_are_remembered(isp1: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: a reply to an unanswered probe older than the limit is dropped."""
    monkeypatch.setattr(echo, "REMEMBERED", 2)
    isp1.deaf()

    async def story(asked: Asking) -> None:
        with isp1.raw() as raw:
            for round_ in (1, 2, 3):
                asked.prober.send(to(isp1, isp1.gateway, round_))
            for echo_request in [request(raw) for _ in range(3)]:
                raw.sendto(reply(echo_request), ("10.1.0.2", 0))
            assert kinds(await asked.silence()) == ["fiber/0/2 reply", "fiber/0/3 reply"]

    asking(story)


def test_round_beyond_sixteen_bits(isp1: Provider) -> None:
    """A round number above 65535 comes back whole."""

    async def story(asked: Asking) -> None:
        asked.prober.send(to(isp1, isp1.gateway, 0x12345678))
        assert kinds(await asked.until(1)) == [f"fiber/0/{0x12345678} reply"]

    asking(story)


@pytest.mark.parametrize("what", ["source", "identifier", "cookie", "round", "length"])
def test_forged(isp1: Provider, what: str) -> None:
    """A reply of which anything does not fit is dropped, and the true one still counts."""
    isp1.deaf()

    async def story(asked: Asking) -> None:
        with isp1.raw() as raw, isp1.raw("10.1.0.9") as other:
            asked.prober.send(to(isp1, isp1.gateway))
            true = request(raw)
            rest = bytearray(true[4:])
            rest[{"source": 0, "identifier": 1, "cookie": 4, "round": 19, "length": 0}[what]] ^= what != "source"
            forged = message(0, 0, true[4:12] if what == "length" else bytes(rest))
            (other if what == "source" else raw).sendto(forged, ("10.1.0.2", 0))
            assert await asked.silence() == []
            # The kernel's filter does not even let through what has somebody else's identifier.
            unheard = what in ("identifier", "length") and forged[4:6] != true[4:6]
            assert asked.prober.echoes.foreign == (0 if unheard else 1)
            raw.sendto(reply(true), ("10.1.0.2", 0))
            assert kinds(await asked.until(1)) == ["fiber/0/1 reply"]

    asking(story)


def test_one_target_over_two_uplinks(isp1: Provider, isp2: Provider) -> None:
    """The same target over two uplinks goes out of each: one that is dead is not answered through the other."""
    for isp in (isp1, isp2):
        isp.sh("ip addr add 203.0.113.1 dev lo")
    sh("ip route add default via 10.1.0.1 dev wan1")
    isp2.deaf()

    async def story(asked: Asking) -> None:
        asked.prober.send(to(isp1, "203.0.113.1", 1, "fiber"))
        asked.prober.send(to(isp2, "203.0.113.1", 1, "cable"))
        assert kinds(await asked.silence()) == ["fiber/0/1 reply"]

    asking(story)


def test_several_targets_on_one_socket(isp1: Provider) -> None:
    """Targets of one uplink have identifiers of their own, kept for all their probes."""
    isp1.deaf()

    async def story(asked: Asking) -> None:
        with isp1.raw() as raw:
            for round_ in (1, 2):
                asked.prober.send(to(isp1, isp1.gateway, round_, target=0))
                asked.prober.send(to(isp1, "10.1.0.9", round_, target=1))
            seen = [struct.unpack("!HH", request(raw)[4:8]) for _ in range(4)]
            [(first, _), (second, _)] = seen[:2]
            assert first != second
            assert seen == [(first, 1), (second, 1), (first, 2), (second, 2)]

    asking(story)


def test_forget(isp1: Provider) -> None:
    """After `forget` nothing is heard of the uplink's probes, until there is a new order."""
    isp1.deaf()

    async def story(asked: Asking) -> None:
        with isp1.raw() as raw:
            asked.prober.send(to(isp1, isp1.gateway))
            first = request(raw)
            asked.prober.forget("fiber")
            asked.prober.forget("never heard of")
            raw.sendto(reply(first), ("10.1.0.2", 0))
            assert await asked.silence() == []
            asked.prober.send(to(isp1, isp1.gateway, 2))
            raw.sendto(reply(request(raw)), ("10.1.0.2", 0))
            assert kinds(await asked.until(1)) == ["fiber/0/2 reply"]

    asking(story)


def test_strangers_do_not_wake_us(isp1: Provider) -> None:
    """Replies to other programs' pings, and errors about them, never reach the socket."""

    async def story(asked: Asking) -> None:
        asked.prober.send(to(isp1, isp1.gateway))
        await asked.until(1)
        isp1.sh("ip route add unreachable 203.0.113.1")
        sh("ping -c 3 -i 0.01 -W 1 10.1.0.1")
        sh("ping -c 1 -W 1 -I wan1 203.0.113.1; test $? = 1")
        sh("ping -c 3 -i 0.01 -W 1 2001:db8:1::1")
        assert kinds(await asked.silence()) == ["fiber/0/1 reply"]
        assert asked.prober.echoes.foreign == 0

    asking(story)


def test_only_what_is_asked_for_is_loaded() -> None:
    """Without targets that need them, libraries for DNS and HTTP take no memory."""
    code = "import sys, mlbd.daemon; print({'dns', 'h11'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
