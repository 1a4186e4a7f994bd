"""The privileged half of a container's file system: the layers, shifted and stacked, and the sources of binds.

Runs in the helper itself, which is root on the host.  What comes out are detached mounts as descriptors, which the
payload's process attaches inside its own namespaces (gear/helper/payload.py); what has to be attached on the way is
attached in a mount namespace of the helper's own, so that nothing ever shows in the host's mount table.
"""

from __future__ import annotations

import posix as os
from _stat import S_ISLNK

from gear.helper import syscalls
from gear.helper.below import Below
from gear.helper.bundle import is_bind
from gear.helper.channel import DESCRIPTORS, FAILED, pair
from gear.helper.failure import Failure, Step
from gear.helper.options import Options

# gear's own option of a bind: the directory below the source that is meant.
SUBPATH = "x-gear.subpath="
_PROPAGATION_KINDS = syscalls.MS_PRIVATE | syscalls.MS_SHARED | syscalls.MS_SLAVE | syscalls.MS_UNBINDABLE


def own_mount_namespace(step: Step) -> None:
    """Leave the host's mount namespace; from here on no mount of ours reaches it."""
    step.doing = "make a mount namespace"
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)


def in_child(make, count: int, step: Step) -> list[int]:  # type: ignore[no-untyped-def]
    """The *count* descriptors that *make* returns when a child process calls it, which may join and leave what it
    likes.  Raises Failure."""
    ours, theirs = pair()
    child = os.fork()
    if child == 0:
        try:
            try:
                theirs.send(DESCRIPTORS, make())
            except OSError as error:
                raise step.failure(error) from error
        except Failure as failure:
            theirs.send(FAILED + failure.message.encode(errors="surrogateescape"))
        finally:
            os._exit(0)
    theirs.close()
    descriptors: list[int] = []
    sentence = f"can't {step.doing}: the process that did it has died"
    while len(descriptors) < count:
        message, more = ours.receive()
        if message.startswith(FAILED):
            sentence = message.removeprefix(FAILED).decode(errors="surrogateescape")
        if not more:
            break
        descriptors += more
    os.waitpid(child, 0)
    ours.close()
    if len(descriptors) < count:
        raise Failure(sentence)
    return descriptors


def in_private_namespace(make, count: int, step: Step) -> list[int]:  # type: ignore[no-untyped-def]
    """As in_child(), in a mount namespace of the child's own."""

    def make_there() -> list[int]:
        own_mount_namespace(step)
        descriptors: list[int] = make()
        return descriptors

    return in_child(make_there, count, step)


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
    `work` are overlayfs' writable directory and its scratch space; with `ephemeral` (true, or the size of a tmpfs) in
    their place, what is written goes away with the container.  Or `tree` is a directory that has all files.
    The caller is in a mount namespace of its own.
    """
    if "tree" in root:
        return _tree_root(root["tree"], userns_fd, step)
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
    target = f"{bundle}/rootfs"
    if root.get("ephemeral"):
        step.doing = "make the ephemeral writable layer"
        size = root["ephemeral"]
        syscalls.mount("tmpfs", target, "tmpfs", 0, "mode=700" if size is True else f"mode=700,size={size}")
        root = {"upper": f"{target}/upper", "work": f"{target}/work"}
        os.mkdir(root["work"], 0o700)
        os.mkdir(root["upper"], 0o755)
        top = os.stat(lower[0])
        os.chown(root["upper"], top.st_uid, top.st_gid)
        os.chmod(root["upper"], top.st_mode & 0o7777)
    for key in ("upper", "work"):
        step.doing = f"open the writable layer {root[key]}"
        directory = os.open(root[key], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        options.append(f"{key}dir=/proc/self/fd/{directory}")
    # What is below is read as layers by itself (gear/merged.py), which knows whiteouts and opaque directories, but no
    # directory that is another's content, no file whose content is elsewhere and no names kept in an index.
    options += ["redirect_dir=off", "metacopy=off", "index=off"]
    step.doing = "mount the layers with overlayfs"
    # No devices: a node that came with an image must not open a device of the host.
    syscalls.mount("overlay", target, "overlay", syscalls.MS_NODEV, ",".join(options))
    return syscalls.open_tree(syscalls.AT_FDCWD, target, syscalls.OPEN_TREE_CLONE)


def _tree_root(path: str, userns_fd: int | None, step: Step) -> int:
    """The directory *path*, whose files have the ids that they have inside, as a root; a detached mount."""
    step.doing = f"open the root file system {path}"
    tree = syscalls.open_tree(syscalls.AT_FDCWD, path, syscalls.OPEN_TREE_CLONE)
    if userns_fd is not None:
        shift(tree, path, userns_fd)
    # As with overlayfs: no devices, and the rest does not depend on how the file system is mounted on the host.
    clear = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOEXEC
    syscalls.mount_setattr(tree, syscalls.MOUNT_ATTR_NODEV, clear=clear)
    return tree


def directory_root(path: str, step: Step) -> int:
    """The directory *path* of the host, with what is mounted in it, as a root; a detached mount."""
    step.doing = f"open the root file system {path}"
    flags = syscalls.OPEN_TREE_CLONE | syscalls.AT_RECURSIVE
    root = syscalls.open_tree(syscalls.AT_FDCWD, path, flags)
    # Or mounts made in the container would show on the host.
    syscalls.mount_setattr(root, 0, propagation=syscalls.MS_PRIVATE, recursive=True)
    return root


def bind_sources(config: dict, userns_fd: int | None, step: Step) -> list[int]:  # type: ignore[type-arg]
    """A detached copy of the source of each bind mount in *config*, in order, with ids, attributes and propagation.

    Sources belong to the host and are opened with the host's rights; destinations belong to the container and
    are resolved by the payload's process inside its root.
    """
    descriptors = []
    for mount in config.get("mounts", ()):
        if not is_bind(mount):
            continue
        source, words = mount["source"], mount.get("options", ())
        if isinstance(source, int):  # a detached mount that a front end has made
            descriptors.append(source)
            continue
        recursive = "rbind" in words
        step.doing = f"bind {source} on {mount['destination']}"
        options = Options(words)
        if "copy-symlink" in words and _is_link(source):
            descriptors.append(os.open(source, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC))
            continue
        flags = syscalls.OPEN_TREE_CLONE | (syscalls.AT_RECURSIVE if recursive else 0)
        descriptor = _open_source(source, options, flags, step)
        # Private unless something else is asked for: what is mounted in the container stays there.
        syscalls.mount_setattr(
            descriptor,
            options.attributes[0],
            clear=options.attributes[1],
            propagation=0 if options.propagation else syscalls.MS_PRIVATE,
        )
        if recursive and not options.propagation:
            syscalls.mount_setattr(descriptor, 0, propagation=syscalls.MS_PRIVATE, recursive=True)
        for propagation in options.propagation:
            kind = propagation & _PROPAGATION_KINDS
            syscalls.mount_setattr(
                descriptor, 0, propagation=kind, recursive=bool(propagation & syscalls.MS_REC)
            )
        to_set, to_clear = options.recursive_attributes
        if to_set | to_clear:
            syscalls.mount_setattr(descriptor, to_set, clear=to_clear, recursive=True)
        mapped = "idmap" in words or "ridmap" in words
        if mount.get("uidMappings") or any(word.startswith("idmap=") for word in options.data):
            from gear.helper.idmaps import mapping_namespace

            step.doing = f"map the ids of {source}"
            own = mapping_namespace(mount, options.data, config["linux"], step)
            shift(descriptor, source, own, recursive="ridmap" in words)
            os.close(own)
        elif mapped:
            if userns_fd is None:
                raise Failure(
                    f"can't map the ids of {source}: there is neither a mapping nor a user namespace"
                )
            shift(descriptor, source, userns_fd, recursive="ridmap" in words)
        descriptors.append(descriptor)
    return descriptors


def _open_source(source: str, options: Options, flags: int, step: Step) -> int:
    """A detached copy of *source*, or of the directory in it that `x-gear.subpath=` names: whoever writes to a volume
    may have made a link of that, which leads nowhere outside."""
    for word in options.data:
        if word.startswith(SUBPATH):
            path = word.removeprefix(SUBPATH)
            step.doing = f"open {path} in {source}"
            top = os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            place = Below(top).open(path)
            os.close(top)
            found = syscalls.open_tree(place, "", flags | syscalls.AT_EMPTY_PATH)
            os.close(place)
            return found
    return syscalls.open_tree(syscalls.AT_FDCWD, source, flags)


def _is_link(path: str) -> bool:
    try:
        return S_ISLNK(os.lstat(path).st_mode)
    except OSError:
        return False


def new_instance(filesystem: str) -> int:
    """A detached proc or sysfs of the namespaces that the calling process is in."""
    attributes = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
    return syscalls.new_mount(filesystem, (), attributes)
