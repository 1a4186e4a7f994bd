"""The payload's process, from its creation to execve(2).

Runs as PID 1 of the container's namespaces.  It gets detached mounts from the helper over the channel, builds
the file system, takes the identity and rights that config.json gives it, and becomes the payload.
"""

from __future__ import annotations

import _signal
import posix as os
from _socket import AF_INET, SOCK_DGRAM, socket
from _stat import S_ISDIR
from fcntl import ioctl

from gear.helper import syscalls
from gear.helper.bundle import is_bind
from gear.helper.channel import EXEC, FAILED, Channel
from gear.helper.failure import EXIT_CHDIR, EXIT_EXEC, EXIT_NAMESPACE, Failure, Step
from gear.helper.mounts import Root

TYPE_CHECKING = False  # importing `typing` for it would take as long as the whole start
if TYPE_CHECKING:
    from typing import NoReturn

# linux/capability.h, in the order of their numbers.
CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
    "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT "
    "SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE "
    "AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ "
    "PERFMON BPF CHECKPOINT_RESTORE"
).split()

# e_machine of an ELF header (elf.h), for the sentence about a foreign architecture.
_ELF_MACHINES = {
    3: "i386",
    8: "mips",
    21: "ppc64",
    22: "s390x",
    40: "arm",
    62: "x86_64",
    183: "aarch64",
    243: "riscv",
}

# ioctl(2) requests of netdevice(7).
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1


def run(config: dict, channel: Channel, cgroup2: bool) -> NoReturn:  # type: ignore[type-arg]
    """Set the container up and become its payload; on failure say so over *channel* and end."""
    step = Step()
    try:
        try:
            _set_up(config, channel, cgroup2, step)
            channel.send(EXEC)
            _execute(config["process"])
        except OSError as error:
            raise step.failure(error) from error
    except Failure as failure:
        channel.send(FAILED + f"{failure.status} {failure.message}".encode(errors="surrogateescape"))
    except BaseException as error:  # a bug in gear: still told, since nobody else sees this process
        channel.send(FAILED + f"{EXIT_NAMESPACE} the helper failed: {error!r}".encode(errors="replace"))
    finally:
        os._exit(1)  # never back into the caller, which runs in the helper as well


def _set_up(config: dict, channel: Channel, cgroup2: bool, step: Step) -> None:  # type: ignore[type-arg]
    step.doing = "get the root file system from the helper"
    linux, mounts = config["linux"], config.get("mounts", ())
    binds = sum(map(is_bind, mounts))
    root_fd, *sources = channel.receive_descriptors(1 + binds)
    step.doing = "take the identity of the container's root"
    os.setresgid(0, 0, 0)
    os.setgroups([])
    os.setresuid(0, 0, 0)
    os.setsid()
    # Nobody but the host's root may look into this process while it still holds anything of the host.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    os.umask(0)  # modes below are meant as written

    step.doing = "attach the root file system"
    # Any directory will do, it goes away with the old root.
    syscalls.move_mount_to(root_fd, "/run")
    root = Root(root_fd, channel, step)
    source = iter(sources)
    for mount in mounts:
        if is_bind(mount):
            root.bind(mount, next(source))
        else:
            root.mount(mount, cgroup2)
            if mount["destination"] == "/dev":
                root.populate_dev()
    for key, value in linux.get("sysctl", {}).items():
        root.write_sysctl(key, value)
    for path in linux.get("maskedPaths", ()):
        root.mask(path)
    for path in linux.get("readonlyPaths", ()):
        root.make_readonly(path)
    root.enter(readonly=config["root"].get("readonly", False))

    made = {namespace["type"] for namespace in linux["namespaces"]}
    if "hostname" in config and "uts" in made:
        step.doing = "set the host name"
        syscalls.sethostname(config["hostname"])
    if "network" in made:
        step.doing = "bring up the loopback interface"
        _loopback_up()
    _take_rights(config["process"], step)


def _loopback_up() -> None:
    control = socket(AF_INET, SOCK_DGRAM)
    # struct ifreq: 16 bytes of name, then the flags; 40 bytes in all.
    request = bytearray(b"lo".ljust(40, b"\0"))
    ioctl(control.fileno(), _SIOCGIFFLAGS, request)
    request[16] |= _IFF_UP
    ioctl(control.fileno(), _SIOCSIFFLAGS, request)
    control.close()


def _mask(names: list[str]) -> int:
    return sum(1 << CAPABILITIES.index(name.removeprefix("CAP_")) for name in names)


def _take_rights(process: dict, step: Step) -> None:  # type: ignore[type-arg]
    step.doing = "limit the capabilities"
    sets = {name: _mask(members) for name, members in process.get("capabilities", {}).items()}
    for number in range(64):
        if sets.get("bounding", 0) >> number & 1:
            continue
        try:
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
        except OSError:  # EINVAL: past the last one this kernel has
            break
    user = process["user"]
    step.doing = f"become user {user['uid']}:{user['gid']}"
    syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
    os.setgroups(user.get("additionalGids", []))
    os.setresgid(user["gid"], user["gid"], user["gid"])
    os.setresuid(user["uid"], user["uid"], user["uid"])
    syscalls.capset(sets.get("effective", 0), sets.get("permitted", 0), sets.get("inheritable", 0))
    for number in range(64):
        if sets.get("ambient", 0) >> number & 1:
            syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_RAISE, number)
    if process.get("noNewPrivileges"):
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    step.doing = "prepare descriptors and signals for the payload"
    os.umask(user.get("umask", 0o022))
    syscalls.close_on_exec_from(3)
    # Python ignores SIGPIPE and SIGXFSZ, and ignored signals stay so through execve(2).
    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def _execute(process: dict) -> NoReturn:  # type: ignore[type-arg]
    cwd, args = process["cwd"], process["args"]
    try:
        # Not through magic links of procfs, which lead out of the root; and what is outside of it shows as
        # "(unreachable)" (CVE-2024-21626).
        flags = os.O_PATH | os.O_DIRECTORY
        place = syscalls.openat2(syscalls.AT_FDCWD, cwd, flags, resolve=syscalls.RESOLVE_NO_MAGICLINKS)
        os.fchdir(place)
        os.close(place)
        if not os.getcwd().startswith("/"):
            raise OSError(2, "it lies outside the container")
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise Failure(f"can't change to the working directory {cwd}: {reason}", EXIT_CHDIR) from error
    environment = [entry.partition("=") for entry in process.get("env", ())]
    variables = {_bytes(key): _bytes(value) for key, _, value in environment}
    name = args[0]
    if "/" in name:
        candidates = [name]
    else:
        path = variables.get(b"PATH", b"/usr/local/bin:/usr/bin:/bin").decode("utf-8", "surrogateescape")
        candidates = [f"{directory or '.'}/{name}" for directory in path.split(":")]
    refusal = Failure(f"can't run {name}: no such program in the container's PATH", EXIT_EXEC)
    if "/" in name:
        refusal = Failure(f"can't run {name}: there is no such file in the container", EXIT_EXEC)
    for candidate in candidates:
        try:
            os.execve(candidate, [_bytes(argument) for argument in args], variables)
        except OSError as error:
            if error.errno in (2, 20) and _mode(candidate, follow=False) is None:  # ENOENT, ENOTDIR
                continue
            refusal = Failure(f"can't run {candidate}: {_why_not(candidate, error)}", EXIT_EXEC)
            if error.errno != 13:  # EACCES: a later directory of PATH may have a usable one, as in execvp(3)
                break
    raise refusal


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _mode(path: str, *, follow: bool = True) -> int | None:
    """st_mode of *path*; None when it is not there."""
    try:
        return os.stat(path, follow_symlinks=follow).st_mode
    except OSError:
        return None


def _why_not(program: str, error: OSError) -> str:
    """Why execve(2) refused *program*, in words."""
    if error.errno == 13:
        if S_ISDIR(_mode(program) or 0):
            return "it is a directory"
        return f"it is not executable for user {os.getuid()}"
    head = b""
    try:
        with open(program, "rb", buffering=0) as file:
            head = file.read(256)
    except OSError:
        pass
    if error.errno == 2:
        if head.startswith(b"#!"):
            line = head[2:].split(b"\n", 1)[0].strip().decode(errors="replace")
            return f"its interpreter ({line}) is not in the container"
        return "it exists, but the program loader or a file that it needs is not in the container"
    if error.errno == 8:
        if head.startswith(b"\x7fELF"):
            machine = int.from_bytes(head[18:20], "big" if head[5:6] == b"\2" else "little")
            built_for = _ELF_MACHINES.get(machine, f"machine type {machine}")
            return f"it is built for {built_for}, and this machine is {os.uname().machine}"
        return "it is neither a program for this machine nor a script with a #! line"
    return error.strerror or str(error)
