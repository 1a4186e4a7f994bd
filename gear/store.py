"""The images on this host: blobs as they came, layers unpacked, references to both.

Not where images come from (gear/sources.py), nor what people do with them (gear/images.py).  The file system
is the only database.  Below `layout.images`, which is 0700 because layers hold setuid programs:

    lock                        flock(2): shared by who needs all of it as it is, exclusive for removal
    blobs/ALGORITHM/HEX         manifests, configs and layers, byte for byte as they came
    layers/ALGORITHM/HEX/       an unpacked layer, by its diff id (the digest of the uncompressed archive)
        root/                   its tree, with the ids of the archive
        layer.json              {"size": bytes of its files, "entries": number}
    subvolumes/ALGORITHM/HEX    all layers of an image merged, a read-only subvolume of btrfs by the digest of the
                                manifest, where a container wanted that (gear/storage.py)
    manifests/ALGORITHM/HEX     an image that is here as a whole, by the digest of its manifest:
                                {"mediaType", "size": bytes of the manifest, "unpacked": of all layers}
    signatures/ALGORITHM/HEX    signatures of the image with that manifest (gear/signature_record.py)
    indexes/ALGORITHM/HEX       an index whose images are all here, as blobs: {"mediaType", "size"} (gear/indexes.py)
    references/NAME:TAG         {"digest": that of the manifest, "index": that of the index it came by, if it did};
                                "/" in a reference is written "+"
    downloads/ALGORITHM/HEX     a blob that is being pulled, or as much of it as came before a pull failed;
                                flock(2)ed by whoever writes it (gear/incoming.py)
    leases/PID-HEX              who is at work, and what of all this they need (gear/leases.py)
    **/.partial-*               work in progress, or what a crash left of it

An image is written from the bottom up: blobs, layers, manifests, references.  Each is verified while it is
written under a partial name, made durable, and renamed; so a name that can be seen is whole, and a crash
leaves only partial names and files that nothing refers to.  It is removed from the top down.

Whoever adds holds leases.pinning() around everything from the first blob to the reference; each door of this module
pins what it is asked for before it looks whether that is here.  Whoever needs an image to stay takes lease() around
resolve() and writing down its digest.  sweep() and collect() of gear/garbage.py wait for those who hold lease(), and
leave what is pinned alone.

What is here is not believed by its name where a look is cheap: a blob has the size that its manifest says, a document
its digest each time it is read, a layer a whole layer.json.  The rest is for `gear image verify` and `gear fsck`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Container
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from gear import files, layer, leases, unpacked
from gear.compression import Reader, Source
from gear.document import DOCUMENT_LIMIT, Node, parse_digest, parse_document
from gear.errors import IntegrityError, NotFoundError, UsageError
from gear.model import Layout
from gear.oci import Descriptor, Image, ImageConfig, Manifest, Reference
from gear.patterns import pattern
from gear.reference import full_names

CHUNK = 1 << 20
_PREFIX = pattern(r"(sha256:|sha512:)?[0-9a-f]{8,128}", re.ASCII)
REPAIR = "Run `gear fsck --repair`, then pull or load the image again."
# Nothing larger is taken for a layer blob.
BLOB_LIMIT = 64 << 30
DIRECTORIES = ("blobs", "layers", "manifests", "signatures", "indexes", "downloads")


def lease(layout: Layout) -> AbstractContextManager[None]:
    """Keep everything in the store from being removed, for short work; waits for a removal under way."""
    prepare(layout)
    return leases.whole(layout)


def prepare(layout: Layout) -> None:
    """Make the directories of the store."""
    files.make_directory(layout.images, 0o700)
    for name in DIRECTORIES:
        for algorithm in ("sha256", "sha512"):
            files.make_directory(layout.images / name / algorithm)
    files.make_directory(layout.images / "references")
    files.make_directory(layout.images / "leases", 0o700)


def place(layout: Layout, directory: str, digest: str) -> Path:
    """Where the blob, layer or manifest record *digest* is or would be."""
    algorithm, digits = parse_digest(digest)
    return Path(f"{layout.images}/{directory}/{algorithm}/{digits}")


def blob_path(layout: Layout, digest: str) -> Path:
    """Where the blob *digest* is or would be."""
    return place(layout, "blobs", digest)


def layer_root(layout: Layout, diff_id: str) -> Path:
    """The tree of an unpacked layer; raises NotFoundError when it is not here."""
    root = place(layout, "layers", diff_id) / "root"
    if not root.is_dir():
        raise NotFoundError(f"The layer {diff_id} is not in the image store.")
    return root


def add_blob(
    layout: Layout,
    stream: Reader,
    *,
    expected: Descriptor | None = None,
    media_type: str = "",
    progress: Callable[[int], None] | None = None,
) -> Descriptor:
    """Write *stream* to the store and verify it; returns what it is.  The caller holds a lease.

    With *expected*, size and digest must be what it says, and a blob that is here already is not read again.
    *progress* is called with the number of bytes of each piece.
    """
    algorithm = "sha256" if expected is None else parse_digest(expected.digest)[0]
    if expected is not None:
        leases.pin(layout, expected.digest)
        if is_here(layout, expected):
            return expected
    partial = layout.images / "blobs" / algorithm / f"{files.PARTIAL}{os.urandom(8).hex()}"
    hasher = hashlib.new(algorithm)
    limit = BLOB_LIMIT if expected is None else expected.size
    what = "a blob" if expected is None else f"the blob {expected.digest}"
    size = 0
    with files.explained(f"write {what} to the image store"):
        try:
            with open(partial, "xb", buffering=0) as file:
                while data := stream.read(CHUNK):
                    size += len(data)
                    if size > limit:
                        raise IntegrityError(
                            f"{what.capitalize()} is larger than the {limit} bytes it should have."
                        )
                    hasher.update(data)
                    files.write_all(file.fileno(), data)
                    if progress is not None:
                        progress(len(data))
                os.fsync(file.fileno())
            found = Descriptor(media_type, f"{algorithm}:{hasher.hexdigest()}", size)
            if expected is not None:
                if size != expected.size:
                    raise IntegrityError(f"{what.capitalize()} has {size} bytes instead of {expected.size}.")
                if found.digest != expected.digest:
                    raise IntegrityError(
                        f"{what.capitalize()} is damaged: its content has the digest {found.digest}."
                    )
                found = expected
            leases.pin(layout, found.digest)
            if is_here(layout, found):
                os.unlink(partial)
            else:
                os.rename(partial, blob_path(layout, found.digest))
                files.sync_directory(partial.parent)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(partial)
            raise
    return found


def is_here(layout: Layout, blob: Descriptor) -> bool:
    """Whether the blob is in the store, by name and size; readers of documents compare the digest, too."""
    try:
        return blob_path(layout, blob.digest).stat().st_size == blob.size
    except FileNotFoundError:
        return False


def add_layer(
    layout: Layout,
    blob: Descriptor,
    diff_id: str | None,
    *,
    bounds: layer.Bounds = layer.Bounds(),  # noqa: B008 (frozen)
) -> str:
    """Unpack the layer blob *blob*, which must turn out to be *diff_id* unless that is None.

    Returns the diff id.  The caller holds a lease.
    """
    if diff_id is not None:
        leases.pin(layout, diff_id)
        if unpacked.is_whole(layout, diff_id):
            return diff_id
    with files.explained(f"unpack the layer {blob.digest}"):
        with open(blob_path(layout, blob.digest), "rb", buffering=0) as file:
            partial, found = unpack_layer(layout, file, blob, diff_id, bounds=bounds)
        files.sync_file_system(partial)
        leases.pin(layout, found)
        keep_layer(layout, partial, found)
        files.sync_directory(partial.parent)
    return found


def unpack_layer(
    layout: Layout,
    file: Source,
    blob: Descriptor,
    diff_id: str | None,
    *,
    bounds: layer.Bounds = layer.Bounds(),  # noqa: B008 (frozen)
) -> tuple[Path, str]:
    """Unpack *file*, the content of *blob*, under a partial name; returns that and the diff id.  Nothing is durable."""
    what = f"The layer {blob.digest}"
    algorithm = "sha256" if diff_id is None else parse_digest(diff_id)[0]
    partial = layout.images / "layers" / algorithm / f"{files.PARTIAL}{os.urandom(8).hex()}"
    try:
        os.mkdir(partial, 0o755)
        os.mkdir(partial / "root", 0o755)
        found = layer.extract(
            file,
            partial / "root",
            what,
            media_type=blob.media_type or None,
            bounds=bounds,
            owners=os.geteuid() == 0,
            algorithm=algorithm,
        )
        if diff_id not in (None, found.diff_id):
            raise IntegrityError(
                f"{what} unpacks to {found.diff_id}, but the image config promises {diff_id}."
            )
        facts = files.dump_json({"size": found.size, "entries": found.entries})
        (partial / "layer.json").write_bytes(facts)
    except BaseException:
        if partial.exists():
            files.remove_tree(partial)
        raise
    return partial, found.diff_id


def keep_layer(layout: Layout, partial: Path, diff_id: str) -> None:
    """Make an unpacked and durable layer visible; one that is here already and whole stays."""
    final = place(layout, "layers", diff_id)
    if final.exists() and not unpacked.is_whole(layout, diff_id):
        files.remove_tree(final)
    try:
        os.rename(partial, final)
    except OSError:
        # It is here already: a rename never replaces a directory that is not empty.
        if not final.is_dir():
            raise
        files.remove_tree(partial)


def read_document(layout: Layout, digest: str, what: str) -> tuple[bytes, Node]:
    """A manifest, index or config from the store, verified; *what* says which, as in "the manifest"."""
    what = f"{what} {digest}"
    data = files.read_bytes(blob_path(layout, digest), DOCUMENT_LIMIT)
    if data is None:
        raise IntegrityError(f"{what[0].upper()}{what[1:]} is missing in the image store.", hint=REPAIR)
    algorithm, digits = parse_digest(digest)
    if hashlib.new(algorithm, data).hexdigest() != digits:
        raise IntegrityError(f"{what[0].upper()}{what[1:]} is damaged in the image store.", hint=REPAIR)
    return data, parse_document(data, what)


def publish(layout: Layout, manifest: Descriptor, reference: str | None, index: str = "") -> Image:
    """Make an image whose blobs and layers are all here visible, and give it *reference*.

    *index* is the digest of the index that the reference stands for elsewhere.  The caller holds a lease.  Raises
    IntegrityError when something is missing.
    """
    leases.pin(layout, manifest.digest)
    parsed, config = _documents(layout, manifest.digest, manifest.media_type)
    for blob in (parsed.config, *parsed.layers):
        if not is_here(layout, blob):
            raise IntegrityError(f"The image {manifest.digest} lacks the blob {blob.digest}.")
    size = 0
    for diff_id in config.diff_ids:
        layer_root(layout, diff_id)
        facts = unpacked.facts(layout, diff_id)
        if facts is None:
            raise IntegrityError(f"The layer {diff_id} is not whole.", hint="gear fsck --repair")
        size += facts[0]
    record = files.dump_json({"mediaType": parsed.media_type, "size": manifest.size, "unpacked": size})
    path = place(layout, "manifests", manifest.digest)
    if files.read_bytes(path) != record:
        files.write_atomic(path, record, 0o600)
    if reference is not None:
        reference = str(Reference.parse(reference))
        set_reference(layout, reference, manifest.digest, index)
    return Image(reference or manifest.digest, manifest.digest, config, config.diff_ids, size)


def _documents(layout: Layout, digest: str, media_type: str) -> tuple[Manifest, ImageConfig]:
    """Manifest and config of an image, checked against each other."""
    _, node = read_document(layout, digest, "the manifest")
    manifest = Manifest.from_node(node, media_type)
    _, node = read_document(layout, manifest.config.digest, "the image config")
    config = ImageConfig.from_mapping(node.value, node.what)
    if len(config.diff_ids) != len(manifest.layers):
        raise IntegrityError(
            f"The image {digest} has {len(manifest.layers)} layers, "
            f"but its config lists {len(config.diff_ids)}."
        )
    return manifest, config


def reference_path(layout: Layout, reference: str) -> Path:
    """Where the record of *reference* is or would be."""
    return layout.images / "references" / str(Reference.parse(reference)).replace("/", "+")


def set_reference(layout: Layout, reference: str, digest: str, index: str = "") -> None:
    """Let *reference* mean the image *digest* from now on, which was chosen from *index*."""
    path = reference_path(layout, reference)
    data = files.dump_json({"digest": digest, **({"index": index} if index else {})})
    if files.read_bytes(path) != data:
        files.write_atomic(path, data, 0o600)


def remove_reference(layout: Layout, reference: str) -> bool:
    """Forget *reference*, not the image; tells whether it was there."""
    return files.remove_durably(reference_path(layout, reference))


def references(layout: Layout) -> dict[str, str]:
    """Every reference and the digest it stands for, sorted."""
    result = {}
    directory = layout.images / "references"
    for name in _names(layout, directory):
        data = files.read_bytes(directory / name)
        if data is not None:
            reference = name.replace("+", "/")
            result[reference] = parse_document(data, f"the reference {reference}").digest("digest")
    return result


def held(layout: Layout) -> list[str]:
    """The digests of all images that are here as a whole, with a reference or without."""
    return [
        f"{algorithm}:{name}"
        for algorithm in ("sha256", "sha512")
        for name in _names(layout, layout.images / "manifests" / algorithm)
    ]


def _names(layout: Layout, directory: Path) -> list[str]:
    """The finished entries of a directory of the store, sorted; none when nobody made it yet."""
    with files.explained(f"read the image store {layout.images}"):
        try:
            return sorted(name for name in os.listdir(directory) if not name.startswith(files.PARTIAL))
        except FileNotFoundError:
            return []


def resolve(layout: Layout, text: str) -> Image:
    """The image that *text* means: a reference, a digest, or the first 8 or more digits of one.

    Raises NotFoundError when nothing here goes by it, UsageError when it can't be a name or means several.
    """
    known = references(layout)
    reference = None
    with suppress(UsageError):
        reference = Reference.parse(text)
    name = None if reference is None else named(known, reference)
    if name is not None:
        return image(layout, known[name], name)
    digest = reference.digest if reference is not None and reference.digest else _by_prefix(layout, text)
    if digest is not None and digest in held(layout):
        names = [name for name, target in known.items() if target == digest]
        return image(layout, digest, names[0] if names else digest)
    if reference is None and not _PREFIX.fullmatch(text):
        Reference.parse(text)  # raises: it is no name at all
    import difflib  # for what people mistype

    close = difflib.get_close_matches(text, known, n=3, cutoff=0.5)
    raise NotFoundError(
        f"There is no image {text!r} on this host.",
        hint=f"Did you mean {' or '.join(close)}?" if close else "`gear image list` shows what is here.",
    )


def named(known: Container[str], reference: Reference) -> str | None:
    """Which of the references *known* to the store is meant: the very same, else what a short one is short for."""
    return next((name for name in (str(reference), *full_names(reference)) if name in known), None)


def _by_prefix(layout: Layout, text: str) -> str | None:
    """The one digest that begins with *text*."""
    match = _PREFIX.fullmatch(text)
    if not match:
        return None
    found = [
        digest
        for digest in held(layout)
        if digest.startswith(text) or (not match[1] and digest.partition(":")[2].startswith(text))
    ]
    if len(found) > 1:
        raise UsageError(
            f"{text!r} is the beginning of {len(found)} images.", hint="Give more digits of the digest."
        )
    return found[0] if found else None


def image(layout: Layout, digest: str, reference: str) -> Image:
    """The image *digest*, called *reference* in the answer; raises IntegrityError when it is damaged."""
    record = files.read_bytes(place(layout, "manifests", digest))
    if record is None:
        raise IntegrityError(f"The image {reference} is not in the store as a whole.", hint=REPAIR)
    facts = parse_document(record, f"the record of the image {digest}")
    _, config = _documents(layout, digest, facts.text("mediaType"))
    return Image(reference, digest, config, config.diff_ids, facts.size("unpacked"))
