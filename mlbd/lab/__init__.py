"""A network in namespaces: what the demo shows, the lab tests assert on and the benchmarks measure.

`sandbox` gives a command private namespaces, so that nothing of this machine can be touched and everything vanishes
with its last process. `network.Network` builds clients, the router, its providers and an internet inside them, from
the plan in `layout`, and breaks them on demand. `traffic` and `stream` send, `echo` answers with the address it sees,
so every answer tells the uplink its packet took. `daemon.Daemon` runs mlbd itself in the router.

The lab has its own few lines around setns(2) (`namespaces`) and libnftables (`nft`): it must not lean on the adapters
that it is there to test.
"""
