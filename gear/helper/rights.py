"""What a process of a container may do: user, groups, capabilities, seccomp filter, labels.

Used by the payload's process and by those that join later (gear/helper/enter.py), so that both get the same.
"""

from __future__ import annotations

import _signal
import posix as os

from gear.helper import syscalls
from gear.helper.failure import Failure, Step

TYPE_CHECKING = False  # importing `typing` for it would take as long as the whole start
if TYPE_CHECKING:
    from gear.helper.bundle import Filter

# linux/capability.h, in the order of their numbers.
CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
    "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT "
    "SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE "
    "AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ "
    "PERFMON BPF CHECKPOINT_RESTORE"
).split()


def capability_mask(names: list[str]) -> int:
    """The bit mask of *names*; those that are unknown here count for nothing (config.md, "capabilities")."""
    mask = 0
    for name in names:
        plain = name.upper().removeprefix("CAP_")
        if plain in CAPABILITIES:
            mask |= 1 << CAPABILITIES.index(plain)
    return mask


def take(process: dict, step: Step, filter_: Filter | None, listener) -> None:  # type: ignore
    """Give the calling process the rights that *process* lists, and no others.

    *listener* is called with the descriptor of a filter that notifies.  Call right before the program is executed:
    little works afterwards.
    """
    step.doing = "limit the capabilities"
    sets = {name: capability_mask(members) for name, members in process.get("capabilities", {}).items()}
    for number in range(64):
        if sets.get("bounding", 0) >> number & 1:
            continue
        try:
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
        except OSError as error:
            if error.errno != 22:  # EINVAL: past the last one this kernel has
                raise
            break
    user = process["user"]
    step.doing = f"become user {user['uid']}:{user['gid']}"
    syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
    os.setgroups(user.get("additionalGids", []))
    os.setresgid(user["gid"], user["gid"], user["gid"])
    os.setresuid(user["uid"], user["uid"], user["uid"])
    os.umask(user.get("umask", 0o022))
    step.doing = "limit the capabilities"
    # What can't be had is left out; the specification wants a warning, not an error.
    held = syscalls.permitted_capabilities()
    permitted = sets.get("permitted", 0) & held
    effective = sets.get("effective", 0) & permitted
    inheritable = sets.get("inheritable", 0) & held & sets.get("bounding", 0)
    quiet = process.get("noNewPrivileges", False)
    if filter_ is not None and not quiet:
        # Without no_new_privs only CAP_SYS_ADMIN may install a filter, so it comes before that is gone.
        syscalls.capset(held, held, 0)
        _load(filter_, step, listener)
    step.doing = "limit the capabilities"
    syscalls.capset(effective, permitted, inheritable)
    for number in range(64):
        if sets.get("ambient", 0) & permitted & inheritable & 1 << number:
            syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_RAISE, number)
    if quiet:
        step.doing = "set no_new_privs"
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        if filter_ is not None:
            _load(filter_, step, listener)


def _load(filter_: Filter, step: Step, listener) -> None:  # type: ignore[no-untyped-def]
    step.doing = "load the seccomp filter"
    descriptor = syscalls.seccomp_load(filter_.program, filter_.flags)
    if filter_.flags & syscalls.SECCOMP_FILTER_FLAG_NEW_LISTENER:
        listener(descriptor)
        os.close(descriptor)


def label(process: dict, step: Step, procfs: int) -> None:  # type: ignore[type-arg]
    """Labels that the kernel gives at execve(2): apparmor(7), selinux(8).

    *procfs* is a descriptor of a /proc that nobody else has made.
    """
    for key, prefix, places in (
        ("apparmorProfile", "exec ", ("apparmor/exec", "exec")),
        ("selinuxLabel", "", ("exec",)),
    ):
        wanted = process.get(key)
        if not wanted:
            continue
        step.doing = f"set {key} {wanted}"
        for place in places:
            try:
                file = os.open(f"self/attr/{place}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=procfs)
            except FileNotFoundError:
                continue
            try:
                os.write(file, f"{prefix}{wanted}".encode())
            finally:
                os.close(file)
            break
        else:
            raise Failure(f"can't {step.doing}: this kernel has no such security module")


def prepare_exec(step: Step, keep: int, channel: int) -> None:
    """Close every descriptor but the first three, *keep* more and *channel*; signals as a new program expects them.

    Close-on-exec would be too late: execve(2) looks up the program, and the interpreter of a script, while they are
    open, and from a directory of the host /proc/self/fd/N/.. leads to its programs (CVE-2024-21626).
    """
    step.doing = "prepare descriptors and signals for the payload"
    syscalls.close_from(3 + keep, but=channel)
    # Python ignores SIGPIPE and SIGXFSZ, a shell what it runs in the background SIGINT and SIGQUIT, and ignored signals
    # stay so through execve(2).
    for number in range(1, 65):
        if _signal.getsignal(number) == _signal.SIG_IGN:
            _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
