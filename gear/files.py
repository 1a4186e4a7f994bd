"""Files of gear's own on the host: atomic writes, locks, removal.

Not for anything inside a container's tree or an image layer: those are hostile and are only reached below a
directory descriptor.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gear.errors import GearError, HostError, IntegrityError

# Names that start so are work in progress; whoever finds one without its maker may remove it.
PARTIAL = ".partial-"


def explain(error: OSError, doing: str) -> GearError:
    """The one place where an OSError of the host's file system becomes a sentence.

    *doing* says what was attempted on what, as in "write /var/lib/gear/x".
    """
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return GearError(
            f"Can't {doing}: the file system is full.",
            hint="Free some space, then run the same command again.",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return HostError(f"Can't {doing}: {reason}.", hint="gear needs root: run it with sudo.")
    if error.errno == errno.EROFS:
        return HostError(f"Can't {doing}: the file system is read-only.")
    return GearError(f"Can't {doing}: {reason}.")


@contextlib.contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn an OSError raised inside into the GearError that explain() makes of it."""
    try:
        yield
    except OSError as error:
        raise explain(error, doing) from error


def make_directory(path: Path, mode: int = 0o755) -> None:
    """Create *path* and its parents (0755); the last one gets *mode* if it was made here."""
    with explained(f"create the directory {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.mkdir(path, mode)
        except FileExistsError:
            if not path.is_dir():
                raise
            return
        os.chmod(path, mode)


def sync_directory(path: Path) -> None:
    """Make the names in *path* durable (fsync(2) of a directory)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(path: Path) -> None:
    """syncfs(2): makes a whole tree durable in one call; fsync of each file takes many times longer."""
    import ctypes  # here, since it is slow to import and only what makes trees needs it

    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(ctypes.c_int(descriptor)) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
    finally:
        os.close(descriptor)


def exchange(first: Path, second: Path) -> None:
    """Let two directories have each other's names, in one step: renameat2(2) with RENAME_EXCHANGE.  Raises OSError."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    names = [ctypes.c_char_p(os.fsencode(path)) for path in (first, second)]
    # AT_FDCWD (-100) means nothing for absolute paths; RENAME_EXCHANGE is 2 (linux/fs.h).
    if libc.renameat2(-100, names[0], -100, names[1], ctypes.c_uint(2)) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def partial_name(path: Path) -> Path:
    """A fresh name beside *path* for work that is renamed into place when it is complete."""
    return path.with_name(f"{PARTIAL}{path.name}-{os.urandom(6).hex()}")


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace *path* with *data*, durably; readers see the old file or the new one, never a mixture."""
    partial = partial_name(path)
    with explained(f"write {path}"):
        write_new(partial, data, mode)
        try:
            os.rename(partial, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)
            raise
        sync_directory(path.parent)


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Make the file *path* with *data*, which is durable then; its name is with sync_directory().  Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        raise


def overwrite(path: Path, data: bytes) -> None:
    """Change the content of *path*, durably, and not the file: for what is mounted elsewhere.  Readers may see a
    mixture, so whoever reads it has to be told when it is whole."""
    with explained(f"write {path}"):
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            write_all(descriptor, data)
            os.ftruncate(descriptor, len(data))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of *data*; write(2) may do less at a time."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def read_bytes(path: Path | str, limit: int = 16 << 20) -> bytes | None:
    """The content of a regular file of at most *limit* bytes; None when there is no such file."""
    with explained(f"read {path}"):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        # Without a file object, which takes twice as long as all else here.
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise IntegrityError(f"{path} is not a regular file.")
            # Not as much as it may have: that would have memory of that size made ready each time.
            data = os.read(descriptor, min(status.st_size, limit) + 1)
            # It grows, is procfs's, or of a file system that gives it in parts.
            if len(data) != status.st_size:
                while len(data) <= limit and (more := os.read(descriptor, 1 << 16)):
                    data += more
        finally:
            os.close(descriptor)
    if len(data) > limit:
        raise IntegrityError(f"{path} is larger than the {limit} bytes that such a file may have.")
    return data


def read_json(path: Path | str, limit: int = 16 << 20) -> Any:
    """The JSON document in *path*, or None when there is no such file."""
    data = read_bytes(path, limit)
    if data is None:
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path} is not valid JSON: {error}.") from error


def dump_json(document: Any) -> bytes:
    """The one JSON form of gear's own files: sorted, indented, ASCII, newline at the end."""
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode("ascii")


@contextlib.contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold flock(2) on *path* (made if missing), waiting for whoever has it.

    After the lock is granted the name is compared with what was opened, so a lock file that was removed
    meanwhile does not count.  The kernel drops the lock when the holder dies.
    """
    with explained(f"lock {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    break
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
    try:
        yield
    finally:
        os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Remove *path* and all below it; it is renamed first, durably, so a half-removed tree is never taken for whole.

    Not for what containers can write to (gear/removal.py).
    """
    with explained(f"remove {path}"):
        if not path.name.startswith(PARTIAL):
            doomed = partial_name(path)
            try:
                os.rename(path, doomed)
            except FileNotFoundError:
                return
            sync_directory(path.parent)
            path = doomed
        import shutil  # here, since few change anything, and fewer remove trees

        # shutil.rmtree works below directory descriptors and follows no symlink (avoids_symlink_attacks).
        shutil.rmtree(path)


def remove_file(path: Path) -> bool:
    """Unlink *path*; tells whether it was there."""
    with explained(f"remove {path}"):
        try:
            os.unlink(path)
        except FileNotFoundError:
            return False
        return True


def remove_durably(path: Path) -> bool:
    """Unlink *path*, so that a power cut does not bring it back; tells whether it was there."""
    if not remove_file(path):
        return False
    with explained(f"remove {path}"):
        sync_directory(path.parent)
    return True
