"""Layers merged without mounting: whiteouts, symlinks, hostile account files, and seeding a volume."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from archives import directory, entry, hard_link, snapshot, symlink, tar

from gear.errors import GearError, IntegrityError, UsageError
from gear.layer import extract
from gear.oci import Identity
from gear.view import View

ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="needs root: devices, owners or trusted attributes")

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
# comment:x:9:9::/:
www:x:8080:8081:web:/srv:/bin/sh
7:x:500:500::/seven:
short:x:600:601
relative:x:700:700::home:
strange:x:abc:1::/:
huge:x:70000:1::/:
"""
GROUP = b"root:x:0:\nweb:x:8081:\nextra:x:30:other,www\nmore:x:20:www\nhuge:x:99999:www\n700:x:44:\n"


def layers(path: Path, *archives: list[Any]) -> View:
    """A view of layers unpacked below *path*, lowest first."""
    roots = []
    for number, members in enumerate(archives):
        root = path / f"layer{number}"
        root.mkdir()
        with tempfile.TemporaryFile(buffering=0) as file:
            file.write(tar(*members))
            file.seek(0)
            extract(file, root, "The layer X", owners=ROOT)
        roots.append(root)
    return View(roots)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("untouched")
    return tmp_path


def test_the_highest_layer_wins(tmp_path: Path) -> None:
    view = layers(tmp_path, [entry("a", b"low"), entry("b", b"low")], [entry("a", b"high")])
    assert view.read_file("/a", 10) == b"high"
    assert view.read_file("b", 10) == b"low"
    assert view.read_file("/c", 10) is None
    assert view.read_file("/a/below", 10) is None


@needs_root
def test_whiteouts_and_opaque_directories_hide(tmp_path: Path) -> None:
    view = layers(
        tmp_path,
        [
            entry("gone", b"x"),
            directory("d"),
            entry("d/low", b"x"),
            directory("e"),
            entry("e/low", b"x"),
            directory("f"),
        ],
        [
            entry(".wh.gone"),
            directory("d"),
            entry("d/.wh..wh..opq"),
            entry("d/high", b"y"),
            entry("f", b"file"),
        ],
        [entry("e/middle", b"z")],
    )
    assert view.read_file("/gone", 10) is None
    assert view.read_file("/d/low", 10) is None
    assert view.read_file("/d/high", 10) == b"y"
    assert view.read_file("/e/low", 10) == b"x" and view.read_file("/e/middle", 10) == b"z"
    assert view.read_file("/f", 10) == b"file"


def test_symlinks_stay_inside_across_layers(outside: Path) -> None:
    view = layers(
        outside,
        [
            directory("etc"),
            entry("etc/real", b"inside"),
            symlink("rel", "etc/../etc/real"),
            symlink("abs", "/etc/real"),
        ],
        [
            symlink("up", "../../../../secret"),
            symlink("host", str(outside / "secret")),
            symlink("loop", "loop"),
            symlink("dir", "etc"),
        ],
    )
    for path in ("/rel", "/abs", "/dir/real", "/dir/../etc/real", "../../etc/real"):
        assert view.read_file(path, 10) == b"inside"
    assert view.read_file("/up", 10) is None
    assert view.read_file("/host", 10) is None
    with pytest.raises(IntegrityError, match="'/loop' of the image leads through more than 40 symlinks"):
        view.read_file("/loop", 10)


def test_only_regular_files_of_bounded_size_are_read(tmp_path: Path) -> None:
    import tarfile

    view = layers(
        tmp_path, [entry("pipe", type=tarfile.FIFOTYPE), directory("d"), entry("big", b"12345678901")]
    )
    for path in ("/pipe", "/d", "/"):
        with pytest.raises(IntegrityError, match="of the image is not a regular file"):
            view.read_file(path, 10)
    with pytest.raises(IntegrityError, match="'/big' of the image is larger than 10 bytes"):
        view.read_file("/big", 10)
    assert view.read_file("/big", 11) == b"12345678901"


@needs_root
def test_devices_are_not_read(tmp_path: Path) -> None:
    import tarfile

    zero = entry("etc/passwd", type=tarfile.CHRTYPE, devmajor=1, devminor=5)
    with pytest.raises(IntegrityError, match="'/etc/passwd' of the image is not a regular file"):
        layers(tmp_path, [zero]).lookup_user("root")


@pytest.mark.parametrize(
    ("text", "identity"),
    [
        ("", Identity(0, 0, (), "/root")),
        ("root", Identity(0, 0, (), "/root")),
        ("www", Identity(8080, 8081, (20, 30), "/srv")),
        ("8080", Identity(8080, 8081, (20, 30), "/srv")),
        ("www:web", Identity(8080, 8081, (), "/srv")),
        ("www:5", Identity(8080, 5, (), "/srv")),
        ("www:", Identity(8080, 8081, (20, 30), "/srv")),
        ("1234", Identity(1234, 0, (), "/")),
        ("1234:extra", Identity(1234, 30, (), "/")),
        ("65535:65535", Identity(65535, 65535, (), "/")),
        ("7", Identity(7, 0, (), "/")),
        ("www:700", Identity(8080, 700, (), "/srv")),
        ("short", Identity(600, 601, (), "/")),
        ("relative", Identity(700, 700, (), "/")),
    ],
)
def test_users(text: str, identity: Identity, tmp_path: Path) -> None:
    view = layers(tmp_path, [entry("etc/passwd", PASSWD), entry("etc/group", GROUP)])
    assert view.lookup_user(text) == identity


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nobody", "The image has no user 'nobody'."),
        ("daemon", "The image has no user 'daemon'."),
        ("www:nogroup", "The image has no group 'nogroup'."),
        ("65536", "The user id 65536 can't be used: a container has ids 0 to 65535."),
        ("0:65536", "The group id 65536 can't be used: a container has ids 0 to 65535."),
        ("huge", "The user id 70000 can't be used: a container has ids 0 to 65535."),
        ("-1", "The image has no user '-1'."),
        ("\u0663", "The image has no user '\u0663'."),
        ("# comment", "The image has no user '# comment'."),
    ],
)
def test_no_users(text: str, message: str, tmp_path: Path) -> None:
    view = layers(tmp_path, [entry("etc/passwd", PASSWD), entry("etc/group", GROUP)])
    with pytest.raises(UsageError) as caught:
        view.lookup_user(text)
    assert caught.value.message == message


def test_an_account_without_ids_is_damage(tmp_path: Path) -> None:
    view = layers(tmp_path, [entry("etc/passwd", PASSWD)])
    with pytest.raises(IntegrityError, match="no usable ids for the user 'strange'"):
        view.lookup_user("strange")


def test_an_image_without_accounts_has_numbers_only(tmp_path: Path) -> None:
    view = layers(tmp_path, [entry("x")])
    assert view.lookup_user("5:6") == Identity(5, 6, (), "/")
    with pytest.raises(UsageError, match="no user 'root'"):
        view.lookup_user("root")


@needs_root
def test_a_merged_directory_is_copied_with_everything(tmp_path: Path) -> None:
    import tarfile

    view = layers(
        tmp_path,
        [
            directory("data", mode=0o700, uid=1),
            entry("data/low", b"low", uid=5, mode=0o4711, pax_headers={"SCHILY.xattr.user.k": "v"}),
            hard_link("data/same", "data/low"),
            entry("data/gone", b"x"),
            symlink("data/out", "/etc/shadow"),
            entry("data/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
            entry("data/pipe", type=tarfile.FIFOTYPE, mode=0o620),
        ],
        [
            directory("data", mode=0o2750, uid=7, gid=8, pax_headers={"mtime": "3.000000004"}),
            entry("data/.wh.gone"),
            directory("data/sub", mtime=9),
            entry("data/sub/high", b"high"),
            symlink("link", "data"),
        ],
    )
    for path in ("/data", "/link"):
        target = tmp_path / f"target{path[1:]}"
        target.mkdir()
        assert view.copy_tree(path, target)
        assert snapshot(target).keys() == {"low", "same", "out", "pipe", "sub", "sub/high"}
        status = target.stat()
        assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o2750, 7, 8)
        assert status.st_mtime_ns == 3_000_000_004
        low = (target / "low").stat()
        assert (low.st_mode & 0o7777, low.st_uid, low.st_nlink) == (0o4711, 5, 2)
        assert low.st_ino == (target / "same").stat().st_ino
        assert os.getxattr(target / "low", "user.k") == b"v"
        assert (target / "sub").stat().st_mtime == 9
        assert os.readlink(target / "out") == "/etc/shadow"


def test_what_is_no_directory_is_not_copied(tmp_path: Path) -> None:
    view = layers(tmp_path, [entry("file", b"x"), directory("d")])
    target = tmp_path / "target"
    target.mkdir()
    for path in ("/file", "/missing", "/file/x"):
        assert not view.copy_tree(path, target)
    (target / "already").touch()
    with pytest.raises(GearError, match="is not empty"):
        view.copy_tree("/d", target)
    assert not View([]).copy_tree("/", target)


def test_a_sparse_file_stays_sparse(tmp_path: Path) -> None:
    headers = {"GNU.sparse.size": str(1 << 35), "GNU.sparse.map": f"{1 << 34},1", "GNU.sparse.name": "d/s"}
    view = layers(tmp_path, [entry("d/s", b"x", pax_headers=headers)])
    target = tmp_path / "target"
    target.mkdir()
    assert view.copy_tree("/d", target)
    status = (target / "s").stat()
    assert status.st_size == 1 << 35 and status.st_blocks * 512 < 1 << 20
    with open(target / "s", "rb") as file:
        file.seek(1 << 34)
        assert file.read(2) == b"x\0"
