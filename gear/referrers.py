"""What refers to an image in its registry: signatures, lists of contents, attestations.

Only what is there is told; nothing of it is fetched or believed.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode, urljoin

from gear import registries
from gear.addresses import split_url
from gear.document import DIGEST, Node, parse_document
from gear.errors import IntegrityError, NotFoundError, RemoteError
from gear.model import Layout
from gear.oci import OCI_INDEX, Descriptor, media_type
from gear.records import dataclass
from gear.reference import meant
from gear.registries import Registries
from gear.registry import LINK, PAGES, Repository

# More than any image has; a registry that lists more is not listened to for ever.
LIMIT = 10_000


@dataclass(frozen=True)
class Referrer:
    """A manifest that names another one as its subject."""

    manifest: Descriptor
    artifact_type: str

    def document(self) -> dict[str, Any]:
        return {
            **self.manifest.document(),
            "artifactType": self.artifact_type,
            "annotations": dict(self.manifest.annotations),
        }


def referrers(
    layout: Layout, text: str, *, kind: str = "", settings: Registries | None = None
) -> tuple[str, list[Referrer]]:
    """The full reference of *text* with its digest, and what refers to it, of the type *kind* if that is given."""
    settings = settings or registries.load(layout)
    remote = meant(text, settings.search, settings.aliases)[0]
    repository = Repository.opened(settings.target(remote), settings)
    try:
        digest = remote.digest or repository.head(remote.wanted) or repository.manifest(remote.wanted).digest
        found = _asked(repository, digest, kind)
        if found is None:
            found = _tagged(repository, digest)
        # The registry may leave choosing to its clients.
        return f"{remote.name}@{digest}", [one for one in found if kind in ("", one.artifact_type)]
    finally:
        repository.transport.close()


def _asked(repository: Repository, digest: str, kind: str) -> list[Referrer] | None:
    """What the referrers API says (OCI distribution 1.1); None where there is none."""
    what = f"The list of what refers to {digest} in {repository.what}"
    path = f"referrers/{digest}" + (f"?{urlencode({'artifactType': kind})}" if kind else "")
    found: list[Referrer] = []
    for _ in range(PAGES):
        with repository.get(path, {"Accept": OCI_INDEX}) as response:
            # Registries without the API answer 404, some of them 405 or 400.
            if response.status in (400, 404, 405) and not found:
                return None
            repository.expect(response, 200)
            found += _entries(parse_document(response.document(), what))
            following = LINK.search(response.headers.get("Link") or "")
        if len(found) > LIMIT:
            raise IntegrityError(f"{what} has more than {LIMIT} entries.")
        if following is None:
            return found
        path = urljoin(repository.url(path), following[1])
        if split_url(path)[0] != repository.transport.home():
            raise RemoteError(f"{what} goes on at another host, {ascii(path[:200])}.")
    raise IntegrityError(f"{what} has more than {PAGES} pages.")


def _tagged(repository: Repository, digest: str) -> list[Referrer]:
    """The same where the registry has no such API: an index under a tag made of the digest."""
    tag = digest.replace(":", "-")
    try:
        document = repository.manifest(tag)
    except NotFoundError:
        return []
    return _entries(parse_document(document.data, f"The index {tag} of {repository.what}"))


def _entries(node: Node) -> list[Referrer]:
    if media_type(node, "") != OCI_INDEX:
        raise IntegrityError(f"{node.what} is not an index.")
    found = []
    for entry in node.nodes("manifests"):
        if not DIGEST.fullmatch(entry.text("digest")):
            continue  # of an algorithm that nobody can check here
        found.append(Referrer(Descriptor.from_node(entry), entry.text("artifactType")))
    return found
