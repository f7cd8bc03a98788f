"""The contract is no test module, but its assertions should explain themselves like those of one."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.kernel.contract")
