"""References, manifests and image configs: what is understood, and the sentence about what is not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from archives import digest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gear.document import parse_document
from gear.errors import GearError, IntegrityError, UsageError
from gear.oci import (
    Descriptor,
    ImageConfig,
    Manifest,
    Platform,
    Reference,
    choose,
    index_entries,
    parse_digest,
)

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("hello", "hello:latest"),
        ("hello:1.0_x-Y", "hello:1.0_x-Y"),
        ("a/b/c:t", "a/b/c:t"),
        ("Registry.example:5000/team/app", "Registry.example:5000/team/app:latest"),
        ("localhost/x", "localhost/x:latest"),
        ("[2001:db8::1]:5000/x:1", "[2001:db8::1]:5000/x:1"),
        (f"hello@sha256:{HEX}", f"hello@sha256:{HEX}"),
        (f"hello:1@sha512:{HEX}{HEX}", f"hello:1@sha512:{HEX}{HEX}"),
        ("a__b.c--d", "a__b.c--d:latest"),
    ],
)
def test_reference_has_one_canonical_text(text: str, canonical: str) -> None:
    assert str(Reference.parse(text)) == canonical
    assert str(Reference.parse(canonical)) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "hello:", "Hello", "a b", "a//b", "/a", "a/", "a:b:c", "../a", "a/../b",
        "-a", "a..b", "a___b",
        "a@", "a@sha256:12", f"a@md5:{HEX}", f"a@sha256:{HEX.upper()}", f"a@sha256:{HEX}@sha256:{HEX}",
        "a:" + "t" * 129, "a" * 231, "ä", "a\n", "a\0", "a:-x", "%2e", "a+b", "host:99999999/x",
    ],
)  # fmt: skip
def test_no_reference(text: str) -> None:
    with pytest.raises(UsageError, match="can't name an image|longer than"):
        Reference.parse(text)


@settings(max_examples=300, derandomize=True, database=None)
@given(st.text(alphabet="aA0._-:/@[]%+ ", max_size=40))
def test_every_reference_is_a_plain_file_name(text: str) -> None:
    try:
        name = str(Reference.parse(text)).replace("/", "+")
    except UsageError:
        return
    assert "/" not in name and not name.startswith(".") and len(name) <= 230
    assert str(Reference.parse(name.replace("+", "/"))) == name.replace("+", "/")


def test_digests() -> None:
    assert parse_digest(f"sha256:{HEX}") == ("sha256", HEX)
    assert parse_digest(f"sha512:{HEX}{HEX}") == ("sha512", HEX + HEX)
    for text in (
        "",
        HEX,
        f"md5:{HEX}",
        f"sha256:{HEX}0",
        f"sha256:{HEX[:-1]}",
        f"sha256:{HEX.upper()}",
        "../x",
    ):
        with pytest.raises(IntegrityError, match="is not a digest"):
            parse_digest(text)


def descriptor(media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{HEX}", "size": 3, **more}


def manifest(**changes: Any) -> dict[str, Any]:
    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json"),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip")],
    }
    return {name: value for name, value in {**document, **changes}.items() if value is not ...}


def test_manifest() -> None:
    parsed = Manifest.from_node(parse_document(json.dumps(manifest()).encode(), "the manifest"))
    assert parsed.config.digest == f"sha256:{HEX}"
    assert [layer.size for layer in parsed.layers] == [3]
    docker = manifest(
        mediaType="application/vnd.docker.distribution.manifest.v2+json",
        config=descriptor("application/vnd.docker.container.image.v1+json"),
        layers=[descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip")],
    )
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    assert Manifest.from_node(parse_document(json.dumps(docker).encode(), "it"), kind).media_type == kind
    silent = manifest(mediaType=...)
    assert Manifest.from_node(parse_document(json.dumps(silent).encode(), "it")).media_type.endswith(
        "manifest.v1+json"
    )


INDEX = "application/vnd.oci.image.index.v1+json"


@pytest.mark.parametrize(
    ("document", "promised", "message"),
    [
        (manifest(manifests=[]), "", "It is an index and a manifest at once."),
        (manifest(schemaVersion=1), "", "It: schemaVersion is not 2, and older schemas are not supported."),
        (
            manifest(),
            INDEX,
            "It says it is 'application/vnd.oci.image.manifest.v1+json', but it was announced as",
        ),
        (manifest(mediaType=INDEX), INDEX, "which does not fit what it holds"),
        (manifest(config=...), "", "It: config is missing."),
        (manifest(config=[]), "", "It: config is not an object."),
        (manifest(artifactType="a/b"), "", "It is not a container image but an artifact of type 'a/b'."),
        (
            manifest(config=descriptor("application/vnd.x+json")),
            "",
            "an artifact of type 'application/vnd.x+json'",
        ),
        (
            manifest(layers=[descriptor("text/plain")]),
            "",
            "It: layers[0].mediaType is 'text/plain', not a known kind",
        ),
        (
            manifest(layers=[descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")]),
            "",
            "It: layers[0] is a foreign layer",
        ),
        (manifest(layers=[descriptor("x", size=-1)]), "", "It: layers[0].size is not a size in bytes."),
        (manifest(layers=[descriptor("x", size=True)]), "", "It: layers[0].size is not a size in bytes."),
        (
            manifest(layers=[descriptor("x", digest="md5:0")]),
            "",
            "It: layers[0].digest is not a sha256 or sha512",
        ),
        (manifest(layers={}), "", "It: layers is not an array."),
        (manifest(layers=[descriptor("x")] * 501), "", "It: layers has more than 500 items."),
    ],
)
def test_no_manifest(document: dict[str, Any], promised: str, message: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        Manifest.from_node(parse_document(json.dumps(document).encode(), "it"), promised)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1, "a": 2}', "It is not valid JSON: a member occurs twice."),
        (b"[" * 100_000, "It is not valid JSON"),
        (b"\xff", "It is not valid JSON"),
        (b"[]", "It is not a JSON object."),
        (b" " * (5 << 20), "It is larger than 4194304 bytes."),
        (b'{"a": ' + b"9" * 5000 + b"}", "It is not valid JSON"),
    ],
)
def test_no_document(data: bytes, message: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        parse_document(data, "it")
    assert caught.value.message.startswith(message)


def entries(*platforms: tuple[str, ...] | None) -> list[Descriptor]:
    return [
        Descriptor("x", f"sha256:{number:064}", 1, Platform(*platform) if platform else None)
        for number, platform in enumerate(platforms)
    ]


@pytest.mark.parametrize(
    ("machine", "platforms", "chosen"),
    [
        ("x86_64", [("linux", "arm64"), ("linux", "amd64")], 1),
        ("x86_64", [("linux", "amd64", "v3"), ("linux", "amd64")], 1),
        ("x86_64", [("windows", "amd64"), ("linux", "amd64", "v1")], 1),
        ("x86_64", [("unknown", "unknown"), ("linux", "amd64"), ("linux", "amd64")], 1),
        ("x86_64", [None], 0),
        ("aarch64", [("linux", "arm64"), ("linux", "arm64", "v8")], 1),
        ("armv7l", [("linux", "arm", "v6"), ("linux", "arm", "v7"), ("linux", "arm", "v8")], 1),
        ("armv7l", [("linux", "arm", "v5"), ("linux", "arm", "v6")], 1),
        ("armv6l", [("linux", "arm", "v7"), ("linux", "arm", "v5")], 1),
        ("i686", [("linux", "amd64"), ("linux", "386")], 1),
        ("riscv64", [("linux", "riscv64")], 0),
    ],
)
def test_choice_by_platform(machine: str, platforms: list[Any], chosen: int) -> None:
    found = choose(entries(*platforms), Platform.of_machine(machine), "it")
    assert found.digest == f"sha256:{chosen:064}"


def test_no_choice_names_what_there_is() -> None:
    with pytest.raises(IntegrityError) as caught:
        choose(entries(("linux", "arm", "v7"), ("windows", "amd64")), Platform.of_machine("x86_64"), "It")
    assert caught.value.message == "It has no image for linux/amd64."
    assert caught.value.hint == "It has images for linux/arm/v7, windows/amd64."


def test_index_entries_need_an_index() -> None:
    with pytest.raises(IntegrityError, match="is not an index of images"):
        index_entries(parse_document(json.dumps(manifest()).encode(), "it"))


def image_config(**members: Any) -> dict[str, Any]:
    return {"architecture": "amd64", "os": "linux", "config": members, "rootfs": {"diff_ids": [digest(b"")]}}


def test_config() -> None:
    config = ImageConfig.from_mapping(
        image_config(
            Entrypoint=["/bin/a"],
            Cmd=["b", ""],
            Env=["A=1", "B==x", "A=2"],
            User="www:8080",
            WorkingDir="srv",
            StopSignal="SIGQUIT",
            Labels={"l": "v\n%", "null": None},
            Volumes={"/b": {}, "/a": None},
            ExposedPorts={"80": {}, "53/udp": {}, "80/tcp": {}},
            Healthcheck={"Test": ["CMD", "x"]},
        )
    )
    assert config.entrypoint == ("/bin/a",) and config.cmd == ("b", "")
    assert config.env == (("A", "2"), ("B", "=x"))
    assert (config.user, config.workdir, config.stop_signal) == ("www:8080", "/srv", "SIGQUIT")
    assert config.labels == {"l": "v\n%", "null": ""}
    assert config.volumes == ("/a", "/b")
    assert config.exposed_ports == ("53/udp", "80/tcp")
    assert config.healthcheck == {"Test": ["CMD", "x"]}
    assert config.diff_ids == (digest(b""),)


NAMES = [
    "Entrypoint",
    "Cmd",
    "Env",
    "User",
    "WorkingDir",
    "StopSignal",
    "Labels",
    "Volumes",
    "ExposedPorts",
    "Healthcheck",
]


def test_null_members_are_absent() -> None:
    nulls = ImageConfig.from_mapping(image_config(**dict.fromkeys(NAMES)))
    assert nulls == ImageConfig.from_mapping(image_config())
    assert nulls.entrypoint is None and nulls.cmd is None and nulls.healthcheck is None
    assert ImageConfig.from_mapping({"config": None, "rootfs": None}).diff_ids == ()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"Entrypoint": "/bin/sh"}, "The config: config.Entrypoint is not an array."),
        ({"Cmd": [1]}, "The config: config.Cmd[0] is not a string."),
        ({"Cmd": [None]}, "The config: config.Cmd[0] is not a string."),
        ({"Cmd": ["a\0"]}, "The config: config.Cmd[0] holds a NUL byte."),
        ({"Cmd": ["\ud800"]}, "The config: config.Cmd[0] is not valid Unicode."),
        ({"Cmd": ["x" * 200_000]}, "The config: config.Cmd[0] is longer than 131072 characters."),
        ({"Cmd": ["x"] * 5000}, "The config: config.Cmd has more than 4096 items."),
        ({"Env": ["A"]}, "The config: config.Env[0] is not NAME=VALUE."),
        ({"Env": ["=A"]}, "The config: config.Env[0] is not NAME=VALUE."),
        ({"Env": {}}, "The config: config.Env is not an array."),
        ({"User": 5}, "The config: config.User is not a string."),
        ({"WorkingDir": "/a\0"}, "The config: config.WorkingDir holds a NUL byte."),
        ({"Labels": ["a"]}, "The config: config.Labels is not an object."),
        ({"Labels": {"a": 1}}, "The config: config.Labels.a is not a string."),
        (
            {"Labels": {str(n): "" for n in range(5000)}},
            "The config: config.Labels has more than 4096 members.",
        ),
        ({"Volumes": {"a\0": {}}}, "The config: config.Volumes.'a\\x00' holds a NUL byte."),
        ({"ExposedPorts": {"0/tcp": {}}}, "The config: config.ExposedPorts.'0/tcp' is not PORT/PROTOCOL."),
        (
            {"ExposedPorts": {"80/icmp": {}}},
            "The config: config.ExposedPorts.'80/icmp' is not PORT/PROTOCOL.",
        ),
        ({"Healthcheck": "x"}, "The config: config.Healthcheck is not an object."),
    ],
)
def test_config_faults_name_their_place(members: dict[str, Any], message: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        ImageConfig.from_mapping(image_config(**members), "The config")
    assert caught.value.message == message


TEXT = st.text(alphabet="aA=/\0:0", max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.sampled_from(NAMES), JSON), st.dictionaries(st.sampled_from(["os", "rootfs"]), JSON)
)
def test_any_config_is_understood_or_refused(members: dict[str, Any], top: dict[str, Any]) -> None:
    try:
        config = ImageConfig.from_mapping({**image_config(**members), **top})
    except GearError:
        return
    assert all(isinstance(word, str) for word in (*(config.cmd or ()), *(config.entrypoint or ())))
