"""Where signatures of gpg are kept beside a registry, and fetching them from there.

Not what they say.  containers-registries.d(5) is read: for each registry, or beginning of a repository, the address of
a store, http(s):// or file://, where the signatures of REPOSITORY with the digest sha256:HEX are the files
REPOSITORY@sha256=HEX/signature-1 and so on, and whether signatures of sigstore are looked for in the registry.
Whatever an address of http:// sends is good enough, as a signature that is not genuine counts for nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from urllib.parse import quote, unquote, urljoin, urlsplit

from gear import files, yamlfile
from gear.claims import Name
from gear.errors import GearError, RemoteError
from gear.openpgp import SIGNATURE_LIMIT
from gear.policy import scopes
from gear.records import dataclass
from gear.registries import Endpoint, Registries
from gear.settings import Section
from gear.transport import REDIRECTS, Transport

REGISTRIES_D = Path("/etc/containers/registries.d")
# Where containers look when nothing is configured.
DEFAULT = "file:///var/lib/containers/sigstore"
COUNT_LIMIT = 32
# All signatures of an image together have to come within this many times the limit for one answer.
PATIENCE = 4


@dataclass(frozen=True)
class Place:
    """What is configured for a registry or a part of it; None where nothing is said."""

    url: str | None = None
    attachments: bool | None = None


def load() -> tuple[Place, Mapping[str, Place]]:
    """What holds by default, and for each scope; raises UsageError for a file that is wrong."""
    default: Place | None = None
    places: dict[str, Place] = {}
    try:
        names = sorted(name for name in os.listdir(REGISTRIES_D) if name.endswith(".yaml"))
    except (FileNotFoundError, NotADirectoryError):
        names = []
    for name in names:
        path = REGISTRIES_D / name
        document = yamlfile.parse(files.read_bytes(path, yamlfile.LIMIT) or b"", str(path))
        top = Section({} if document is None else document, str(path))
        if top.value.get("default-docker") is not None:
            if default is not None:
                raise top.wrong("default-docker", "is given in another file as well")
            default = _place(Section(top.below("default-docker"), f"{path}: default-docker"))
        for scope, value in top.below("docker").items():
            if scope in places:
                raise top.wrong(f"docker.{scope}", "is given in another file as well")
            places[scope] = _place(Section(value, f"{path}: docker.{scope}"))
    return default or Place(), places


def _place(section: Section) -> Place:
    """One section; members that are other programs' matter, such as those for writing, are left alone."""
    # The second is what older versions call the first.
    url = section.text("lookaside") or section.text("sigstore") or None
    if url is not None and urlsplit(url).scheme not in ("file", "http", "https"):
        raise section.wrong("lookaside", f"is {url[:100]!r}, not an address of file, http or https")
    known = section.value.get("use-sigstore-attachments") is not None
    return Place(url, section.flag("use-sigstore-attachments") if known else None)


def place_of(name: Name) -> Place:
    """What is configured for *name*: of each setting the narrowest."""
    default, places = load()
    found = [places[scope] for scope in scopes(name) if scope in places] + [default]
    urls = [place.url for place in found if place.url is not None]
    flags = [place.attachments for place in found if place.attachments is not None]
    return Place(urls[0] if urls else DEFAULT, flags[0] if flags else None)


def signatures(url: str, name: Name, digest: str, settings: Registries | None) -> Iterator[bytes]:
    """The signatures that the store at *url* has of *digest*; none over the network without *settings*.

    They are fetched as they are asked for: signature-1 and so on up to the first that is not there.
    """
    repository = name.repository.partition("/")[2]
    algorithm, _, digits = digest.partition(":")
    base = f"{url.rstrip('/')}/{quote(repository)}@{algorithm}={digits}/signature-"
    numbers = range(1, COUNT_LIMIT + 1)
    if urlsplit(url).scheme == "file":
        yield from takewhile(bool, (_read(f"{base}{number}") or b"" for number in numbers))
        return
    if settings is None:
        return
    host = urlsplit(url).netloc.rpartition("@")[2]
    transport = Transport(Endpoint(host, "", settings.rule(host)[1]), settings)
    deadline = time.monotonic() + PATIENCE * settings.timeout
    try:
        for number in numbers:
            data = _fetch(transport, f"{base}{number}")
            if data is None:
                return
            yield data
            if time.monotonic() > deadline:
                raise RemoteError(f"{host} takes too long to send the signatures of {digest}.")
    finally:
        transport.close()


def _read(url: str) -> bytes | None:
    return files.read_bytes(Path(unquote(urlsplit(url).path)), SIGNATURE_LIMIT)


def _fetch(transport: Transport, url: str) -> bytes | None:
    """What is at *url*; None when nothing is.  A redirect may not give up TLS."""
    for _ in range(REDIRECTS + 1):
        try:
            target = url
            response = transport.persist(lambda target=target: transport.once("GET", target, {}))  # type: ignore[misc]
        except (GearError, ValueError) as error:
            raise RemoteError(f"The signatures at {url[:200]} can't be fetched: {error}") from error
        with response:
            if response.status in (301, 302, 303, 307, 308):
                url = urljoin(url, response.headers.get("Location") or "")
                if urlsplit(url).scheme not in ("https", urlsplit(target).scheme):
                    raise RemoteError(f"{target[:200]} redirects to what is not protected by TLS.")
                continue
            if response.status in (404, 410):
                return None
            if response.status != 200:
                raise RemoteError(f"{target[:200]} answers with status {response.status}.")
            return response.document(SIGNATURE_LIMIT)
    raise RemoteError(f"{url[:200]} redirects too often.")
