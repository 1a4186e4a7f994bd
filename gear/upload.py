"""Writing to a repository of a registry: blobs in one piece or several, manifests.

Reading and logging in are gear/registry.py's.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from urllib.parse import urlencode, urljoin, urlsplit

from gear.document import digest_of
from gear.errors import GearError, IntegrityError, RemoteError
from gear.netfailure import Lost
from gear.oci import Descriptor
from gear.registry import Repository
from gear.transport import Body, Response


def completing(url: str, digest: str) -> str:
    """Where the last piece of an upload goes."""
    return f"{url}{'&' if urlsplit(url).query else '?'}digest={digest.replace(':', '%3A')}"


class Target(Repository):
    """A repository that is written to."""

    def has_blob(self, blob: Descriptor) -> bool:
        """Whether the registry has a blob already."""
        with self.get(f"blobs/{blob.digest}", {}, method="HEAD") as response:
            if response.status == 404:
                return False
            self.expect(response, 200)
            if response.length not in (None, blob.size):
                raise IntegrityError(
                    f"{self.what} has the blob {blob.digest} with {response.length} bytes instead of {blob.size}."
                )
            return True

    def begin_upload(self, mount: str = "", origin: str = "") -> str | None:
        """Begin to send a blob; returns where to, or None when *mount* could be taken from the repository *origin*."""
        if origin:
            with contextlib.suppress(GearError):
                self.also(f"repository:{origin}:pull")
        query = f"?{urlencode({'mount': mount, 'from': origin})}" if origin else ""
        with self.call("POST", f"blobs/uploads/{query}", {"Content-Length": "0"}) as response:
            if response.status == 201 and origin:
                return None
            self.expect(response, 202)
            return self._location(response)

    def send(
        self,
        method: str,
        url: str,
        body: bytes | Body,
        headers: Mapping[str, str],
        *,
        accept: tuple[int, ...],
    ) -> str:
        """PATCH or PUT a piece of an upload; returns where the next one goes."""
        response = self.authorized(method, url, headers, body, patience=10 * self.transport.timeout)
        with response:
            if response.status in (429, 500, 502, 503, 504):
                raise Lost(f"{self.endpoint.host} failed with status {response.status}.")
            self.expect(response, *accept)
            return self._location(response) if response.headers.get("Location") else url

    def put_blob(self, data: bytes) -> None:
        """Send a blob that is small, if the registry lacks it."""
        blob = Descriptor("", digest_of(data), len(data))

        def attempt() -> None:
            if not self.has_blob(blob) and (url := self.begin_upload()) is not None:
                headers = {"Content-Type": "application/octet-stream"}
                self.send("PUT", completing(url, blob.digest), data, headers, accept=(201,))

        self._again(attempt)

    def upload_offset(self, url: str) -> int:
        """How much of an upload the registry has."""
        with self.authorized("GET", url, {}) as response:
            self.expect(response, 204)
            match = re.fullmatch(r"(?:bytes=)?0-([0-9]{1,19})", response.headers.get("Range") or "")
            return int(match[1]) + 1 if match and match[1] != "0" else 0

    def put_manifest(self, wanted: str, data: bytes, media_type: str) -> str:
        """Store a manifest under a tag or digest; returns the digest that the registry computed, or ""."""
        with self.call("PUT", f"manifests/{wanted}", {"Content-Type": media_type}, data) as response:
            self.expect(response, 201)
            return response.headers.get("Docker-Content-Digest") or ""

    def _location(self, response: Response) -> str:
        location = response.headers.get("Location") or ""
        response.document()
        if not location:
            raise RemoteError(f"{self.what} does not say where a blob is to be sent.")
        return urljoin(response.url, location)
