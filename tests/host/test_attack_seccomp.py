"""The default seccomp profile as the kernel applies it: every system call number of every ABI is tried from inside."""

from __future__ import annotations

import re
import subprocess
from functools import cache

import pytest
from attacking import Attacker, parse

# What neither Docker's nor Podman's default profile allows without a capability that containers don't have.
DENIED = (
    "acct add_key bpf clock_settime create_module delete_module fanotify_init finit_module fsconfig fsmount "
    "fsopen fspick get_kernel_syms init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl "
    "kcmp kexec_file_load kexec_load keyctl lookup_dcookie mbind migrate_pages mount mount_setattr move_mount "
    "move_pages nfsservctl open_by_handle_at open_tree perf_event_open pivot_root query_module quotactl "
    "quotactl_fd reboot request_key set_mempolicy setns settimeofday stime swapoff swapon sysfs _sysctl syslog "
    "umount umount2 unshare uselib userfaultfd ustat vhangup vm86 vm86old setdomainname sethostname "
    "process_madvise pidfd_getfd clock_settime64 afs_syscall getpmsg putpmsg tuxcall security vserver"
).split()
# What programs can't do without, and what answers nonsense otherwise than with these two errors.
ALLOWED = (
    "read write open close stat fstat lseek mmap mprotect ioctl access pipe select dup connect accept bind "
    "listen fork vfork execve exit wait4 kill fcntl fsync getcwd chdir rename mkdir rmdir unlink symlink chmod "
    "chown umask getpid getuid getgid getgroups prctl gettid epoll_create epoll_wait clock_gettime exit_group "
    "openat mkdirat newfstatat unlinkat signalfd timerfd_create eventfd accept4 epoll_create1 dup3 pipe2 "
    "inotify_init1 getrandom memfd_create statx rseq openat2 pidfd_open close_range copy_file_range faccessat2"
).split()
UNKNOWN = (600, 1000, 4000)
LAST = 480


@cache
def numbers(header: str) -> dict[str, int]:
    """System call numbers by name, as the kernel's own headers for user space have them."""
    done = subprocess.run(["gcc", "-E", "-dM", "-"], input=f"#include <asm/{header}>\n", capture_output=True, text=True,
                          check=True)  # fmt: skip
    found = re.findall(r"#define __NR_(\w+) (?:\(__X32_SYSCALL_BIT \+ )?(\d+)\)?$", done.stdout, re.MULTILINE)
    return {name: int(number) for name, number in found}


def sweep(attacker: Attacker, abi: str, first: int, last: int, *options: str) -> dict[int, str]:
    """The answer for each number."""
    name = "sweep"
    words = ("sweep", abi, str(first), str(last))
    attacker.start(name, *words, options=("--ulimit", "core=0", *options))
    attacker.host.wait(lambda: "the-end" in attacker.log(name), "the end of the sweep")
    found = parse(attacker.log(name))
    attacker.host.gear("delete", name)
    return {int(number): answer for number, answer in found.items() if number.isdigit()}


@pytest.mark.parametrize(
    ("abi", "header"), [("native", "unistd_64.h"), ("x32", "unistd_x32.h"), ("i386", "unistd_32.h")]
)
def test_every_call_of_every_abi(attacker: Attacker, abi: str, header: str) -> None:
    table = numbers(header)
    filtered = sweep(attacker, abi, 0, LAST)
    assert len(filtered) == LAST + 1
    refused = {number for number, answer in filtered.items() if answer in ("EPERM", "ENOSYS")}
    open_doors = sorted(
        name for name in DENIED if name in table and table[name] <= LAST and table[name] not in refused
    )
    assert open_doors == []
    # clone3(2) hides its flags from filters; without it libc falls back to clone(2), whose flags can be looked at.
    assert filtered[table["clone3"]] == "ENOSYS"
    if abi != "x32":  # which few kernels have; then everything is ENOSYS
        broken = sorted(
            name for name in ALLOWED if name in table and filtered[table[name]] in ("EPERM", "ENOSYS")
        )
        assert broken == []
    # What has no name yet is unknown to programs as well: ENOSYS, so that they fall back.
    for number in UNKNOWN:
        assert sweep(attacker, abi, number, number) == {number: "ENOSYS"}
    if abi == "native":
        # Without the profile the answers are others: the filter made them.
        free = sweep(attacker, abi, 0, LAST, "--security-opt", "seccomp=unconfined")
        for name in (
            "add_key",
            "keyctl",
            "unshare",
            "userfaultfd",
            "io_uring_setup",
            "bpf",
            "perf_event_open",
            "clone3",
        ):
            assert free[table[name]] != filtered[table[name]] or free[table[name]] == "EPERM", name
        changed = {number for number in free if free[number] != filtered[number]}
        assert len(changed) > 10


def test_filtered_arguments(attacker: Attacker) -> None:
    """Calls that are allowed with some arguments only."""
    result = attacker.attack("arguments")
    expected = {
        "clone-newuser": "EPERM", "clone-newns": "EPERM", "clone-newnet": "EPERM", "clone-plain": "ok",
        "personality-0": "ok",
        "personality-linux32": "ok", "personality-read_implies_exec": "EPERM", "personality-query": "ok",
        "personality-no_randomize": "EPERM", "socket-vsock": "EPERM", "socket-inet": "ok", "socket-unix": "ok",
        "ptrace-traceme": "ok",
    }  # fmt: skip
    assert {name: result[name] for name in expected} == expected


def test_a_profile_that_can_not_be_loaded_stops_the_start(attacker: Attacker) -> None:
    host = attacker.host
    host.gear(
        "install", "attack", "damaged", "--restart", "no", "--entrypoint", "/bin/probe", "--", "descriptors"
    )
    place = "/var/lib/gear/containers/damaged/seccomp.bpf"
    program = host.read(place)
    for damage in (b"", program[:-4], b"\xff" * 64, program[: len(program) // 16 * 8]):
        host.write(place, damage, mode="600")
        assert "seccomp" in host.fails(1, "start", "damaged")
    host.sh(f"rm {place}")
    assert "seccomp" in host.fails(1, "start", "damaged")
