"""gear cp: files between the host and a container, running or not, as a tar stream between two processes.

The container's end is a child process that takes the rights of the container's root, no more, before it touches the
container's files: it holds a descriptor of the container's root directory, is in the container's user namespace, and
runs nothing of the container.  How trees are read and made safely is in gear/transfer.py.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from gear import containers, inside, reports, stacking
from gear.errors import GearError, UsageError
from gear.files import explain
from gear.helper import syscalls
from gear.inroot import find, opened, root_of
from gear.model import Layout, container_name
from gear.records import dataclass
from gear.systemd import Manager
from gear.tarstream import Archive
from gear.transfer import Packer, Unpacker, Warn

# What one copy may hold: the disk is the limit.
_ENDLESS = 1 << 62


@dataclass(frozen=True)
class Place:
    """One end of a copy: a path of a container, a path of the host, or `-`, standard input or output."""

    text: str
    container: str | None
    path: str

    @property
    def is_stream(self) -> bool:
        return self.text == "-"

    @property
    def name(self) -> str:
        """The last component; `` for what has none of its own, such as `/` or `.`."""
        last = self.path.rstrip("/").rpartition("/")[2]
        return "" if last in (".", "..") else last

    @property
    def content_only(self) -> bool:
        """Whether what is in the directory is meant, not the directory: `DIRECTORY/.`"""
        return self.path.endswith("/.") or self.path == "."


def parse(text: str) -> Place:
    """*text* as docker cp reads it: what begins with `/` or `.` is the host's, NAME:PATH a container's."""
    if not text or "\0" in text:
        raise UsageError("An empty path can't be copied.")
    if text == "-" or text[0] in "/.":
        return Place(text, None, text)
    name, colon, path = text.partition(":")
    if not colon:
        return Place(text, None, text)
    return Place(text, container_name(name), "/" + path.lstrip("/"))


@dataclass(frozen=True)
class Options:
    """How to copy."""

    archive: bool = False  # keep user and group ids
    follow: bool = False  # of a link named as the source, copy what it leads to


def copy(layout: Layout, source: Place, target: Place, options: Options, warn: Warn) -> None:
    """Copy *source* to *target*; raises GearError.  What was copied before a failure stays."""
    if source.container is None and target.container is None:
        raise UsageError("Neither path is in a container.", hint="Write NAME:PATH for a path in a container.")
    if source.is_stream and target.is_stream:
        raise UsageError("Only one of both can be -.")
    reader, writer = (0, -1) if source.is_stream else (-1, 1) if target.is_stream else os.pipe()

    def pack(root: int | None, tell: Warn) -> None:
        _pack(source, root, writer, options, tell)

    def unpack(root: int | None, tell: Warn) -> None:
        _unpack(source, target, root, reader, options, tell)

    children = []
    claimed: set[str] = set()
    mine: GearError | None = None
    try:
        if source.container is not None:
            children.append(_child(layout, source.container, pack, claimed, closing=reader, writes=False))
        if target.container is not None:
            children.append(_child(layout, target.container, unpack, claimed, closing=writer, writes=True))
        # This process keeps only the end that it uses itself, so that the other side hears of a child's end.
        if source.container is not None and writer > 2:
            os.close(writer)
            writer = -1
        if target.container is not None and reader > 2:
            os.close(reader)
            reader = -1
        if source.container is None and not source.is_stream:
            pack(None, warn)
        elif target.container is None and not target.is_stream:
            unpack(None, warn)
    except BrokenPipeError:
        pass  # the child that has ended says why
    except GearError as error:
        mine = error
    finally:
        for descriptor in (reader, writer):
            if descriptor > 2:
                os.close(descriptor)
    theirs = reports.collect(children, warn)
    # The source's word first: to the target a source that fails looks like an archive that is cut off.
    for failure in [mine, *theirs] if source.container is None else [*theirs, mine]:
        if failure is not None:
            raise failure


def _child(
    layout: Layout,
    name: str,
    work: Callable[[int, Warn], None],
    claimed: set[str],
    *,
    closing: int,
    writes: bool,
) -> reports.Child:
    """A process with the rights of the root of the container *name* that does *work* on its root directory."""
    if not containers.exists(layout, name):
        raise containers.not_found(name)
    lock = None
    with Manager() as manager:
        found = inside.if_running(manager, layout, name)
        if found is None:
            if name not in claimed:
                lock = inside.claim(layout, name)
                claimed.add(name)
            found = inside.if_running(manager, layout, name)

    def run(tell: Warn) -> None:
        if closing > 2:
            os.close(closing)
        if found is None:
            root, userns = stacking.stack(layout.containers / name, writes=writes)
        else:
            try:
                root = root_of(found.pid)
                userns = os.open(f"/proc/{found.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            except (FileNotFoundError, ProcessLookupError):
                raise inside.not_running(name) from None
            if inside.is_gone(found):
                raise inside.not_running(name)
        _become_root_of(userns)
        work(root, tell)

    try:
        return reports.fork(run)
    finally:
        if lock is not None:
            os.close(lock)  # the child has it still


def _become_root_of(userns: int) -> None:
    """Take the container's root's rights and lose the host's."""
    os.umask(0)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    with open("/proc/self/ns/user", "rb") as own:
        if os.path.samestat(os.fstat(own.fileno()), os.fstat(userns)):
            return
    syscalls.setns(userns, syscalls.CLONE_NEWUSER)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def _pack(source: Place, root: int | None, output: int, options: Options, warn: Warn) -> None:
    flags = os.O_PATH | (0 if options.follow or source.path.endswith(("/", "/.")) else os.O_NOFOLLOW)
    try:
        if root is None:
            place = os.open(source.path, flags | os.O_CLOEXEC)
        else:
            place = find(root, source.path, flags)
    except OSError as error:
        raise _no(source, "read", error) from error
    with opened(place):
        name = b"." if source.content_only else os.fsencode(source.name) or b"."
        skip = frozenset() if root is None else _kernel_devices(root) - {os.fstat(place).st_dev}
        try:
            Packer(output, warn, skip).pack(place, name)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise explain(error, f"read {source.text}") from error


def _kernel_devices(root: int) -> frozenset[int]:
    """The file systems of /proc and /sys of a container, which nobody means to copy."""
    found = set()
    for path in ("proc", "sys", "sys/fs/cgroup"):
        try:
            with opened(find(root, path)) as place:
                found.add(os.fstat(place).st_dev)
        except OSError:
            continue
    return frozenset(found - {os.fstat(root).st_dev})


def _unpack(
    source: Place, target: Place, root: int | None, reader: int, options: Options, warn: Warn
) -> None:
    what = "the archive on standard input" if source.is_stream else f"what {source.text} gave"
    with open(reader, "rb", buffering=1 << 20, closefd=False) as stream:
        archive = Archive(stream, what, limit=_ENDLESS)
        unpacker = Unpacker(
            archive, warn, owners=options.archive or source.is_stream, trusted_modes=root is not None
        )
        try:
            _place(source, target, root, unpacker)
        except OSError as error:
            raise _no(target, "write", error) from error
        archive.drain()


def _place(source: Place, target: Place, root: int | None, unpacker: Unpacker) -> None:
    """Decide, as cp(1) and docker cp do, what the copy is called, and make it."""

    def look(path: str, flags: int = os.O_PATH) -> int:
        return os.open(path, flags | os.O_CLOEXEC) if root is None else find(root, path, flags)

    try:
        place = look(target.path)
    except FileNotFoundError:
        if source.is_stream:
            raise
        parent, _, _ = target.path.rstrip("/").rpartition("/")
        with opened(
            look(parent or ("/" if target.path.startswith("/") else "."), os.O_PATH | os.O_DIRECTORY)
        ) as above:
            unpacker.as_name(above, os.fsencode(target.name), only_directory=target.path.endswith("/"))
        return
    with opened(place):
        mode = os.fstat(place).st_mode
        if stat.S_ISDIR(mode):
            if source.is_stream:
                unpacker.below(place)
            else:
                name = "" if source.content_only else source.name
                unpacker.as_name(place, os.fsencode(name) if name else None)
        elif source.is_stream:
            raise UsageError(f"{target.text} is not a directory, so no archive can be unpacked there.")
        elif stat.S_ISREG(mode):
            unpacker.over(place, target.text)
        else:
            raise GearError(f"{target.text} is neither a directory nor a file.")


def _no(place: Place, doing: str, error: OSError) -> Exception:
    if isinstance(error, BrokenPipeError):
        return error
    if isinstance(error, FileNotFoundError):
        where = "on this machine" if place.container is None else f"in {place.container}"
        what = "no such file or directory" if doing == "read" else "no such directory"
        return GearError(f"Can't {doing} {place.text}: there is {what} {where}.")
    return explain(error, f"{doing} {place.text}")
