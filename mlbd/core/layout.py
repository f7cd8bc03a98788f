"""Every number that others can collide with, and its story.

The byte of the packet mark under `fwmark_mask` holds a *code* in its lower seven bits and a flag in its highest. Codes
1..100 are uplinks, by id; codes from 127 downwards are policies. In a packet's mark a code is a wish, in the
connection's mark a fact: the uplink that it really left by. The flag stands in the connection's mark only and says
"established TCP", so that one conntrack deletion by mark and mask can leave those alone.

A table for each code begins at `table_base` (20000: far from the ones that distributions, wg-quick, tailscale (52) and
networkd's VRFs use); a second one for each uplink, 128 above, belongs to sockets bound to the device, a third, 256
above, to the configuration's rules. Rules begin at `rule_priority` (10000: after tailscale's 5210-5270, before `main`
at 32766 and wg-quick's 32764).
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from mlbd.core.settings import MAX_UPLINK_ID, Daemon, Settings
from mlbd.core.state import Chain, KernelState

LAST_CODE = 127
FIRST_POLICY_CODE = MAX_UPLINK_ID + 2
"""101 stays free for `main`."""

WISH = "wish"
FACT = "fact"
ARRIVE = "arrive"


class Layout(Struct, frozen=True):
    mask: int
    table_base: int
    rule_priority: int

    @classmethod
    def of(cls, daemon: Daemon) -> Layout:
        return cls(daemon.fwmark_mask, daemon.table_base, daemon.rule_priority)

    @property
    def _unit(self) -> int:
        return self.mask & -self.mask

    @property
    def code_mask(self) -> int:
        return self._unit * LAST_CODE

    @property
    def flag(self) -> int:
        """Of established TCP."""
        return self._unit * 128

    @property
    def others_mask(self) -> int:
        """The bits that are not ours."""
        return ~self.mask & 0xFFFFFFFF

    def mark(self, code: int) -> int:
        return self._unit * code

    def table(self, code: int) -> int:
        return self.table_base + code

    def probe_table(self, uplink_id: int) -> int:
        return self.table_base + 128 + uplink_id

    @property
    def main_first(self) -> int:
        """Priority of the rule that lets connected, static and split-tunnel routes of `main` win."""
        return self.rule_priority

    def bound_priority(self, uplink_id: int) -> int:
        return self.rule_priority + 1000 + uplink_id

    def shared_priority(self, uplink_id: int) -> int:
        """Sockets bound to an interface of several uplinks, without the mark of any."""
        return self.bound_priority(MAX_UPLINK_ID + uplink_id)

    def mark_priority(self, code: int) -> int:
        return self.rule_priority + 2000 + code

    def source_priority(self, uplink_id: int) -> int:
        return self.rule_priority + 3000 + uplink_id

    def use_table(self, uplink_id: int) -> int:
        """Of the router's own connections that a rule sends by the uplink; empty while that is not usable."""
        return self.table_base + 256 + uplink_id

    @property
    def early_priority(self) -> int:
        """Rules with a mark, which must come before tailscale's (1310-1370 or 5210-5270) and match nothing unmarked."""
        return 1000

    def rule_priority_of(self, number: int) -> int:
        """The first of three priorities of a rule of the configuration, counted from 0."""
        return self.rule_priority + 4000 + 3 * number

    @property
    def own_main_priority(self) -> int:
        """The first look-up of the router's own connections where marks choose."""
        return self.rule_priority + 8990

    @property
    def own_priority(self) -> int:
        """Everything else that the router itself sends."""
        return self.rule_priority + 9000

    @property
    def past_priority(self) -> int:
        """Past all that is ours."""
        return self.rule_priority + 9990


class Identities(Struct, frozen=True):
    """Codes by name. A name keeps its code over reloads and restarts, however the file is ordered."""

    uplinks: Mapping[str, int]
    policies: Mapping[str, int]


NOBODY = Identities({}, {})


def chain_name(role: str, code: int, name: str) -> str:
    """The name of a chain carries the identity, so that a restart finds it in the kernel."""
    return f"{role}_{code}_{name}"


def adopted(state: KernelState) -> Identities:
    """The identities that the kernel remembers."""
    uplinks: dict[str, int] = {}
    policies: dict[str, int] = {}
    for item in state.values():
        if isinstance(item, Chain) and item.name.startswith(WISH + "_"):
            code, _, name = item.name.removeprefix(WISH + "_").partition("_")
            if code.isascii() and code.isdecimal() and name:
                number = int(code)
                if 1 <= number <= MAX_UPLINK_ID:
                    uplinks[name] = number
                elif FIRST_POLICY_CODE <= number <= LAST_CODE:
                    policies[name] = number
    return Identities(uplinks, policies)


def assign(settings: Settings, before: Identities) -> Identities:
    """A code for every uplink and policy: the configured one, the one it had, or the first that nobody has or had.

    A code whose name has vanished is not given to another at once while there are others: connections still carry it.
    """
    uplinks = {u.name: u.id for u in settings.uplinks if u.id is not None}
    codes = range(1, MAX_UPLINK_ID + 1)
    policy_codes = range(LAST_CODE, FIRST_POLICY_CODE - 1, -1)
    return Identities(
        _complete(uplinks, [u.name for u in settings.uplinks], before.uplinks, codes),
        _complete({}, [p.name for p in settings.policies], before.policies, policy_codes),
    )


def _complete(chosen: dict[str, int], names: list[str], before: Mapping[str, int], codes: range) -> dict[str, int]:
    """A code for each of `names`, `chosen` ones first, then those they had. ValueError if there are too few."""
    codes_by_name = dict(chosen)
    for name in names:
        code = before.get(name)
        if code is None or name in codes_by_name:
            continue
        if code in codes and code not in codes_by_name.values():
            codes_by_name[name] = code
    for name in names:
        if name not in codes_by_name:
            codes_by_name[name] = _free(codes, set(codes_by_name.values()), set(before.values()))
    return codes_by_name


def _free(codes: range, taken: set[int], avoid: set[int]) -> int:
    """ValueError if there is none; the configuration does not allow that many."""
    for code in codes:
        if code not in taken | avoid:
            return code
    for code in codes:
        if code not in taken:
            return code
    raise ValueError("no code is free")


def vanished(before: Identities, now: Identities) -> set[int]:
    """Codes that connections may still carry although their uplink has them no more."""
    return {code for name, code in before.uplinks.items() if now.uplinks.get(name) != code}
