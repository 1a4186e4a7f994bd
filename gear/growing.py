"""A file that another thread is still writing, read as if it were whole.

Not a pipe: what was read stays, so a download can be taken up again.  The reader waits for bytes that are to come.
"""

from __future__ import annotations

import os
import threading

from gear.errors import GearError


class Growing:
    """The reading end; it has a file description of its own, and so an offset of its own."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._offset = self._size = 0
        self._whole = False
        self._failure: GearError | None = None
        self._changed = threading.Condition()

    # -- the writer's side -----------------------------------------------------------------------------------

    def grow(self, size: int) -> None:
        """The first *size* bytes are there."""
        with self._changed:
            self._size = size
            self._changed.notify_all()

    def finish(self) -> None:
        """No more will come."""
        with self._changed:
            self._whole = True
            self._changed.notify_all()

    def fail(self, failure: GearError) -> None:
        """The reader is to end with *failure*."""
        with self._changed:
            self._failure = self._failure or failure
            self._changed.notify_all()

    @property
    def failed(self) -> bool:
        """Whether the writer gave up."""
        return self._failure is not None

    # -- the reader's side -----------------------------------------------------------------------------------

    def fileno(self) -> int:
        return self._descriptor

    def read(self, size: int, /) -> bytes:
        self._wait(self._offset + 1)
        data = os.read(self._descriptor, min(size, self._size - self._offset))
        self._offset += len(data)
        return data

    def wait_for(self, size: int) -> None:
        """Wait until *size* bytes are there, or all of a shorter file."""
        self._wait(size)

    def wait_whole(self) -> None:
        """Wait for the end."""
        self._wait(1 << 63)

    def _wait(self, size: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._size >= size or self._whole or self._failure is not None)
            if self._failure is not None:
                raise self._failure

    def close(self) -> None:
        os.close(self._descriptor)
