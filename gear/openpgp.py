"""Signatures made with gpg, verified by gpg in a home of its own that is thrown away.

Not what is signed (gear/claims.py).  What gpg prints for people is not looked at: only its status lines count, which
nothing inside a message can write to, and of those any that is not known to be harmless refuses the signature.
Source: doc/DETAILS of GnuPG.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from gear import files, process
from gear.claims import PAYLOAD_LIMIT, BadSignature
from gear.errors import UsageError
from gear.patterns import pattern

# A signed payload; containers/image and skopeo write some 600 bytes.
SIGNATURE_LIMIT = PAYLOAD_LIMIT
TIMEOUT_S = 30.0
# A signed message in binary form begins with one of these packets, in the old or the new format: compressed data, a
# one-pass signature, a signature.  Text that is signed in the clear begins with none, and is no signature here.
_FIRST = frozenset((*range(0xA0, 0xA4), 0xC8, *range(0x90, 0x94), 0xC4, *range(0x88, 0x8C), 0xC2))
_PREFIX = "[GNUPG:] "
# KEYEXPIRED is said of subkeys that have nothing to do with the signature as well; EXPKEYSIG is what counts.
_HARMLESS = frozenset(
    (
        "NEWSIG", "KEY_CONSIDERED", "SIG_ID", "GOODSIG", "VALIDSIG", "PLAINTEXT", "PLAINTEXT_LENGTH", "KEYEXPIRED",
        "TRUST_UNDEFINED", "TRUST_MARGINAL", "TRUST_FULLY", "TRUST_ULTIMATE", "VERIFICATION_COMPLIANCE_MODE",
        "NOTATION_NAME", "NOTATION_FLAGS", "NOTATION_DATA", "POLICY_URL", "PROGRESS",
    )
)  # fmt: skip
# Why a signature is worth nothing, most telling first.
_REASONS = {
    "REVKEYSIG": "its key is revoked",
    "EXPKEYSIG": "its key has expired",
    "EXPSIG": "it has expired",
    "BADSIG": "it does not fit what it signs",
    "NO_PUBKEY": "it was made with another key",
    "ERRSIG": "it can't be checked by gpg",
    "NODATA": "it is no message of OpenPGP",
    "ENC_TO": "it is encrypted",
}
_FINGERPRINT = pattern(r"[0-9A-F]{40}(?:[0-9A-F]{24})?", re.ASCII)
# Binary document; a signature of canonical text would be one of several texts.
_CLASS = "00"
# Algorithms of RFC 9580, 9.5, that collisions are known or near for: MD5, SHA-1, RIPEMD-160.
_WEAK = ("1", "2", "3")


class Signed(NamedTuple):
    """What a genuine signature signs, and whose key it was made with."""

    payload: bytes
    fingerprint: str
    user: str


class Keyring:
    """Public keys of one or more files, for the time of a `with`; all of them are trusted."""

    def __init__(self, keys: list[tuple[str, bytes]], below: Path) -> None:
        """*keys* are files (name, content); the home is made in *below*, under a partial name."""
        self._keys, self._below = keys, below
        self._home: Path | None = None

    def __enter__(self) -> Self:
        with files.explained(f"make a directory in {self._below}"):
            self._home = Path(tempfile.mkdtemp(prefix=files.PARTIAL, dir=self._below))
        try:
            for what, data in self._keys:
                status, answer = self._run("--import", data=data)
                words = _status(answer)
                if words is None or not any(name == "IMPORT_OK" for name, _ in words):
                    raise UsageError(
                        f"{what} is not a keyring of OpenPGP: gpg finds no key in it (status {status}).",
                        hint="gpg --export KEY writes one.",
                    )
        except BaseException:
            self._forget()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._forget()

    def _forget(self) -> None:
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)
            self._home = None

    def _run(self, *arguments: str, data: bytes) -> tuple[int, bytes]:
        options = ["--no-options", "--no-autostart", "--batch", "--no-tty", "--homedir", str(self._home)]
        options += ["--trust-model", "always", "--no-auto-key-locate", "--no-auto-key-retrieve"]
        options += ["--weak-digest", "SHA1", "--status-fd", "1"]
        return process.exchange(["gpg", *options, *arguments], data, TIMEOUT_S)

    def verify(self, signature: bytes) -> Signed:
        """What *signature*, a message that holds what it signs, says; raises BadSignature with the reason."""
        if len(signature) > SIGNATURE_LIMIT:
            raise BadSignature(f"it is larger than {SIGNATURE_LIMIT} bytes")
        if not signature or signature[0] not in _FIRST:
            raise BadSignature("it is no signed message of OpenPGP in binary form")
        assert self._home is not None
        output = self._home / "payload"
        files.remove_file(output)
        limit = ("--max-output", str(PAYLOAD_LIMIT))
        status, answer = self._run(*limit, "--output", str(output), "--verify", "-", data=signature)
        fingerprint, user = judge(status, answer)
        payload = files.read_bytes(output, PAYLOAD_LIMIT)
        if payload is None:
            raise BadSignature("it signs nothing")
        return Signed(payload, fingerprint, user)


def _status(answer: bytes) -> list[tuple[str, list[str]]] | None:
    """gpg's status lines as (keyword, arguments); None when anything else is among them, or they are cut off."""
    result = []
    if len(answer) >= process.ANSWER_LIMIT:
        return None
    try:
        text = answer.decode("utf-8")
    except UnicodeDecodeError:
        return None
    for line in text.removesuffix("\n").split("\n"):
        keyword, *arguments = line.removeprefix(_PREFIX).split(" ")
        if not line.startswith(_PREFIX) or not keyword:
            return None
        result.append((keyword, arguments))
    return result


def judge(status: int, answer: bytes) -> tuple[str, str]:
    """Whose the one good signature is that gpg reports: fingerprint and user; raises BadSignature for all else."""
    words = _status(answer)
    if not answer:
        raise BadSignature("gpg finds nothing that is signed")
    if words is None:
        raise BadSignature("gpg reports what can't be understood")
    names = [name for name, _ in words]
    for name, reason in _REASONS.items():
        if name in names:
            raise BadSignature(reason)
    if unknown := sorted(set(names) - _HARMLESS):
        raise BadSignature(f"gpg reports {', '.join(unknown)[:100]}")
    if any(names.count(name) != 1 for name in ("NEWSIG", "GOODSIG", "VALIDSIG", "PLAINTEXT")):
        raise BadSignature("it is not one signature of one text")
    if status != 0:
        raise BadSignature(f"gpg ends with status {status}")
    found = dict(words)
    valid = found["VALIDSIG"]
    if len(valid) < 10 or not _FINGERPRINT.fullmatch(valid[0]) or not _FINGERPRINT.fullmatch(valid[9]):
        raise BadSignature("gpg reports what can't be understood")
    if valid[7] in _WEAK:
        raise BadSignature("it uses a digest that is too weak")
    if valid[8] != _CLASS:
        raise BadSignature("it is not a signature of a binary document")
    return valid[9], " ".join(found["GOODSIG"][1:])
