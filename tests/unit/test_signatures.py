"""Signatures of images: what is let in, what is refused and why, and that nothing of what is refused stays.

The registry is a hostile one in this process; host tests use real ones, and signatures by skopeo.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from archives import OciLayout, digest, entry, tar
from hostile import INDEX, OCI, Handler, Hostile, reply, serving
from keys import Gpg, SigstoreKey, artifact, claim

from gear import (
    cosign,
    fetching,
    garbage,
    images,
    loading,
    lookaside,
    policy,
    pulling,
    saving,
    signature_files,
    signature_record,
    signatures,
    signing,
    store,
    transport,
)
from gear.claims import Signature
from gear.document import parse_document
from gear.errors import GearError, HostError, IntegrityError, RefusedError, RemoteError, UsageError
from gear.model import Layout
from gear.oci import Descriptor, Platform
from gear.registries import Registries

AMD64 = Platform("linux", "amd64")
LAYER = tar(entry("a", b"a" * 5000))
SETTINGS = Registries(timeout=1.0, retries=1)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Attempts follow each other at once, and nothing of this machine is read."""
    monkeypatch.setattr(transport, "BACKOFF_S", 0.001)
    monkeypatch.setattr(policy, "CONTAINERS_POLICY", tmp_path / "policy.json")
    monkeypatch.setattr(lookaside, "REGISTRIES_D", tmp_path / "registries.d")
    monkeypatch.setattr(lookaside, "DEFAULT", f"file://{tmp_path}/sigs")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def registry() -> Iterator[Hostile]:
    with serving(Hostile()) as made:
        yield made


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    (tmp_path / "etc").mkdir()
    return Layout(state=tmp_path / "state", config=tmp_path / "etc")


@pytest.fixture(scope="module")
def key() -> SigstoreKey:
    return SigstoreKey()


@pytest.fixture(scope="module")
def stranger() -> SigstoreKey:
    return SigstoreKey()


def trust(layout: Layout, *keys: SigstoreKey, **more: Any) -> None:
    """Want a signature with one of *keys* of every image."""
    paths = []
    for number, key in enumerate(keys):
        paths.append(layout.config / f"{number}.pub")
        paths[-1].write_bytes(key.public())
    rule = {"sigstore": [str(path) for path in paths], **more}
    (layout.config / "policy.yaml").write_text(json.dumps({"default": rule}))


def attach(registry: Hostile, of: str, *signed: tuple[bytes, bytes], **more: Any) -> None:
    """Put signatures beside the manifest *of*."""
    manifest, blobs = artifact(*signed, **more)
    registry.blobs |= blobs
    registry.manifest(manifest, OCI, cosign.tag(of))


def sign(
    registry: Hostile, key: SigstoreKey, of: str, name: str = "x:1", repository: str | None = None
) -> None:
    payload = claim(f"{repository or registry.host}/{name}", of)
    attach(registry, of, (payload, key.sign(payload)))


def pull(
    layout: Layout, registry: Hostile, what: str = "x:1", settings: Registries = SETTINGS
) -> fetching.Pulled:
    return pulling.pull(layout, f"{registry.host}/{what}", settings=settings, platform=AMD64)


def refused(
    layout: Layout, registry: Hostile, what: str = "x:1", kind: type[GearError] = RefusedError
) -> str:
    """Why an image is refused; nothing of it may be left."""
    before = sorted(layout.images.rglob("*")) if layout.images.exists() else []
    with pytest.raises(kind) as caught:
        pull(layout, registry, what)
    left = {path for path in layout.images.rglob("*") if path.is_file() and path.name != "lock"}
    assert left <= set(before), "something of a refused image is in the store"
    assert not any(path.name.startswith(".partial-") for path in layout.images.rglob("*"))
    return "\n".join((caught.value.message, *caught.value.details, f"hint: {caught.value.hint}"))


# -- what is let in --------------------------------------------------------------------------------------------


def test_a_signed_image_is_taken_and_can_be_verified_again(
    layout: Layout, registry: Hostile, key: SigstoreKey, stranger: SigstoreKey
) -> None:
    trust(layout, stranger, key)
    found = registry.image(LAYER)
    sign(registry, key, found)
    assert pull(layout, registry).image.digest == found
    requests = len(registry.seen)
    image = store.resolve(layout, f"{registry.host}/x:1")
    verdict = signatures.check(layout, image)
    assert len(verdict.signers) == 1 and verdict.signers[0].endswith("1.pub")
    told = images.inspect(layout, image.reference)
    assert told["signatures"] == ["sigstore"] and told["signers"] == list(verdict.signers)
    assert len(registry.seen) == requests, "verifying asked the network"
    assert garbage.collect(layout, []) == []
    trust(layout, stranger)
    with pytest.raises(RefusedError):
        signatures.check(layout, image)
    assert images.inspect(layout, image.reference)["signers"] == []
    (layout.config / "policy.yaml").unlink()
    assert signatures.check(layout, image) == signatures.Verdict("", ())
    images.remove(layout, image.reference, in_use={})
    assert not list(layout.images.glob("signatures/*/*"))


def test_without_a_policy_nothing_is_asked(layout: Layout, registry: Hostile) -> None:
    registry.image(LAYER)
    pull(layout, registry)
    assert not any(".sig" in path or "referrers" in path for path in registry.paths())


@pytest.mark.parametrize("kind", ["p256", "p384", "p384-sha384", "p521", "ed25519", "rsa"])
def test_kinds_of_keys(layout: Layout, registry: Hostile, kind: str) -> None:
    key = SigstoreKey(kind)
    trust(layout, key)
    sign(registry, key, registry.image(LAYER))
    assert pull(layout, registry).changed


@pytest.mark.parametrize("kind", ["p224", "rsa1024", "junk", "private", "certificate"])
def test_keys_that_are_none(layout: Layout, registry: Hostile, kind: str) -> None:
    sound = SigstoreKey()
    trust(layout, sound)
    data = {"junk": b"junk", "private": sound.private(), "certificate": b"-----BEGIN CERTIFICATE-----\n"}
    pem = data[kind] if kind in data else SigstoreKey(kind).public()
    (layout.config / "0.pub").write_bytes(pem)
    sign(registry, sound, registry.image(LAYER))
    assert "0.pub is" in refused(layout, registry, kind=UsageError)


def test_a_missing_key_refuses_everything(layout: Layout, registry: Hostile, key: SigstoreKey) -> None:
    trust(layout, key)
    sign(registry, key, registry.image(LAYER))
    (layout.config / "0.pub").unlink()
    assert "0.pub can't be read" in refused(layout, registry, kind=UsageError)


def test_one_of_several_signatures_is_enough(
    layout: Layout, registry: Hostile, key: SigstoreKey, stranger: SigstoreKey
) -> None:
    trust(layout, key)
    found = registry.image(LAYER)
    payload = claim(f"{registry.host}/x:1", found)
    attach(
        registry,
        found,
        (b"junk", b"junk"),
        (payload, stranger.sign(payload)),
        (payload.replace(b"x:1", b"x:2"), key.sign(payload)),
        (payload, key.sign(payload)),
    )
    assert pull(layout, registry).changed


def test_signatures_of_cosign_name_no_tag(layout: Layout, registry: Hostile, key: SigstoreKey) -> None:
    trust(layout, key)
    found = registry.image(LAYER)
    sign(registry, key, found, "x")
    assert "hint: cosign signs no tag" in refused(layout, registry)
    assert pull(layout, registry, f"x@{found}").changed
    trust(layout, key, identity="repository")
    assert pull(layout, registry).changed


def test_mirrors_of_a_signed_repository(layout: Layout, registry: Hostile, key: SigstoreKey) -> None:
    trust(layout, key)
    sign(registry, key, registry.image(LAYER), "hub/x:1", "quay.example")
    assert "it is for quay.example/hub/x:1" in refused(layout, registry)
    rule = {"sigstore": [str(layout.config / "0.pub")], "signed-as": "quay.example/hub"}
    text = json.dumps({"default": "reject", "scopes": {registry.host: rule}})
    (layout.config / "policy.yaml").write_text(text)
    assert pull(layout, registry).changed


def test_referrers_of_a_registry(layout: Layout, registry: Hostile, key: SigstoreKey) -> None:
    trust(layout, key)
    found = registry.image(LAYER)
    payload = claim(f"{registry.host}/x:1", found)
    manifest, blobs = artifact((payload, key.sign(payload)))
    registry.blobs |= blobs
    attached = registry.manifest(manifest, OCI, "unnamed")
    entry = {"mediaType": OCI, "digest": attached, "size": len(manifest), "artifactType": cosign.ARTIFACT}
    other = {**entry, "artifactType": "application/x", "digest": digest(b"other")}

    def referrers(registry: Hostile, handler: Handler) -> bool:
        if "/referrers/" not in handler.path:
            return False
        body = json.dumps({"schemaVersion": 2, "manifests": [other, entry]}).encode()
        return reply(handler, 200, body, Content_Type=INDEX)

    assert "there is no signature" in refused(layout, registry)
    registry.tricks.append(referrers)
    assert pull(layout, registry).changed


def index(registry: Hostile, *manifests: str, tag: str = "1") -> str:
    entries = [
        {
            "mediaType": OCI,
            "digest": one,
            "size": len(registry.manifests[one][1]),
            "platform": {"os": "linux", "architecture": architecture},
        }
        for one, architecture in zip(manifests, ("amd64", "arm64"), strict=False)
    ]
    data = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
    return registry.manifest(data, INDEX, tag)


@pytest.mark.parametrize("signed", ["index", "instance"])
def test_an_index_or_what_is_taken_of_it_may_be_signed(
    layout: Layout, registry: Hostile, key: SigstoreKey, signed: str
) -> None:
    trust(layout, key)
    own, other = registry.image(LAYER), registry.image(LAYER, tag="arm", more=1)
    whole = index(registry, own, other)
    assert "there is no signature" in refused(layout, registry)
    sign(registry, key, other)
    assert "there is no signature" in refused(layout, registry)
    sign(registry, key, whole if signed == "index" else own)
    assert pull(layout, registry).image.digest == own
    image = store.resolve(layout, f"{registry.host}/x:1")
    assert signatures.check(layout, image).signers
    assert garbage.collect(layout, []) == [], "the index is no garbage while it vouches"
    if signed == "index":
        store.blob_path(layout, whole).unlink()
        with pytest.raises(IntegrityError, match="missing"):
            signatures.check(layout, image)


def test_another_index_with_a_signed_image_vouches_for_no_other(
    layout: Layout, registry: Hostile, key: SigstoreKey
) -> None:
    trust(layout, key)
    good = registry.image(LAYER, tag="good")
    sign(registry, key, index(registry, good))
    evil = registry.image(tar(entry("evil", b"x")), tag="evil")
    index(registry, evil, good)
    assert "there is no signature" in refused(layout, registry)


# -- what is refused -------------------------------------------------------------------------------------------


def test_an_unsigned_image(layout: Layout, registry: Hostile, key: SigstoreKey) -> None:
    trust(layout, key)
    registry.image(LAYER)
    text = refused(layout, registry)
    assert "is not signed as" in text and "policy.yaml: default wants it" in text
    assert not any("/blobs/" in path for path in registry.paths()), "it was fetched all the same"


def test_a_signature_of_another_image(layout: Layout, registry: Hostile, key: SigstoreKey) -> None:
    trust(layout, key)
    good, evil = registry.image(LAYER), registry.image(tar(entry("evil", b"x")), tag="1")
    payload = claim(f"{registry.host}/x:1", good)
    attach(registry, evil, (payload, key.sign(payload)))
    assert f"it is of another image, {good}" in refused(layout, registry)


def test_a_signature_of_another_name(layout: Layout, registry: Hostile, key: SigstoreKey) -> None:
    trust(layout, key)
    found = registry.image(LAYER)
    for name in ("x:2", "y:1", "x/y:1"):
        sign(registry, key, found, name)
        assert f"it is for {registry.host}/{name}" in refused(layout, registry)
    trust(layout, key, identity="repository")
    sign(registry, key, found, "y:1")
    assert f"it is for {registry.host}/y:1" in refused(layout, registry)


def test_a_signature_with_another_key(
    layout: Layout, registry: Hostile, key: SigstoreKey, stranger: SigstoreKey
) -> None:
    trust(layout, key)
    sign(registry, stranger, registry.image(LAYER))
    assert "it was made with another key" in refused(layout, registry)


def test_a_payload_with_equal_members(layout: Layout, registry: Hostile, key: SigstoreKey) -> None:
    trust(layout, key)
    found = registry.image(LAYER)
    payload = claim(f"{registry.host}/x:1", found)
    twice = payload.replace(b'{"docker-ref', b'{"docker-reference": "evil.example/x:1", "docker-ref')
    attach(registry, found, (twice, key.sign(twice)))
    assert "a member occurs twice" in refused(layout, registry)


def no_signature(registry: Hostile, of: str) -> None:
    attach(registry, of, (b"x", b""))


def an_index(registry: Hostile, of: str) -> None:
    registry.manifest(json.dumps({"schemaVersion": 2, "manifests": []}).encode(), INDEX, cosign.tag(of))


def an_image(registry: Hostile, of: str) -> None:
    registry.manifest(registry.manifests[of][1], OCI, cosign.tag(of))


def no_json(registry: Hostile, of: str) -> None:
    registry.manifest(b"[" * 5000, OCI, cosign.tag(of))


def giant(registry: Hostile, of: str) -> None:
    registry.manifest(b" " * (5 << 20), OCI, cosign.tag(of))


def giant_payload(registry: Hostile, of: str) -> None:
    attach(registry, of, (b" " * (1 << 20), b"x"))


def lost_payload(registry: Hostile, of: str) -> None:
    attach(registry, of, (b"lost", b"x"))
    del registry.blobs[digest(b"lost")]


def wrong_payload(registry: Hostile, of: str) -> None:
    attach(registry, of, (b"here", b"x"))
    registry.blobs[digest(b"here")] = b"else"


def no_base64(registry: Hostile, of: str) -> None:
    attach(registry, of, (b"x", b"x"))
    kind, data = registry.manifests[cosign.tag(of)]
    registry.manifest(data.replace(b'signature": "', b'signature": "%%'), kind, cosign.tag(of))


def other_layers(registry: Hostile, of: str) -> None:
    attach(registry, of, (b"x", b"x"), kind="application/octet-stream")


def many(registry: Hostile, of: str) -> None:
    attach(registry, of, *((b"%d" % number, b"x") for number in range(4000)))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (no_signature, "there is no signature"),
        (an_index, "is not a manifest with signatures"),
        (an_image, "there is no signature"),
        (no_json, "is not valid JSON"),
        (giant, "more than"),
        (giant_payload, "a payload of more than"),
        (lost_payload, "lacks the blob"),
        (wrong_payload, "is damaged"),
        (no_base64, "there is no signature"),
        (other_layers, "there is no signature"),
        (many, "it was made with another key"),
    ],
)
def test_what_is_no_artifact_with_signatures(
    layout: Layout, registry: Hostile, key: SigstoreKey, change: Callable[[Hostile, str], None], word: str
) -> None:
    trust(layout, key)
    change(registry, registry.image(LAYER))
    assert word in refused(layout, registry)
    assert sum("/blobs/" in path for path in registry.paths()) <= cosign.COUNT_LIMIT


def at_signatures(answer: Callable[[Hostile, Handler], bool]) -> Callable[[Hostile, Handler], bool]:
    return lambda registry, handler: ".sig" in handler.path and answer(registry, handler)


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (lambda registry, handler: registry.closing.wait(20), "did not answer within"),
        (lambda registry, handler: reply(handler, 503), "failed with status 503"),
        (lambda registry, handler: reply(handler, 403), "does not allow this"),
        (lambda registry, handler: reply(handler, 302, Location="http://127.0.0.1:1/"), "failed"),
    ],
    ids=["hang", "503", "403", "redirect"],
)
def test_signatures_that_can_not_be_had(
    layout: Layout, registry: Hostile, key: SigstoreKey, answer: Callable[[Hostile, Handler], bool], word: str
) -> None:
    trust(layout, key)
    sign(registry, key, registry.image(LAYER))
    registry.tricks.append(at_signatures(answer))
    text = refused(layout, registry, kind=RemoteError)
    assert "can't be found out" in text and word in text
    registry.tricks.clear()
    pull(layout, registry)
    registry.tricks.append(at_signatures(answer))
    assert not pull(layout, registry).changed, "what is kept beside the image is enough"


def test_a_name_that_is_refused_is_not_asked_for(layout: Layout, registry: Hostile) -> None:
    registry.image(LAYER)
    (layout.config / "policy.yaml").write_text("default: reject\n")
    assert "is refused by" in refused(layout, registry)
    assert registry.seen == []


def test_a_wrong_policy_takes_nothing(layout: Layout, registry: Hostile) -> None:
    registry.image(LAYER)
    (layout.config / "policy.yaml").write_text("")
    assert "is empty" in refused(layout, registry, kind=UsageError)
    assert registry.seen == []


def test_what_gear_can_not_verify_is_refused(layout: Layout, registry: Hostile, key: SigstoreKey) -> None:
    sign(registry, key, registry.image(LAYER))
    requirement = {"type": "sigstoreSigned", "fulcio": {"oidcIssuer": "x"}, "rekorPublicKeyPath": "/x"}
    policy.CONTAINERS_POLICY.write_text(json.dumps({"default": [requirement]}))
    assert "fulcio is not supported" in refused(layout, registry)


def test_every_requirement_of_containers_has_to_be_met(
    layout: Layout, registry: Hostile, key: SigstoreKey, stranger: SigstoreKey
) -> None:
    trust(layout, key, stranger)
    (layout.config / "policy.yaml").unlink()
    both = [{"type": "sigstoreSigned", "keyPath": str(layout.config / f"{number}.pub")} for number in (0, 1)]
    policy.CONTAINERS_POLICY.write_text(json.dumps({"default": both}))
    found = registry.image(LAYER)
    sign(registry, key, found)
    assert "another key" in refused(layout, registry)
    payload = claim(f"{registry.host}/x:1", found)
    attach(registry, found, (payload, key.sign(payload)), (payload, stranger.sign(payload)))
    image = pull(layout, registry).image
    assert len(signatures.check(layout, image).signers) == 2


# -- signatures of gpg -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gpg(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpg]:
    made = Gpg(tmp_path_factory.mktemp("gpg") / "home")
    try:
        made.key("me")
        yield made
    finally:
        made.close()


def trust_gpg(layout: Layout, gpg: Gpg) -> None:
    path = layout.config / "me.gpg"
    path.write_bytes(gpg.public("me"))
    (layout.config / "policy.yaml").write_text(json.dumps({"default": {"gpg": [str(path)]}}))


def put(tmp_path: Path, of: str, number: int, data: bytes) -> Path:
    """Put a signature where the lookaside store has it."""
    path = tmp_path / "sigs" / f"x@{of.replace(':', '=')}" / f"signature-{number}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.spawns
def test_signatures_of_gpg(layout: Layout, registry: Hostile, gpg: Gpg, tmp_path: Path) -> None:
    trust_gpg(layout, gpg)
    found = registry.image(LAYER)
    assert "there is no signature" in refused(layout, registry)
    name = f"{registry.host}/x:1"
    put(tmp_path, found, 1, b"junk")
    put(tmp_path, found, 2, gpg.sign("me", claim(name.replace("x:1", "y:1"), found, "gpg")))
    put(tmp_path, found, 3, gpg.sign("me", claim(name, digest(b"x"), "gpg")))
    put(tmp_path, found, 4, gpg.sign("me", claim(name, found, "sigstore")))
    text = refused(layout, registry)
    for word in ("in binary form", "it is for", "of another image", "of the type"):
        assert word in text
    put(tmp_path, found, 5, gpg.sign("me", claim(name, found, "gpg")))
    image = pull(layout, registry).image
    (signer,) = signatures.check(layout, image).signers
    assert signer.startswith("gpg key ") and "(me)" in signer
    assert not any(".sig" in path for path in registry.paths())


@pytest.mark.spawns
def test_a_store_of_signatures_on_the_network(
    layout: Layout, registry: Hostile, gpg: Gpg, tmp_path: Path
) -> None:
    trust_gpg(layout, gpg)
    found = registry.image(LAYER)
    good = gpg.sign("me", claim(f"{registry.host}/x:1", found, "gpg"))
    answers: list[Callable[[BaseHTTPRequestHandler], object]] = []

    class Store(BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            """Nothing is said."""

        def do_GET(self) -> None:
            paths.append(self.path)
            answers[0](self)

    paths: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        lookaside.REGISTRIES_D.mkdir()
        place = {"lookaside": f"http://127.0.0.1:{server.server_port}/a"}
        (lookaside.REGISTRIES_D / "x.yaml").write_text(json.dumps({"docker": {registry.host: place}}))
        for answer, kind, word in (
            (lambda handler: reply(handler, 404), RefusedError, "there is no signature"),
            (lambda handler: reply(handler, 500), RemoteError, "status 500"),
            (lambda handler: reply(handler, 403), RemoteError, "status 403"),
            (lambda handler: reply(handler, 302, Location=handler.path), RemoteError, "redirects too often"),
            (
                lambda handler: reply(handler, 302, Location="file:///etc/passwd"),
                RemoteError,
                "not protected",
            ),
            (lambda handler: reply(handler, 200, b"x" * (1 << 20)), RefusedError, "more than"),
            (lambda handler: reply(handler, 200, b"x"), RefusedError, "in binary form"),
        ):
            answers[:] = [answer]
            assert word in refused(layout, registry, kind=kind)
        answers[:] = [
            lambda handler: reply(handler, 200, good) if handler.path.endswith("-1") else reply(handler, 404)
        ]
        assert pull(layout, registry).changed
        assert paths[-1] == f"/a/x@{found.replace(':', '=')}/signature-1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# -- files -----------------------------------------------------------------------------------------------------


def saved(name: str = "a.example/x:1") -> tuple[OciLayout, str]:
    made = OciLayout()
    return made, str(made.image(LAYER, name=name)["digest"])


def test_images_of_files_are_judged_by_their_names(layout: Layout, tmp_path: Path, key: SigstoreKey) -> None:
    trust(layout, key)
    made, _ = saved()
    source = str(made.write(tmp_path / "layout"))
    with pytest.raises(RefusedError, match=r"a\.example/x:1 is not signed"):
        loading.load(layout, source)
    assert not store.references(layout) and garbage.collect(layout, []) == []
    text = (layout.config / "policy.yaml").read_text()
    (layout.config / "policy.yaml").write_text(text[:-1] + ', "load": "accept"}')
    assert loading.load(layout, source)


def test_signatures_come_with_files_and_go_with_them(
    layout: Layout, registry: Hostile, tmp_path: Path, key: SigstoreKey
) -> None:
    trust(layout, key)
    made, found = saved()
    payload = claim("a.example/x:1", found)
    store.prepare(layout)
    signature_record.write(layout, found, [Signature("sigstore", key.sign(payload), payload)], [], [])
    wrapped = signature_files.saved(layout, found)
    assert wrapped is not None
    entry, blobs = wrapped
    for data in blobs.values():
        made.blob(data, "")
    made.entries.append({**entry.document(), "annotations": dict(entry.annotations)})
    store.place(layout, "signatures", found).unlink()
    (image,) = loading.load(layout, str(made.write(tmp_path / "layout")))
    assert image.reference == "a.example/x:1"
    assert signatures.check(layout, image).signers
    assert signature_files.saved(layout, image.digest) == wrapped


@pytest.mark.parametrize("signed", ["index", "instance"])
def test_what_is_saved_is_let_in_elsewhere(
    layout: Layout, registry: Hostile, tmp_path: Path, key: SigstoreKey, signed: str
) -> None:
    trust(layout, key)
    own, other = registry.image(LAYER), registry.image(LAYER, tag="arm", more=1)
    whole = index(registry, own, other)
    sign(registry, key, whole if signed == "index" else own)
    pull(layout, registry)
    archive = tmp_path / "saved.tar"
    saving.to_file(layout, [f"{registry.host}/x:1"], archive)
    assert archive.read_bytes() == b"".join(written(layout, f"{registry.host}/x:1"))
    elsewhere = Layout(state=tmp_path / "elsewhere", config=layout.config)
    (image,) = loading.load(elsewhere, str(archive))
    assert image.digest == own and signatures.check(elsewhere, image).signers
    assert garbage.collect(elsewhere, []) == []
    # Another image in the place of the signed one, with the signatures that the first has.
    swapped = tmp_path / "swapped.tar"
    swapped.write_bytes(archive.read_bytes().replace(own[7:].encode(), other[7:].encode()))
    with pytest.raises(GearError):
        loading.load(elsewhere, str(swapped), names=["a.example/x:2"])
    assert list(store.references(elsewhere)) == [f"{registry.host}/x:1"]


def written(layout: Layout, name: str) -> list[bytes]:
    pieces: list[bytes] = []
    saving.save(layout, [name], pieces.append)
    return pieces


def test_an_index_beside_the_signatures_vouches_for_what_it_lists_only(
    layout: Layout, registry: Hostile, tmp_path: Path, key: SigstoreKey
) -> None:
    trust(layout, key)
    made, evil = saved()
    honest = {"mediaType": OCI, "digest": digest(b"honest"), "size": 6}
    data = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [honest]}).encode()
    payload = claim("a.example/x:1", digest(data))
    text, blobs = cosign.artifact(
        [Signature("sigstore", key.sign(payload), payload)],
        [(Descriptor(INDEX, digest(data), len(data)), data)],
    )
    for blob in blobs.values():
        made.blob(blob, "")
    name = {"org.opencontainers.image.ref.name": cosign.tag(evil)}
    made.entries.append(made.blob(text, OCI, annotations=name))
    with pytest.raises(RefusedError, match="not signed"):
        loading.load(layout, str(made.write(tmp_path / "layout")))
    assert not store.references(layout) and garbage.collect(layout, []) == []


def test_artifacts_of_a_file_are_bounded(
    layout: Layout, tmp_path: Path, key: SigstoreKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust(layout, key)
    made, found = saved()
    name = {"org.opencontainers.image.ref.name": cosign.tag(found)}
    for number in range(200):
        payload = claim("a.example/x:1", found) + b" " * number
        text, blobs = cosign.artifact([Signature("sigstore", b"none", payload)])
        for blob in blobs.values():
            made.blob(blob, "")
        made.entries.append(made.blob(text, OCI, annotations=name))
    looked: list[bytes] = []
    verifies = cosign.PublicKey.verifies

    def counted(self: cosign.PublicKey, payload: bytes, signature: bytes) -> bool:
        looked.append(payload)
        return verifies(self, payload, signature)

    monkeypatch.setattr(cosign.PublicKey, "verifies", counted)
    with pytest.raises(RefusedError, match="not signed"):
        loading.load(layout, str(made.write(tmp_path / "layout")))
    assert len(looked) == signature_files.ARTIFACTS_LIMIT


@pytest.mark.parametrize(("count", "size"), [(40, 10), (9, 1 << 20)])
def test_indexes_beside_signatures_are_bounded(count: int, size: int) -> None:
    listed = [(Descriptor(INDEX, digest(str(number).encode()), size), b"") for number in range(count)]
    manifest, _ = cosign.artifact([], listed)
    with pytest.raises(IntegrityError, match="more indexes than any image"):
        cosign.indexes(parse_document(manifest, "x"), lambda blob: pytest.fail("it was read"))


def test_a_signed_index_of_a_file_vouches_for_its_image(
    layout: Layout, tmp_path: Path, key: SigstoreKey
) -> None:
    trust(layout, key)
    made = OciLayout()
    entry = made.image(LAYER, platform={"os": "linux", "architecture": images.host_platform().architecture})
    text = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode()
    whole = made.blob(text, INDEX, annotations={"org.opencontainers.image.ref.name": "a.example/x:1"})
    payload = claim("a.example/x:1", whole["digest"])
    manifest, blobs = artifact((payload, key.sign(payload)))
    for data in blobs.values():
        made.blob(data, "")
    tag = {"org.opencontainers.image.ref.name": cosign.tag(whole["digest"])}
    made.entries = [whole, made.blob(manifest, OCI, annotations=tag)]
    (image,) = loading.load(layout, str(made.write(tmp_path / "layout")))
    assert image.digest == entry["digest"] and signatures.check(layout, image).signers
    assert garbage.collect(layout, []) == []


def test_an_archive_of_docker_has_no_signatures(layout: Layout, key: SigstoreKey) -> None:
    gate = signatures.Gate.of_file(layout, "a.example/x:1", "docker-archive", "")
    assert not gate.asks
    trust(layout, key)
    store.prepare(layout)
    gate = signatures.Gate.of_file(layout, "a.example/x:1", "docker-archive", "")
    with pytest.raises(RefusedError, match="not signed"):
        gate.pass_loaded([(digest(b"{}"), b"{}")], lambda digests: ())


# -- what is kept ----------------------------------------------------------------------------------------------


def test_junk_does_not_push_out_what_is_good(layout: Layout) -> None:
    store.prepare(layout)
    good = Signature("gpg", b"good")
    junk = [Signature("gpg", bytes([65 + number]) * (100 << 10)) for number in range(60)]
    signature_record.write(layout, digest(b"x"), [good], junk, [])
    signature_record.write(layout, digest(b"x"), [], junk, [])
    kept = signature_record.read(layout, digest(b"x")).signatures
    assert kept[0] == good and len(kept) <= signature_record.COUNT_LIMIT
    path = store.place(layout, "signatures", digest(b"x"))
    assert path.stat().st_size < signature_record.SIZE_LIMIT and path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"signatures": [{}]}', '{"signatures": [{"kind": "x", "signature": ""}]}',
     '{"signatures": [{"kind": "gpg", "signature": "%"}]}', '{"indexes": ["../../etc"]}'],
)  # fmt: skip
def test_a_damaged_record_is_told(layout: Layout, text: str) -> None:
    store.prepare(layout)
    store.place(layout, "signatures", digest(b"x")).write_text(text)
    with pytest.raises(IntegrityError):
        signature_record.read(layout, digest(b"x"))


def test_what_a_killed_check_left_goes(layout: Layout) -> None:
    store.prepare(layout)
    home = layout.images / "signatures" / "sha256" / ".partial-home"
    home.mkdir()
    (home / "pubring.kbx").write_bytes(b"x")
    assert garbage.sweep(layout) == [home] and not home.exists()


# -- signing ---------------------------------------------------------------------------------------------------


def no_passphrase() -> bytes:
    raise AssertionError("asked for a passphrase")


@pytest.mark.parametrize("kind", ["p256", "p384", "p521", "ed25519", "rsa"])
def test_what_is_signed_can_be_verified(layout: Layout, registry: Hostile, kind: str) -> None:
    key = SigstoreKey(kind)
    found = registry.image(LAYER)
    pull(layout, registry)
    private = cosign.PrivateKey(key.private(), "key", no_passphrase)
    assert private.public() == key.public()
    for _ in range(2):  # the second goes beside the first
        assert signing.sign(layout, f"{registry.host}/x:1", private, settings=SETTINGS) == (
            f"{registry.host}/x:1",
            found,
        )
    assert len(json.loads(registry.manifests[cosign.tag(found)][1])["layers"]) == 2
    trust(layout, key)
    image = store.resolve(layout, f"{registry.host}/x:1")
    assert signatures.check(layout, image).signers
    images.remove(layout, image.reference, in_use={})
    assert pull(layout, registry).changed


def test_what_others_have_attached_stays(layout: Layout, registry: Hostile, key: SigstoreKey) -> None:
    found = registry.image(LAYER)
    pull(layout, registry)
    attach(registry, found, (b"theirs", b"x"), annotations={"a": "b"})
    before = json.loads(registry.manifests[cosign.tag(found)][1])
    private = cosign.PrivateKey(key.private(), "key", no_passphrase)
    signing.sign(layout, f"{registry.host}/x:1", private, settings=SETTINGS)
    after = json.loads(registry.manifests[cosign.tag(found)][1])
    assert after["layers"][:1] == before["layers"] and after["annotations"] == {"a": "b"}
    an_index(registry, found)
    with pytest.raises(IntegrityError, match="in the place of the signatures"):
        signing.sign(layout, f"{registry.host}/x:1", private, settings=SETTINGS)


def test_private_keys(key: SigstoreKey, monkeypatch: pytest.MonkeyPatch) -> None:
    for pem in (key.private(), key.private(b"geheim"), key.cosigns(b"geheim")):
        assert cosign.PrivateKey(pem, "key", lambda: b"geheim").public() == key.public()
    renamed = key.cosigns(b"geheim").replace(b"COSIGN", b"SIGSTORE")
    assert cosign.PrivateKey(renamed, "key", lambda: b"geheim").public() == key.public()
    costs = {"name": "scrypt", "params": {"N": 1 << 40, "r": 8, "p": 1}, "salt": "AA=="}
    for pem, word in (
        (key.private(b"geheim"), "the passphrase is wrong"),
        (key.cosigns(b"geheim"), "the passphrase is wrong"),
        (key.cosigns(b"x", kdf=costs), "more work than is sensible"),
        (key.cosigns(b"x", kdf=None), "wrong, or it is damaged"),
        (key.cosigns(b"x", cipher={"name": "rot13"}), "not supported"),
        (key.public(), "no private key"),
        (SigstoreKey("p224").private(), "not supported"),
        (b"", "no private key"),
    ):
        with pytest.raises(UsageError, match=word):
            cosign.PrivateKey(pem, "key", lambda: b"falsch")
    pem = key.cosigns(b"x")
    monkeypatch.setitem(sys.modules, "nacl.secret", None)
    with pytest.raises(HostError, match="PyNaCl"):
        cosign.PrivateKey(pem, "key", lambda: b"x")


def test_an_artifact_is_read_back() -> None:
    found = [Signature("sigstore", b"s", b"p"), Signature("gpg", b"g")]
    manifest, blobs = cosign.artifact(found)
    node = parse_document(manifest, "the artifact")
    assert list(cosign.signatures(node, lambda blob: blobs[blob.digest])) == found
