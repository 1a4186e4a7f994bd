"""What a container that runs knows names by, /etc/hosts and /etc/resolv.conf, once it is on other networks.

Files that stay the same are changed where they are (gear/hostsfile.py); these are others, so they are mounted on top.
"""

from __future__ import annotations

import posix as os
from _stat import S_ISREG

from gear.helper import neighbour, resolver, syscalls
from gear.helper.below import Below
from gear.helper.failure import Failure, Step
from gear.helper.joined import Namespaces, within

_QUIET = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
_EROFS = 30
# What is mounted inside may be a file system whose server is the payload.
_PATIENCE_S = 10


def rename(bundle: str, wanted: dict, place: Namespaces, step: Step) -> list[str]:  # type: ignore[type-arg]
    """Have the container of *place* see the files that the next start would mount; *wanted* is `network` of start.json.

    Returns a sentence for each that can't be had there, which is the container's own doing.  Raises Failure.
    """
    problems = []
    containers, _, name = bundle.rpartition("/")
    if wanted.get("resolver"):
        resolver.write(bundle, wanted["resolver"])
    for mount in neighbour.naming(containers, name):
        where = mount["destination"]
        step.doing = f"mount {where} of {name}"
        source = syscalls.open_tree(syscalls.AT_FDCWD, mount["source"], syscalls.OPEN_TREE_CLONE)
        # Private: a copy is a peer of the host's mount, on which the next one would appear as well.
        flags = syscalls.MOUNT_ATTR_RDONLY | _QUIET
        syscalls.mount_setattr(source, flags, propagation=syscalls.MS_PRIVATE)
        try:
            within(place.mount, _mounting(source, where), step, user=place.user, patience_s=_PATIENCE_S)
        except Failure as failure:
            problems.append(f"{failure.message}; {name} has it with its next start")
        os.close(source)
    return problems


def _mounting(source: int, where: str):  # type: ignore[no-untyped-def]
    """What a child does inside, with the container's own rights: wherever *where* leads, it is the container's."""

    def work() -> None:
        root = Below(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        try:
            target = root.destination(where, directory=False)
        except OSError as error:
            if error.errno != _EROFS:
                raise
            return  # an image without the file, of a read-only container: by its next start
        there, ours = os.fstat(target), os.fstat(source)
        if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino) and S_ISREG(there.st_mode):
            syscalls.move_mount(source, target)

    return work
