"""The documents of the OCI image format and its Docker ancestors: references, manifests, configs.

Pure: no file, no network.  Everything parsed here was written by a stranger; types, counts and sizes are
checked, and what is wrong is an IntegrityError that names the place in the document.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gear.accounts import Identity
from gear.document import DIGEST, Node, digest_of, parse_digest, parse_document
from gear.errors import IntegrityError, UsageError
from gear.patterns import pattern
from gear.records import dataclass, field

__all__ = [
    "Descriptor",
    "Identity",
    "Image",
    "ImageConfig",
    "Manifest",
    "Platform",
    "Reference",
    "choose",
    "digest_of",
    "index_entries",
    "parse_digest",
    "parse_document",
]

# OVL_MAX_STACK of the kernel's fs/overlayfs.
LAYER_LIMIT = 500
# A reference is a file name in the store (NAME_MAX 255), with room for the name of its partial file.
REFERENCE_LIMIT = 230

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"

MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEXES = (OCI_INDEX, DOCKER_INDEX)
CONFIGS = (OCI_CONFIG, DOCKER_CONFIG)
# Layer media type -> how it is compressed.
LAYERS = {
    OCI_LAYER: "plain",
    f"{OCI_LAYER}+gzip": "gzip",
    f"{OCI_LAYER}+zstd": "zstd",
    DOCKER_LAYER: "plain",
    f"{DOCKER_LAYER}.gzip": "gzip",
    f"{DOCKER_LAYER}.zstd": "zstd",
}

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?"
_PATH = r"[a-z0-9]+(?:(?:\.|__|_|-+)[a-z0-9]+)*"
_NAME = pattern(rf"(?:{_DOMAIN}/)?{_PATH}(?:/{_PATH})*", re.ASCII)
_TAG = pattern(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
_PORT = pattern(r"([0-9]{1,5})(?:/(tcp|udp|sctp))?", re.ASCII)


@dataclass(frozen=True)
class Reference:
    """What people call an image: `name[:tag][@digest]`, the tag `latest` when neither is given."""

    name: str
    tag: str | None
    digest: str | None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Raises UsageError for what the grammar of OCI distribution does not allow."""
        rest, at, digest = text.partition("@")
        name, colon, tag = rest.rpartition(":")
        if not colon or "/" in tag:
            name, colon, tag = rest, "", ""
        if (
            len(text) > REFERENCE_LIMIT
            or not _NAME.fullmatch(name)
            or (colon and not _TAG.fullmatch(tag))
            or (at and not DIGEST.fullmatch(digest))
        ):
            raise UsageError(
                f"{text[:REFERENCE_LIMIT]!r} can't name an image.",
                hint="Write NAME[:TAG][@DIGEST]; NAME has lower-case letters, digits, '.', '_', '-' and '/'.",
            )
        if not colon and not at:
            tag = "latest"
        reference = cls(name, tag or None, digest or None)
        if len(str(reference)) > REFERENCE_LIMIT:
            raise UsageError(
                f"{text!r} is longer than the {REFERENCE_LIMIT} characters a reference may have."
            )
        return reference

    def __str__(self) -> str:
        """The canonical text."""
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.name}{tag}" + (f"@{self.digest}" if self.digest else "")


# What a host runs, best first.  An arm image without variant is for v7, one for arm64 for v8 (containerd's
# platforms.Normalize); of amd64 only the baseline is sure to run.
VARIANTS = {
    ("arm", "v7"): ("v7", "", "v6", "v5"),
    ("arm", "v6"): ("v6", "v5"),
    ("arm64", "v8"): ("v8", ""),
    ("amd64", ""): ("", "v1"),
}


@dataclass(frozen=True)
class Platform:
    """What an image was built for."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def of_machine(cls, machine: str) -> Platform:
        """The platform of a host whose uname(2) says *machine*."""
        known = {
            "x86_64": ("amd64", ""),
            "aarch64": ("arm64", "v8"),
            "armv8l": ("arm", "v7"),
            "armv7l": ("arm", "v7"),
            "armv6l": ("arm", "v6"),
            "armv5tel": ("arm", "v5"),
            "i686": ("386", ""),
            "i586": ("386", ""),
            "loongarch64": ("loong64", ""),
        }
        architecture, variant = known.get(machine, (machine, ""))
        return cls("linux", architecture, variant)

    def rank(self, other: Platform) -> int | None:
        """How well an image for *other* suits this host: 0 is best, None is not at all."""
        if (self.os, self.architecture) != (other.os, other.architecture):
            return None
        runs = VARIANTS.get((self.architecture, self.variant), (self.variant,))
        return runs.index(other.variant) if other.variant in runs else None

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True)
class Descriptor:
    """What a document says about a blob elsewhere: type, digest, size."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_node(cls, node: Node) -> Descriptor:
        stated = node.node("platform")
        platform = stated and Platform(stated.text("os"), stated.text("architecture"), stated.text("variant"))
        return cls(
            node.text("mediaType"),
            node.digest("digest"),
            node.size("size"),
            platform if isinstance(platform, Platform) else None,
            node.mapping("annotations"),
        )

    def check(self, data: bytes, what: str) -> None:
        """Raise IntegrityError unless *data* is what is described."""
        algorithm, digits = parse_digest(self.digest)
        if len(data) != self.size:
            raise IntegrityError(f"{what} has {len(data)} bytes instead of {self.size}.")
        if (found := hashlib.new(algorithm, data).hexdigest()) != digits:
            raise IntegrityError(f"{what} is damaged: its content has the digest {algorithm}:{found}.")

    def document(self) -> dict[str, Any]:
        """The descriptor as JSON, without platform and annotations."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


def media_type(node: Node, promised: str) -> str:
    """The media type of a manifest or index, which is promised by whoever points at it ("" when nobody did).

    Raises IntegrityError when the document is of two kinds or of another kind than promised: one digest must
    not mean two things to two readers (CVE-2021-41190).
    """
    if "manifests" in node.value and ("layers" in node.value or "config" in node.value):
        raise IntegrityError(f"{node.what} is an index and a manifest at once.")
    if node.value.get("schemaVersion") != 2:
        raise IntegrityError(f"{node.what}: schemaVersion is not 2, and older schemas are not supported.")
    stated = node.text("mediaType")
    if promised and stated and promised != stated:
        raise IntegrityError(f"{node.what} says it is {stated!r}, but it was announced as {promised!r}.")
    is_index = "manifests" in node.value
    result = promised or stated or (OCI_INDEX if is_index else OCI_MANIFEST)
    if result not in (INDEXES if is_index else MANIFESTS):
        raise IntegrityError(f"{node.what} has the media type {result!r}, which does not fit what it holds.")
    return result


@dataclass(frozen=True)
class Manifest:
    """One image: its config and its layers, lowest first."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]

    @classmethod
    def from_node(cls, node: Node, promised: str = "") -> Manifest:
        """Raises IntegrityError for anything that is not the manifest of a container image."""
        kind = media_type(node, promised)
        if kind not in MANIFESTS:
            raise IntegrityError(f"{node.what} is an index of images, where a single image was expected.")
        config_node = node.node("config")
        if config_node is None:
            node.fail("config", "is missing")
        config = Descriptor.from_node(config_node)
        if node.text("artifactType") or config.media_type not in CONFIGS:
            shown = node.text("artifactType") or config.media_type
            raise IntegrityError(f"{node.what} is not a container image but an artifact of type {shown!r}.")
        layers = tuple(Descriptor.from_node(layer) for layer in node.nodes("layers"))
        if len(layers) > LAYER_LIMIT:
            node.fail("layers", f"has more than {LAYER_LIMIT} items")
        for place, layer in enumerate(layers):
            if is_foreign(layer.media_type):
                node.fail(f"layers[{place}]", "is a foreign layer, which has to come from elsewhere")
            if layer.media_type not in LAYERS:
                node.fail(
                    f"layers[{place}].mediaType", f"is {layer.media_type[:80]!r}, not a known kind of layer"
                )
        return cls(kind, config, layers)

    def document(self) -> dict[str, Any]:
        """The manifest as JSON, for an image that comes without one."""
        return {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "config": self.config.document(),
            "layers": [layer.document() for layer in self.layers],
        }


def opaque_blobs(node: Node, promised: str = "") -> tuple[Descriptor, ...]:
    """The blobs of a manifest that is kept as it came, of an image or of an artifact; not foreign layers."""
    if media_type(node, promised) not in MANIFESTS:
        raise IntegrityError(f"{node.what} is an index of images, where a single image was expected.")
    config = node.node("config")
    if config is None:
        node.fail("config", "is missing")
    layers = node.nodes("layers")
    if len(layers) > LAYER_LIMIT:
        node.fail("layers", f"has more than {LAYER_LIMIT} items")
    found = [Descriptor.from_node(part) for part in (config, *layers)]
    return tuple(blob for blob in found if not is_foreign(blob.media_type))


def is_foreign(kind: str) -> bool:
    """Whether layers of this media type come from elsewhere than the registry."""
    return "foreign" in kind or "nondistributable" in kind


def index_entries(node: Node, promised: str = "") -> list[Descriptor]:
    """What an index or manifest list points at."""
    if media_type(node, promised) not in INDEXES:
        raise IntegrityError(f"{node.what} is not an index of images.")
    return [Descriptor.from_node(entry) for entry in node.nodes("manifests")]


def choose(entries: Sequence[Descriptor], platform: Platform, what: str) -> Descriptor:
    """The entry that suits *platform* best; a single one that names no platform suits every host."""
    if len(entries) == 1 and entries[0].platform is None:
        return entries[0]
    ranked = [
        (rank, place)
        for place, entry in enumerate(entries)
        if entry.platform is not None and (rank := platform.rank(entry.platform)) is not None
    ]
    if not ranked:
        others = sorted({str(entry.platform) for entry in entries if entry.platform is not None})
        raise IntegrityError(
            f"{what} has no image for {platform}.",
            hint=f"It has images for {', '.join(others)}." if others else None,
        )
    return entries[min(ranked)[1]]


@dataclass(frozen=True)
class ImageConfig:
    """What an image says about how to run it, checked for type and size but otherwise not to be trusted."""

    architecture: str
    os: str
    entrypoint: tuple[str, ...] | None
    cmd: tuple[str, ...] | None
    env: tuple[tuple[str, str], ...]
    user: str
    workdir: str
    stop_signal: str
    labels: Mapping[str, str]
    volumes: tuple[str, ...]
    exposed_ports: tuple[str, ...]
    healthcheck: Mapping[str, Any] | None
    diff_ids: tuple[str, ...]
    created: str = ""

    @classmethod
    def from_mapping(cls, document: Mapping[str, Any], what: str = "The image config") -> ImageConfig:
        """Raises IntegrityError naming the member that is wrong; null members count as absent."""
        top = Node(document, what)
        config = top.node("config") or Node({}, what, "config.")
        rootfs = top.node("rootfs") or Node({}, what, "rootfs.")
        diff_ids = rootfs.texts("diff_ids") or ()
        for place, diff_id in enumerate(diff_ids):
            if not DIGEST.fullmatch(diff_id):
                rootfs.fail(f"diff_ids[{place}]", "is not a sha256 or sha512 digest")
        healthcheck = config.node("Healthcheck")
        workdir = config.text("WorkingDir")
        return cls(
            architecture=top.text("architecture"),
            os=top.text("os"),
            entrypoint=config.texts("Entrypoint"),
            cmd=config.texts("Cmd"),
            env=_environment(config),
            user=config.text("User"),
            # Docker takes a relative one from the root; so does everyone after it.
            workdir=f"/{workdir}" if workdir and not workdir.startswith("/") else workdir,
            stop_signal=config.text("StopSignal"),
            labels=config.mapping("Labels"),
            volumes=config.keys("Volumes"),
            exposed_ports=_ports(config),
            healthcheck=None if healthcheck is None else dict(healthcheck.value),
            diff_ids=diff_ids,
            created=top.text("created"),
        )


def _environment(config: Node) -> tuple[tuple[str, str], ...]:
    """The environment in order; a name given twice keeps its last value."""
    result: dict[str, str] = {}
    for place, item in enumerate(config.texts("Env") or ()):
        name, equals, value = item.partition("=")
        if not name or not equals:
            config.fail(f"Env[{place}]", "is not NAME=VALUE")
        result[name] = value
    return tuple(result.items())


def _ports(config: Node) -> tuple[str, ...]:
    """The exposed ports as PORT/PROTOCOL, sorted."""
    ports = set()
    for key in config.keys("ExposedPorts"):
        match = _PORT.fullmatch(key)
        if not match or not 1 <= int(match[1]) <= 65535:
            config.fail(f"ExposedPorts.{key[:40]!r}", "is not PORT/PROTOCOL")
        ports.add((int(match[1]), match[2] or "tcp"))
    return tuple(f"{port}/{protocol}" for port, protocol in sorted(ports))


@dataclass(frozen=True)
class Image:
    """An image in the store: what it is called, what it is, and what it is made of."""

    reference: str
    digest: str
    config: ImageConfig
    # Diff ids, lowest layer first.
    layers: tuple[str, ...]
    # Bytes of all files of all layers, unpacked.
    size: int
