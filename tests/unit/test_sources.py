"""Local sources: which images they hold, in every shape they come in, and what is said about broken ones."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from archives import OciLayout, config, digest, entry, symlink, tar

from gear import sources
from gear.errors import GearError, IntegrityError
from gear.oci import Platform

HOST = Platform("linux", "amd64")
LAYER = tar(entry("a", b"x"))
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


def found(source: Path, tmp_path: Path) -> list[sources.Candidate]:
    """The candidates, each with its blobs read once."""
    with sources.opened(str(source), tmp_path) as opened:
        result = sources.candidates(opened, HOST)
        for candidate in result:
            for part in (candidate.config, *candidate.layers):
                stream, data = part.open(), b""
                while piece := stream.read(1000):
                    data += piece
                assert part.expected is None or digest(data) == part.expected.digest
    return result


def docker(**changes: bytes) -> dict[str, bytes]:
    """The files of an archive by `docker save`."""
    manifest = [{"Config": "c.json", "RepoTags": ["a:1", "b:2"], "Layers": ["x/layer.tar"]}]
    return {
        "manifest.json": json.dumps(manifest).encode(),
        "c.json": json.dumps(config(LAYER)).encode(),
        "x/layer.tar": LAYER,
        **changes,
    }


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("kind", ["oci", "docker"])
def test_archives_of_any_compression(kind: str, compression: str, tmp_path: Path) -> None:
    made = OciLayout()
    made.image(LAYER, name="a:1")
    files = made.finish() if kind == "oci" else docker()
    source = tmp_path / "source"
    source.write_bytes(COMPRESSIONS[compression](tar(*(entry(name, data) for name, data in files.items()))))
    (candidate,) = found(source, tmp_path)
    assert candidate.names == (("a:1",) if kind == "oci" else ("a:1", "b:2"))
    assert len(candidate.layers) == 1
    assert os.listdir(tmp_path) == ["source"]


@pytest.mark.spawns
def test_a_pipe(tmp_path: Path) -> None:
    made = OciLayout()
    made.image(LAYER, name="a:1")
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(reading)
        with open(writing, "wb") as pipe:
            pipe.write(made.archive())
        os._exit(0)
    os.close(writing)
    assert [candidate.names for candidate in found(Path(f"/dev/fd/{reading}"), tmp_path)] == [("a:1",)]
    os.close(reading)
    os.wait()


def test_members_of_an_old_docker_archive_may_be_symlinks(tmp_path: Path) -> None:
    source = tmp_path / "source"
    members = [entry(name, data) for name, data in docker().items() if name != "x/layer.tar"]
    source.write_bytes(tar(*members, symlink("x/layer.tar", "../y/layer.tar"), entry("y/layer.tar", LAYER)))
    with sources.opened(str(source), tmp_path) as opened:
        (candidate,) = sources.candidates(opened, HOST)
        assert candidate.layers[0].open().read(1 << 20) == LAYER


def test_images_of_a_layout_by_name_and_platform(tmp_path: Path) -> None:
    made = OciLayout()
    amd = made.image(LAYER, platform={"os": "linux", "architecture": "amd64"})
    other = tar(entry("b"))
    arm = made.image(other, platform={"os": "linux", "architecture": "arm64"})
    assert [c.config.expected for c in found(made.write(tmp_path / "a"), tmp_path)][0] is not None
    nested = OciLayout()
    nested.files = made.files
    index = {"schemaVersion": 2, "manifests": [arm, amd]}
    kind = "application/vnd.oci.image.index.v1+json"
    nested.entries = [
        nested.blob(
            json.dumps(index).encode(), kind, annotations={"org.opencontainers.image.ref.name": "multi"}
        ),
        {**amd, "annotations": {"org.opencontainers.image.ref.name": "one"}},
    ]
    (candidate,) = found(nested.write(tmp_path / "b"), tmp_path)
    assert candidate.names == ("multi", "one")
    assert candidate.manifest is not None and digest(candidate.manifest) == amd["digest"]


def test_all_images_of_a_source_are_found(tmp_path: Path) -> None:
    made = OciLayout()
    made.image(LAYER, name="a")
    made.image(tar(entry("b")), name="b")
    assert [c.names for c in found(made.write(tmp_path / "source"), tmp_path)] == [("a",), ("b",)]


def broken(change: str) -> bytes:
    """An archive with a fault."""
    made = OciLayout()
    image = made.image(LAYER, name="a")
    files = made.finish()
    blob = f"blobs/{digest(LAYER).replace(':', '/')}"
    manifest = f"blobs/{image['digest'].replace(':', '/')}"
    if change == "no blob":
        del files[blob]
    elif change == "no manifest":
        del files[manifest]
    elif change == "changed manifest":
        files[manifest] = files[manifest].replace(b"schemaVersion", b"schemaversion")
    elif change == "short manifest":
        files[manifest] = files[manifest][:-1]
    elif change == "no index":
        del files["index.json"]
    elif change == "empty index":
        files["index.json"] = b'{"schemaVersion": 2, "manifests": []}'
    elif change == "bad index":
        files["index.json"] = b"{"
    elif change == "huge index":
        files["index.json"] = b" " * (5 << 20)
    elif change == "version":
        files["oci-layout"] = b'{"imageLayoutVersion": "2.0"}'
    elif change == "not an image":
        files = {"etc/passwd": b""}
    elif change == "docker without layer":
        files = {name: data for name, data in docker().items() if name != "x/layer.tar"}
    elif change == "docker without config":
        files = docker(**{"manifest.json": b'[{"Layers": []}]'})
    elif change == "docker empty":
        files = docker(**{"manifest.json": b"[]"})
    elif change == "docker of a string":
        files = docker(**{"manifest.json": b'["x"]'})
    elif change == "docker up":
        files = docker(**{"manifest.json": b'[{"Config": "../../etc/hostname", "Layers": []}]'})
    members = [entry(name, data) for name, data in files.items()]
    if change == "twice":
        members.append(entry("./index.json", b"{}"))
    if change == "loop":
        members = [entry("oci-layout", b"{}"), symlink("index.json", "index.json")]
        members[0] = entry("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
    data = tar(*members)
    if change == "cut":
        return data[:4000]
    return b"" if change == "empty" else b"hello" * 300 if change == "text" else data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no blob", f"S lacks the blob {digest(LAYER)}."),
        ("no manifest", "S lacks the blob sha256:"),
        ("changed manifest", "is damaged: its content has the digest sha256:"),
        ("short manifest", "bytes instead of"),
        ("no index", "S is not a whole OCI layout: it lacks index.json."),
        ("empty index", "S holds no image: its index is empty."),
        ("bad index", "S: index.json is not valid JSON"),
        ("huge index", "S: index.json is larger than 4194304 bytes."),
        ("version", "S is an OCI layout of an unknown version."),
        ("not an image", "S is not an image: it has neither oci-layout nor manifest.json."),
        ("docker without layer", "S lacks 'x/layer.tar'."),
        ("docker without config", "S: manifest.json: images[0].Config is missing."),
        ("docker empty", "S holds no image: its manifest.json is empty."),
        ("docker of a string", "S: manifest.json: images[0] is not an object."),
        ("docker up", "S lacks '../../etc/hostname'."),
        ("twice", "S holds 'index.json' twice."),
        ("loop", "S holds links that lead nowhere."),
        ("cut", "S is cut off: it ends in the middle of an entry."),
        ("empty", "S is empty, not a tar archive."),
        ("text", "S is damaged: a header before byte 512 holds no number."),
    ],
)
def test_broken_sources_get_one_clear_sentence(change: str, message: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(broken(change))
    with pytest.raises(IntegrityError) as caught:
        found(source, tmp_path)
    assert message in caught.value.message.replace(str(source), "S")


def test_a_missing_source_and_a_strange_directory(tmp_path: Path) -> None:
    with pytest.raises(GearError, match="Can't read .*/missing: No such file or directory."):
        found(tmp_path / "missing", tmp_path)
    made = OciLayout()
    made.image(LAYER, name="a")
    path = made.write(tmp_path / "layout")
    (path / "index.json").unlink()
    (path / "index.json").symlink_to("/etc/hostname")
    with pytest.raises(IntegrityError, match="index.json is a symlink, where a file was expected"):
        found(path, tmp_path)
    (path / "index.json").unlink()
    os.mkfifo(path / "index.json")
    with pytest.raises(IntegrityError, match="index.json is not a regular file"):
        found(path, tmp_path)
