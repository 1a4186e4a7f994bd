"""Pulling and pushing against a registry that lies, breaks and hangs: a clear error, an untouched store, no secrets."""

from __future__ import annotations

import errno
import gzip
import json
import os
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from archives import digest, entry, tar
from hostile import INDEX, LAYER, OCI, Handler, Hostile, drop, for_path, reply, serving

from gear import dialing, files, garbage, images, pulling, pushing, store
from gear.addresses import Address
from gear.errors import GearError, IntegrityError, NotFoundError, RemoteError
from gear.fetching import Pulled
from gear.model import Layout
from gear.oci import Platform
from gear.registries import Registries, Rule
from gear.registry_auth import Credentials

pytestmark = pytest.mark.usefixtures("quick")

AMD64 = Platform("linux", "amd64")
# Larger than a piece of a download, and than what a socket takes at once.
FIRST = tar(entry("a", os.urandom(3 << 20)))
SECOND = tar(entry("b", b"b" * 5000))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(state=tmp_path / "state", config=tmp_path / "etc")


SETTINGS = Registries(timeout=1.0, retries=2)


def pull(
    layout: Layout,
    registry: Hostile,
    what: str = "x:1",
    settings: Registries = SETTINGS,
    *,
    every: bool = False,
) -> Pulled:
    return pulling.pull(layout, f"{registry.host}/{what}", settings=settings, platform=AMD64, every=every)


def refused(
    layout: Layout, registry: Hostile, kind: type[GearError] = GearError, settings: Registries = SETTINGS
) -> str:
    """The sentence a pull ends with; nothing of the image may be visible then, or in the way of the next pull."""
    with pytest.raises(kind) as caught:
        pull(layout, registry, settings=settings)
    assert store.references(layout) == {} and store.held(layout) == []
    for name in ("blobs", "layers"):
        assert not list((layout.images / name).glob("sha256/.partial-*"))
    return caught.value.message


def login(registry: Hostile, tmp_path: Path) -> None:
    entry = {"auths": {registry.host: {"username": "me", "password": "geheim"}}}
    (tmp_path / "auth.json").write_text(json.dumps(entry))


@pytest.mark.parametrize("compressed", [False, True])
def test_an_image_is_pulled(layout: Layout, registry: Hostile, compressed: bool) -> None:
    contents = [gzip.compress(data) if compressed else data for data in (FIRST, SECOND)]
    wanted = registry.image(
        FIRST, SECOND, contents=contents, layer_type=f"{LAYER}{'+gzip' if compressed else ''}"
    )
    done = pull(layout, registry)
    assert (done.reference, done.image.digest, done.changed) == (f"{registry.host}/x:1", wanted, True)
    assert (store.layer_root(layout, done.image.layers[1]) / "b").read_bytes() == b"b" * 5000
    assert store.blob_path(layout, wanted).read_bytes() == registry.manifests["1"][1]
    assert not list((layout.images / "downloads/sha256").iterdir())
    before = len(registry.seen)
    assert not pull(layout, registry).changed
    assert not [path for path in registry.paths()[before:] if digest(contents[0]) in path]


def test_a_second_image_costs_only_its_own_layers(layout: Layout, registry: Hostile) -> None:
    registry.image(FIRST)
    pull(layout, registry)
    registry.image(FIRST, SECOND, tag="2")
    before = len(registry.seen)
    pull(layout, registry, "x:2")
    assert not any(digest(FIRST) in path for _, path, _ in registry.seen[before:])


def test_a_broken_download_goes_on_where_it_was(layout: Layout, registry: Hostile) -> None:
    registry.image(FIRST)

    def half(registry: Hostile, handler: Handler) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(FIRST)))
        handler.end_headers()
        handler.wfile.write(FIRST[: 2 << 20])
        return drop(handler)

    registry.tricks.append(for_path(digest(FIRST), half, times=1))
    pull(layout, registry)
    (asked,) = registry.told("Range")
    assert 0 < int(asked.removeprefix("bytes=").removesuffix("-")) <= 2 << 20


def test_the_next_pull_takes_up_what_came(layout: Layout, registry: Hostile) -> None:
    registry.image(FIRST)

    def half(registry: Hostile, handler: Handler) -> bool:
        if "Range" in handler.headers:
            return drop(handler)
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(FIRST)))
        handler.end_headers()
        handler.wfile.write(FIRST[: 2 << 20])
        return drop(handler)

    registry.tricks.append(for_path(digest(FIRST), half))
    refused(layout, registry, RemoteError)
    (left,) = (layout.images / "downloads/sha256").iterdir()
    size = left.stat().st_size
    assert 0 < size <= 2 << 20
    registry.tricks.clear()
    before = len(registry.seen)
    pull(layout, registry)
    assert [headers["Range"] for _, _, headers in registry.seen[before:] if "Range" in headers] == [
        f"bytes={size}-"
    ]


def test_a_damaged_beginning_is_fetched_again(layout: Layout, registry: Hostile) -> None:
    registry.image(FIRST)
    store.prepare(layout)
    store.place(layout, "downloads", digest(FIRST)).write_bytes(b"rubbish" * 1000)
    pull(layout, registry)


def test_a_registry_that_ignores_ranges(layout: Layout, registry: Hostile) -> None:
    registry.image(FIRST)
    registry.tricks.append(for_path(digest(FIRST), lambda registry, handler: reply(handler, 200, FIRST)))
    store.prepare(layout)
    store.place(layout, "downloads", digest(FIRST)).write_bytes(FIRST[:100_000])
    pull(layout, registry)


def test_a_wrong_digest(layout: Layout, registry: Hostile) -> None:
    registry.image(FIRST, SECOND)
    registry.blobs[digest(SECOND)] = tar(entry("b", b"B" * 5000))
    message = refused(layout, registry, IntegrityError)
    assert "damaged" in message or "unpacks to" in message
    assert garbage.garbage(layout, []) == []


@pytest.mark.parametrize(("change", "word"), [(b"more", "more than"), (None, "fewer than")])
def test_a_wrong_size(layout: Layout, registry: Hostile, change: bytes | None, word: str) -> None:
    registry.image(SECOND)
    registry.blobs[digest(SECOND)] = SECOND + change if change else SECOND[:-512]
    assert word in refused(layout, registry, IntegrityError)


def test_an_endless_answer_without_a_length(layout: Layout, registry: Hostile) -> None:
    registry.image(SECOND)

    def endless(registry: Hostile, handler: Handler) -> bool:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        while not registry.closing.is_set():
            handler.wfile.write(b"10000\r\n" + bytes(65536) + b"\r\n")
        return True

    registry.tricks.append(for_path("/blobs/" + digest(SECOND), endless))
    assert "more than" in refused(layout, registry, IntegrityError)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_trouble_is_waited_out(layout: Layout, registry: Hostile, status: int) -> None:
    registry.image(SECOND)
    trick = for_path("manifests", lambda registry, handler: reply(handler, status, Retry_After="0"), times=2)
    registry.tricks.append(trick)
    pull(layout, registry)
    assert len([path for path in registry.paths() if "/manifests/" in path]) == 3


@pytest.mark.parametrize(
    ("status", "word"), [(429, "refuses more requests"), (500, "failed with status 500")]
)
def test_lasting_trouble_is_told(layout: Layout, registry: Hostile, status: int, word: str) -> None:
    registry.image(SECOND)
    registry.tricks.append(for_path("blobs/", lambda registry, handler: reply(handler, status)))
    assert word in refused(layout, registry, RemoteError)
    assert len([path for path in registry.paths() if "/blobs/" in path]) == 3


def test_a_registry_that_asks_to_come_back_tomorrow(layout: Layout, registry: Hostile) -> None:
    registry.image(SECOND)
    registry.tricks.append(for_path("v2", lambda registry, handler: reply(handler, 429, Retry_After="86400")))
    assert "86400 seconds" in refused(layout, registry, RemoteError)


def hang(registry: Hostile, handler: Handler) -> bool:
    registry.closing.wait(30)
    return drop(handler)


def drip(registry: Hostile, handler: Handler) -> bool:
    """A header that comes a byte at a time: each within the time limit, all of it never."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    while not registry.closing.wait(0.05):
        handler.wfile.write(b"x")
        handler.wfile.flush()
    return True


def drip_blob(registry: Hostile, handler: Handler) -> bool:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(FIRST)))
    handler.end_headers()
    for place in range(len(FIRST)):
        if registry.closing.wait(0.05):
            break
        handler.wfile.write(FIRST[place : place + 1])
        handler.wfile.flush()
    return True


@pytest.mark.parametrize("trick", [hang, drip])
@pytest.mark.parametrize("where", ["manifests", "blobs"])
def test_a_registry_that_hangs(layout: Layout, registry: Hostile, trick: Any, where: str) -> None:
    registry.image(FIRST)
    registry.tricks.append(for_path(where, trick))
    began = time.monotonic()
    assert "did not answer within 1 seconds" in refused(layout, registry, RemoteError)
    assert time.monotonic() - began < 10


def test_a_blob_that_drips(layout: Layout, registry: Hostile) -> None:
    registry.image(FIRST)
    registry.tricks.append(for_path(digest(FIRST), drip_blob))
    assert "less than 1024 bytes a second" in refused(layout, registry, RemoteError)


def test_what_speaks_no_http(layout: Layout, registry: Hostile) -> None:
    def rubbish(registry: Hostile, handler: Handler) -> bool:
        handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        return drop(handler)

    registry.tricks.append(for_path("", rubbish))
    assert "does not speak HTTP" in refused(layout, registry, RemoteError)


def test_nobody_there(layout: Layout, registry: Hostile) -> None:
    registry.host = "127.0.0.1:1"
    assert "refused" in refused(layout, registry, RemoteError)


# -- what documents say they are ---------------------------------------------------------------------------------


def test_manifest_and_index_at_once(layout: Layout, registry: Hostile) -> None:
    registry.image(SECOND, manifests=[])
    assert "is an index and a manifest at once" in refused(layout, registry, IntegrityError)


@pytest.mark.parametrize("kind", [INDEX, "application/vnd.docker.distribution.manifest.v2+json"])
def test_a_header_that_disagrees_with_the_document(layout: Layout, registry: Hostile, kind: str) -> None:
    registry.image(SECOND)
    registry.manifests["1"] = (kind, registry.manifests["1"][1])
    refused(layout, registry, IntegrityError)


def test_a_descriptor_that_disagrees_with_the_header(layout: Layout, registry: Hostile) -> None:
    wanted = registry.image(SECOND, tag="inner", mediaType=None)
    data = registry.manifests[wanted][1].replace(b'"mediaType": null, ', b"")
    assert b'"mediaType": null' not in data
    inner = registry.manifest(data, "application/vnd.docker.distribution.manifest.v2+json", "inner")
    platform = {"os": "linux", "architecture": "amd64"}
    index = {
        "schemaVersion": 2,
        "manifests": [{"mediaType": OCI, "digest": inner, "size": len(data), "platform": platform}],
    }
    registry.manifest(json.dumps(index).encode(), INDEX, "1")
    assert "but its index announces" in refused(layout, registry, IntegrityError)


def test_the_platform_is_chosen(layout: Layout, registry: Hostile) -> None:
    entries = []
    for architecture, layer in (("arm64", FIRST), ("amd64", SECOND)):
        wanted = registry.image(layer, tag=architecture)
        entries.append(
            {
                "mediaType": OCI,
                "digest": wanted,
                "size": len(registry.manifests[wanted][1]),
                "platform": {"os": "linux", "architecture": architecture},
            }
        )
    registry.manifest(json.dumps({"schemaVersion": 2, "manifests": entries}).encode(), INDEX, "1")
    assert pull(layout, registry).image.digest == entries[1]["digest"]
    registry.manifest(json.dumps({"schemaVersion": 2, "manifests": entries[:1]}).encode(), INDEX, "2")
    with pytest.raises(IntegrityError) as caught:
        pull(layout, registry, "x:2")
    assert caught.value.hint == "It has images for linux/arm64."


def test_schema_1_is_refused_politely(layout: Layout, registry: Hostile) -> None:
    kind = "application/vnd.docker.distribution.manifest.v1+prettyjws"
    registry.manifest(b'{"schemaVersion": 1, "fsLayers": []}', kind, "1")
    assert "schema 1" in refused(layout, registry, IntegrityError)


def test_an_artifact_is_refused_politely(layout: Layout, registry: Hostile) -> None:
    registry.image(SECOND, artifactType="application/vnd.example.sbom")
    assert "an artifact of type 'application/vnd.example.sbom'" in refused(layout, registry, IntegrityError)


def test_a_web_page_is_no_manifest(layout: Layout, registry: Hostile) -> None:
    registry.manifest(b"<html>", "text/html; charset=utf-8", "1")
    assert "'text/html'" in refused(layout, registry, IntegrityError)


def test_a_giant_manifest(layout: Layout, registry: Hostile) -> None:
    registry.manifest(b"{" + b" " * (5 << 20) + b"}", OCI, "1")
    assert "more than 4194304 bytes" in refused(layout, registry, IntegrityError)


def test_a_manifest_of_another_digest(layout: Layout, registry: Hostile) -> None:
    other = registry.image(FIRST, tag="2")
    wanted = registry.image(SECOND)
    registry.manifests[wanted] = registry.manifests[other]
    with pytest.raises(IntegrityError, match="is damaged"):
        pull(layout, registry, f"x@{wanted}")


def test_tag_and_digest_together(layout: Layout, registry: Hostile) -> None:
    wanted = registry.image(SECOND)
    done = pull(layout, registry, f"x:other@{wanted}")
    assert done.reference == f"{registry.host}/x:other@{wanted}"
    assert store.resolve(layout, done.reference).digest == wanted


def test_what_is_not_there(layout: Layout, registry: Hostile) -> None:
    assert refused(layout, registry, NotFoundError) == f"{registry.host}/x has no image 1."


# -- who is told the password ------------------------------------------------------------------------------------


def elsewhere(stack: ExitStack, registry: Hostile) -> Hostile:
    """Another host, to which blobs are redirected."""
    other = stack.enter_context(serving(Hostile(), "127.0.0.2"))
    other.blobs = registry.blobs

    def redirect(registry: Hostile, handler: Handler) -> bool:
        return reply(handler, 307, Location=f"http://{other.host}{handler.path}")

    registry.tricks.append(for_path("/blobs/", redirect))
    return other


def basic(registry: Hostile, handler: Handler) -> bool:
    if "Authorization" in handler.headers:
        return False
    return reply(handler, 401, WWW_Authenticate='Basic realm="r"')


def test_credentials_stay_home_on_a_redirect(layout: Layout, registry: Hostile, tmp_path: Path) -> None:
    registry.image(FIRST, SECOND)
    login(registry, tmp_path)
    registry.tricks.append(basic)
    with ExitStack() as stack:
        other = elsewhere(stack, registry)
        pull(layout, registry)
        assert registry.told("Authorization") and len(other.seen) == 3
        assert other.told("Authorization") == []


@pytest.mark.parametrize("challenge", ['Basic realm="r"', 'Bearer realm="http://{host}/token"'])
def test_a_challenge_after_a_redirect_gets_nothing(
    layout: Layout, registry: Hostile, tmp_path: Path, challenge: str
) -> None:
    registry.image(SECOND)
    login(registry, tmp_path)
    registry.tricks.append(basic)
    with ExitStack() as stack:
        other = elsewhere(stack, registry)
        header = challenge.format(host=other.host)
        other.tricks.append(
            for_path("", lambda registry, handler: reply(handler, 401, WWW_Authenticate=header))
        )
        assert "asks for credentials" in refused(layout, registry, RemoteError)
        assert other.told("Authorization") == [] and "/token" not in str(other.seen)


def bearer(realm: str) -> Any:
    def trick(registry: Hostile, handler: Handler) -> bool:
        if handler.path.startswith("/token"):
            handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
            return reply(handler, 200, b'{"token": "t0k3n"}')
        if handler.headers.get("Authorization") == "Bearer t0k3n":
            return False
        challenge = f'Bearer realm="{realm}",service="s,1",scope="repository:x:pull"'
        return reply(handler, 401, WWW_Authenticate=challenge)

    return trick


def test_a_token_is_fetched_once_and_stays_home(layout: Layout, registry: Hostile, tmp_path: Path) -> None:
    registry.image(FIRST, SECOND)
    login(registry, tmp_path)
    registry.tricks.append(bearer(f"http://{registry.host}/token"))
    pull(layout, registry)
    (asked,) = [(path, headers) for _, path, headers in registry.seen if path.startswith("/token")]
    assert asked[0] == "/token?service=s%2C1&scope=repository%3Ax%3Apull&account=me"
    assert asked[1]["Authorization"] == Credentials("me", "geheim").basic()


def test_an_identity_token_is_traded_in(layout: Layout, registry: Hostile, tmp_path: Path) -> None:
    registry.image(SECOND)
    (tmp_path / "auth.json").write_text(json.dumps({"auths": {registry.host: {"identitytoken": "id"}}}))
    registry.tricks.append(bearer(f"http://{registry.host}/token"))
    pull(layout, registry)
    assert ("POST", "/token") in [(method, path) for method, path, _ in registry.seen]


@pytest.mark.parametrize(
    "realm", ["http://{other}/token", "https://{other}/token", "ftp://x", "http://a@{host}/", ""]
)
def test_a_token_server_elsewhere_is_told_nothing(
    layout: Layout, registry: Hostile, tmp_path: Path, realm: str
) -> None:
    registry.image(SECOND)
    login(registry, tmp_path)
    with serving(Hostile(), "127.0.0.2") as other:
        registry.tricks.append(bearer(realm.format(other=other.host, host=registry.host)))
        assert "token server" in refused(layout, registry, RemoteError) or "sent to" in refused(
            layout, registry
        )
        assert other.seen == []


def test_a_trusted_token_server_may_be_elsewhere(layout: Layout, registry: Hostile, tmp_path: Path) -> None:
    registry.image(SECOND)
    login(registry, tmp_path)
    with serving(Hostile(), "127.0.0.2") as other:
        registry.tricks.append(bearer(f"http://{other.host}/token"))
        other.tricks.append(bearer(""))
        rules = {registry.host: Rule(token_servers=(other.host,))}
        pull(layout, registry, settings=Registries(rules=rules, timeout=1, retries=1))
        assert len(other.seen) == 1


def test_a_wrong_password_has_a_hint(layout: Layout, registry: Hostile, tmp_path: Path) -> None:
    login(registry, tmp_path)
    registry.tricks.append(
        for_path("", lambda r, handler: reply(handler, 401, WWW_Authenticate="Basic realm=x"))
    )
    with pytest.raises(RemoteError) as caught:
        pull(layout, registry)
    assert caught.value.hint == f"gear image login {registry.host}" and "geheim" not in str(caught.value)


def test_a_redirect_without_end(layout: Layout, registry: Hostile) -> None:
    registry.image(SECOND)
    registry.tricks.append(for_path("blobs", lambda r, handler: reply(handler, 302, Location=handler.path)))
    assert "redirects more than" in refused(layout, registry, RemoteError)


# -- mirrors, policies, several at once --------------------------------------------------------------------------


def test_mirrors_are_asked_first_and_may_fail(layout: Layout, registry: Hostile) -> None:
    registry.image(FIRST, SECOND)
    with serving(Hostile(), "127.0.0.2") as mirror:
        mirror.manifests = registry.manifests
        mirror.blobs = {**registry.blobs, digest(SECOND): bytes(len(SECOND))}
        del mirror.blobs[digest(FIRST)]
        rules = {registry.host: Rule(mirrors=("127.0.0.1:1", mirror.host))}
        pull(layout, registry, settings=Registries(rules=rules, timeout=1, retries=0))
        assert any("/manifests/" in path for path in mirror.paths())
        assert not any("/manifests/" in path for path in registry.paths())
        assert sorted(path.rpartition("/")[2] for path in registry.paths() if "blobs" in path) == sorted(
            (digest(FIRST), digest(SECOND))
        )


def test_a_blocked_registry_is_not_asked(layout: Layout, registry: Hostile) -> None:
    rules = {registry.host: Rule(blocked=True)}
    assert "is blocked" in refused(layout, registry, settings=Registries(rules=rules))
    assert registry.seen == []


def test_two_pulls_of_one_image_at_once(layout: Layout, registry: Hostile) -> None:
    registry.image(FIRST, SECOND)
    both = threading.Barrier(2)
    failures: list[BaseException] = []

    def work() -> None:
        both.wait()
        try:
            pull(layout, registry)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len([path for path in registry.paths() if digest(FIRST) in path]) == 1


def policy(layout: Layout, registry: Hostile, name: str) -> tuple[str, list[str]]:
    """The digest that a policy comes to, and what was warned of."""
    (layout.config).mkdir(exist_ok=True)
    (layout.config / "registries.yaml").write_text("timeout: 1\nretries: 0\n")
    warnings: list[str] = []
    reference = pulling.ensure(layout, f"{registry.host}/x:1", name, warn=warnings.append)
    return store.resolve(layout, reference).digest, warnings


def test_policies(layout: Layout, registry: Hostile) -> None:
    with pytest.raises(NotFoundError):
        policy(layout, registry, "never")
    assert registry.seen == []
    old = registry.image(SECOND)
    assert policy(layout, registry, "missing") == (old, [])
    new = registry.image(FIRST)
    assert policy(layout, registry, "missing")[0] == policy(layout, registry, "never")[0] == old
    assert policy(layout, registry, "newer")[0] == new
    count = len(registry.paths())
    assert policy(layout, registry, "newer")[0] == new and len(registry.paths()) == count
    registry.tricks.append(for_path("", lambda r, handler: reply(handler, 500)))
    registry.tricks.append(for_path("", lambda r, handler: reply(handler, 500), method="HEAD"))
    found, warnings = policy(layout, registry, "newer")
    assert found == new and "is used as it is here" in warnings[0]
    with pytest.raises(RemoteError):
        policy(layout, registry, "always")


# -- pushing -----------------------------------------------------------------------------------------------------


def test_what_was_pulled_is_pushed_byte_for_byte(layout: Layout, registry: Hostile) -> None:
    wanted = registry.image(FIRST, SECOND)
    pull(layout, registry)
    with serving(Hostile(), "127.0.0.2") as other:
        other.blobs[digest(SECOND)] = SECOND
        done = pushing.push(layout, f"{registry.host}/x:1", f"{other.host}/y/z:2", settings=SETTINGS)
        assert done == pushing.Pushed(f"{other.host}/y/z:2", wanted)
        assert other.manifests["2"] == registry.manifests["1"] and other.blobs == registry.blobs
        assert len(other.paths("POST")) == 2  # one layer was there


def test_a_large_blob_is_sent_in_pieces_and_goes_on(
    layout: Layout, registry: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushing, "PIECE", 1 << 20)
    registry.image(FIRST)
    pull(layout, registry)
    with serving(Hostile(), "127.0.0.2") as other:

        def lose_answer(registry: Hostile, handler: Handler) -> bool:
            name = handler.path.rpartition("/")[2]
            registry.uploads[name] += handler.rfile.read(int(handler.headers["Content-Length"]))
            return drop(handler)

        def status(registry: Hostile, handler: Handler) -> bool:
            size = len(registry.uploads[handler.path.rpartition("/")[2]])
            return reply(handler, 204, Range=f"0-{size - 1}")

        other.tricks += [for_path("", lose_answer, times=1, method="PATCH"), for_path("/uploads/", status)]
        pushing.push(layout, f"{registry.host}/x:1", f"{other.host}/y:1", settings=SETTINGS)
        assert other.blobs == registry.blobs and len(other.paths("PATCH")) == 3


def test_a_layer_of_a_neighbour_is_mounted(layout: Layout, registry: Hostile) -> None:
    registry.image(FIRST)
    pull(layout, registry)
    blobs, registry.blobs = registry.blobs, {}

    def mount(registry: Hostile, handler: Handler) -> bool:
        if "mount=" not in handler.path:
            return False
        assert "from=x" in handler.path
        registry.blobs[digest(FIRST)] = FIRST
        return reply(handler, 201)

    registry.tricks.append(for_path("uploads", mount, method="POST"))
    pushing.push(layout, f"{registry.host}/x:1", f"{registry.host}/y:1", settings=SETTINGS)
    assert registry.blobs == blobs and len(registry.paths("PUT")) == 2  # the config, the manifest


def test_tags(layout: Layout, registry: Hostile) -> None:
    (layout.config).mkdir()
    (layout.config / "registries.yaml").write_text("timeout: 1\n")
    assert pushing.search_tags(layout, f"{registry.host}/x", 10) == (f"{registry.host}/x", ["1", "2"])
    assert pushing.search_tags(layout, f"{registry.host}/x", 1)[1] == ["1"]


def test_what_failed_is_collected(layout: Layout, registry: Hostile) -> None:
    """What a pull left for the next one is garbage to everybody else."""
    registry.image(SECOND)
    registry.tricks.append(for_path(digest(SECOND), lambda r, handler: drop(handler)))
    refused(layout, registry, RemoteError)
    garbage.collect(layout, images.users(layout))
    assert garbage.garbage(layout, []) == [] and not list((layout.images / "downloads/sha256").iterdir())


def test_a_short_name_finds_and_removes_the_full_one_only(layout: Layout, registry: Hostile) -> None:
    registry.image(SECOND)
    done = pull(layout, registry)
    for name in ("docker.io/library/short:latest", "localhost/near:latest"):
        store.set_reference(layout, name, done.image.digest)
    assert store.resolve(layout, "short").reference == "docker.io/library/short:latest"
    assert store.resolve(layout, "near").reference == "localhost/near:latest"
    assert images.remove(layout, "short", in_use={}) == ["docker.io/library/short:latest"]
    assert done.reference in store.references(layout)


def test_a_full_disk_is_told(layout: Layout, registry: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.image(FIRST)

    def full(descriptor: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(files, "write_all", full)
    assert refused(layout, registry).endswith("the file system is full.")


LOGIN = "me:geheim"

# -- the way there -----------------------------------------------------------------------------------------------


def test_a_resolver_that_hangs(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/host/test_registries.py has a real one."""
    over = threading.Event()

    def never(*arguments: object, **more: object) -> list[Any]:
        over.wait(30)
        return []

    monkeypatch.setattr("gear.dialing.socket.getaddrinfo", never)
    began = time.monotonic()
    with pytest.raises(RemoteError, match=r"could not be resolved within 0\.2 seconds"):
        pulling.pull(layout, "slow.example/x:1", settings=Registries(timeout=0.2, retries=3))
    assert time.monotonic() - began < 5
    over.set()


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "nowhere.invalid"])
def test_a_name_that_is_none(layout: Layout, host: str) -> None:
    with pytest.raises(RemoteError, match="can't be resolved"):
        pulling.pull(layout, f"{host}/x:1", settings=Registries(timeout=20, retries=0))


def test_the_next_address_is_tried(registry: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    port = int(registry.host.rpartition(":")[2])
    places = [("127.0.0.9", 1), ("127.0.0.1", port)]
    found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", place) for place in places]
    monkeypatch.setattr(dialing, "resolve", lambda *arguments: found)
    with dialing.dial(Address(False, "several.example", 80), 5) as sock:
        assert sock.getpeername() == ("127.0.0.1", port) and sock.gettimeout() == 5


def test_all_addresses_together_have_one_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listeners whose queue is full take connections up, and never answer."""
    with ExitStack() as stack:
        found = []
        for _ in range(4):
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
            place = listener.getsockname()
            for _ in range(3):
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(place)
            found.append((socket.AF_INET, socket.SOCK_STREAM, 0, "", place))
        monkeypatch.setattr(dialing, "resolve", lambda *arguments: found)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            dialing.dial(Address(False, "full.example", 80), 0.4)
        assert 0.3 < time.monotonic() - began < 3


@pytest.mark.parametrize(
    ("status", "words", "attempts"),
    [
        (407, r"The proxy on the way to far.example wants a name and a password \(407\)", 1),
        (403, "The proxy does not connect to far.example: 403 Forbidden", 1),
        (502, "The proxy does not connect to far.example: 502 Bad Gateway", 2),
    ],
)
def test_a_proxy_that_refuses(
    layout: Layout, registry: Hostile, monkeypatch: pytest.MonkeyPatch, status: int, words: str, attempts: int
) -> None:
    """tests/host/test_registries.py has a real one."""
    monkeypatch.setenv("https_proxy", f"http://{LOGIN}@{registry.host}")
    registry.tricks.append(for_path("", lambda r, handler: reply(handler, status), method="CONNECT"))
    with pytest.raises(RemoteError, match=words) as caught:
        pulling.pull(layout, "far.example/x:1", settings=Registries(timeout=2, retries=1))
    assert "geheim" not in str(caught.value)
    assert registry.paths("CONNECT") == ["far.example:443"] * attempts
    assert set(registry.told("Proxy-Authorization")) == {Credentials("me", "geheim").basic()}


def test_plain_requests_by_a_proxy(
    layout: Layout, registry: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registry that speaks no TLS, somewhere else: the proxy gets whole URLs, and its password is for it only."""
    registry.image(SECOND)
    rules = {"far.example:5000": Rule(insecure=True)}
    monkeypatch.setenv("http_proxy", f"http://{LOGIN}@{registry.host}")
    registry.tricks.append(for_path("", lambda r, handler: drop(handler), method="CONNECT"))
    monkeypatch.setenv("https_proxy", f"http://{registry.host}")

    def proxied(registry: Hostile, handler: Handler) -> bool:
        assert handler.path.startswith("http://far.example:5000/v2/")
        handler.path = handler.path.removeprefix("http://far.example:5000")
        return False

    registry.tricks.append(for_path("", proxied))
    settings = Registries(rules=rules, timeout=2, retries=0)
    pulling.pull(layout, "far.example:5000/x:1", settings=settings, platform=AMD64)
    assert set(registry.told("Proxy-Authorization")) == {Credentials("me", "geheim").basic()}
    registry.tricks.append(for_path("", lambda r, handler: reply(handler, 407)))
    with pytest.raises(RemoteError, match=r"The proxy on the way to far.example:5000 wants a name"):
        pulling.pull(layout, "far.example:5000/x:2", settings=settings, platform=AMD64)
    monkeypatch.setenv("no_proxy", "example")
    before = len(registry.seen)
    with pytest.raises(RemoteError, match="far.example can't be resolved"):
        pulling.pull(layout, "far.example:5000/x:1", settings=settings, platform=AMD64)
    assert len(registry.seen) == before
