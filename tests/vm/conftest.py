"""What tests in the emulated machine share. Everything in the machine is theirs: it is thrown away afterwards."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_collection_modifyitems() -> None:
    if os.environ.get("MLBD_MACHINE") != "1":
        raise pytest.UsageError(
            "The tests in tests/vm only run in the emulated machine: use `make test-vm`, or for some of them "
            '`make test-vm VM="tests/vm/test_bonds.py -k failover"`.'
        )


@pytest.fixture(scope="session")
def bonding() -> None:
    """The module, without the bond0 that it makes by itself."""
    subprocess.run(["modprobe", "bonding", "max_bonds=0"], check=True)


@pytest.fixture(scope="module")
def teql() -> Iterator[None]:
    """The module, with teql0 and teql1 in the first namespace: it makes them when it is loaded, and never again. Files
    of tests run side by side, and have them one after the other.
    """
    with Path("/run/teql.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(["modprobe", "sch_teql", "max_equalizers=2"], check=True)
        # A veth whose receiver is behind drops and frees, and TEQL goes on with what was freed (docs/schemes/teql.md).
        Path("/proc/sys/net/core/netdev_max_backlog").write_text("1000000")
        yield
