"""Rules: what they use, whether they can match, and what they cost, checked against everything they name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

from msgspec.structs import replace

from mlbd.config.bundles import by_name, entrances, ports
from mlbd.config.check import Checked
from mlbd.config.conditions import WITH_PORTS_TEXT
from mlbd.config.policies import IMPLICIT, tiers, which
from mlbd.config.problems import Findings, Path, shown
from mlbd.config.shadows import boxes, shadows, takes_everything
from mlbd.core import ranges
from mlbd.core.match import OWN, WITH_PORTS, box
from mlbd.core.settings import FAMILIES, MAIN, Family, Rule, Selector

MAX_RULES = 1500
"""Each takes three routing rule priorities of the 5000 there are for them (see `mlbd.core.layout`)."""

MAX_COMBINATIONS = 5000
"""Of conditions for the router's own connections. The kernel tries one routing rule after the other."""

Tables = Mapping[str, tuple[Checked, ...]]

_FIELDS = {
    "from": "sources", "to": "destinations", "interface": "interfaces", "protocol": "protocols", "ports": "ports",
    "source_ports": "source_ports", "mark": "marks",
}  # fmt: skip
"""The conditions, and what `Rule` calls them."""

_PORTS = ("ports", "source_ports")

Judged = tuple[Checked, Rule]
"""A rule whose conditions are sound and do not exclude each other."""


def check_rules(tables: Tables, findings: Findings) -> None:
    """Note what is wrong with the rules, and which of them can never match."""
    written, (daemon,) = tables["rule"], tables["daemon"]
    if len(written) > MAX_RULES:
        findings.error(written[MAX_RULES].path, f"{len(written)} rules", f"at most {MAX_RULES}")
        return
    known = _known(tables)
    interfaces, silent = _interfaces(tables), dict(entrances(tables))
    judged: list[Judged] = []
    for table in written:
        _empty(table, findings)
        _use(table, known, findings)
        _interface(table, interfaces, silent, findings)
        if table.sound("use", "sticky") and table["sticky"] is not None:
            _sticky(table, tables, findings)
        ports, marks = _protocols(table, findings), _marks(table, daemon, findings)
        if ports and marks and table.sound(*_FIELDS):
            rule = _rule(table, daemon["fwmark_mask"])
            if _possible(table, rule, findings):
                judged.append((table, rule))
    _shadows(judged, known, findings)
    _combinations(judged, tables, findings)


def rules(tables: Tables) -> tuple[Rule, ...]:
    """The rules that the tables mean; nothing may be wrong with them."""
    (daemon,) = tables["daemon"]
    return tuple(_rule(table, daemon["fwmark_mask"]) for table in tables["rule"])


def used(tables: Sequence[Checked]) -> set[str]:
    """What the rules name in `use`."""
    return {table["use"] for table in tables if table.sound("use")}


def _rule(table: Checked, ours: int) -> Rule:
    selectors: dict[str, Any] = {}
    for key, field in _FIELDS.items():
        found = table[key] or ()
        if key == "mark":
            found = tuple((wanted, (value, _mask(mask, ours))) for wanted, (value, mask) in found)
        some, none = (tuple(meaning for w, meaning in found if w is wanted) for wanted in (True, False))
        selectors[field] = Selector(some, none)
    return Rule(name=table["name"], use=table["use"], sticky=table["sticky"], **selectors)


def _mask(mask: int | None, ours: int) -> int:
    return ~ours & 0xFFFFFFFF if mask is None else mask


def _elements(table: Checked, key: str) -> Iterator[tuple[Path, Any, bool, Any]]:
    """Where each condition of a sound key stands, how it is written, whether it is wanted, and what it means."""
    value: Any = table.written.get(key)
    path = table.at(key)
    single = not isinstance(value, list)
    for index, (wanted, meaning) in enumerate((table[key] or ()) if table.sound(key) else ()):
        yield path if single else (*path, index), value if single else value[index], wanted, meaning


# What a rule names.


def _known(tables: Tables) -> dict[str, Checked | None]:
    """What rules may use, and the table it has."""
    known: dict[str, Checked | None] = {} if tables["policy"] else {IMPLICIT: None}
    known |= {table["name"]: table for table in (*tables["policy"], *tables["uplink"]) if table.sound("name")}
    return known | {MAIN: None}


def _final(use: str, known: Mapping[str, Checked | None]) -> bool:
    """Whether a rule that matches always decides; one that uses an uplink does only while that is usable."""
    table = known.get(use)
    return use in known and (table is None or table.table.name == "policy")


def _use(table: Checked, known: Mapping[str, Checked | None], findings: Findings) -> None:
    if table.sound("use") and table["use"] not in known:
        expected = 'the name of a policy or an uplink, or "main"'
        findings.error(table.at("use"), shown(table["use"]), expected, which(table["use"], list(known)))


def _interfaces(tables: Tables) -> dict[str, str]:
    """By which interfaces packets of uplinks come in, and the uplinks' names."""
    teqls = by_name(tables["teql"])
    found: dict[str, str] = {}
    for uplink in tables["uplink"]:
        if uplink.sound("interface", "name"):
            teql = teqls.get(uplink["interface"])
            entered = [name for _, name in ports(teql)] if teql else [uplink["interface"]]
            found |= dict.fromkeys(entered, uplink["name"])
    return found


def _interface(table: Checked, uplinks: Mapping[str, str], silent: Mapping[str, str], findings: Findings) -> None:
    for path, written, wanted, name in _elements(table, "interface"):
        if wanted and name in silent:
            findings.warn(path, f"nothing comes in by {shown(written)}: it is {silent[name]}")
        elif wanted and name in uplinks:
            findings.warn(
                path, f"{shown(written)} is the interface of the uplink {shown(uplinks[name])}: what comes in by an "
                "uplink is answered by it, and no rule decides about that"
            )  # fmt: skip


def _sticky(table: Checked, tables: Tables, findings: Findings) -> None:
    path, use = table.at("sticky"), table["use"]
    policies = {policy["name"]: policy for policy in tables["policy"] if policy.sound("name")}
    if use == MAIN or any(uplink.sound("name") and uplink["name"] == use for uplink in tables["uplink"]):
        findings.error(path, f"sticky with use = {shown(use)}", "a policy in `use`", "one way leaves nothing to choose")
        return
    if use in policies:
        policy = policies[use]
        if not policy.sound("method", "members"):
            return
        method, shared = policy["method"], any(len(tier) > 1 for tier in tiers(policy))
    elif use == IMPLICIT and not tables["policy"]:
        method, shared = "random", len(tables["uplink"]) > 1
    else:
        return
    (daemon,) = tables["daemon"]
    own = [wanted for _, _, wanted, name in _elements(table, "interface") if name == OWN]
    if method == "multipath":
        findings.error(
            path, f'sticky with {shown(use)}, whose method is "multipath"', 'a policy with another method, as "random"',
            "the kernel's hash chooses, and mlbd cannot make it stick"
        )  # fmt: skip
    elif method == "hash-source":
        findings.warn(path, f'no effect: the method of {shown(use)} is "hash-source", and a source keeps its uplink')
    elif not shared:
        findings.warn(path, f"no effect: every tier of {shown(use)} has one member")
    elif own == [True] and len(table["interface"]) == 1 and daemon["own_connections"] == "route":
        findings.warn(path, 'no effect: the router\'s own connections do not stick with own_connections = "route"')


# Whether a rule can match.


def _empty(table: Checked, findings: Findings) -> None:
    for key in _FIELDS:
        if table.written.get(key) == []:
            findings.error(table.at(key), "an empty array", "at least one element", "without the key anything matches")


def _protocols(table: Checked, findings: Findings) -> bool:
    """Whether all wanted protocols have ports, if there are any."""
    with_ports, sound = [key for key in _PORTS if table.written.get(key)], True
    for path, written, wanted, number in _elements(table, "protocol") if with_ports else ():
        if wanted and number not in WITH_PORTS:
            expected = f"a protocol with ports ({WITH_PORTS_TEXT}), as there is `{with_ports[0]}`"
            findings.error(path, shown(written), expected, "this one has none")
            sound = False
    return sound


def _marks(table: Checked, daemon: Checked, findings: Findings) -> bool:
    """Whether the marks are others' and can match."""
    if not daemon.sound("fwmark_mask"):
        return False
    ours, sound = daemon["fwmark_mask"], True
    reserved = f"daemon.fwmark_mask is {ours:#010x}, and its bits are ours"
    for path, written, wanted, (value, mask) in _elements(table, "mark"):
        hint = ""
        if mask is not None and mask & ours:
            hint = f"the mask {mask:#x} has bits of ours: {reserved}"
        elif mask is None and value & ours:
            hint = f"the mark has bits of ours: {reserved}"
        elif wanted and not value:
            hint = "every packet without a mark has this, and would pass by the rules of other programs"
        if hint:
            findings.error(path, shown(written), "a mark that another program sets", hint)
            sound = False
    return sound


def _possible(table: Checked, rule: Rule, findings: Findings) -> bool:
    """Whether some packet meets all conditions."""
    if _excluded(rule.marks):
        findings.error(table.at("mark"), "conditions that exclude each other", "some that a packet can meet")
        return False
    if any(box(rule, family) is not None for family in FAMILIES):
        return True
    sources, destinations = ({ranges.family_of(p) for p in s.some} for s in (rule.sources, rule.destinations))
    if sources and destinations and sources.isdisjoint(destinations):
        (one,), (other,) = sources, destinations
        findings.error(
            table.at("to"), f"IPv{one} in `from` and IPv{other} in `to`", "the same family in both",
            "no packet has addresses of two families"
        )  # fmt: skip
        return False
    for key, field in _FIELDS.items():
        alone = replace(Rule(name="", use=""), **{field: getattr(rule, field)})
        if all(box(alone, family) is None for family in FAMILIES):
            findings.error(table.at(key), "conditions that exclude each other", "some that a packet can meet")
            return False
    findings.error(table.path, "conditions that exclude each other", "some that a packet can meet")
    return False


def _excluded(marks: Selector[tuple[int, int]]) -> bool:
    """Whether all wanted marks are unwanted."""
    return bool(marks.some) and all(
        any(not unwanted & ~mask and value & unwanted == number for number, unwanted in marks.none)
        for value, mask in marks.some
    )


def _shadows(judged: Sequence[Judged], known: Mapping[str, Checked | None], findings: Findings) -> None:
    """Warn of rules that one earlier rule leaves nothing to; once, where it leaves nothing to all of them."""
    found = [boxes(rule) for _, rule in judged]
    deciding = [_final(rule.use, known) for _, rule in judged]
    last = next((n for n, one in enumerate(found) if deciding[n] and takes_everything(one)), len(judged))
    for number, covering in enumerate(shadows(found[: last + 1], deciding[: last + 1])):
        if covering is not None:
            table, before = judged[number][0], judged[covering][0]
            by = f"the rule {shown(before['name'])} on line {findings.line(before.path)}"
            findings.warn(
                table.path, f"the rule {shown(table['name'])} can never match: {by} takes all that it means"
            )  # fmt: skip
    if last < len(judged) - 1:
        table = judged[last][0]
        findings.warn(table.path, f"the rule {shown(table['name'])} takes everything: no later rule can match")


# What a rule costs.


def _combinations(judged: Sequence[Judged], tables: Tables, findings: Findings) -> None:
    """Rules for the router's own connections become routing rules, which know no lists."""
    (daemon,) = tables["daemon"]
    if not daemon.sound("own_connections"):
        return
    families = [family for family in FAMILIES if not _marking(tables, family)]
    sizes = [sum(_size(rule, family) for family in families) for _, rule in judged]
    if sum(sizes) > MAX_COMBINATIONS:
        largest = max(range(len(judged)), key=sizes.__getitem__)
        mark = ', and `daemon.own_connections = "mark"` needs no such rules' if 4 in families else ""
        findings.error(
            judged[largest][0].path, f"{sizes[largest]} combinations of its conditions, {sum(sizes)} of all rules",
            f"at most {MAX_COMBINATIONS} of all rules",
            "for the router's own connections each is a routing rule; "
            f"`interface = [\"<LAN interface>\"]` keeps a rule to forwarded connections{mark}"
        )  # fmt: skip


def _marking(tables: Tables, family: Family) -> bool:
    """As `Settings.marks_own`."""
    (daemon,) = tables["daemon"]
    return daemon["own_connections"] == "mark" and (
        family == 4 or all(u.sound("nat6") and u["nat6"] == "masquerade" for u in tables["uplink"])
    )


def _size(rule: Rule, family: Family) -> int:
    found = box(rule, family)
    if found is None or found.of_interface(own=True) is None:
        return 0
    protocols = len(rule.protocols.some)
    if rule.ports or rule.source_ports:
        protocols = sum(high - low + 1 for low, high in found.protocol or ())
    prefixes = [
        len(ranges.prefixes(ranges.of_prefixes(s.some, family), family)) for s in (rule.sources, rule.destinations)
    ]
    lists = (*prefixes, protocols, len(found.port or ()), len(found.source_port or ()), len(rule.marks.some))
    return prod(max(1, size) for size in lists)
