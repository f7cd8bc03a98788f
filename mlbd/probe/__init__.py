"""The prober: sends what the core orders, reports what comes back. It decides nothing and imports only the core.

`prober` owns the sockets and matches what arrives to what was sent; `echo_socket` opens one raw socket the way probes
need it; `message` takes received ICMP messages apart; `errors` turns numbers into kinds and sentences.
"""

from mlbd.probe.prober import Prober

__all__ = ["Prober"]
