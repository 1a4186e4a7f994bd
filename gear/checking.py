"""Whether the image store holds what it says it holds, and how to mend it where it does not.

Not containers (gear/container_check.py).  Nobody else is kept from working meanwhile: what is looked at is pinned, and
what a removal takes away all the same is passed over.  Whatever can't be made again from what is here is taken out of
the way, so that the next pull brings it; nothing is ever taken for whole because of its name.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gear import files, leases, store, treediff, unpacked
from gear.document import DIGEST, Node, parse_digest, parse_document
from gear.errors import GearError, IntegrityError, UsageError
from gear.findings import Finding
from gear.model import Layout
from gear.oci import Descriptor, ImageConfig, Manifest, Reference

CHUNK = 1 << 20
# As many differences of one layer are told.
SHOWN = 5
# Raises GearError while somebody's root file system is made of the layer with this diff id.
Guard = Callable[[str], None]


class StoreCheck:
    """One run over the store, or over some images of it; each blob and layer is looked at once.

    *quick* compares names, sizes and records only: nothing is read as a whole and nothing unpacked.
    """

    def __init__(self, layout: Layout, guard: Guard, *, quick: bool = False) -> None:
        self._layout, self._guard, self._quick = layout, guard, quick
        self._blobs: dict[str, bool] = {}
        self._layers: set[str] = set()

    def everything(self) -> Iterator[Finding]:
        """The faults of the whole store."""
        store.prepare(self._layout)
        yield from self._directories()
        with leases.pinning(self._layout):
            yield from self._references()
            for digest in store.held(self._layout):
                yield from self.image(digest)

    def image(self, digest: str) -> Iterator[Finding]:
        """The faults of one image, by the digest of its manifest.  The caller holds a pinning lease."""
        if not DIGEST.fullmatch(digest):
            stray = self._layout.images.joinpath("manifests", *digest.split(":", 1))
            yield Finding(stray, "is not named by a digest", mend=lambda: files.remove_file(stray))
            return
        leases.pin(self._layout, digest)
        record = store.place(self._layout, "manifests", digest)
        if not record.exists():
            return  # removed before it was pinned
        stated = self._stated(digest)
        yield from self._blob(Descriptor("", digest, -1), digest, thorough=True)
        try:
            manifest, config = self._documents(digest)
        except GearError as error:
            yield from self._unreadable(digest, error)
            return
        yield from self._blob(manifest.config, digest, thorough=True)
        size = 0
        for blob, diff_id in zip(manifest.layers, config.diff_ids, strict=True):
            yield from self._blob(blob, digest)
            yield from self._layer(blob, diff_id, digest)
            size += (unpacked.facts(self._layout, diff_id) or (0, 0))[0]
        actual = {"mediaType": manifest.media_type, "unpacked": size}
        actual["size"] = len(files.read_bytes(store.blob_path(self._layout, digest)) or b"")
        whole = all(unpacked.is_whole(self._layout, diff_id) for diff_id in config.diff_ids)
        if stated is None or (whole and stated != actual):
            blob = Descriptor(manifest.media_type, digest, len(files.dump_json(actual)))
            yield Finding(record, "is damaged", mend=lambda: self._record(record, blob))

    # -- parts of it -----------------------------------------------------------------------------------------

    def _directories(self) -> Iterator[Finding]:
        """Owners and modes: set-user-ID programs of images are below."""
        images = self._layout.images
        for path in (images, leases.directory(self._layout)):
            yield from directory_mode(path, 0o700)
        for kind in (*store.DIRECTORIES, "references"):
            yield from directory_mode(images / kind, 0o755)
        for kind in store.DIRECTORIES:
            for algorithm in ("sha256", "sha512"):
                yield from directory_mode(images / kind / algorithm, 0o755)

    def _references(self) -> Iterator[Finding]:
        directory = self._layout.images / "references"
        for path in sorted(directory.iterdir()):
            if path.name.startswith(files.PARTIAL):
                continue
            name = path.name.replace("+", "/")
            again = _again([name])

            def remove(path: Path = path) -> None:
                files.remove_file(path)

            try:
                if str(Reference.parse(name)) != name:
                    raise UsageError("")
            except UsageError:
                yield Finding(path, "does not name an image", mend=remove)
                continue
            try:
                data = files.read_bytes(path)
                if data is None:
                    continue  # somebody has just removed it
                digest = parse_document(data, "the reference").digest("digest")
            except GearError:
                yield Finding(path, "is damaged", mend=remove, hint=again, lost=True)
                continue
            leases.pin(self._layout, digest)
            if not store.place(self._layout, "manifests", digest).exists() and path.exists():
                yield self._dangling(path, digest, again)

    def _dangling(self, path: Path, digest: str, again: str) -> Finding:
        """A reference without an image: all of it may be here but for the record."""
        try:
            manifest, _ = self._documents(digest)
            if all(store.is_here(self._layout, blob) for blob in (manifest.config, *manifest.layers)):
                blob = Descriptor(manifest.media_type, digest, 0)
                record = store.place(self._layout, "manifests", digest)
                return Finding(record, "is missing", mend=lambda: self._record(record, blob))
        except GearError:
            pass
        what = f"stands for the image {digest}, which is not here"
        return Finding(path, what, mend=lambda: files.remove_file(path), hint=again, lost=True)

    def _stated(self, digest: str) -> dict[str, object] | None:
        """What the record of an image says; None when it is damaged."""
        try:
            record = files.read_bytes(store.place(self._layout, "manifests", digest))
            return dict(parse_document(record or b"", "the record").value)
        except GearError:
            return None

    def _documents(self, digest: str) -> tuple[Manifest, ImageConfig]:
        _, node = store.read_document(self._layout, digest, "the manifest")
        manifest = Manifest.from_node(node)
        leases.pin(self._layout, manifest.config.digest, *(blob.digest for blob in manifest.layers))
        _, node = store.read_document(self._layout, manifest.config.digest, "the image config")
        config = ImageConfig.from_mapping(node.value, node.what)
        leases.pin(self._layout, *config.diff_ids)
        if len(manifest.layers) != len(config.diff_ids):
            Node({}, node.what).fail("rootfs.diff_ids", "are not as many as the manifest has layers")
        return manifest, config

    def _unreadable(self, digest: str, error: GearError) -> Iterator[Finding]:
        """Manifest or config can't be read, so nobody knows what the image is made of."""
        path = store.blob_path(self._layout, digest)
        if not self._blobs.get(digest, True):
            return  # told already
        try:
            _, node = store.read_document(self._layout, digest, "the manifest")
            config = Manifest.from_node(node).config
        except GearError:
            yield Finding(path, f"can't be used: {error.message}", hint=self.again(digest))
            return
        before = len(self._blobs)
        yield from self._blob(config, digest, thorough=True)
        if len(self._blobs) > before and self._blobs.get(config.digest, False):
            yield Finding(path, f"can't be used: {error.message}", hint=self.again(digest))

    def _blob(self, blob: Descriptor, image: str, *, thorough: bool = False) -> Iterator[Finding]:
        """A blob's size and digest; a size of -1 is not known, and *thorough* is for documents, which are small."""
        if blob.digest in self._blobs:
            return
        path = store.blob_path(self._layout, blob.digest)
        what = None
        try:
            status = path.lstat()
        except FileNotFoundError:
            self._blobs[blob.digest] = False
            yield Finding(path, "is missing", hint=self.again(image))
            return
        if not stat.S_ISREG(status.st_mode):
            what = "is no regular file"
        elif blob.size not in (-1, status.st_size):
            what = f"has {status.st_size} bytes instead of {blob.size}"
        elif (thorough or not self._quick) and (found := digest_of_file(path, blob.digest)) != blob.digest:
            what = f"is damaged: its content has the digest {found}"
        self._blobs[blob.digest] = what is None
        if what is not None:
            hint = self.again(image)
            yield Finding(path, what, mend=lambda: self._remove_blob(path, blob.digest), hint=hint, lost=True)
        elif status.st_mode & 0o022:
            yield Finding(path, "can be written to by others", mend=lambda: path.chmod(0o644))

    def _layer(self, blob: Descriptor, diff_id: str, image: str) -> Iterator[Finding]:
        if diff_id in self._layers:
            return
        self._layers.add(diff_id)
        path = store.place(self._layout, "layers", diff_id)
        whole = unpacked.is_whole(self._layout, diff_id)
        usable = self._blobs.get(blob.digest, False)
        what = None if whole else ("is damaged" if path.exists() else "is missing")
        faults: list[str] = []
        if usable and whole and not self._quick:
            faults = self._compared(path, blob, diff_id)
            if faults:
                what = f"is not what its blob unpacks to: {'; '.join(faults[:SHOWN])}"
                what += f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        if what is None:
            return
        if usable:
            yield Finding(path, what, mend=lambda: self._unpack_again(blob, diff_id))
        else:
            yield Finding(path, f"{what}, and so is its blob", hint=self.again(image))

    def _compared(self, path: Path, blob: Descriptor, diff_id: str) -> list[str]:
        """The differences between a layer and its blob, which is unpacked once more."""
        with tempfile.TemporaryFile(dir=self._layout.images) as probe:
            made_ns = os.fstat(probe.fileno()).st_mtime_ns
        try:
            with open(store.blob_path(self._layout, blob.digest), "rb", buffering=0) as file:
                partial, _ = store.unpack_layer(self._layout, file, _untyped(blob), diff_id)
        except IntegrityError as error:
            return [f"the blob can't be unpacked: {error.message}"]
        try:
            found = list(treediff.differences(partial / "root", path / "root", made_ns=made_ns))
            facts = unpacked.facts_of(partial)
            if facts != unpacked.facts_of(path):
                found.append("layer.json has other numbers")
            return found
        except OSError as error:
            return [f"it can't be read: {error.strerror}"]
        finally:
            shutil.rmtree(partial)

    # -- mending ---------------------------------------------------------------------------------------------

    def _record(self, path: Path, blob: Descriptor) -> None:
        """Write the record of an image again, once all its layers are there."""
        _, config = self._documents(blob.digest)
        for diff_id in config.diff_ids:
            if not unpacked.is_whole(self._layout, diff_id):
                raise GearError(f"{path} has to wait for the layer {diff_id}.")
        size = store.blob_path(self._layout, blob.digest).stat().st_size
        store.publish(self._layout, Descriptor(blob.media_type, blob.digest, size), None)

    @contextmanager
    def _alone(self, path: Path, digest: str) -> Iterator[None]:
        """Nobody else needs the store as it is, or *path*, whose digest is *digest*; raises GearError otherwise."""
        with leases.alone(self._layout, wait=leases.PATIENCE_S) as alone:
            if not alone:
                raise GearError(f"{path} stays: {leases.who_works(self._layout)}.")
            leases.require_unneeded(self._layout, digest, path)
            yield

    def _remove_blob(self, path: Path, digest: str) -> None:
        """Out of the way, so that a pull does not take it for what its name says."""
        with self._alone(path, digest):
            if path.is_dir() and not path.is_symlink():
                files.remove_tree(path)
            else:
                files.remove_file(path)
            files.sync_directory(path.parent)

    def _unpack_again(self, blob: Descriptor, diff_id: str) -> None:
        """Put a fresh tree in the place of a damaged one."""
        final = store.place(self._layout, "layers", diff_id)
        with open(store.blob_path(self._layout, blob.digest), "rb", buffering=0) as file:
            partial, _ = store.unpack_layer(self._layout, file, _untyped(blob), diff_id)
        old = files.partial_name(final)
        try:
            files.sync_file_system(partial)
            self._guard(diff_id)
            with self._alone(final, diff_id):
                if os.path.lexists(final):
                    os.rename(final, old)
                os.rename(partial, final)
            files.sync_directory(final.parent)
        except BaseException:
            if partial.exists():
                shutil.rmtree(partial)
            raise
        if old.is_dir() and not old.is_symlink():
            files.remove_tree(old)
        else:
            files.remove_file(old)

    def again(self, digest: str) -> str:
        """How an image that is not whole comes here again."""
        names = []
        for path in sorted((self._layout.images / "references").iterdir()):
            try:
                data = files.read_bytes(path) or b""
                if parse_document(data, "the reference").digest("digest") == digest:
                    names.append(path.name.replace("+", "/"))
            except GearError:
                continue
        return _again(names) if names else f"gear image rm {digest}"


def _again(names: list[str]) -> str:
    return f"gear image pull {names[0]}, or load it again"


def _untyped(blob: Descriptor) -> Descriptor:
    """Without its media type: what the store took once is unpacked as it is."""
    return Descriptor("", blob.digest, blob.size)


def digest_of_file(path: Path, like: str) -> str:
    """The digest of a file's content, by the algorithm of the digest *like*; says so where it can't be read."""
    algorithm = parse_digest(like)[0]
    try:
        with open(path, "rb", buffering=0) as file:
            return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"
    except OSError as error:
        return f"that can't be told ({error.strerror})"


def directory_mode(path: Path, wanted: int) -> Iterator[Finding]:
    """A directory of gear's belongs to root and has its mode; one that is not there is no fault."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode):
        yield Finding(path, "is no directory")
        return

    def mend() -> None:
        with files.explained(f"change {path}"):
            os.chown(path, 0, 0, follow_symlinks=False)
            path.chmod(wanted)

    mode = stat.S_IMODE(status.st_mode)
    if mode != wanted:
        yield Finding(path, f"has the mode {mode:04o} instead of {wanted:04o}", mend=mend)
    if os.geteuid() == 0 and (status.st_uid, status.st_gid) != (0, 0):
        yield Finding(path, f"belongs to {status.st_uid}:{status.st_gid} instead of root", mend=mend)
