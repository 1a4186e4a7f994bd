"""Where an image is on the network: which registry, which repository there, which tag or digest.

Pure.  The grammar is oci.Reference's; here short names get the registry that people mean by them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from gear.errors import UsageError
from gear.oci import Reference
from gear.patterns import pattern
from gear.records import dataclass

HUB = "docker.io"
# How the same registry is called by old tools.
HUB_NAMES = ("index.docker.io", "registry-1.docker.io", "registry.hub.docker.com")
# Where its API is; its name in references answers with a web page.
HUB_API = "registry-1.docker.io"

_HOST = pattern(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?", re.ASCII)


@dataclass(frozen=True)
class Remote:
    """An image of a registry; str() is the full reference."""

    registry: str
    repository: str
    tag: str | None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Remote:
        """*text* as Docker understands it: without a registry it is docker.io, there `library/` without a slash.

        Raises UsageError for what can't be a reference.
        """
        reference = Reference.parse(text)
        registry, rest = split_registry(reference.name)
        if registry is None:
            registry, rest = HUB, reference.name
        return cls(*_place(registry, rest, text), reference.tag, reference.digest)

    @property
    def name(self) -> str:
        """Registry and repository."""
        return f"{self.registry}/{self.repository}"

    @property
    def wanted(self) -> str:
        """What to ask the registry for: the digest if there is one, else the tag."""
        return self.digest or self.tag or "latest"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.name}{tag}" + (f"@{self.digest}" if self.digest else "")


def _place(registry: str, repository: str, text: str) -> tuple[str, str]:
    registry = registry.lower()
    if registry in HUB_NAMES:
        registry = HUB
    if not repository or not _is_host(registry):
        raise UsageError(
            f"{text!r} names no repository of a registry.", hint="Write REGISTRY/REPOSITORY[:TAG]."
        )
    if registry == HUB and "/" not in repository:
        repository = f"library/{repository}"
    return registry, repository


def _is_host(text: str) -> bool:
    port = text.rpartition(":")[2] if not text.endswith("]") and ":" in text else "1"
    return bool(_HOST.fullmatch(text)) and port.isdigit() and 1 <= int(port) <= 65535


def split_registry(name: str) -> tuple[str | None, str]:
    """The registry in *name* and the rest of it; None when it names none.

    As for Docker a first component is a host when it could be no part of a repository's name, or is localhost.
    """
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost" or first != first.lower()):
        return first, rest
    return None, name


def registry_host(text: str) -> str:
    """*text* as the name of a registry, as `gear image login` takes it; raises UsageError."""
    host = text.removeprefix("https://").removeprefix("http://").rstrip("/").lower()
    host = host.removesuffix("/v1").removesuffix("/v2")
    if not _is_host(host):
        raise UsageError(f"{text[:100]!r} can't be a registry.", hint="Write HOST or HOST:PORT.")
    return HUB if host in HUB_NAMES else host


def meant(
    text: str, search: Sequence[str] = (HUB,), aliases: Mapping[str, str] | None = None
) -> list[Remote]:
    """What *text* may mean, best first: itself when it names a registry, an alias, or the name in each of *search*."""
    reference = Reference.parse(text)
    registry, _ = split_registry(reference.name)
    if registry is not None:
        return [Remote.parse(text)]
    if aliases and reference.name in aliases:
        target = Remote.parse(aliases[reference.name])
        return [Remote(target.registry, target.repository, reference.tag, reference.digest)]
    return [
        Remote(*_place(host, reference.name, text), reference.tag, reference.digest)
        for host in (search or (HUB,))
    ]


def full_names(reference: Reference) -> list[str]:
    """The full references that a short one may have in the store; none when it names a registry."""
    if split_registry(reference.name)[0] is not None:
        return [str(Remote.parse(str(reference)))]
    return [str(Remote.parse(str(reference))), f"localhost/{reference}"]
