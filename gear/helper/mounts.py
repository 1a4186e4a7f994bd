"""The container's file system as the payload's process builds it: mounts, devices, masks, the new root.

Everything below the root is hostile: each destination is resolved with openat2(2) as if the root were `/`, mounts
go onto the descriptor that came out, and no path of the container is ever looked up on the host.
"""

from __future__ import annotations

import posix as os
from _stat import S_IFCHR, S_ISCHR, S_ISDIR, S_ISLNK

from gear.helper import syscalls
from gear.helper.below import Below
from gear.helper.channel import MOUNT, Channel
from gear.helper.failure import Failure, Step
from gear.helper.options import PROPAGATION, Options

# OCI runtime specification, config-linux.md, "Default Devices": name -> (major, minor).
DEVICES = {
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


class Root(Below):
    """The container's root directory, before it becomes `/`."""

    def __init__(self, descriptor: int, channel: Channel, step: Step, config: dict) -> None:  # type: ignore[type-arg]
        super().__init__(descriptor)
        self.label = config["linux"].get("mountLabel")
        self.has_own_dev = True
        namespaces = {entry["type"] for entry in config["linux"].get("namespaces", ())}
        self._user_namespace = "user" in namespaces
        self._cgroup_namespace = "cgroup" in namespaces
        self._readonly_at_last: list[str] = []
        # Whether a mount is to have anything to do with the host's, or others'.
        self._propagates = any(
            not set(mount.get("options", ())).isdisjoint(PROPAGATION) for mount in config.get("mounts", ())
        )
        self._channel = channel
        self._step = step
        # The file systems of /proc, /sys and /dev, on which nothing of an image or a volume may be put.
        self._kernel: set[int] = set()
        self._proc = -1

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
        filesystem, where = mount.get("type") or "none", mount["destination"]
        self._step.doing = f"mount {filesystem} on {where}"
        options = Options(mount.get("options", ()))
        if options.flags & syscalls.MS_REMOUNT:
            self._remount(where, options)
        elif filesystem in ("proc", "sysfs"):
            self._kernel_mount(filesystem, where, options)
        elif filesystem == "cgroup":
            self._cgroup(where, options, cgroup2)
        else:
            self._mount(mount, filesystem, where, options)

    def _mount(self, mount: dict, filesystem: str, where: str, options: Options) -> None:  # type: ignore[type-arg]
        place = self._directory(where, filesystem)
        flags = options.flags
        if filesystem == "tmpfs" and flags & syscalls.MS_RDONLY:
            # Later mounts and devices may need places made in it.
            self._readonly_at_last.append(where)
            flags &= ~syscalls.MS_RDONLY
        data = options.data
        if self.label and filesystem in ("tmpfs", "mqueue", "devpts"):
            data = [*data, f'context="{self.label}"']
        source = mount.get("source") or filesystem
        content = place if "tmpcopyup" in mount.get("options", ()) else -1
        syscalls.mount(source, f"/proc/self/fd/{place}", filesystem, flags, ",".join(data))
        self._finish(where, options)
        if content >= 0:
            from gear.helper.copyup import copy_up

            copy_up(content, self.open(where, os.O_RDONLY | os.O_DIRECTORY), self._step)
        os.close(place)
        if where == "/dev":
            self._remember(where)

    def _directory(self, where: str, filesystem: str) -> int:
        place = self._target(where)
        if not S_ISDIR(os.fstat(place).st_mode):
            raise Failure(f"can't mount {filesystem} on {where}: the image has a file there")
        return place

    def _remount(self, where: str, options: Options) -> None:
        place = self.open(where)
        flags = options.flags | (0 if options.data else syscalls.MS_BIND)
        syscalls.mount(None, f"/proc/self/fd/{place}", None, flags, ",".join(options.data))
        os.close(place)

    def _finish(self, where: str, options: Options) -> None:
        """Propagation, and attributes of the whole tree, of what is mounted on *where* now."""
        to_set, to_clear = options.recursive_attributes
        if not options.propagation and not to_set | to_clear:
            return
        mounted = self.open(where)
        for propagation in options.propagation:
            syscalls.mount(None, f"/proc/self/fd/{mounted}", None, propagation)
        if to_set | to_clear:
            syscalls.mount_setattr(mounted, to_set, clear=to_clear, recursive=True)
        os.close(mounted)

    def _cgroup(self, where: str, options: Options, cgroup2: bool) -> None:
        if not cgroup2:
            from gear.helper.cgroups1 import mount_controllers

            mount_controllers(self, where, options, own_namespace=self._cgroup_namespace)
            return
        place = self._directory(where, "cgroup")
        try:
            syscalls.mount(
                "cgroup2", f"/proc/self/fd/{place}", "cgroup2", options.flags, ",".join(options.data)
            )
        except OSError as error:
            if error.errno not in (1, 16):  # EPERM, EBUSY: not for this user namespace
                raise
            flags = syscalls.OPEN_TREE_CLONE | syscalls.AT_RECURSIVE
            copy = syscalls.open_tree(syscalls.AT_FDCWD, "/sys/fs/cgroup", flags)
            syscalls.mount_setattr(copy, options.attributes[0], recursive=True)
            syscalls.move_mount(copy, place)
            os.close(copy)
        os.close(place)
        self._finish(where, options)

    def _kernel_mount(self, filesystem: str, where: str, options: Options) -> None:
        place = self._directory(where, filesystem)
        flags = options.flags
        try:
            syscalls.mount(filesystem, f"/proc/self/fd/{place}", filesystem, flags, ",".join(options.data))
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
        self._finish(where, options)

    def bind(self, mount: dict, source: int) -> None:  # type: ignore[type-arg]
        """One bind mount: *source* is the detached copy that the helper made, with its attributes."""
        where = mount["destination"]
        self._step.doing = f"bind {mount['source']} on {where}"
        mode = os.fstat(source).st_mode
        if S_ISLNK(mode):
            self._copy_link(source, where)
            return
        place = self._target(where, directory=S_ISDIR(mode))
        syscalls.move_mount(source, place)
        os.close(place)
        if where == "/sys":
            self._remember(where)
        elif where == "/dev":
            self.has_own_dev = False

    def _copy_link(self, source: int, where: str) -> None:
        """The option `copy-symlink`: the link itself, not what it points to; what is there already stays."""
        above, _, name = where.rstrip("/").rpartition("/")
        directory = self.destination(above or "/")
        try:
            os.symlink(os.readlink("", dir_fd=source), name, dir_fd=directory)
        except FileExistsError:
            pass
        os.close(directory)

    def _device(self, name: str) -> int:
        """A detached mount of the host's device node *name*, checked to be that device."""
        source = syscalls.open_tree(syscalls.AT_FDCWD, f"/dev/{name}", syscalls.OPEN_TREE_CLONE)
        status = os.fstat(source)
        if not S_ISCHR(status.st_mode) or status.st_rdev != os.makedev(*DEVICES[name]):
            raise Failure(f"can't provide /dev/{name}: the host's /dev/{name} is not that device")
        # The node is the host's own: root with the host's ids could change its mode.  Devices work all the same.
        syscalls.mount_setattr(source, syscalls.MOUNT_ATTR_RDONLY)
        return source

    def populate_dev(self, nodes: frozenset[str]) -> None:
        """The default devices and links in /dev, unless that is a directory of somebody else's.

        *nodes* are the names that come from elsewhere.  Where nodes can be made here they are, otherwise the host's
        are bound, which gives the same.
        """
        if not self.has_own_dev:
            return
        self._step.doing = "open the new /dev"
        os.close(self.destination("/dev"))
        dev = self.open("dev", os.O_RDONLY | os.O_DIRECTORY)
        for name in DEVICES:
            if name in nodes:
                continue
            self._step.doing = f"provide /dev/{name}"
            if not self._user_namespace:
                if self._make_node(dev, name):
                    continue
            try:
                # O_EXCL: never through a link that an image has in its /dev.
                flags = os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                place = os.open(name, flags, 0o666, dir_fd=dev)
            except FileExistsError:
                place = self.open(f"dev/{name}", extra=syscalls.RESOLVE_NO_SYMLINKS)
            source = self._device(name)
            syscalls.move_mount(source, place)
            os.close(source)
            os.close(place)
        for name, target in _LINKS.items():
            try:
                os.symlink(target, name, dir_fd=dev)
            except FileExistsError:
                pass
        os.close(dev)

    def provide_console(self, terminal: int) -> None:
        """Show the terminal, a descriptor, as /dev/console (config-linux.md, "Default Devices")."""
        self._step.doing = "provide /dev/console"
        dev = self.open("dev", os.O_RDONLY | os.O_DIRECTORY)
        try:
            flags = os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            place = os.open("console", flags, 0o600, dir_fd=dev)
        except FileExistsError:
            place = self.open("dev/console", extra=syscalls.RESOLVE_NO_SYMLINKS)
        source = syscalls.open_tree(terminal, "", syscalls.OPEN_TREE_CLONE | syscalls.AT_EMPTY_PATH)
        syscalls.move_mount(source, place)
        for descriptor in (source, place, dev):
            os.close(descriptor)

    def _make_node(self, dev: int, name: str) -> bool:
        number = os.makedev(*DEVICES[name])
        try:
            os.mknod(name, 0o666 | S_IFCHR, number, dir_fd=dev)
        except FileExistsError:
            status = os.stat(name, dir_fd=dev, follow_symlinks=False)
            return S_ISCHR(status.st_mode) and status.st_rdev == number
        except PermissionError:
            return False
        return True

    def make_directory(self, path: str) -> None:
        """Make the directory *path* if nothing is there: a working directory, as crun and runc do.

        When that fails, entering it will, with a better sentence.
        """
        try:
            os.close(self.destination(path))
        except (OSError, Failure):
            pass

    def protect(self) -> None:
        """Make read-only what had to be writable until all was in its place."""
        for where in self._readonly_at_last:
            self._step.doing = f"make {where} read-only"
            mounted = self.open(where)
            syscalls.mount_setattr(mounted, syscalls.MOUNT_ATTR_RDONLY)
            os.close(mounted)

    def mask(self, path: str) -> None:
        """Cover *path*: a file with /dev/null, a directory with an empty read-only tmpfs; absent is fine."""
        self._step.doing = f"mask {path}"
        try:
            place = self.open(path)
        except (FileNotFoundError, NotADirectoryError):
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
            place = self.open(path)
        except (FileNotFoundError, NotADirectoryError):
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
        # A name with slashes may have dots in its parts, such as the name of an interface (sysctl(8)).
        path = key if "/" in key else key.replace(".", "/")
        file = self.open(f"proc/sys/{path}", flags, extra=syscalls.RESOLVE_NO_SYMLINKS)
        if os.fstat(file).st_dev != self._proc:
            raise Failure(f"can't {self._step.doing}: /proc is not procfs there")
        os.write(file, value.encode())
        os.close(file)

    def enter(self, *, readonly: bool, propagation: str | None) -> None:
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
        if not self._propagates:
            # Devices and the like came as members of the host's peer groups.
            self._step.doing = "make the mounts private"
            syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        if propagation:
            self._step.doing = f"make the root {propagation}"
            if propagation not in PROPAGATION:
                raise Failure(f"can't {self._step.doing}: there is no such propagation")
            syscalls.mount(None, "/", None, PROPAGATION[propagation])
