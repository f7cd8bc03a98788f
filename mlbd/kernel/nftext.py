"""Codec: changes of nftables objects -> the text of one transaction for libnftables, nft(8).

The order inside it follows from what refers to what; the kernel switches everything at one moment anyway. Nothing that
could end a string or a command early is ever pasted: it raises ValueError.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from mlbd.core.plan import Change
from mlbd.core.state import AddressSet, Chain, Counter, Helper, Hook, MarkSet, Nft, Saved, SlotMap, Statement
from mlbd.kernel.sysctl import GLOBAL_SCOPES

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,126}")
_FOREIGN = re.compile(r"([a-z]+ ){1,2}[A-Za-z_][A-Za-z0-9_./-]*")
_INTERFACE = re.compile(r"[^\s\"\\*/:]{1,15}")
_VALUE = re.compile(r"[a-z0-9_]+")
_QUOTED = re.compile(r'"[^"\\\n]*"')
_COMMENT_LIMIT = 128
_SAVED_TAKEN = "the name saved is taken by the set of saved sysctls"
ADDRESSES = 65535
"""The most that an `AddressSet` holds."""
ODD = "?"
"""A slot whose element is not one we make, or missing. No chain can have this name."""
_RETIRED_IN_ORDER: tuple[type[Nft], ...] = (SlotMap, MarkSet, AddressSet, Chain, Counter, Helper)


def transaction(changes: Sequence[Change]) -> str:
    """The commands that make all the changes, a line each."""
    return "".join(f"{command}\n" for command in ("add table inet mlbd", *_commands(changes)))


def _commands(changes: Sequence[Change]) -> Iterator[str]:
    news = [change.new for change in changes if change.new is not None]
    # Rules first lose their hold on everything, then what stands in the way goes.
    emptied = [change.old for change in changes if isinstance(change.old, Chain)]
    yield from (f"flush chain inet mlbd {_name(chain.name)}" for chain in emptied if not _is_foreign(chain))
    yield from _foreign_deletions(emptied)
    for change in changes:
        match change.old, change.new:
            case Chain(name, before), Chain(_, after) if before != after:
                yield f"delete chain inet mlbd {_name(name)}"
            case AddressSet(name, family), AddressSet(_, other) if family != other:
                yield f"delete set inet mlbd {_name(name)}"
    # Then everything exists, without contents ...
    for new in news:
        yield from _declaration(new)
    # ... then what may refer to anything: elements, then rules. A chain that is added may be there after all.
    yield from (
        f"flush chain inet mlbd {_name(change.new.name)}"
        for change in changes
        if isinstance(change.new, Chain) and change.old is None
    )
    for change in changes:
        yield from _elements(change)
    for new in news:
        if isinstance(new, Chain):
            yield from (f"add rule inet mlbd {_name(new.name)} {_rule(each)}" for each in new.statements)
    # Last goes what nothing refers to any more.
    doomed = [change.old for change in changes if change.new is None and not _is_foreign(change.old)]
    for kind in _RETIRED_IN_ORDER:
        yield from (f"delete {_words(old)}" for old in doomed if isinstance(old, kind))


def _declaration(new: object) -> Iterator[str]:
    match new:
        case Counter(name):
            yield f"add counter inet mlbd {_name(name)}"
        case Helper(name, protocol):
            yield f'add ct helper inet mlbd {_name(name)} {{ type "{_name(name)}" protocol {protocol} ; }}'
        case SlotMap(name, slots):
            yield f"add map inet mlbd {_name(name)} {{ typeof numgen inc mod {max(len(slots), 1)} : verdict ; }}"
        case MarkSet("saved"):
            raise ValueError(_SAVED_TAKEN)
        case MarkSet(name):
            yield f"add set inet mlbd {_name(name)} {{ type mark ; }}"
        case AddressSet("saved"):
            raise ValueError(_SAVED_TAKEN)
        case AddressSet(name, family, timeout):  # of one that is there, the kernel sets the timeout
            kind = "ipv4_addr" if family == 4 else "ipv6_addr"
            shape = f"type {kind} ; size {ADDRESSES} ; flags dynamic,timeout ; timeout {int(timeout)}s ;"
            yield f"add set inet mlbd {_name(name)} {{ {shape} }}"
        case Saved():
            yield "add set inet mlbd saved { type ifname ; }"
        case Chain(name, None):
            yield f"add chain inet mlbd {_name(name)}"
        case Chain(name, Hook(kind, hook, priority)):
            place = f"type {kind} hook {hook} priority {int(priority)}"
            yield f"add chain inet mlbd {_name(name)} {{ {place} ; policy accept ; }}"


def _elements(change: Change) -> Iterator[str]:
    match change.old, change.new:
        case SlotMap() | None, SlotMap(name, slots):
            old = change.old.slots if isinstance(change.old, SlotMap) else ()
            if ODD in old:
                yield f"flush map inet mlbd {_name(name)}"
                old = ()
            gone = [i for i, slot in enumerate(old) if i >= len(slots) or slots[i] != slot]
            come = [i for i, slot in enumerate(slots) if i >= len(old) or old[i] != slot]
            yield from _braced(f"delete element inet mlbd {_name(name)}", map(str, gone))
            yield from _braced(
                f"add element inet mlbd {_name(name)}",
                (f"{i} : goto {_name(slots[i])}" if slots[i] else f"{i} : continue" for i in come),
            )
        case MarkSet() | None, MarkSet(name, marks):
            before = change.old.marks if isinstance(change.old, MarkSet) else frozenset()
            yield from _braced(f"delete element inet mlbd {_name(name)}", map(hex, sorted(before - marks)))
            yield from _braced(f"add element inet mlbd {_name(name)}", map(hex, sorted(marks - before)))
        case old, Saved() as new:
            if old is not None:
                yield f'delete element inet mlbd saved {{ "{_scope(new.scope)}" }}'
            comment = _comment(new)
            yield f'add element inet mlbd saved {{ "{_scope(new.scope)}"{comment} }}'
        case Saved(scope), None:
            yield f'delete element inet mlbd saved {{ "{_scope(scope)}" }}'


SHORT = {"ignore_routes_with_linkdown": "linkdown", "promote_secondaries": "promote"}
"""Names of sysctls as comments have them, where there is little room."""


def _comment(saved: Saved) -> str:
    if not all(_VALUE.fullmatch(part) for pair in saved.values for part in pair):
        raise ValueError(f"{saved.values} can't be kept in an nftables comment")
    text = " ".join(f"{SHORT.get(name, name)}={value}" for name, value in saved.values)
    if len(text) >= _COMMENT_LIMIT:
        raise ValueError(f"{text!r} is too long for an nftables comment")
    return f' comment "{text}"' if text else ""


def _rule(statement: Statement) -> str:
    bare = _QUOTED.sub("", statement.text)
    if not bare.strip() or re.search(r'["\\\n\r;#]', bare):
        raise ValueError(f"{statement.text!r} is not one nftables rule")
    return f'{statement.text} comment "{statement.digest}"'


def _braced(command: str, elements: Iterable[str]) -> Iterator[str]:
    text = ", ".join(elements)
    if text:
        yield f"{command} {{ {text} }}"


def _words(old: object) -> str:
    """Kind and name of an object, as `delete` wants them."""
    match old:
        case Counter(name):
            return f"counter inet mlbd {_name(name)}"
        case Helper(name):
            return f"ct helper inet mlbd {_name(name)}"
        case SlotMap(name):
            return f"map inet mlbd {_name(name)}"
        case MarkSet(name) | AddressSet(name):
            return f"set inet mlbd {_name(name)}"
        case Chain(name):
            return f"chain inet mlbd {_name(name)}"
    raise ValueError(f"{old!r} has no name in nftables")


def _is_foreign(old: object) -> bool:
    """Whether it stands for something of a kind we never make; see `mlbd.kernel.nftables`."""
    return isinstance(old, Chain) and " " in old.name


def _foreign_deletions(chains: Iterable[Chain]) -> Iterator[str]:
    for chain in chains:
        if _is_foreign(chain):
            if not _FOREIGN.fullmatch(chain.name):
                raise ValueError(f"{chain.name!r} is not something nftables could delete")
            kind, _, name = chain.name.rpartition(" ")
            yield f"delete {kind} inet mlbd {name}"


def _name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} can't be a name in nftables")
    return name


def _scope(name: str) -> str:
    """That of a sysctl: an interface, or one that no interface can be called."""
    if name not in GLOBAL_SCOPES and not _INTERFACE.fullmatch(name):
        raise ValueError(f"{name!r} can't be an interface name in nftables")
    return name
