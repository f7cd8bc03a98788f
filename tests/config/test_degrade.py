"""What is wrong with the thresholds of [probe.degrade]."""

from __future__ import annotations

import pytest

from tests.config.test_messages import A, messages

PAIR = "expected two values, over which it begins and under which it ends, or []"

REFUSED = {
    '[probe.degrade]\nloss = ["5%", "20%"]': f"probe.degrade.loss: found an array, {PAIR}; the first can't be the "
    "smaller one",
    '[uplink.probe.degrade]\nrtt = ["1s"]': f"uplink[0].probe.degrade.rtt: found an array, {PAIR}",
    '[probe.degrade]\nloss = ["101%", "1%"]': 'probe.degrade.loss[0]: found "101%", expected a share in percent, such '
    'as "20%"; nothing is more than 100%',
    "[uplink.probe]\nloss = []": "uplink[0].probe.loss: unknown key; it belongs in [uplink.probe.degrade]",
}


@pytest.mark.parametrize("lines", REFUSED)
def test_refused(lines: str) -> None:
    """A threshold has a value at which it begins and one at which it ends."""
    assert messages(A + lines) == [f"f:5: {REFUSED[lines]}"]
