"""The interpreter where nobody inside can change it: this program again, from a read-only mount of it.

A payload can get hold of the program that its process was before it executed the payload (/proc/self/exe as command,
CVE-2019-5736).  Where its root has the host's ids, only a read-only mount keeps it from changing /usr/bin/python3.  Not
for containers with ids of their own, to which the file is as closed as to any stranger.
"""

from __future__ import annotations

import posix as os
import sys

from gear.helper import syscalls

_ST_RDONLY = 1  # statvfs(3)


def shares_ids(config: dict) -> bool:  # type: ignore[type-arg]
    """Whether root of a container made from *config* may be the host's."""
    linux = config.get("linux") or {}
    for namespace in linux.get("namespaces") or ():
        if namespace.get("type") == "user" and not namespace.get("path"):
            return any(entry.get("hostID") == 0 for entry in linux.get("uidMappings") or ({"hostID": 0},))
    return True


def shares_ids_with(pid: int) -> bool:
    """Whether process *pid* is in this process's user namespace."""
    ours, theirs = os.stat("/proc/self/ns/user"), os.stat(f"/proc/{pid}/ns/user")
    return (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)


def protect() -> None:
    """Go on as the same call of this program, run from a read-only mount; at once where it is on one already.

    To be called before anything is done that would be done twice.  Descriptors that are inherited stay open.
    """
    if os.statvfs("/proc/self/exe").f_flag & _ST_RDONLY:
        return
    copy = syscalls.open_tree(syscalls.AT_FDCWD, os.readlink("/proc/self/exe"), syscalls.OPEN_TREE_CLONE)
    syscalls.mount_setattr(copy, syscalls.MOUNT_ATTR_RDONLY)
    os.execve(f"/proc/self/fd/{copy}", sys.orig_argv, os.environ)
