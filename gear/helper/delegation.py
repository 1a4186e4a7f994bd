"""Giving a container its own part of the control group tree, when its configuration mounts that writable.

The specification's rule (config-linux.md, "Cgroup ownership"): in a control group namespace of its own, on the
unified hierarchy, with a writable mount, the container's root owns the directory and the files that
/sys/kernel/cgroup/delegate lists, and nothing else.
"""

from __future__ import annotations

import posix as os

from gear.helper.options import Options

_FILES = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")


def is_wanted(config: dict) -> bool:  # type: ignore[type-arg]
    """Whether the container may make control groups of its own."""
    if not any(entry["type"] == "cgroup" for entry in config["linux"].get("namespaces", ())):
        return False
    for mount in config.get("mounts", ()):
        if mount.get("type") in ("cgroup", "cgroup2"):
            return not Options(mount.get("options", ())).attributes[0] & 1  # MOUNT_ATTR_RDONLY
    return False


def delegate(directory: str, linux: dict) -> None:  # type: ignore[type-arg]
    """Give the control group *directory* (of version 2) to the root of the container's user namespace."""
    for entry in linux.get("uidMappings", ()):
        if entry["containerID"] == 0:
            owner = entry["hostID"]
            break
    else:
        return  # the host's own root has it already
    os.chown(directory, owner, -1)
    try:
        with open("/sys/kernel/cgroup/delegate", encoding="utf-8") as file:
            names = file.read().split()
    except FileNotFoundError:  # before Linux 4.15, or hidden
        names = list(_FILES)
    for name in names:
        try:
            os.chown(f"{directory}/{name}", owner, -1)
        except FileNotFoundError:
            pass  # of a controller that is not enabled here


def group_of(process: int | str = "self") -> str:
    """The directory of the control group (of version 2) that a process is in; cgroups(7), "/proc files"."""
    with open(f"/proc/{process}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        paths = [line[3:].rstrip("\n") for line in file if line.startswith("0::")]
    for path in paths:
        for root in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
            try:
                os.stat(f"{root}{path}/cgroup.procs")
            except OSError:
                continue
            return root + path
    raise FileNotFoundError(2, "there is no control group of version 2")
