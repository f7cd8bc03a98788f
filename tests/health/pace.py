"""How the tests of uplinks that change probe: soon to a verdict either way, and never held down for having changed."""

from __future__ import annotations

from tests.lab.scene import QUICK

_NEVER_HELD = 'hold = "0s"\nhold_max = "0s"\n'
SOON = QUICK if "hold_max" in QUICK else QUICK.replace("[probe]\n", f"[probe]\n{_NEVER_HELD}")
