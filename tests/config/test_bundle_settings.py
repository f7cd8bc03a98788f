"""What a configuration of bonds and TEQL means, and of the uplinks that leave by them."""

from __future__ import annotations

import pytest

from mlbd.config import parse
from mlbd.core.settings import (
    BOND_MODES,
    TRANSMIT_HASHES,
    Bond,
    Degrade,
    GatewaySetting,
    Policy,
    Probe,
    Settings,
    Target,
    Teql,
    TeqlMember,
    Uplink,
)
from tests.config.test_bundles import BOND, teql
from tests.config.test_messages import A, messages

MEMBER = Probe(targets=(), degrade=Degrade())


def settings(text: str) -> Settings:
    return parse(text, "f").settings


def warnings(text: str) -> list[str]:
    return [str(warning) for warning in parse(text, "f").warnings]


def test_bond_alone() -> None:
    """A bond needs no uplink and no more than name, mode and members; the only policy then has no members."""
    assert settings(BOND) == Settings(
        uplinks=(),
        policies=(Policy(name="balanced", tiers=((),), weights=()),),
        bonds=(Bond(name="bond0", mode="active-backup", members=("eth4", "eth5"), miimon=0.1, probe=MEMBER),),
    )


def test_bond_with_everything() -> None:
    """Every key arrives, in the core's units; mlbd asks the targets by ARP, at the pace of [probe]."""
    text = (
        BOND
        + """
        miimon = "200ms"
        updelay = "1s"
        downdelay = "400ms"
        primary = "eth5"
        arp_targets = ["192.168.1.1", "169.254.1.1"]
        mac = "02:00:00:00:00:FF"
        mtu = 9000
        addresses = ["192.168.1.3/24", "169.254.1.2/16", "2001:DB8::3/64", "fe80::3/64"]
        [[bond]]
        name = "ü@0"
        mode = "4"
        members = ["eth6"]
        lacp_rate = "slow"
        xmit_hash_policy = "vlan+srcmac"
        [[bond]]
        name = "bond2"
        mode = 3
        members = ["eth7"]
        arp_interval = "1s"
        arp_targets = ["192.168.1.1"]
        [probe]
        interval = "2s"
        quorum = 2
        targets = ["192.0.2.1", "192.0.2.2"]
        """
    )
    pace = Probe(targets=(), interval=2.0, degrade=Degrade())
    targets = (
        Target("arp:192.168.1.1", "192.168.1.1", 4, "neighbour"),
        Target("arp:169.254.1.1", "169.254.1.1", 4, "neighbour"),
    )
    assert settings(text).bonds == (
        Bond(
            name="bond0",
            mode="active-backup",
            members=("eth4", "eth5"),
            addresses=("192.168.1.3/24", "169.254.1.2/16", "2001:db8::3/64", "fe80::3/64"),
            miimon=0.2,
            updelay=1.0,
            downdelay=0.4,
            primary="eth5",
            arp_targets=("192.168.1.1", "169.254.1.1"),
            mac="02:00:00:00:00:ff",
            mtu=9000,
            probe=Probe(targets=targets, interval=2.0, degrade=Degrade()),
        ),
        Bond(
            name="ü@0",
            mode="802.3ad",
            members=("eth6",),
            lacp_rate="slow",
            xmit_hash_policy="vlan+srcmac",
            probe=pace,
        ),
        Bond(
            name="bond2",
            mode="broadcast",
            members=("eth7",),
            miimon=None,
            arp_interval=1.0,
            arp_targets=("192.168.1.1",),
            probe=pace,
        ),
    )


@pytest.mark.parametrize("number", range(7))
def test_modes(number: int) -> None:
    """A mode goes by its name, by its number, and by its number as text."""
    written = (f'"{BOND_MODES[number]}"', f"{number}", f'"{number}"')
    found = {settings(BOND.replace('"active-backup"', mode)).bonds[0].mode for mode in written}
    assert found == {BOND_MODES[number]}


@pytest.mark.parametrize("name", TRANSMIT_HASHES)
def test_hashes(name: str) -> None:
    """All six of the kernel's, in the modes that hash."""
    found = {
        settings(BOND.replace('"active-backup"', mode) + f'xmit_hash_policy = "{name}"\n').bonds[0].xmit_hash_policy
        for mode in ("2", "4", "5")
    }
    assert found == {name}


def test_teql() -> None:
    """Members keep their order; whom to ask is each member's peer."""
    assert settings(teql(name="teql42") + '[probe]\nfall = 3\ntargets = ["192.0.2.1"]\n').teqls == (
        Teql(
            name="teql42",
            members=(
                TeqlMember(interface="eth6", address="10.0.0.0/31", peer="10.0.0.1"),
                TeqlMember(interface="eth7", address="10.0.0.2/31", peer="10.0.0.3"),
            ),
            address="10.0.0.4/31",
            probe=Probe(targets=(), fall=3, degrade=Degrade()),
        ),
    )


def test_members_of_a_teql_in_tables() -> None:
    """Members may as well be written as [[teql.members]]."""
    head, _, rest = teql().partition("members = [\n")
    member = '[[teql.members]]\ninterface = "{}"\naddress = "{}"\npeer = "{}"\n'
    members = member.format("eth6", "10.0.0.0/31", "10.0.0.1") + member.format("eth7", "10.0.0.2/31", "10.0.0.3")
    own = rest.splitlines()[-1]
    assert settings(f"{head}{own}\n{members}") == settings(teql())


BY_TEQL = A.replace("eth1", "teql0") + 'masquerade = false\ngateway = "10.0.0.5"\n'
"""Lines 1 to 5."""


def test_uplink_by_a_teql() -> None:
    """It has its members and no targets of its own, whatever [probe] says of others."""
    general = '[probe]\ntargets = ["gateway", "192.0.2.1"]\nquorum = 2\nrise = 4\n'
    assert settings(BY_TEQL + teql() + general).uplinks == (
        Uplink(
            name="a",
            interface="teql0",
            gateway=GatewaySetting(source="fixed", address="10.0.0.5"),
            masquerade=False,
            probe=Probe(targets=(), rise=4),
            members=("eth6", "eth7"),
        ),
    )


def test_uplink_by_a_bond() -> None:
    """It is an uplink like any other."""
    (uplink,) = settings(A.replace("eth1", "bond0") + '[uplink.probe]\ntargets = ["arp:gateway"]\n' + BOND).uplinks
    target = Target("arp:gateway", kind="neighbour")
    assert uplink == Uplink(name="a", interface="bond0", probe=Probe(targets=(target,)))


PER_PACKET = (
    "it sends packets of one connection by several links, and translated on their way they would seem to come from "
    "several hosts (1+1<1)"
)
MEMBERS = "replies come in by its members; the uplink is usable while one of them is"
RR = BOND.replace("active-backup", "balance-rr")

UPLINKS = {
    "translation by a TEQL": (
        A.replace("eth1", "teql0") + 'masquerade = true\nnat6 = "masquerade"\ngateway = "none"\n' + teql(),
        [
            f"4: uplink[0].masquerade: found masquerade = true by a TEQL, expected masquerade = false; {PER_PACKET}",
            f'5: uplink[0].nat6: found nat6 = "masquerade" by a TEQL, expected nat6 = "none"; {PER_PACKET}',
        ],
    ),
    "translation by a balance-rr, by default": (
        A.replace("eth1", "bond0") + RR,
        [
            "1: uplink[0].masquerade: found masquerade = true by a bond in mode balance-rr, expected masquerade = "
            f"false; {PER_PACKET}"
        ],
    ),
    "prefix translation by a balance-rr": (
        A.replace("eth1", "bond0") + 'masquerade = false\nnat6 = "prefix"\n' + RR,
        [
            '5: uplink[0].nat6: found nat6 = "prefix" by a bond in mode balance-rr, expected nat6 = "none"; '
            + PER_PACKET
        ],
    ),
    "an automatic gateway by a TEQL": (
        A.replace("eth1", "teql0") + "masquerade = false\n" + teql(),
        [
            '1: uplink[0].gateway: found "auto" by a TEQL, expected the address of the far end, or "none"; nobody '
            "installs a default route on a TEQL"
        ],
    ),
    "targets by a TEQL": (
        BY_TEQL + '[uplink.probe]\ntargets = ["gateway", "192.0.2.1"]\nquorum = 2\n' + teql(),
        [
            f"7: uplink[0].probe.targets: found targets by a TEQL, expected no targets here; {MEMBERS}",
            f"8: uplink[0].probe.quorum: found quorum by a TEQL, expected no quorum here; {MEMBERS}",
        ],
    ),
    "two uplinks by a TEQL": (
        BY_TEQL + BY_TEQL.replace('"a"', '"b"').replace("10.0.0.5", "10.0.0.6") + teql(),
        [
            '8: uplink[1].interface: found "teql0", expected one uplink for a TEQL; line 3 has this interface, too'
        ],
    ),
    "paces of members": (
        A + '[uplink.probe]\ninterval = "1s"\n[probe]\ninterval = "50ms"\n' + BOND,
        [
            "7: probe.interval: found suspect_interval 100ms and interval 50ms, expected interval to be at least "
            "suspect_interval; a suspected uplink is probed more often, not less"
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UPLINKS)
def test_uplinks_that_do_not_fit(case: str) -> None:
    """What an uplink cannot have because of the bundle it leaves by is told with the reason."""
    text, expected = UPLINKS[case]
    assert messages(text) == [f"f:{problem}" for problem in expected]


WARNINGS = {
    "nothing to warn of": (BY_TEQL + teql() + BOND + 'arp_targets = ["192.168.1.1"]\n', []),
    "a far end that is asked nothing": (BY_TEQL.replace("10.0.0.5", "none") + teql() + "[probe]\nquorum = 2\n", []),
    "ARP by the kernel in balance-xor": (
        BOND.replace("active-backup", "balance-xor") + 'arp_interval = "200ms"\narp_targets = ["192.0.2.1"]\n',
        [
            "f:5: bond[0].arp_interval: in balance-xor all replies come in by one member, so that the kernel takes the "
            "others for dead; without arp_interval mlbd asks arp_targets and takes replies by any member"
        ],
    ),
    "somebody who is not on the link": (
        BOND + 'addresses = ["192.168.1.3/24", "2001:db8::1/64"]\narp_targets = ["192.168.1.1", "192.168.2.1"]\n',
        [
            'f:6: bond[0].arp_targets[1]: "192.168.2.1" is in no network of the bond\'s addresses: who is not on the '
            "link does not answer ARP"
        ],
    ),
    "rules for interfaces by which nothing comes in": (
        BY_TEQL + BOND + teql() + '[[rule]]\nname = "r"\nuse = "a"\ninterface = ["bond0", "eth4", "teql0", "eth6"]\n',
        [
            'f:19: rule[0].interface[1]: nothing comes in by "eth4": it is a member of bond "bond0", and what comes in '
            "by it has come in by the bond",
            'f:19: rule[0].interface[2]: nothing comes in by "teql0": it is a TEQL, and what its far end sends comes '
            "in by its members",
            'f:19: rule[0].interface[3]: "eth6" is the interface of the uplink "a": what comes in by an uplink is '
            "answered by it, and no rule decides about that",
        ],
    ),
}


@pytest.mark.parametrize("case", WARNINGS)
def test_warnings(case: str) -> None:
    """What is allowed but probably not meant is said, and nothing else is."""
    text, expected = WARNINGS[case]
    assert warnings(text) == expected


def test_policies_and_rules_without_uplinks() -> None:
    """A file without uplinks may have rules for `main`; a policy has nothing to name."""
    found = settings(BOND + '[[rule]]\nname = "r"\nto = "10.0.0.0/8"\nuse = "main"\n')
    assert [rule.use for rule in found.rules] == ["main"]
    assert messages(BOND + '[[policy]]\nname = "p"\nmembers = ["bond0"]\n') == [
        'f:7: policy[0].members[0]: found "bond0", expected the name of an uplink'
    ]
