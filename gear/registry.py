"""One repository of a registry: OCI distribution 1.1 and Docker's API of version 2.

Not HTTP itself (gear/transport.py) and not the image store.  Nothing that is received is trusted before its digest or
type is checked here or by whoever asked for a stream.  Only the registry's own host is ever told a password or token,
or a token server that gear/registry_auth.py accepts; a challenge by anybody else is an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Self, TypeVar
from urllib.parse import quote, urlencode, urljoin

from gear import registry_auth
from gear.addresses import split_url
from gear.document import DIGEST, DOCUMENT_LIMIT, parse_digest, parse_document, parse_json
from gear.errors import GearError, IntegrityError, NotFoundError, RemoteError
from gear.netfailure import Lost, proxy_wants_login
from gear.oci import INDEXES, MANIFESTS, Descriptor
from gear.patterns import pattern
from gear.records import dataclass
from gear.registries import Endpoint, Registries
from gear.registry_auth import Credentials
from gear.transport import Body, Response, Transport

ACCEPTED = (*MANIFESTS, *INDEXES)
# What registries send when they know nothing about a document; then it has to say itself what it is.
_GENERIC = (
    "",
    "application/json",
    "application/octet-stream",
    "text/plain",
    "application/vnd.oci.image.manifest.v1",
)
_OLD = "application/vnd.docker.distribution.manifest.v1+"
LINK = pattern(r'<([^>]{1,2000})>\s*;\s*rel="?next"?', re.ASCII)
_TOKEN = pattern(r"[A-Za-z0-9._~+/=-]{1,65536}", re.ASCII)
PAGES = 1000
CLIENT_ID = "gear"
T = TypeVar("T")


class Denied(RemoteError):
    """The registry wants a login, a better one, or hides that there is nothing."""


@dataclass(frozen=True)
class Document:
    """A manifest or index as it came, verified as far as that can be done without knowing more."""

    data: bytes
    media_type: str
    digest: str

    def descriptor(self) -> Descriptor:
        return Descriptor(self.media_type, self.digest, len(self.data))


class Repository:
    """A repository of a registry, for any number of threads."""

    def __init__(
        self,
        transport: Transport,
        credentials: Callable[[], Credentials | None],
        *,
        actions: str = "pull",
    ) -> None:
        self.transport, self._credentials = transport, credentials
        self.endpoint = transport.endpoint
        self.name = self.endpoint.repository
        self.what = f"{self.endpoint.registry}/{self.name}" if self.name else self.endpoint.registry
        self._scopes = [f"repository:{self.name}:{actions}"] if self.name else []
        self._lock = threading.Lock()
        self._authorization: str | None = None

    @classmethod
    def opened(cls, endpoint: Endpoint, settings: Registries, *, actions: str = "pull") -> Self:
        """The repository at *endpoint*, with the credentials that are on this host for it."""
        found: list[Credentials | None] = []

        def credentials() -> Credentials | None:
            if not found:
                found.append(registry_auth.find(endpoint.registry, endpoint.repository, os.environ))
            return found[0]

        return cls(Transport(endpoint, settings), credentials, actions=actions)

    # -- reading ---------------------------------------------------------------------------------------------

    def manifest(self, wanted: str, promised: Descriptor | None = None) -> Document:
        """The manifest or index that a tag or digest stands for."""
        what = f"The manifest {wanted} of {self.what}"

        def attempt() -> Document:
            with self.get(f"manifests/{wanted}", {"Accept": ", ".join(ACCEPTED)}) as response:
                if response.status == 404:
                    raise NotFoundError(f"{self.what} has no image {wanted}.")
                self.expect(response, 200)
                return self._document(response, what, wanted if DIGEST.fullmatch(wanted) else None)

        document = self._again(attempt)
        if promised is not None:
            promised.check(document.data, what)
        return document

    def _document(self, response: Response, what: str, wanted: str | None) -> Document:
        kind = (response.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
        data = response.document()
        stated = response.headers.get("Docker-Content-Digest") or ""
        for digest in (wanted, stated):
            if digest and DIGEST.fullmatch(digest):
                algorithm, digits = parse_digest(digest)
                if (found := hashlib.new(algorithm, data).hexdigest()) != digits:
                    raise IntegrityError(
                        f"{what} is damaged: its content has the digest {algorithm}:{found}."
                    )
        if kind.startswith(_OLD):
            raise IntegrityError(
                f"{self.what} has this image in Docker's manifest schema 1 only, which is not supported.",
                hint="Push it again with any Docker of the last years, which writes schema 2.",
            )
        if kind in _GENERIC:
            kind = parse_document(data, what).text("mediaType")
        if kind not in ACCEPTED:
            raise IntegrityError(
                f"{what} is of the type {kind[:100]!r}, which is neither an image nor an index of images."
            )
        return Document(data, kind, wanted or f"sha256:{hashlib.sha256(data).hexdigest()}")

    def head(self, wanted: str) -> str:
        """The digest that a tag stands for; "" when the registry does not say, NotFoundError when there is none."""
        headers = {"Accept": ", ".join(ACCEPTED)}
        with self.get(f"manifests/{wanted}", headers, method="HEAD") as response:
            if response.status == 404:
                raise NotFoundError(f"{self.what} has no image {wanted}.")
            self.expect(response, 200)
            digest = response.headers.get("Docker-Content-Digest") or ""
        return digest if DIGEST.fullmatch(digest) else ""

    def blob(self, digest: str, offset: int = 0) -> Response:
        """The content of a blob from *offset* on, if the registry can do that; the caller looks and closes."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        response = self.get(f"blobs/{digest}", headers)
        if response.status == 404:
            response.close()
            raise IntegrityError(f"{self.what} lacks the blob {digest} of its own image.")
        if response.status not in (200, 206, 416):
            with response:
                self.expect(response, 200)
        return response

    def small_blob(self, blob: Descriptor) -> bytes:
        """A blob that is a document, verified."""
        if blob.size > DOCUMENT_LIMIT:
            raise IntegrityError(
                f"The blob {blob.digest} is larger than the {DOCUMENT_LIMIT} bytes of a document."
            )

        def attempt() -> bytes:
            with self.blob(blob.digest) as response:
                return response.document()

        data = self._again(attempt)
        blob.check(data, f"The blob {blob.digest}")
        return data

    def tags(self, limit: int) -> Iterator[str]:
        """The tags of the repository, at most *limit*."""
        path = f"tags/list?n={min(limit, 1000)}"
        count = 0
        for _ in range(PAGES):
            with self.get(path, {}) as response:
                if response.status == 404:
                    raise NotFoundError(f"There is no repository {self.what}.")
                self.expect(response, 200)
                what = f"The list of tags of {self.what}"
                names = parse_json(response.document(), what)
                following = LINK.search(response.headers.get("Link") or "")
            tags = names.get("tags") if isinstance(names, dict) else None
            if tags is not None and not (
                isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)
            ):
                raise IntegrityError(f"{what} holds something that is no tag.")
            for tag in tags or ():
                if count == limit:
                    return
                count += 1
                yield tag
            if following is None or not tags:
                return
            path = urljoin(self.url(path), following[1])
            if split_url(path)[0] != self.transport.home():
                raise RemoteError(f"{what} goes on at another host, {ascii(path[:200])}.")

    def ping(self) -> None:
        """Ask whether the registry is one and takes the credentials."""
        with self.transport.persist(
            lambda: self.authorized("GET", f"{self.transport.base()}/v2/", {})
        ) as response:
            self.expect(response, 200)

    # -- asking ----------------------------------------------------------------------------------------------

    def url(self, path: str) -> str:
        """The URL of *path* below this repository, or *path* if it is one."""
        if path.startswith(("http://", "https://")):
            return path
        return f"{self.transport.base()}/v2/{quote(self.name)}/{path}"

    def get(self, path: str, headers: Mapping[str, str], *, method: str = "GET") -> Response:
        return self.call(method, path, headers)

    def call(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None) -> Response:
        return self.transport.persist(lambda: self.authorized(method, self.url(path), headers, body))

    def _again(self, attempt: Callable[[], T]) -> T:
        """Repeat what reads a document when the connection breaks in the middle of it."""
        for number in range(self.transport.retries + 1):
            try:
                return attempt()
            except Lost:
                if number == self.transport.retries:
                    raise
                self.transport.pause(number, None)
        raise AssertionError("unreachable")

    def authorized(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | Body | None = None,
        patience: float | None = None,
    ) -> Response:
        """Send a request with what the registry wants to see; a challenge is answered once."""
        at_home = split_url(url)[0] == self.transport.home()
        used = self._authorization if at_home else None
        words = {**headers, **({"Authorization": used} if used else {})}
        response = self.transport.follow(method, url, words, body, patience)
        if response.status != 401 or not at_home:
            return response
        with response:
            if not response.at_home:
                raise RemoteError(
                    f"{response.url.partition('?')[0]} asks for credentials, which only {self.what} gets."
                )
            asked = registry_auth.challenges(", ".join(response.headers.get_all("WWW-Authenticate") or ()))
            response.document()
        with self._lock:
            if self._authorization == used:
                self._authorization = self._answer(asked)
        if isinstance(body, Body):
            body.rewind()
        return self.transport.follow(
            method, url, {**headers, "Authorization": self._authorization or ""}, body, patience
        )

    def also(self, scope: str) -> None:
        """Ask for one more right; the next challenge asks for both."""
        with self._lock:
            if scope not in self._scopes:
                self._scopes.append(scope)
                self._authorization = None

    def _answer(self, asked: list[registry_auth.Challenge]) -> str:
        """The Authorization header for a challenge."""
        for challenge in asked:
            if challenge.scheme == "bearer":
                return f"Bearer {self._token(challenge)}"
            if challenge.scheme == "basic":
                credentials = self._credentials()
                if credentials is None or credentials.identity:
                    raise self._refused("wants a name and a password")
                return credentials.basic()
        raise RemoteError(
            f"{self.endpoint.host} refuses, and asks for credentials of no kind that gear knows."
        )

    def _token(self, challenge: registry_auth.Challenge) -> str:
        """A token from the token server that the registry names."""
        realm = challenge.parameters.get("realm", "")
        credentials = self._credentials()
        home = self.transport.home()
        rule = self.endpoint.rule
        registry_auth.check_realm(realm, str(home), secure=home.secure, trusted=rule.token_servers)
        fields = [("service", challenge.parameters["service"])] if "service" in challenge.parameters else []
        scopes = self._scopes or ([challenge.parameters["scope"]] if "scope" in challenge.parameters else [])
        if credentials is not None and credentials.identity:
            fields += [("grant_type", "refresh_token"), ("client_id", CLIENT_ID), ("scope", " ".join(scopes))]
            fields.append(("refresh_token", credentials.identity))
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            body: bytes | None = urlencode(fields).encode()
            method, url = "POST", realm
        else:
            fields += [("scope", scope) for scope in scopes]
            if credentials is not None:
                fields.append(("account", credentials.username))
            headers = {} if credentials is None else {"Authorization": credentials.basic()}
            method, body, url = "GET", None, f"{realm}{'&' if '?' in realm else '?'}{urlencode(fields)}"
        # once(): a token server that redirects is given nothing more.
        with self.transport.persist(lambda: self.transport.once(method, url, headers, body)) as response:
            if response.status in (400, 401, 403):
                raise self._refused(
                    "refuses the name or the password" if credentials else "gives nothing without a login"
                )
            self.expect(response, 200)
            answer = parse_document(
                response.document(), f"The answer of the token server of {self.endpoint.host}"
            )
        token = answer.text("token") or answer.text("access_token")
        if not _TOKEN.fullmatch(token):
            raise RemoteError(f"The token server of {self.endpoint.host} sent no token.")
        return token

    def _refused(self, why: str) -> Denied:
        return Denied(f"{self.endpoint.registry} {why}.", hint=f"gear image login {self.endpoint.registry}")

    def expect(self, response: Response, *statuses: int) -> None:
        """Raise the error for an answer of another status."""
        if response.status in statuses:
            return
        words = ""
        with contextlib.suppress(GearError):
            first = parse_document(response.document(1 << 20), "answer").nodes("errors")[:1]
            words = "".join(f": {node.text('message') or node.text('code')}"[:200] for node in first).rstrip(
                "."
            )
        if response.status == 401:
            raise self._refused(f"refuses access to {self.name or 'itself'}{words}")
        if response.status == 403:
            raise self._refused(f"does not allow this for {self.name or 'itself'}{words}")
        if response.status == 404:
            raise NotFoundError(f"{self.what} does not have what was asked for{words}.")
        if response.status == 407:
            raise proxy_wants_login(self.endpoint.host)
        raise RemoteError(f"{self.endpoint.host} answers with status {response.status}{words}.")
