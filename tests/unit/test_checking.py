"""Each kind of damage to the image store: found, said in a sentence, and mended as far as that can be."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from archives import OciLayout, directory, entry, hard_link, snapshot, symlink, tar

from gear import checking, files, fsck, indexes, leases, loading, signature_record, store, verifying
from gear.claims import Signature
from gear.errors import GearError
from gear.mending import Outcome
from gear.model import Layout
from gear.oci import OCI_INDEX, OCI_MANIFEST, Descriptor

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: layers have owners and whiteouts")
ONE = tar(directory("."), directory("d"), entry("d/file", b"content"), entry("x/implied", b"1"))
TWO = tar(
    directory("d"),
    entry("d/big", b"b" * 5000, mode=0o4755),
    hard_link("d/same", "d/big"),
    symlink("link", "d/big"),
    entry("d/.wh.file"),
    directory("opaque"),
    entry("opaque/.wh..wh..opq"),
)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(state=tmp_path / "state", units=tmp_path / "units")
    source = OciLayout()
    source.image(ONE, name="one:1")
    source.image(ONE, TWO, name="two:2")
    loading.load(layout, str(source.write(tmp_path / "source")))
    return layout


def check(layout: Layout, *, repair: bool = False, quick: bool = False) -> list[Outcome]:
    return list(fsck.fsck(layout, repair=repair, quick=quick))


def diff_id(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def tree(layout: Layout, data: bytes = TWO) -> Path:
    return store.layer_root(layout, diff_id(data))


def manifest(layout: Layout, name: str = "two:2") -> Path:
    return store.blob_path(layout, store.references(layout)[name])


def state(layout: Layout) -> dict[str, tuple[int, int, bytes]]:
    return snapshot(layout.images)


def test_nothing_is_wrong(layout: Layout) -> None:
    before = state(layout)
    assert check(layout) == [] and check(layout, quick=True) == [] and check(layout, repair=True) == []
    assert state(layout) == before
    assert verifying.verify(layout, "two:2").passed


def append(path: Path) -> None:
    status = path.stat()
    path.write_bytes(path.read_bytes() + b"x")
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))


def change(path: Path) -> None:
    """Another content of the same size and time, as a failing disk would have it."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.chmod(path, status.st_mode)
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))


def replace_whiteout(layout: Layout) -> None:
    (tree(layout) / "d/file").unlink()
    (tree(layout) / "d/file").write_bytes(b"")


def unlink_hard_link(layout: Layout) -> None:
    same = tree(layout) / "d/same"
    same.unlink()
    shutil.copy2(tree(layout) / "d/big", same)


def relink(layout: Layout) -> None:
    (tree(layout) / "link").unlink()
    (tree(layout) / "link").symlink_to("elsewhere")


TREES: dict[str, tuple[str, Callable[[Layout], object]]] = {
    "content": ("'/d/file' has another content", lambda at: change(tree(at, ONE) / "d/file")),
    "size": ("bytes instead of 7", lambda at: append(tree(at, ONE) / "d/file")),
    "mode": ("'/d/big' has the mode 0644 instead of 4755", lambda at: (tree(at) / "d/big").chmod(0o644)),
    "owner": ("'/d/big' belongs to 5:6", lambda at: os.chown(tree(at) / "d/big", 5, 6)),
    "time": ("'/d/big' has another time", lambda at: os.utime(tree(at) / "d/big", (1, 1))),
    "time of a directory": ("'/d/' has another time", lambda at: os.utime(tree(at) / "d", (1, 1))),
    "attribute": (
        "'/d/big' has other extended attributes",
        lambda at: os.setxattr(tree(at) / "d/big", "user.x", b"1"),
    ),
    "overlay's attribute": (
        "'/d/' has other extended attributes",
        lambda at: os.setxattr(tree(at) / "d", "trusted.overlay.redirect", b"/x"),
    ),
    "no longer opaque": (
        "'/opaque/' has other extended attributes",
        lambda at: os.removexattr(tree(at) / "opaque", "trusted.overlay.opaque"),
    ),
    "whiteout": ("'/d/file' is of another type", replace_whiteout),
    "hard link": ("'/d/same' has other hard links", unlink_hard_link),
    "symlink": ("'/link' leads elsewhere", relink),
    "missing": ("'/d/file' is missing", lambda at: (tree(at, ONE) / "d/file").unlink()),
    "more": ("'/new' does not belong there", lambda at: (tree(at) / "new").write_bytes(b"")),
}


@pytest.mark.parametrize("what", TREES)
def test_a_tree_that_is_not_its_blobs(what: str, layout: Layout) -> None:
    sentence, damage = TREES[what]
    damage(layout)
    verified = verifying.verify(layout, "two:2")
    assert not verified.passed and sentence in verified.checks[0].faults[0]
    found = check(layout)
    assert len(found) == 1 and sentence in found[0].finding.what and found[0].is_wrong
    assert check(layout, quick=True) == []
    (mended,) = check(layout, repair=True)
    assert mended.mended and not mended.is_wrong
    assert check(layout) == [] and verifying.verify(layout, "two:2").passed


def file_for_tree(layout: Layout) -> None:
    place = tree(layout).parent
    shutil.rmtree(place)
    place.touch()


def directory_for_blob(layout: Layout) -> None:
    blob(layout, TWO).unlink()
    blob(layout, TWO).mkdir()


def lose_both(layout: Layout) -> None:
    shutil.rmtree(tree(layout))
    blob(layout, TWO).unlink()


def break_json(path: Path) -> None:
    path.write_text("{")


# What is lost, then whether a quick check finds it, a part of what is said, and the damage.
MENDED: dict[str, tuple[bool, str, Callable[[Layout], object]]] = {
    "layer.json": (True, "is damaged", lambda at: break_json(tree(at).parent / "layer.json")),
    "layer.json that lies": (
        False,
        "layer.json has other numbers",
        lambda at: (tree(at).parent / "layer.json").write_text('{"size": 1, "entries": 1}'),
    ),
    "layer.json missing": (True, "is damaged", lambda at: (tree(at).parent / "layer.json").unlink()),
    "a tree missing": (True, "is damaged", lambda at: shutil.rmtree(tree(at))),
    "a layer missing": (True, "is missing", lambda at: shutil.rmtree(tree(at).parent)),
    "a layer that is a file": (
        True,
        "is damaged",
        lambda at: file_for_tree(at),
    ),
    "a record": (
        True,
        "is damaged",
        lambda at: break_json(store.place(at, "manifests", store.references(at)["two:2"])),
    ),
    "a record that lies": (
        True,
        "is damaged",
        lambda at: store.place(at, "manifests", store.references(at)["two:2"]).write_text(
            '{"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 1, "unpacked": 0}'
        ),
    ),
    "a record missing": (
        True,
        "is missing",
        lambda at: store.place(at, "manifests", store.references(at)["two:2"]).unlink(),
    ),
    "the mode of the store": (True, "has the mode 0755", lambda at: at.images.chmod(0o755)),
    "the mode of leases": (True, "has the mode 0777", lambda at: leases.directory(at).chmod(0o777)),
    "the owner of a directory": (True, "belongs to 7:7", lambda at: os.chown(at.images / "blobs", 7, 7)),
    "a blob others may write": (True, "can be written to", lambda at: manifest(at).chmod(0o666)),
    "a name that is no reference": (
        True,
        "does not name an image",
        lambda at: (at.images / "references/UPPER").write_text("{}"),
    ),
    "a record that is no digest": (
        True,
        "is not named by a digest",
        lambda at: (at.images / "manifests/sha256/short").write_text("{}"),
    ),
}


@pytest.mark.parametrize("what", MENDED)
def test_what_can_be_made_again(what: str, layout: Layout) -> None:
    quick, sentence, damage = MENDED[what]
    before = state(layout)
    damage(layout)
    damaged = state(layout)
    found = check(layout)
    assert found and sentence in found[0].finding.what, found
    assert all(outcome.is_wrong for outcome in found if outcome.finding.damage)
    assert state(layout) == damaged
    assert any(sentence in outcome.finding.what for outcome in check(layout, quick=True)) == quick
    assert not any(outcome.is_wrong for outcome in check(layout, repair=True))
    assert check(layout) == []
    assert state(layout) == before


def blob(layout: Layout, data: bytes) -> Path:
    return store.blob_path(layout, diff_id(data))


def config(layout: Layout) -> Path:
    document = json.loads(manifest(layout).read_bytes())
    return store.blob_path(layout, document["config"]["digest"])


LOST: dict[str, Callable[[Layout], object]] = {
    "a layer's blob": lambda at: change(blob(at, TWO)),
    "a layer's blob cut off": lambda at: os.truncate(blob(at, TWO), 100),
    "a layer's blob missing": lambda at: blob(at, TWO).unlink(),
    "a layer's blob a directory": lambda at: directory_for_blob(at),
    "a shared layer's blob": lambda at: change(blob(at, ONE)),
    "a config": lambda at: change(config(at)),
    "a config missing": lambda at: config(at).unlink(),
    "a manifest": lambda at: change(manifest(at)),
    "a manifest missing": lambda at: manifest(at).unlink(),
    "a reference": lambda at: break_json(at.images / "references/two:2"),
    "a reference to nothing": lambda at: store.set_reference(at, "two:2", "sha256:" + "0" * 64),
    "blob and tree": lambda at: lose_both(at),
}


@pytest.mark.parametrize("what", LOST)
def test_what_has_to_come_again(what: str, layout: Layout, tmp_path: Path) -> None:
    before = state(layout)
    LOST[what](layout)
    found = check(layout)
    assert any(outcome.is_wrong for outcome in found)
    shared = what == "a shared layer's blob"
    hints = {outcome.finding.hint for outcome in found if outcome.is_wrong}
    assert "gear image pull two:2, or load it again" in hints or (shared and "one:1" in "".join(hints)), found
    repaired = check(layout, repair=True)
    assert any(outcome.is_wrong for outcome in repaired)
    # What is there under a name is right from now on, so loading brings what is lacking.
    loading.load(layout, str(tmp_path / "source"))
    check(layout, repair=True)
    assert check(layout) == []
    assert state(layout) == before


def test_interrupted_work_is_no_damage(layout: Layout) -> None:
    before = state(layout)
    (layout.images / "blobs/sha256/.partial-1").write_bytes(b"x")
    (layout.images / "layers/sha256/.partial-2/root").mkdir(parents=True)
    (layout.images / "references/.partial-3").write_bytes(b"x")
    (layout.images / "leases/123-abcdef").write_bytes(b"")
    (layout.images / "downloads/sha256" / ("1" * 64)).write_bytes(b"x")
    (layout.images / "blobs/sha256" / ("2" * 64)).write_bytes(b"x")
    found = check(layout)
    assert len(found) == 6 and not any(outcome.is_wrong for outcome in found)
    assert all(outcome.mended for outcome in check(layout, repair=True))
    assert state(layout) == before and check(layout) == []


def test_what_is_in_use_is_not_exchanged(layout: Layout) -> None:
    change(tree(layout) / "d/big")

    def guard(found: str) -> None:
        assert found == diff_id(TWO)
        raise GearError("web runs on it.")

    with leases.pinning(layout):
        (finding,) = list(checking.StoreCheck(layout, guard).everything())
        assert finding.mend is not None
        damaged = tree(layout).stat().st_ino
        with pytest.raises(GearError, match="web runs"):
            finding.mend()
    assert tree(layout).stat().st_ino == damaged
    assert [path for path in layout.images.rglob("*") if path.name.startswith(files.PARTIAL)] == []


@pytest.fixture
def long(tmp_path: Path) -> Iterator[Layout]:
    """A store with an image whose digests are all sha512."""
    made = OciLayout()

    def add(data: bytes, kind: str) -> dict[str, object]:
        digest = diff_id(data, "sha512")
        made.files[f"blobs/{digest.replace(':', '/')}"] = data
        return {"mediaType": kind, "digest": digest, "size": len(data)}

    document = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [diff_id(ONE, "sha512")]},
    }
    parts = {
        "config": add(json.dumps(document).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": [add(ONE, "application/vnd.oci.image.layer.v1.tar")],
    }
    kind = "application/vnd.oci.image.manifest.v1+json"
    described = add(json.dumps({"schemaVersion": 2, "mediaType": kind, **parts}).encode(), kind)
    made.entries.append({**described, "annotations": {"org.opencontainers.image.ref.name": "long:1"}})
    layout = Layout(state=tmp_path / "state", units=tmp_path / "units")
    loading.load(layout, str(made.write(tmp_path / "long")))
    yield layout


def test_sha512_throughout(long: Layout) -> None:
    image = store.resolve(long, "long:1")
    assert image.digest.startswith("sha512:") and image.layers == (diff_id(ONE, "sha512"),)
    assert check(long) == []
    shutil.rmtree(store.layer_root(long, image.layers[0]))
    assert all(outcome.mended for outcome in check(long, repair=True))
    assert check(long) == []


# -- what is kept beside images ------------------------------------------------------------------------------------


@pytest.fixture
def kept(layout: Layout) -> Layout:
    """The store with a signature of two:2, and an index with it and another image under the name all:1."""
    source = OciLayout()
    foreign = source.image(tar(entry("foreign", b"f" * 100)))
    for name, data in source.files.items():
        if name.startswith("blobs/"):
            (layout.images / name).write_bytes(data)
    two = store.references(layout)["two:2"]
    ours = {"mediaType": OCI_MANIFEST, "digest": two, "size": store.blob_path(layout, two).stat().st_size}
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [ours, foreign]}
    index = store.add_blob(layout, io.BytesIO(json.dumps(document).encode()))
    index = Descriptor(OCI_INDEX, index.digest, index.size)
    indexes.publish(layout, index)
    store.set_reference(layout, "all:1", two, index.digest)
    signature_record.write(layout, two, [Signature("gpg", b"signature")], [], [index.digest])
    assert check(layout) == []
    return layout


def record(layout: Layout, kind: str) -> Path:
    (path,) = (layout.images / kind / "sha256").iterdir()
    return path


KEPT: dict[str, tuple[bool, str, Callable[[Layout], object]]] = {
    "signatures": (True, "is damaged", lambda at: break_json(record(at, "signatures"))),
    "signatures of no digest": (
        True,
        "is not named by a digest",
        lambda at: (at.images / "signatures/sha256/short").mkdir(),
    ),
    "the index of signatures": (
        True,
        "which is missing or damaged",
        lambda at: change(store.blob_path(at, f"sha256:{record(at, 'indexes').name}")),
    ),
    "an index's record": (True, "is damaged", lambda at: break_json(record(at, "indexes"))),
    "an index's record that lies": (
        True,
        "is damaged",
        lambda at: record(at, "indexes").write_text(f'{{"mediaType": "{OCI_INDEX}", "size": 1}}'),
    ),
    "a layer of another platform": (
        False,
        "not here as a whole",
        lambda at: change(blob(at, tar(entry("foreign", b"f" * 100)))),
    ),
    "a layer of another platform missing": (
        True,
        "not here as a whole",
        lambda at: blob(at, tar(entry("foreign", b"f" * 100))).unlink(),
    ),
}


@pytest.mark.parametrize("what", KEPT)
def test_what_is_kept_beside_images(what: str, kept: Layout) -> None:
    quick, sentence, damage = KEPT[what]
    damage(kept)
    found = check(kept)
    assert any(sentence in one.finding.what and one.is_wrong for one in found), found
    assert all(one.finding.hint for one in found if one.finding.lost), found
    assert any(sentence in one.finding.what for one in check(kept, quick=True)) == quick
    check(kept, repair=True)
    assert check(kept) == []
    assert set(store.references(kept)) == {"one:1", "two:2", "all:1"}


def test_records_of_images_that_are_gone_are_left_over(kept: Layout) -> None:
    for name in ("two:2", "all:1"):
        store.remove_reference(kept, name)
    found = check(kept)
    assert {Path(one.finding.path).parent.parent.name for one in found} >= {
        "signatures",
        "indexes",
        "manifests",
    }
    assert not any(one.is_wrong for one in found)
    check(kept, repair=True)
    assert check(kept) == [] and not list((kept.images / "signatures/sha256").iterdir())
