"""Changes in words that an administrator knows from `ip` and `nft`."""

from __future__ import annotations

from msgspec.structs import fields

from mlbd.core.plan import Change
from mlbd.core.settings import BOND_MODES
from mlbd.core.state import (
    OF_IPV6,
    Address,
    AddressSet,
    Bond,
    Chain,
    Counter,
    Helper,
    Hop,
    MarkSet,
    Object,
    Port,
    Route,
    Rule,
    Saved,
    SlotMap,
    Statement,
    Sysctl,
    Teql,
)

_LONGEST = 200
SIGNS = {"add": "+", "replace": "~", "delete": "-"}


def describe(change: Change) -> str:
    """One line: a sign, what it is, and for replacements what it was."""
    line = f"{SIGNS[change.action]} {describe_object(change.object)}"
    old, new = change.old, change.new
    if isinstance(old, SlotMap) and isinstance(new, SlotMap):
        return f"{line} (was {_counts(old)})"
    if isinstance(old, Route) and isinstance(new, Route):
        return f"{line} (was {_way(old)})"
    if isinstance(old, Sysctl):
        return f"{line} (was {old.value})"
    if isinstance(old, Bond) and isinstance(new, Bond):
        return f"{line} (was {_options(old, new)})"
    if isinstance(old, Teql) and isinstance(new, Teql):
        return f"{line} (was {_upness(old.up)})"
    if isinstance(old, Port) and isinstance(new, Port):
        return f"{line} (was {_membership(old)})"
    if isinstance(old, Chain) and isinstance(new, Chain):
        return "\n".join([line, *_statement_diff(old, new)])
    if isinstance(new, Chain):
        return "\n".join([line, *(f"      + {_text(s)}" for s in new.statements)])
    return line


def describe_object(item: Object) -> str:
    """Without a sign, on one line."""
    match item:
        case Route():
            return f"ip -{item.family} route {item.destination} table {item.table} metric {item.metric}: {_way(item)}"
        case Rule():
            return f"ip -{item.family} rule {item.priority}: {_selector(item)} {_action(item)}{item.other}"
        case Chain():
            hook = f" ({item.hook.type} {item.hook.hook} {item.hook.priority})" if item.hook else ""
            return f"nft chain {item.name}{hook}"
        case SlotMap():
            return f"nft map {item.name}: {_counts(item)}"
        case MarkSet():
            return f"nft set {item.name}: {', '.join(f'{m:#x}' for m in sorted(item.marks)) or 'empty'}"
        case Counter():
            return f"nft counter {item.name}"
        case Helper():
            return f"nft ct helper {item.name} ({item.protocol})"
        case Saved():
            return f"nft element saved {item.scope}: {' '.join(f'{n}={v}' for n, v in item.values)}"
        case Sysctl():
            family = "ipv6" if item.name in OF_IPV6 else "ipv4"
            where = f"/{family}/conf/{item.scope}" if not item.scope.startswith("/") else item.scope
            return f"sysctl net{where.replace('/', '.')}.{item.name} = {item.value}"
        case Bond():
            return f"bond {item.name}: {_options(item, Bond(name=item.name))}"
        case Teql():
            return f"teql {item.name}: {_upness(item.up)}"
        case Port():
            return f"port {item.device}: {_membership(item)}"
        case Address():
            return f"ip address {item.address} dev {item.device}"
        case AddressSet():
            return f"nft set {item.name}: IPv{item.family} addresses, each for {item.timeout} s"


def _options(bond: Bond, other: Bond) -> str:
    """In which it is not like the other one."""
    values = ((f.name, getattr(bond, f.name)) for f in fields(bond) if f.name not in ("name", "owned"))
    different = [(name, value) for name, value in values if value != getattr(other, name)]
    return " ".join(f"{name} {_option(name, value)}" for name, value in different) or "as the kernel makes one"


def _option(name: str, value: object) -> str:
    if name == "mode" and isinstance(value, int):
        return BOND_MODES[value] if value < len(BOND_MODES) else str(value)
    if isinstance(value, tuple):
        return ",".join(value) or "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value) or "none"


def _upness(up: bool) -> str:
    return "up" if up else "down"


def _membership(port: Port) -> str:
    return f"in {port.bundle}" if port.bundle else f"in no bundle, {_upness(port.up)}"


def _way(route: Route) -> str:
    return " ".join(_hop(h, len(route.hops) > 1) for h in route.hops) or route.kind


def _hop(hop: Hop, weighted: bool) -> str:
    via = f"via {hop.gateway} " if hop.gateway else ""
    onlink = " onlink" if hop.onlink else ""
    return (
        f"nexthop {via}dev {hop.device} weight {hop.weight}{onlink}" if weighted else f"{via}dev {hop.device}{onlink}"
    )


def _selector(rule: Rule) -> str:
    parts = [f"from {rule.source or 'all'}"]
    if rule.mark is not None:
        parts.append(f"fwmark {rule.mark:#x}/{rule.mask or 0:#x}")
    if rule.destination:
        parts.insert(1, f"to {rule.destination}")
    if rule.protocol is not None:
        parts.append(f"ipproto {rule.protocol}")
    for word, ports in (("sport", rule.source_ports), ("dport", rule.ports)):
        if ports is not None:
            parts.append(f"{word} {ports[0]}" + (f"-{ports[1]}" if ports[1] != ports[0] else ""))
    if rule.iif:
        parts.append(f"iif {rule.iif}")
    if rule.oif:
        parts.append(f"oif {rule.oif}")
    return " ".join(parts)


def _action(rule: Rule) -> str:
    if rule.action == "goto":
        return f"goto {rule.target}"
    if rule.action == "nop":
        return "nop"
    table = "main" if rule.table == 254 else rule.table
    suppress = "" if rule.suppress_prefixlen is None else f" suppress_prefixlength {rule.suppress_prefixlen}"
    return f"lookup {table}{suppress}"


def _counts(slots: SlotMap) -> str:
    """How many slots lead where."""
    counts = {chain: slots.slots.count(chain) for chain in dict.fromkeys(slots.slots)}
    return ", ".join(f"{chain or 'main'} {n}/{len(slots.slots)}" for chain, n in counts.items())


def _statement_diff(old: Chain, new: Chain) -> list[str]:
    before, after = set(old.statements), set(new.statements)
    lines = [f"      - {_text(s)}" for s in old.statements if s not in after]
    lines += [f"      + {_text(s)}" for s in new.statements if s not in before]
    return lines or ["      (order, hook or number of rules)"]


def _text(statement: Statement) -> str:
    if len(statement.text) > _LONGEST:  # a map over hundreds of prefixes
        return f"{statement.text[:_LONGEST]} ..."
    return statement.text or (f"a rule of ours ({statement.digest})" if statement.digest else "a rule that is not ours")
