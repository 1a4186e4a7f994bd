"""Secrets for the payload, and whose its configs are; start.json's `secrets` and `configs` (gear/provision.py).

Secrets come decrypted from PID 1 and go into a file system in memory that only this container has mounted, so that
they are on no disk, in no swap, and gone with its last process.
"""

from __future__ import annotations

import posix as os

from gear.helper import rootfs, syscalls
from gear.helper.failure import Failure, Step

TYPE_CHECKING = False  # importing `typing` for it would take as long as the whole start
if TYPE_CHECKING:
    from collections.abc import Callable

    Read = Callable[[str], bytes]

_DIRECTORY = "/run/secrets"
_MOST = 1 << 20  # bytes of a credential (systemd-creds(1))
_ATTRIBUTES = (
    syscalls.MOUNT_ATTR_RDONLY
    | syscalls.MOUNT_ATTR_NOSUID
    | syscalls.MOUNT_ATTR_NODEV
    | syscalls.MOUNT_ATTR_NOEXEC
)


def credential(name: str) -> bytes:
    """The secret *name* as PID 1 has decrypted it for this unit; raises Failure."""
    directory = os.environ.get(b"CREDENTIALS_DIRECTORY")
    if directory is None:
        raise Failure(
            f"can't get the secret {name}: the unit has no credentials; gear restart starts it anew"
        )
    with open(directory + b"/" + name.encode(), "rb", buffering=0) as file:
        content = b""
        while piece := file.read(_MOST + 1 - len(content)):
            content += piece
    return content


def own_configs(wanted: list, step: Step) -> None:  # type: ignore[type-arg]
    """Give the files of configs the owner and mode that they have inside."""
    for entry in wanted:
        step.doing = f"set the owner of {entry['path']}"
        file = os.open(entry["path"], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        os.fchown(file, entry["uid"], entry["gid"])
        os.fchmod(file, entry["mode"])
        os.close(file)


def add(config: dict, wanted: dict, read: Read, step: Step) -> None:  # type: ignore[type-arg]
    """Put the secrets of *wanted* into *config*: its mounts, by descriptors of detached ones, and its environment,
    which is in memory only.  Raises OSError and Failure."""
    for variable, name in wanted["variables"].items():
        step.doing = f"get the secret {name}"
        value = read(name)
        if b"\0" in value:
            raise Failure(f"the secret {name} can't be a variable: it holds a NUL byte")
        config["process"]["env"].append(f"{variable}={value.decode('utf-8', 'surrogateescape')}")
    if not wanted["files"]:
        return
    content = []
    for entry in wanted["files"]:
        step.doing = f"get the secret {entry['name']}"
        content.append((entry, read(entry["name"])))
    mapping = config["linux"].get("uidMappings")
    base = mapping[0]["hostID"] if mapping else 0
    places = [entry["target"] for entry in wanted["files"] if entry["target"].startswith("/")]

    def make() -> list[int]:
        return _make(content, base, step)

    # A part of a detached mount can't be cloned before Linux 6.15, so it is attached, where nobody sees it.
    descriptors = rootfs.in_private_namespace(make, 1 + len(places), step)
    for place, descriptor in zip([_DIRECTORY, *places], descriptors):  # noqa: B905 (there are as many)
        mount = {"destination": place, "type": "bind", "source": descriptor, "options": ["bind", "ro"]}
        config["mounts"].append(mount)


def _make(content: list, base: int, step: Step) -> list[int]:  # type: ignore[type-arg]
    """Detached mounts, read-only: the directory with all secrets, and those files that are to be elsewhere as well."""
    step.doing = "make a file system for secrets"
    size = sum(len(data) + 8192 for _, data in content) + (1 << 16)
    root = _in_memory(size)
    os.chown(".", base, base, dir_fd=root)
    for entry, data in content:
        step.doing = f"write the secret {entry['name']} into memory"
        file = os.open(_inner(entry), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0, dir_fd=root)
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]
        os.fchown(file, base + entry["uid"], base + entry["gid"])
        os.fchmod(file, entry["mode"])
        os.close(file)
    syscalls.mount_setattr(root, _ATTRIBUTES)
    syscalls.move_mount_to(root, "/run")
    elsewhere = [_inner(entry) for entry, _ in content if entry["target"].startswith("/")]
    return [
        syscalls.open_tree(syscalls.AT_FDCWD, path, syscalls.OPEN_TREE_CLONE)
        for path in ["/run", *(f"/run/{name}" for name in elsewhere)]
    ]


def _inner(entry: dict) -> str:  # type: ignore[type-arg]
    """What the file is called in the directory: by its name what has its place elsewhere."""
    target: str = entry["target"]
    return entry["name"] if target.startswith("/") else target


def _in_memory(size: int) -> int:
    """A detached file system whose content is never swapped out: tmpfs, or ramfs before Linux 6.4."""
    try:
        return syscalls.new_mount("tmpfs", ("mode=0755", f"size={size}", "noswap"))
    except OSError as error:
        if error.errno != 22:  # EINVAL: it does not know `noswap`
            raise
    return syscalls.new_mount("ramfs", ("mode=0755",))
