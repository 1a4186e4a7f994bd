"""Which system calls a container may make when nobody says otherwise.

Data only; gear/seccomp.py compiles it.  It allows what Docker's and Podman's default profiles both allow and refuses
what either of them refuses, so that images made for them run, with two additions: no characters are pushed into a
terminal, and nothing unknown is refused with EPERM, on which programs give up, where ENOSYS makes them fall back.
The calls stand in groups by what they are for; a name that an architecture does not have means nothing there.
"""

from __future__ import annotations

import errno
from typing import Any

# The architectures whose programs a machine runs: its own, then those that its kernel runs besides.
ARCHITECTURES = (
    ("SCMP_ARCH_X86_64", ("SCMP_ARCH_X86", "SCMP_ARCH_X32")),
    ("SCMP_ARCH_AARCH64", ("SCMP_ARCH_ARM",)),
    ("SCMP_ARCH_RISCV64", ()),
    ("SCMP_ARCH_S390X", ("SCMP_ARCH_S390",)),
    ("SCMP_ARCH_PPC64LE", ()),
    ("SCMP_ARCH_LOONGARCH64", ()),
)

ALWAYS = {
    "files by name": """
        access chdir chmod chown chown32 creat faccessat faccessat2 fchmodat fchmodat2 fchownat fstatat64 futimesat
        getcwd lchown lchown32 link linkat lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat
        open openat openat2 readlink readlinkat rename renameat renameat2 rmdir stat stat64 statfs statfs64 statx
        symlink symlinkat truncate truncate64 umask unlink unlinkat utime utimensat utimensat_time64 utimes""",
    "extended attributes": """
        fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat llistxattr
        lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat""",
    "descriptors": """
        _llseek cachestat close close_range copy_file_range dup dup2 dup3 fadvise64 fadvise64_64 fallocate fchdir
        fchmod fchown fchown32 fcntl fcntl64 fdatasync flock fstat fstat64 fstatfs fstatfs64 fsync ftruncate
        ftruncate64 getdents getdents64 ioctl lseek memfd_create memfd_secret pipe pipe2 pread64 preadv preadv2
        pwrite64 pwritev pwritev2 read readahead readv sendfile sendfile64 splice sync sync_file_range syncfs tee
        write writev""",
    "waiting for events": """
        _newselect epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
        epoll_wait_old eventfd eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch
        io_cancel io_destroy io_getevents io_setup io_submit poll ppoll ppoll_time64 pselect6 pselect6_time64 select
        signalfd signalfd4 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64""",
    # x86 reaches all of socket(2) and the like through socketcall as well, whose arguments no filter can see.
    "sockets": """
        accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg
        recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair""",
    "memory": """
        brk madvise map_shadow_stack membarrier mincore mlock mlock2 mlockall mmap mmap2 mprotect mremap mseal msync
        munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect remap_file_pages""",
    "messages, semaphores and shared memory": """
        ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend
        mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop
        semtimedop_time64 shmat shmctl shmdt shmget""",
    "processes and threads": """
        execve execveat exit exit_group fork futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake
        get_robust_list get_thread_area getcpu getpgid getpgrp getpid getppid getsid gettid pidfd_open
        pidfd_send_signal prctl process_mrelease process_vm_readv process_vm_writev ptrace restart_syscall rseq
        set_robust_list set_thread_area set_tid_address setpgid setsid uretprobe vfork wait4 waitid waitpid""",
    "signals": """
        kill pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
        rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack sigprocmask sigreturn tgkill tkill""",
    "identity and rights": """
        capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid
        getresgid32 getresuid getresuid32 getuid getuid32 landlock_add_rule landlock_create_ruleset
        landlock_restrict_self seccomp setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups
        setgroups32 setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setuid
        setuid32""",
    "limits and scheduling": """
        getpriority getrlimit getrusage ioprio_get ioprio_set prlimit64 sched_get_priority_max
        sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
        sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
        sched_setscheduler sched_yield setpriority setrlimit ugetrlimit""",
    # adjtimex and the like only read without CAP_SYS_TIME.
    "time": """
        adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime
        clock_gettime64 clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time
        timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64
        times""",
    "the system": "getrandom listmount riscv_hwprobe statmount sysinfo uname",
}
# Docker's names of architectures, since these stand in `includes`.
ON_ARCHITECTURES = (
    (("amd64", "x32"), "arch_prctl modify_ldt"),
    (("x86",), "modify_ldt"),
    (
        ("arm", "arm64"),
        "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
    ),
    (("s390", "s390x"), "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr"),
    (("riscv64",), "riscv_flush_icache"),
    (("ppc64le",), "swapcontext sync_file_range2"),
)
# A capability in the container's bounding set that makes calls useful, and so allowed.  In a user namespace of its
# own the kernel checks once more, against that namespace or against the machine's.
WITH_CAPABILITY = {
    "CAP_SYS_ADMIN": """
        bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr
        lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree open_tree_attr perf_event_open
        pivot_root quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare""",
    "CAP_BPF": "bpf",
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_PERFMON": "perf_event_open",
    "CAP_SYSLOG": "syslog",
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module finit_module init_module",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise",
    "CAP_SYS_RAWIO": "ioperm iopl",
    "CAP_SYS_TIME": "clock_settime clock_settime64 settimeofday stime",
    "CAP_SYS_TTY_CONFIG": "vhangup",
}

# CLONE_NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, NEWNS; clone(2) knows no CLONE_NEWTIME.
NAMESPACE_FLAGS = 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000 | 0x00020000
# PER_LINUX, PER_LINUX32, each with UNAME26 (0x20000) or not, and the question what it is now.
PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
# Address families by number.  Left out are 38 (AF_ALG: much of the kernel's cryptography, for nobody in a container),
# 40 (AF_VSOCK: reaches the hypervisor, and for long ignored network namespaces), and those that Linux has lost.
FAMILIES_BELOW = 12
FAMILIES = (
    13, 14, 15, 16, 17, 18, 21, 22, 24, 26, 27, 28, 29, 30, 31, 32, 33, 35, 36, 39, 41, 42, 43, 44, 45,
)  # fmt: skip
AF_NETLINK, NETLINK_AUDIT = 16, 9
# Requests of ioctl(2) that type characters into a terminal: TIOCSTI and TIOCLINUX (ioctl_tty(2)).
TYPING = (0x5412, 0x541C)
INT = 0xFFFFFFFF


def _allow(names: str, **more: Any) -> dict[str, Any]:
    return {"names": sorted(names.split()), "action": "SCMP_ACT_ALLOW", **more}


def _refuse(name: str, error: int, **more: Any) -> dict[str, Any]:
    return {"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": error, **more}


def _argument(index: int, operator: str, value: int, second: int = 0) -> dict[str, Any]:
    return {"index": index, "op": f"SCMP_CMP_{operator}", "value": value, "valueTwo": second}


def _is(index: int, value: int) -> dict[str, Any]:
    """An argument of type int: the kernel cuts it to 32 bits, so a rule that refuses must not look at the others."""
    return _argument(index, "MASKED_EQ", INT, value)


def _by_argument() -> list[dict[str, Any]]:
    """Calls that are allowed with some arguments only.  Of several rules that match a call the strictest holds."""
    s390 = {"arches": ["s390", "s390x"]}
    admin = ["CAP_SYS_ADMIN"]
    without_namespaces = (NAMESPACE_FLAGS, 0)
    rules = [_refuse("ioctl", errno.EPERM, args=[_is(1, request)]) for request in TYPING]
    rules += [_allow("personality", args=[_argument(0, "EQ", value)]) for value in PERSONALITIES]
    rules += [_allow("socket", args=[_argument(0, "LT", FAMILIES_BELOW)])]
    rules += [_allow("socket", args=[_argument(0, "EQ", family)]) for family in FAMILIES]
    rules += [
        # The audit log of the host; Podman's error, which libaudit takes for "there is no audit".
        _refuse(
            "socket",
            errno.EINVAL,
            args=[_is(0, AF_NETLINK), _is(2, NETLINK_AUDIT)],
            excludes={"caps": ["CAP_AUDIT_WRITE"]},
        ),
        _allow(
            "clone",
            args=[_argument(0, "MASKED_EQ", *without_namespaces)],
            excludes={"caps": admin, **s390},
        ),
        # s390 has the first two arguments of clone(2) the other way round.
        _allow(
            "clone",
            args=[_argument(1, "MASKED_EQ", *without_namespaces)],
            includes=s390,
            excludes={"caps": admin},
        ),
        # Its flags are in memory, where no filter sees them; libraries then use clone(2).
        _refuse("clone3", errno.ENOSYS, excludes={"caps": admin}),
    ]
    return rules


def default_profile() -> dict[str, Any]:
    """The default profile in Docker's JSON form, which is that of OCI with `archMap`, `includes` and `excludes`."""
    rules = [_allow(names, comment=group) for group, names in ALWAYS.items()]
    rules += [_allow(names, includes={"arches": list(arches)}) for arches, names in ON_ARCHITECTURES]
    rules += [_allow(names, includes={"caps": [capability]}) for capability, names in WITH_CAPABILITY.items()]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.EPERM,
        "archMap": [{"architecture": own, "subArchitectures": list(others)} for own, others in ARCHITECTURES],
        "syscalls": rules + _by_argument(),
    }
