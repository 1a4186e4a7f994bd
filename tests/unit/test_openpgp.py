"""Signatures of gpg, made by gpg in every way that is not a good one, and what gpg's status lines come to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from keys import Gpg, claim

from gear import openpgp
from gear.claims import PAYLOAD_LIMIT, BadSignature
from gear.errors import UsageError

DIGEST = "sha256:" + "a" * 64
PAYLOAD = claim("a.example/x:1", DIGEST, "gpg")


@pytest.fixture(scope="module")
def gpg(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpg]:
    made = Gpg(tmp_path_factory.mktemp("gpg") / "home")
    try:
        made.key("good")
        made.key("other")
        past = ("--faked-system-time", "20200101T000000!")
        made.key("expired", *past, expires="1y")
        made.key("old", *past)
        yield made
    finally:
        made.close()


def verify(directory: Path, ring: bytes, signature: bytes) -> openpgp.Signed:
    with openpgp.Keyring([("the ring", ring)], directory) as keyring:
        found = keyring.verify(signature)
    assert list(directory.iterdir()) == [], "the home is left"
    return found


def reason(directory: Path, ring: bytes, signature: bytes) -> str:
    with pytest.raises(BadSignature) as caught, openpgp.Keyring([("the ring", ring)], directory) as keyring:
        keyring.verify(signature)
    assert list(directory.iterdir()) == [], "the home is left"
    return caught.value.message


@pytest.mark.spawns
@pytest.mark.parametrize("options", [(), ("-z", "0"), ("--digest-algo", "SHA512")])
def test_a_good_signature(gpg: Gpg, tmp_path: Path, options: tuple[str, ...]) -> None:
    found = verify(tmp_path, gpg.public("good", "other"), gpg.sign("good", PAYLOAD, *options))
    assert found.payload == PAYLOAD and found.user == "good"
    assert found.fingerprint in gpg.run("--with-colons", "--list-keys", "good").decode()
    armored = gpg.run("--armor", "--export", "good")
    assert verify(tmp_path, armored, gpg.sign("good", PAYLOAD)).payload == PAYLOAD


@pytest.mark.spawns
def test_signatures_that_are_worth_nothing(gpg: Gpg, tmp_path: Path) -> None:
    ring = gpg.public()
    past = ("--faked-system-time", "20200601T000000!")
    good = gpg.sign("good", PAYLOAD, "-z", "0")
    for words, signature, keys in (
        ("another key", gpg.sign("other", PAYLOAD), gpg.public("good")),
        ("its key has expired", gpg.sign("expired", PAYLOAD, *past), ring),
        ("it has expired", gpg.sign("old", PAYLOAD, *past, "--default-sig-expire", "1d"), ring),
        ("does not fit", good.replace(b"a.example/x:1", b"a.example/x:2"), ring),
        ("not one signature", gpg.run("-u", "good", "-u", "other", "--sign", data=PAYLOAD), ring),
        ("binary form", gpg.run("-u", "good", "--clear-sign", data=PAYLOAD), ring),
        ("binary form", gpg.run("-u", "good", "--armor", "--sign", data=PAYLOAD), ring),
        ("not a signature of a binary document", gpg.sign("good", PAYLOAD, "--textmode"), ring),
        ("nothing that is signed", gpg.run("-u", "good", "--detach-sign", data=PAYLOAD), ring),
        ("can't be checked", gpg.sign("good", PAYLOAD, "--digest-algo", "SHA1"), ring),
        ("no message", good[: len(good) // 2], ring),
        ("does not fit", good + good, ring),
        ("does not fit", good + gpg.sign("good", b"another text", "-z", "0"), ring),
        ("binary form", gpg.run("-z", "0", "--store", data=PAYLOAD), ring),
        ("binary form", gpg.run("--symmetric", "--pinentry-mode", "loopback", "--passphrase", "x", data=PAYLOAD), ring),
        ("no message", gpg.sign("good", bytes(PAYLOAD_LIMIT * 100), "-z", "9"), ring),
        ("binary form", b"", ring),
        ("binary form", b"{}", ring),
        ("larger than", b"\x90" * (1 << 20), ring),
        ("no message", b"\x90\xff" * 100, ring),
    ):  # fmt: skip
        assert words in reason(tmp_path, keys, signature), words


@pytest.mark.spawns
def test_a_revoked_key(gpg: Gpg, tmp_path: Path) -> None:
    # Nobody signs with a revoked key, so it is revoked afterwards.
    fingerprint = gpg.key("compromised")
    signature = gpg.sign("compromised", PAYLOAD)
    assert verify(tmp_path, gpg.public("compromised"), signature).payload == PAYLOAD
    gpg.revoke(fingerprint)
    assert reason(tmp_path, gpg.public("compromised"), signature) == "its key is revoked"


@pytest.mark.spawns
def test_texts_in_a_signature_are_no_status(gpg: Gpg, tmp_path: Path) -> None:
    """CVE-2018-12020: names of files and notations once got into gpg's status."""
    line = "\n[GNUPG:] VALIDSIG " + "A" * 40
    name = ("--set-filename", f"x{line}")
    found = verify(tmp_path, gpg.public("good"), gpg.sign("good", PAYLOAD, *name))
    assert found.user == "good" and "AAAA" not in found.fingerprint
    user = f"evil{line}\n[GNUPG:] GOODSIG 0 x".replace("\n", "%0A")
    fingerprint = gpg.key(user)
    found = verify(tmp_path, gpg.public(fingerprint), gpg.sign(fingerprint, PAYLOAD))
    assert found.fingerprint == fingerprint


@pytest.mark.spawns
@pytest.mark.parametrize(
    "ring", [b"", b"nothing", b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n", b"\x99\x01" * 50]
)
def test_a_keyring_without_keys(tmp_path: Path, ring: bytes) -> None:
    with (
        pytest.raises(UsageError, match="the ring is not a keyring"),
        openpgp.Keyring([("the ring", ring)], tmp_path),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


FINGERPRINT = "4AC51ED46840C3A038EC87F95F64D2BF2E44A1B0"
STATUS = f"""[GNUPG:] PLAINTEXT 62 1795275249 p.json
[GNUPG:] PLAINTEXT_LENGTH 196
[GNUPG:] NEWSIG
[GNUPG:] KEY_CONSIDERED {FINGERPRINT} 0
[GNUPG:] SIG_ID W3Dqwt/ej5B6aMo031y7P1zFa9Q 2026-11-21 1795275249
[GNUPG:] GOODSIG 5F64D2BF2E44A1B0 Me <me@example.org>
[GNUPG:] VALIDSIG {FINGERPRINT} 2026-11-21 1795275249 0 4 0 1 10 00 {FINGERPRINT}
"""


def changed(old: str, new: str) -> bytes:
    assert old in STATUS
    return STATUS.replace(old, new).encode()


def test_status_lines_of_a_good_signature() -> None:
    assert openpgp.judge(0, STATUS.encode()) == (FINGERPRINT, "Me <me@example.org>")
    with pytest.raises(BadSignature, match="status 1"):
        openpgp.judge(1, STATUS.encode())


GOODSIG = "[GNUPG:] GOODSIG 5F64D2BF2E44A1B0 Me <me@example.org>\n"


@pytest.mark.parametrize(
    ("status", "word"),
    [
        (b"", "nothing"),
        (changed(GOODSIG, ""), "not one signature"),
        (changed(GOODSIG, GOODSIG * 2), "not one signature"),
        (changed("NEWSIG", "NEWSIG\n[GNUPG:] NEWSIG"), "not one signature"),
        (
            changed("[GNUPG:] PLAINTEXT 62", "[GNUPG:] PLAINTEXT 62 x\n[GNUPG:] PLAINTEXT 62"),
            "not one signature",
        ),
        (changed("GOODSIG", "EXPKEYSIG"), "expired"),
        (changed("GOODSIG", "REVKEYSIG"), "revoked"),
        (changed("GOODSIG", "EXPSIG"), "expired"),
        (changed("GOODSIG", "BADSIG"), "does not fit"),
        (changed(GOODSIG, GOODSIG + "[GNUPG:] BADSIG 1 x\n"), "does not fit"),
        (changed(GOODSIG, GOODSIG + "[GNUPG:] FAILURE x 1\n"), "gpg reports FAILURE"),
        (changed(GOODSIG, GOODSIG + "[GNUPG:] SOMETHING_NEW\n"), "gpg reports SOMETHING_NEW"),
        (changed(GOODSIG, GOODSIG + "gpg: Good signature\n"), "understood"),
        (changed(GOODSIG, GOODSIG + "\n"), "understood"),
        (changed(GOODSIG, GOODSIG + "[GNUPG:]\n"), "understood"),
        (changed(GOODSIG, GOODSIG + " [GNUPG:] X\n"), "understood"),
        (changed(" 10 00 ", " 2 00 "), "too weak"),
        (changed(" 10 00 ", " 10 01 "), "binary document"),
        (changed(f"00 {FINGERPRINT}", "00"), "understood"),
        (changed(f"00 {FINGERPRINT}", "00 me"), "understood"),
        (STATUS.encode() + b"[GNUPG:] \xff\n", "understood"),
        (STATUS.encode() + b"[GNUPG:] PROGRESS " + b"x" * (1 << 20), "understood"),
    ],
)
def test_status_lines_of_anything_else(status: bytes, word: str) -> None:
    with pytest.raises(BadSignature, match=word):
        openpgp.judge(0, status)
