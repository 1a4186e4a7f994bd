"""Device nodes that a container asks for beside the default ones: `linux.devices` of config.json.

A process inside a user namespace may not make nodes, so there the helper makes them with the host's rights, on a
file system of their own, and sends them as detached mounts.
"""

from __future__ import annotations

import posix as os
from _stat import S_IFBLK, S_IFCHR, S_IFIFO, S_IFMT

from gear.helper import rootfs, syscalls
from gear.helper.failure import Failure, Step
from gear.helper.mounts import Root

_KINDS = {"c": S_IFCHR, "u": S_IFCHR, "b": S_IFBLK, "p": S_IFIFO}


def _node(device: dict) -> tuple[int, int]:  # type: ignore[type-arg]
    """Mode with type, and device number, of an entry."""
    if device["type"] not in _KINDS:
        raise Failure(f"can't provide {device['path']}: there is no type of device {device['type']!r}")
    mode = device.get("fileMode")
    number = 0 if device["type"] == "p" else os.makedev(device["major"], device["minor"])
    return _KINDS[device["type"]] | (0o666 if mode is None else mode & 0o7777), number


def names_in_dev(devices: list) -> frozenset[str]:  # type: ignore[type-arg]
    """Which of *devices* are right in /dev."""
    return frozenset(
        device["path"][5:]
        for device in devices
        if device["path"].startswith("/dev/") and "/" not in device["path"][5:]
    )


def make_sources(devices: list, linux: dict, step: Step) -> list[int]:  # type: ignore[type-arg]
    """A detached mount for each of *devices*; the caller has the host's rights."""

    def make() -> list[int]:
        # Any place will do in a mount namespace that ends with this process.
        syscalls.mount("tmpfs", "/run", "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NOEXEC, "mode=700")
        sources = []
        for index, device in enumerate(devices):
            step.doing = f"make the device {device['path']}"
            mode, number = _node(device)
            path = f"/run/{index}"
            os.mknod(path, mode, number)
            uid = _outside(device.get("uid", 0), linux.get("uidMappings", ()))
            gid = _outside(device.get("gid", 0), linux.get("gidMappings", ()))
            os.chown(path, uid, gid)
            os.chmod(path, mode & 0o7777)
            sources.append(syscalls.open_tree(syscalls.AT_FDCWD, path, syscalls.OPEN_TREE_CLONE))
        return sources

    return rootfs.in_private_namespace(make, len(devices), step)


def _outside(inside: int, mappings) -> int:  # type: ignore[no-untyped-def]
    for entry in mappings:
        if entry["containerID"] <= inside < entry["containerID"] + entry["size"]:
            number: int = entry["hostID"] + inside - entry["containerID"]
            return number
    return inside


def provide(root: Root, devices: list, sources: list[int], step: Step) -> None:  # type: ignore[type-arg]
    """Put *devices* below *root*: the mounts in *sources*, or nodes made here where there are none."""
    for index, device in enumerate(devices):
        path = device["path"].rstrip("/")
        step.doing = f"provide {path}"
        if sources:
            place = root.destination(path, directory=False)
            syscalls.move_mount(sources[index], place)
            os.close(place)
            continue
        mode, number = _node(device)
        above, _, name = path.rpartition("/")
        directory = root.destination(above or "/")
        try:
            os.mknod(name, mode, number, dir_fd=directory)
        except FileExistsError:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if S_IFMT(status.st_mode) != S_IFMT(mode) or status.st_rdev != number:
                raise Failure(f"can't provide {path}: there is something else in the container") from None
        os.chown(name, device.get("uid", 0), device.get("gid", 0), dir_fd=directory, follow_symlinks=False)
        os.chmod(name, mode & 0o7777, dir_fd=directory)
        os.close(directory)
