"""docs/schemes/pair.md says who holds which gateway in each state: by keepalived's priorities, and mlbd's policies."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

from mlbd import config
from mlbd.core.decision import View, pick
from mlbd.core.facts import Gateway
from mlbd.core.settings import Settings
from mlbd.lab.pair import BOTH
from tests.pair.scene import EXAMPLE

PAGE = Path(__file__).parents[2] / "docs" / "schemes" / "pair.md"


def text(number: int, name: str) -> str:
    return (EXAMPLE / f"router{number}" / name).read_text()


def blocks(conf: str, kind: str) -> dict[str, str]:
    """Of keepalived.conf, by their names."""
    return dict(re.findall(rf"^{kind} (\w+) \{{\n(.*?)^\}}", conf, re.MULTILINE | re.DOTALL))


def number(block: str, key: str) -> int:
    (found,) = re.findall(rf"^ +{key} (\d+)\b", block, re.MULTILINE)
    return int(found)


def priorities(router: int, good: dict[int, bool]) -> dict[int, int]:
    """By segment, as the router's keepalived computes them (keepalived.conf(5), "Track files")."""
    conf = text(router, "keepalived.conf")
    tracked = blocks(conf, "track_file")
    assert list(tracked) == [f"line{router}"]
    assert f'file "/run/mlbd/keepalived/line{router}"' in tracked[f"line{router}"]
    added = number(tracked[f"line{router}"], "weight") * good[router]
    found = blocks(conf, "vrrp_instance")
    for block in found.values():
        assert re.findall(r"track_file \{\s+(\w+)\s+\}", block) == [f"line{router}"]
    return {k: number(found[f"segment{k}"], "priority") + added for k in BOTH}


def leaves_by(settings: Settings, usable: dict[str, bool]) -> str:
    """What the only policy does with new connections."""
    (policy,) = settings.policies
    views = {}
    for uplink in settings.uplinks:
        can, hops = usable[uplink.name], (Gateway("192.0.2.1"), None)
        views[uplink.name] = View(can, None, hops, hops, frozenset({4}), 0.0, carries=can, peer=uplink.peer)
    chosen = pick(policy, 4, views)
    (name,) = chosen.chosen
    return name.replace("line", "line ") if chosen.tier is not None else f"none, tries {name.replace('line', 'line ')}"


def computed() -> list[list[str]]:
    settings = {n: config.parse(text(n, "mlbd.toml"), "mlbd.toml").settings for n in BOTH}
    rows = []
    for good1, good2, alive1, alive2 in product((True, False), repeat=4):
        good, alive = {1: good1, 2: good2}, {1: alive1, 2: alive2}
        row = ["good" if found else "dead" for found in (good1, good2)]
        row += ["alive" if found else "dead" for found in (alive1, alive2)]
        standing = {n: priorities(n, good) for n in BOTH if alive[n]}
        for k in BOTH:
            order = sorted((own[k], n) for n, own in standing.items())
            assert len({priority for priority, _ in order}) == len(order), "a tie"
            if not order:
                row += ["nobody", "none"]
                continue
            _, n = order[-1]
            usable = {f"line{m}": good[m] and alive[m] for m in BOTH}
            row += [f"router {n}", leaves_by(settings[n], usable)]
        rows.append(row)
    return rows


def told() -> list[list[str]]:
    """The table of the page."""
    _, _, rest = PAGE.read_text().partition("| line 1 | line 2 | router 1 | router 2 |")
    lines = rest.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_of_the_page_is_right() -> None:
    """In each of the 16 states, the routers that live have different priorities, and the page names who has the larger
    one, and the line by which the policy of its mlbd.toml then leaves.
    """
    assert computed() == told()


if __name__ == "__main__":
    print("\n".join(f"| {' | '.join(row)} |" for row in computed()))
