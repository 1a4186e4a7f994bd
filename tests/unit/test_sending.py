"""Copying images between two stores over a pipe: what arrives, what is sent, and an other side that means no good.

ssh itself is in tests/host/test_registry_ways.py.
"""

from __future__ import annotations

import errno
import io
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from archives import digest, entry, tar
from hostile import INDEX, OCI, Hostile
from keys import SigstoreKey, artifact, claim

from gear import cosign, garbage, offering, pulling, sending, signatures, store
from gear.cli_send import sides
from gear.errors import GearError, IntegrityError, NotFoundError, RemoteError, UsageError
from gear.fetching import Silent
from gear.model import Layout
from gear.oci import Platform, Reference
from gear.offering import Result
from gear.registries import Registries
from gear.sending import Peer

pytestmark = pytest.mark.usefixtures("quick")

FIRST, SECOND = tar(entry("a", b"a" * 200_000)), tar(entry("b", b"b" * 5000))
AMD64 = Platform("linux", "amd64")


class Counting(Silent):
    """Remembers which blobs were sent, and how much of them."""

    def __init__(self) -> None:
        self.sent: dict[str, int] = {}

    def begin(self, name: str, size: int) -> None:
        self.sent[name] = 0

    def advance(self, name: str, count: int) -> None:
        self.sent[name] += count


@pytest.fixture
def here(tmp_path: Path, registry: Hostile) -> Layout:
    """A store with the images REGISTRY/x:1 and REGISTRY/x:2, which share a layer."""
    layout = Layout(state=tmp_path / "here", config=tmp_path / "etc")
    for tag, layers in (("1", (FIRST,)), ("2", (FIRST, SECOND))):
        registry.image(*layers, tag=tag)
        pulling.pull(layout, f"{registry.host}/x:{tag}", settings=Registries(timeout=2), platform=AMD64)
    return layout


@pytest.fixture
def there(tmp_path: Path) -> Layout:
    return Layout(state=tmp_path / "there", config=tmp_path / "etc")


@contextmanager
def other_side(work: Callable[[socket.socket], object]) -> Iterator[socket.socket]:
    """Our end of a pipe at whose other end *work* runs, in a thread."""
    ours, theirs = socket.socketpair()

    def run() -> None:
        with theirs:
            try:
                work(theirs)
            except OSError:
                pass

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield ours
    finally:
        ours.close()
        thread.join()


def copy(
    here: Layout, there: Layout, *names: str, wanted: list[str] | None = None
) -> tuple[Result, Result | None, dict[str, int]]:
    """Both ends with nothing but a pipe between: what the receiver did, what it told, and what was sent."""
    counting = Counting()
    told: list[Result | None] = []

    def serve(sock: socket.socket) -> None:
        with store.lease(here), sock.makefile("rb") as source, sock.makefile("wb") as sink:
            offer = offering.make(here, names, every=False)
            told.append(offering.serve(here, offer, source, sink, counting))

    asked = None if wanted is None else [Reference.parse(name) for name in wanted]
    with other_side(serve) as sock:
        result = sending._receive(there, "other", sock, Silent(), asked)
    return result, told[0], counting.sent


def test_only_what_is_lacking_is_sent(here: Layout, there: Layout, registry: Hostile) -> None:
    names = [f"{registry.host}/x:{tag}" for tag in "12"]
    result, told, sent = copy(here, there, names[0])
    assert [image.reference for image in result.images] == names[:1] and result.changed == (True,)
    assert told == result and sent[digest(FIRST)] == len(FIRST)
    result, told, sent = copy(here, there, *names)
    assert result.changed == (False, True) and not result.errors
    assert digest(FIRST) not in sent and sent[digest(SECOND)] == len(SECOND)
    for name in names:
        image = store.resolve(there, name)
        assert image == store.resolve(here, name)
        assert store.blob_path(there, image.digest).read_bytes() == registry.manifests[name[-1]][1]
    assert (store.layer_root(there, digest(SECOND)) / "b").read_bytes() == b"b" * 5000
    assert copy(here, there, *names)[2] == {} and garbage.garbage(there, []) == []


def test_a_copy_that_broke_goes_on_where_it_was(here: Layout, there: Layout, registry: Hostile) -> None:
    store.prepare(there)
    store.place(there, "downloads", digest(FIRST)).write_bytes(FIRST[:150_000])
    assert copy(here, there, f"{registry.host}/x:1")[2][digest(FIRST)] == len(FIRST) - 150_000


@pytest.mark.parametrize("signed", ["index", "instance"])
def test_signatures_that_are_kept_come_with_the_image(
    here: Layout, there: Layout, registry: Hostile, tmp_path: Path, signed: str
) -> None:
    key = SigstoreKey()
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/key.pub").write_bytes(key.public())
    policy = {"default": {"sigstore": [str(tmp_path / "etc/key.pub")]}}
    (tmp_path / "etc/policy.yaml").write_text(json.dumps(policy))
    name = f"{registry.host}/x:3"
    own = registry.image(FIRST, tag="3")
    platform = {"os": "linux", "architecture": "amd64"}
    point = {"mediaType": OCI, "digest": own, "size": len(registry.manifests[own][1]), "platform": platform}
    document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [point]}
    whole = registry.manifest(json.dumps(document).encode(), INDEX, "3")
    of = whole if signed == "index" else own
    payload = claim(name, of)
    manifest, blobs = artifact((payload, key.sign(payload)))
    registry.blobs |= blobs
    registry.manifest(manifest, OCI, cosign.tag(of))
    pulling.pull(here, name, settings=Registries(timeout=2), platform=AMD64)
    assert copy(here, there, name)[0].errors == ()
    image = store.resolve(there, name)
    assert image.digest == own and signatures.check(there, image).signers
    assert garbage.garbage(there, []) == []
    result, told, _ = copy(here, there, f"{registry.host}/x:1", name)
    assert "x:1 is not signed" in result.errors[0] and told == result
    assert [image.digest for image in result.images] == [own]
    assert list(store.references(there)) == [name]


def test_what_has_no_name_is_not_offered(here: Layout, registry: Hostile) -> None:
    image = store.resolve(here, f"{registry.host}/x:1")
    store.remove_reference(here, image.reference)
    with pytest.raises(UsageError, match="has no name here"):
        offering.make(here, [image.digest], every=False)


def test_what_is_offered_must_be_what_was_asked_for(here: Layout, there: Layout, registry: Hostile) -> None:
    name, other = f"{registry.host}/x:1", f"{registry.host}/x:2"
    assert copy(here, there, name, wanted=[name])[0].images
    for offered, wanted in (([other], [name]), ([name, other], [name]), ([], [name])):
        with pytest.raises(IntegrityError, match="offers (.*instead of|more than was asked for)"):
            copy(here, there, *offered, wanted=wanted)
    with pytest.raises(IntegrityError, match="instead of"):
        copy(here, there, name, wanted=[f"{name}@{'sha256:' + '0' * 64}"])
    assert list(store.references(there)) == [name]


def test_nothing_but_the_offer_is_given_out(here: Layout, registry: Hostile) -> None:
    store.set_reference(here, "secret:latest", store.resolve(here, f"{registry.host}/x:2").digest)
    secret = store.resolve(here, "secret").digest

    def serve(sock: socket.socket) -> None:
        with sock.makefile("rb") as source, sock.makefile("wb") as sink:
            offer = offering.make(here, [f"{registry.host}/x:1"], every=False)
            offering.serve(here, offer, source, sink, Silent())

    paths = [
        f"/v2/image/manifests/{secret}", f"/v2/image/blobs/{digest(SECOND)}", f"/v2/image/blobs/{secret}",
        "/v2/image/blobs/../../lock", "/v2/image/blobs/sha256:x/../../../lock", "/etc/passwd", "/",
        f"/v2/other/blobs/{digest(FIRST)}",
    ]  # fmt: skip
    with other_side(serve) as sock, sock.makefile("rb") as answers:
        for path in paths:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert answers.readline().split()[1] == b"404", path
            while answers.readline() != b"\r\n":
                pass


@pytest.mark.parametrize(
    "words",
    [
        b"\0" * 200_000, b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 500 + b"\r\n", b"DELETE /offer HTTP/1.1\r\n\r\n",
        b"PUT /result HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", b"SSH-2.0-x\r\n", b"",
        b"PUT /result HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"GET /offer",
    ],
)  # fmt: skip
def test_a_receiver_that_talks_nonsense_gets_nothing(here: Layout, registry: Hostile, words: bytes) -> None:
    results: list[Result | None] = []

    def serve(sock: socket.socket) -> None:
        with sock.makefile("rb") as source, sock.makefile("wb") as sink:
            offer = offering.make(here, [f"{registry.host}/x:1"], every=False)
            results.append(offering.serve(here, offer, source, sink, Silent()))

    with other_side(serve) as sock:
        try:
            sock.sendall(words)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1 << 16):
                pass
        except OSError:
            pass
    assert results in ([None], [])


class _Broken(io.RawIOBase):
    """A stream that fails when it is written to."""

    def __init__(self, error: OSError) -> None:
        self._error = error

    def writable(self) -> bool:
        return True

    def write(self, data: object, /) -> int:
        raise self._error


def test_a_receiver_that_is_gone_has_told_nothing(here: Layout, registry: Hostile) -> None:
    with store.lease(here):
        offer = offering.make(here, [f"{registry.host}/x:1"], every=False)
    ask = b"GET /offer HTTP/1.1\r\nHost: x\r\n\r\n"
    gone, broken = _Broken(BrokenPipeError()), _Broken(OSError(errno.EIO, "an error of this host"))
    assert offering.serve(here, offer, io.BytesIO(ask), gone, Silent()) is None  # type: ignore[arg-type]
    with pytest.raises(OSError, match="an error of this host"):
        offering.serve(here, offer, io.BytesIO(ask), broken, Silent())  # type: ignore[arg-type]


@pytest.mark.parametrize("body", [b"[]", b'{"images": [{"digest": "x"}]}', b'{"errors": [7]}', b"\xff"])
def test_a_result_that_is_none(here: Layout, registry: Hostile, body: bytes) -> None:
    failures: list[GearError] = []

    def serve(sock: socket.socket) -> None:
        with sock.makefile("rb") as source, sock.makefile("wb") as sink:
            try:
                offering.serve(
                    here, offering.make(here, [f"{registry.host}/x:1"], every=False), source, sink, Silent()
                )
            except GearError as error:
                failures.append(error)

    with other_side(serve) as sock:
        sock.sendall(b"PUT /result HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        while sock.recv(1 << 16):
            pass
    assert isinstance(failures[0], IntegrityError)


def answering(*answers: bytes) -> Callable[[socket.socket], None]:
    """A sender that gives these answers, whatever it is asked, then goes away."""

    def work(sock: socket.socket) -> None:
        with sock.makefile("rb") as requests:
            for answer in answers:
                while requests.readline() not in (b"\r\n", b""):
                    pass
                sock.sendall(answer)

    return work


def response(body: bytes, status: int = 200) -> bytes:
    return b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


def offered(*items: dict[str, object], version: int = 1) -> bytes:
    return response(json.dumps({"version": version, "images": items}).encode())


ITEM = {"reference": "x:1", "digest": "sha256:" + "0" * 64, "every": False}


@pytest.mark.parametrize(
    ("answers", "kind", "words"),
    [
        ((), RemoteError, "ended the connection|failed"),
        ((b"Welcome!\r\n",), RemoteError, "does not speak HTTP"),
        ((response(b"", 500),), RemoteError, "status 500"),
        ((offered(version=2),), IntegrityError, "in another way"),
        ((offered({**ITEM, "reference": "../../etc"}),), UsageError, "can't name an image"),
        ((offered({**ITEM, "digest": "sha256:../x"}),), IntegrityError, "digest"),
        ((offered(*[ITEM] * 1001),), IntegrityError, "more than 1000 images"),
        ((response(b" " * (5 << 20)),), IntegrityError, "more than 4194304 bytes"),
        ((offered(ITEM),), RemoteError, "ended the connection"),
        ((offered(ITEM), response(b"", 404)), NotFoundError, "has no image"),
        ((offered(ITEM), response(b"{}")), IntegrityError, "is damaged"),
    ],
)
def test_a_sender_that_lies(
    there: Layout, answers: tuple[bytes, ...], kind: type[GearError], words: str
) -> None:
    with other_side(
        answering(*answers, response(b"")) if kind is not RemoteError else answering(*answers)
    ) as sock:
        try:
            result = sending._receive(there, "other", sock, Silent(), None)
        except GearError as error:
            assert isinstance(error, kind)
            message = error.message
        else:
            (message,) = result.errors
            assert not result.images
    assert re.search(words, message), message
    assert store.references(there) == {} and store.held(there) == []


def test_a_sender_that_hangs(there: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "PATIENCE_S", 0.2)
    with (
        other_side(lambda sock: sock.recv(1 << 16) and sock.recv(1 << 16)) as sock,
        pytest.raises(RemoteError, match="did not answer within"),
    ):
        sending._receive(there, "other", sock, Silent(), None)


def test_sides() -> None:
    assert sides(["a", "b:1", "me@host"]) == ("me@host", ["a", "b:1"], False)
    assert sides(["a", "host::"]) == ("host", ["a"], False)
    assert sides(["host::a", "host::b:1"]) == ("host", ["a", "b:1"], True)
    for words in (["a"], ["host::a", "host"], ["h::a", "g::b"], ["a", "h::b"]):
        with pytest.raises(UsageError):
            sides(words)


@pytest.mark.parametrize("name", ["me@host", "10.0.0.1", "ssh://me@host:22", "ssh://[::1]:22", "a_b.c"])
def test_hosts(name: str) -> None:
    assert Peer(name).arguments("receive")[-2:] == [name, "gear image receive"]


@pytest.mark.parametrize(
    "name", ["-oProxyCommand=x", "", "a b", "a;b", "ssh://-o", "@h", "h\n", "ssh://h/p", "$x"]
)
def test_what_is_no_host(name: str) -> None:
    with pytest.raises(UsageError, match="can't be a host"):
        Peer(name).arguments("receive")


def test_the_shell_there_sees_one_word_for_each_name() -> None:
    assert Peer("h", "sudo gear").arguments("serve", "a;b")[-1] == "sudo gear image serve 'a;b'"
