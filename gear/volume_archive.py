"""Named volumes as tar archives, and back: everything that a file has, with owners as containers see them.

The archive is made by gear/pack.py and unpacked by gear/layer.py, both told that it is no layer of an image: a name
is never a whiteout.  What is unpacked may come from anywhere, and stays below the new volume.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from gear import bundle, compression, files, layer, pack, sources, volumes, volumestore
from gear.merged import Root
from gear.model import Layout
from gear.systemd import Manager

# A volume may be larger than any layer, and hold files of zeros; what it may take is said by its limit.
BOUNDS = layer.Bounds(size=1 << 46, entries=1 << 28, ratio=1 << 16)


@contextmanager
def packed(
    manager: Manager, layout: Layout, name: str, kind: str, *, pause: bool = True
) -> Iterator[Iterator[bytes]]:
    """The volume *name* as pieces of an archive, compressed as *kind* of gear/compression.py says.

    Meanwhile containers that have it are paused unless *pause* is False, and it can't be removed or restored.
    """
    with volumestore.held(layout, name, shared=True), volumes.still(manager, layout, name, pause=pause):
        data = bundle.volume_directory(layout, name)
        writer = pack.Writer(f"the volume {name}", layer=False)
        yield compression.compressed(pack.tree([Root(data, literal=True)], writer), kind)


def unpack(
    layout: Layout, name: str, source: str, *, labels: Mapping[str, str], size: int | None
) -> layer.Unpacked:
    """Make the volume *name*, which must not be there yet, of the archive *source*, `-` for standard input.

    Raises IntegrityError for what the archive does wrong; nothing of the volume is left then.
    """
    with ExitStack() as stack:
        files.make_directory(layout.volumes, 0o700)
        # Before the lock is taken: it may take as long as a network does.
        file, what = sources.seekable(source, layout.volumes, stack)
        stack.enter_context(files.locked(layout.lock))
        record = volumestore.new_record(labels, size)
        with volumestore.making(layout, name, record) as data:
            return layer.extract(file, data, what, bounds=BOUNDS, is_layer=False)
