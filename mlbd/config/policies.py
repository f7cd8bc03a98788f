"""Policies: members, tiers and weights, checked against the uplinks there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set

from mlbd.config.check import Checked
from mlbd.config.problems import Findings, Path, nearest, shown
from mlbd.core.settings import Policy, Uplink

IMPLICIT = "balanced"
"""The policy there is when the file has none."""

MAX_POLICIES = 25
"""Policies take their codes from 127 downwards; uplinks have 1 to 100 of them, and `main` one."""


def check_policies(
    tables: Sequence[Checked], uplinks: Sequence[Checked], elsewhere: Set[str], findings: Findings
) -> None:
    """Note what is wrong with the policies, and which uplinks are neither in one nor in `elsewhere`."""
    known = list(dict.fromkeys(uplink["name"] for uplink in uplinks if uplink.sound("name")))
    if len(tables) > MAX_POLICIES:
        expected = f"at most {MAX_POLICIES}"
        findings.error(
            tables[MAX_POLICIES].path, f"{len(tables)} policies", expected, "marks have no more codes for them"
        )
    for table in tables:
        _members(table, known, findings)
        _weights(table, known, findings)
    if not tables or not all(table.sound("members") for table in tables):
        return
    used = elsewhere | {name for table in tables for _, name in _named(table)}
    for uplink in uplinks:
        if uplink.sound("name") and uplink["name"] not in used:
            lonely = f"{shown(uplink['name'])} is in no policy: it will only carry replies to what comes in by it"
            findings.warn(uplink.path, lonely)


def policies(tables: Sequence[Checked], uplinks: Sequence[Uplink]) -> tuple[Policy, ...]:
    """The policies that the tables mean; nothing may be wrong with them."""
    usual = {uplink.name: uplink.weight for uplink in uplinks}
    if not tables:
        lines, peers = ([u.name for u in uplinks if u.peer is peer] for peer in (False, True))
        first = (tuple(lines), tuple(peers)) if peers else (tuple(lines),)
        weights = tuple((name, usual[name]) for tier in first for name in tier)
        return (Policy(name=IMPLICIT, tiers=first, weights=weights),)
    found = []
    for table in tables:
        spread = tiers(table)
        own = usual | table["weights"]
        found.append(
            Policy(
                name=table["name"],
                method=table["method"],
                tiers=spread,
                weights=tuple((name, own[name]) for tier in spread for name in tier),
                last_resort=table["last_resort"],
            )
        )
    return tuple(found)


def tiers(table: Checked) -> tuple[tuple[str, ...], ...]:
    """A flat list is one tier, in a failover policy a tier for each member."""
    members = table["members"]
    if any(isinstance(member, list) for member in members):
        return tuple(map(tuple, members))
    return tuple((name,) for name in members) if table["method"] == "failover" else (members,)


def _named(table: Checked) -> Iterator[tuple[Path, str]]:
    """The names in `members`, and where each stands; also those beside something that is wrong."""
    members, path = table.written.get("members"), table.at("members")
    for index, member in enumerate(members if isinstance(members, list) else ()):
        if isinstance(member, str):
            yield (*path, index), member
        elif isinstance(member, list):
            yield from (((*path, index, inner), name) for inner, name in enumerate(member) if isinstance(name, str))


def _members(table: Checked, known: Sequence[str], findings: Findings) -> None:
    path, members = table.at("members"), table["members"] if table.sound("members") else None
    if members == ():
        findings.error(path, "an empty array", "at least one uplink")
    if len({type(member) for member in members or ()}) > 1:
        expected = "either names or tiers, not both"
        findings.error(path, "names beside tiers", expected, 'a name alone makes a tier like this: ["name"]')
    for index, member in enumerate(members or ()):
        if member == []:
            findings.error((*path, index), "an empty tier", "at least one uplink in each tier")
    seen: set[str] = set()
    for place, name in _named(table):
        if name not in known:
            findings.error(place, shown(name), "the name of an uplink", which(name, known))
        elif name in seen:
            findings.error(place, shown(name), "each uplink only once in a policy")
        seen.add(name)


def _weights(table: Checked, known: Sequence[str], findings: Findings) -> None:
    path, members = table.at("weights"), [name for _, name in _named(table)]
    weights = table.written.get("weights")
    for name in weights if isinstance(weights, dict) and members else ():
        if name not in members:
            hint = (
                "it is not a member of this policy"
                if name in known
                else which(name, [uplink for uplink in known if uplink in members])
            )
            findings.error((*path, name), shown(name), "the name of a member", hint)
    if weights and table.sound("members", "weights", "method") and all(len(tier) == 1 for tier in tiers(table)):
        findings.warn(path, "these weights have no effect: every tier has one member")


def which(name: str, known: Sequence[str]) -> str:
    """The known name that was probably meant; all of them if none resembles it."""
    return nearest(name, known) or (f"there are {', '.join(known)}" if known else "")
