"""The contract of `Kernel`, kept by the real kernel and by the one in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from mlbd.core.facts import InterfaceFacts
from mlbd.kernel import LinuxKernel
from tests.kernel.contract import KernelContract, Subject
from tests.kernel.memory import MemoryKernel
from tests.kernel.namespace import veth_pairs
from tests.kernel.objects import DEVICES, PROTOCOL, TABLE_BASE


class TestLinuxKernel(KernelContract):
    @pytest.fixture
    def subject(self) -> Iterator[Subject]:
        with veth_pairs(), asyncio.Runner() as runner:
            kernel = LinuxKernel(PROTOCOL, TABLE_BASE)
            yield Subject(kernel, runner)
            kernel.close()


class TestMemoryKernel(KernelContract):
    @pytest.fixture
    def subject(self) -> Iterator[Subject]:
        with asyncio.Runner() as runner:
            facts = [InterfaceFacts(name=name, index=i, up=True, carrier=True) for i, name in enumerate(DEVICES, 2)]
            yield Subject(MemoryKernel(facts), runner)
