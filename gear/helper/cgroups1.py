"""/sys/fs/cgroup of a container where controllers are bound to version 1: a tmpfs with one mount per hierarchy."""

from __future__ import annotations

import posix as os

from gear.helper import syscalls
from gear.helper.mounts import Root
from gear.helper.options import Options


def hierarchies() -> list[tuple[str, str]]:
    """Name of the directory and mount options of each hierarchy that this process is in (cgroups(7))."""
    found = []
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            _, controllers, _ = line.split(":", 2)
            if controllers:
                found.append((controllers.removeprefix("name="), controllers))
    return found


def mount_controllers(root: Root, where: str, options: Options) -> None:
    """Mount each hierarchy as the container's own control group namespace shows it."""
    place = root.destination(where)
    quiet = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    syscalls.mount("tmpfs", f"/proc/self/fd/{place}", "tmpfs", quiet, "mode=755")
    os.close(place)
    for name, data in hierarchies():
        inner = root.destination(f"{where}/{name}")
        try:
            syscalls.mount("cgroup", f"/proc/self/fd/{inner}", "cgroup", options.flags, data)
        except OSError as error:
            if error.errno not in (
                1,
                13,
                16,
                22,
            ):  # of a user namespace, or another set of controllers by now
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
