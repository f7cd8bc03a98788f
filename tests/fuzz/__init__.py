"""Bad input: whatever comes from the network, the kernel, a file or a client is understood or refused, never fatal.

target           what a target is, and how one input is put to it
mutation         changes of inputs that know their shape
kernel_input     netlink: looks, tables, look-ups, notifications
network_input    ICMP, ARP, neighbour discovery, DNS, HTTP
people_input     the configuration, questions, files beside the control socket, texts on their way out
control_input    the control socket
catalogue        all of them, and how many inputs each gets
test_targets     few inputs, with every `make test`
__main__         many, guided by coverage: `make fuzz`; each target in a process of its own, `child`
capture          makes `seeds`: what a kernel really said
"""
