"""What all tests share: which of them need the sandbox, and networks that are gone when the test is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mlbd.lab import namespaces, sandbox
from mlbd.lab.network import Network

_HERE = Path(__file__).parent
_NEED_NAMESPACES = (_HERE / "lab", _HERE / "kernel", _HERE / "probe")


def pytest_configure() -> None:
    if sandbox.inside() and "PYTEST_XDIST_WORKER" in os.environ:
        namespaces.move_to_new()  # workers share the sandbox; tests that set up interfaces must not meet


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(item.path.is_relative_to(directory) for directory in _NEED_NAMESPACES):
            item.add_marker(pytest.mark.lab)
        if item.path.is_relative_to(_HERE / "lab"):
            # One worker runs them all, one after the other: they measure time, and the kernel delays carrier events
            # of all namespaces together.
            item.add_marker(pytest.mark.xdist_group("lab"))
    if not sandbox.inside() and any(item.get_closest_marker("lab") for item in items):
        raise pytest.UsageError(
            "Tests of the lab and the kernel only run in private namespaces: use `make test`, or "
            "`.venv/bin/python -m mlbd.lab.sandbox .venv/bin/python -m pytest ...`."
        )


@pytest.fixture
def network() -> Iterator[Callable[..., Network]]:
    """Builds networks, arguments as of `Network`; they go with the test."""
    with ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(Network(*args, **kwargs))
