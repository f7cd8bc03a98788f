"""Whether uplinks and policies carry traffic, told to those who move a router's addresses by it (VRRP).

It is less than being usable: what is drained keeps its connections, and they would be lost if the addresses moved.
"""

from __future__ import annotations

from collections.abc import Mapping

from mlbd.core.settings import Policy, Settings


def carrying(settings: Settings, uplinks: Mapping[str, bool | None], settled: bool) -> dict[str, bool | None]:
    """Of the uplinks, as given, and of policies, by name; None: it is not known yet."""
    peers = {uplink.name for uplink in settings.uplinks if uplink.peer}
    policies = {p.name: _of(p, uplinks, peers) if settled else None for p in settings.policies if p.members}
    return {**uplinks, **policies}


def _of(policy: Policy, uplinks: Mapping[str, bool | None], peers: set[str]) -> bool | None:
    """One member is enough; but the line of another router is none of this one's."""
    known = {uplinks[name] for name in policy.members if name not in peers}
    return True if True in known else None if None in known else False
