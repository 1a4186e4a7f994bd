"""Whether a volume is as its record says: the record, the limit, the snapshots.  Its data is looked at by nobody."""

from __future__ import annotations

from collections.abc import Iterator

from gear import bundle, quotas, volume_copies, volumestore
from gear.errors import GearError
from gear.findings import Finding
from gear.model import Layout


def check(layout: Layout, name: str) -> Iterator[Finding]:
    """The faults of the volume *name*, which has data.  The caller holds the lock."""
    directory, data = layout.volumes / name, bundle.volume_directory(layout, name)
    try:
        size = volumestore.record(layout, name).size
    except GearError as error:
        yield Finding(
            volumestore.record_path(directory),
            f"can't be read: {error.message}",
            hint="Remove the file: labels and limit are lost then, and the data stays.",
        )
        return
    if size is not None and quotas.limit_of(data) != size:
        yield Finding(
            data,
            f"is not limited to {size} bytes, as {name} should be",
            mend=lambda: quotas.limit(data, size, f"the volume {name}"),
        )
    if size is not None and volumestore.has_nested(data):
        yield Finding(
            data,
            "has subvolumes of its own in it, and what they take is not counted by its limit",
            hint="Its containers have made them: btrfs subvolume list -o shows them.",
            foreign=True,
        )
    for label in volumestore.snapshots(layout, name):
        try:
            volume_copies.find(layout, name, label)
        except GearError as error:
            yield Finding(
                volume_copies.directory(layout, name) / label,
                f"can't be restored: {error.message}",
                hint=error.hint or "",
            )
