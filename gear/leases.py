"""Who is at work in the image store, and what of it they need.

Not what is in the store (gear/store.py), nor what is removed from it (gear/garbage.py).  There are two kinds of lease:

    whole()     nothing at all is removed while it is held: a shared flock(2) on `lock`.  For short work.
    pinning()   what was pinned is not removed: a file leases/PID-HEX, flock(2)ed by its owner, with a digest on each
                line.  For work that takes as long as a network or a disk does.

Whoever removes holds `lock` alone, which takes moments: what goes is renamed under it and emptied afterwards.  A digest
is pinned under a shared lock and before anybody looks whether it is here, so either the removal sees the pin, or
whoever pinned sees that the thing is gone.  Locks end with their holder, SIGKILL included; the file of a lease that
nobody holds any more means nothing, and the next removal takes it away.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gear import files
from gear.document import DIGEST
from gear.errors import GearError
from gear.model import Layout
from gear.patterns import pattern
from gear.records import dataclass

# How long a removal waits for leases of the first kind before it says who holds them.
PATIENCE_S = 10.0
_POLL_S = 0.05
_VERB = pattern(r"[a-z][a-z-]{1,19}", re.ASCII)


@dataclass(frozen=True)
class Worker:
    """A process that holds a lease, and the digests that it needs; None means everything."""

    pid: int
    command: str
    needs: frozenset[str] | None

    def __str__(self) -> str:
        return f"{self.command} (process {self.pid})"


@dataclass
class _Own:
    """A pinning lease of this process."""

    path: Path
    descriptor: int
    pinned: set[str]
    depth: int = 1


_own: dict[Path, _Own] = {}
_guard = threading.RLock()


def _lock(layout: Layout) -> Path:
    return layout.images / "lock"


def directory(layout: Layout) -> Path:
    """Where the files of pinning leases are."""
    return layout.images / "leases"


@contextmanager
def whole(layout: Layout) -> Iterator[None]:
    """Keep everything in the store from being removed; waits for a removal under way."""
    with files.locked(_lock(layout), shared=True):
        yield


@contextmanager
def pinning(layout: Layout) -> Iterator[None]:
    """Keep what is pinned from now on from being removed.  May be nested; the outermost one counts."""
    with _guard:
        own = _own.get(layout.images)
        if own is not None:
            own.depth += 1
        else:
            path = directory(layout) / f"{os.getpid()}-{os.urandom(6).hex()}"
            own = _own[layout.images] = _Own(path, _begin(layout, path), set())
    try:
        yield
    finally:
        with _guard:
            own.depth -= 1
            if own.depth == 0:
                del _own[layout.images]
                with suppress(OSError):  # the next removal does it
                    os.unlink(own.path)
                os.close(own.descriptor)


def _begin(layout: Layout, path: Path) -> int:
    with files.locked(_lock(layout), shared=True), files.explained(f"write {path}"):
        descriptor = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def pin(layout: Layout, *digests: str) -> None:
    """Keep the blobs, layers and images *digests* from being removed, whether they are here or not yet.

    Lasts as long as the pinning lease that this process holds; without one nothing is done.
    """
    with _guard:
        own = _own.get(layout.images)
        fresh = [] if own is None else [digest for digest in digests if digest not in own.pinned]
        if own is None or not fresh:
            return
        with files.locked(_lock(layout), shared=True), files.explained(f"write to {directory(layout)}"):
            files.write_all(own.descriptor, "".join(f"{digest}\n" for digest in fresh).encode())
        own.pinned.update(fresh)


@contextmanager
def alone(layout: Layout, *, wait: float = 0.0) -> Iterator[bool]:
    """Hold the store's lock without anyone else, for moments; the value tells whether that succeeded within *wait*
    seconds.  Who holds pinning leases is at work all the same: pinned() has to be left alone."""
    path = _lock(layout)
    with files.explained(f"lock {path}"):
        # Nobody ever removes this lock file, so there is no name to compare as in files.locked().
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    yield False
                    return
            time.sleep(_POLL_S)
        yield True
    finally:
        os.close(descriptor)


def pinners(layout: Layout) -> list[Worker]:
    """Who holds pinning leases."""
    found = []
    for path in _files(layout):
        needs = _read(path)
        if needs is not None:
            pid = int(path.name.partition("-")[0])
            found.append(Worker(pid, _command(pid), frozenset(needs)))
    return found


def pinned(layout: Layout) -> set[str]:
    """All that pinning leases need."""
    return {digest for worker in pinners(layout) for digest in worker.needs or ()}


def require_unneeded(layout: Layout, digest: str, path: Path) -> None:
    """Raise GearError while another process needs the blob or layer *digest*, which is *path*.

    The caller holds alone().
    """
    others = [
        worker for worker in pinners(layout) if worker.pid != os.getpid() and digest in (worker.needs or ())
    ]
    if others:
        raise GearError(f"{path} stays, because {', '.join(map(str, others))} needs it now.")


def workers(layout: Layout) -> list[Worker]:
    """Everybody who holds a lease, of either kind."""
    return [Worker(pid, _command(pid), None) for pid in _holders(_lock(layout))] + pinners(layout)


def who_works(layout: Layout) -> str:
    """A clause about those who are at work in the store."""
    found = [str(worker) for worker in workers(layout)]
    if not found:
        return "another command was at work in the image store"
    return f"{', '.join(found)} {'needs' if len(found) == 1 else 'need'} it"


def forget(layout: Layout) -> list[Path]:
    """Remove the files of leases that nobody holds.  The caller holds alone()."""
    gone = abandoned(layout)
    for path in gone:
        files.remove_file(path)
    return gone


def abandoned(layout: Layout) -> list[Path]:
    """The files of leases that nobody holds."""
    return [path for path in _files(layout) if _read(path) is None]


def _files(layout: Layout) -> list[Path]:
    with files.explained(f"read {directory(layout)}"):
        try:
            return sorted(path for path in directory(layout).iterdir() if path.name[:1].isdigit())
        except FileNotFoundError:
            return []


def _read(path: Path) -> set[str] | None:
    """What the lease *path* has pinned; None when nobody holds it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as file:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
        except BlockingIOError:
            lines = file.read().decode("ascii", "replace").splitlines()
    # A lease whose owner was killed while it wrote has none; what is written is whole under the lock.
    return {line for line in lines if DIGEST.fullmatch(line)}


def _holders(path: Path) -> list[int]:
    """The processes that hold flock(2) on *path*, by /proc/locks (proc(5)), as far as this pid namespace has them."""
    try:
        status = path.stat()
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return []
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    found = set()
    for line in lines:
        words = line.split()
        if len(words) >= 6 and words[1] == "FLOCK" and words[5] == place and words[4].isdigit():
            found.add(int(words[4]))
    return sorted(found - {0, os.getpid()})


def _command(pid: int) -> str:
    """The program and verb of a process: options may hold what is not for everybody."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        words = []
    while words and (words[0].startswith("-") or os.path.basename(words[0]).startswith("python")):
        del words[0]
    if not words:
        return "a command"
    verbs = itertools.takewhile(_VERB.fullmatch, words[1:3])
    return " ".join([os.path.basename(words[0])[:80], *verbs])
