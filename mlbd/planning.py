"""What a cycle would change in the kernel now, by the very functions of the cycle: `mlbd plan`."""

from __future__ import annotations

from mlbd.core import sharing
from mlbd.core.decision import Decision
from mlbd.core.describe import describe
from mlbd.core.desired import desired
from mlbd.core.layout import adopted, assign
from mlbd.core.plan import plan
from mlbd.core.ports import Kernel
from mlbd.core.preview import preview
from mlbd.core.settings import Settings


async def plan_of(kernel: Kernel, settings: Settings, now: Decision | None = None) -> list[dict[str, str]]:
    """The changes that a settled cycle with these settings would make; `now`: what is decided with those in force.

    Raises OSError.
    """
    gateways = sharing.gateways(sharing.shared(settings.uplinks), settings.uplinks)
    observation = await kernel.observe([u.interface for u in settings.uplinks], gateways, settings.bundles)
    identities = assign(settings, adopted(observation.state))
    decision = preview(settings, identities, observation.facts, now, observation.lan_prefixes)
    want = desired(settings, identities, decision, observation.state)
    return [
        {"action": change.action, "kind": change.kind, "text": describe(change)}
        for change in plan(want, observation.state)
    ]
