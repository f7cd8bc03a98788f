"""What shows only when several keys are seen together, and the settings that come out when nothing is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from itertools import chain

from msgspec.structs import replace

from mlbd.config.bundles import bonds, by_name, check_bundles, ports, teqls
from mlbd.config.check import Checked
from mlbd.config.peers import check_peers, is_peer, masquerades
from mlbd.config.policies import IMPLICIT, check_policies, policies
from mlbd.config.problems import Findings, Path, shown
from mlbd.config.rules import check_rules, rules, used
from mlbd.config.values import seconds_text
from mlbd.core.settings import MAX_UPLINK_ID, Conntrack, Daemon, Degrade, Probe, Settings, Target, Uplink

Tables = Mapping[str, tuple[Checked, ...]]


def relate(tables: Tables, findings: Findings) -> None:
    """Check keys against each other, tables against tables."""
    uplinks, bundles, teql_names = tables["uplink"], (*tables["bond"], *tables["teql"]), by_name(tables["teql"])
    if not uplinks and not bundles and not {problem.key for problem in findings.errors} & {"uplink", "bond", "teql"}:
        findings.error(("uplink",), "nothing", "at least one [[uplink]], [[bond]] or [[teql]] table")
    if len(uplinks) > MAX_UPLINK_ID:
        findings.error(uplinks[MAX_UPLINK_ID].path, f"{len(uplinks)} uplinks", f"at most {MAX_UPLINK_ID}")
    _one_interface(uplinks, findings)
    _each_its_own(uplinks, "id", "another number", findings, "ids tell the uplinks' marks and tables apart")
    _names(uplinks, tables["policy"], findings)
    (general,) = tables["probe"]
    for uplink in uplinks:
        probe = general.under(uplink.inner["probe"])
        _paces(probe, findings)
        if not (uplink.sound("interface") and uplink["interface"] in teql_names):
            _targets(probe, findings)
            _gateway_target(uplink, probe, findings)
    if not uplinks:
        _targets(general, findings)
    if not uplinks or bundles:
        _paces(general, findings)
    check_policies(tables["policy"], uplinks, used(tables["rule"]), findings)
    check_peers(uplinks, tables["policy"], general, findings)
    _each_its_own(tables["rule"], "name", "a name that no other rule has", findings, "rules are told apart by name")
    check_rules(tables, findings)
    _each_its_own(bundles, "name", "a name that no other bundle has", findings, "one interface is one bundle")
    check_bundles(tables, findings)
    _own_connections(uplinks, tables["daemon"][0], findings)
    _prefixes(uplinks, findings)


def settings(tables: Tables) -> Settings:
    """The settings that the tables mean; nothing may be wrong with them."""
    (general,), (conntrack,), (daemon,) = tables["probe"], tables["conntrack"], tables["daemon"]
    paces = replace(_probing(general), targets=(), quorum=1, degrade=Degrade())
    uplinks = tuple(_uplink(table, general, by_name(tables["teql"])) for table in tables["uplink"])
    return Settings(
        uplinks=uplinks,
        policies=policies(tables["policy"], uplinks),
        bonds=bonds(tables["bond"], paces),
        teqls=teqls(tables["teql"], paces),
        rules=rules(tables),
        conntrack=Conntrack(**conntrack.settings()),
        daemon=Daemon(**daemon.settings()),
    )


def _uplink(table: Checked, general: Checked, teql_tables: Mapping[str, Checked]) -> Uplink:
    probe = _probing(general.under(table.inner["probe"]))
    members: tuple[str, ...] = ()
    if teql := teql_tables.get(table["interface"]):
        members = tuple(interface for _, interface in ports(teql))
        probe = replace(probe, targets=(), quorum=1)
    found = table.settings() | {"masquerade": masquerades(table)}
    return Uplink(**found, probe=probe, members=members)


def _probing(probe: Checked) -> Probe:
    degrade = {name: pair or None for name, pair in probe.inner["degrade"].settings().items()}
    return Probe(**probe.settings(), degrade=Degrade(**degrade))


def _each_its_own(tables: Sequence[Checked], key: str, expected: str, findings: Findings, reason: str) -> None:
    first: dict[object, Checked] = {}
    for table in tables:
        if not table.sound(key) or table[key] is None:
            continue
        earlier = first.setdefault(table[key], table)
        if earlier is not table:
            has = f"line {findings.line(earlier.at(key))} has it"
            findings.error(table.at(key), shown(table[key]), expected, f"{has}; {reason}")


def _one_interface(uplinks: Sequence[Checked], findings: Findings) -> None:
    """Uplinks that share an interface are told apart by their gateways, see `mlbd.core.sharing`."""
    known = [u for u in uplinks if u.sound("interface", "gateway", "gateway6", "masquerade")]
    for position, uplink in enumerate(known):
        for other in known[:position]:
            if other["interface"] == uplink["interface"] and _clash(uplink, other, findings):
                break


def _clash(uplink: Checked, other: Checked, findings: Findings) -> bool:
    """Whether these two can't share the interface that they share; then that is noted."""

    def error(key: str, found: str, expected: str, reason: str) -> bool:
        has = f"line {findings.line(other.at('interface'))} has this interface, too"
        findings.error(uplink.at(key), found, expected, f"{has}; {reason}")
        return True

    apart = "uplinks with one interface are told apart by their gateways"
    fixed, fixed6 = ([u for u in (uplink, other) if u[key].source == "fixed"] for key in ("gateway", "gateway6"))
    if not all(u in fixed or u in fixed6 for u in (uplink, other)):
        return error("interface", shown(uplink["interface"]), "another interface, or an address as gateway of each",
                     f"{apart}; where DHCP gives them out, make a macvlan for each")  # fmt: skip
    if len(fixed6) == 2:
        return error("gateway6", shown(uplink["gateway6"].address), "no gateway6", "only one of them can have IPv6")
    if len(fixed) == 2 and uplink["gateway"] == other["gateway"]:
        return error("gateway", shown(uplink["gateway"].address), "another gateway", apart)
    if len(fixed) == 2 and masquerades(uplink) != masquerades(other):
        same = f"masquerade = {shown(masquerades(other))}"
        return error("masquerade", shown(masquerades(uplink)), same, "translation is by interface")
    return False


def _names(uplinks: Sequence[Checked], policy_tables: Sequence[Checked], findings: Findings) -> None:
    """Rules name uplinks, policies and `main` alike, so each name means one thing."""
    taken = {"main": 'it stands for "not ours to route"'}
    if not policy_tables:
        taken[IMPLICIT] = "without a [[policy]] table this is the name of the policy there is"
    for table in chain(uplinks, policy_tables):
        if not table.sound("name"):
            continue
        name, path = table["name"], table.at("name")
        if name in taken:
            findings.error(path, shown(name), "a name that no other uplink or policy has", taken[name])
        else:
            taken[name] = f"the {table.table.name} on line {findings.line(path)} has it"


def _own_connections(uplinks: Sequence[Checked], daemon: Checked, findings: Findings) -> None:
    if not daemon.sound("own_connections") or daemon["own_connections"] != "mark":
        return
    for uplink in uplinks:
        if uplink.sound("masquerade", "peer") and not masquerades(uplink):
            key, found = ("peer", "peer = true") if is_peer(uplink) else ("masquerade", "masquerade = false")
            findings.error(
                uplink.at(key), f'{found} with own_connections = "mark"',
                'own_connections = "route"' if is_peer(uplink) else 'masquerade = true, or own_connections = "route"',
                "marks choose after the source address was chosen, so that a packet of the router would leave here "
                "with another uplink's address"
            )  # fmt: skip


def _prefixes(uplinks: Sequence[Checked], findings: Findings) -> None:
    """A prefix says whose an address is, so no two may overlap."""
    fixed = [(u, ip_network(u["prefix6"])) for u in uplinks if u.sound("prefix6") and u["prefix6"] is not None]
    for position, (uplink, prefix) in enumerate(fixed):
        for earlier, other in fixed[:position]:
            if prefix.overlaps(other):
                has = f"line {findings.line(earlier.at('prefix6'))} has {other}"
                expected = "a prefix apart from other uplinks' prefixes"
                findings.error(uplink.at("prefix6"), shown(str(prefix)), expected, f"{has}; a prefix tells by which "
                               "uplink its addresses leave")  # fmt: skip
                break


# Relations within a probe; what is wrong stands where the nearer of the two keys is written down.


def _targets(probe: Checked, findings: Findings) -> None:
    if probe.sound("targets") and not probe["targets"]:
        findings.error(probe.at("targets"), "an empty array", "at least one target")
    elif probe.sound("targets", "quorum") and probe["quorum"] > len(probe["targets"]):
        targets = len(probe["targets"])
        _blame(
            probe, "quorum", "targets", findings,
            f"a quorum of {probe['quorum']} of {targets} target{'' if targets == 1 else 's'}",
            "at least as many targets as must answer",
        )  # fmt: skip


def _paces(probe: Checked, findings: Findings) -> None:
    _at_most(probe, "suspect_interval", 1, "interval", findings, "a suspected uplink is probed more often, not less")
    _at_most(probe, "hold", 1, "hold_max", findings, "hold_max bounds what hold grows to")
    _at_most(probe, "interval", 2, "window", findings, "the window must hold at least two rounds")
    degrade = probe.inner["degrade"]
    for name in degrade.table.names:
        pair = degrade[name] if degrade.sound(name) else ()
        if pair and (len(pair) != 2 or pair[0] < pair[1]):
            findings.error(
                degrade.at(name), shown(degrade.written[name]), "two values, over which it begins and under which it "
                "ends, or []", "the first can't be the smaller one" if len(pair) == 2 else "",
            )  # fmt: skip


def _at_most(probe: Checked, small: str, times: int, large: str, findings: Findings, reason: str) -> None:
    if probe.sound(small, large) and times * probe[small] > probe[large]:
        found = f"{small} {seconds_text(probe[small])} and {large} {seconds_text(probe[large])}"
        expected = f"{large} to be at least {'twice ' if times == 2 else ''}{small}"
        _blame(probe, small, large, findings, found, expected, reason)


def _blame(
    probe: Checked, one: str, other: str, findings: Findings, found: str, expected: str, reason: str = ""
) -> None:
    written = [key for key in (one, other) if key in probe.where] or [one]
    nearest_key = max(written, key=lambda key: len(probe.at(key)))  # [uplink.probe] is deeper than [probe]
    findings.error(probe.at(nearest_key), found, expected, reason)


def _gateway_target(uplink: Checked, probe: Checked, findings: Findings) -> None:
    if not uplink.sound("gateway", "gateway6") or not probe.sound("targets"):
        return
    only_peer = uplink["gateway"].source == "none" and uplink["gateway6"].source != "fixed"
    asked = [target for target in probe["targets"] if target.kind == "neighbour"]
    if uplink["gateway"].source == "none" and any(target.family != 6 for target in asked):
        findings.warn(
            uplink.at("gateway"), 'with gateway = "none" nobody answers ARP, unless the interface is an Ethernet; '
            "name targets that need none"
        )  # fmt: skip
    if only_peer and Target("gateway") in probe["targets"]:
        path: Path = uplink.at("gateway")
        findings.warn(
            path, 'with gateway = "none", the target "gateway" is the far end of the link, which may not answer; '
            "an address behind it is safer"
        )  # fmt: skip
