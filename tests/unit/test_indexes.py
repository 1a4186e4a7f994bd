"""Images for several platforms: pulled, kept, pushed and removed as a whole; and what refers to an image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from archives import digest, entry, tar
from hostile import INDEX, LAYER, OCI, Handler, Hostile, for_path, reply, serving

from gear import garbage, images, indexes, pulling, pushing, referrers, store
from gear.errors import GearError, IntegrityError, NotFoundError, RemoteError
from gear.fetching import Pulled
from gear.model import Layout
from gear.oci import Platform
from gear.registries import Registries

pytestmark = pytest.mark.usefixtures("quick")

AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64")
OURS, THEIRS, BOTH = tar(entry("a", b"amd")), tar(entry("a", b"arm")), tar(entry("b", b"both"))
SETTINGS = Registries(timeout=1.0, retries=0)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(state=tmp_path / "state", config=tmp_path / "etc")


def pull(layout: Layout, registry: Hostile, *, platform: Platform = AMD64, every: bool = True) -> Pulled:
    return pulling.pull(layout, f"{registry.host}/x:1", settings=SETTINGS, platform=platform, every=every)


def point(registry: Hostile, wanted: str, platform: Platform | None, **more: Any) -> dict[str, Any]:
    """An entry of an index for the manifest *wanted*."""
    kind, data = registry.manifests[wanted]
    result = {"mediaType": kind, "digest": wanted, "size": len(data), **more}
    if platform is not None:
        result["platform"] = {"os": platform.os, "architecture": platform.architecture}
    return result


def index(registry: Hostile, *entries: dict[str, Any], tag: str = "1") -> str:
    document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
    return registry.manifest(json.dumps(document).encode(), INDEX, tag)


def several(registry: Hostile, tag: str = "1") -> str:
    """An index with an image for amd64, one for arm64 that shares a layer, an attestation and a Windows image."""
    ours = registry.image(OURS, BOTH, tag="ours")
    theirs = registry.image(THEIRS, BOTH, tag="theirs")
    statement = {**registry.blob(b'{"what": "statement"}', "application/vnd.in-toto+json")}
    config = registry.blob(
        b'{"architecture": "unknown", "os": "unknown"}', "application/vnd.oci.image.config.v1+json"
    )
    artifact = {"schemaVersion": 2, "mediaType": OCI, "config": config, "layers": [statement]}
    attestation = registry.manifest(json.dumps(artifact).encode(), OCI, "attestation")
    foreign = {
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest": digest(b"f"),
        "size": 1,
    }
    windows = {"schemaVersion": 2, "mediaType": OCI, "config": config, "layers": [foreign]}
    other = registry.manifest(json.dumps(windows).encode(), OCI, "windows")
    return index(
        registry,
        point(registry, theirs, ARM64),
        point(registry, ours, AMD64),
        point(registry, attestation, Platform("unknown", "unknown")),
        point(registry, other, Platform("windows", "amd64")),
        tag=tag,
    )


def test_all_platforms_are_kept_and_one_is_unpacked(layout: Layout, registry: Hostile) -> None:
    wanted = several(registry)
    done = pull(layout, registry)
    assert done.image.digest == digest(registry.manifests["ours"][1])
    assert indexes.of_reference(layout, done.reference) == wanted
    assert indexes.whole(layout, done.reference).digest == wanted
    for name in ("1", "ours", "theirs", "attestation", "windows"):
        data = registry.manifests[name][1]
        assert store.blob_path(layout, digest(data)).read_bytes() == data
    for data in registry.blobs.values():
        assert store.blob_path(layout, digest(data)).read_bytes() == data
    assert sorted(path.name for path in (layout.images / "layers/sha256").iterdir()) == sorted(
        digest(data).partition(":")[2] for data in (OURS, BOTH)
    )
    assert store.held(layout) == [done.image.digest] and garbage.garbage(layout, []) == []
    (row,) = images.listing(layout)[0]
    assert row.digest == done.image.digest
    found = images.inspect(layout, done.reference)
    assert found["index"] == wanted
    assert found["platforms"] == ["linux/amd64", "linux/arm64", "windows/amd64"]


def test_one_platform_is_here_for_one_only(layout: Layout, registry: Hostile) -> None:
    wanted = several(registry)
    done = pull(layout, registry, every=False)
    assert images.inspect(layout, done.reference)["index"] == wanted
    assert images.inspect(layout, done.reference)["platforms"] == []
    with pytest.raises(NotFoundError, match="for one platform only") as caught:
        pushing.push(layout, done.reference, every=True, settings=SETTINGS)
    assert caught.value.hint == f"gear image pull --all-platforms {done.reference}"
    assert len(list((layout.images / "blobs/sha256").iterdir())) == 4


def test_an_index_is_pushed_byte_for_byte(layout: Layout, registry: Hostile) -> None:
    wanted = several(registry)
    done = pull(layout, registry)
    with serving(Hostile(), "127.0.0.2") as other:
        there = pushing.push(layout, done.reference, f"{other.host}/y:7", every=True, settings=SETTINGS)
        assert there == pushing.Pushed(f"{other.host}/y:7", wanted)
        assert other.blobs == registry.blobs
        assert other.manifests["7"] == registry.manifests["1"]
        # A registry takes an index only when it has what that names.
        order = [path.rpartition("/")[2] for path in other.paths("PUT") if "/manifests/" in path]
        assert order[-1] == "7" and len(order) == 5
        for name in ("ours", "theirs", "attestation", "windows"):
            assert other.manifests[digest(registry.manifests[name][1])] == registry.manifests[name]


def test_another_platform_comes_from_what_is_here(layout: Layout, registry: Hostile) -> None:
    several(registry)
    pull(layout, registry)
    before = len(registry.seen)
    done = pull(layout, registry, platform=ARM64)
    assert not any("/blobs/" in path for _, path, _ in registry.seen[before:])
    assert (store.layer_root(layout, digest(THEIRS)) / "a").read_bytes() == b"arm"
    assert done.changed and len(indexes.whole(layout, done.reference).digest) == 71


def test_removing_the_reference_frees_everything(layout: Layout, registry: Hostile) -> None:
    several(registry)
    done = pull(layout, registry)
    store.set_reference(layout, "again:latest", done.image.digest)
    images.remove(layout, done.reference, in_use={})
    # What the other reference stands for stays: its manifest, config and layers.
    assert len(list((layout.images / "blobs/sha256").iterdir())) == 4
    assert not list((layout.images / "indexes/sha256").iterdir())
    images.remove(layout, "again:latest", in_use={})
    for kind in ("blobs", "layers", "manifests", "indexes", "downloads"):
        assert not list((layout.images / kind / "sha256").iterdir())


def test_newer_remembers_the_index(layout: Layout, registry: Hostile) -> None:
    several(registry)
    layout.config.mkdir()
    (layout.config / "registries.yaml").write_text("timeout: 1\nretries: 0\n")
    name = pulling.pull(layout, f"{registry.host}/x:1", settings=SETTINGS).reference
    before = len(registry.seen)
    assert pulling.ensure(layout, name, "newer") == name
    assert [method for method, _, _ in registry.seen[before:]] == ["HEAD"]
    index(registry, point(registry, registry.image(BOTH, tag="new"), images.host_platform()))
    assert pulling.ensure(layout, name, "newer") == name
    assert store.resolve(layout, name).layers == (digest(BOTH),)
    before = len(registry.seen)
    pulling.ensure(layout, name, "newer")
    assert [method for method, _, _ in registry.seen[before:]] == ["HEAD"]


def test_an_artifact_is_kept_in_an_index_and_refused_alone(layout: Layout, registry: Hostile) -> None:
    several(registry)
    with pytest.raises(IntegrityError, match="not a known kind of layer"):
        pull(layout, registry, platform=Platform("unknown", "unknown"))
    with pytest.raises(IntegrityError, match="is a foreign layer"):
        pull(layout, registry, platform=Platform("windows", "amd64"))
    assert store.references(layout) == {} and store.held(layout) == []
    assert garbage.garbage(layout, []) == []


def refused(layout: Layout, registry: Hostile, kind: type[GearError] = IntegrityError) -> str:
    with pytest.raises(kind) as caught:
        pull(layout, registry)
    assert store.references(layout) == {} and store.held(layout) == []
    assert not list((layout.images / "indexes/sha256").iterdir())
    return caught.value.message


def test_an_image_of_the_index_that_is_missing(layout: Layout, registry: Hostile) -> None:
    several(registry)
    del registry.manifests[digest(registry.manifests["theirs"][1])]
    assert "has no image sha256:" in refused(layout, registry, NotFoundError)


@pytest.mark.parametrize("name", ["theirs", "attestation"])
def test_an_image_of_the_index_that_is_another(layout: Layout, registry: Hostile, name: str) -> None:
    several(registry)
    kind, data = registry.manifests[name]
    registry.manifests[digest(data)] = (kind, data.replace(b"{", b"{ ", 1))
    assert "is damaged" in refused(layout, registry)


def test_a_blob_of_another_platform_that_is_another(layout: Layout, registry: Hostile) -> None:
    several(registry)
    registry.blobs[digest(THEIRS)] = bytes(len(THEIRS))
    assert "is damaged" in refused(layout, registry)


def test_a_blob_of_another_platform_that_is_missing(layout: Layout, registry: Hostile) -> None:
    several(registry)
    del registry.blobs[digest(b'{"what": "statement"}')]
    assert "lacks the blob" in refused(layout, registry)


def test_an_index_of_things_that_are_no_manifests(layout: Layout, registry: Hostile) -> None:
    ours = point(registry, registry.image(OURS, tag="ours"), AMD64)
    layer = registry.blob(BOTH, LAYER)
    index(registry, ours, layer)
    assert "neither an image, nor an artifact, nor an index" in refused(layout, registry)
    index(registry, ours, {**ours, "digest": digest(b"x"), "size": 1 << 40})
    assert "more than the 4194304 of a manifest" in refused(layout, registry)


def test_an_index_in_an_index(layout: Layout, registry: Hostile) -> None:
    ours = point(registry, registry.image(OURS, tag="ours"), AMD64)
    inner = point(registry, index(registry, ours, tag="inner"), AMD64)
    wanted = index(registry, inner)
    done = pull(layout, registry)
    parts = indexes.parts(layout, wanted, INDEX)
    assert [part.digest for part in parts.documents] == [ours["digest"], inner["digest"], wanted]
    assert done.image.digest == ours["digest"]


def test_indexes_nested_too_deep_and_too_large(
    layout: Layout, registry: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = point(registry, registry.image(OURS, tag="ours"), AMD64)
    for number in range(4):
        entry = point(registry, index(registry, entry, tag=f"n{number}"), AMD64)
    index(registry, entry)
    assert "nested more than 3 deep" in refused(layout, registry)
    several(registry)
    monkeypatch.setattr("gear.fetching.ENTRY_LIMIT", 2)
    assert "more than 2 images" in refused(layout, registry)


def test_a_damaged_index_is_named(layout: Layout, registry: Hostile) -> None:
    wanted = several(registry)
    done = pull(layout, registry)
    store.blob_path(layout, wanted).write_bytes(b"{}")
    with pytest.raises(IntegrityError, match="is damaged"):
        pushing.push(layout, done.reference, every=True, settings=SETTINGS)
    with pytest.raises(IntegrityError, match="is damaged"):
        garbage.garbage(layout, [])
    images.remove(layout, done.reference, in_use={})
    assert garbage.garbage(layout, []) == []


# -- what refers to an image -------------------------------------------------------------------------------------


def listed(*kinds: str) -> bytes:
    entries = [
        {"mediaType": OCI, "digest": digest(kind.encode()), "size": 3, "artifactType": kind} for kind in kinds
    ]
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()


def asked(layout: Layout, registry: Hostile, **more: Any) -> list[str]:
    name, found = referrers.referrers(layout, f"{registry.host}/x:1", settings=SETTINGS, **more)
    assert name == f"{registry.host}/x@{digest(registry.manifests['1'][1])}"
    return [one.artifact_type for one in found]


def test_referrers_by_the_api_page_by_page(layout: Layout, registry: Hostile) -> None:
    registry.image(OURS)

    def answer(registry: Hostile, handler: Handler) -> bool:
        if "page=2" in handler.path:
            return reply(handler, 200, listed("b", "c"), Content_Type=INDEX)
        return reply(
            handler, 200, listed("a"), Content_Type=INDEX, Link=f'<{handler.path}&page=2>; rel="next"'
        )

    registry.tricks.append(for_path("/referrers/", answer))
    assert asked(layout, registry, kind="b") == ["b"]
    assert "/referrers/sha256:" in registry.paths()[-1] and "artifactType=b&page=2" in registry.paths()[-1]


def test_referrers_by_the_tag_where_there_is_no_api(layout: Layout, registry: Hostile) -> None:
    wanted = registry.image(OURS)
    assert asked(layout, registry) == []
    registry.manifest(listed("a", "b"), INDEX, wanted.replace(":", "-"))
    assert asked(layout, registry) == ["a", "b"]
    assert asked(layout, registry, kind="a") == ["a"]


@pytest.mark.parametrize(
    ("body", "link", "words"),
    [
        (b"[]", "", "not a JSON object"),
        (b'{"schemaVersion": 2, "manifests": [{"digest": "sha256:' + b"0" * 64 + b'"}]}', "", "size"),
        (b'{"schemaVersion": 2, "layers": []}', "", "not an index"),
        (listed("a"), '<http://127.0.0.2:1/v2/>; rel="next"', "goes on at another host"),
        (listed("a"), '<?again>; rel="next"', "has more than"),
    ],
)
def test_referrers_of_a_registry_that_lies(
    layout: Layout, registry: Hostile, body: bytes, link: str, words: str
) -> None:
    registry.image(OURS)
    more = {"Link": link} if link else {}
    registry.tricks.append(for_path("/referrers/", lambda r, handler: reply(handler, 200, body, **more)))
    with pytest.raises((IntegrityError, RemoteError), match=words):
        asked(layout, registry)
