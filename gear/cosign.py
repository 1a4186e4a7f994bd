"""Signatures as cosign makes them with a key: the one door to the package cryptography.

Not what is signed (gear/claims.py), and neither Fulcio's certificates nor Rekor's log: a key that the administrator
has put on this host is all that is trusted.  In a registry the signatures of the manifest sha256:HEX are the layers of
an artifact, by default with the tag sha256-HEX.sig: each layer is a payload, with its signature in an annotation.
"""

from __future__ import annotations

import base64
import binascii
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from gear.claims import PAYLOAD_LIMIT, Signature
from gear.document import Node, digest_of
from gear.errors import HostError, IntegrityError, UsageError
from gear.oci import OCI_CONFIG, OCI_MANIFEST, Descriptor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# Layers with the payload of a signature of sigstore, and with a whole signature of gpg, which is gear's own addition.
PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
OPENPGP = "application/vnd.gear.openpgp.simplesigning.v1"
ARTIFACT = "application/vnd.dev.cosign.artifact.sig.v1+json"
ANNOTATION = "dev.cosignproject.cosign/signature"
# What an artifact may hold; the rest is not looked at.
COUNT_LIMIT = 32
# Annotations are the signer's: text of some bytes for an ECDSA signature, 700 for RSA with 4096 bits.
SIGNATURE_LIMIT = 8 << 10
LEAST_RSA_BITS = 2048


def tag(digest: str) -> str:
    """The tag of the artifact with the signatures of *digest*."""
    return f"{digest.replace(':', '-')}.sig"


def signatures(node: Node, read: Callable[[Descriptor], bytes]) -> Iterator[Signature]:
    """The signatures in the artifact *node*, whose blobs *read* gets, verified; layers of other kinds are left out.

    Raises IntegrityError when it is no manifest, or a blob is not what it has to be.
    """
    if node.value.get("schemaVersion") != 2 or "manifests" in node.value:
        raise IntegrityError(f"{node.what} is not a manifest with signatures.")
    for layer in node.nodes("layers")[:COUNT_LIMIT]:
        blob = Descriptor.from_node(layer)
        if blob.media_type not in (PAYLOAD, OPENPGP):
            continue
        if blob.size > PAYLOAD_LIMIT:
            raise IntegrityError(f"{node.what} has a payload of more than {PAYLOAD_LIMIT} bytes.")
        if blob.media_type == OPENPGP:
            yield Signature("gpg", read(blob))
            continue
        text = blob.annotations.get(ANNOTATION, "")
        with suppress(binascii.Error, ValueError):
            if 0 < len(text) <= SIGNATURE_LIMIT:
                yield Signature("sigstore", base64.b64decode(text, validate=True), read(blob))


def artifact(found: Sequence[Signature]) -> tuple[bytes, dict[str, bytes]]:
    """The manifest of an artifact with *found*, and its blobs by digest."""
    blobs, listed = {}, []
    for signature in found:
        data, kind = (
            (signature.payload, PAYLOAD) if signature.kind == "sigstore" else (signature.signature, OPENPGP)
        )
        descriptor = Descriptor(kind, digest_of(data), len(data)).document()
        if kind == PAYLOAD:
            descriptor["annotations"] = {ANNOTATION: base64.b64encode(signature.signature).decode()}
        blobs[digest_of(data)] = data
        listed.append(descriptor)
    # The config of an image that is none, since old registries want one; cosign writes the same.
    rootfs = {"type": "layers", "diff_ids": [layer["digest"] for layer in listed]}
    config = json.dumps({"architecture": "", "os": "", "config": {}, "rootfs": rootfs}).encode()
    blobs[digest_of(config)] = config
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": Descriptor(OCI_CONFIG, digest_of(config), len(config)).document(),
        "layers": listed,
    }
    return json.dumps(manifest, separators=(",", ":")).encode(), blobs


def _cryptography() -> Any:
    try:
        # Here: only what has to do with keys need have it.
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        raise HostError(
            "Signatures of sigstore can't be handled without the Python package cryptography.",
            hint="apt-get install python3-cryptography",
        ) from error
    return serialization


class PublicKey:
    """A key that signatures are compared with: ECDSA on P-256, P-384 or P-521, Ed25519, or RSA."""

    def __init__(self, pem: bytes, what: str) -> None:
        """Raises UsageError naming *what* when *pem* is no such key."""
        serialization = _cryptography()
        try:
            key = serialization.load_pem_public_key(pem)
        except Exception as error:  # cryptography promises ValueError and raises more than that
            raise UsageError(
                f"{what} is not a public key in PEM.", hint="It begins with -----BEGIN PUBLIC KEY-----."
            ) from error
        self._key, self.what = key, what
        _ways(key, what)
        der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.fingerprint = digest_of(der)

    def verifies(self, payload: bytes, signature: bytes) -> bool:
        """Whether *signature* of *payload* was made with this key."""
        from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

        for arguments in _ways(self._key, self.what):
            try:
                self._key.verify(signature, payload, *arguments)
                return True
            except (InvalidSignature, UnsupportedAlgorithm, ValueError):
                continue
        return False


def _ways(key: Any, what: str) -> list[tuple[Any, ...]]:
    """With which further arguments signatures of *key* are made, likeliest first; raises UsageError for other keys.

    cosign and containers/image hash with SHA-256 whatever the curve, newer versions of cosign as long as the curve is.
    """
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

    if isinstance(key, ed25519.Ed25519PublicKey | ed25519.Ed25519PrivateKey):
        return [()]
    if isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey):
        own: dict[str, Any] = {
            "secp256r1": hashes.SHA256,
            "secp384r1": hashes.SHA384,
            "secp521r1": hashes.SHA512,
        }
        if key.curve.name in own:
            return [(ec.ECDSA(hashes.SHA256()),), (ec.ECDSA(own[key.curve.name]()),)]
    if isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey) and key.key_size >= LEAST_RSA_BITS:
        return [(padding.PKCS1v15(), hashes.SHA256())]
    raise UsageError(
        f"{what} is a key of a kind that is not supported.",
        hint=f"Supported are ECDSA on P-256, P-384 and P-521, Ed25519, and RSA with {LEAST_RSA_BITS} bits or more.",
    )
