"""Images between gear and its peers skopeo, umoci and GNU tar, and on a disk that is full.

As root, without network.  A missing program is a failure, not a skip: without it nothing here was tried.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from archives import stored

from gear import garbage, loading, store
from gear.changes import Changes
from gear.errors import GearError
from gear.model import Layout

DEMO = Path(__file__).parents[2] / "contrib/demo-image"


@pytest.fixture(autouse=True)
def requirements() -> None:
    """Fail with a sentence where something is missing."""
    assert os.geteuid() == 0, "These tests unpack layers with owners and devices, so they need root."
    for program in ("skopeo", "umoci", "tar", "mount"):
        assert shutil.which(program), f"These tests need {program}; apt-get install it."


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(state=tmp_path / "state")


def run(*arguments: str | Path) -> str:
    return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    run(sys.executable, DEMO, tmp_path / "demo")
    return tmp_path / "demo"


@pytest.mark.parametrize(
    ("transport", "name"),
    [
        ("oci:{}:hello:latest", "hello:latest"),
        ("oci-archive:{}:x/y:2", "x/y:2"),
        ("docker-archive:{}:foo.example/x:1", "foo.example/x:1"),
    ],
)
@pytest.mark.parametrize("compress", [False, True])
def test_what_skopeo_writes_is_loaded(
    transport: str, name: str, compress: bool, demo: Path, layout: Layout, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    run("skopeo", "copy", "-q", f"oci:{demo}:hello:latest", transport.format(copy))
    if compress and copy.is_file():
        run("gzip", copy)
        copy = tmp_path / "copy.gz"
    (image,) = loading.load(layout, str(copy))
    assert image.reference == name
    (original,) = loading.load(layout, str(demo))
    assert image.config.cmd == original.config.cmd and image.layers == original.layers
    if transport.startswith("oci:"):
        assert image.digest == json.loads(run("skopeo", "inspect", f"oci:{copy}:hello:latest"))["Digest"]


def test_what_umoci_writes_is_loaded(demo: Path, layout: Layout, tmp_path: Path) -> None:
    """umoci adds a layer with a whiteout, a changed file and an opaque-looking directory."""
    run("umoci", "unpack", "--image", f"{demo}:hello:latest", tmp_path / "bundle")
    root = tmp_path / "bundle/rootfs"
    (root / "www/index.html").unlink()
    (root / "www/new").write_text("new")
    os.chmod(root / "www/new", 0o4711)
    shutil.rmtree(root / "home")
    run("umoci", "repack", "--image", f"{demo}:next", tmp_path / "bundle")
    run("umoci", "config", "--image", f"{demo}:next", "--config.cmd", "true", "--config.user", "5:6")
    (image,) = loading.load(layout, str(demo), names=["next"])
    assert len(image.layers) == 2
    assert (image.config.cmd, image.config.user) == (("true",), "5:6")
    top = store.layer_root(layout, image.layers[1])
    for gone in ("www/index.html", "home"):
        status = (top / gone).lstat()
        assert (status.st_mode & 0o170000, status.st_rdev) == (0o020000, 0)
    assert (top / "www/new").stat().st_mode & 0o7777 == 0o4711


def listing(root: Path) -> list[str]:
    """What GNU find says of each file, with times in nanoseconds; sizes of directories vary."""
    lines = run("find", root, "-printf", "%P|%y|%m|%U|%G|%T@|%n|%l\n")
    return sorted(lines.splitlines())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root tree with all that a layer can have."""
    root = tmp_path / "tree"
    (root / "usr/bin").mkdir(parents=True)
    for number in range(50):
        (root / f"usr/bin/p{number}").write_bytes(os.urandom(number * 100))
    os.chmod(root / "usr/bin/p1", 0o4755)
    os.chown(root / "usr/bin/p2", 33, 34)
    os.link(root / "usr/bin/p3", root / "usr/bin/same")
    (root / "bin").symlink_to("usr/bin")
    os.mknod(root / "null", 0o20666, os.makedev(1, 3))
    os.mkfifo(root / "fifo")
    os.setxattr(root / "usr/bin/p4", "user.note", b"x\0y")
    os.setxattr(
        root / "usr/bin/p5", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000")
    )
    with open(root / "sparse", "wb") as file:
        file.truncate(100 << 20)
        file.seek(50 << 20)
        file.write(b"middle")
    (root / "l").mkdir(mode=0o1777)
    (root / ("n" * 200)).write_text("long")
    return root


def test_an_import_unpacks_as_gnu_tar_does(tree: Path, layout: Layout, tmp_path: Path) -> None:
    archive = tmp_path / "tree.tar"
    run("tar", "-C", tree, "-cS", "--xattrs", "--xattrs-include=*", "-f", archive, ".")
    other = tmp_path / "other"
    other.mkdir()
    run("tar", "-C", other, "-xp", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-f", archive)
    image = loading.import_root(layout, str(archive), "tree", changes=Changes())
    root = store.layer_root(layout, image.layers[0])
    assert listing(root) == listing(other)
    assert run("diff", "-r", "--no-dereference", "--exclude=null", "--exclude=fifo", root, other) == ""
    for name, attribute in (("p4", "user.note"), ("p5", "security.capability")):
        assert os.getxattr(root / "usr/bin" / name, attribute) == os.getxattr(
            other / "usr/bin" / name, attribute
        )
    assert (root / "sparse").stat().st_blocks <= (other / "sparse").stat().st_blocks + 16


def test_gnu_tar_reads_what_gear_packs(tree: Path, layout: Layout, tmp_path: Path) -> None:
    image = loading.import_root(layout, str(tree), "tree", changes=Changes())
    other = tmp_path / "other"
    other.mkdir()
    blob = store.blob_path(layout, image.layers[0])
    run("tar", "-C", other, "-xp", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-f", blob)
    assert listing(other) == listing(tree)
    with tarfile.open(blob) as archive:
        assert archive.getnames()[0] == "." and len(archive.getnames()) == len(listing(tree))


def test_the_stored_blobs_are_a_layout_for_skopeo(tree: Path, layout: Layout, tmp_path: Path) -> None:
    """What is kept is what came: the blobs with an index around them are an image for others."""
    image = loading.import_root(layout, str(tree), "tree", changes=Changes())
    back = tmp_path / "back"
    shutil.copytree(layout.images / "blobs", back / "blobs")
    manifest = store.blob_path(layout, image.digest).stat().st_size
    entry = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": image.digest,
        "size": manifest,
    }
    (back / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (back / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    run("skopeo", "copy", "-q", f"oci:{back}", f"dir:{tmp_path / 'dir'}")
    assert json.loads(run("skopeo", "inspect", f"oci:{back}"))["Digest"] == image.digest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Layout]:
    """A store on a file system of 4 MB."""
    mountpoint = tmp_path / "disk"
    mountpoint.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", mountpoint)
    try:
        yield Layout(state=mountpoint / "state")
    finally:
        run("umount", mountpoint)


@pytest.mark.parametrize("layer_size", [3 << 20, 6 << 20])
def test_a_full_disk_leaves_nothing_half_made(layer_size: int, small_disk: Layout, tmp_path: Path) -> None:
    """The larger layer does not even fit as a blob; the smaller does, but not its unpacked tree."""
    archive = tmp_path / "big.tar"
    with tarfile.open(archive, "w") as tar:
        info = tarfile.TarInfo("big")
        info.size = layer_size
        tar.addfile(info, io.BytesIO(os.urandom(layer_size)))
    with pytest.raises(GearError) as caught:
        loading.import_root(small_disk, str(archive), "big", changes=Changes())
    assert caught.value.message.endswith("the file system is full.")
    assert caught.value.hint == "Free some space, then run the same command again."
    assert stored(small_disk) == [] and store.held(small_disk) == []
    assert not [path for path in small_disk.images.rglob(".partial-*")]
    assert garbage.collect(small_disk, ()) is not None
    assert [path for path in small_disk.images.rglob("*") if path.is_file()] == [small_disk.images / "lock"]
    small = tmp_path / "small"
    small.mkdir()
    (small / "f").write_text("x")
    assert loading.import_root(small_disk, str(small), "small", changes=Changes()).size == 1
