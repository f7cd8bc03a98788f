"""Where the kernel can't be used, one sentence says why and what to do."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from mlbd.core.ports import KernelUnavailableError
from mlbd.kernel import LinuxKernel
from tests.kernel.namespace import private_namespace
from tests.kernel.objects import PROTOCOL, TABLE_BASE

TRY = """
from mlbd.core.ports import KernelUnavailableError
from mlbd.kernel import LinuxKernel
try:
    LinuxKernel(109, 20000)
except KernelUnavailableError as error:
    print(error)
"""


def test_without_privileges() -> None:
    """In a user namespace that does not own the network, there is no CAP_NET_ADMIN over it."""
    tried = subprocess.run(["unshare", "--user", sys.executable, "-c", TRY], capture_output=True, text=True, check=True)
    assert tried.stdout == (
        "this process may not change the network: run mlbd as root, or with the capability CAP_NET_ADMIN\n"
    )


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing libnftables is named with the package that has it."""

    def missing(name: str) -> ctypes.CDLL:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(KernelUnavailableError, match="apt-get install nftables"):
        LinuxKernel(PROTOCOL, TABLE_BASE)


def test_tables_that_include_the_systems_own_are_refused() -> None:
    """`main` never counts as ours, whatever the caller says."""
    with private_namespace(), pytest.raises(ValueError, match="the system's own"):
        LinuxKernel(PROTOCOL, 100)
