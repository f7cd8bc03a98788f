"""Debian's Prometheus in the machine: of members of a bond, which only its kernel has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.packaging.scraping import METRICS, Prometheus, questions
from tests.vm.bonded import Bonded, bond, far_bridge
from tests.vm.pair import Pair, wait_usable

ACTIVE = 'mlbd_member_active{bundle="bond0"} == 1'
ETH2 = 'mlbd_member_active{bundle="bond0", interface="eth2"} == 1'


@pytest.fixture(scope="module")
def scene(bonding: None) -> Iterator[tuple[Bonded, Prometheus]]:
    with Pair() as net:
        far_bridge(net)
        config = bond("active-backup", 'primary = "eth1"') + f'metrics = "{METRICS}"\n'
        with net.daemon("a", config) as daemon:
            yield Bonded(net, daemon), Prometheus(net, "a", patience=60.0, every=1.0)


def test_members(scene: tuple[Bonded, Prometheus]) -> None:
    """Every expression of the dashboard about bundles has data, which follow what the bond does; the alerts about
    bundles can be computed.
    """
    bonded, prometheus = scene
    bonded.wait_active("eth1")
    assert prometheus.missing(q for q in questions() if "mlbd_member_" in q.expression) == set()
    bonded.net.silence("eth1")
    wait_usable(bonded.daemon, "eth1", False)
    prometheus.wait(lambda: prometheus.values(ETH2, instant=True) == [1], "eth2 to be shown as active")
    assert prometheus.values(ACTIVE, instant=True) == [1]
    alerts = {name: rule for name, rule in prometheus.alerts().items() if "mlbd_member_" in rule["query"]}
    assert {(name, rule["health"], rule["state"]) for name, rule in alerts.items()} == {
        ("MlbdBundleDown", "ok", "inactive"),
        ("MlbdMemberInactive", "ok", "inactive"),
    }
