"""Peers, the other routers of a pair: what must be said of them, and where they can't be used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mlbd.config.check import Checked
from mlbd.config.problems import Findings, shown
from mlbd.core.settings import GATEWAY

IS_PEER = "a peer translates by its own lines"


def is_peer(uplink: Checked) -> bool:
    return uplink.sound("peer") and bool(uplink["peer"])


def masquerades(uplink: Checked) -> bool:
    """Whether IPv4 is translated, as far as that is known."""
    return uplink.sound("masquerade") and bool(uplink["masquerade"]) and not is_peer(uplink)


def check_peers(uplinks: Sequence[Checked], policies: Sequence[Checked], general: Checked, findings: Findings) -> None:
    found = [uplink for uplink in uplinks if is_peer(uplink)]
    for peer in found:
        _check(peer, general, findings)
    if found and len(found) == len(uplinks):
        findings.error(
            found[0].at("peer"), "no uplink but peers", "an uplink of this router's own", "a peer stands in for lines "
            "that are dead"
        )  # fmt: skip
    names = {peer["name"] for peer in found if peer.sound("name")}
    for policy in policies:
        _tiers(policy, names, findings)
    if found:
        for uplink in uplinks:
            if uplink.sound("id") and uplink["id"] is None:
                findings.warn(
                    uplink.path, "without `id`: each line must have the same one on both routers, or connections that "
                    "are replicated mean another line there"
                )  # fmt: skip


def _check(peer: Checked, general: Checked, findings: Findings) -> None:
    if peer.sound("gateway", "gateway6") and "fixed" not in (peer["gateway"].source, peer["gateway6"].source):
        written = peer.written.get("gateway", "auto")
        findings.error(
            peer.at("gateway"), shown(written), "the other router's own address on this interface",
            "an address that moves between routers would be this router's at times"
        )  # fmt: skip
    if peer.given.get("masquerade"):
        findings.error(peer.at("masquerade"), "masquerade = true with peer = true", "no masquerade", IS_PEER)
    if peer.sound("nat6") and peer["nat6"] != "none":
        findings.error(peer.at("nat6"), f"nat6 = {shown(peer['nat6'])} with peer = true", 'nat6 = "none"', IS_PEER)
    probe = general.under(peer.inner["probe"])
    if probe.sound("targets") and set(probe["targets"]) == {GATEWAY}:
        findings.warn(
            peer.path, "only its gateway is probed: that tells that the other router lives, not that its line works; "
            "name targets in the internet, which it then forwards"
        )  # fmt: skip


def _tiers(policy: Checked, peers: set[str], findings: Findings) -> None:
    """Traffic that a peer hands over must not be handed back, so it may only be a choice where no line is left."""
    for tier in _written_tiers(policy):
        both = [name for name in tier if name in peers]
        if both and len(both) < len(tier):
            findings.error(
                policy.at("members"), f"{shown(both[0])}, a peer, in one tier with {shown(_line(tier, peers))}",
                "peers in a tier of their own, after all lines", "each router would send the other what it should "
                "carry itself"
            )  # fmt: skip


def _line(tier: Sequence[str], peers: set[str]) -> str:
    return next(name for name in tier if name not in peers)


def _written_tiers(policy: Checked) -> Iterator[Sequence[str]]:
    if not policy.sound("members", "method"):
        return
    members = policy["members"]
    tiered = [member for member in members if isinstance(member, list)]
    if tiered or policy["method"] == "failover":
        yield from tiered
    else:
        yield members
