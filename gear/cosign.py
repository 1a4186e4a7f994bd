"""Signatures as cosign makes them with a key: the one door to the package cryptography.

Not what is signed (gear/claims.py), and neither Fulcio's certificates nor Rekor's log: a key that the administrator
has put on this host is all that is trusted.  In a registry the signatures of the manifest sha256:HEX are the layers of
an artifact, by default with the tag sha256-HEX.sig: each layer is a payload, with its signature in an annotation.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from gear.claims import PAYLOAD_LIMIT, Signature
from gear.document import Node, digest_of, parse_document
from gear.errors import GearError, HostError, IntegrityError, UsageError
from gear.oci import INDEXES, OCI_CONFIG, OCI_MANIFEST, Descriptor
from gear.patterns import pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

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
# Bytes of all indexes in an artifact; one has some hundred for each image that it lists.
INDEXES_LIMIT = 8 << 20


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


def indexes(node: Node, read: Callable[[Descriptor], bytes]) -> list[tuple[Descriptor, bytes]]:
    """The indexes in the artifact *node* that may vouch for an image: where gear hands on what it kept, they come with
    the signatures.  Raises IntegrityError as signatures() does, and when they are larger than INDEXES_LIMIT."""
    found = [Descriptor.from_node(layer) for layer in node.nodes("layers")]
    listed = [blob for blob in found if blob.media_type in INDEXES]
    if len(listed) > COUNT_LIMIT or sum(blob.size for blob in listed) > INDEXES_LIMIT:
        raise IntegrityError(f"{node.what} has more indexes than any image was found by.")
    return [(blob, read(blob)) for blob in listed]


def artifact(
    found: Sequence[Signature], vouching: Sequence[tuple[Descriptor, bytes]] = ()
) -> tuple[bytes, dict[str, bytes]]:
    """The manifest of an artifact with *found* and the indexes *vouching*, and its blobs by digest."""
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
    for index, data in vouching:
        blobs[index.digest] = data
        listed.append(index.document())
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


def added(manifest: Mapping[str, Any], config: Any, signature: Signature) -> tuple[bytes, dict[str, bytes]]:
    """The artifact *manifest* with one signature more, and the blobs that are new; the others stay as they are."""
    data, _ = artifact([signature])
    (layer,) = json.loads(data)["layers"]
    document = {**manifest, "layers": [*manifest["layers"], layer]}
    blobs = {layer["digest"]: signature.payload}
    rootfs = config.get("rootfs") if isinstance(config, dict) else None
    if isinstance(rootfs, dict) and isinstance(rootfs.get("diff_ids"), list):
        rootfs["diff_ids"].append(layer["digest"])
        text = json.dumps(config).encode()
        document["config"] = {**manifest["config"], "digest": digest_of(text), "size": len(text)}
        blobs[digest_of(text)] = text
    return json.dumps(document, separators=(",", ":")).encode(), blobs


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


class PrivateKey:
    """A key to sign with, of the same kinds: PKCS#8 in PEM, encrypted or not, or cosign's own encrypted form."""

    def __init__(self, pem: bytes, what: str, passphrase: Callable[[], bytes]) -> None:
        """*passphrase* is asked when there is one; raises UsageError when that or the key is wrong."""
        serialization = _cryptography()
        match = _OWN_FORM.search(pem)
        secret = None
        if match is None and b"ENCRYPTED" in pem:
            secret = passphrase()
        try:
            if match is not None:
                self._key = serialization.load_der_private_key(_opened(match[1], what, passphrase()), None)
            else:
                self._key = serialization.load_pem_private_key(pem, secret)
        except GearError:
            raise
        except Exception as error:  # cryptography promises ValueError and TypeError and raises more than that
            why = "the passphrase is wrong, or it is damaged" if secret else "it is no private key in PEM"
            raise UsageError(f"{what} can't be used: {why}.") from error
        self._ways = _ways(self._key, what)

    def sign(self, payload: bytes) -> bytes:
        """A signature of *payload*."""
        signature: bytes = self._key.sign(payload, *self._ways[0])
        return signature

    def public(self) -> bytes:
        """The public half in PEM."""
        serialization = _cryptography()
        pem: bytes = self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return pem


_OWN_FORM = pattern(
    rb"-----BEGIN ENCRYPTED (?:COSIGN|SIGSTORE) PRIVATE KEY-----([A-Za-z0-9+/=\s]+)"
    rb"-----END ENCRYPTED (?:COSIGN|SIGSTORE) PRIVATE KEY-----"
)
# More than any version of cosign writes; what scrypt takes grows with them.
_SCRYPT_LIMIT = {"N": 1 << 18, "r": 8, "p": 4}


def _opened(text: bytes, what: str, passphrase: bytes) -> bytes:
    """The key in DER in cosign's encrypted form: scrypt makes a key of the passphrase, for NaCl's secretbox."""
    try:
        from nacl.exceptions import CryptoError  # here: few sign, and fewer with such a key
        from nacl.secret import SecretBox
    except ImportError as error:
        raise HostError(
            f"{what} is encrypted as cosign does it, which can't be read without the Python package PyNaCl.",
            hint="apt-get install python3-nacl",
        ) from error
    try:
        node = parse_document(base64.b64decode(text), what)
        parts = {name: node.node(name) or node.fail(name, "is missing") for name in ("kdf", "cipher")}
        costs = parts["kdf"].node("params") or node.fail("kdf.params", "is missing")
        cost = {name: costs.size(name) for name in _SCRYPT_LIMIT}
        if (parts["kdf"].text("name"), parts["cipher"].text("name")) != ("scrypt", "nacl/secretbox"):
            raise UsageError(f"{what} is encrypted in a way that is not supported.")
        if any(cost[name] > most for name, most in _SCRYPT_LIMIT.items()):
            raise UsageError(f"{what} asks for more work than is sensible to open it.")
        salt, nonce, box = (
            base64.b64decode(part.text(name), validate=True)
            for part, name in ((parts["kdf"], "salt"), (parts["cipher"], "nonce"), (node, "ciphertext"))
        )
        secret = hashlib.scrypt(
            passphrase, salt=salt, n=cost["N"], r=cost["r"], p=cost["p"], maxmem=1 << 30, dklen=32
        )
        der: bytes = SecretBox(secret).decrypt(box, nonce)
    except (CryptoError, IntegrityError, binascii.Error, ValueError, TypeError) as error:
        raise UsageError(f"{what} can't be used: the passphrase is wrong, or it is damaged.") from error
    return der


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
