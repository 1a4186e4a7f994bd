"""JSON objects written by strangers, read with a place for every complaint; and digests.

Pure, and not about what the documents mean (gear/oci.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from gear.errors import IntegrityError
from gear.patterns import pattern
from gear.records import dataclass

# The largest manifest, index or config that is looked at; registries enforce the same for manifests.
DOCUMENT_LIMIT = 4 << 20
# execve(2) takes no single string longer than MAX_ARG_STRLEN, so neither does an image config.
TEXT_LIMIT = 128 << 10
COUNT_LIMIT = 4096

_SURROGATE = pattern("[\ud800-\udfff]")
DIGEST = pattern(r"(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})", re.ASCII)


def parse_digest(text: str) -> tuple[str, str]:
    """*text* as (algorithm, hexadecimal digits); only sha256 and sha512 exist for gear."""
    if not DIGEST.fullmatch(text):
        raise IntegrityError(
            f"{text[:140]!r} is not a digest.", hint="A digest is sha256: or sha512: and the lower-case hash."
        )
    algorithm, _, digits = text.partition(":")
    return algorithm, digits


def digest_of(data: bytes) -> str:
    """The sha256 digest of *data*."""
    import hashlib  # here, since it brings OpenSSL, and few documents are named by a digest

    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(frozen=True)
class Node:
    """An object inside a hostile JSON document, and where it is, for the sentence about what is wrong."""

    value: Mapping[str, Any]
    what: str
    path: str = ""

    def fail(self, name: str, problem: str) -> NoReturn:
        """Raise the IntegrityError about the member *name*."""
        raise IntegrityError(f"{self.what}: {self.path}{name} {problem}.")

    def text(self, name: str, default: str | None = "") -> str:
        """A string; null and absent are *default*, which None makes an error."""
        value = self.value.get(name)
        if value is None:
            if default is None:
                self.fail(name, "is missing")
            return default
        return self._text(name, value)

    def _text(self, name: str, value: object) -> str:
        if not isinstance(value, str):
            self.fail(name, "is not a string")
        if len(value) > TEXT_LIMIT:
            self.fail(name, f"is longer than {TEXT_LIMIT} characters")
        if "\0" in value:
            self.fail(name, "holds a NUL byte")
        # A lone surrogate is JSON but no text: it can't be written to any file.
        if not value.isascii() and _SURROGATE.search(value):
            self.fail(name, "is not valid Unicode")
        return value

    def items(self, name: str) -> list[Any] | None:
        """A bounded array; null and absent are None."""
        value = self.value.get(name)
        if value is None:
            return None
        if not isinstance(value, list):
            self.fail(name, "is not an array")
        if len(value) > COUNT_LIMIT:
            self.fail(name, f"has more than {COUNT_LIMIT} items")
        return value

    def texts(self, name: str) -> tuple[str, ...] | None:
        """An array of strings."""
        items = self.items(name)
        if items is None:
            return None
        return tuple(self._text(f"{name}[{place}]", item) for place, item in enumerate(items))

    def node(self, name: str) -> Node | None:
        """A bounded object; null and absent are None."""
        value = self.value.get(name)
        return None if value is None else self._node(name, value)

    def _node(self, name: str, value: object) -> Node:
        if not isinstance(value, dict):
            self.fail(name, "is not an object")
        if len(value) > COUNT_LIMIT:
            self.fail(name, f"has more than {COUNT_LIMIT} members")
        return Node(value, self.what, f"{self.path}{name}.")

    def nodes(self, name: str) -> list[Node]:
        """An array of objects."""
        return [self._node(f"{name}[{place}]", item) for place, item in enumerate(self.items(name) or ())]

    def keys(self, name: str) -> tuple[str, ...]:
        """The member names of an object that is used as a set, sorted."""
        node = self.node(name)
        return () if node is None else tuple(sorted(node._text(repr(key)[:80], key) for key in node.value))

    def mapping(self, name: str) -> dict[str, str]:
        """An object whose values are strings; a null value is the empty string."""
        node = self.node(name)
        if node is None:
            return {}
        return {node._text(repr(key)[:80], key): node.text(key) for key in node.value}

    def size(self, name: str) -> int:
        """A number of bytes."""
        value = self.value.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
            self.fail(name, "is not a size in bytes")
        return value

    def digest(self, name: str) -> str:
        """A digest."""
        value = self.text(name, None)
        if not DIGEST.fullmatch(value):
            self.fail(name, "is not a sha256 or sha512 digest")
        return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose members are all different: two readers must not see two documents in one."""
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a member occurs twice")
    return document


# Made once: json.loads() would make one for each document.
_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def parse_json(data: bytes, what: str) -> Any:
    """The JSON value in *data*; *what* names it in errors, as in "the manifest sha256:..."."""
    what = what[0].upper() + what[1:]
    if len(data) > DOCUMENT_LIMIT:
        raise IntegrityError(f"{what} is larger than {DOCUMENT_LIMIT} bytes.")
    try:
        return _DECODER.decode(data.decode(json.detect_encoding(data), "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{what} is not valid JSON: {error}.") from error


def parse_document(data: bytes, what: str) -> Node:
    """The JSON object in *data*."""
    value = parse_json(data, what)
    what = what[0].upper() + what[1:]
    if not isinstance(value, dict):
        raise IntegrityError(f"{what} is not a JSON object.")
    return Node(value, what)
