"""Rules: what they mean, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlbd.config import ConfigError, Loaded, parse
from mlbd.core.settings import Rule, Selector
from tests.config.test_any import anything, outcome, toml

A = '[[uplink]]\nname = "a"\ninterface = "eth1"\n'
AB = A + '[[uplink]]\nname = "b"\ninterface = "eth2"\n'
"""Lines 1 to 6."""
R = '[[rule]]\nname = "r"\nuse = "balanced"\n'
"""Lines 7 to 9 after AB."""


def rules(text: str) -> tuple[Rule, ...]:
    return parse(AB + text, "f").settings.rules


def messages(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f")
    return [str(problem) for problem in caught.value.problems]


def test_everything_set() -> None:
    """Every key of a rule arrives in the settings, in the core's terms, negated elements apart."""
    text = """[[rule]]
        name = "r"
        from = ["192.168.1.0/24", "! 192.168.1.7", "2001:DB8:0::/64"]
        to = ["!10.0.0.0/255.0.0.0", "!2001:db8::1"]
        interface = ["lan0", "lo", "!br-1"]
        protocol = ["tcp", "UDP", 132, "33", "!udplite"]
        ports = [80, "443", "6660-6669", "!6665", "! 6667 - 6668"]
        source_ports = ["1024-65535"]
        mark = ["0x80000/0xff0000", "51820", 7, "!0x1/1", "!0"]
        use = "balanced"
        sticky = "1m30s"
    """
    assert rules(text) == (
        Rule(
            name="r",
            use="balanced",
            sources=Selector(("192.168.1.0/24", "2001:db8::/64"), ("192.168.1.7/32",)),
            destinations=Selector((), ("10.0.0.0/8", "2001:db8::1/128")),
            interfaces=Selector(("lan0", "lo"), ("br-1",)),
            protocols=Selector((6, 17, 132, 33), (136,)),
            ports=Selector(((80, 80), (443, 443), (6660, 6669)), ((6665, 6665), (6667, 6668))),
            source_ports=Selector(((1024, 65535),)),
            marks=Selector(((0x80000, 0xFF0000), (51820, 0xFFFFFF), (7, 0xFFFFFF)), ((1, 1), (0, 0xFFFFFF))),
            sticky=90.0,
        ),
    )


def test_least() -> None:
    """A name and a use make a rule; what it uses is a policy, an uplink or main; order stays."""
    text = "".join(f'[[rule]]\nname = "{use}"\nfrom = "192.0.2.{n}"\nuse = "{use}"\n' for n, use in enumerate(
        ["main", "b", "balanced"]))  # fmt: skip
    assert [(rule.name, rule.use, rule.sources) for rule in rules(text)] == [
        ("main", "main", Selector(("192.0.2.0/32",))),
        ("b", "b", Selector(("192.0.2.1/32",))),
        ("balanced", "balanced", Selector(("192.0.2.2/32",))),
    ]
    assert rules(R) == (Rule(name="r", use="balanced"),)


BARE = {
    "from": ('"192.0.2.0/24"', "sources", ("192.0.2.0/24",)),
    "to": ('"::/0"', "destinations", ("::/0",)),
    "interface": ('"lo"', "interfaces", ("lo",)),
    "protocol": ("47", "protocols", (47,)),
    "ports": ("65535", "ports", ((65535, 65535),)),
    "source_ports": ('"1-2"', "source_ports", ((1, 2),)),
    "mark": ("0x10", "marks", ((0x10, 0xFFFFFF),)),
}


@pytest.mark.parametrize("key", BARE)
def test_one_value_needs_no_brackets(key: str) -> None:
    """A condition of one element is the same with and without brackets."""
    written, field, some = BARE[key]
    (rule,) = rules(f"{R}{key} = {written}\n")
    assert getattr(rule, field) == Selector(some)
    assert rules(f"{R}{key} = [{written}]\n") == (rule,)


PROTOCOLS = {
    "icmp": 1, "ipip": 4, "tcp": 6, "udp": 17, "dccp": 33, "gre": 47, "esp": 50, "ah": 51, "icmpv6": 58, "sctp": 132,
    "udplite": 136, "0": 0, "255": 255,
}  # fmt: skip


def test_protocols() -> None:
    """Protocols have the names of /etc/protocols, or numbers."""
    (rule,) = rules(f"{R}protocol = {list(PROTOCOLS)}\n")
    assert rule.protocols == Selector(tuple(PROTOCOLS.values()))


def test_mark_follows_the_mask_of_the_daemon() -> None:
    """A mark without a mask has all bits but ours, wherever ours are."""
    (rule,) = rules(R + "mark = 0x01000000\n[daemon]\nfwmark_mask = 0xff\n")
    assert rule.marks == Selector(((0x01000000, 0xFFFFFF00),))


PREFIX = 'expected a prefix or an address, such as "192.168.1.0/24" or "!2001:db8::1"'
PROTOCOL = 'expected an IP protocol by name or number, such as "tcp", "icmpv6", "!gre" or 47'
PORTS = 'expected a port or a range of ports, such as 80, "6660-6669" or "!80"'
MARK = 'expected a mark, with or without a mask, such as "0x80000/0xff0000" or 51820'
OTHERS_MARK = "expected a mark that another program sets"
OURS = "daemon.fwmark_mask is 0xff000000, and its bits are ours"
DURATION = 'expected a duration with its unit (ms, s, m, h, d), such as "200ms", "1s" or "1m30s"'
EXCLUDED = "found conditions that exclude each other, expected some that a packet can meet"
WITH_PORTS = "expected a protocol with ports (tcp, udp, dccp, sctp, udplite), as there is"

LINES = {
    'from = "192.168.1.1/24"': f'from: found "192.168.1.1/24", {PREFIX}; bits behind the prefix are set: the network '
    'is "192.168.1.0/24", the host "192.168.1.1"',
    'from = ["!2001:db8::1/64"]': f'from[0]: found "!2001:db8::1/64", {PREFIX}; bits behind the prefix are set: the '
    'network is "2001:db8::/64", the host "2001:db8::1"',
    'from = "10.0.0.0/33"': f'from: found "10.0.0.0/33", {PREFIX}',
    'to = "example.org"': f'to: found "example.org", {PREFIX}; names of hosts are not looked up',
    'to = "fe80::1%eth1"': f'to: found "fe80::1%eth1", {PREFIX}; an address has no interface here: that is the key '
    "`interface`",
    'to = "::ffff:192.0.2.1"': f'to: found "::ffff:192.0.2.1", {PREFIX}; an IPv4 address in disguise: write '
    '"192.0.2.1"',
    'to = "10.0.0.0/8, 172.16.0.0/12"': f'to: found "10.0.0.0/8, 172.16.0.0/12", {PREFIX}; several go into an array, '
    "each by itself",
    'to = "any"': f'to: found "any", {PREFIX}; without the key anything matches',
    "to = 1": f"to: found 1, {PREFIX}",
    "to = []": "to: found an empty array, expected at least one element; without the key anything matches",
    'to = ["10.0.0.1", "10.0.0.1/32"]': 'to[1]: found "10.0.0.1/32", expected each only once',
    'to = ["!10.0.0.1", "! 10.0.0.1"]': 'to[1]: found "! 10.0.0.1", expected each only once',
    'to = {}': f"to: found a table, {PREFIX}",
    'interface = "a/b"': 'interface: found "a/b", expected the name of a network interface, such as "eth0"; Linux '
    "takes no `/` in the name of an interface",
    'interface = "!"': 'interface: found "!", expected the name of a network interface, such as "eth0"; Linux takes '
    "names of 1 to 15 bytes, this has 0",
    'protocol = "tpc"': f'protocol: found "tpc", {PROTOCOL}; did you mean "tcp"?',
    "protocol = 256": f"protocol: found 256, {PROTOCOL}; numbers of protocols are 0 to 255",
    "protocol = true": f"protocol: found true, {PROTOCOL}",
    "ports = 0": f"ports: found 0, {PORTS}; ports are whole numbers from 1 to 65535",
    'ports = "65536"': f'ports: found "65536", {PORTS}; ports are whole numbers from 1 to 65535',
    "ports = -80": f"ports: found -80, {PORTS}; ports are whole numbers from 1 to 65535",
    'ports = "http"': f'ports: found "http", {PORTS}; names of services are not looked up',
    'ports = "80,443"': f'ports: found "80,443", {PORTS}; several go into an array, each by itself',
    'ports = "80:90"': f'ports: found "80:90", {PORTS}; write "80-90"',
    'ports = "!90-80"': f'ports: found "!90-80", {PORTS}; the first port is greater than the last: write "80-90"',
    'ports = [80, "80-80"]': 'ports[1]: found "80-80", expected each only once',
    'source_ports = ""': f'source_ports: found "", {PORTS}',
    'mark = "0x"': f'mark: found "0x", {MARK}',
    "mark = -1": f"mark: found -1, {MARK}; marks have 32 bits",
    'mark = "1/0"': f'mark: found "1/0", {MARK}; marks have 32 bits, and an empty mask compares nothing',
    'mark = "4294967296"': f'mark: found "4294967296", {MARK}; marks have 32 bits',
    'mark = "0x30000/0x10000"': f'mark: found "0x30000/0x10000", {MARK}; it can never match: 0x20000 is outside the '
    "mask",
    'mark = "0x1/0x1000001"': f'mark: found "0x1/0x1000001", {OTHERS_MARK}; the mask 0x1000001 has '
    f"bits of ours: {OURS}",
    'mark = ["!0x1000000"]': f'mark[0]: found "!0x1000000", {OTHERS_MARK}; the mark has bits of ours: {OURS}',
    'mark = "0/0xff"': f'mark: found "0/0xff", {OTHERS_MARK}; every packet without a mark has this, and would pass by '
    "the rules of other programs",
    "sticky = 10": f'sticky: found 10, {DURATION}; write "10s" for seconds',
    'sticky = "999ms"': 'sticky: found "999ms", expected a duration of at least 1s',
    'sticky = "0s"': 'sticky: found "0s", expected a duration of at least 1s',
    'port = 80': 'port: unknown key; did you mean "ports"?',
    'from = ["10.0.0.0/8", "!10.0.0.0/8"]': f"from: {EXCLUDED}",
    'interface = ["lan0", "!lan0"]': f"interface: {EXCLUDED}",
    'ports = [80, "!1-100"]': f"ports: {EXCLUDED}",
    'protocol = ["tcp", "!tcp"]': f"protocol: {EXCLUDED}",
    'mark = ["0x11/0xff", "!0x1/0xf"]': f"mark: {EXCLUDED}",
}  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_key_of_a_rule(line: str) -> None:
    """A wrong condition is told with its place, what was found, what would be right, and why."""
    assert messages(AB + R + line) == [f"f:10: rule[0].{LINES[line]}"]


REST = {
    "missing keys": (
        AB + "[[rule]]",
        [
            "f:7: rule[0].name: found nothing, expected a name of up to 15 lower-case letters, digits, _ and -, "
            "beginning with a letter",
            'f:7: rule[0].use: found nothing, expected the name of a policy or an uplink, or "main"',
        ],
    ),
    "names": (
        AB + R + R,
        ['f:11: rule[1].name: found "r", expected a name that no other rule has; line 8 has it; rules are told apart '
         "by name"],
    ),
    "unknown uses": (
        AB + '[[policy]]\nname = "spread"\nmembers = ["a", "b"]\n[[rule]]\nname = "r"\nuse = "spraed"\n'
        '[[rule]]\nname = "s"\nuse = "balanced"',
        [
            'f:12: rule[0].use: found "spraed", expected the name of a policy or an uplink, or "main"; '
            'did you mean "spread"?',
            'f:15: rule[1].use: found "balanced", expected the name of a policy or an uplink, or "main"; '
            "there are spread, a, b, main",
        ],
    ),
    "ports without protocols that have them": (
        AB + R + 'protocol = ["tcp", "icmp", 47]\nports = 80\n[[rule]]\nname = "s"\nuse = "a"\nprotocol = "esp"\n'
        "source_ports = 1",
        [
            f'f:10: rule[0].protocol[1]: found "icmp", {WITH_PORTS} `ports`; this one has none',
            f"f:10: rule[0].protocol[2]: found 47, {WITH_PORTS} `ports`; this one has none",
            f'f:15: rule[1].protocol: found "esp", {WITH_PORTS} `source_ports`; this one has none',
        ],
    ),
    "families": (
        AB + R + 'from = ["192.0.2.0/24", "!2001:db8::/64"]\nto = "2001:db8::1"',
        ["f:11: rule[0].to: found IPv4 in `from` and IPv6 in `to`, expected the same family in both; no packet has "
         "addresses of two families"],
    ),
    "conditions that leave nothing only together": (
        AB + R + 'from = ["192.0.2.1", "2001:db8::1", "!2001:db8::/32"]\nto = "2001:db8::2"\n'
        '[[rule]]\nname = "s"\nuse = "a"\nports = 1\nprotocol = ["!tcp", "!udp", "!sctp", "!dccp", "!udplite"]',
        [f"f:7: rule[0]: {EXCLUDED}", f"f:12: rule[1]: {EXCLUDED}"],
    ),
    "nothing to stick to": (
        AB + '[[policy]]\nname = "hashed"\nmethod = "multipath"\nmembers = ["a", "b"]\n'
        '[[rule]]\nname = "r"\nfrom = "192.0.2.1"\nuse = "b"\nsticky = "1m"\n'
        '[[rule]]\nname = "s"\nfrom = "192.0.2.2"\nuse = "main"\nsticky = "1m"\n'
        '[[rule]]\nname = "t"\nfrom = "192.0.2.3"\nuse = "hashed"\nsticky = "1m"\n',
        [
            'f:15: rule[0].sticky: found sticky with use = "b", expected a policy in `use`; one way leaves nothing to '
            "choose",
            'f:20: rule[1].sticky: found sticky with use = "main", expected a policy in `use`; one way leaves nothing '
            "to choose",
            'f:25: rule[2].sticky: found sticky with "hashed", whose method is "multipath", expected a policy with '
            "another method, as \"random\"; the kernel's hash chooses, and mlbd cannot make it stick",
        ],
    ),
    "a mask of the daemon that is wrong": (
        AB + R + "mark = 1\n[daemon]\nfwmark_mask = 1",
        ["f:12: daemon.fwmark_mask: found 1, expected a mask of eight bits in a row, such as 0xff000000; "
         "this mask has 1 bits, not 8"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REST)
def test_whole_files(case: str) -> None:
    """What does not fit together is refused with the reason, all at once."""
    text, expected = REST[case]
    assert messages(text) == expected


def many(count: int, *lines: str) -> str:
    return "".join(
        f'[[rule]]\nname = "r{n}"\nfrom = "10.{n // 250}.{n % 250}.0/24"\nuse = "balanced"\n' + "".join(lines)
        for n in range(count)
    )


def test_too_many() -> None:
    """There are routing rule priorities for 1500 rules; as many are checked in reasonable time."""
    assert len(rules(many(1500))) == 1500
    assert messages(AB + many(1501)) == ["f:6007: rule[1500]: found 1501 rules, expected at most 1500"]


HOSTS = "[" + ",\n".join(f'"10.0.{n // 250}.{2 * (n % 125)}", "2001:db8::{n:x}0"' for n in range(100)) + "]"


def combined(largest: int, total: int, mark: str) -> str:
    return (
        f"f:10: rule[1]: found {largest} combinations of its conditions, {total} of all rules, expected at most 5000 "
        "of all rules; for the router's own connections each is a routing rule; "
        f'`interface = ["<LAN interface>"]` keeps a rule to forwarded connections{mark}'
    )


def test_combinations() -> None:
    """What would become thousands of routing rules is refused at the largest rule, unless it does not become any."""
    ports = f"{R}ports = [1, 2, 5, 7, 9, 11, 13]\nfrom = {HOSTS}\n"  # 6 ranges, 2 protocols, 100 hosts, 2 families
    two = '[[rule]]\nname = "s"\nuse = "a"\n' + ports
    three = two + ports.replace('"r"', '"t"').replace("from", "to") + ports.replace('"r"', '"v"')
    by_mark = ', and `daemon.own_connections = "mark"` needs no such rules'
    marking = '[daemon]\nown_connections = "mark"\n'
    assert len(rules(two)) == 2
    assert messages(AB + three) == [combined(2400, 7202, by_mark)]
    assert len(rules(three.replace("ports =", 'interface = "!lo"\nports ='))) == 4
    assert len(rules(three.replace("ports =", 'interface = "lan0"\nports ='))) == 4
    assert len(rules(three + marking)) == 4
    more = three.replace("[1, 2,", "[1, 2, 15, 17, 19,")  # 9 ranges
    assert messages(AB + more + marking) == [combined(1800, 5401, "")]
    assert (
        len(parse(AB.replace("interface", 'nat6 = "masquerade"\ninterface') + more + marking, "f").settings.rules) == 4
    )


CONDITIONS = ["from", "to", "interface", "protocol", "ports", "source_ports", "mark", "sticky", "use"]
ELEMENTS = [
    "10.0.0.0/8", "10.1.0.0/16", "::/0", "0.0.0.0/0", "2001:db8::/32", "lo", "eth1", "lan0", "tcp", "icmp", "0x80/0xff",
    "80", "1-65535", "a", "main", "balanced", "1m", "", "!", "/", "-", "0x", "%", "1/1/1", "::1%1", "1e3", "٣",
]  # fmt: skip
elements = (
    st.sampled_from([*ELEMENTS, *("!" + element for element in ELEMENTS)])
    | st.integers(-2, 2**33)
    | st.text(alphabet="!0123456789abcdefx:/.-%, ", max_size=10)
    | anything
)
conditions = st.dictionaries(st.sampled_from(CONDITIONS), elements | st.lists(elements, max_size=4), max_size=5)


@settings(max_examples=300, deadline=None)
@given(st.lists(conditions, max_size=4), st.sampled_from(["", '[daemon]\nown_connections = "mark"\n']))
def test_any_rules(found: list[dict[str, Any]], daemon: str) -> None:
    """Whatever is in rules, it is settings or problems, each of them harmless and short."""
    text = AB + daemon
    for number, keys in enumerate(found):
        written = {"name": f"r{number}", "use": "balanced"} | keys
        text += "[[rule]]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in written.items())
    result = outcome(lambda: parse(text, "f"))
    problems = result.warnings if isinstance(result, Loaded) else result.problems
    assert all(str(problem).isprintable() and len(str(problem)) < 500 for problem in problems)
    assert isinstance(result, Loaded) or problems
