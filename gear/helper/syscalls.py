"""System calls that Python has no wrapper for, each raising OSError when it fails.

Not for policy: nothing here knows what a container is.  Constants name the kernel header they come from; the
numbers are of the generic table that x86-64 and arm64 share, or are listed per machine.
"""

from __future__ import annotations

import ctypes
import os

# The loader's handle of the process itself: libc is linked in.  PyDLL keeps the interpreter lock during a call,
# which spares the release and, after clone(), the wait for a lock that no second thread will give back.
_libc = ctypes.PyDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

_MACHINE = os.uname().machine
# asm/unistd_64.h and asm-generic/unistd.h; both tables agree from number 424 on.
_CLONE = {"x86_64": 56, "aarch64": 220}.get(_MACHINE)
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}.get(_MACHINE)
_SETHOSTNAME = {"x86_64": 170, "aarch64": 161}.get(_MACHINE)
_SETDOMAINNAME = {"x86_64": 171, "aarch64": 162}.get(_MACHINE)
_CAPSET = {"x86_64": 126, "aarch64": 91}.get(_MACHINE)
_OPEN_TREE = 428
_MOVE_MOUNT = 429
_FSOPEN = 430
_FSCONFIG = 431
_FSMOUNT = 432
_CLOSE_RANGE = 436
_OPENAT2 = 437
_MOUNT_SETATTR = 442

# linux/sched.h
CLONE_NEWNS = 0x00020000
CLONE_PARENT = 0x00008000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
SIGCHLD = 17

# linux/mount.h
MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_SYNCHRONOUS = 0x10
MS_REMOUNT = 0x20
MS_DIRSYNC = 0x80
MS_NOSYMFOLLOW = 0x100
MS_NOATIME = 0x400
MS_NODIRATIME = 0x800
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_RELATIME = 0x200000
MS_STRICTATIME = 0x1000000
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
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

# linux/fcntl.h
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

# linux/openat2.h
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

# linux/close_range.h
CLOSE_RANGE_CLOEXEC = 0x4

# linux/prctl.h
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

# linux/capability.h
_LINUX_CAPABILITY_VERSION_3 = 0x20080522


class Unsupported(OSError):
    """The kernel does not know the call (ENOSYS), or this machine's number for it is not known here."""


def _check(result: int, call: str, path: str | None = None) -> int:
    if result >= 0:
        return result
    code = ctypes.get_errno()
    if code == 38:  # ENOSYS
        raise Unsupported(code, f"{call}: the running kernel has no such system call", path)
    raise OSError(code, f"{call}: {os.strerror(code)}", path)


def _number(number: int | None, call: str) -> int:
    if number is None:
        raise Unsupported(38, f"{call}: no system call number is known for {_MACHINE} machines")
    return number


def _path(path: str | bytes | None) -> bytes | None:
    return None if path is None else os.fsencode(path)


def clone(flags: int) -> int:
    """clone(2) like fork: returns 0 in the child, the child's pid in the parent.

    With CLONE_PARENT the caller's parent becomes the child's parent as well.
    """
    zero = ctypes.c_void_p(0)
    # A null stack means a copy of the caller's, as in fork(2).
    return _check(_syscall(_number(_CLONE, "clone"), ctypes.c_ulong(flags), zero, zero, zero, zero), "clone")


def unshare(flags: int) -> None:
    """unshare(2)."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(descriptor: int, kind: int) -> None:
    """setns(2): *kind* is the CLONE_NEW flag that the namespace must be of."""
    _check(_libc.setns(descriptor, kind), "setns")


def mount(
    source: str | None, target: str, filesystem: str | None, flags: int = 0, data: str | bytes | None = None
) -> None:
    """mount(2)."""
    _check(
        _libc.mount(_path(source), _path(target), _path(filesystem), ctypes.c_ulong(flags), _path(data)), "mount", target
    )


def umount(target: str, flags: int) -> None:
    """umount2(2)."""
    _check(_libc.umount2(_path(target), flags), "umount2", target)


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2)."""
    _check(_syscall(_number(_PIVOT_ROOT, "pivot_root"), _path(new), _path(old)), "pivot_root", new)


def open_tree(directory: int, path: str, flags: int) -> int:
    """open_tree(2): with OPEN_TREE_CLONE a detached copy of the mount at *path*.  Close-on-exec."""
    return _check(
        _syscall(_OPEN_TREE, directory, _path(path), ctypes.c_uint(flags | OPEN_TREE_CLOEXEC)), "open_tree", path
    )


def move_mount(mount_fd: int, target_fd: int) -> None:
    """move_mount(2) of a detached mount onto the place *target_fd* refers to."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    _check(_syscall(_MOVE_MOUNT, mount_fd, b"", target_fd, b"", flags), "move_mount")


def move_mount_to(mount_fd: int, path: str) -> None:
    """move_mount(2) of a detached mount onto the place named *path*."""
    _check(
        _syscall(_MOVE_MOUNT, mount_fd, b"", AT_FDCWD, _path(path), MOVE_MOUNT_F_EMPTY_PATH), "move_mount", path
    )


class _MountAttr(ctypes.Structure):
    # struct mount_attr, linux/mount.h
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def mount_setattr(
    mount_fd: int, set_flags: int, *, clear: int = 0, userns_fd: int = 0, recursive: bool = False
) -> None:
    """mount_setattr(2) on the mount *mount_fd*; MOUNT_ATTR_IDMAP shifts ids by the map of *userns_fd*."""
    attributes = _MountAttr(set_flags, clear, 0, userns_fd)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _check(
        _syscall(
            _MOUNT_SETATTR,
            mount_fd,
            b"",
            ctypes.c_uint(flags),
            ctypes.byref(attributes),
            ctypes.c_size_t(ctypes.sizeof(attributes)),
        ),
        "mount_setattr",
    )


def new_mount(filesystem: str, options: tuple[str, ...] = (), attributes: int = 0) -> int:
    """A new, detached mount: fsopen(2), fsconfig(2) for `key=value` or `flag` options, fsmount(2)."""
    context = _check(_syscall(_FSOPEN, _path(filesystem), FSOPEN_CLOEXEC), "fsopen", filesystem)
    try:
        for option in options:
            key, separator, value = option.partition("=")
            if separator:
                call = _syscall(_FSCONFIG, context, FSCONFIG_SET_STRING, _path(key), _path(value), 0)
            else:
                call = _syscall(_FSCONFIG, context, FSCONFIG_SET_FLAG, _path(key), None, 0)
            _check(call, f"fsconfig {option}", filesystem)
        _check(_syscall(_FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0), "fsconfig create", filesystem)
        return _check(_syscall(_FSMOUNT, context, FSMOUNT_CLOEXEC, ctypes.c_uint(attributes)), "fsmount", filesystem)
    finally:
        os.close(context)


class _OpenHow(ctypes.Structure):
    # struct open_how, linux/openat2.h
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def openat2(directory: int, path: str, flags: int, *, mode: int = 0, resolve: int = 0) -> int:
    """openat2(2).  Close-on-exec."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    return _check(
        _syscall(_OPENAT2, directory, _path(path), ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how))),
        "openat2",
        path,
    )


def close_on_exec_from(lowest: int) -> None:
    """Mark every descriptor from *lowest* up close-on-exec: close_range(2)."""
    top = ctypes.c_uint(0xFFFFFFFF)
    _check(_syscall(_CLOSE_RANGE, ctypes.c_uint(lowest), top, CLOSE_RANGE_CLOEXEC), "close_range")


def sethostname(name: str) -> None:
    """sethostname(2)."""
    encoded = os.fsencode(name)
    _check(_syscall(_number(_SETHOSTNAME, "sethostname"), encoded, ctypes.c_size_t(len(encoded))), "sethostname", name)


def setdomainname(name: str) -> None:
    """setdomainname(2)."""
    encoded = os.fsencode(name)
    _check(
        _syscall(_number(_SETDOMAINNAME, "setdomainname"), encoded, ctypes.c_size_t(len(encoded))),
        "setdomainname",
        name,
    )


def prctl(option: int, second: int = 0, third: int = 0) -> int:
    """prctl(2)."""
    zero = ctypes.c_ulong(0)
    return _check(_libc.prctl(option, ctypes.c_ulong(second), ctypes.c_ulong(third), zero, zero), f"prctl {option}")


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) of the calling thread; each set is a bit mask by capability number."""
    header = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    low = 0xFFFFFFFF
    data = (ctypes.c_uint32 * 6)(
        effective & low,
        permitted & low,
        inheritable & low,
        effective >> 32,
        permitted >> 32,
        inheritable >> 32,
    )
    _check(_syscall(_number(_CAPSET, "capset"), ctypes.byref(header), ctypes.byref(data)), "capset")
