"""A registry in this process that lies, breaks and hangs as it is told.

Not a good registry: host tests use Debian's.  What it was sent is kept, so that tests can see who was told what.
"""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from archives import config, digest

OCI = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"

Handler = BaseHTTPRequestHandler
# Looks at a request first; True: it has been answered.
Trick = Callable[["Hostile", Handler], bool]


class Hostile:
    """Content and tricks of one registry."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.uploads: dict[str, bytes] = {}
        # (method, path, headers) of every request.
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.tricks: list[Trick] = []
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self.server: Any = None
        self.host = ""

    def blob(self, data: bytes, media_type: str) -> dict[str, Any]:
        """Add a blob; returns its descriptor."""
        self.blobs[digest(data)] = data
        return {"mediaType": media_type, "digest": digest(data), "size": len(data)}

    def image(
        self,
        *layers: bytes,
        tag: str = "1",
        layer_type: str = LAYER,
        contents: list[bytes] | None = None,
        **more: Any,
    ) -> str:
        """Add an image of *layers*, compressed to *contents*; returns its digest.  *more* goes into the manifest."""
        document = {
            "schemaVersion": 2,
            "mediaType": OCI,
            "config": self.blob(
                json.dumps(config(*layers, Cmd=["/x"])).encode(), "application/vnd.oci.image.config.v1+json"
            ),
            "layers": [self.blob(data, layer_type) for data in contents or layers],
            **more,
        }
        return self.manifest(json.dumps(document).encode(), OCI, tag)

    def manifest(self, data: bytes, media_type: str, tag: str) -> str:
        for name in (tag, digest(data)):
            self.manifests[name] = (media_type, data)
        return digest(data)

    def paths(self, method: str = "GET") -> list[str]:
        return [path for found, path, _ in self.seen if found == method]

    def told(self, header: str) -> list[str]:
        """The values of a header in all requests."""
        return [headers[header] for _, _, headers in self.seen if header in headers]


def reply(handler: Handler, status: int, body: bytes = b"", **headers: str) -> bool:
    """Answer; underscores in names of headers are dashes."""
    handler.send_response(status)
    for name, value in {"Content_Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)
    return True


def drop(handler: Handler) -> bool:
    """End the connection here and now."""
    handler.close_connection = True
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)
    return True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Header and body go in two writes, and the second would wait for the delayed acknowledgement of the first.
    disable_nagle_algorithm = True
    registry: Hostile

    def log_message(self, *arguments: object) -> None:
        """Nothing is said."""

    def _any(self) -> None:
        registry = self.registry
        with registry.lock:
            registry.seen.append((self.command, self.path, dict(self.headers.items())))
        for trick in registry.tricks:
            if trick(registry, self):
                return
        path = self.path.partition("?")[0]
        if self.command in ("POST", "PATCH", "PUT"):
            self._write(path)
        elif match := re.fullmatch(r"/v2/(.+)/manifests/([^/]+)", path):
            kind, data = registry.manifests.get(match[2], ("", b""))
            reply(self, 200, data, Content_Type=kind, Docker_Content_Digest=digest(data)) if data else reply(
                self, 404
            )
        elif match := re.fullmatch(r"/v2/(.+)/blobs/([^/]+)", path):
            self._blob(match[2])
        elif match := re.fullmatch(r"/v2/(.+)/tags/list", path):
            reply(self, 200, json.dumps({"name": match[1], "tags": ["1", "2"]}).encode())
        else:
            reply(self, 200 if path == "/v2/" else 404)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_CONNECT = _any

    def _blob(self, name: str) -> None:
        data = self.registry.blobs.get(name)
        if data is None:
            reply(self, 404)
        elif match := re.fullmatch(r"bytes=([0-9]+)-", self.headers.get("Range") or ""):
            start = int(match[1])
            span = f"bytes {start}-{len(data) - 1}/{len(data)}"
            reply(self, 206, data[start:], Content_Range=span)
        else:
            reply(self, 200, data)

    def _write(self, path: str) -> None:
        registry = self.registry
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.command == "POST":
            name = str(len(registry.uploads))
            registry.uploads[name] = b""
            reply(self, 202, Location=f"/v2/x/blobs/uploads/{name}")
            return
        last = path.rpartition("/")[2]
        if "/manifests/" in path:
            kind = self.headers["Content-Type"]
            registry.manifest(body, kind, last)
            reply(self, 201, Docker_Content_Digest=digest(body))
            return
        registry.uploads[last] += body
        if self.command == "PATCH":
            reply(self, 202, Location=path)
            return
        data = registry.uploads.pop(last)
        promised = self.path.partition("digest=")[2].replace("%3A", ":")
        if digest(data) != promised:
            reply(
                self, 400, json.dumps({"errors": [{"code": "DIGEST_INVALID", "message": "wrong"}]}).encode()
            )
            return
        registry.blobs[promised] = data
        reply(self, 201, Location=f"/v2/x/blobs/{promised}")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *arguments: object) -> None:
        """Clients go away in the middle here."""


@contextmanager
def serving(registry: Hostile, address: str = "127.0.0.1") -> Iterator[Hostile]:
    """Serve on a free port of the loopback."""
    server = _Server((address, 0), type("Bound", (_Handler,), {"registry": registry}))
    registry.host = f"{address}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        registry.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def for_path(pattern: str, act: Trick, *, times: int = -1, method: str = "GET") -> Trick:
    """*act* for requests whose path has *pattern*, at most *times*."""
    left = [times]

    def trick(registry: Hostile, handler: Handler) -> bool:
        if handler.command != method or not re.search(pattern, handler.path):
            return False
        with registry.lock:
            if left[0] == 0:
                return False
            left[0] -= 1
        return act(registry, handler)

    return trick
