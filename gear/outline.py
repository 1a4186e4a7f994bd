"""The part of a container's specification that lists read; all of it is in gear/spec.py.

A list of a thousand containers takes half the time so, and one of few does without most of what a specification
imports.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from gear import members
from gear.errors import IntegrityError, UsageError
from gear.network import Network
from gear.patterns import pattern
from gear.records import dataclass, field

VERSION = 1

# What stands before a directory of the host where an image is named; no reference can begin so.
HOST_ROOT = "host:"
_SLICE = pattern(r"[A-Za-z0-9_][A-Za-z0-9_.]*(-[A-Za-z0-9_.]+)*", re.ASCII)


@dataclass(frozen=True)
class ImageRef:
    """The image a container was installed from: what was typed, and the manifest it stood for."""

    reference: str
    digest: str  # empty for a directory of the host

    @property
    def directory(self) -> str | None:
        """The directory of the host that takes the place of an image."""
        return self.reference.removeprefix(HOST_ROOT) if self.reference.startswith(HOST_ROOT + "/") else None


@dataclass(frozen=True)
class Outline:
    """The part of a specification that lists show; to read and check no more takes them a third of the time."""

    image: ImageRef
    slice: str = "container.slice"
    network: Network = field(default_factory=Network)

    @classmethod
    def from_mapping(cls, document: Any, where: str) -> Outline:
        """That part of *document*; raises IntegrityError naming *where* and every fault in it."""
        plain = current(document, where)
        values, faults = members.read(
            {name: plain[name] for name in READERS if name in plain}, READERS, "", ("image",)
        )
        if faults:
            raise IntegrityError(f"{where} is damaged: {'; '.join(faults)}.")
        return cls(**values)


def connection(network: Network) -> dict[str, Any]:
    """How a container is connected, in words: members of `gear status` and `gear list-units`."""
    addresses = [address for item in network.interfaces for address in item.addresses()]
    return {
        "net": network.words,
        "address": addresses[0] if addresses else None,
        "addresses": addresses,
        "ports": [str(port) for port in network.ports],
        "on_demand": network.on_demand,
        "idle_stop": network.idle_stop,
        "limits": network.limits.to_mapping(),
    }


def current(document: Any, where: str) -> dict[str, Any]:
    """The members of *document* with the names that they have now; raises IntegrityError for another version."""
    if not isinstance(document, dict):
        raise IntegrityError(f"{where} is not a container specification: it is no JSON object.")
    found = document.get("version")
    if found != VERSION or isinstance(found, bool):
        raise IntegrityError(f"{where} is a container specification of version {found!r}, not {VERSION}.")
    plain = {name: value for name, value in document.items() if name != "version"}
    if "net" in plain and "network" not in plain:  # as version 0.1.0 wrote it
        plain["network"] = {"mode": plain.pop("net")}
    return plain


def slice_name(text: str) -> str:
    """The full name of a slice unit, `.slice` added where it is missing; raises UsageError."""
    stem = text.removesuffix(".slice")
    if not _SLICE.fullmatch(stem) or len(stem) > 200:
        raise UsageError(
            f"{text[:80]!r} can't name a slice.", hint="For example container-small or web.slice."
        )
    return stem + ".slice"


def _image(value: Any) -> ImageRef:
    return ImageRef(members.text(members.mapping(value)["reference"]), members.text(value["digest"]))


READERS: dict[str, Callable[[Any], Any]] = {
    "image": _image,
    "slice": lambda value: slice_name(members.text(value)),
    "network": Network.read,
}
