"""The policy about signatures: which part of it holds for an image, and that a wrong file stops everything."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from gear import lookaside, policy
from gear.claims import Claim, Identity, Name, payload
from gear.errors import GearError, IntegrityError, UsageError
from gear.model import Layout
from gear.reference import Remote

DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64


@pytest.fixture(autouse=True)
def own_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine is read."""
    monkeypatch.setattr(policy, "CONTAINERS_POLICY", tmp_path / "policy.json")
    monkeypatch.setattr(lookaside, "REGISTRIES_D", tmp_path / "registries.d")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    (tmp_path / "etc").mkdir()
    return Layout(state=tmp_path / "state", config=tmp_path / "etc")


def own(layout: Layout, text: str) -> policy.Policy:
    (layout.config / "policy.yaml").write_text(text)
    found = policy.load(layout)
    assert found is not None
    return found


def containers(layout: Layout, document: Any) -> policy.Policy:
    text = document if isinstance(document, str) else json.dumps(document)
    policy.CONTAINERS_POLICY.write_text(text)
    found = policy.load(layout)
    assert found is not None
    return found


def wanted(text: str) -> Name:
    return Name.of(Remote.parse(text))


SCOPES = {
    "*.example": "accept",
    "*.deep.example": "reject",
    "registry.example": "reject",
    "registry.example/team": "accept",
    "registry.example/team/app": {"sigstore": ["/k.pub"]},
    "registry.example/team/app:old": "reject",
    "localhost:5000": "accept",
    "docker.io/library": "accept",
}


@pytest.mark.parametrize(
    ("reference", "scope"),
    [
        ("registry.example/team/app:old", "registry.example/team/app:old"),
        ("registry.example/team/app:new", "registry.example/team/app"),
        ("registry.example/team/app", "registry.example/team/app"),
        (f"registry.example/team/app@{DIGEST}", "registry.example/team/app"),
        (f"registry.example/team/app:old@{DIGEST}", "registry.example/team/app:old"),
        ("registry.example/team/apple", "registry.example/team"),
        ("registry.example/teams", "registry.example"),
        ("registry.example:5000/team", "*.example"),
        ("a.example/x", "*.example"),
        ("a.deep.example/x", "*.deep.example"),
        ("localhost:5000/x", "localhost:5000"),
        ("localhost/x", None),
        ("nginx", "docker.io/library"),
        ("docker.io/team/nginx", None),
        ("index.docker.io/nginx", "docker.io/library"),
        ("example/x", None),
    ],
)
def test_the_longest_scope_counts(layout: Layout, reference: str, scope: str | None) -> None:
    text = json.dumps({"default": "reject", "scopes": SCOPES})  # which is YAML, too
    rule = own(layout, text).of_registry(wanted(reference))
    assert rule.where.endswith(f": scopes.{scope}" if scope else ": default")
    (layout.config / "policy.yaml").unlink()
    reject = [{"type": "reject"}]
    theirs = {"default": reject, "transports": {"docker": dict.fromkeys(SCOPES, reject)}}
    rule = containers(layout, theirs).of_registry(wanted(reference))
    assert rule.where.endswith(f'docker["{scope}"]' if scope else ": default")


def test_without_a_file_there_is_no_policy(layout: Layout) -> None:
    assert policy.load(layout) is None


def test_gears_own_file_counts_more(layout: Layout) -> None:
    assert containers(layout, {"default": [{"type": "reject"}]}).default.reject
    assert not own(layout, "default: accept").default.reject


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("[]", "is not a mapping"),
        ("accept", "is not a mapping"),
        ("scopes: {}", "has no default"),
        ("default:", "neither accept nor reject"),
        ("default: true", "neither accept nor reject"),
        ("default: Accept", "neither accept nor reject"),
        ("default: accept\ndefault: reject", "occurs twice"),
        ("default: reject\nscope: {}", "unknown member 'scope'"),
        ("default: reject\nload:", "neither accept nor reject"),
        ("default: reject\nscopes: [x]", "is not a mapping"),
        ("default: reject\nscopes: {a.example: }", "neither accept nor reject"),
        ("default: reject\nscopes: {a.example: {}}", "without a key"),
        ("default: reject\nscopes: {a.example: {gpg: []}}", "without a key"),
        ("default: reject\nscopes: {a.example: {gpg: key.gpg}}", "is not a list"),
        ("default: reject\nscopes: {a.example: {gpg: [key.gpg]}}", "no absolute path"),
        ("default: reject\nscopes: {a.example: {gpg: [/k], identity: tag}}", "neither reference nor"),
        ("default: reject\nscopes: {a.example: {gpg: [/k], key: x}}", "unknown member 'key'"),
        ("default: reject\nscopes: {'*.a.example': {gpg: [/k], signed-as: b.example}}", "fits no image"),
        ("default: reject\nscopes: {'a.example/x:1': {gpg: [/k], signed-as: b.example}}", "fits no image"),
        ("default: reject\nscopes: {a.example: {gpg: [/k], signed-as: 'b.example/x:1'}}", "fits no image"),
        ("default: {gpg: [/k], signed-as: b.example}", "fits no image"),
        (
            "default: reject\nscopes: {a.example: {gpg: [/k], signed-as: b.example, identity: repository}}",
            "together",
        ),
        ("default: reject\nscopes: {https://a.example: accept}", "fits no image"),
        ("default: reject\nscopes: {a.example/: accept}", "fits no image"),
        ("default: reject\nscopes: {A.example: accept}", "fits no image"),
        ("default: reject\nscopes: {a.example/X: accept}", "fits no image"),
        ("default: reject\nscopes: {nginx/x: accept}", "fits no image"),
        ("default: reject\nscopes: {'*.a.example/x': accept}", "fits no image"),
        ("default: reject\nscopes: {'a.*.example': accept}", "fits no image"),
        ("default: reject\nscopes: {index.docker.io: accept}", "fits no image"),
        ("default: reject\nscopes: {'': accept}", "fits no image"),
        ("default: &x reject\nload: *x", "anchors"),
    ],
)
def test_a_wrong_file_is_an_error(layout: Layout, text: str, word: str) -> None:
    with pytest.raises(UsageError, match="policy.yaml") as caught:
        own(layout, text)
    assert word in caught.value.message


SIGNED = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}


@pytest.mark.parametrize(
    ("document", "word"),
    [
        ("", "not valid JSON"),
        ("[]", "is not a mapping"),
        ({}, "default is missing"),
        ({"default": []}, "at least one"),
        ({"default": {}}, "is not an array"),
        ({"default": [{"type": "reject"}], "transport": {}}, "unknown member"),
        ('{"default": [{"type": "reject"}], "default": [{"type": "insecureAcceptAnything"}]}', "twice"),
        ({"default": [{"type": "reject", "keyPath": "/k"}]}, "unknown member"),
        ({"default": [{"type": "Reject"}]}, "no requirement"),
        ({"default": ["reject"]}, "is not a mapping"),
        ({"default": [{"type": "reject"}], "transports": {"docker": {"x": []}}}, "at least one"),
        ({"default": [{**SIGNED, "keyType": "X509"}]}, "GPGKeys"),
        ({"default": [{"type": "signedBy", "keyType": "GPGKeys"}]}, "exactly once"),
        ({"default": [{**SIGNED, "keyData": "AAAA"}]}, "exactly once"),
        ({"default": [{**SIGNED, "keyPath": ""}]}, "is empty"),
        ({"default": [{"type": "sigstoreSigned", "keyPaths": []}]}, "is empty"),
        ({"default": [{"type": "sigstoreSigned", "keyPaths": ["/k", ""]}]}, "is empty"),
        ({"default": [{"type": "sigstoreSigned", "keyData": "%"}]}, "not base64"),
        ({"default": [{**SIGNED, "signedIdentity": {"type": "any"}}]}, "no kind of identity"),
        ({"default": [{**SIGNED, "signedIdentity": {"type": "exactReference"}}]}, "fits no image"),
        (
            {"default": [{**SIGNED, "signedIdentity": {"type": "exactReference", "dockerReference": "a/b"}}]},
            "another form",
        ),
        (
            {
                "default": [
                    {**SIGNED, "signedIdentity": {"type": "exactRepository", "dockerRepository": "a:1"}}
                ]
            },
            "another form",
        ),
        (
            {"default": [{**SIGNED, "signedIdentity": {"type": "remapIdentity", "prefix": "*.a.example"}}]},
            "fits no image",
        ),
        (
            {"default": [{**SIGNED, "signedIdentity": {"type": "matchExact", "prefix": "a"}}]},
            "unknown member",
        ),
    ],
)
def test_a_wrong_file_of_containers_is_an_error(layout: Layout, document: Any, word: str) -> None:
    with pytest.raises(UsageError, match="policy.json") as caught:
        containers(layout, document)
    assert word in caught.value.message


def test_what_containers_can_say(layout: Layout) -> None:
    data = base64.b64encode(b"key").decode()
    remap = {"type": "remapIdentity", "prefix": "mirror.example/hub", "signedPrefix": "docker.io/library"}
    found = containers(
        layout,
        {
            "default": [{"type": "insecureAcceptAnything"}],
            "transports": {
                "docker": {
                    "a.example": [
                        SIGNED,
                        {"type": "sigstoreSigned", "keyDatas": [data, data], "signedIdentity": remap},
                    ],
                    "b.example": [{"type": "sigstoreSigned", "fulcio": {}, "rekorPublicKeyPath": "/r"}],
                    "c.example": [{"type": "signedBaseLayer", "baseLayerIdentity": {"type": "matchExact"}}],
                },
                "docker-archive": {"": [{"type": "reject"}]},
                "oci": {"/srv/images": [{"type": "reject"}]},
                "unheard-of": {"x": [{"type": "reject"}]},
            },
        },
    )
    first, second = found.of_registry(wanted("a.example/x")).signed
    assert [key.kind for key in first.keys + second.keys] == ["gpg", "sigstore", "sigstore"]
    assert second.keys[0].read() == b"key" and second.identity.match == "remapIdentity"
    assert "fulcio is not supported" in found.of_registry(wanted("b.example/x")).signed[0].unsupported
    assert found.of_registry(wanted("c.example/x")).signed[0].unsupported
    assert not found.of_registry(wanted("d.example/x")).signed
    assert found.of_file(wanted("a.example/x"), "docker-archive", "").reject
    assert found.of_file(wanted("a.example/x"), "oci", "/srv/images/x").reject
    assert not found.of_file(wanted("a.example/x"), "oci", "/srv/other").reject


def test_hosts_have_no_case(layout: Layout) -> None:
    accept, reject = [{"type": "insecureAcceptAnything"}], [{"type": "reject"}]
    found = containers(layout, {"default": accept, "transports": {"docker": {"A.Example/x": reject}}})
    for name in ("a.example/x", "A.example/x", "A.EXAMPLE/x:1"):
        assert found.of_registry(wanted(name)).reject
    with pytest.raises(UsageError, match="twice"):
        containers(layout, {"default": accept, "transports": {"docker": {"A.x/y": reject, "a.x/y": accept}}})


def test_files_are_judged_by_name_unless_said_otherwise(layout: Layout) -> None:
    text = "default: reject\nscopes: {a.example: accept}\n"
    assert not own(layout, text).of_file(wanted("a.example/x"), "oci", "/x").reject
    assert own(layout, text).of_file(wanted("hello"), "oci", "/x").reject
    assert not own(layout, text + "load: accept\n").of_file(wanted("hello"), "oci", "/x").reject
    assert own(layout, text + "load: reject\n").of_file(wanted("a.example/x"), "oci", "/x").reject


# -- files that can't be trusted or read -----------------------------------------------------------------------


def test_a_link_counts_and_one_that_leads_nowhere_is_an_error(layout: Layout, tmp_path: Path) -> None:
    path = layout.config / "policy.yaml"
    path.symlink_to(tmp_path / "real.yaml")
    with pytest.raises(UsageError, match="can't be read"):
        policy.load(layout)
    (tmp_path / "real.yaml").write_text("default: reject\n")
    found = policy.load(layout)
    assert found is not None and found.default.reject
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(UsageError, match="can't be read"):
        policy.load(layout)


@pytest.mark.parametrize("kind", ["directory", "pipe", "large", "not text"])
def test_what_is_no_file_is_an_error(layout: Layout, kind: str) -> None:
    path = layout.config / "policy.yaml"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(b"#" * (1 << 21) if kind == "large" else b"default: \xff")
    with pytest.raises(UsageError, match="policy.yaml"):
        policy.load(layout)


def test_a_file_that_others_may_write_is_an_error(layout: Layout) -> None:
    own(layout, "default: accept")
    (layout.config / "policy.yaml").chmod(0o666)
    with pytest.raises(UsageError, match="others than root may write it"):
        policy.load(layout)
    key = layout.config / "key.pub"
    key.write_text("x")
    key.chmod(0o646)
    with pytest.raises(UsageError, match="others than root may write it"):
        policy.Key("sigstore", str(key)).read()
    with pytest.raises(UsageError, match="can't be read"):
        policy.Key("gpg", str(layout.config / "none")).read()


# -- what is signed --------------------------------------------------------------------------------------------


def test_a_payload_says_what_was_signed() -> None:
    name = Name("a.example/x", "1", None)
    assert Claim.parse(payload(name, DIGEST, "gear", 7), "sigstore") == Claim(name, DIGEST)
    untagged = payload(Name("a.example/x", None, None), DIGEST, "gear", 7)
    assert Claim.parse(untagged, "sigstore").name.tag is None


def document(**more: Any) -> dict[str, Any]:
    critical = {
        "type": "cosign container image signature",
        "image": {"docker-manifest-digest": DIGEST},
        "identity": {"docker-reference": "a.example/x:1"},
    }
    return {"critical": {**critical, **more}, "optional": None}


GOOD = json.dumps(document()).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        GOOD[:-1],
        GOOD + b"{}",
        GOOD.replace(b'"optional": null', b'"optional": []'),
        GOOD.replace(b'"optional": null', b'"Optional": null'),
        GOOD.replace(b'"optional": null', b'"optional": null, "more": 1'),
        GOOD.replace(b'"optional": null', b'"optional": null, "optional": {}'),
        GOOD.replace(
            b'{"docker-manifest', b'{"docker-manifest-digest": "' + OTHER.encode() + b'", "docker-manifest'
        ),
        GOOD.replace(b'{"docker-ref', b'{"docker-reference": "a.example/y:1", "docker-ref'),
        GOOD.decode().encode("utf-16"),
        GOOD.decode().encode("utf-32-le"),
        json.dumps(document(type="atomic container signature")).encode(),
        json.dumps(document(type=None)).encode(),
        json.dumps(document(image={"docker-manifest-digest": DIGEST.upper()})).encode(),
        json.dumps(document(image={"docker-manifest-digest": [DIGEST]})).encode(),
        json.dumps(document(image={"docker-manifest-digest": DIGEST, "more": 1})).encode(),
        json.dumps(document(image=None)).encode(),
        json.dumps(document(identity={"docker-reference": "A B"})).encode(),
        json.dumps(document(identity={"docker-reference": 1})).encode(),
        json.dumps(document(identity={})).encode(),
        json.dumps(document(more=1)).encode(),
        GOOD.replace(b"null", b'{"x": "' + b"y" * (64 << 10) + b'"}'),
    ],
    ids=range(24),
)
def test_a_payload_with_two_meanings_is_none(data: bytes) -> None:
    assert Claim.parse(GOOD, "sigstore").digest == DIGEST
    with pytest.raises(IntegrityError):
        Claim.parse(data, "sigstore")


def test_kinds_can_not_be_exchanged() -> None:
    with pytest.raises(IntegrityError, match="of the type"):
        Claim.parse(GOOD, "gpg")


@pytest.mark.parametrize(
    ("identity", "reference", "claimed", "fits"),
    [
        (Identity(), "a.example/x:1", "a.example/x:1", True),
        (Identity(), "a.example/x", "a.example/x:latest", True),
        (Identity(), "a.example/x", "a.example/x", False),
        (Identity(), "a.example/x:1", "a.example/x:2", False),
        (Identity(), "a.example/x:1", "a.example/x", False),
        (Identity(), "a.example/x:1", "a.example/xy:1", False),
        (Identity(), "a.example/x:1", "b.example/x:1", False),
        (Identity(), "a.example/x:1", f"a.example/x:1@{DIGEST}", False),
        (Identity(), f"a.example/x@{DIGEST}", "a.example/x:7", True),
        (Identity(), f"a.example/x@{DIGEST}", "a.example/x", True),
        (Identity(), f"a.example/x@{DIGEST}", "a.example/y", False),
        (Identity(), "nginx", "nginx:latest", True),
        (Identity("matchExact"), "a.example/x:1", "a.example/x:1", True),
        (Identity("matchExact"), f"a.example/x@{DIGEST}", "a.example/x:1", False),
        (Identity("matchExact"), f"a.example/x@{DIGEST}", f"a.example/x@{DIGEST}", True),
        (Identity("matchRepository"), "a.example/x:1", "a.example/x", True),
        (Identity("matchRepository"), "a.example/x:1", "a.example/x:2", True),
        (Identity("matchRepository"), "a.example/x:1", "a.example/y:1", False),
        (Identity("exactReference", "b.example/y:2"), "a.example/x:1", "b.example/y:2", True),
        (Identity("exactReference", "b.example/y:2"), "a.example/x:1", "a.example/x:1", False),
        (Identity("exactRepository", "b.example/y"), "a.example/x:1", "b.example/y:3", True),
        (Identity("exactRepository", "b.example/y"), "a.example/x:1", "b.example/z:3", False),
        (Identity("remapIdentity", "a.example", "b.example/m"), "a.example/x:1", "b.example/m/x:1", True),
        (Identity("remapIdentity", "a.example", "b.example/m"), "a.example/x:1", "a.example/x:1", False),
        (
            Identity("remapIdentity", "a.example", "b.example"),
            "a.example.org/x:1",
            "b.example.org/x:1",
            False,
        ),
        (Identity("remapIdentity", "a.example/x", "b.example/y"), "a.example/x:1", "b.example/y:1", True),
        (Identity("remapIdentity", "a.example/x", "b.example/y"), "a.example/x:1", "b.example/y:2", False),
        (Identity("remapIdentity", "c.example", "b.example"), "a.example/x:1", "a.example/x:1", True),
    ],
)
def test_names_have_to_agree(identity: Identity, reference: str, claimed: str, fits: bool) -> None:
    assert identity.accepts(wanted(reference), Name.parse(claimed)) is fits


# -- where signatures of gpg are -------------------------------------------------------------------------------


def describe(text: str, name: str = "a.yaml") -> None:
    lookaside.REGISTRIES_D.mkdir(exist_ok=True)
    (lookaside.REGISTRIES_D / name).write_text(text)


def test_places_of_signatures() -> None:
    assert lookaside.place_of(wanted("a.example/x")) == lookaside.Place(lookaside.DEFAULT, None)
    describe(
        "default-docker: {lookaside: 'file:///default', lookaside-staging: 'file:///w'}\n"
        "docker:\n  a.example: {sigstore: 'https://s.example/', use-sigstore-attachments: true}\n"
        "  a.example/team: {use-sigstore-attachments: false}\n"
    )
    assert lookaside.place_of(wanted("a.example/team/x")) == lookaside.Place("https://s.example/", False)
    assert lookaside.place_of(wanted("a.example/x")) == lookaside.Place("https://s.example/", True)
    assert lookaside.place_of(wanted("b.example/x")) == lookaside.Place("file:///default", None)


@pytest.mark.parametrize(
    "text",
    ["[]", "docker: []", "docker: {a.example: x}", "docker: {a.example: {lookaside: 'ftp://x'}}",
     "docker: {a.example: {lookaside: [x]}}", "docker: {a.example: {use-sigstore-attachments: 1}}"],
)  # fmt: skip
def test_wrong_places_are_errors(text: str) -> None:
    describe(text)
    with pytest.raises(UsageError, match=r"a\.yaml"):
        lookaside.place_of(wanted("a.example/x"))


def test_a_place_is_described_once() -> None:
    describe("docker: {a.example: {lookaside: 'file:///x'}}\ndefault-docker: {}")
    describe("docker: {a.example: {lookaside: 'file:///y'}}", "b.yaml")
    with pytest.raises(UsageError, match="in another file"):
        lookaside.load()
    describe("default-docker: {}", "b.yaml")
    with pytest.raises(UsageError, match="in another file"):
        lookaside.load()


def test_signatures_of_a_directory(tmp_path: Path) -> None:
    place = tmp_path / "sigs" / f"team/x@sha256={'a' * 64}"
    place.mkdir(parents=True)
    for number in (1, 2, 4):
        (place / f"signature-{number}").write_bytes(b"%d" % number)
    url = f"file://{tmp_path}/sigs"
    assert list(lookaside.signatures(url, wanted("a.example/team/x"), DIGEST, None)) == [b"1", b"2"]
    assert list(lookaside.signatures(url, wanted("a.example/team/x"), OTHER, None)) == []
    (place / "signature-2").write_bytes(bytes(1 << 20))
    with pytest.raises(GearError, match="larger"):
        list(lookaside.signatures(url, wanted("a.example/team/x"), DIGEST, None))
    (place / "signature-2").unlink()
    os.mkfifo(place / "signature-2")
    with pytest.raises(GearError, match="regular"):
        list(lookaside.signatures(url, wanted("a.example/team/x"), DIGEST, None))
