"""What is noted of a named volume beside its data: volume.json.

Not the data (gear/volumestore.py).  A volume without one, as earlier versions made them, is as good: nobody labelled or
limited it.

    {"version": 1, "created": seconds since the epoch, "labels": {NAME: VALUE}, "size": bytes or null,
     "anonymous": whether an image declared it, "seed": whether its first container fills it from the image}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gear import members
from gear.budget import parse_size
from gear.errors import IntegrityError, UsageError
from gear.records import dataclass, field

VERSION = 1
# Bytes: below that file systems have no room for their own.
LEAST_SIZE, MOST_SIZE = 1 << 20, 1 << 60


@dataclass(frozen=True)
class Record:
    """What volume.json says."""

    created: float | None = None  # seconds since the epoch
    labels: Mapping[str, str] = field(default_factory=dict)
    size: int | None = None  # bytes that it may take
    anonymous: bool = False
    seed: bool = False

    def to_mapping(self) -> dict[str, Any]:
        """The content of volume.json."""
        return {
            "version": VERSION,
            "created": self.created,
            "labels": dict(self.labels),
            "size": self.size,
            "anonymous": self.anonymous,
            "seed": self.seed,
        }

    @classmethod
    def read(cls, document: Any, where: str) -> Record:
        """The record in *document*; raises IntegrityError naming *where* and every fault in it."""
        if not isinstance(document, dict) or document.get("version") != VERSION:
            raise IntegrityError(f"{where} is no record of a volume of version {VERSION}.")
        plain = {name: value for name, value in document.items() if name != "version"}
        values, faults = members.read(plain, _READERS, "")
        if faults:
            raise IntegrityError(f"{where} is damaged: {'; '.join(faults)}.")
        return cls(**values)


def parse_limit(text: str) -> int | None:
    """The words of `--size`: bytes with a suffix, or `none`; raises UsageError."""
    return None if text == "none" else _size(parse_size(text))


def _size(value: Any) -> int:
    size = members.integer(value)
    if not LEAST_SIZE <= size <= MOST_SIZE:
        raise UsageError(f"A volume can't be limited to {size} bytes.", hint="Give at least 1m, or none.")
    return size


_READERS: dict[str, members.Reader] = {
    "created": members.optional(lambda value: float(members.number(value))),
    "labels": members.text_mapping,
    "size": members.optional(_size),
    "anonymous": members.boolean,
    "seed": members.boolean,
}
