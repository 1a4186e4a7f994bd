"""The container's file system as the payload's process builds it: mounts, devices, masks, the new root.

Everything below the root is hostile: each destination is resolved with openat2(2) as if the root were `/`, mounts
go onto the descriptor that came out, and no path of the container is ever looked up on the host.
"""

from __future__ import annotations

import posix as os
from _stat import S_ISCHR, S_ISDIR

from gear.helper import syscalls
from gear.helper.channel import MOUNT, Channel
from gear.helper.failure import Failure, Step

# mount(8) option -> (flag to set, flag to clear); what is in neither table goes to the file system as data.
_FLAGS = {
    "ro": (syscalls.MS_RDONLY, 0),
    "rw": (0, syscalls.MS_RDONLY),
    "nosuid": (syscalls.MS_NOSUID, 0),
    "suid": (0, syscalls.MS_NOSUID),
    "nodev": (syscalls.MS_NODEV, 0),
    "dev": (0, syscalls.MS_NODEV),
    "noexec": (syscalls.MS_NOEXEC, 0),
    "exec": (0, syscalls.MS_NOEXEC),
    "sync": (syscalls.MS_SYNCHRONOUS, 0),
    "async": (0, syscalls.MS_SYNCHRONOUS),
    "dirsync": (syscalls.MS_DIRSYNC, 0),
    "noatime": (syscalls.MS_NOATIME, 0),
    "nodiratime": (syscalls.MS_NODIRATIME, 0),
    "relatime": (syscalls.MS_RELATIME, 0),
    "strictatime": (syscalls.MS_STRICTATIME, 0),
    "nosymfollow": (syscalls.MS_NOSYMFOLLOW, 0),
}
_NOT_DATA = frozenset(("defaults", "bind", "rbind", "idmap", "ridmap", "private", "rprivate"))
_ATTRIBUTES = {
    "ro": syscalls.MOUNT_ATTR_RDONLY,
    "nosuid": syscalls.MOUNT_ATTR_NOSUID,
    "nodev": syscalls.MOUNT_ATTR_NODEV,
    "noexec": syscalls.MOUNT_ATTR_NOEXEC,
    "nosymfollow": syscalls.MOUNT_ATTR_NOSYMFOLLOW,
}
# OCI runtime specification, config-linux.md, "Default Devices": name -> (major, minor).
_DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}
_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
_PROC_SUPER_INODE = 1  # PROC_ROOT_INO, linux/proc_ns.h: the root of any procfs


_MOST_LINKS = 40  # as many as the kernel follows, path_resolution(7)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _link(name: str, directory: int) -> str | None:
    """Where the symbolic link *name* in *directory* points; None when it is no link."""
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError:
        return None


class Root:
    """The container's root directory, before it becomes `/`."""

    def __init__(self, descriptor: int, channel: Channel, step: Step) -> None:
        self.descriptor = descriptor
        self._channel = channel
        self._step = step
        # The file systems of /proc, /sys and /dev, on which nothing of an image or a volume may be put.
        self._kernel: set[int] = set()
        self._proc = -1

    def open(self, path: str, flags: int = os.O_PATH, *, extra: int = 0) -> int:
        """*path* inside the root, symbolic links included, magic links of procfs excluded."""
        resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS | extra
        return syscalls.openat2(self.descriptor, path, flags, resolve=resolve)

    def destination(self, path: str, *, directory: bool = True) -> int:
        """The place to mount on at *path*, made with its parents if it is missing (config.md, "mounts")."""
        try:
            return self.open(path)
        except FileNotFoundError:
            pass
        parts, depth, links = _parts(path), 0, 0
        parent = os.dup(self.descriptor)
        while depth < len(parts):
            here = "/".join(parts[: depth + 1])
            try:
                inner = self.open(here)
            except FileNotFoundError:
                target = _link(parts[depth], parent)
                if target is not None:  # a link to what is not there yet: go on where it points
                    links += 1
                    if links > _MOST_LINKS:
                        raise Failure(f"can't mount on {path}: too many symbolic links") from None
                    parts = (parts[:depth] if target[:1] != "/" else []) + _parts(target) + parts[depth + 1 :]
                    os.close(parent)
                    parent, depth = os.dup(self.descriptor), 0
                    continue
                if depth + 1 < len(parts) or directory:
                    os.mkdir(parts[depth], 0o755, dir_fd=parent)
                else:
                    flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                    os.close(os.open(parts[depth], flags, 0o644, dir_fd=parent))
                inner = self.open(here)
            os.close(parent)
            parent, depth = inner, depth + 1
        return parent

    def _target(self, where: str, *, directory: bool = True) -> int:
        """destination(), but never a place that a link of the image has led onto the root or the kernel's file
        systems: masks and parameters would go elsewhere, and /proc would not be procfs (CVE-2025-52881)."""
        inside = where.split("/")[1] in ("proc", "sys", "dev")
        if inside:
            self._refuse_link(where)
        place = self.destination(where, directory=directory)
        status, root = os.fstat(place), os.fstat(self.descriptor)
        if not inside and status.st_dev in self._kernel:
            raise Failure(f"can't mount on {where}: a link of the image leads it into /proc, /sys or /dev")
        if (status.st_dev, status.st_ino) == (root.st_dev, root.st_ino):
            raise Failure(f"can't mount on {where}: a link of the image leads it to the root")
        return place

    def _refuse_link(self, where: str) -> None:
        """An image that makes /proc or /sys a link would send mounts and masks elsewhere (CVE-2019-16884)."""
        try:
            os.close(self.open(where, extra=syscalls.RESOLVE_NO_SYMLINKS))
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno != 40:  # ELOOP
                raise
            raise Failure(f"can't {self._step.doing}: the image makes {where} a symbolic link") from error

    def _remember(self, where: str) -> None:
        """Note the file system that is mounted on *where* now."""
        mounted = self.open(where)
        self._kernel.add(os.fstat(mounted).st_dev)
        os.close(mounted)

    def mount(self, mount: dict, cgroup2: bool) -> None:  # type: ignore[type-arg]
        """One `mounts` entry that is no bind."""
        filesystem, where = mount["type"], mount["destination"]
        self._step.doing = f"mount {filesystem} on {where}"
        flags, data = 0, []
        for option in mount.get("options", ()):
            if option in _FLAGS:
                set_flag, clear_flag = _FLAGS[option]
                flags = (flags | set_flag) & ~clear_flag
            elif option not in _NOT_DATA:
                data.append(option)
        if filesystem in ("proc", "sysfs"):
            self._kernel_mount(filesystem, where, flags)
            return
        if filesystem == "cgroup":
            if not cgroup2:
                return
            filesystem = "cgroup2"
        place = self._target(where)
        if not S_ISDIR(os.fstat(place).st_mode):
            raise Failure(f"can't mount {filesystem} on {where}: the image has a file there")
        syscalls.mount(filesystem, f"/proc/self/fd/{place}", filesystem, flags, ",".join(data))
        os.close(place)
        if where == "/dev":
            self._remember(where)

    def _kernel_mount(self, filesystem: str, where: str, flags: int) -> None:
        place = self._target(where)
        if not S_ISDIR(os.fstat(place).st_mode):
            raise Failure(f"can't mount {filesystem}: the image has a file at {where}")
        try:
            syscalls.mount(filesystem, f"/proc/self/fd/{place}", filesystem, flags)
        except PermissionError:
            # Parts of the host's own procfs are covered; the helper has the right to make one all the same.
            self._channel.send(MOUNT + filesystem.encode())
            (instance,) = self._channel.receive_descriptors(1)
            attributes = syscalls.MOUNT_ATTR_RDONLY if flags & syscalls.MS_RDONLY else 0
            syscalls.mount_setattr(instance, attributes)
            syscalls.move_mount(instance, place)
            os.close(instance)
        os.close(place)
        if filesystem == "proc":
            mounted = self.open(where)
            status = os.fstat(mounted)
            if status.st_ino != _PROC_SUPER_INODE:
                raise Failure(f"can't use {where}: what is mounted there is not procfs")
            self._proc = status.st_dev
            os.close(mounted)
        self._remember(where)

    def bind(self, mount: dict, source: int) -> None:  # type: ignore[type-arg]
        """One bind mount: *source* is the detached copy that the helper made."""
        where, options = mount["destination"], mount.get("options", ())
        self._step.doing = f"bind {mount['source']} on {where}"
        attributes = 0
        for option in options:
            attributes |= _ATTRIBUTES.get(option, 0)
        if attributes:
            syscalls.mount_setattr(source, attributes, recursive="rbind" in options)
        place = self._target(where, directory=S_ISDIR(os.fstat(source).st_mode))
        syscalls.move_mount(source, place)
        os.close(place)
        if where == "/sys":
            self._remember(where)

    def _device(self, name: str) -> int:
        """A detached mount of the host's device node *name*, checked to be that device."""
        source = syscalls.open_tree(syscalls.AT_FDCWD, f"/dev/{name}", syscalls.OPEN_TREE_CLONE)
        status = os.fstat(source)
        if not S_ISCHR(status.st_mode) or status.st_rdev != os.makedev(*_DEVICES[name]):
            raise Failure(f"can't provide /dev/{name}: the host's /dev/{name} is not that device")
        return source

    def populate_dev(self) -> None:
        """The default devices and links in the fresh /dev."""
        self._step.doing = "open the new /dev"
        dev = self.open("dev", os.O_RDONLY | os.O_DIRECTORY)
        for name in _DEVICES:
            self._step.doing = f"provide /dev/{name}"
            # A user namespace may not make device nodes; binding the host's gives the same.
            place = os.open(name, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=dev)
            source = self._device(name)
            syscalls.move_mount(source, place)
            os.close(source)
            os.close(place)
        for name, target in _LINKS.items():
            os.symlink(target, name, dir_fd=dev)
        os.close(dev)

    def mask(self, path: str) -> None:
        """Cover *path*: a file with /dev/null, a directory with an empty read-only tmpfs; absent is fine."""
        self._step.doing = f"mask {path}"
        try:
            place = self.open(path, extra=syscalls.RESOLVE_NO_SYMLINKS)
        except FileNotFoundError:
            return
        if S_ISDIR(os.fstat(place).st_mode):
            flags = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
            syscalls.mount("tmpfs", f"/proc/self/fd/{place}", "tmpfs", flags, "size=0,nr_inodes=2,mode=755")
        else:
            source = self._device("null")
            syscalls.move_mount(source, place)
            os.close(source)
        os.close(place)

    def make_readonly(self, path: str) -> None:
        """Make *path* read-only in place; absent is fine."""
        self._step.doing = f"make {path} read-only"
        try:
            place = self.open(path, extra=syscalls.RESOLVE_NO_SYMLINKS)
        except FileNotFoundError:
            return
        flags = syscalls.OPEN_TREE_CLONE | syscalls.AT_EMPTY_PATH | syscalls.AT_RECURSIVE
        copy = syscalls.open_tree(place, "", flags)
        syscalls.mount_setattr(copy, syscalls.MOUNT_ATTR_RDONLY, recursive=True)
        syscalls.move_mount(copy, place)
        os.close(copy)
        os.close(place)

    def write_sysctl(self, key: str, value: str) -> None:
        """Set a kernel parameter of the container's own namespaces."""
        self._step.doing = f"set the kernel parameter {key}"
        flags = os.O_WRONLY | os.O_NONBLOCK
        file = self.open("proc/sys/" + key.replace(".", "/"), flags, extra=syscalls.RESOLVE_NO_SYMLINKS)
        if os.fstat(file).st_dev != self._proc:
            raise Failure(f"can't {self._step.doing}: /proc is not procfs there")
        os.write(file, value.encode())
        os.close(file)

    def enter(self, *, readonly: bool) -> None:
        """Make this directory `/` and let go of everything else: pivot_root(2), then unmount the old root."""
        if readonly:
            self._step.doing = "make the root read-only"
            syscalls.mount_setattr(self.descriptor, syscalls.MOUNT_ATTR_RDONLY)
        self._step.doing = "change the root"
        os.fchdir(self.descriptor)
        # New root and old root on the same place, as pivot_root(2) suggests under "NOTES".
        syscalls.pivot_root(".", ".")
        syscalls.umount(".", syscalls.MNT_DETACH)
        os.chdir("/")
