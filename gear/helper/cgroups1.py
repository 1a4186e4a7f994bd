"""/sys/fs/cgroup of a container where controllers are bound to version 1: a tmpfs with one mount per hierarchy."""

from __future__ import annotations

import posix as os

from gear.helper import syscalls
from gear.helper.mounts import Root
from gear.helper.options import Options


def hierarchies() -> list[tuple[str, str, str]]:
    """Directory, mount options and group of each hierarchy of version 1 that this process is in (cgroups(7))."""
    found = []
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            _, controllers, group = line.rstrip("\n").split(":", 2)
            if controllers:
                found.append((controllers.removeprefix("name="), controllers, group))
    return found


def mount_controllers(root: Root, where: str, options: Options, *, own_namespace: bool) -> None:
    """Mount the container's own group of each hierarchy below *where*.

    In a control group namespace of its own a mount shows just that; without one the group's directory is bound.
    """
    place = root.destination(where)
    quiet = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    syscalls.mount("tmpfs", f"/proc/self/fd/{place}", "tmpfs", quiet, "mode=755")
    os.close(place)
    for name, data, group in hierarchies():
        inner = root.destination(f"{where}/{name}")
        try:
            if own_namespace:
                syscalls.mount("cgroup", f"/proc/self/fd/{inner}", "cgroup", options.flags, data)
            else:
                source = f"/sys/fs/cgroup/{name}{group}"
                copy = syscalls.open_tree(syscalls.AT_FDCWD, source, syscalls.OPEN_TREE_CLONE)
                syscalls.mount_setattr(copy, options.attributes[0], propagation=syscalls.MS_PRIVATE)
                syscalls.move_mount(copy, inner)
                os.close(copy)
        except OSError as error:
            # Not for this user namespace, or another set of controllers by now, or not mounted on this machine.
            if error.errno not in (1, 2, 13, 16, 22):
                raise
        os.close(inner)
        parts = name.split(",")
        if len(parts) > 1:
            directory = root.open(where, os.O_RDONLY | os.O_DIRECTORY)
            for part in parts:
                os.symlink(name, part, dir_fd=directory)
            os.close(directory)
    if options.flags & syscalls.MS_RDONLY:
        mounted = root.open(where)
        syscalls.mount_setattr(mounted, syscalls.MOUNT_ATTR_RDONLY)
        os.close(mounted)
