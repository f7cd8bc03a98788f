"""Random plans and random faults: what is refused is as it was, all else as wanted, and the next try ends it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlbd.core.facts import InterfaceFacts
from mlbd.core.plan import Change, apply, plan
from mlbd.core.ports import Kernel
from mlbd.core.state import KernelState
from mlbd.kernel import LinuxKernel
from tests.faults.injector import ERRORS, FaultyKernel, Messages, Operation, nothing
from tests.kernel.memory import MemoryKernel
from tests.kernel.namespace import run, veth_pairs
from tests.kernel.objects import DEVICES, PROTOCOL, TABLE_BASE, states

FOREIGN = ("ip rule add pref 5210 fwmark 0x42 lookup 42", "ip route add 192.0.2.0/24 dev k1 table 42")
SHOWN = ("ip rule show table 42", "ip route show table 42", "ip route show table main")
budget = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors, HealthCheck.too_slow],
)


@pytest.fixture
def linux() -> Iterator[LinuxKernel]:
    with veth_pairs():
        run(*FOREIGN)
        before = run(*SHOWN)
        kernel = LinuxKernel(PROTOCOL, TABLE_BASE)
        yield kernel
        kernel.close()
        assert run(*SHOWN) == before


@pytest.fixture(params=["memory", pytest.param("linux", marks=pytest.mark.lab)])
def kernel(request: pytest.FixtureRequest) -> Kernel:
    if request.param == "memory":
        facts = [InterfaceFacts(name=name, index=i, up=True, carrier=True) for i, name in enumerate(DEVICES, 2)]
        return MemoryKernel(facts)
    found: LinuxKernel = request.getfixturevalue("linux")
    return found


async def seen(kernel: Kernel) -> KernelState:
    return (await kernel.observe(DEVICES)).state


@budget
@given(desired=states, faults=st.sets(st.integers(0, 30), min_size=1), number=st.sampled_from(ERRORS))
def test_any_operations_of_any_plan_fail(kernel: Kernel, desired: KernelState, faults: set[int], number: int) -> None:
    """Exactly what was refused is told and is as before, the rest is made, and trying again ends where it should."""

    async def story() -> None:
        faulty = FaultyKernel(kernel)
        before = await seen(kernel)
        changes = plan(desired, before)
        count = 0
        refused: list[Change] = []

        def fail(operation: Operation) -> None:
            nonlocal count
            count += 1
            if count - 1 in faults:
                refused.extend(operation.changes)
                raise OSError(number, os.strerror(number))

        faulty.before = fail
        told = [error.change for error in await faulty.apply(changes)]
        faulty.before = nothing
        assert set(refused) <= set(told)
        assert await seen(kernel) == apply((change for change in changes if change not in told), before)
        if isinstance(kernel, MemoryKernel):
            assert told == refused
        assert list(await faulty.apply(plan(desired, await seen(kernel)))) == []
        assert plan(desired, await seen(kernel)) == []

    asyncio.run(story())


@pytest.mark.lab
@budget
@given(desired=states, first=st.integers(0, 30), several=st.integers(1, 4), lost=st.booleans())
def test_any_messages_of_any_plan_fail(
    linux: LinuxKernel, desired: KernelState, first: int, several: int, lost: bool
) -> None:
    """After whatever failed, every object is as it was or as it should be, and trying again ends where it should."""

    async def story() -> None:
        before = await seen(linux)
        changes = plan(desired, before)
        wanted = apply(changes, before)
        with Messages(first, first + several - 1, lost).below():
            told = {error.change.object.key for error in await linux.apply(changes)}
        after = await seen(linux)
        for key in {*before, *after, *wanted}:
            allowed = (before.get(key), wanted.get(key)) if lost or key in told else (wanted.get(key),)
            assert after.get(key) in allowed
        assert list(await linux.apply(plan(desired, after))) == []
        assert plan(desired, await seen(linux)) == []

    asyncio.run(story())
