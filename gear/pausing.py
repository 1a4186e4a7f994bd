"""Keeping a container's files as they are while they are copied: who runs is frozen, who does not is not started.

A container must not stay frozen because gear was killed.  A child process, which outlives gear by a moment, thaws it;
and if that was killed as well, the mark `pausing` in the container's directory, which nobody holds a lock on then,
tells the next run (`recover`).
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gear import containers, files, inside
from gear.errors import GearError
from gear.model import Layout
from gear.systemd import Manager

NO_PAUSE = "With --no-pause it is not paused; what it writes meanwhile may then be half in the copy."


def mark(layout: Layout, name: str) -> Path:
    """The file that says that gear has frozen the container, and not its administrator."""
    return layout.containers / name / "pausing"


@contextmanager
def still(manager: Manager, layout: Layout, name: str, *, pause: bool) -> Iterator[None]:
    """Nothing of *name* writes to its files inside: a container that runs is frozen, unless *pause* is False.

    One that is frozen already stays so afterwards.  Raises GearError, with a hint about --no-pause.
    """
    recover(manager, layout, name)
    found = inside.if_running(manager, layout, name)
    lock = None
    if found is None:
        lock = inside.claim(layout, name)
        found = inside.if_running(manager, layout, name)
    try:
        if found is None or found.frozen or not pause:
            yield
        else:
            with _marked(layout, name), _thawed_if_killed(found.unit), _frozen(manager, layout, found):
                yield
    finally:
        if lock is not None:
            os.close(lock)


@contextmanager
def _frozen(manager: Manager, layout: Layout, found: inside.Running) -> Iterator[None]:
    try:
        try:
            inside.freeze(manager, found)
        except GearError as error:
            raise GearError(error.message, hint=NO_PAUSE) from error
        yield
    finally:
        if manager.is_frozen(found.unit):
            manager.thaw(found.unit)
        files.remove_file(mark(layout, found.name))


@contextmanager
def _marked(layout: Layout, name: str) -> Iterator[None]:
    path = mark(layout, name)
    with files.explained(f"write {path}"):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if not _locked(descriptor) or os.fstat(descriptor).st_nlink == 0:
            raise GearError(
                f"Somebody else has paused {name} to copy its files.", hint="Try again in a moment."
            )
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _thawed_if_killed(unit: str) -> Iterator[None]:
    """Have a child process that thaws *unit* if this one ends before it leaves here."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            os.close(writer)
            _watch(reader, unit)
        os._exit(0)
    os.close(reader)
    try:
        yield
    finally:
        with suppress(OSError):
            os.write(writer, b"done")
        os.close(writer)
        os.waitpid(child, 0)


def _watch(reader: int, unit: str) -> None:
    """Wait for a word of the parent; when its end of the pipe closes without one, it was killed."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # nobody who reads what gear prints should wait for this
        os.dup2(null, stream)
    if os.read(reader, 4):
        return
    with Manager() as manager:
        if manager.is_frozen(unit):
            manager.thaw(unit)


def abandoned(layout: Layout, name: str) -> bool:
    """Whether gear was killed while it had *name* paused."""
    try:
        descriptor = os.open(mark(layout, name), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        return _locked(descriptor)
    finally:
        os.close(descriptor)


def recover(manager: Manager, layout: Layout, name: str) -> bool:
    """Thaw *name* if a gear that was killed has left it frozen; tells whether it was so."""
    if not abandoned(layout, name):
        return False
    unit = containers.unit_of(layout, name)
    frozen = manager.is_frozen(unit)
    if frozen:
        manager.thaw(unit)
    files.remove_file(mark(layout, name))
    return frozen
