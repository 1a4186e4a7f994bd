"""Unpacked layers, looked at without reading them: whether one is here and whole, and how large it is.

Not whether its files are what its blob holds (gear/checking.py).
"""

from __future__ import annotations

from pathlib import Path

from gear import files
from gear.document import DOCUMENT_LIMIT, parse_digest, parse_document
from gear.errors import GearError
from gear.model import Layout


def is_whole(layout: Layout, diff_id: str) -> bool:
    """Whether the layer is here, by its name and what is cheap to look at."""
    return facts(layout, diff_id) is not None


def facts(layout: Layout, diff_id: str) -> tuple[int, int] | None:
    """Bytes and entries of a layer as its layer.json says; None for one that is not here or not whole."""
    return facts_of(layout.images.joinpath("layers", *parse_digest(diff_id)))


def facts_of(directory: Path) -> tuple[int, int] | None:
    """The same of a layer by its directory."""
    try:
        node = parse_document(files.read_bytes(directory / "layer.json", DOCUMENT_LIMIT) or b"", "layer.json")
        found = node.size("size"), node.size("entries")
    except GearError:
        return None
    root = directory / "root"
    return found if root.is_dir() and not root.is_symlink() else None
