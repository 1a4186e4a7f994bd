"""Keys and signatures for tests: sigstore's with the package cryptography, gpg's with gpg.

Not verifying anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from archives import digest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

SIMPLE = "application/vnd.dev.cosign.simplesigning.v1+json"
TYPES = {"sigstore": "cosign container image signature", "gpg": "atomic container signature"}


def claim(name: str, of: str, kind: str = "sigstore", **more: Any) -> bytes:
    """A payload that says that *name* is the digest *of*."""
    critical = {
        "type": TYPES[kind],
        "image": {"docker-manifest-digest": of},
        "identity": {"docker-reference": name},
    }
    return json.dumps({"critical": {**critical, **more}, "optional": None}).encode()


class SigstoreKey:
    """A private key of one of the kinds that are in use."""

    def __init__(self, kind: str = "p256") -> None:
        self.key: Any = {
            "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
            "p384-sha384": lambda: ec.generate_private_key(ec.SECP384R1()),
            "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
            "p224": lambda: ec.generate_private_key(ec.SECP224R1()),
            "ed25519": ed25519.Ed25519PrivateKey.generate,
            "rsa": lambda: rsa.generate_private_key(65537, 2048),
            "rsa1024": lambda: rsa.generate_private_key(65537, 1024),
        }[kind]()
        hashing = hashes.SHA384() if kind == "p384-sha384" else hashes.SHA256()
        if kind == "ed25519":
            self._how: tuple[Any, ...] = ()
        elif kind.startswith("rsa"):
            self._how = (padding.PKCS1v15(), hashing)
        else:
            self._how = (ec.ECDSA(hashing),)

    def sign(self, payload: bytes) -> bytes:
        signature: bytes = self.key.sign(payload, *self._how)
        return signature

    def public(self) -> bytes:
        pem: bytes = self.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return pem

    def private(self, passphrase: bytes | None = None) -> bytes:
        encryption = (
            serialization.NoEncryption()
            if passphrase is None
            else serialization.BestAvailableEncryption(passphrase)
        )
        pem: bytes = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )
        return pem

    def cosigns(self, passphrase: bytes, cost: int = 1 << 10, **changes: Any) -> bytes:
        """The private key as `cosign generate-key-pair` writes it."""
        from nacl.secret import SecretBox

        der = self.key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        salt, nonce = os.urandom(32), os.urandom(24)
        secret = hashlib.scrypt(passphrase, salt=salt, n=cost, r=8, p=1, maxmem=1 << 28, dklen=32)
        body = {
            "kdf": {"name": "scrypt", "params": {"N": cost, "r": 8, "p": 1}, "salt": encoded(salt)},
            "cipher": {"name": "nacl/secretbox", "nonce": encoded(nonce)},
            "ciphertext": encoded(SecretBox(secret).encrypt(der, nonce).ciphertext),
            **changes,
        }
        text = base64.encodebytes(json.dumps(body).encode()).decode()
        label = "ENCRYPTED COSIGN PRIVATE KEY"
        return f"-----BEGIN {label}-----\n{text}-----END {label}-----\n".encode()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def artifact(*signed: tuple[bytes, bytes], kind: str = SIMPLE, **more: Any) -> tuple[bytes, dict[str, bytes]]:
    """An artifact with (payload, signature) pairs as cosign pushes it, and its blobs."""
    blobs = {digest(payload): payload for payload, _ in signed}
    config = b"{}"
    blobs[digest(config)] = config
    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(config),
            "size": len(config),
        },
        "layers": [
            {
                "mediaType": kind,
                "digest": digest(payload),
                "size": len(payload),
                "annotations": {"dev.cosignproject.cosign/signature": encoded(signature)},
            }
            for payload, signature in signed
        ],
        **more,
    }
    return json.dumps(document).encode(), blobs


class Gpg:
    """A home of gpg with secret keys."""

    def __init__(self, home: Path) -> None:
        home.mkdir(mode=0o700)
        self.home = home

    def run(self, *arguments: str, data: bytes = b"") -> bytes:
        command = [
            "gpg",
            "--homedir",
            str(self.home),
            "--batch",
            "--yes",
            "-q",
            "--passphrase",
            "",
            *arguments,
        ]
        done = subprocess.run(command, input=data, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def key(self, user: str, *options: str, expires: str = "never") -> str:
        """Make a key; returns its fingerprint."""
        self.run(*options, "--quick-gen-key", user, "rsa2048", "sign", expires)
        listed = self.run("--with-colons", "--list-keys", user).decode()
        return next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))

    def public(self, *users: str) -> bytes:
        return self.run("--export", *users)

    def sign(self, user: str, payload: bytes, *options: str) -> bytes:
        return self.run("-u", user, *options, "--sign", data=payload)

    def revoke(self, fingerprint: str) -> None:
        text = (self.home / "openpgp-revocs.d" / f"{fingerprint}.rev").read_text()
        self.run("--import", data=text.replace("\n:-----", "\n-----").encode())

    def close(self) -> None:
        """End the agent that gpg has started."""
        subprocess.run(["gpgconf", "--homedir", str(self.home), "--kill", "all"], check=False)
