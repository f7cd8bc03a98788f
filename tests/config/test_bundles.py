"""What is wrong with bonds and TEQL, as a person reads it."""

from __future__ import annotations

import pytest

from tests.config.test_messages import DURATION, INTERFACE, A, messages

BOND = '[[bond]]\nname = "bond0"\nmode = "active-backup"\nmembers = ["eth4", "eth5"]\n'
"""Lines 1 to 4."""

MODE = (
    'expected "balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb" or '
    "their numbers, 0 to 6"
)
HASH = 'expected "layer2", "layer3+4", "layer2+3", "encap2+3", "encap3+4" or "vlan+srcmac"'
ADDRESS = 'expected an address with the length of its network\'s prefix, such as "192.168.1.3/24"'
ADDRESS4 = 'expected an IPv4 address with the length of its network\'s prefix, such as "10.0.0.0/31"'
NEIGHBOUR = 'expected an IPv4 address, such as "192.168.1.1"'
MAC = 'expected the hardware address of one station, such as "02:00:00:00:00:01"'
TEQL = 'expected the kernel\'s name for a TEQL device, "teql0" to "teql99"'
LINK = 'expected a table such as { interface = "eth1", address = "10.0.0.0/31", peer = "10.0.0.1" }'
PEER = 'expected the IPv4 address of the far end, such as "10.0.0.1"'
DELAYS = "the kernel counts delays in looks at the carrier"

BOND_LINES = {
    'miimon = "0s"': 'miimon: found "0s", expected a duration of at least 10ms; without a look at the carriers a dead '
    "member is used for ever",
    'miimon = "9ms"': 'miimon: found "9ms", expected a duration of at least 10ms',
    'miimon = "25d"': 'miimon: found "25d", expected a duration of at most 24d',
    'miimon = "0.0105s"': 'miimon: found "0.0105s", expected whole milliseconds; the kernel counts milliseconds',
    "miimon = 100": f'miimon: found 100, {DURATION}; write "100ms" for milliseconds',
    'miimon = "100"': f'miimon: found "100", {DURATION}; write "100ms" for milliseconds',
    'miimon = "-1s"': f'miimon: found "-1s", {DURATION}',
    'updelay = "250ms"': 'updelay: found "250ms", expected a multiple of miimon, which is 100ms; the kernel would make '
    "it 200ms",
    'downdelay = "50ms"': 'downdelay: found "50ms", expected a multiple of miimon, which is 100ms; the kernel would '
    "make it 0s",
    'primary = "eth6"': 'primary: found "eth6", expected the name of a member; did you mean "eth5"?',
    'primary = "wan"': 'primary: found "wan", expected the name of a member; there are eth4, eth5',
    'lacp_rate = "fast"': 'lacp_rate: found lacp_rate with mode = "active-backup", expected mode = "802.3ad", or no '
    "lacp_rate; no other mode speaks LACP",
    'lacp_rate = "fats"': 'lacp_rate: found "fats", expected "slow" or "fast"; did you mean "fast"?',
    'xmit_hash_policy = "layer2"': 'xmit_hash_policy: found xmit_hash_policy with mode = "active-backup", expected '
    'mode = "balance-xor", "802.3ad" or "balance-tlb", or no xmit_hash_policy; the others do not hash',
    'xmit_hash_policy = "layer34"': f'xmit_hash_policy: found "layer34", {HASH}; did you mean "layer3+4"?',
    'arp_interval = "200ms"': "arp_interval: found arp_interval without arp_targets, expected at least one address in "
    "arp_targets; without an answer every member counts as dead",
    'arp_interval = "0s"\narp_targets = ["192.0.2.1"]': 'arp_interval: found "0s", expected a duration of at least '
    "10ms; leave the key out for no ARP by the kernel",
    'arp_targets = ["2001:db8::1"]': f'arp_targets[0]: found "2001:db8::1", {NEIGHBOUR}; ARP asks for IPv4 addresses',
    'arp_targets = ["192.0.2.1/24"]': f'arp_targets[0]: found "192.0.2.1/24", {NEIGHBOUR}; leave out the prefix length',
    'arp_targets = ["gateway"]': f'arp_targets[0]: found "gateway", {NEIGHBOUR}',
    'arp_targets = ["0.0.0.0"]': f'arp_targets[0]: found "0.0.0.0", {NEIGHBOUR}; the unspecified address names nobody',
    'arp_targets = ["192.0.2.3"]\naddresses = ["192.0.2.3/24"]': 'arp_targets[0]: found "192.0.2.3", expected the '
    "address of somebody else; this is the bond's own",
    f"arp_targets = {[f'192.0.2.{n}' for n in range(1, 18)]}": "arp_targets[16]: found 17 targets, expected at most "
    "16; the kernel takes no more",
    'mac = "03:00:00:00:00:01"': f'mac: found "03:00:00:00:00:01", {MAC}; this is the address of a group (multicast), '
    "which no interface can have",
    'mac = "00:00:00:00:00:00"': f'mac: found "00:00:00:00:00:00", {MAC}; zero is no address',
    'mac = "02-00-00-00-00-0A"': f'mac: found "02-00-00-00-00-0A", {MAC}; write "02:00:00:00:00:0a"',
    'mac = "2:0:0:0:0:1"': f'mac: found "2:0:0:0:0:1", {MAC}',
    "mtu = 67": "mtu: found 67, expected a whole number from 68 to 65535",
    "mtu = 65536": "mtu: found 65536, expected a whole number from 68 to 65535",
    'mtu = 1279\naddresses = ["2001:db8::1/64"]': "mtu: found 1279, expected a whole number from 1280 to 65535; the "
    "bond has IPv6 addresses, and IPv6 needs that",
    'addresses = "192.0.2.1/24"': f'addresses: found "192.0.2.1/24", expected an array, each element {ADDRESS[9:]}; '
    'write ["192.0.2.1/24"]',
    'addresses = ["192.0.2.1"]': f'addresses[0]: found "192.0.2.1", {ADDRESS}; how long is the prefix? write '
    '"192.0.2.1/24" or another length',
    'addresses = ["2001:db8::1"]': f'addresses[0]: found "2001:db8::1", {ADDRESS}; how long is the prefix? write '
    '"2001:db8::1/64" or another length',
    'addresses = ["192.0.2.1/255.255.255.0"]': f'addresses[0]: found "192.0.2.1/255.255.255.0", {ADDRESS}; write '
    '"192.0.2.1/24"',
    'addresses = ["192.0.2.1/33"]': f'addresses[0]: found "192.0.2.1/33", {ADDRESS}',
    'addresses = ["192.0.2.1/0"]': f'addresses[0]: found "192.0.2.1/0", {ADDRESS}; a prefix of this length is '
    "everybody's network",
    'addresses = ["192.0.2.0/24"]': f'addresses[0]: found "192.0.2.0/24", {ADDRESS}; this is the network, not an '
    "address in it",
    'addresses = ["192.0.2.255/24"]': f'addresses[0]: found "192.0.2.255/24", {ADDRESS}; this is the broadcast address '
    "of the network",
    'addresses = ["127.0.0.2/8"]': f'addresses[0]: found "127.0.0.2/8", {ADDRESS}; a loopback address is this router '
    "itself",
    'addresses = ["fe80::1%eth1/64"]': f'addresses[0]: found "fe80::1%eth1/64", {ADDRESS}; the interface is known '
    'already: leave out "%eth1"',
    'addresses = ["192.0.2.1/24", "192.0.2.1/24"]': 'addresses[1]: found "192.0.2.1/24", expected each only once',
    'metrics = "off"': "metrics: unknown key; it belongs in [daemon]",
    'mode1 = "a"': 'mode1: unknown key; did you mean "mode"?',
}


@pytest.mark.parametrize("lines", BOND_LINES)
def test_key_of_a_bond(lines: str) -> None:
    """What the kernel would refuse, change or misunderstand is told with its place, what would be right, and why."""
    assert messages(BOND + lines) == [f"f:5: bond[0].{BOND_LINES[lines]}"]


MODES = {
    '"active-backp"': '"active-backp", {}; did you mean "active-backup"?',
    '"lacp"': '"lacp", {}; LACP is "802.3ad"',
    '"7"': '"7", {}',
    "7": "7, {}",
    "-1": "-1, {}",
    "true": "true, {}",
}


@pytest.mark.parametrize("mode", MODES)
def test_modes_that_there_are_not(mode: str) -> None:
    """A mode is one of seven."""
    text = BOND.replace('"active-backup"', mode)
    assert messages(text) == [f"f:3: bond[0].mode: found {MODES[mode].format(MODE)}"]


WITH_MODES = {
    ("802.3ad", 'primary = "eth4"'): [
        'primary: found primary with mode = "802.3ad", expected mode = "active-backup", "balance-tlb" or '
        '"balance-alb", or no primary; in the others no member is the active one'
    ],
    ("balance-alb", 'xmit_hash_policy = "layer2"'): [
        'xmit_hash_policy: found xmit_hash_policy with mode = "balance-alb", expected mode = "balance-xor", "802.3ad" '
        'or "balance-tlb", or no xmit_hash_policy; the others do not hash'
    ],
    **{
        (mode, 'arp_interval = "1s"\narp_targets = ["192.0.2.1"]'): [
            f'arp_interval: found arp_interval with mode = "{mode}", expected mode = "balance-rr", "active-backup", '
            '"balance-xor" or "broadcast", or no arp_interval; in the others the kernel has no ARP monitor'
        ]
        for mode in ("balance-tlb", "balance-alb")
    },
    ("802.3ad", 'arp_targets = ["192.0.2.1"]'): [
        'arp_targets: found arp_targets with mode = "802.3ad", expected mode = "balance-rr", "active-backup", '
        '"balance-xor", "broadcast", "balance-tlb" or "balance-alb", or no arp_targets; LACP tells whether a member\'s '
        "far end is alive"
    ],
    ("802.3ad", 'arp_interval = "1s"'): [
        'arp_interval: found arp_interval with mode = "802.3ad", expected mode = "balance-rr", "active-backup", '
        '"balance-xor" or "broadcast", or no arp_interval; in the others the kernel has no ARP monitor',
        "arp_interval: found arp_interval without arp_targets, expected at least one address in arp_targets; without "
        "an answer every member counts as dead",
    ],
    ("active-backup", 'arp_interval = "1s"\nmiimon = "1s"\narp_targets = ["192.0.2.1"]'): [
        "arp_interval: found arp_interval with miimon, expected one of them; the kernel runs one monitor"
    ],
    ("active-backup", 'updelay = "0s"\narp_interval = "1s"\narp_targets = ["192.0.2.1"]'): [
        f"updelay: found updelay with arp_interval, expected miimon in its place, or no updelay; {DELAYS}"
    ],
    ("active-backup", 'downdelay = "1s"\narp_interval = "1s"\narp_targets = ["192.0.2.1"]'): [
        f"downdelay: found downdelay with arp_interval, expected miimon in its place, or no downdelay; {DELAYS}"
    ],
    ("active-backup", 'updelay = "3s"\nmiimon = "2s"'): [
        'updelay: found "3s", expected a multiple of miimon, which is 2s; the kernel would make it 2s'
    ],
}


@pytest.mark.parametrize(("mode", "lines"), WITH_MODES)
def test_options_that_do_not_fit(mode: str, lines: str) -> None:
    """An option that means nothing in the mode, or nothing beside another one, is refused with the reason."""
    text = BOND.replace("active-backup", mode) + lines
    assert messages(text) == [f"f:5: bond[0].{problem}" for problem in WITH_MODES[mode, lines]]


TEQL0 = {
    "name": "teql0", "one": "eth6", "first": "10.0.0.0/31", "peer": "10.0.0.1", "other": "eth7",
    "second": "10.0.0.2/31", "peer2": "10.0.0.3", "own": "10.0.0.4/31",
}  # fmt: skip


def teql(**changed: str) -> str:
    """Lines 1 to 6: members on lines 4 and 5, the address on line 6."""
    return """[[teql]]
name = "{name}"
members = [
{{ interface = "{one}", address = "{first}", peer = "{peer}" }},
{{ interface = "{other}", address = "{second}", peer = "{peer2}" }}]
address = "{own}"
""".format(**TEQL0 | changed)


APART = "expected an address in a network of its own; line {} has {}; Linux would reach both by one link"

TEQLS = {
    ("name", "teql100"): f'2: teql[0].name: found "teql100", {TEQL}',
    ("name", "teql00"): f'2: teql[0].name: found "teql00", {TEQL}',
    ("one", "eth1:"): f'4: teql[0].members[0].interface: found "eth1:", {INTERFACE}; Linux takes no `:` in the name of '
    "an interface",
    ("other", "eth6"): '5: teql[0].members[1].interface: found "eth6", expected each interface only once',
    ("first", "10.0.0.0"): f'4: teql[0].members[0].address: found "10.0.0.0", {ADDRESS4}; how long is the prefix? '
    'write "10.0.0.0/24" or another length',
    ("first", "2001:db8::/127"): f'4: teql[0].members[0].address: found "2001:db8::/127", {ADDRESS4}; mlbd runs TEQL '
    "with IPv4",
    ("first", "10.0.0.2/31"): [
        '4: teql[0].members[0].peer: found "10.0.0.1", expected the far end\'s address in 10.0.0.2/31; a peer is on '
        "the link",
        f'5: teql[0].members[1].address: found "10.0.0.2/31", {APART.format(4, "10.0.0.2/31")}',
    ],
    ("second", "10.0.0.2/29"): [
        f'5: teql[0].members[1].address: found "10.0.0.2/29", {APART.format(4, "10.0.0.0/31")}',
        f'6: teql[0].address: found "10.0.0.4/31", {APART.format(5, "10.0.0.0/29")}',
    ],
    ("own", "10.0.0.2/31"): f'6: teql[0].address: found "10.0.0.2/31", {APART.format(5, "10.0.0.2/31")}',
    ("own", "x"): f'6: teql[0].address: found "x", {ADDRESS4}',
    ("peer2", "10.0.0.5"): '5: teql[0].members[1].peer: found "10.0.0.5", expected the far end\'s address in '
    "10.0.0.2/31; a peer is on the link",
    ("peer2", "10.0.0.2"): '5: teql[0].members[1].peer: found "10.0.0.2", expected the far end\'s address in '
    "10.0.0.2/31; this is the member's own",
    ("peer2", "10.0.0.1"): '5: teql[0].members[1].peer: found "10.0.0.1", expected another peer for each member; '
    "line 4 has this one",
    ("peer2", "10.0.0.3/31"): f'5: teql[0].members[1].peer: found "10.0.0.3/31", {PEER}; leave out the prefix length',
    ("peer2", "2001:db8::3"): f'5: teql[0].members[1].peer: found "2001:db8::3", {PEER}; mlbd runs TEQL with IPv4',
    ("peer2", "b.example"): f'5: teql[0].members[1].peer: found "b.example", {PEER}',
}


@pytest.mark.parametrize(("part", "written"), TEQLS)
def test_key_of_a_teql(part: str, written: str) -> None:
    """Also what stands in an element of an array is told with its own place."""
    expected = TEQLS[part, written]
    assert messages(teql(**{part: written})) == [
        f"f:{problem}" for problem in ([expected] if isinstance(expected, str) else expected)
    ]


INNER = "known here: interface, address, peer"

REST = {
    "missing keys": (
        "[[bond]]\n[[teql]]\n",
        [
            'f:1: bond[0].name: found nothing, expected the name of a network interface, such as "bond0"',
            f"f:1: bond[0].mode: found nothing, {MODE}",
            f"f:1: bond[0].members: found nothing, expected {INTERFACE[9:]}",
            f"f:2: teql[0].name: found nothing, {TEQL}",
            f"f:2: teql[0].members: found nothing, {LINK}",
            f"f:2: teql[0].address: found nothing, {ADDRESS4}",
        ],
    ),
    "tables of the wrong shape": (
        "[bond]\n[teql]\n",
        [
            "f:1: bond: found a table, expected [[bond]] tables; write [[bond]], in double brackets",
            "f:2: teql: found a table, expected [[teql]] tables; write [[teql]], in double brackets",
        ],
    ),
    "the name of a bond": (
        BOND.replace("bond0", "lo") + BOND.replace("bond0", "eth4:1").replace('"eth4", "eth5"', '"eth6"'),
        [
            'f:2: bond[0].name: found "lo", expected the name of a network interface, such as "bond0"; this is the '
            "loopback interface",
            'f:6: bond[1].name: found "eth4:1", expected the name of a network interface, such as "bond0"; Linux takes '
            "no `:` in the name of an interface",
        ],
    ),
    "members of a bond": (
        '[[bond]]\nname = "bond0"\nmode = 1\nmembers = ["eth4", "eth4", "lo", 1]\n'
        '[[bond]]\nname = "bond1"\nmode = 1\nmembers = "eth5"\n[[bond]]\nname = "bond2"\nmode = 1\nmembers = []\n',
        [
            f'f:4: bond[0].members[2]: found "lo", {INTERFACE}; nothing leaves the router by the loopback interface',
            f"f:4: bond[0].members[3]: found 1, {INTERFACE}",
            'f:4: bond[0].members[1]: found "eth4", expected each only once',
            f'f:8: bond[1].members: found "eth5", expected an array, each element {INTERFACE[9:]}; write ["eth5"]',
            "f:12: bond[2].members: found an empty array, expected at least one interface",
        ],
    ),
    "members of a TEQL": (
        '[[teql]]\nname = "teql0"\naddress = "10.0.0.4/31"\nmembers = ["eth6",\n{ interface = "eth7", pier = "x" }]\n'
        '[[teql]]\nname = "teql1"\naddress = "10.1.0.4/31"\nmembers = []\n'
        '[[teql]]\nname = "teql2"\naddress = "10.2.0.4/31"\npeer = "10.2.0.5"\n[[teql.members]]\ninterface = 1\n',
        [
            f'f:4: teql[0].members[0]: found "eth6", {LINK}',
            'f:5: teql[0].members[1].pier: unknown key; did you mean "peer"?',
            f"f:5: teql[0].members[1].address: found nothing, {ADDRESS4}",
            f"f:5: teql[0].members[1].peer: found nothing, {PEER}",
            "f:9: teql[1].members: found an empty array, expected at least one interface",
            "f:13: teql[2].peer: unknown key; it belongs in an element of members",
            f"f:14: teql[2].members[0].address: found nothing, {ADDRESS4}",
            f"f:14: teql[2].members[0].peer: found nothing, {PEER}",
            f"f:15: teql[2].members[0].interface: found 1, {INTERFACE}",
        ],
    ),
    "a peer that is nobody in particular": (
        teql(first="10.0.1.1/24", peer="10.0.1.255"),
        [
            'f:4: teql[0].members[0].peer: found "10.0.1.255", expected the far end\'s address in 10.0.1.0/24; this '
            "one is the network or everybody in it"
        ],
    ),
    "too many members": (
        '[[teql]]\nname = "teql0"\naddress = "10.1.0.1/24"\nmembers = [\n'
        + "".join(f'{{ interface = "e{n}", address = "10.0.{n}.0/31", peer = "10.0.{n}.1" }},\n' for n in range(33))
        + "]",
        ["f:37: teql[0].members[32]: found 33 members, expected at most 32"],
    ),
    "a member of two bundles": (
        BOND + BOND.replace("bond0", "bond1").replace("eth4", "eth6") + teql(one="eth4"),
        [
            'f:8: bond[1].members[1]: found "eth5", expected an interface that is in no other bundle; bond "bond0" has '
            "it on line 4",
            'f:12: teql[0].members[0].interface: found "eth4", expected an interface that is in no other bundle; bond '
            '"bond0" has it on line 4',
        ],
    ),
    "a member that is an uplink's interface": (
        A.replace("eth1", "eth4") + BOND,
        [
            'f:3: uplink[0].interface: found "eth4", expected an interface that is no member of a bundle; bond "bond0" '
            "has it on line 7; uplinks may leave by the bundle itself"
        ],
    ),
    "a bundle in a bundle": (
        BOND.replace("eth5", "teql0") + teql(one="bond0", other="teql0"),
        [
            f"f:{place}, expected an interface that is no bundle; of a bundle in a bundle nobody could tell which link "
            "is dead"
            for place in (
                '4: bond[0].members[1]: found "teql0"',
                '8: teql[0].members[0].interface: found "bond0"',
                '9: teql[0].members[1].interface: found "teql0"',
            )
        ],
    ),
    "two bundles of one name": (
        BOND.replace("bond0", "teql0") + teql(),
        [
            'f:6: teql[0].name: found "teql0", expected a name that no other bundle has; line 2 has it; one interface '
            "is one bundle"
        ],
    ),
}


@pytest.mark.parametrize("case", REST)
def test_whole_files(case: str) -> None:
    """Bundles are told apart from each other and from uplinks."""
    text, expected = REST[case]
    assert messages(text) == expected
