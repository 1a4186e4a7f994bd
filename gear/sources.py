"""Images in local files: OCI layouts and archives of `docker save`.

Not registries, and not root file systems (gear/pack.py, gear/loading.py).  An archive is hostile: it is
indexed, and its members are read by names that gear derived from digests or looked up there; nothing is ever
extracted by name.
"""

from __future__ import annotations

import errno
import os
import posixpath
import re
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Protocol

from gear import files
from gear.compression import Reader, decompressed, kind_of
from gear.document import DOCUMENT_LIMIT, Node, parse_digest, parse_document, parse_json
from gear.errors import IntegrityError, UsageError
from gear.oci import INDEXES, Descriptor, Manifest, Platform, choose, index_entries
from gear.patterns import pattern
from gear.records import dataclass
from gear.tarstream import Archive

CHUNK = 1 << 20
# Largest archive, when its size can't be known before reading it.
SPOOL_LIMIT = 64 << 30
MEMBER_LIMIT = 100_000
LINK_LIMIT = 8
NESTING_LIMIT = 3
# The first has a full name where it is used; the second is a name for some and only a tag for others.
NAME_ANNOTATIONS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
# The tag of what is no image, but signatures of one (gear/cosign.py).
SIGNATURES = pattern(r"sha(?:256|512)-[0-9a-f]{64,128}\.sig", re.ASCII)


@dataclass(frozen=True)
class Part:
    """One blob of a source.  Without a descriptor its digest is known only after reading it."""

    open: Callable[[], Reader]
    expected: Descriptor | None


@dataclass(frozen=True)
class Candidate:
    """One image of a source, and what the source calls it.  docker-archives have no manifest, and so no digest."""

    names: tuple[str, ...]
    manifest: bytes | None
    manifest_type: str
    config: Part
    layers: tuple[Part, ...]
    digest: str = ""  # as the source's index has it
    # The indexes between that of the source and the manifest, innermost first.
    indexes: tuple[tuple[Descriptor, bytes], ...] = ()


class Files(Protocol):
    """The files of a source, by name."""

    what: str
    # Where they are, with links resolved; "" for standard input.
    path: str

    def open(self, name: str) -> Reader | None: ...


class DirectoryFiles:
    """The files below a directory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.what, self.path = str(path), os.path.realpath(path)
        self._stack = ExitStack()

    def open(self, name: str) -> Reader | None:
        try:
            descriptor = os.open(
                self._path / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            )
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise IntegrityError(
                    f"{self._path / name} is a symlink, where a file was expected."
                ) from error
            raise files.explain(error, f"read {self._path / name}") from error
        file = self._stack.enter_context(open(descriptor, "rb", buffering=0))
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise IntegrityError(f"{self._path / name} is not a regular file.")
        return file

    def close(self) -> None:
        self._stack.close()


class Slice:
    """A member of an uncompressed archive."""

    def __init__(self, file: IO[bytes], offset: int, size: int) -> None:
        self._file, self._offset, self._end = file, offset, offset + size

    def read(self, size: int, /) -> bytes:
        data = os.pread(self._file.fileno(), min(size, self._end - self._offset), self._offset)
        self._offset += len(data)
        return data


class ArchiveFiles:
    """The files of an uncompressed tar archive, found in one pass over its headers."""

    def __init__(self, file: IO[bytes], what: str, path: str) -> None:
        self._file, self.what, self.path = file, what, path
        self._members: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        size = os.fstat(file.fileno()).st_size

        def skip(count: int) -> None:
            if file.seek(count, os.SEEK_CUR) > size:
                raise IntegrityError(f"{what} is cut off: it ends in the middle of an entry.")

        archive = Archive(file, what, limit=max(size, SPOOL_LIMIT), skip=skip)
        for number, entry in enumerate(archive):
            if number >= MEMBER_LIMIT:
                raise IntegrityError(f"{what} has more than {MEMBER_LIMIT} members, too many for an image.")
            name = _clean(entry.name)
            if name is None or entry.kind == "directory":
                continue
            if name in self._members or name in self._links:
                raise IntegrityError(f"{what} holds {ascii(name)} twice.")
            if entry.kind == "file" and entry.sparse is None:
                self._members[name] = (archive.position, entry.size)
            elif entry.kind == "symlink":
                self._links[name] = posixpath.join(posixpath.dirname(name), os.fsdecode(entry.target))
            elif entry.kind == "hard link":
                self._links[name] = os.fsdecode(entry.target)

    def open(self, name: str) -> Reader | None:
        for _ in range(LINK_LIMIT):
            name = posixpath.normpath(name)
            if name in self._members:
                return Slice(self._file, *self._members[name])
            if name not in self._links:
                return None
            name = self._links[name]
        raise IntegrityError(f"{self.what} holds links that lead nowhere.")


def _clean(name: bytes) -> str | None:
    """The name of a member, or None for one that no image has."""
    parts = [part for part in os.fsdecode(name).split("/") if part not in ("", ".")]
    return None if not parts or ".." in parts or "\0" in os.fsdecode(name) else "/".join(parts)


@contextmanager
def opened(source: str, spool: Path) -> Iterator[Files]:
    """The files of *source*: a directory, an archive, or `-` for an archive on standard input.

    What can't be read at random, because it is compressed or a pipe, is first written to a nameless file
    in the directory *spool*.
    """
    if source != "-" and os.path.isdir(source):
        directory = DirectoryFiles(Path(source))
        try:
            yield directory
        finally:
            directory.close()
        return
    with ExitStack() as stack:
        file, what = seekable(source, spool, stack)
        kind = kind_of(os.pread(file.fileno(), 6, 0))
        if kind != "plain":
            file = _spooled(stack.enter_context(decompressed(file, what, kind)), what, spool, stack)
        yield ArchiveFiles(file, what, "" if source == "-" else os.path.realpath(source))


def seekable(source: str, spool: Path, stack: ExitStack) -> tuple[IO[bytes], str]:
    """An unbuffered regular file with the bytes of *source*, at its beginning, and its name for errors."""
    if source == "-":
        return _spooled(sys.stdin.buffer, "Standard input", spool, stack), "Standard input"
    with files.explained(f"read {source}"):
        file = stack.enter_context(open(source, "rb", buffering=0))
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file, source
    return _spooled(file, source, spool, stack), source


def _spooled(stream: Reader, what: str, spool: Path, stack: ExitStack) -> IO[bytes]:
    """*stream* as a nameless file (O_TMPFILE), which the kernel frees even if gear is killed."""
    with files.explained(f"keep {what} in {spool}"):
        file = stack.enter_context(tempfile.TemporaryFile(dir=spool, buffering=0))
        size = 0
        while data := stream.read(CHUNK):
            size += len(data)
            if size > SPOOL_LIMIT:
                raise IntegrityError(f"{what} is larger than {SPOOL_LIMIT} bytes.")
            files.write_all(file.fileno(), data)
        file.seek(0)
    return file


def candidates(source: Files, platform: Platform) -> list[Candidate]:
    """The images of *source* for *platform*."""
    if (layout := source.open("oci-layout")) is not None:
        version = parse_document(_whole(layout, f"{source.what}: oci-layout"), f"{source.what}: oci-layout")
        if not version.text("imageLayoutVersion").startswith("1."):
            raise IntegrityError(f"{source.what} is an OCI layout of an unknown version.")
        return _oci(source, platform)
    elif (manifest := source.open("manifest.json")) is not None:
        what = f"{source.what}: manifest.json"
        return _docker(source, Node({"images": parse_json(_whole(manifest, what), what)}, what))
    raise IntegrityError(
        f"{source.what} is not an image: it has neither oci-layout nor manifest.json.",
        hint="For a root file system use `gear image import`.",
    )


def transport(source: Files, candidate: Candidate) -> str:
    """What containers call the kind of file that *candidate* is from (containers-transports(5))."""
    if candidate.manifest is None:
        return "docker-archive"
    return "oci" if isinstance(source, DirectoryFiles) else "oci-archive"


def _whole(stream: Reader, what: str) -> bytes:
    """All of a document."""
    data = b""
    while piece := stream.read(CHUNK):
        data += piece
        if len(data) > DOCUMENT_LIMIT:
            raise IntegrityError(f"{what} is larger than {DOCUMENT_LIMIT} bytes.")
    return data


def _blob(source: Files, expected: Descriptor) -> Part:
    """A blob of an OCI layout."""
    algorithm, digits = parse_digest(expected.digest)

    def read() -> Reader:
        stream = source.open(f"blobs/{algorithm}/{digits}")
        if stream is None:
            raise IntegrityError(f"{source.what} lacks the blob {expected.digest}.")
        return stream

    return Part(read, expected)


def entries(source: Files) -> list[tuple[str, Descriptor]]:
    """What the index of an OCI layout lists, and the name of each, "" if it has none; nothing for other files."""
    what = f"{source.what}: index.json"
    stream = source.open("index.json")
    if stream is None:
        return []
    return [
        (next((entry.annotations[key] for key in NAME_ANNOTATIONS if entry.annotations.get(key)), ""), entry)
        for entry in index_entries(parse_document(_whole(stream, what), what))
    ]


def _oci(source: Files, platform: Platform) -> list[Candidate]:
    """The images of an OCI layout: one for each name, or the one for this host when there are no names."""
    if source.open("index.json") is None:
        raise IntegrityError(f"{source.what} is not a whole OCI layout: it lacks index.json.")
    groups: dict[str, list[Descriptor]] = {}
    for name, entry in entries(source):
        if not SIGNATURES.fullmatch(name.rpartition(":")[2]):
            groups.setdefault(name, []).append(entry)
    if not groups:
        raise IntegrityError(f"{source.what} holds no image: its index is empty.")
    chosen: dict[str, tuple[list[str], Descriptor, tuple[tuple[Descriptor, bytes], ...]]] = {}
    for name, same in groups.items():
        entry, indexes = _descend(source, choose(same, platform, source.what), platform)
        chosen.setdefault(entry.digest, ([], entry, indexes))[0].extend([name] if name else [])
    return [_manifest(source, *found) for found in chosen.values()]


def _descend(
    source: Files, entry: Descriptor, platform: Platform
) -> tuple[Descriptor, tuple[tuple[Descriptor, bytes], ...]]:
    """The manifest for *platform* behind indexes of indexes, and these, innermost first."""
    indexes: tuple[tuple[Descriptor, bytes], ...] = ()
    for _ in range(NESTING_LIMIT):
        if entry.media_type not in INDEXES:
            return entry, indexes
        what = f"The index {entry.digest}"
        data = verified(source, entry, what)
        indexes, node = ((entry, data), *indexes), parse_document(data, what)
        entry = choose(index_entries(node, entry.media_type), platform, source.what)
    raise IntegrityError(f"{source.what} has indexes nested more than {NESTING_LIMIT} deep.")


def verified(source: Files, entry: Descriptor, what: str) -> bytes:
    """The content of a small blob, checked against its descriptor."""
    data = _whole(_blob(source, entry).open(), what)
    entry.check(data, what)
    return data


def _manifest(
    source: Files, names: list[str], entry: Descriptor, indexes: tuple[tuple[Descriptor, bytes], ...]
) -> Candidate:
    what = f"The manifest {entry.digest}"
    data = verified(source, entry, what)
    manifest = Manifest.from_node(parse_document(data, what), entry.media_type)
    return Candidate(
        tuple(names),
        data,
        manifest.media_type,
        _blob(source, manifest.config),
        tuple(_blob(source, layer) for layer in manifest.layers),
        entry.digest,
        indexes,
    )


def _docker(source: Files, document: Node) -> list[Candidate]:
    """The images of an archive by `docker save`."""
    result = []
    for node in document.nodes("images"):

        def part(name: str) -> Part:
            def read() -> Reader:
                stream = source.open(name)
                if stream is None:
                    raise IntegrityError(f"{source.what} lacks {ascii(name[:200])}.")
                return stream

            return Part(read, None)

        result.append(
            Candidate(
                node.texts("RepoTags") or (),
                None,
                "",
                part(node.text("Config", None)),
                tuple(part(name) for name in node.texts("Layers") or ()),
            )
        )
    if not result:
        raise IntegrityError(f"{source.what} holds no image: its manifest.json is empty.")
    return result


def one(found: list[Candidate], what: str) -> Candidate:
    """The only candidate; raises UsageError naming them when there are several."""
    if len(found) == 1:
        return found[0]
    names = sorted(name for candidate in found for name in candidate.names)
    raise UsageError(
        f"{what} holds {len(found)} images, which can't all have one name.",
        hint=f"Load some of them by their names, or all without --name; they are called {', '.join(names)}."
        if names
        else None,
    )
