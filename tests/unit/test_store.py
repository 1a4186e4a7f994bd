"""The image store: verification, visibility, crashes at every step, and what is garbage."""

from __future__ import annotations

import fcntl
import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest
from archives import OciLayout, digest, directory, entry, snapshot, stored, tar

from gear import files, garbage, images, layer, loading, store
from gear.errors import GearError, IntegrityError, NotFoundError, UsageError
from gear.model import Layout
from gear.oci import Descriptor, Image

LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: load unpacks with owners")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(state=tmp_path / "state")


def add(layout: Layout, name: str | None, *layers: bytes) -> Image:
    """Put an image into the store, step by step as every source does."""
    made = OciLayout()
    manifest = made.image(*layers)
    with store.lease(layout):
        for path, data in made.files.items():
            if path.startswith("blobs/"):
                store.add_blob(layout, io.BytesIO(data))
        for data in layers:
            store.add_layer(layout, Descriptor(LAYER_TYPE, digest(data), len(data)), digest(data))
        return store.publish(
            layout, Descriptor(manifest["mediaType"], manifest["digest"], manifest["size"]), name
        )


def partials(layout: Layout) -> list[Path]:
    return [path for path in layout.images.rglob("*") if path.name.startswith(files.PARTIAL)]


ONE = tar(entry("one", b"1"))
TWO = tar(directory("d"), entry("d/two", b"22"))


def test_what_was_added_is_found_by_every_name(layout: Layout) -> None:
    image = add(layout, "team/app:1", ONE, TWO)
    digits = image.digest.removeprefix("sha256:")
    for text in (
        "team/app:1",
        image.digest,
        digits,
        digits[:8],
        f"sha256:{digits[:9]}",
        f"other@{image.digest}",
    ):
        assert store.resolve(layout, text) == image
    assert image.reference == "team/app:1"
    assert image.layers == (digest(ONE), digest(TWO))
    assert image.size == 3
    assert (store.layer_root(layout, image.layers[1]) / "d/two").read_bytes() == b"22"
    assert (layout.images / "references/team+app:1").exists()
    assert layout.images.stat().st_mode & 0o777 == 0o700
    assert stored(layout) == [image]


def test_what_is_not_there(layout: Layout) -> None:
    add(layout, "hello", ONE)
    with pytest.raises(NotFoundError) as caught:
        store.resolve(layout, "helo")
    assert caught.value.message == "There is no image 'helo' on this host."
    assert caught.value.hint == "Did you mean hello:latest?"
    with pytest.raises(NotFoundError) as caught:
        store.resolve(layout, "deadbeef")
    assert caught.value.hint == "`gear image list` shows what is here."
    with pytest.raises(UsageError, match="can't name an image"):
        store.resolve(layout, "../x")
    with pytest.raises(NotFoundError, match="The layer sha256:0+ is not in the image store"):
        store.layer_root(layout, "sha256:" + "0" * 64)


def test_an_empty_host_has_no_images(tmp_path: Path) -> None:
    layout = Layout(state=tmp_path / "nowhere")
    assert stored(layout) == [] and store.references(layout) == {}
    with pytest.raises(NotFoundError):
        store.resolve(layout, "hello")
    assert not layout.state.exists()


def test_an_ambiguous_prefix_is_refused(layout: Layout) -> None:
    for number in range(3):
        path = store.place(layout, "manifests", "sha256:" + "ab" * 8 + f"{number:048}")
        store.prepare(layout)
        path.write_text("{}")
    with pytest.raises(UsageError, match="'abababab' is the beginning of 3 images"):
        store.resolve(layout, "abababab")


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (Descriptor("", digest(b"data"), 3), "larger than the 3 bytes it should have"),
        (Descriptor("", digest(b"data"), 5), "has 4 bytes instead of 5"),
        (Descriptor("", digest(b"other"), 4), f"is damaged: its content has the digest {digest(b'data')}"),
    ],
)
def test_a_blob_that_is_not_what_was_promised_never_shows(
    layout: Layout, expected: Descriptor, message: str
) -> None:
    store.prepare(layout)
    with pytest.raises(IntegrityError, match=message):
        store.add_blob(layout, io.BytesIO(b"data"), expected=expected)
    assert not list((layout.images / "blobs/sha256").iterdir())


def test_a_layer_must_have_its_diff_id(layout: Layout) -> None:
    store.prepare(layout)
    blob = store.add_blob(layout, io.BytesIO(ONE), media_type=LAYER_TYPE)
    with pytest.raises(
        IntegrityError, match=f"unpacks to {digest(ONE)}, but the image config promises {digest(TWO)}"
    ):
        store.add_layer(layout, blob, digest(TWO))
    with pytest.raises(IntegrityError, match="has more than 0 entries"):
        store.add_layer(layout, blob, digest(ONE), bounds=layer.Bounds(entries=0))
    assert not list((layout.images / "layers/sha256").iterdir())
    assert store.add_layer(layout, blob, None) == digest(ONE)


def test_an_image_with_something_missing_is_not_published(layout: Layout) -> None:
    made = OciLayout()
    manifest = made.image(ONE)
    described = Descriptor(manifest["mediaType"], manifest["digest"], manifest["size"])
    store.prepare(layout)
    for path, data in made.files.items():
        if path.startswith("blobs/") and data != ONE:
            store.add_blob(layout, io.BytesIO(data))
    with pytest.raises(IntegrityError, match=f"lacks the blob {digest(ONE)}"):
        store.publish(layout, described, "x")
    store.add_blob(layout, io.BytesIO(ONE))
    with pytest.raises(NotFoundError, match="is not in the image store"):
        store.publish(layout, described, "x")
    assert store.references(layout) == {} and store.held(layout) == []


def test_damage_is_noticed_and_can_be_removed(layout: Layout) -> None:
    image, other = add(layout, "a", ONE), add(layout, "b", TWO)
    for each in (image, other):
        path = store.blob_path(layout, each.digest)
        path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(IntegrityError) as caught:
        store.resolve(layout, "a")
    assert caught.value.message == f"The manifest {image.digest} is damaged in the image store."
    assert caught.value.hint == "Run `gear fsck --repair`, then pull or load the image again."
    with pytest.raises(IntegrityError, match=f"The manifest {other.digest} is damaged"):
        images.remove(layout, "a", in_use={})
    assert images.remove(layout, "b", in_use={}) == ["b:latest", other.digest]
    assert [path for path in layout.images.rglob("*") if path.is_file()] == [layout.images / "lock"]
    add(layout, "a", ONE)
    assert store.resolve(layout, "a") == image


def test_garbage_is_what_nothing_needs(layout: Layout) -> None:
    shared, other = add(layout, "a", ONE), add(layout, "b", ONE, TWO)
    assert garbage.garbage(layout, ()) == []
    store.remove_reference(layout, "b")
    assert {path.name for path, _ in garbage.garbage(layout, ())} == {
        *(other.digest[7:], digest(TWO)[7:]),
        *(path.name for path, _ in garbage.garbage(layout, ()) if path.parent.parent.name == "blobs"),
    }
    sizes = {path.relative_to(layout.images).as_posix(): size for path, size in garbage.garbage(layout, ())}
    assert sizes[f"layers/sha256/{digest(TWO)[7:]}"] == 2
    assert sizes[f"blobs/sha256/{digest(TWO)[7:]}"] == len(TWO)
    assert garbage.garbage(layout, [other.digest]) == []
    removed = garbage.collect(layout, ())
    assert (
        removed is not None and len(removed) == 5
    )  # record, layer, and the blobs of manifest, config, layer
    assert stored(layout) == [shared]
    assert (store.layer_root(layout, digest(ONE)) / "one").exists()


def test_a_subvolume_goes_with_its_image(layout: Layout) -> None:
    """Whatever file is in it: its content is a stranger's."""
    image = add(layout, "a", ONE)
    tree = store.place(layout, "subvolumes", image.digest)
    tree.mkdir(parents=True)
    (tree / "layer.json").write_text('{"size": 1000000}')
    assert garbage.garbage(layout, ()) == []
    store.remove_reference(layout, "a")
    assert (tree, 0) in garbage.garbage(layout, ())
    assert garbage.garbage(layout, [image.digest]) == []
    garbage.collect(layout, ())
    assert not tree.exists()


def test_a_lease_keeps_everything(layout: Layout) -> None:
    add(layout, None, ONE)
    (layout.images / "blobs/sha256/.partial-x").write_text("in use")
    before = snapshot(layout.images)
    with store.lease(layout), store.lease(layout):
        assert garbage.sweep(layout) is None
        assert garbage.collect(layout, ()) is None
        assert snapshot(layout.images) == before
    assert garbage.interrupted(layout) == [layout.images / "blobs/sha256/.partial-x"]
    removed = garbage.sweep(layout)
    assert removed == [layout.images / "blobs/sha256/.partial-x"]
    assert store.held(layout) != []
    assert len(garbage.collect(layout, ()) or ()) == 5
    assert store.held(layout) == []


@pytest.mark.spawns
def test_a_lease_waits_for_a_removal(layout: Layout) -> None:
    store.prepare(layout)
    reading, writing = os.pipe()
    with open(layout.images / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        child = os.fork()
        if child == 0:
            lock.close()  # the lock belongs to the open file, which the child shares
            with store.lease(layout):
                os.write(writing, b"got it")
            os._exit(0)
        os.set_blocking(reading, False)
        with pytest.raises(BlockingIOError):
            os.read(reading, 10)
    os.waitpid(child, 0)
    assert os.read(reading, 10) == b"got it"
    os.close(reading)
    os.close(writing)


CHANGES = {"write", "rename", "mkdir", "open", "fsync", "symlink", "link", "unlink", "fchmod", "utime"}


def killed_at(number: int, work: Callable[[], object]) -> bool:
    """Do *work* in a child, killed before its *number*th change of the file system; False if it ended."""
    child = os.fork()
    if child == 0:
        left = number

        def watch(frame: FrameType, event: str, function: object) -> None:
            nonlocal left
            if event == "c_call" and getattr(function, "__name__", "") in CHANGES:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(watch)
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.spawns
@needs_root
def test_a_kill_at_any_point_leaves_nothing_half_made(tmp_path: Path) -> None:
    """Kill load before each 5th of its changes: the store stays consistent and the next load succeeds."""
    source = OciLayout()
    source.image(ONE, TWO, name="x:1")
    path = source.write(tmp_path / "source")
    number = kills = 0
    while True:
        layout = Layout(state=tmp_path / f"state{number}")
        if not killed_at(number, lambda at=layout: loading.load(at, str(path))):  # type: ignore[misc]
            break
        kills += 1
        if layout.images.exists():
            for image in stored(layout):
                assert image.layers == (digest(ONE), digest(TWO))
                assert (store.layer_root(layout, digest(TWO)) / "d/two").read_bytes() == b"22"
        if number % 2:
            assert garbage.sweep(layout) is not None
            assert partials(layout) == []
        loaded = loading.load(layout, str(path))
        assert stored(layout) == loaded
        assert partials(layout) == []
        assert garbage.garbage(layout, ()) == []
        number += 5
    assert kills > 10


@pytest.mark.spawns
@needs_root
def test_two_at_once(layout: Layout, tmp_path: Path) -> None:
    source = OciLayout()
    source.image(ONE, TWO, name="x:1")
    path = source.write(tmp_path / "source")
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                for _ in range(3):
                    loading.load(layout, str(path))
                    garbage.sweep(layout)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert len(stored(layout)) == 1
    assert partials(layout) == []


def test_a_reference_can_move(layout: Layout) -> None:
    first, second = add(layout, "a:1", ONE), add(layout, "a:1", TWO)
    assert store.resolve(layout, "a:1").digest == second.digest
    assert store.resolve(layout, first.digest).reference == first.digest
    assert store.remove_reference(layout, "a:1")
    assert not store.remove_reference(layout, "a:1")


@pytest.mark.spawns
def test_a_store_of_somebody_else(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    add(layout, "a", ONE)
    monkeypatch.chdir(layout.state)  # the way here is pytest's, and private
    there = Layout(state=Path())
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            store.resolve(there, "a")
        except GearError as error:
            status = 0 if error.hint == "gear needs root: run it with sudo." else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
