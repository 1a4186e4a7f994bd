"""gear debug: tools beside a container that has none, in its namespaces but with a root of their own.

The tools' root is put together in a mount namespace made for it: the host's /usr read-only, or another image's
layers, with the container's /proc.  Nothing else of the host is in it, and what was mounted before is let go of, since
root of the container may look into every process that joins its user namespace.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from gear import composing, inroot
from gear.errors import GearError
from gear.helper import container, enter, rights, rootfs, syscalls
from gear.helper import devices as _devices  # noqa: F401 (before its files are out of reach)
from gear.helper import tasks as _tasks  # noqa: F401
from gear.helper import terminal as _terminal  # noqa: F401
from gear.helper.channel import pair
from gear.helper.failure import Failure, Step
from gear.helper.mounts import Root
from gear.joining import Target, confirm, membership_of, no_imports
from gear.model import Layout
from gear.terminal import Streams

CONTAINER = "/container"  # where the container's root is seen, beside /proc/1/root
_KEPT = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_SHARED = (
    "alternatives",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "nsswitch.conf",
    "terminfo",
    "ssl/certs",
)
_COPIED = ("passwd", "group", "hosts", "resolv.conf")
_NODES = ("null", "zero", "full", "random", "urandom", "tty")
_QUIET = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
_KINDS = ("pid", "network", "ipc", "uts", "user", "cgroup")


def run(layout: Layout, target: Target, image: str | None, arguments: Sequence[str], streams: Streams) -> int:
    """Run *arguments* beside the container; returns the pid, a child of ours."""
    step = Step()
    layers = None
    if image is not None:
        found = composing.resolve(layout, image)
        layers = [str(path) for path in reversed(composing.roots(layout, found))]
    try:
        mounts = _tools(layout, target, layers, step)
        document: dict[str, Any] = {
            "args": list(arguments) or ["sh"],
            "cwd": "/",
            "user": {"uid": 0, "gid": 0},
            "terminal": streams.terminal,
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "HOME=/",
                f"TERM={os.environ.get('TERM', 'dumb')}",
                f"PS1={target.name}# ",
            ],
        }
        every = [f"CAP_{name}" for name in rights.CAPABILITIES]
        document["capabilities"] = {kind: every for kind in ("bounding", "effective", "permitted")}
        membership = membership_of(target)
        entry = enter.Entry(
            kinds=_KINDS,
            mounts=mounts,
            membership=membership,
            terminal=streams.take_master,
            confirm=lambda: confirm(target),
        )
        with streams.in_place(), no_imports(terminal=streams.terminal):
            return enter.enter(target.pid, document, entry)
    except OSError as error:
        raise _error(step.failure(error)) from error
    except Failure as failure:
        raise _error(failure) from failure


def _error(failure: Failure) -> GearError:
    return GearError(f"{failure.message[:1].upper()}{failure.message[1:]}.")


def _tools(layout: Layout, target: Target, layers: list[str] | None, step: Step) -> int:
    """A mount namespace whose root is the tools', as a descriptor."""
    step.doing = f"read the files of {target.name}"
    with inroot.opened(inroot.root_of(target.pid)) as inside:
        copies = {name: _copy(inside, f"/etc/{name}") for name in _COPIED}
    userns = os.open(f"/proc/{target.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    step.doing = "make a /proc of the container"
    (proc,) = rootfs.in_child(lambda: _proc(target.pid, step), 1, step)
    directory = str(layout.containers / target.name)

    def make() -> list[int]:
        rootfs.own_mount_namespace(step)
        namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        if layers is not None:
            own = os.stat("/proc/self/ns/user").st_ino == os.fstat(userns).st_ino
            stacked = {"lower": layers, "ephemeral": True}
            root_fd = rootfs.assemble_root(directory, stacked, None if own else userns, step)
        else:
            root_fd = syscalls.new_mount("tmpfs", ("mode=755", "size=16m"), syscalls.MOUNT_ATTR_NODEV)
        _furnish(root_fd, f"{directory}/rootfs", proc, None if layers is not None else copies, step)
        return [namespace]

    (namespace,) = rootfs.in_child(make, 1, step)
    return int(namespace)


def _furnish(root_fd: int, place: str, proc: int, copies: dict[str, bytes] | None, step: Step) -> None:
    """Fill the detached root *root_fd* and make it the root of this process's mount namespace."""
    step.doing = "attach the tools' root"
    syscalls.move_mount_to(root_fd, place)
    root = Root(root_fd, pair()[0], step, {"linux": {}, "root": {}})
    if copies is not None:
        _host_tools(root_fd, root, copies)
    step.doing = "provide /proc and /dev"
    syscalls.move_mount(proc, root.destination("proc"))
    _dev(root)
    step.doing = "show the container's root"
    try:
        os.symlink("/proc/1/root", CONTAINER[1:], dir_fd=root_fd)
    except FileExistsError:
        pass  # the image has something there; /proc/1/root shows it all the same
    root.enter(readonly=False, propagation=None)


def _proc(pid: int, step: Step) -> list[int]:
    container.join(pid, "pid")
    made: list[int] = rootfs.in_child(lambda: [rootfs.new_instance("proc")], 1, step)
    return made


def _copy(root: int, path: str) -> bytes:
    try:
        return inroot.read_file(root, path) or b""
    except GearError:
        return b""


def _host_tools(root_fd: int, root: Root, copies: dict[str, bytes]) -> None:
    """The host's programs, read-only, and what they need; no other file of the host."""
    for name in _KEPT:
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), name, dir_fd=root_fd)
        elif os.path.isdir(f"/{name}"):
            _bind(root, f"/{name}")
    _bind(root, "/usr")
    for name in _SHARED:
        if os.path.exists(f"/etc/{name}"):
            _bind(root, f"/etc/{name}")
    etc = root.open("etc", os.O_RDONLY | os.O_DIRECTORY)
    for name, content in copies.items():
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(name, flags, 0o644, dir_fd=etc), "wb") as file:
            file.write(content)
    os.close(etc)
    for name in ("tmp", "run", "root"):
        os.mkdir(name, dir_fd=root_fd)
        os.chmod(name, 0o1777, dir_fd=root_fd)


def _bind(root: Root, path: str) -> None:
    copy = syscalls.open_tree(syscalls.AT_FDCWD, path, syscalls.OPEN_TREE_CLONE)
    syscalls.mount_setattr(
        copy, syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
    )
    syscalls.move_mount(copy, root.destination(path[1:], directory=os.path.isdir(path)))


def _dev(root: Root) -> None:
    """A /dev with the harmless devices and terminals of its own."""
    nodes = {
        name: syscalls.open_tree(syscalls.AT_FDCWD, f"/dev/{name}", syscalls.OPEN_TREE_CLONE)
        for name in _NODES
    }
    for node in nodes.values():  # the host's own, whose mode is not for the container's root to change
        syscalls.mount_setattr(node, syscalls.MOUNT_ATTR_RDONLY)
    dev = syscalls.new_mount("tmpfs", ("mode=755", "size=64k"), syscalls.MOUNT_ATTR_NOSUID)
    syscalls.move_mount(dev, root.destination("dev"))
    for name, node in nodes.items():
        syscalls.move_mount(node, root.destination(f"dev/{name}", directory=False))
    pts = syscalls.new_mount(
        "devpts", ("newinstance", "ptmxmode=0666", "mode=0620"), _QUIET & ~syscalls.MOUNT_ATTR_NODEV
    )
    syscalls.move_mount(pts, root.destination("dev/pts"))
    with inroot.opened(root.open("dev", os.O_RDONLY | os.O_DIRECTORY)) as directory:
        for name, place in (("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"),
                            ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2")):  # fmt: skip
            os.symlink(place, name, dir_fd=directory)
