"""Streams of layers and archives, decompressed and compressed with bounded memory.

Blobs are kept as they came: what gear compresses are backups.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import zlib
from collections.abc import Iterator
from typing import Any, Protocol, cast

from gear.errors import HostError, IntegrityError
from gear.growing import Growing

# First bytes of a file -> how it is compressed.  The fourth byte of a zstd skippable frame is fixed, too.
MAGICS = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ\0", "xz"), (b"BZh", "bzip2"))
# Beyond this many bytes of output a stream that grew more than RATIO times is taken for a bomb.  gzip can't
# grow more than 1032 times; real layers stay below 100 unless they hold large files of zeros.
RATIO_FLOOR = 256 << 20
RATIO = 500
# What a decompressor may use as a window: zstd's own default limit for decoders.
WINDOW_LOG = 27
# Bytes of compressed data that are taken at once.
COMPRESSED_CHUNK = 256 << 10


class Reader(Protocol):
    """What is needed of a stream: blocking reads, empty at the end."""

    def read(self, size: int, /) -> bytes: ...


class Source(Reader, Protocol):
    """An unbuffered regular file, perhaps one that is still being written (gear/growing.py)."""

    def fileno(self) -> int: ...


def kind_of(head: bytes) -> str:
    """How a file that begins with *head* is compressed; "plain" when it is not."""
    return next((kind for magic, kind in MAGICS if head.startswith(magic)), "plain")


class Guarded:
    """A decompressor whose complaints are IntegrityErrors about *what*, and which stops a bomb."""

    def __init__(
        self,
        inner: Reader,
        file: Source,
        what: str,
        errors: tuple[type[Exception], ...],
        *,
        floor: int,
        ratio: int,
    ) -> None:
        self._inner, self._file, self._what, self._errors = inner, file, what, errors
        self._floor, self._ratio = floor, ratio
        self._produced = 0

    def read(self, size: int, /) -> bytes:
        try:
            data = self._inner.read(size)
        except EOFError as error:
            raise IntegrityError(f"{self._what} is cut off: its compressed data ends early.") from error
        except self._errors as error:
            raise IntegrityError(f"{self._what} is damaged: {error}.") from error
        self._produced += len(data)
        # The offset of the descriptor itself: right for every decompressor, also one in another process.
        if self._produced > self._floor and self._produced > self._ratio * os.lseek(
            self._file.fileno(), 0, os.SEEK_CUR
        ):
            raise IntegrityError(f"{self._what} grows more than {self._ratio} times when it is decompressed.")
        return data


@contextlib.contextmanager
def decompressed(
    file: Source, what: str, kind: str, *, floor: int = RATIO_FLOOR, ratio: int = RATIO
) -> Iterator[Reader]:
    """The content of *file*, an unbuffered regular file at its beginning, compressed as *kind* says."""
    if kind == "plain":
        yield file
        return
    with contextlib.ExitStack() as stack:
        inner, errors = _open(file, what, kind, stack)
        yield Guarded(inner, file, what, errors, floor=floor, ratio=ratio)


def kind_by_name(name: str) -> str:
    """How a file called *name* is to be compressed."""
    for ending, kind in ((".gz", "gzip"), (".tgz", "gzip"), (".zst", "zstd"), (".tzst", "zstd")):
        if name.endswith(ending):
            return kind
    return "plain"


def compressed(pieces: Iterator[bytes], kind: str) -> Iterator[bytes]:
    """*pieces* compressed as *kind* says, plain, gzip or zstd; raises HostError where nothing here can.

    The same pieces give the same bytes: a gzip stream of zlib's has no time in it.
    """
    if kind == "plain":
        yield from pieces
        return
    if kind == "gzip":
        made: Any = zlib.compressobj(wbits=31)
    elif (zstd := _module("compression.zstd") or _module("backports.zstd")) is not None:
        made = zstd.ZstdCompressor()
    elif (zstandard := _module("zstandard")) is not None:
        made = zstandard.ZstdCompressor().compressobj()
    else:
        raise HostError(
            "Nothing here can compress with zstd.",
            hint="Install the package python3-zstandard, or choose a name that ends in .gz.",
        )
    for piece in pieces:
        if data := made.compress(piece):
            yield data
    yield made.flush()


def _open(
    file: Source, what: str, kind: str, stack: contextlib.ExitStack
) -> tuple[Reader, tuple[type[Exception], ...]]:
    """The decompressor for *kind*, and what it raises for damaged data."""
    if kind == "gzip":
        library = _module("isal.isal_zlib") or zlib
        return _Gunzip(file, library), (zlib.error, library.error, ValueError)
    if kind == "xz":
        import lzma

        return stack.enter_context(lzma.LZMAFile(cast(Any, file))), (lzma.LZMAError,)
    if kind == "bzip2":
        import bz2

        # bz2 has no error class of its own; "Invalid data stream" comes as a bare OSError without errno.
        return stack.enter_context(bz2.BZ2File(cast(Any, file))), (OSError, ValueError)
    for name in ("compression.zstd", "backports.zstd"):
        zstd = _module(name)
        if zstd is not None:
            options = {zstd.DecompressionParameter.window_log_max: WINDOW_LOG}
            return stack.enter_context(zstd.ZstdFile(file, options=options)), (zstd.ZstdError,)
    zstandard = _module("zstandard")
    if zstandard is not None:
        decompressor = zstandard.ZstdDecompressor(max_window_size=1 << WINDOW_LOG)
        return stack.enter_context(
            decompressor.stream_reader(file, read_across_frames=True, closefd=False)
        ), (zstandard.ZstdError,)
    return stack.enter_context(_Program(file, what)), ()


def _module(name: str) -> Any:
    """The optional module *name*, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


class _Gunzip:
    """gzip by zlib, or by isal where it is installed.

    Beside gzip.GzipFile because that takes 8 KiB at a time, each with a turn of the interpreter's lock, and layers
    are unpacked in several threads.
    """

    def __init__(self, file: Source, library: Any) -> None:
        self._file, self._library = file, library
        self._rest = b""
        self._inner = self._next()

    def _next(self) -> Any:
        return self._library.decompressobj(wbits=31)

    def read(self, size: int, /) -> bytes:
        while True:
            if self._inner.eof:
                self._rest = (self._rest or self._file.read(COMPRESSED_CHUNK)).lstrip(b"\0")
                if not self._rest:
                    # Zeros may follow a member, and after them the end or another member.
                    self._rest = self._file.read(COMPRESSED_CHUNK)
                    if not self._rest:
                        return b""
                    continue
                self._inner = self._next()
            data = self._rest or self._file.read(COMPRESSED_CHUNK)
            if not data:
                raise EOFError
            found: bytes = self._inner.decompress(data, size)
            self._rest = self._inner.unused_data if self._inner.eof else self._inner.unconsumed_tail
            if found:
                return found


class _Program:
    """zstd(1) as a child that reads *file* by itself and whose exit status is checked at the end."""

    def __init__(self, file: Source, what: str) -> None:
        if isinstance(file, Growing):
            file.wait_whole()  # the program would take the end of what is there for the end
        # Here, since all that deals with images comes by this module.
        import shutil
        import subprocess

        program = shutil.which("zstd")
        if program is None:
            raise HostError(
                f"{what} is compressed with zstd, which nothing here can read.",
                hint="Install the package python3-zstandard or zstd.",
            )
        self._what = what
        self._child = subprocess.Popen(
            [program, "-dcq", f"--memory={1 << WINDOW_LOG >> 20}MB"],
            stdin=file.fileno(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> _Program:
        return self

    def __exit__(self, *details: object) -> None:
        self._child.kill()
        self._child.wait()
        assert self._child.stdout is not None
        self._child.stdout.close()

    def read(self, size: int, /) -> bytes:
        assert self._child.stdout is not None
        data: bytes = self._child.stdout.read(size)
        if not data and self._child.wait() != 0:
            raise IntegrityError(f"{self._what} is damaged: zstd can't decompress it.")
        return data
