"""Blobs and layers on their way from a registry into the image store.

Not the registry's protocol (gear/registry.py).  A blob is written to downloads/ALGORITHM/HEX of the store, where it
survives a failure and a crash, so that the next pull asks for the rest only.  While it comes, another thread unpacks
the layer from it; both are renamed into the store after blob and layer have been verified and made durable.  Whoever
downloads a blob holds flock(2) on its file, so a second pull of the same waits and then finds it done.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gear import files, leases, store, unpacked
from gear.document import parse_digest
from gear.errors import GearError, IntegrityError, RemoteError
from gear.growing import Growing
from gear.model import Layout
from gear.netfailure import Cancelled, Lost
from gear.oci import Descriptor
from gear.patterns import pattern
from gear.registry import Repository
from gear.transport import Response

CHUNK = 256 << 10
# A registry that sends less than this in a second is taken for one that hangs.
SLOWEST = 1024
# After so many bytes an earlier failure no longer counts.
PROGRESS = 1 << 20
_RANGE = pattern(r"bytes ([0-9]{1,19})-[0-9]{1,19}/([0-9]{1,19}|\*)")
_POLL_S = 0.1

Report = Callable[[int], None]

# Unpacking is many short calls of the kernel, after each of which a thread waits for the interpreter's lock: with more
# threads than processors, and beyond three of them, all of it takes longer.
_slots = threading.Semaphore(min(3, len(os.sched_getaffinity(0))))


class Syncer:
    """syncfs(2) for several threads: one call serves all who asked before it began."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count, self._running = threading.Lock(), threading.Lock()
        self._asked = self._done = 0

    def sync(self) -> None:
        """Return when everything written before is durable."""
        with self._count:
            self._asked += 1
            mine = self._asked
        with self._running:
            if self._done >= mine:
                return
            with self._count:
                covered = self._asked
            files.sync_file_system(self._path)
            self._done = covered


@contextmanager
def claimed(layout: Layout, digest: str, stop: threading.Event) -> Iterator[int]:
    """A descriptor of the download of *digest*, which nobody else writes meanwhile."""
    path = store.place(layout, "downloads", digest)
    with files.explained(f"write {path}"):
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    break
            except (BlockingIOError, FileNotFoundError):
                # Another pull has it, or has just finished it; a blocking flock() could not be stopped.
                stop.wait(_POLL_S)
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
            if stop.is_set():
                raise Cancelled("The transfer was stopped.")
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class Layer:
    """One layer: its blob, and what it unpacks to; without a diff id just a blob, whatever is in it."""

    def __init__(
        self,
        layout: Layout,
        blob: Descriptor,
        diff_id: str | None,
        syncer: Syncer,
        stop: threading.Event,
        report: Report,
    ) -> None:
        self._layout, self._blob, self._diff_id = layout, blob, diff_id
        self._syncer, self._stop, self._report = syncer, stop, report
        self._path = store.place(layout, "downloads", blob.digest)

    def is_here(self) -> bool:
        """Whether nothing is to be done; from now on it stays."""
        leases.pin(self._layout, *(digest for digest in (self._blob.digest, self._diff_id) if digest))
        return store.is_here(self._layout, self._blob) and self._is_unpacked()

    def _is_unpacked(self) -> bool:
        return self._diff_id is None or unpacked.is_whole(self._layout, self._diff_id)

    def fetch(self, sources: list[Repository]) -> None:
        """Get it from the first of *sources* that has it whole, and put it into the store."""
        with (
            files.explained(f"keep the layer {self._blob.digest}"),
            claimed(self._layout, self._blob.digest, self._stop) as descriptor,
        ):
            if store.is_here(self._layout, self._blob):
                os.unlink(self._path)
                if not self._is_unpacked():
                    store.add_layer(self._layout, self._blob, self._diff_id)
                return
            for number, source in enumerate(sources):
                try:
                    self._from(source, descriptor)
                    return
                except Cancelled:
                    raise
                except GearError as error:
                    if number == len(sources) - 1:
                        if isinstance(error, IntegrityError):
                            os.unlink(self._path)
                        raise

    def _from(self, source: Repository, descriptor: int) -> None:
        for again in (False, True):
            resumed = os.fstat(descriptor).st_size > 0
            try:
                self._once(source, descriptor)
                return
            except IntegrityError:
                # What an earlier pull left may be damaged; then all of it is to come again.
                os.ftruncate(descriptor, 0)
                if again or not resumed:
                    raise

    def _once(self, source: Repository, descriptor: int) -> None:
        """Download and unpack at the same time."""
        growing = Growing(str(self._path))
        unpacking = _Unpacking(
            self._layout, growing, self._blob, None if self._is_unpacked() else self._diff_id
        )
        try:
            unpacking.start()
            try:
                Download(source, self._blob, descriptor, self._report).run(growing, unpacking.check)
                growing.finish()
            except GearError as error:
                growing.fail(error)
                raise
            except BaseException:
                growing.fail(Cancelled("The transfer was stopped."))
                raise
            partial = unpacking.result()
        finally:
            unpacking.join()
            growing.close()
        try:
            self._syncer.sync()
            os.rename(self._path, store.blob_path(self._layout, self._blob.digest))
            if partial is not None and self._diff_id is not None:
                store.keep_layer(self._layout, partial, self._diff_id)
        except BaseException:
            if partial is not None and partial.exists():
                shutil.rmtree(partial)
            raise


class _Unpacking(threading.Thread):
    """Unpacks a layer while it comes; without a diff id it only waits for the end."""

    def __init__(self, layout: Layout, growing: Growing, blob: Descriptor, diff_id: str | None) -> None:
        super().__init__(name=f"unpack {blob.digest[:19]}")
        self._layout, self._growing, self._blob, self._diff_id = layout, growing, blob, diff_id
        self._partial: Path | None = None
        self._failure: BaseException | None = None

    def run(self) -> None:
        if self._diff_id is None:
            return
        try:
            self._growing.wait_for(6)
            with _slots, files.explained(f"unpack the layer {self._blob.digest}"):
                self._partial, _ = store.unpack_layer(self._layout, self._growing, self._blob, self._diff_id)
        except BaseException as error:
            self._failure = error

    def check(self) -> None:
        """Raise what unpacking failed with: then there is no use in the rest of the download."""
        if self._failure is not None:
            raise self._failure

    def result(self) -> Path | None:
        """Wait for the end; the partial name of the layer."""
        self.join()
        self.check()
        return self._partial

    def join(self, timeout: float | None = None) -> None:
        super().join(timeout)
        # The download failed after this was done.
        if self._growing.failed and self._partial is not None and self._partial.exists():
            shutil.rmtree(self._partial)


class Download:
    """One blob into a file that may have the beginning of it already."""

    def __init__(self, source: Repository, blob: Descriptor, descriptor: int, report: Report) -> None:
        self._source, self._blob, self._descriptor, self._report = source, blob, descriptor, report
        self._hash = hashlib.new(parse_digest(blob.digest)[0])
        self._have = 0
        self._growing: Growing | None = None

    def run(self, growing: Growing, check: Callable[[], None]) -> None:
        """Raises RemoteError when the registry fails, IntegrityError when it sends something else; *check* may
        raise to end it."""
        self._growing = growing
        self._take_up(check)
        failures, reached = 0, self._have
        while self._have < self._blob.size:
            try:
                self._attempt(check)
                break
            except Lost as error:
                if self._have >= reached + PROGRESS:
                    failures, reached = 0, self._have
                failures += 1
                if failures > self._source.transport.retries:
                    raise RemoteError(error.message) from error
                self._source.transport.pause(failures - 1, None)
        found = f"{self._blob.digest.partition(':')[0]}:{self._hash.hexdigest()}"
        if found != self._blob.digest:
            raise IntegrityError(
                f"The blob {self._blob.digest} is damaged: its content has the digest {found}."
            )

    def _take_up(self, check: Callable[[], None]) -> None:
        """Hash what an earlier pull left."""
        if os.fstat(self._descriptor).st_size > self._blob.size:
            os.ftruncate(self._descriptor, 0)
        while data := os.pread(self._descriptor, CHUNK, self._have):
            check()
            self._add(data)
        os.lseek(self._descriptor, self._have, os.SEEK_SET)

    def _add(self, data: bytes) -> None:
        self._hash.update(data)
        self._have += len(data)
        assert self._growing is not None
        self._growing.grow(self._have)
        self._report(len(data))

    def _attempt(self, check: Callable[[], None]) -> None:
        """Ask for the rest and take what comes."""
        blob = self._blob
        with self._source.blob(blob.digest, self._have) as response:
            skip = self._place(response)
            began, counted = time.monotonic(), 0
            while piece := response.read(CHUNK):
                check()
                now = time.monotonic()
                counted += len(piece)
                if now - began > self._source.transport.timeout:
                    if counted < SLOWEST * (now - began):
                        raise RemoteError(
                            f"{self._source.what} sends the blob {blob.digest} with less than {SLOWEST} bytes a second."
                        )
                    began, counted = now, 0
                if skip:
                    skip, piece = max(0, skip - len(piece)), piece[skip:]
                if self._have + len(piece) > blob.size:
                    raise self._lies("more than")
                if piece:
                    files.write_all(self._descriptor, piece)
                    self._add(piece)
        if self._have < blob.size:
            raise Lost(
                f"{self._source.what} ended the connection after {self._have} "
                f"of {blob.size} bytes of the blob {blob.digest}."
            )

    def _place(self, response: Response) -> int:
        """How many bytes of the answer are here already; raises IntegrityError when its size can't be right."""
        if response.status == 416:
            raise self._lies("fewer than")
        start = 0
        if response.status == 206:
            match = _RANGE.fullmatch(response.headers.get("Content-Range") or "")
            if match is None or int(match[1]) > self._have or match[2] not in ("*", str(self._blob.size)):
                raise IntegrityError(
                    f"{self._source.what} sends another part of the blob {self._blob.digest} than asked for."
                )
            start = int(match[1])
        if response.length is not None and response.length != self._blob.size - start:
            raise self._lies("more than" if response.length > self._blob.size - start else "fewer than")
        return self._have - start

    def _lies(self, how: str) -> IntegrityError:
        return IntegrityError(
            f"{self._source.what} sends {how} the {self._blob.size} bytes "
            f"that the blob {self._blob.digest} should have."
        )
