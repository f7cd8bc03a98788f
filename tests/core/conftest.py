"""How golden cases are written anew: `pytest tests/core/test_cases.py --update-cases`, and then read with care."""

from __future__ import annotations

import hypothesis
import pytest

# The same examples in every run: a failure in CI is a failure here. A busy machine is no failure.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("same")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-cases", action="store_true", help="write expected.txt, not compare")
