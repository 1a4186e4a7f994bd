"""Volumes without a host: options of mounts, records, archives, and how they are kept on any file system."""

from __future__ import annotations

import io
import os
import random
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gear import compression, files, layer, mount_words, mounting, volume_record, volumes, volumestore
from gear.errors import GearError, IntegrityError, UsageError
from gear.model import Layout
from gear.mounting import Mount
from gear.volume_record import Record


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("type=bind,source=/a,target=/b", Mount("bind", "/a", "/b")),
        ("type=bind,src=/a,dst=/b,readonly,bind-recursive=enabled", Mount("bind", "/a", "/b", ("ro", "rbind"))),
        ("type=bind,src=/a,dst=/b,ro=false,idmap=5:6,owner=7", Mount("bind", "/a", "/b", ("idmap=5:6", "owner=7"))),
        ("source=data,destination=/b,volume-subpath=x/y", Mount("volume", "data", "/b", ("subpath=x/y",))),
        ('type=bind,"source=/a,b",target=/b', Mount("bind", "/a,b", "/b")),
        ("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770", Mount("tmpfs", "", "/t", ("size=1m", "mode=1770"))),
        ("type=volume,source=d,target=/b,volume-driver=local,consistency=cached", Mount("volume", "d", "/b")),
    ],
)  # fmt: skip
def test_dockers_long_form(text: str, mount: Mount) -> None:
    assert mount_words.parse(text) == mount


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("type=npipe,source=a,target=/b", "no kind of mount"),
        ("type=bind,target=/b", "has no source"),
        ("type=bind,source=/a", "has no target"),
        ("type=bind,source=/a,source=/b,target=/c", "said twice"),
        ("type=bind,source=/a,target=/b,bind-propagation=shared", "no option 'bind-propagation=shared'"),
        ("type=bind,source=/a,target=/b,subpath=x", "no option 'subpath=x'"),
        ("source=a,target=/b,volume-nocopy", "no option 'volume-nocopy'"),
        ("type=tmpfs,source=/a,target=/b", "no source"),
        ("type=bind,source=/a,target=/b,readonly=maybe", "true or false"),
        ("type=bind,source=,target=/b", "no value"),
        ('type=bind,"source=/a,target=/b', "quotes"),
        ("type=bind,source=/a,target=/", "mounted on / "),
    ],
)
def test_what_the_long_form_refuses(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told.replace("(", r"\(")):
        mount_words.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "/a:/b:owner=5",
        "/a:/b:idmap,idmap=5",
        "/a:/b:idmap=5,idmap=6",
        "/a:/b:idmap=root",
        "/a:/b:idmap=4294967295",
        "/a:/b:idmap=5:",
        "/a:/b:idmap=5,owner=-1",
        "/a:/b:subpath=x",
        "data:/b:idmap=5",
        "data:/b:subpath=/x",
        "data:/b:subpath=x/../../y",
        "data:/b:subpath=",
    ],
)
def test_options_that_mean_nothing_safe_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        mounting.parse_volume(text)


def test_owners_are_numbers_with_the_users_own_group() -> None:
    assert mounting.parse_volume("/a:/b:idmap=1000").owners == ((1000, 1000), (0, 0))
    assert mounting.parse_volume("/a:/b:idmap=5:6,owner=7:8,ro").owners == ((5, 6), (7, 8))
    assert mounting.parse_volume("/a:/b:idmap").owners is None


def test_records_are_read_as_they_were_written_and_no_other_way() -> None:
    record = Record(1.5, {"a": "b"}, 5 << 20, anonymous=True, seed=True)
    assert Record.read(record.to_mapping(), "it") == record
    wrongs: tuple[object, ...] = (
        {"version": 2},
        {**record.to_mapping(), "more": 1},
        {**record.to_mapping(), "size": 5},
        {**record.to_mapping(), "size": True},
        {**record.to_mapping(), "labels": {"a": 1}},
        [],
    )
    for wrong in wrongs:
        with pytest.raises(IntegrityError):
            Record.read(wrong, "it")
    assert volume_record.parse_limit("none") is None and volume_record.parse_limit("2g") == 2 << 30
    with pytest.raises(UsageError):
        volume_record.parse_limit("5k")
    assert volumes.source_of("localhost:5000/a/b:1:/etc/x") == ("localhost:5000/a/b:1", "/etc/x")
    with pytest.raises(UsageError):
        volumes.source_of("hello:latest")


@pytest.mark.parametrize("kind", ["plain", "gzip"])
def test_what_is_compressed_comes_back(kind: str, tmp_path: Path) -> None:
    data = random.Random(5).randbytes(100_000) + bytes(300_000)
    pieces = [data[start : start + 7777] for start in range(0, len(data), 7777)]
    path = tmp_path / "file"
    path.write_bytes(b"".join(compression.compressed(iter(pieces), kind)))
    assert compression.kind_of(path.read_bytes()[:6]) == kind
    with open(path, "rb", buffering=0) as file, compression.decompressed(file, "it", kind) as stream:
        assert b"".join(iter(lambda: stream.read(65536), b"")) == data
    assert compression.kind_by_name("a.tar.zst") == "zstd" and compression.kind_by_name("a.tar") == "plain"


def test_an_archive_that_is_no_layer_has_no_whiteouts(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    with tarfile.open(path, "w") as archive:
        for name in ("file", ".wh.file", "dir/.wh..wh..opq", ".wh.dir/inner"):
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"data"))
    (tmp_path / "out").mkdir()
    with open(path, "rb", buffering=0) as file:
        layer.extract(file, tmp_path / "out", "it", owners=False, is_layer=False)
    found = sorted(
        str(item.relative_to(tmp_path / "out")) for item in (tmp_path / "out").rglob("*") if item.is_file()
    )
    assert found == [".wh.dir/inner", ".wh.file", "dir/.wh..wh..opq", "file"]


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[Layout]:
    yield Layout(tmp_path / "state")


def test_a_volume_appears_whole_or_not_at_all(layout: Layout) -> None:
    with pytest.raises(GearError, match="oh"), volumestore.making(layout, "v", Record()) as data:
        (data / "file").write_text("half")
        raise GearError("oh")
    assert os.listdir(layout.volumes) == []
    with volumestore.making(layout, "v", Record(size=None, labels={"a": "b"})) as data:
        (data / "file").write_text("whole")
    (layout.volumes / "lost+found").mkdir()
    assert volumestore.names(layout) == ["v"] and volumestore.record(layout, "v").labels == {"a": "b"}
    with pytest.raises(GearError, match="a volume v already"), volumestore.making(layout, "v", Record()):
        pass
    with pytest.raises(GearError, match="oh"), volumestore.replacing(layout.volumes / "v", None) as data:
        raise GearError("oh")
    assert (layout.volumes / "v" / "data" / "file").read_text() == "whole"
    with volumestore.replacing(layout.volumes / "v", None) as data:
        (data / "other").write_text("new")
    assert os.listdir(layout.volumes / "v" / "data") == ["other"]
    assert sorted(os.listdir(layout.volumes / "v")) == ["data", "volume.json"]


def test_data_that_was_lost_is_made_anew_beside_the_record(layout: Layout) -> None:
    with volumestore.making(layout, "v", Record(labels={"a": "b"})):
        pass
    os.rmdir(layout.volumes / "v" / "data")
    with volumestore.making(layout, "v", Record()):
        pass
    assert volumestore.record(layout, "v").labels == {"a": "b"} and volumestore.is_empty(layout, "v")


def test_who_reads_a_volume_keeps_others_from_changing_it(layout: Layout) -> None:
    with volumestore.making(layout, "v", Record()):
        pass
    with volumestore.held(layout, "v", shared=True), volumestore.held(layout, "v", shared=True):
        with pytest.raises(GearError, match="copied or changed"), volumestore.held(layout, "v"):
            pass
    with volumestore.held(layout, "v"):
        pass
    with pytest.raises(GearError, match="no volume w"), volumestore.held(layout, "w"):
        pass


@pytest.mark.spawns
def test_trees_are_counted_as_du_counts_them(tmp_path: Path) -> None:
    from gear import footprint

    first, second = tmp_path / "first", tmp_path / "second\n2"
    for path in (first, second):
        (path / "deep").mkdir(parents=True)
    (first / "file").write_bytes(bytes(range(256)) * 4096)
    os.link(first / "file", second / "again")
    found = footprint.each([first / "deep", first, second, tmp_path / "none"])
    assert list(found) == [first / "deep", first, second]
    whole = subprocess.run(["du", "-sB1", tmp_path], capture_output=True, check=True).stdout
    assert sum(found.values()) + tmp_path.lstat().st_blocks * 512 == int(whole.split()[0])
    assert found[second] < 1 << 20 <= found[first]
    assert files.PARTIAL not in str(found)
