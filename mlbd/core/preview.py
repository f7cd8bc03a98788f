"""What a settled cycle would do with settings that need not be in force: the input of `mlbd plan`."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from mlbd.core import prefixes, sharing
from mlbd.core.bundles import member_name
from mlbd.core.decision import Decision, Standing, View, decide
from mlbd.core.facts import InterfaceFacts
from mlbd.core.layout import Identities
from mlbd.core.settings import Settings
from mlbd.core.uplink import UplinkState


def preview(
    settings: Settings,
    identities: Identities,
    facts: Mapping[str, InterfaceFacts],
    now: Decision | None = None,
    lan_prefixes: tuple[str, ...] = (),
) -> Decision:
    """What would be decided for settings that need not be in force.

    Uplinks and members of bundles that `now` knows are as usable as they are, if facts allow; of the others it is
    assumed.
    """
    known: Mapping[str, View] = {} if now is None else now.views
    members: Mapping[str, Standing] = {} if now is None else now.standings
    standings = {
        name: replace(members.get(name, Standing(None)), facts=facts.get(interface))
        for bundle, interfaces in settings.bundles.items()
        for interface in interfaces
        for name in [member_name(bundle, interface)]
    }
    views = {}
    shared = sharing.shared(settings.uplinks)
    for uplink in settings.uplinks:
        state = UplinkState(uplink, identities.uplinks[uplink.name], 0.0)
        state.see(sharing.narrowed(shared, uplink, facts.get(uplink.interface)), 0.0)
        view, before = state.view(), known.get(uplink.name)
        sendable = view.paths != (None, None)
        view = replace(view, usable=sendable and (before is None or before.usable))
        if before is not None:  # what facts of now don't tell
            view = replace(
                view,
                families=view.families | before.families,
                down_since=before.down_since,
                prefixes=prefixes.owned(uplink, view.facts, before.prefixes),
                degraded=before.degraded,
                carries=sendable and before.carries,
                down=before.down,
                addresses=view.addresses or before.addresses,
            )
        views[uplink.name] = view
    picks = decide(settings, views, settled=True)
    dead = frozenset(() if now is None else ((name, family) for name, family in now.dead if name in views))
    return Decision(views, picks, dead, True, lan_prefixes, standings)
