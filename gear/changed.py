"""How one merged tree differs from another: as a list, and as the layer that makes the one of the other.

Both are walked in step.  What both take from the same layers is the same and is not looked at, so a container is
compared with its image in the time that its own files take.  Where files are not the same ones, their attributes are
compared, and then their content: a time that somebody has set back says nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from gear.files import explained
from gear.merged import VANISHED, Bound, Node, Root, looked_up, names, opened
from gear.pack import WHITEOUT, Packed, Writer, marker, whiteout
from gear.records import dataclass
from gear.tarstream import BLOCK

_CHUNK = 1 << 20
ROOT = b"./"
ADDED, CHANGED, DELETED = "A", "C", "D"


@dataclass(frozen=True)
class Change:
    """One line of a diff: `A`dded, `C`hanged or `D`eleted, as docker diff has them, and the path in the tree."""

    kind: str
    path: str


@dataclass(frozen=True)
class _Event:
    """What was found at *path*, which begins with `./`.

    *replaced*: everything that was in this directory is gone; what it had is told as deleted all the same, as *hidden*
    by that.
    """

    kind: str
    path: bytes
    node: Node | None = None
    replaced: bool = False
    hidden: bool = False


def changes(old: Sequence[Root], new: Sequence[Root], what: str, ignored: frozenset[bytes]) -> list[Change]:
    """What *new* has and *old* has not, and the other way round; roots are listed lowest first, *old* may be none.

    *what* names the tree in errors.  Of the paths *ignored* (as b"./etc/hosts") empty files and directories that are
    new do not count: they are made for mounts.
    """
    with _events(old, new, what, ignored) as events:
        return [
            Change(event.kind, os.fsdecode(event.path[1:].rstrip(b"/")))
            for event in events
            if event.path != ROOT
        ]


def is_changed(old: Sequence[Root], new: Sequence[Root], what: str, ignored: frozenset[bytes]) -> bool:
    """Whether a layer would have anything in it."""
    with _events(old, new, what, ignored) as events:
        return next(events, None) is not None


class Layer(Packed):
    """The layer that on top of *old* makes *new*, as a tar stream: the same whenever the trees are the same."""

    def __init__(
        self,
        old: Sequence[Root],
        new: Sequence[Root],
        what: str,
        ignored: frozenset[bytes],
        torn: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(self._archive(old, new, what, ignored, torn))
        # The latest time of a change to any file in it, in nanoseconds; known when it was read.
        self.newest_ns = 0

    def _archive(
        self,
        old: Sequence[Root],
        new: Sequence[Root],
        what: str,
        ignored: frozenset[bytes],
        torn: Callable[[str], None] | None,
    ) -> Iterator[bytes]:
        writer = Writer(what, torn=torn)
        with explained(f"read {what}"), _events(old, new, what, ignored) as events:
            for event in events:
                if event.node is None:
                    if not event.hidden:
                        yield whiteout(event.path)
                    continue
                if stat.S_ISSOCK(event.node.status.st_mode):
                    if event.kind == CHANGED:  # an archive has no sockets, but what was there is gone
                        yield whiteout(event.path)
                    continue
                if event.path != ROOT:
                    self.newest_ns = max(self.newest_ns, event.node.status.st_mtime_ns)
                yield from writer.entry(event.node, event.path)
                if event.replaced:
                    yield marker(event.path + WHITEOUT + b".wh..opq")
        yield bytes(2 * BLOCK)


@contextmanager
def _events(
    old: Sequence[Root], new: Sequence[Root], what: str, ignored: frozenset[bytes]
) -> Iterator[Iterator[_Event]]:
    with ExitStack() as stack:
        was = stack.enter_context(opened(old)) if old else None
        found = stack.enter_context(opened(new))
        comparison = _Comparison(what, ignored)
        comparison.find_links(was, found, ROOT)
        yield comparison.directory(was, found, ROOT)


class _Comparison:
    """One walk over two trees."""

    def __init__(self, what: str, ignored: frozenset[bytes]) -> None:
        self._bound = Bound(what)
        self._ignored = ignored
        # Files with several names: the names of each, in the old tree and in the new one.
        self._before: dict[tuple[int, int], set[bytes]] = {}
        self._now: dict[tuple[int, int], set[bytes]] = {}

    def find_links(self, old: Node | None, new: Node, path: bytes) -> None:
        """Learn which names are names of one file.  Of the old tree those that are gone don't count."""
        self._bound.check(path)
        if old is not None and _same_layers(old, new):
            return
        for name in names(new):
            with _both(old, new, name) as (was, found):
                if found is None:
                    continue
                if found.is_directory:
                    self.find_links(was if was and was.is_directory else None, found, path + name + b"/")
                    continue
                if found.status.st_nlink > 1:
                    self._now.setdefault(found.file, set()).add(path + name)
                if was is not None and not was.is_directory and was.status.st_nlink > 1:
                    self._before.setdefault(was.file, set()).add(path + name)

    def directory(self, old: Node | None, new: Node, path: bytes) -> Iterator[_Event]:
        """What differs in the directory *new*: first itself, if anything does, then what is in it, by name."""
        if old is not None and _same_layers(old, new):
            return
        below = old if old is not None and old.is_directory else None
        skipped = self._made_for_mounts(below, new, path)
        replaced = below is not None and _nothing_stays(below, new)
        itself = _Event(CHANGED if old is not None or path == ROOT else ADDED, path, new, replaced)
        told = below is None or replaced or self._differs(below, new, mtime=not skipped and path != ROOT)
        if told:
            yield itself
        for name in sorted({*names(new), *(names(below) if below is not None else ())} - skipped):
            with _both(below, new, name) as (was, found):
                for event in self._name(was, found, path + name, hidden=replaced):
                    if not told:
                        told = True
                        yield itself
                    yield event

    def _name(self, was: Node | None, found: Node | None, path: bytes, *, hidden: bool) -> Iterator[_Event]:
        if found is None:
            if was is not None:
                yield _Event(DELETED, path, hidden=hidden)
        elif found.is_directory:
            yield from self.directory(was, found, path + b"/")
        elif was is None:
            yield _Event(ADDED, path, found)
        elif was.is_directory or self._differs(was, found, path=path):
            yield _Event(CHANGED, path, found)

    def _differs(self, old: Node, new: Node, *, mtime: bool = True, path: bytes = b"") -> bool:
        """Whether two directories have other attributes, or two of anything else are not the same."""
        before, now = old.status, new.status
        if not new.is_directory and (old.file, old.ids) == (new.file, new.ids):
            return False
        if (before.st_mode, old.owner) != (now.st_mode, new.owner):
            return True
        if mtime and before.st_mtime_ns != now.st_mtime_ns:
            return True
        try:
            if not new.is_directory and (self._other_links(old, new, path) or _other_content(old, new)):
                return True
            return old.attributes() != new.attributes()
        except OSError as error:
            if error.errno not in VANISHED:
                raise
            return True

    def _other_links(self, old: Node, new: Node, path: bytes) -> bool:
        """Whether the file has other names than it had."""
        return self._before.get(old.file, {path}) != self._now.get(new.file, {path})

    def _made_for_mounts(self, old: Node | None, new: Node, path: bytes) -> frozenset[bytes]:
        """The names in *new* that are ignored, are new, and have nothing in them."""
        found = []
        for full in self._ignored:
            name = full[len(path) :]
            if full.startswith(path) and b"/" not in name:
                with _both(old, new, name) as (was, now):
                    if was is None and now is not None and self._is_blank(now, full):
                        found.append(name)
        return frozenset(found)

    def _is_blank(self, node: Node, path: bytes) -> bool:
        """Whether *node* is an empty file, or a directory with nothing in it but what is ignored as well."""
        if not node.is_directory:
            return stat.S_ISREG(node.status.st_mode) and node.status.st_size == 0
        for name in names(node):
            below = path + b"/" + name
            with looked_up(node, name) as found:
                if found is not None and not (below in self._ignored and self._is_blank(found, below)):
                    return False
        return True


@contextmanager
def _both(old: Node | None, new: Node, name: bytes) -> Iterator[tuple[Node | None, Node | None]]:
    """*name* in two directories."""
    with ExitStack() as stack:
        was = stack.enter_context(looked_up(old, name)) if old is not None and old.is_directory else None
        yield was, stack.enter_context(looked_up(new, name))


def _layers(node: Node) -> list[tuple[int, int, int]]:
    """The directories that are merged to one."""
    found = []
    for layer in node.layers:
        status = os.fstat(layer.descriptor)
        found.append((status.st_dev, status.st_ino, layer.ids.base))
    return found


def _same_layers(old: Node, new: Node) -> bool:
    """Whether two directories are made of the same ones, and so have the same in them."""
    return old.is_directory and _layers(old) == _layers(new)


def _nothing_stays(old: Node, new: Node) -> bool:
    """Whether *new* has nothing of what *old* had, which was more than one name."""
    if set(_layers(old)) & set(_layers(new)):
        return False
    count = 0
    for name in names(old):
        with _both(old, new, name) as (was, found):
            if was is not None:
                if found is not None:
                    return False
                count += 1
    return count > 1


def _other_content(old: Node, new: Node) -> bool:
    """Whether two files of one kind have other content."""
    before, now = old.status, new.status
    if stat.S_ISLNK(now.st_mode):
        return old.target() != new.target()
    if not stat.S_ISREG(now.st_mode):
        return before.st_rdev != now.st_rdev
    if before.st_size != now.st_size:
        return True
    with ExitStack() as stack:
        descriptors = []
        for node in (old, new):
            descriptors.append(node.open())
            stack.callback(os.close, descriptors[-1])
        first, second = descriptors
        while data := os.read(first, _CHUNK):
            if not _follows(second, data):
                return True
        return bool(os.read(second, 1))


def _follows(descriptor: int, data: bytes) -> bool:
    """Whether *data* comes next in an open file."""
    while data:
        found = os.read(descriptor, len(data))
        if not found or not data.startswith(found):
            return False
        data = data[len(found) :]
    return True
