"""Every key of the configuration, in one table.

Checking and defaults (`mlbd.config.check`) and the tables of the documentation (`mlbd.config.reference`) are derived
from it. What a key means to the core is in `mlbd.core.settings`, whose fields have the same names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal

from msgspec import Meta

from mlbd.config import values
from mlbd.core.settings import MAX_UPLINK_ID, LastResort, Method, Nat6


class Absent(Enum):
    """What it means that a key has no default."""

    REQUIRED = "required"
    NONE = "none"
    """Something is then found out or decided by the program, as the key's explanation says."""


def _as_is(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    name: str
    type: Any
    """What `msgspec.convert` accepts; of one element, or one value, if the key holds several."""
    default: Any
    """As it would stand in the file; or `Absent`."""
    expected: str
    """What would be right, as in "expected a whole number from 1 to 256"; for arrays and tables, what is in them."""
    explanation: str
    """What the key is for, one sentence or two."""
    read: Callable[[Any], Any] = _as_is
    """From the value to its meaning; raises `mlbd.config.problems.Unfit`."""
    holds: Literal["one", "array", "table"] = "one"
    """Whether it is one value, an array of such values, or a table of them by name."""
    each_once: bool = False
    """No two elements of the array may mean the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    name: str
    many: bool
    """Written `[[name]]`, once for each of them."""
    explanation: str
    keys: tuple[Key, ...]
    inner: tuple[Table, ...] = ()
    """Tables inside it, `[name.inner]`."""

    def key(self, name: str) -> Key:
        """The key of that name; KeyError if there is none."""
        return {key.name: key for key in self.keys}[name]

    @property
    def heading(self) -> str:
        """As it is written in a file, `[[uplink]]` or `[probe]`."""
        return f"[[{self.name}]]" if self.many else f"[{self.name}]"

    @property
    def names(self) -> tuple[str, ...]:
        """Of everything that may stand in it."""
        return (*(key.name for key in self.keys), *(table.name for table in self.inner))


Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,14}\Z")]
NAME = "a name of up to 15 lower-case letters, digits, _ and -, beginning with a letter"
Weight = Annotated[int, Meta(ge=1, le=256)]
WEIGHT = "a whole number from 1 to 256"
Count = Annotated[int, Meta(ge=1, le=1000)]
COUNT = "a whole number from 1 to 1000"

PROBE = Table(
    name="probe",
    many=False,
    explanation="How uplinks are probed. `[uplink.probe]` sets the same keys for one uplink, key by key.",
    keys=(
        Key(
            name="targets", type=str, holds="array", each_once=True, default=["gateway"], read=values.target,
            expected='"gateway" or an IP address',
            explanation="What is sent ICMP echo requests: the uplink's gateway, or addresses behind it, IPv4 and IPv6.",
        ),
        Key(
            name="quorum", type=Count, default=1, expected=COUNT,
            explanation="How many targets must answer for a round of probes to count as good.",
        ),
        Key(
            name="interval", type=str, default="1s", read=values.duration(least=0.01, zero=False),
            expected=values.DURATION, explanation="From one round to the next.",
        ),
        Key(
            name="timeout", type=str, default="auto", read=values.timeout, expected=f'"auto" or {values.DURATION}',
            explanation="How long a reply may take. `auto` follows the round trips measured, within 200ms to 1s. A "
            "reply that comes later still turns its round good.",
        ),
        Key(
            name="suspect_interval", type=str, default="100ms", read=values.duration(least=0.01, zero=False),
            expected=values.DURATION,
            explanation="From one round to the next after a bad one, so that a failure is found soon without probing "
            "hard all the time.",
        ),
        Key(
            name="fall", type=Count, default=5, expected=COUNT,
            explanation="Bad rounds in a row after which the uplink is down.",
        ),
        Key(
            name="rise", type=Count, default=3, expected=COUNT,
            explanation="Good rounds in a row after which the uplink is up.",
        ),
        Key(
            name="hold", type=str, default="0s", read=values.duration(), expected=values.DURATION,
            explanation="How long the uplink must have been good before it carries traffic again; doubles with each "
            "flap and halves while the uplink stays stable.",
        ),
        Key(
            name="hold_max", type=str, default="5m", read=values.duration(), expected=values.DURATION,
            explanation="Up to where `hold` doubles.",
        ),
        Key(
            name="window", type=str, default="60s", read=values.duration(), expected=values.DURATION,
            explanation="The time over which loss, latency and jitter are told.",
        ),
    ),
)  # fmt: skip

UPLINK = Table(
    name="uplink",
    many=True,
    explanation="One way out. At least one; two make a working configuration.",
    keys=(
        Key(
            name="name", type=Name, default=Absent.REQUIRED, expected=NAME,
            explanation="What the uplink is called, everywhere.",
        ),
        Key(
            name="interface", type=str, default=Absent.REQUIRED, read=values.interface,
            expected='the name of a network interface, such as "eth1"',
            explanation="By which interface it leaves. The interface need not exist yet.",
        ),
        Key(
            name="gateway", type=str, default="auto", read=values.gateway(4),
            expected='"auto", "none" or an IPv4 address',
            explanation="The IPv4 next hop. `auto`: from the default routes that others (DHCP, ifupdown, ...) have put "
            "on the interface, followed as they change; `none`: point-to-point, the interface is enough.",
        ),
        Key(
            name="gateway6", type=str, default="auto", read=values.gateway(6),
            expected='"auto", "none" or an IPv6 address',
            explanation="The same for IPv6, where router advertisements count, too. It may be link-local.",
        ),
        Key(
            name="weight", type=Weight, default=1, expected=WEIGHT,
            explanation="Its share of new connections, relative to others, where a policy says nothing else.",
        ),
        Key(
            name="masquerade", type=bool, default=True, expected="true or false",
            explanation="Whether IPv4 packets that leave here get the interface's address as their source.",
        ),
        Key(
            name="nat6", type=Nat6, default="none", expected='"none" or "masquerade"',
            explanation="The same for IPv6: `masquerade`, or `none`, the packets leave as they are.",
        ),
        Key(
            name="id", type=Annotated[int, Meta(ge=1, le=MAX_UPLINK_ID)], default=Absent.NONE,
            expected=f"a whole number from 1 to {MAX_UPLINK_ID}",
            explanation="The number in its marks and tables; without it, one is given once and kept by name.",
        ),
        Key(
            name="carrier_delay", type=str, default="0s", read=values.duration(), expected=values.DURATION,
            explanation="How long the carrier must be gone before that counts, like a bond's `downdelay`.",
        ),
    ),
    inner=(PROBE,),
)  # fmt: skip

POLICY = Table(
    name="policy",
    many=True,
    explanation="How connections are spread over uplinks. The first is what traffic takes. Without one there is "
    "`balanced`: method `random`, all uplinks in one tier.",
    keys=(
        Key(
            name="name", type=Name, default=Absent.REQUIRED, expected=NAME,
            explanation="What the policy is called; no other policy or uplink may be called so.",
        ),
        Key(
            name="method", type=Method, default="random",
            expected='"random", "round-robin", "hash-source" or "failover"',
            explanation="How a new connection gets its uplink among the usable members of a tier: by chance, in turn, "
            "by its source address, or (`failover`) in a flat list always the first.",
        ),
        Key(
            name="members", type=str | list[str], holds="array", default=Absent.REQUIRED,
            expected="the name of an uplink or an array of such names (a tier)",
            explanation="Which uplinks, as a flat list or in tiers; the first tier with a usable member carries the "
            "traffic.",
        ),
        Key(
            name="weights", type=Weight, holds="table", default={}, expected=WEIGHT,
            explanation="Shares of members in this policy, by uplink name; the others have their uplink's `weight`.",
        ),
        Key(
            name="last_resort", type=LastResort, default="best",
            expected='"best", "unreachable", "blackhole" or "main"',
            explanation="When no member is usable. `best`: the member that failed last but has carrier; `unreachable`: "
            "refuse with an ICMP error; `blackhole`: drop silently; `main`: leave it to the other routing.",
        ),
    ),
)  # fmt: skip

CONNTRACK = Table(
    name="conntrack",
    many=False,
    explanation="What happens to the connections of an uplink that died, if there is somewhere else to go. UDP, ICMP "
    "and half-open TCP move with their next packet.",
    keys=(
        Key(
            name="tcp", type=Literal["reset", "keep"], default="reset", expected='"reset" or "keep"',
            explanation="Established TCP cannot move. `reset`: a client is told when it next sends, and an idle "
            "connection survives; `keep`: nothing is done.",
        ),
        Key(
            name="tcp_reset_after", type=str, default="1s", read=values.duration(), expected=values.DURATION,
            explanation="No reset before the uplink has been down this long.",
        ),
        Key(
            name="on_recover", type=Literal["keep", "flush"], default="keep", expected='"keep" or "flush"',
            explanation="When a better tier is back: whether connections stay on the lower one they moved to, or are "
            "cut loose.",
        ),
        Key(
            name="helpers", type=str, holds="array", each_once=True, default=[], read=values.helper,
            expected=f"a conntrack helper of the kernel ({', '.join(values.HELPERS)})",
            explanation="Conntrack helpers to assign, so that data connections follow their control connection.",
        ),
    ),
)  # fmt: skip

DAEMON = Table(
    name="daemon",
    many=False,
    explanation="The daemon itself, and the numbers it uses in the kernel.",
    keys=(
        Key(
            name="metrics", type=str, default="127.0.0.1:9617", read=values.metrics,
            expected='"off" or "address:port", such as "127.0.0.1:9617" or "[::1]:9617"',
            explanation="Where Prometheus finds the metrics, under `/metrics`.",
        ),
        Key(
            name="control", type=str, default="/run/mlbd/control.sock", read=values.socket_path,
            expected="the absolute path of a socket",
            explanation="The socket by which `mlbd status` and the other commands reach the daemon.",
        ),
        Key(
            name="on_exit", type=Literal["keep", "release"], default="keep", expected='"keep" or "release"',
            explanation="Whether routes, rules and marks stay in the kernel when the daemon stops, or are removed.",
        ),
        Key(
            name="miimon", type=str, default="100ms", read=values.duration(least=0.01), expected=values.DURATION,
            explanation="How often carrier is read besides listening for events, which can be a second late; `0s`: "
            "events only.",
        ),
        Key(
            name="grace", type=str, default="5s", read=values.duration(), expected=values.DURATION,
            explanation="How long start-up waits for first verdicts before it changes anything.",
        ),
        Key(
            name="fwmark_mask", type=int | str, default=0xFF000000, read=values.mask,
            expected="a mask of eight bits in a row, such as 0xff000000",
            explanation="The bits of packet and connection marks that are ours; the others are never changed.",
        ),
        # The tables are base+1 .. base+255; 253 to 255 are the kernel's own, and 2^31 is where its numbers end.
        Key(
            name="table_base", type=Annotated[int, Meta(ge=256, le=2**31 - 1 - 255)], default=20000,
            expected="a whole number from 256 to 2147483392, to stay clear of the kernel's tables 0 and 253 to 255",
            explanation="Uplink number n uses routing table `table_base` + n; the 255 tables above it are ours.",
        ),
        # The rules are at base .. base+9990; `main` is looked up at 32766.
        Key(
            name="rule_priority", type=Annotated[int, Meta(ge=1, le=22000)], default=10000,
            expected="a whole number from 1 to 22000, as the 9990 above it are used and main's rule is at 32766",
            explanation="The first of the routing rule priorities used.",
        ),
        Key(
            name="protocol", type=Annotated[int, Meta(ge=0, le=255)], default=109, read=values.protocol,
            expected="a whole number from 5 to 255 that no other program uses",
            explanation="The rtnetlink protocol number of everything we install, by which it is recognised.",
        ),
    ),
)  # fmt: skip

TABLES = (UPLINK, PROBE, POLICY, CONNTRACK, DAEMON)
