"""Whether an image is signed as the policy of this host wants it.

Not the policy's files (gear/policy.py), nor the signatures themselves (gear/cosign.py, gear/openpgp.py).  A signature
counts when a key of the policy made it, when the digest in it is that of the image's manifest, or of an index that
lists the image, and when the name in it is the one that was asked for.  An image is checked before it gets a
reference; what it was let in with stays beside it.

Not protected against: a registry that keeps back a newer image, since what was signed once stays signed.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack

from gear import attached, cosign, lookaside, openpgp, policy, signature_record, store
from gear.claims import BadSignature, Claim, Name, Signature
from gear.document import digest_of, parse_document
from gear.errors import GearError, IntegrityError, RefusedError, RemoteError, UsageError
from gear.model import Layout
from gear.oci import Descriptor, Image, index_entries
from gear.policy import Rule, Signed
from gear.records import dataclass
from gear.reference import Remote
from gear.registries import Registries
from gear.registry import Document, Repository

# How many reasons a refusal gives.
REASONS = 6
_TAGS = "cosign signs no tag; where its signatures are to count, the identity has to be the repository."


@dataclass(frozen=True)
class Verdict:
    """Why an image is taken: by which part of the policy ("" when there is none), and the keys that signed it."""

    where: str
    signers: tuple[str, ...]


# Signatures that can be had, of which kinds.
_Offer = tuple[set[str], Iterable[Signature]]
# The keys of one requirement: whose a signature is and what it signs; raises GearError with the reason why it is none.
_Keys = Callable[[Signature], tuple[bytes, str]]


def _gpg(ring: openpgp.Keyring, paths: str) -> _Keys:
    def verify(signature: Signature) -> tuple[bytes, str]:
        found = ring.verify(signature.signature)
        return found.payload, f"gpg key {found.fingerprint} ({found.user}) of {paths}"

    return verify


def _sigstore(keys: Sequence[cosign.PublicKey]) -> _Keys:
    def verify(signature: Signature) -> tuple[bytes, str]:
        for key in keys:
            if key.verifies(signature.payload, signature.signature):
                return signature.payload, f"sigstore key {key.fingerprint} of {key.what}"
        raise BadSignature("it was made with another key, or does not fit what it signs")

    return verify


class _Requirement:
    """One requirement of the policy, with its keys read."""

    def __init__(self, layout: Layout, signed: Signed, stack: ExitStack) -> None:
        self.signed = signed
        self.signer = ""
        self._keys: dict[str, _Keys] = {}
        rings = [(key.path, key.read()) for key in signed.keys if key.kind == "gpg"]
        public = [cosign.PublicKey(key.read(), key.path) for key in signed.keys if key.kind == "sigstore"]
        if rings:
            below = layout.images / "signatures" / "sha256"
            ring = stack.enter_context(openpgp.Keyring(rings, below))
            self._keys["gpg"] = _gpg(ring, ", ".join(path for path, _ in rings))
        if public:
            self._keys["sigstore"] = _sigstore(public)

    @property
    def kinds(self) -> set[str]:
        return set(self._keys)

    def accepts(self, signature: Signature, wanted: Name, digests: set[str]) -> None:
        """Be met by *signature*, or raise GearError with the reason."""
        payload, signer = self._keys[signature.kind](signature)
        claim = Claim.parse(payload, signature.kind)
        if claim.digest not in digests:
            raise BadSignature(f"it is of another image, {claim.digest}")
        if not self.signed.identity.accepts(wanted, claim.name):
            untagged = wanted.repository == claim.name.repository and claim.name.tag is None
            raise BadSignature(f"it is for {claim.name}", hint=_TAGS if untagged else None)
        self.signer = signer


class _Check:
    """One image being checked: signatures are offered until all requirements are met."""

    def __init__(self, layout: Layout, rule: Rule, wanted: Name, digests: set[str], stack: ExitStack) -> None:
        self._wanted, self._digests, self._rule = wanted, digests, rule
        self._requirements = [_Requirement(layout, signed, stack) for signed in rule.signed]
        self.good: list[Signature] = []
        self.others: list[Signature] = []
        self.reasons: list[str] = []
        self.hint: str | None = None
        # Why some signatures could not be got, if that is so.
        self.failure: RemoteError | None = None

    @property
    def open_kinds(self) -> set[str]:
        """What kinds of signatures are still of use."""
        return {kind for one in self._requirements if not one.signer for kind in one.kinds}

    def offer(self, kinds: set[str], found: Iterable[Signature]) -> None:
        """Look at signatures of *kinds*, as long as such are needed; what can't be got is a reason to refuse."""
        if not self.open_kinds & kinds:
            return
        try:
            for signature in found:
                if signature not in (*self.good, *self.others):
                    self._look(signature)
                if not self.open_kinds:
                    return
        except RemoteError as error:
            self.failure = error
            self.reasons.append(error.message)
        except IntegrityError as error:
            self.reasons.append(error.message)

    def _look(self, signature: Signature) -> None:
        met = False
        for requirement in self._requirements:
            if signature.kind not in requirement.kinds or requirement.signer:
                continue
            try:
                requirement.accepts(signature, self._wanted, self._digests)
                met = True
            except GearError as error:
                self.hint = self.hint or error.hint
                number = len(self.good) + len(self.others) + 1
                self.reasons.append(f"signature {number} ({signature.kind}): {error.message.rstrip('.')}")
        (self.good if met else self.others).append(signature)

    def verdict(self) -> Verdict:
        """Raises RefusedError when a requirement is not met, RemoteError when that may be a registry's fault."""
        for requirement in self._requirements:
            if requirement.signed.unsupported:
                self.reasons = [requirement.signed.unsupported]
            elif requirement.signer:
                continue
            raise self._refusal(list(dict.fromkeys(self.reasons)) or ["there is no signature of it"])
        return Verdict(self._rule.where, tuple(requirement.signer for requirement in self._requirements))

    def _refusal(self, reasons: Sequence[str]) -> GearError:
        if self.failure is not None:
            return RemoteError(
                f"Whether {self._wanted} is signed as {self._rule.where} wants it can't be found out.",
                details=reasons[:REASONS],
            )
        return RefusedError(
            f"{self._wanted} is not signed as {self._rule.where} wants it.",
            details=reasons[:REASONS],
            hint=self.hint,
        )


class Gate:
    """What has to hold for an image before it gets the name *wanted*; made before anything is fetched."""

    def __init__(self, layout: Layout, wanted: Name, rule: Rule | None, hint: str | None = None) -> None:
        """Raises RefusedError, with *hint*, when no image may have that name."""
        self._layout, self._wanted, self._rule = layout, wanted, rule
        self._check: _Check | None = None
        # Indexes that came beside the signatures.
        self._beside: list[tuple[Descriptor, bytes]] = []
        if rule is not None and rule.reject:
            raise RefusedError(f"{wanted} is refused by {rule.where}.", hint=hint)

    @classmethod
    def of_registry(cls, layout: Layout, remote: Remote) -> Gate:
        """For an image that is pulled."""
        found, wanted = policy.load(layout), Name.of(remote)
        return cls(layout, wanted, None if found is None else found.of_registry(wanted))

    @classmethod
    def of_file(cls, layout: Layout, reference: str, transport: str, path: str) -> Gate:
        """For an image that is loaded; *transport* is what containers call that kind of file."""
        found, wanted = policy.load(layout), Name.of(Remote.parse(reference))
        hint = "`load: accept` in policy.yaml takes images of files." if found and found.by_name else None
        return cls(layout, wanted, None if found is None else found.of_file(wanted, transport, path), hint)

    @property
    def asks(self) -> bool:
        """Whether signatures are needed at all."""
        return self._rule is not None and bool(self._rule.signed)

    def pass_pulled(
        self, chain: Sequence[Document], sources: Sequence[Repository], settings: Registries
    ) -> Verdict:
        """Check the image at the end of *chain*, the documents from what the tag stands for to the manifest.

        *sources* are asked for signatures in their order.  The caller holds the lease.  Raises RefusedError.
        """
        if not self.asks:
            return self._unasked()
        digests = [document.digest for document in reversed(chain)]

        place = lookaside.place_of(self._wanted)

        def more() -> Iterator[_Offer]:
            for digest in digests if place.attachments is not False else ():
                for source in sources:
                    yield {"sigstore"}, _in_time(attached.signatures(source, digest), settings)
            for digest in digests:
                yield {"gpg"}, _stored(place, self._wanted, digest, settings)

        return self._run(digests[0], {*digests, *(digest_of(document.data) for document in chain)}, more())

    def pass_loaded(
        self,
        chain: Sequence[tuple[str, bytes]],
        found: Callable[[set[str]], Iterable[Signature]],
        beside: Sequence[tuple[Descriptor, bytes]] = (),
    ) -> Verdict:
        """Check an image of a file, or of another gear.

        *chain* has its manifest and then the indexes that led to it, innermost first, each with its digest; *found*
        gives the signatures that came of some digests, and *beside* are the indexes that came with those.
        """
        if not self.asks:
            return self._unasked()
        digests = {digest for digest, _ in chain} | {digest_of(data) for _, data in chain}
        for index, data in beside:
            if digests & {entry.digest for entry in index_entries(parse_document(data, "The index"))}:
                digests |= {index.digest, digest_of(data)}
                self._beside.append((index, data))
        place = lookaside.place_of(self._wanted)
        local = [({"gpg"}, _stored(place, self._wanted, digest, None)) for digest in sorted(digests)]
        return self._run(chain[0][0], digests, [({"gpg", "sigstore"}, found(digests)), *local])

    def pass_here(self, digest: str) -> Verdict:
        """Check an image of the store with what is kept beside it.  The caller holds the lease."""
        if not self.asks:
            return self._unasked()
        record = signature_record.read(self._layout, digest)
        return self._run(digest, signature_record.vouching(self._layout, record, digest), ())

    def _unasked(self) -> Verdict:
        return Verdict(self._rule.where if self._rule else "", ())

    def _run(self, digest: str, digests: set[str], more: Iterable[_Offer]) -> Verdict:
        assert self._rule is not None
        with ExitStack() as stack:
            check = self._check = _Check(self._layout, self._rule, self._wanted, digests, stack)
            check.offer({"gpg", "sigstore"}, _kept(self._layout, digest))
            for kinds, found in more:
                check.offer(kinds, found)
            return check.verdict()

    def keep(self, digest: str, indexes: Sequence[tuple[Descriptor, bytes]]) -> None:
        """Keep the signatures that were found, beside the image that passed; *indexes* are innermost first."""
        if self._check is None:
            return
        for index, data in (*indexes, *self._beside):
            store.add_blob(self._layout, io.BytesIO(data), expected=index)
        listed = [index.digest for index, _ in (*indexes, *self._beside)]
        signature_record.write(self._layout, digest, self._check.good, self._check.others, listed)


class PeerGate(Gate):
    """For an image that another gear offers, with the signatures that are kept there."""

    @classmethod
    def of_peer(cls, layout: Layout, reference: str) -> PeerGate:
        """For the image that is to be called *reference*."""
        found, wanted = policy.load(layout), Name.of(Remote.parse(reference))
        return cls(layout, wanted, None if found is None else found.of_registry(wanted))

    def pass_pulled(
        self, chain: Sequence[Document], sources: Sequence[Repository], settings: Registries
    ) -> Verdict:
        """See Gate.  Where a registry's signatures are is configured for the registry, and so is of no account."""
        if not self.asks:
            return self._unasked()
        documents = [(document.digest, document.data) for document in reversed(chain)]
        kept = [one for digest, _ in documents if (one := attached.kept(sources[0], digest)) is not None]
        found = [signature for one in kept for signature in one.signatures]
        return self.pass_loaded(documents, lambda _: found, [index for one in kept for index in one.indexes])


def _in_time(found: Iterator[Signature], settings: Registries) -> Iterator[Signature]:
    """*found*, which a registry must not stretch without end by dripping."""
    deadline = time.monotonic() + lookaside.PATIENCE * settings.timeout
    for signature in found:
        yield signature
        if time.monotonic() > deadline:
            raise RemoteError("The registry takes too long to send its signatures.")


def _kept(layout: Layout, digest: str) -> Iterator[Signature]:
    yield from signature_record.read(layout, digest).signatures


def _stored(
    place: lookaside.Place, wanted: Name, digest: str, settings: Registries | None
) -> Iterator[Signature]:
    for data in lookaside.signatures(place.url or lookaside.DEFAULT, wanted, digest, settings):
        yield Signature("gpg", data)


def check(layout: Layout, image: Image) -> Verdict:
    """Whether the policy lets *image*, which is in the store, have the reference it has; raises RefusedError.

    Nothing is asked of the network: signatures are those that were kept when it came.
    """
    with store.lease(layout):
        found = policy.load(layout)
        if found is None:
            return Verdict("", ())
        if image.reference == image.digest:
            raise UsageError(
                f"The image {image.digest} has no name, so no policy is for it.",
                hint="gear image verify REFERENCE",
            )
        wanted = Name.of(Remote.parse(image.reference))
        return Gate(layout, wanted, found.of_registry(wanted)).pass_here(image.digest)
