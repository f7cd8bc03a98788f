"""What the README claims, measured in the lab: `make bench`.

Each benchmark is a module whose `run(quick)` yields rows as they are measured: the figure, what is wanted of it, and
what a reference did on the same events in the same run. The references are what somebody would write or install
instead, and as lean as can be: `listener` (a netlink socket and one route), `watchdog` (a shell loop around ping),
`prober` (asyncio and raw sockets), the kernel's multipath route, fping, ping, libnftables alone.

    carrier    a cable is pulled; the kernel tells of it at once, or as late as for a network card
    silent     a provider falls silent
    flaps      200 flaps under traffic: nothing wrong, nothing lost that was healthy
    shares     how 1,000 connections spread
    outage     established connections through ten seconds of silence
    footprint  memory and CPU, idle with eight uplinks
    probes     CPU for 1,000 probes
    decision   from complete evidence to the kernel changed, with 2, 8 and 32 uplinks

`__main__` runs them in this order, and `page` writes docs/performance.md from the rows of a whole run. Nothing here is
a test: figures depend on the machine, and on what else it does.
"""
