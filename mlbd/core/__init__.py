"""The pure part: no sockets, no clock, no files, no asyncio. Time is an argument, in monotonic seconds.

`settings` says what the administrator wants, `facts` what the kernel says, `probing` what the prober is told and
tells; `machine` is the table of verdicts, `uplink` applies it to one uplink, `router` owns them all. `shares` turns
usable members into slots, `desired` turns a decision into a `KernelState`, `plan` turns two of those into changes.
`survey` is what a machine has, and `draft` makes a configuration of it.
"""
