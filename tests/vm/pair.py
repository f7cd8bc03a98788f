"""Two routers with cables between them, as bonds and TEQL have them."""

from __future__ import annotations

from mlbd.lab.namespaces import ip_each, ip_here
from mlbd.lab.places import Places


class Pair(Places):
    """The places `a` and `b`; eth1 of the one is connected with eth1 of the other, and so on."""

    def __init__(self, cables: int = 2) -> None:
        """Without addresses, and everything but lo down. Raises LabError."""
        super().__init__()
        try:
            self._add(["a", "b"])
            for where in self.places:
                self.sysctls(where, {"ipv6/conf/default/disable_ipv6": 1})
            a, b = self.namespace("a"), self.namespace("b")
            ip_here([f"link add eth{n} netns {a} type veth peer name eth{n} netns {b}" for n in range(1, cables + 1)])
            self.ip("a", "link set lo up")
            self.ip("b", "link set lo up")
        except BaseException:
            self.close()
            raise

    def ip(self, where: str, *lines: str) -> None:
        """Commands as ip(8) takes them. Raises LabError."""
        ip_each({self.namespace(where): lines})
