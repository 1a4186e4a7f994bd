"""System calls that Python has no wrapper for, each raising OSError when it fails.

Not for policy: nothing here knows what a container is.  Constants name the kernel header they come from; the
numbers are of the generic table that x86-64 and arm64 share, or are listed per machine.

The calls go through `_ctypes`, the C half of ctypes: the other half is as slow to import as three quarters of a
container's start (it brings `os`, `types` and `struct` along).  For the same reason the modules of the helper use
`posix`, which is built in, where others use `os`.
"""

from __future__ import annotations

import posix as os
import sys
from _ctypes import (
    FUNCFLAG_CDECL,
    FUNCFLAG_PYTHONAPI,
    FUNCFLAG_USE_ERRNO,
    Array,
    CFuncPtr,
    _SimpleCData,
    addressof,
    dlopen,
    dlsym,
    get_errno,
)


class _Long(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "l"


class _Char(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "c"


# Memory whose address a structure can hold: char[4096].
_Page = type("_Page", (Array,), {"_type_": _Char, "_length_": 4096})


class _Function(CFuncPtr):
    # PYTHONAPI keeps the interpreter lock during a call, which spares the release and, after clone(), the wait for a
    # lock that no second thread will give back.
    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_PYTHONAPI | FUNCFLAG_USE_ERRNO
    _restype_ = _Long


# The loader's handle of the process itself; libc is linked in.
_function = _Function(dlsym(dlopen("", 2), "syscall"))  # 2: RTLD_NOW, dlfcn.h


_MACHINE = os.uname().machine
# asm/unistd_64.h and asm-generic/unistd.h; both tables agree from number 424 on.
_CLONE = {"x86_64": 56, "aarch64": 220}.get(_MACHINE)
_MOUNT = {"x86_64": 165, "aarch64": 40}.get(_MACHINE)
_UMOUNT2 = {"x86_64": 166, "aarch64": 39}.get(_MACHINE)
_UNSHARE = {"x86_64": 272, "aarch64": 97}.get(_MACHINE)
_SETNS = {"x86_64": 308, "aarch64": 268}.get(_MACHINE)
_PRCTL = {"x86_64": 157, "aarch64": 167}.get(_MACHINE)
_BPF = {"x86_64": 321, "aarch64": 280}.get(_MACHINE)
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}.get(_MACHINE)
_SETHOSTNAME = {"x86_64": 170, "aarch64": 161}.get(_MACHINE)
_CAPGET = {"x86_64": 125, "aarch64": 90}.get(_MACHINE)
_CAPSET = {"x86_64": 126, "aarch64": 91}.get(_MACHINE)
_KEYCTL = {"x86_64": 250, "aarch64": 219}.get(_MACHINE)
_SECCOMP = {"x86_64": 317, "aarch64": 277}.get(_MACHINE)
_PIDFD_SEND_SIGNAL = 424
_OPEN_TREE = 428
_MOVE_MOUNT = 429
_FSOPEN = 430
_FSCONFIG = 431
_FSMOUNT = 432
_PIDFD_OPEN = 434
_CLONE3 = 435
_CLOSE_RANGE = 436
_OPENAT2 = 437
_PIDFD_GETFD = 438
_MOUNT_SETATTR = 442

# linux/sched.h
CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_PARENT = 0x00008000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_INTO_CGROUP = 0x200000000
SIGCHLD = 17

# linux/mount.h
MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_SYNCHRONOUS = 0x10
MS_REMOUNT = 0x20
MS_MANDLOCK = 0x40
MS_DIRSYNC = 0x80
MS_NOSYMFOLLOW = 0x100
MS_NOATIME = 0x400
MS_NODIRATIME = 0x800
MS_BIND = 0x1000
MS_REC = 0x4000
MS_SILENT = 0x8000
MS_POSIXACL = 0x10000
MS_UNBINDABLE = 0x20000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000
MS_RELATIME = 0x200000
MS_I_VERSION = 0x800000
MS_STRICTATIME = 0x1000000
MS_LAZYTIME = 0x2000000
MNT_DETACH = 0x2
OPEN_TREE_CLONE = 0x1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
FSOPEN_CLOEXEC = 0x1
FSMOUNT_CLOEXEC = 0x1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_RELATIME = 0x0
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

# linux/fcntl.h
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

# linux/openat2.h
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_IN_ROOT = 0x10

# linux/close_range.h

# linux/prctl.h
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_CAPBSET_DROP = 24
PR_GET_SECUREBITS = 27
PR_SET_SECUREBITS = 28
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2

# linux/securebits.h
SECBIT_NO_SETUID_FIXUP = 0x04

# linux/seccomp.h
SECCOMP_FILTER_FLAG_NEW_LISTENER = 0x8

# linux/capability.h
_LINUX_CAPABILITY_VERSION_3 = 0x20080522


class Unsupported(OSError):
    """The kernel does not know the call (ENOSYS), or this machine's number for it is not known here."""


def _call(name: str, number: int | None, *arguments: int | bytes | None, path: str | None = None) -> int:
    """syscall(2) with integers and NUL-terminated bytes; *name* and *path* are for the error."""
    if number is None:
        raise Unsupported(38, f"{name}: no system call number is known for {_MACHINE} machines")
    # The kernel reads whole registers: Python's integers would be passed as 32-bit ones.
    words = [_Long(word) if isinstance(word, int) else word for word in arguments]
    result: int = _function(_Long(number), *words)
    if result >= 0:
        return result
    code = get_errno()
    if code == 38:  # ENOSYS
        raise Unsupported(code, f"{name}: the running kernel has no such system call", path)
    raise OSError(code, f"{name}: {os.strerror(code)}", path)


def _path(path: str | bytes | None) -> bytes | None:
    """As os.fsencode() does it where the interpreter runs in UTF-8 mode."""
    return path.encode("utf-8", "surrogateescape") if isinstance(path, str) else path


def clone(flags: int) -> int:
    """clone(2) like fork: returns 0 in the child, the child's pid in the parent.

    With CLONE_PARENT the caller's parent becomes the child's parent as well.
    """
    # A null stack means a copy of the caller's, as in fork(2).
    return _call("clone", _CLONE, flags, None, None, None, None)


def clone_into(group: int) -> int:
    """clone3(2) like fork, with the child in the control group (version 2) of the directory descriptor *group*.

    Moving a process into a group waits until every processor has taken notice (an RCU grace period, some 10 ms); a
    process that is created there need not be moved.
    """
    # struct clone_args, linux/sched.h: flags, three pointers for ids, the signal, stack and its size, TLS, set_tid and
    # its size, the group.
    arguments = _u64(CLONE_INTO_CGROUP, 0, 0, 0, SIGCHLD, 0, 0, 0, 0, 0, group)
    return _call("clone3", _CLONE3, arguments, len(arguments))


def unshare(flags: int) -> None:
    """unshare(2)."""
    _call("unshare", _UNSHARE, flags)


def setns(descriptor: int, kind: int) -> None:
    """setns(2): *kind* is the CLONE_NEW flag that the namespace must be of."""
    _call("setns", _SETNS, descriptor, kind)


def pidfd_open(pid: int) -> int:
    """pidfd_open(2).  Close-on-exec."""
    return _call("pidfd_open", _PIDFD_OPEN, pid, 0)


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """pidfd_send_signal(2)."""
    _call("pidfd_send_signal", _PIDFD_SEND_SIGNAL, pidfd, number, None, 0)


def pidfd_getfd(pidfd: int, number: int) -> int:
    """pidfd_getfd(2): what the descriptor *number* of another process stands for.  Close-on-exec."""
    return _call("pidfd_getfd", _PIDFD_GETFD, pidfd, number, 0)


def mount(
    source: str | None, target: str, filesystem: str | None, flags: int = 0, data: str | None = None
) -> None:
    """mount(2)."""
    words = (_path(source), _path(target), _path(filesystem), flags, _path(data))
    _call("mount", _MOUNT, *words, path=target)


def umount(target: str, flags: int) -> None:
    """umount2(2)."""
    _call("umount2", _UMOUNT2, _path(target), flags, path=target)


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2)."""
    _call("pivot_root", _PIVOT_ROOT, _path(new), _path(old), path=new)


def open_tree(directory: int, path: str, flags: int) -> int:
    """open_tree(2): with OPEN_TREE_CLONE a detached copy of the mount at *path*.  Close-on-exec."""
    return _call("open_tree", _OPEN_TREE, directory, _path(path), flags | OPEN_TREE_CLOEXEC, path=path)


def move_mount(mount_fd: int, target_fd: int) -> None:
    """move_mount(2) of a detached mount onto the place *target_fd* refers to."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    _call("move_mount", _MOVE_MOUNT, mount_fd, b"", target_fd, b"", flags)


def move_mount_to(mount_fd: int, path: str) -> None:
    """move_mount(2) of a detached mount onto the place named *path*."""
    _call("move_mount", _MOVE_MOUNT, mount_fd, b"", AT_FDCWD, _path(path), MOVE_MOUNT_F_EMPTY_PATH, path=path)


def _u64(*numbers: int) -> bytes:
    """A C structure of unsigned 64-bit members."""
    return b"".join([number.to_bytes(8, sys.byteorder) for number in numbers])


def _u32(*numbers: int) -> bytes:
    """A C structure of unsigned 32-bit members."""
    return b"".join([number.to_bytes(4, sys.byteorder) for number in numbers])


def mount_setattr(
    mount_fd: int,
    set_flags: int,
    *,
    clear: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
    recursive: bool = False,
) -> None:
    """mount_setattr(2) on the mount *mount_fd*; MOUNT_ATTR_IDMAP shifts ids by the map of *userns_fd*."""
    attributes = _u64(set_flags, clear, propagation, userns_fd)  # struct mount_attr, linux/mount.h
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _call("mount_setattr", _MOUNT_SETATTR, mount_fd, b"", flags, attributes, len(attributes))


def new_mount(filesystem: str, options: tuple[str, ...] = (), attributes: int = 0) -> int:
    """A new, detached mount: fsopen(2), fsconfig(2) for `key=value` or `flag` options, fsmount(2)."""
    context = _call("fsopen", _FSOPEN, _path(filesystem), FSOPEN_CLOEXEC, path=filesystem)
    try:
        for option in options:
            key, separator, value = option.partition("=")
            command = FSCONFIG_SET_STRING if separator else FSCONFIG_SET_FLAG
            word = _path(value) if separator else None
            _call(f"fsconfig {option}", _FSCONFIG, context, command, _path(key), word, 0, path=filesystem)
        _call("fsconfig create", _FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0, path=filesystem)
        return _call("fsmount", _FSMOUNT, context, FSMOUNT_CLOEXEC, attributes, path=filesystem)
    finally:
        os.close(context)


def openat2(directory: int, path: str, flags: int, *, mode: int = 0, resolve: int = 0) -> int:
    """openat2(2).  Close-on-exec."""
    how = _u64(flags | os.O_CLOEXEC, mode, resolve)  # struct open_how, linux/openat2.h
    return _call("openat2", _OPENAT2, directory, _path(path), how, len(how), path=path)


def close_from(lowest: int, but: int = -1) -> None:
    """Close every descriptor from *lowest* up but one: close_range(2)."""
    if but >= lowest:
        if but > lowest:
            _call("close_range", _CLOSE_RANGE, lowest, but - 1, 0)
        lowest = but + 1
    _call("close_range", _CLOSE_RANGE, lowest, 0xFFFFFFFF, 0)


def sethostname(name: str) -> None:
    """sethostname(2)."""
    encoded = _path(name) or b""
    _call("sethostname", _SETHOSTNAME, encoded, len(encoded), path=name)


def prctl(option: int, second: int = 0, third: int = 0) -> int:
    """prctl(2)."""
    return _call(f"prctl {option}", _PRCTL, option, second, third, 0, 0)


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) of the calling thread; each set is a bit mask by capability number."""
    halves = [(mask & 0xFFFFFFFF, mask >> 32) for mask in (effective, permitted, inheritable)]
    words = [half[0] for half in halves] + [half[1] for half in halves]
    _call("capset", _CAPSET, _u32(_LINUX_CAPABILITY_VERSION_3, 0), _u32(*words))


def permitted_capabilities() -> int:
    """The permitted set of the calling thread, capget(2)."""
    data = bytearray(24)
    buffer = (_Char * len(data)).from_buffer(data)
    _call("capget", _CAPGET, _u32(_LINUX_CAPABILITY_VERSION_3, 0), addressof(buffer))
    return int.from_bytes(data[4:8], sys.byteorder) | int.from_bytes(data[16:20], sys.byteorder) << 32


def new_session_keyring() -> None:
    """keyctl(2), KEYCTL_JOIN_SESSION_KEYRING: a session keyring that nobody else has."""
    _call("keyctl", _KEYCTL, 1, None, 0, 0, 0)


def seccomp_load(program: bytes, flags: int = 0) -> int:
    """seccomp(2), SECCOMP_SET_MODE_FILTER: *program* is whole instructions of 8 bytes.

    Returns the listener's descriptor when *flags* ask for one.
    """
    buffer = (_Char * len(program)).from_buffer_copy(program)
    # struct sock_fprog, linux/filter.h: the length, padding up to the pointer, the instructions.
    header = (len(program) // 8).to_bytes(2, sys.byteorder) + bytes(6)
    return _call("seccomp", _SECCOMP, 1, flags, header + _u64(addressof(buffer)))


# linux/bpf.h
_BPF_PROG_LOAD = 5
_BPF_PROG_ATTACH = 8


def bpf_load(kind: int, attach_kind: int, program: bytes) -> int:
    """bpf(2), BPF_PROG_LOAD: *program* is whole instructions of 8 bytes; returns a descriptor, close-on-exec."""
    page = _Page()
    page.raw = program.ljust(4000, b"\0") + b"GPL".ljust(96, b"\0")
    address = addressof(page)
    head = _u32(kind, len(program) // 8) + _u64(address, address + 4000)
    # The verifier's log (level, size, address), kernel version, flags, name, interface: none of them.
    attributes = head + bytes(4 + 4 + 8 + 4 + 4 + 16 + 4) + _u32(attach_kind)
    return _call("bpf", _BPF, _BPF_PROG_LOAD, attributes, len(attributes))


def bpf_attach(target: int, program: int, attach_kind: int, flags: int) -> None:
    """bpf(2), BPF_PROG_ATTACH: put a program on a control group."""
    attributes = _u32(target, program, attach_kind, flags)
    _call("bpf", _BPF, _BPF_PROG_ATTACH, attributes, len(attributes))
