"""What a signature of an image says, and whether that is the image that was asked for.

Pure; whether the signature is genuine is decided before (gear/cosign.py, gear/openpgp.py).  Both kinds sign the same
document, "simple signing" (containers-signature(5)): the digest of a manifest and the name it was published under.
"""

from __future__ import annotations

import json
from typing import Any

from gear.document import DIGEST, parse_json
from gear.errors import GearError, IntegrityError, UsageError
from gear.records import dataclass
from gear.reference import Remote

# Kind of signature -> what its payload has to call itself, so that neither can pass for the other.
TYPES = {"gpg": "atomic container signature", "sigstore": "cosign container image signature"}
# A real payload has some 250 bytes; annotations may make it longer.
PAYLOAD_LIMIT = 64 << 10


@dataclass(frozen=True)
class Name:
    """A name as it was written, in full; unlike in a reference, no tag means no tag, not `latest`."""

    repository: str  # with its registry
    tag: str | None
    digest: str | None

    @classmethod
    def parse(cls, text: str) -> Name:
        """Raises UsageError."""
        remote = Remote.parse(text)
        tagged = ":" in text.partition("@")[0].rpartition("/")[2]
        return cls(remote.name, remote.tag if tagged else None, remote.digest)

    @classmethod
    def of(cls, remote: Remote) -> Name:
        return cls(remote.name, remote.tag, remote.digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")


@dataclass(frozen=True)
class Signature:
    """A signature as it was found; one of gpg holds its payload."""

    kind: str  # gpg or sigstore
    signature: bytes
    payload: bytes = b""


class BadSignature(GearError):
    """A signature that counts for nothing; the message is the reason."""


@dataclass(frozen=True)
class Claim:
    """What one genuine signature says."""

    name: Name
    digest: str

    @classmethod
    def parse(cls, payload: bytes, kind: str) -> Claim:
        """The claim in *payload*, signed by a signature of *kind*; raises IntegrityError.

        Strict, since two readers must not see two things: no member but those that are known, none twice.
        """
        what = "The payload of the signature"
        if len(payload) > PAYLOAD_LIMIT:
            raise IntegrityError(f"{what} is larger than {PAYLOAD_LIMIT} bytes.")
        if b"\0" in payload:  # json.loads() would take UTF-16 and UTF-32 as well
            raise IntegrityError(f"{what} is not valid JSON: it holds a NUL byte.")
        document = parse_json(payload, what)
        critical, optional = _exactly(document, ("critical", "optional"), what)
        if optional is not None and not isinstance(optional, dict):
            raise IntegrityError(f"{what}: optional is not an object.")
        stated, image, identity = _exactly(critical, ("type", "image", "identity"), what)
        if stated != TYPES[kind]:
            raise IntegrityError(f"{what} is of the type {str(stated)[:60]!r}, not {TYPES[kind]!r}.")
        (digest,) = _exactly(image, ("docker-manifest-digest",), what)
        (text,) = _exactly(identity, ("docker-reference",), what)
        if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
            raise IntegrityError(f"{what} names no sha256 or sha512 digest.")
        if not isinstance(text, str):
            raise IntegrityError(f"{what} names no image.")
        try:
            return cls(Name.parse(text), digest)
        except UsageError as error:
            raise IntegrityError(f"{what} names {text[:100]!r}, which can't be an image.") from error


def payload(name: Name, digest: str, creator: str, moment: int) -> bytes:
    """What a signature of sigstore for *digest* under *name* signs, made by *creator* at *moment* (seconds)."""
    critical = {
        "identity": {"docker-reference": str(name)},
        "image": {"docker-manifest-digest": digest},
        "type": TYPES["sigstore"],
    }
    document = {"critical": critical, "optional": {"creator": creator, "timestamp": moment}}
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _exactly(value: Any, members: tuple[str, ...], what: str) -> list[Any]:
    """The values of *members*, which an object must have, and no others."""
    if not isinstance(value, dict) or set(value) != set(members):
        raise IntegrityError(f"{what} does not consist of {' and '.join(members)} where it should.")
    return [value[member] for member in members]


@dataclass(frozen=True)
class Identity:
    """Which names in signatures count.  *value* is a name or prefix, *signed* what stands for that prefix."""

    match: str = "matchRepoDigestOrExact"
    value: str = ""
    signed: str = ""

    def accepts(self, wanted: Name, claimed: Name) -> bool:
        """Whether a signature for *claimed* speaks of *wanted*, whose digest is compared elsewhere."""
        if self.match == "matchRepository":
            return claimed.repository == wanted.repository
        if self.match == "exactRepository":
            return claimed.repository == Name.parse(self.value).repository
        if self.match == "exactReference":
            return claimed == Name.parse(self.value)
        if self.match == "matchExact":
            return claimed == wanted and (claimed.tag or claimed.digest) is not None
        expected = self._remapped(wanted.repository)
        if wanted.digest is not None:  # what was asked for is fixed by its digest; the tag says nothing more
            return claimed.repository == expected
        return claimed == Name(expected, wanted.tag, None) and claimed.tag is not None

    def _remapped(self, repository: str) -> str:
        if self.match == "remapIdentity" and f"{repository}/".startswith(f"{self.value}/"):
            return self.signed + repository.removeprefix(self.value)
        return repository
