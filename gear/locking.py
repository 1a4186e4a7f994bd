"""Lock files: which digest each image reference stands for, as a file for version control.

    {"version": 1, "images": {"registry/name:tag": "sha256:..."}}

Sorted, one reference a line.  What is installed or upgraded with one gets exactly these images, and no others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from gear import containers, files, members, pulling, store
from gear.document import DIGEST
from gear.errors import GearError, IntegrityError, NotFoundError, UsageError
from gear.fetching import Progress
from gear.model import Layout
from gear.oci import Image, Reference
from gear.records import replace
from gear.reference import full_names

_LIMIT = 4 << 20


def pins(layout: Layout, names: Iterable[str]) -> dict[str, str]:
    """The references of the images that the containers *names* run, with their digests; raises GearError when two of
    them have different images by one name."""
    found: dict[str, tuple[str, str]] = {}
    for name in names:
        image = containers.get(layout, name).image
        if image.directory is not None:
            continue
        digest, other = found.setdefault(image.reference, (image.digest, name))
        if digest != image.digest:
            raise GearError(
                f"{other} and {name} run different images by the name {image.reference}.",
                details=[f"{other}: {digest}", f"{name}: {image.digest}"],
                hint=f"gear upgrade {other} {name}",
            )
    return {reference: digest for reference, (digest, _) in found.items()}


def write(path: Path, images: Mapping[str, str]) -> bool:
    """Write a lock file; tells whether that changed it."""
    content = files.dump_json({"version": 1, "images": dict(images)})
    if files.read_bytes(path, _LIMIT) == content:
        return False
    files.write_atomic(path, content)
    return True


def read(path: Path) -> dict[str, str]:
    """The digests in a lock file by reference; raises UsageError for what is none."""
    try:
        data = files.read_bytes(path, _LIMIT)
        if data is None:
            raise UsageError(f"There is no lock file {path}.", hint=f"gear lock --file {path} writes it.")
        top = members.mapping(json.loads(data))
        if top["version"] != 1:
            raise ValueError(f"its version is {top['version']!r}")
        found = {}
        for reference, digest in members.mapping(top["images"]).items():
            if not DIGEST.fullmatch(members.text(digest)):
                raise ValueError(f"{digest!r} is no digest")
            found[str(Reference.parse(reference))] = digest
        return found
    except (KeyError, TypeError, ValueError, RecursionError, IntegrityError) as error:
        raise UsageError(f"{path} is no lock file: {str(error).rstrip('.')}.") from error


def pinned(images: Mapping[str, str], text: str, path: Path) -> tuple[str, str]:
    """What the lock file *path* has for *text*: reference and digest; raises UsageError when it has nothing."""
    reference = Reference.parse(text)
    for name in (str(reference), *full_names(reference)):
        if name in images:
            if reference.digest not in (None, images[name]):
                break
            return name, images[name]
    raise UsageError(
        f"{path} has no digest for the image {text}, so it is refused.",
        hint=f"gear lock --file {path} writes it.",
    )


def have(
    layout: Layout, reference: str, digest: str, *, pull: bool, progress: Progress | None = None
) -> Image:
    """The image *digest*, which is called *reference*, pulled by its digest if it is not here; raises GearError."""
    try:
        image = store.resolve(layout, digest)
    except NotFoundError:
        if not pull:
            raise
        name = Reference.parse(reference).name
        done = pulling.pull(layout, f"{name}@{digest}", progress=progress)
        image = done.image
        if image.digest != digest:
            # The digest of an index: what it has for this machine has one of its own.
            raise GearError(
                f"{digest} is no image but an index of several; {reference} is {image.digest} on this machine."
            ) from None
    return replace(image, reference=reference)
