"""Who may have changed what is ours, and what to do about a program that does not stop."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from mlbd.core.plan import Change

_REMEDIES: dict[frozenset[str], str] = {
    frozenset({"rule", "route"}): (
        "often systemd-networkd, which wants ManageForeignRoutes=no and ManageForeignRoutingPolicyRules=no in "
        "/etc/systemd/networkd.conf.d/mlbd.conf"
    ),
    frozenset({"sysctl"}): "often a tuning program, or sysctl --system run by a timer",
}
_NFTABLES = "often a firewall that is started again and again with 'flush ruleset': let it flush its own tables only"


def advice(changes: Iterable[Change], by: Collection[str]) -> str:
    """About somebody who undoes these changes again and again: who, and the remedy."""
    kinds = {change.kind for change in changes}
    found = [text for of, text in _REMEDIES.items() if kinds & of]
    if kinds - frozenset().union(*_REMEDIES):
        found.append(_NFTABLES)
    who = " or ".join(sorted(by)) or "a program that the kernel does not name"
    return f"what mlbd makes is undone again and again by {who}, so repairs wait longer: {'; '.join(found)}"
