"""The privileged half of a container's file system: the layers, shifted and stacked, and the sources of binds.

Runs in the helper itself, which is root on the host, inside a mount namespace of its own: nothing made here ever
shows in the host's mount table.  What comes out are detached mounts as descriptors, which the payload's process
attaches inside its own namespaces (gear/helper/payload.py).
"""

from __future__ import annotations

import posix as os

from gear.helper import syscalls
from gear.helper.bundle import is_bind
from gear.helper.failure import Failure, Step


def own_mount_namespace(step: Step) -> None:
    """Leave the host's mount namespace; from here on no mount of ours reaches it."""
    step.doing = "make a mount namespace"
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)


def shift(mount_fd: int, path: str, userns_fd: int, *, recursive: bool = False) -> None:
    """Show the files of a detached mount with their ids mapped into the container's user namespace."""
    try:
        syscalls.mount_setattr(mount_fd, syscalls.MOUNT_ATTR_IDMAP, userns_fd=userns_fd, recursive=recursive)
    except OSError as error:
        raise Failure(
            f"can't map the ids of {path}: its file system or this kernel has no idmapped mounts "
            f"(ext4, xfs, btrfs or tmpfs and Linux 5.19 have them; {error.strerror})"
        ) from error


def assemble_root(bundle: str, root: dict, userns_fd: int | None, step: Step) -> int:  # type: ignore[type-arg]
    """Stack the layers that start.json names under `root`; returns the root as a detached mount.

    start.json is gear's own file beside config.json: in `root`, `lower` lists directories, topmost first, `upper` and
    `work` are overlayfs' writable directory and its scratch space.
    """
    lower = []
    for path in root["lower"]:
        step.doing = f"open the image layer {path}"
        layer = syscalls.open_tree(syscalls.AT_FDCWD, path, syscalls.OPEN_TREE_CLONE)
        if userns_fd is not None:
            shift(layer, path, userns_fd)
        # Attached over its own directory, in this namespace only: overlayfs before Linux 6.15 takes no
        # detached mount (clone_private_mount() in fs/namespace.c).
        syscalls.move_mount_to(layer, path)
        # Named by descriptor: short, so that a hundred layers fit into mount(2)'s one page of options, and
        # free of characters that overlayfs would take for separators.
        lower.append(f"/proc/self/fd/{layer}")
    options = [f"lowerdir={':'.join(lower)}"]
    for key in ("upper", "work"):
        step.doing = f"open the writable layer {root[key]}"
        directory = os.open(root[key], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        options.append(f"{key}dir=/proc/self/fd/{directory}")
    target = f"{bundle}/rootfs"
    step.doing = "mount the layers with overlayfs"
    # No devices: a node that came with an image must not open a device of the host.
    syscalls.mount("overlay", target, "overlay", syscalls.MS_NODEV, ",".join(options))
    return syscalls.open_tree(syscalls.AT_FDCWD, target, syscalls.OPEN_TREE_CLONE)


def bind_sources(config: dict, userns_fd: int | None, step: Step) -> list[int]:  # type: ignore[type-arg]
    """A detached copy of the source of each bind mount in *config*, in order.

    Sources belong to the host and are opened with the host's rights; destinations belong to the container and
    are resolved by the payload's process inside its root.
    """
    descriptors = []
    for mount in config.get("mounts", ()):
        if not is_bind(mount):
            continue
        source, options = mount["source"], mount.get("options", ())
        recursive = "rbind" in options
        step.doing = f"bind {source} on {mount['destination']}"
        flags = syscalls.OPEN_TREE_CLONE | (syscalls.AT_RECURSIVE if recursive else 0)
        descriptor = syscalls.open_tree(syscalls.AT_FDCWD, source, flags)
        if userns_fd is not None and ("idmap" in options or "ridmap" in options):
            shift(descriptor, source, userns_fd, recursive="ridmap" in options)
        descriptors.append(descriptor)
    return descriptors


def new_instance(filesystem: str) -> int:
    """A detached proc or sysfs of the namespaces that the calling process is in."""
    attributes = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
    return syscalls.new_mount(filesystem, (), attributes)
