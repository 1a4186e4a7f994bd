"""Everything that reads what strangers wrote, fed with mutations: only the documented errors come out, soon, and small.

Not the meaning of what is read: each parser has its own tests beside this one.  The runs are bounded and the same each
time (tests/unit/conftest.py).
"""

from __future__ import annotations

import io
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import rendering
from archives import OciLayout, config, directory, entry, hard_link, symlink, tar
from hypothesis import given, settings
from hypothesis import strategies as st
from keys import SigstoreKey, artifact, claim

from gear import cosign, lookaside, openpgp, policy, signature_record, store, variables
from gear.bundle import environment
from gear.claims import Claim, Signature
from gear.compression import decompressed
from gear.document import parse_document
from gear.errors import GearError
from gear.helper.bundle import load_json
from gear.helper.failure import Failure
from gear.helper.options import Options
from gear.model import Layout
from gear.oci import ImageConfig, Manifest, Platform, Reference, choose, index_entries
from gear.seccomp import compile as compile_filter
from gear.seccomp import default_profile, load_profile
from gear.sources import candidates, opened
from gear.spec import Spec
from gear.tarstream import Archive
from gear.view import View

AMD64 = Platform("linux", "amd64")
# Of the processor's time, which others on the machine do not change: much more than any of the inputs here may take.
SECONDS = 2.0
GROWTH_KIB = 128 << 10


@contextmanager
def bounded() -> Iterator[None]:
    """Only a documented error, in bounded time and memory."""
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        yield
    except (GearError, Failure) as error:
        assert error.message and "\0" not in error.message
    assert time.process_time() - begin < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < GROWTH_KIB


# Where, what instead, and how many bytes of the old are dropped; `where` is a share of the length.
CHANGES = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.one_of(
            st.binary(max_size=8),
            st.sampled_from(
                (b"{", b"[", b'"', b"}", b"null", b"-1", b"1e999", b"99999999999999999999", b"\\ud800", b"\\u0000",
                 b"\0", b"\xff\xfe", b"../", b"/", b'{"a":' * 50, b"[" * 3000,
                 b"9" * 5000, b"%", b"\n", b":", b"\x80" * 12)
            ),
        ),
        st.integers(0, 12),
    ),
    min_size=1, max_size=5,
)  # fmt: skip


def mutated(data: bytes, changes: list[tuple[float, bytes, int]]) -> bytes:
    """*data* with *changes*."""
    for share, piece, dropped in changes:
        place = int(share * len(data))
        data = data[:place] + piece + data[place + dropped :]
    return data


LAYER = tar(entry("etc/passwd", b"root:x:0:0::/:/bin/sh\n"))
LAYOUT = OciLayout()
ENTRY = LAYOUT.image(LAYER, name="fuzz:latest", platform={"os": "linux", "architecture": "amd64"})
FILES = LAYOUT.finish()
MANIFEST = FILES[f"blobs/{ENTRY['digest'].replace(':', '/')}"]
CONFIG = json.dumps(
    config(
        LAYER, Cmd=["a", "b"], Entrypoint=["/x"], Env=["A=b", "PATH=/bin"], User="www:1", WorkingDir="/w",
        StopSignal="9", Volumes={"/v": {}},
        ExposedPorts={"80/tcp": {}}, Labels={"a": "b"}, Healthcheck={"Test": ["CMD", "x"]},
    )
).encode()  # fmt: skip


@given(CHANGES)
def test_image_config(changes: list[tuple[float, bytes, int]]) -> None:
    with bounded():
        document = parse_document(mutated(CONFIG, changes), "The image config")
        found = ImageConfig.from_mapping(document.value)
        assert all(
            "\0" not in word
            for word in (*(found.cmd or ()), *(found.entrypoint or ()), found.user, found.workdir or "")
        )


@given(CHANGES)
def test_manifest(changes: list[tuple[float, bytes, int]]) -> None:
    with bounded():
        found = Manifest.from_node(parse_document(mutated(MANIFEST, changes), "The manifest"))
        assert all(layer.size >= 0 for layer in found.layers)


@given(CHANGES)
def test_index(changes: list[tuple[float, bytes, int]]) -> None:
    with bounded():
        choose(
            index_entries(parse_document(mutated(FILES["index.json"], changes), "The index")),
            AMD64,
            "The index",
        )


@given(st.sampled_from(sorted(FILES)), CHANGES)
@settings(max_examples=60)
def test_layout_with_a_changed_file(name: str, changes: list[tuple[float, bytes, int]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        for path, data in FILES.items():
            (Path(place) / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(place) / path).write_bytes(mutated(data, changes) if path == name else data)
        with bounded(), opened(place, Path(place)) as files:
            candidates(files, AMD64)


MEMBERS = tar(
    directory("a"), entry("a/b", b"x" * 600), symlink("l", "a"), hard_link("h", "a/b"), entry("n" * 150, b"z"),
    entry("s", b"1\n0\n1\n" + bytes(506) + b"x", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0",
                                                          "GNU.sparse.name": "s", "GNU.sparse.realsize": "9"}),
)  # fmt: skip


@given(CHANGES, st.booleans())
def test_tar(changes: list[tuple[float, bytes, int]], fix: bool) -> None:
    data = bytearray(mutated(MEMBERS, changes))
    for block in (
        range(0, len(data) - 511, 512) if fix else ()
    ):  # make headers valid, so that what they say is acted on
        if data[block + 257 : block + 262] == b"ustar":
            data[block + 148 : block + 156] = b" " * 8
            data[block + 148 : block + 156] = b"%06o\0 " % sum(data[block : block + 512])
    with bounded():
        archive = Archive(io.BytesIO(bytes(data)), "The layer", limit=1 << 20)
        for found in archive:
            assert found.size >= 0 and found.stored >= 0 and found.shown().isascii()
            for chunk in archive.chunks():
                assert len(chunk) <= 1 << 20


@given(
    st.sampled_from((b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"", b"BZh9", b"\xfd7zXZ")),
    st.binary(max_size=200),
)
@settings(max_examples=40)
@pytest.mark.spawns
def test_compression(magic: bytes, data: bytes) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(magic + data)
        file.seek(0)
        with (
            bounded(),
            decompressed(file, "The layer", "gzip" if magic[:1] == b"\x1f" else "plain") as stream,
        ):
            while stream.read(1 << 16):
                pass


ACCOUNTS = b"root:x:0:0:root:/root:/bin/sh\nwww:x:8080:8080::/home/www:/bin/sh\n#c:x:1:1::/:\nbad:x:y:z\n"
GROUPS = b"root:x:0:\nwww:x:8080:root,www\nmany:x:7:www\n"
NAMES = st.sampled_from(
    ("www", "root", "0", "8080", "www:many", "bad", "", ":", "7:7", "99999999999", "\u0661", "-1", "+1")
)


@given(CHANGES, CHANGES, st.one_of(NAMES, st.text(max_size=6)))
@settings(max_examples=60)
def test_accounts_of_an_image(
    accounts: list[tuple[float, bytes, int]], groups: list[tuple[float, bytes, int]], user: str
) -> None:
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "etc").mkdir()
        (Path(place) / "etc" / "passwd").write_bytes(mutated(ACCOUNTS, accounts))
        (Path(place) / "etc" / "group").write_bytes(mutated(GROUPS, groups))
        with bounded():
            found = View([Path(place)]).lookup_user(user)
            assert all(0 <= number < 65536 for number in (found.uid, found.gid, *found.groups))
            # execve(2) takes no NUL.
            variables = environment(rendering.make_spec(), rendering.make_image(), found.home)
            assert not any("\0" in text for text in (*variables, *variables.values()))


@given(CHANGES)
def test_env_file(changes: list[tuple[float, bytes, int]]) -> None:
    data = mutated(b"\xef\xbb\xbfA=b\n# c\n\nPATH\nX = y\r\nB==\n", changes)
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        with bounded():
            for name, content in variables.read_files([file.name]).items():
                assert name and "\n" not in name + content and "\0" not in name + content and "=" not in name


SPEC = json.dumps(rendering.make_spec().to_mapping()).encode()


@given(CHANGES)
def test_spec(changes: list[tuple[float, bytes, int]]) -> None:
    with bounded():
        Spec.from_mapping(parse_document(mutated(SPEC, changes), "spec.json").value, "spec.json")


BUNDLE = (Path(__file__).parents[1] / "cases" / "everything.config").read_bytes()


@given(CHANGES)
def test_bundle_as_the_helper_reads_it(changes: list[tuple[float, bytes, int]]) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(mutated(BUNDLE, changes))
        file.flush()
        with bounded():
            assert isinstance(load_json(file.name), dict)


@given(
    st.lists(
        st.one_of(
            st.text(max_size=10), st.sampled_from(("ro", "rbind", "rslave", "idmap=uids=0-1-2", "size=1"))
        ),
        max_size=8,
    )
)
def test_mount_options(words: list[str]) -> None:
    with bounded():
        Options(words)


@given(st.text(alphabet="aA0:/@.-_[]\0\n\u00e9", max_size=40))
def test_reference(text: str) -> None:
    with bounded():
        assert str(Reference.parse(str(Reference.parse(text)))) == str(Reference.parse(text))


PROFILE = {
    "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "archMap": default_profile()["archMap"],
    "syscalls": default_profile()["syscalls"][-6:],
}  # fmt: skip


@given(CHANGES)
@settings(max_examples=60)
def test_seccomp_profile(changes: list[tuple[float, bytes, int]]) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(mutated(json.dumps(PROFILE).encode(), changes))
        file.flush()
        with bounded():
            program = compile_filter(load_profile(file.name), frozenset({"CAP_CHOWN"}), machine="x86_64")
            assert program and len(program) % 8 == 0 and len(program) <= 8 * 4096


DIGEST = "sha256:" + "a" * 64
PAYLOAD = claim("a.example/x:1", DIGEST)


@given(CHANGES)
def test_signed_payload(changes: list[tuple[float, bytes, int]]) -> None:
    with bounded():
        found = Claim.parse(mutated(PAYLOAD, changes), "sigstore")
        assert found.digest.startswith("sha256:") and str(found.name)


SIGNATURES, PAYLOADS = artifact((PAYLOAD, b"signature"), (b"another", b"signature"))


@given(CHANGES)
def test_artifact_with_signatures(changes: list[tuple[float, bytes, int]]) -> None:
    with bounded():
        node = parse_document(mutated(SIGNATURES, changes), "The artifact")
        for found in cosign.signatures(node, lambda blob: PAYLOADS.get(blob.digest, b"")):
            assert found.kind in ("gpg", "sigstore")


POLICY_YAML = b"""default: reject
load: accept
scopes:
  "*.example": accept
  registry.example/team: {sigstore: [/etc/k.pub], gpg: [/etc/k.gpg], signed-as: quay.io/team}
  registry.example/team/app:1: {sigstore: [/etc/k.pub], identity: repository}
"""
POLICY_JSON = json.dumps(
    {
        "default": [{"type": "reject"}],
        "transports": {
            "docker": {
                "a.example": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}],
                "b.example": [{"type": "sigstoreSigned", "keyData": "AAAA",
                               "signedIdentity": {"type": "remapIdentity", "prefix": "b.example",
                                                  "signedPrefix": "c.example/x"}}],
            }
        },
    }
).encode()  # fmt: skip


@given(st.sampled_from((("policy.yaml", POLICY_YAML), ("policy.json", POLICY_JSON))), CHANGES)
def test_policy(file: tuple[str, bytes], changes: list[tuple[float, bytes, int]]) -> None:
    name, data = file
    parse = policy._parse_yaml if name == "policy.yaml" else policy._parse_json
    with bounded():
        parse(mutated(data, changes), name)


@given(CHANGES)
def test_places_of_signatures_as_configured(changes: list[tuple[float, bytes, int]]) -> None:
    text = (
        b"default-docker: {lookaside: 'file:///x'}\ndocker:\n  a.example: {use-sigstore-attachments: true}\n"
    )
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch, bounded():
        (Path(place) / "a.yaml").write_bytes(mutated(text, changes))
        patch.setattr(lookaside, "REGISTRIES_D", Path(place))
        lookaside.load()


FINGERPRINT = b"4AC51ED46840C3A038EC87F95F64D2BF2E44A1B0"
STATUS = b"""[GNUPG:] PLAINTEXT 62 1795275249 p.json
[GNUPG:] NEWSIG
[GNUPG:] GOODSIG 5F64D2BF2E44A1B0 Me
[GNUPG:] VALIDSIG %s 2026-11-21 1795275249 0 4 0 1 10 00 %s
""" % (FINGERPRINT, FINGERPRINT)


@given(CHANGES)
def test_status_of_gpg(changes: list[tuple[float, bytes, int]]) -> None:
    with bounded():
        fingerprint, _ = openpgp.judge(0, mutated(STATUS, changes))
        assert len(fingerprint) in (40, 64)


RECORD = json.dumps(
    {"signatures": [{"kind": "gpg", "signature": "AAAA", "payload": ""}], "indexes": [DIGEST]}
).encode()


@given(CHANGES)
@settings(max_examples=60)
def test_record_of_signatures(changes: list[tuple[float, bytes, int]]) -> None:
    with tempfile.TemporaryDirectory() as place, bounded():
        layout = Layout(state=Path(place))
        store.prepare(layout)
        store.place(layout, "signatures", DIGEST).write_bytes(mutated(RECORD, changes))
        signature_record.write(layout, DIGEST, [Signature("gpg", b"x")], [], [])
        assert Signature("gpg", b"x") in signature_record.read(layout, DIGEST).signatures


MADE = SigstoreKey()
PUBLIC, PRIVATE = MADE.public(), MADE.cosigns(b"geheim", cost=16)


@given(CHANGES)
@settings(max_examples=60)
def test_keys_of_sigstore(changes: list[tuple[float, bytes, int]]) -> None:
    for data in (PUBLIC, PRIVATE):
        with bounded():
            cosign.PublicKey(mutated(data, changes), "The key")
        with bounded():
            cosign.PrivateKey(mutated(data, changes), "The key", lambda: b"geheim")
