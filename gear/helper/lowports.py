"""Ports below 1024 for a container on the host's network.

Root in a user namespace has no rights over the host's network, so bind(2) to port 80 would be refused.  A BPF program
on the unit's control group lifts exactly that check for exactly these processes, since Linux 5.12 (return value 2 of a
bind hook, BPF_RET_BIND_NO_CAP_NET_BIND_SERVICE in linux/bpf.h).  It goes away with the control group.
"""

from __future__ import annotations

import posix as os

from gear.helper import syscalls
from gear.helper.delegation import group_of

# linux/bpf.h
_PROG_TYPE_CGROUP_SOCK_ADDR = 18
_BINDS = (8, 9)  # BPF_CGROUP_INET4_BIND, BPF_CGROUP_INET6_BIND
_ALLOW_MULTI = 2
# r0 = 1 (allowed) | 2 (without CAP_NET_BIND_SERVICE); exit
_PROGRAM = bytes((0xB7, 0, 0, 0, 3, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0))


def allow(process: int | str = "self") -> None:
    """Let the processes of *process*'s control group bind to any port; raises OSError where that can't be done."""
    group = os.open(group_of(process), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for kind in _BINDS:
        program = syscalls.bpf_load(_PROG_TYPE_CGROUP_SOCK_ADDR, kind, _PROGRAM)
        syscalls.bpf_attach(group, program, kind, _ALLOW_MULTI)
        os.close(program)
    os.close(group)
