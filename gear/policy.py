"""Which images are taken: what is configured about signatures.

Not the signatures (gear/signatures.py), and no key is read here.  One file counts: gear's own, or, only where there is
none, that of containers.  Without either every image is taken.  A file that can't be read or understood is an error,
whatever it is about, and so no image is taken.

/etc/gear/policy.yaml:

    default: reject                         # what no scope is for: accept, reject, or a mapping as below; required
    load: accept                            # images from files; if it is missing, what holds for the image's name
    scopes:                                 # a registry, the beginning of a repository, a repository, an image with tag
      "*.example": accept                   # or digest, or all registries of a domain; the longest that fits counts
      registry.example/team:
        sigstore: [/etc/gear/keys/team.pub] # public keys in PEM, as `cosign generate-key-pair` writes them
        gpg: [/etc/gear/keys/team.gpg]      # keyrings of OpenPGP, armored or not
        identity: reference                 # how the signed name has to agree: reference (default) or repository
        signed-as: quay.io/team             # what the scope is called in signatures, for mirrors

One signature with one of the keys is enough.  With `reference` the signed name has to be the very name that is pulled,
tag included, or just the repository where it is pulled by digest.  cosign signs no tag, so its signatures need
`identity: repository`; then an image that was signed under one tag can be passed off under another.

/etc/containers/policy.json is containers-policy.json(5); there each of several requirements has to be met.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gear import files, yamlfile
from gear.claims import Identity, Name
from gear.document import parse_json
from gear.errors import GearError, UsageError
from gear.model import Layout
from gear.oci import Reference
from gear.records import dataclass, field
from gear.reference import registry_host
from gear.settings import Section

CONTAINERS_POLICY = Path("/etc/containers/policy.json")
# Keyrings of a whole distribution have some hundred kilobytes.
KEY_LIMIT = 4 << 20
_LIMIT = 1 << 20
_NO_RULE = "is neither accept nor reject nor a mapping with keys"


@dataclass(frozen=True)
class Key:
    """A public key or keyring: a file, or what stands in the policy itself."""

    kind: str  # gpg or sigstore
    path: str
    data: bytes = b""

    def read(self) -> bytes:
        """Raises UsageError when there is no such file, or when others may write it."""
        return self.data or read_guarded(Path(self.path), KEY_LIMIT)


@dataclass(frozen=True)
class Signed:
    """A requirement: one signature with one of *keys* that names the image as *identity* says."""

    keys: tuple[Key, ...]
    identity: Identity = field(default_factory=Identity)
    # Why it can't be met, whatever the signatures.
    unsupported: str = ""


@dataclass(frozen=True)
class Rule:
    """What holds for an image: taken, refused, or taken if all of *signed* are met."""

    where: str  # for people: which scope of which file
    signed: tuple[Signed, ...] = ()
    reject: bool = False


@dataclass(frozen=True)
class Policy:
    """What one file says.  Scopes of registries are the transport "docker"; "" in each is what else holds for it."""

    path: str
    default: Rule
    transports: Mapping[str, Mapping[str, Rule]]
    # Whether images of files are judged by their names, where nothing is said of files.
    by_name: bool = False

    def of_registry(self, name: Name) -> Rule:
        """What holds for *name*, which is pulled."""
        return self._first("docker", scopes(name))

    def of_file(self, name: Name, transport: str, path: str) -> Rule:
        """What holds for an image called *name* of the file or directory *path*, "" for standard input."""
        if self.by_name:
            return self.transports["file"][""] if "file" in self.transports else self.of_registry(name)
        places = []
        if path and transport in ("oci", "oci-archive"):
            places = [str(parent) for parent in (Path(path), *Path(path).parents)][:-1]
        return self._first(transport, places)

    def _first(self, transport: str, places: list[str]) -> Rule:
        rules = self.transports.get(transport, {})
        return next((rules[place] for place in (*places, "") if place in rules), self.default)


def scopes(name: Name) -> list[str]:
    """Every scope that *name* is in, narrowest first."""
    result = [f"{name.repository}@{name.digest}"] if name.digest else []
    if name.tag:
        result.append(f"{name.repository}:{name.tag}")
    place = name.repository
    while place:
        result.append(place)
        place = place.rpartition("/")[0]
    host = re.sub(r":[0-9]+$", "", name.repository.partition("/")[0])
    while "." in host:
        host = host.partition(".")[2]
        result.append(f"*.{host}")
    return result


def load(layout: Layout) -> Policy | None:
    """The policy of this host; None when there is none.  Raises UsageError for one that is wrong."""
    own = layout.config / "policy.yaml"
    for path, parse in ((own, _parse_yaml), (CONTAINERS_POLICY, _parse_json)):
        # A link that leads nowhere is a policy that can't be read, not one that is missing.
        if os.path.lexists(path):
            return parse(read_guarded(path, _LIMIT), str(path))
    return None


def read_guarded(path: Path, limit: int) -> bytes:
    """A file that security depends on; raises UsageError when it can't be read, or when others may write it."""
    try:
        found = os.stat(path)
        data = files.read_bytes(path, limit)
    except OSError as error:
        raise UsageError(f"{path} can't be read: {os.strerror(error.errno or 0)}.") from error
    except GearError as error:
        raise UsageError(f"{path} can't be read: {error.message}") from error
    if data is None:
        raise UsageError(f"{path} can't be read: it is gone.")
    group = found.st_mode & stat.S_IWGRP and found.st_gid not in (0, os.getegid())
    if found.st_mode & stat.S_IWOTH or group or found.st_uid not in (0, os.geteuid()):
        raise UsageError(
            f"{path} decides which images are taken, but others than root may write it.",
            hint=f"chown root:root {path}; chmod 644 {path}",
        )
    return data


# -- gear's own ------------------------------------------------------------------------------------------------


def _parse_yaml(data: bytes, what: str) -> Policy:
    document = yamlfile.parse(data, what)
    if document is None:
        raise UsageError(
            f"{what} is empty, so nobody knows which images to take.",
            hint="`default: accept` takes all; without the file nothing is checked.",
        )
    top = Section(document, what)
    if "default" not in top.value:
        raise UsageError(f"{what} has no default.", hint="Write `default: reject` or `default: accept`.")
    # Asked for here, so that finish() knows it; what it is _own_rule() says.
    default, load_value = (top.get(name, object, None, _NO_RULE) for name in ("default", "load"))
    rules: dict[str, Rule] = {}
    for text, value in top.below("scopes").items():
        scope = _scope(text, f"{what}: scopes")
        rules[scope] = _own_rule(value, f"{what}: scopes.{scope}", scope)
    transports: dict[str, Mapping[str, Rule]] = {"docker": rules}
    if "load" in top.value:
        transports["file"] = {"": _own_rule(load_value, f"{what}: load", "")}
    top.finish()
    return Policy(what, _own_rule(default, f"{what}: default", ""), transports, by_name=True)


def _own_rule(value: Any, where: str, scope: str) -> Rule:
    if value in ("accept", "reject"):
        return Rule(where, reject=value == "reject")
    if not isinstance(value, dict):
        raise UsageError(f"{where} {_NO_RULE}.")
    place = Section(value, where)
    keys = [Key("sigstore", path) for path in _paths(place, "sigstore")]
    keys += [Key("gpg", path) for path in _paths(place, "gpg")]
    if not keys:
        raise place.wrong("sigstore or gpg", "is missing: without a key no signature counts")
    identity = place.text("identity") or "reference"
    signed_as = place.text("signed-as")
    place.finish()
    if identity not in ("reference", "repository"):
        raise place.wrong("identity", "is neither reference nor repository")
    if signed_as:
        for text in (scope, signed_as):
            _scope(text, f"{where}: signed-as", plain=True)
        if identity == "repository":
            raise place.wrong("signed-as", "and identity: repository can't be had together")
        return Rule(where, (Signed(tuple(keys), Identity("remapIdentity", scope, signed_as)),))
    match = "matchRepository" if identity == "repository" else "matchRepoDigestOrExact"
    return Rule(where, (Signed(tuple(keys), Identity(match)),))


def _paths(place: Section, name: str) -> tuple[str, ...]:
    paths = place.texts(name)
    if any(not path.startswith("/") or "\0" in path for path in paths):
        raise place.wrong(name, "has something that is no absolute path")
    return paths


def _scope(text: str, where: str, *, plain: bool = False) -> str:
    """*text* as a scope; with *plain* a registry or the beginning of a repository.  Raises UsageError.

    Whatever would never fit any name is an error: it was meant to protect something.
    """
    host, slash, _ = text.partition("/")
    bare = host.removeprefix("*.")
    try:
        fits = registry_host(bare) == bare and (plain or not slash or not host.startswith("*."))
        if fits and slash:
            Reference.parse(text)
            name = Name.parse(text)
            fits = str(name) == text and not (plain and (name.tag or name.digest))
            # docker.io/nginx is a repository of nobody there, but may be the beginning of several.
            fits = fits or (not name.tag and not name.digest and str(Name.parse(f"{text}/x")) == f"{text}/x")
        if plain and host.startswith("*."):
            fits = False
    except UsageError:
        fits = False
    if not fits:
        raise UsageError(
            f"{where} has {text[:100]!r}, which fits no image.",
            hint="Write REGISTRY[/REPOSITORY[:TAG]] in full, such as docker.io/library/nginx, or *.DOMAIN.",
        )
    return text


# -- containers' -----------------------------------------------------------------------------------------------


def _parse_json(data: bytes, what: str) -> Policy:
    try:
        top = Section(parse_json(data, what), what)
    except GearError as error:
        raise UsageError(error.message) from error
    default = top.get("default", list, None, "is not an array")
    if default is None:
        raise top.wrong("default", "is missing")
    transports: dict[str, dict[str, Rule]] = {}
    for transport, value in top.below("transports").items():
        below = Section(value, f"{what}: transports.{transport}")
        rules = transports[transport] = {}
        for scope, rule in below.value.items():
            where = f'{what}: transports.{transport}["{scope}"]'
            place = _in_lower_case(scope) if transport == "docker" else scope
            if place in rules:
                raise below.wrong(f'"{scope}"', "is there twice, since names of hosts have no case")
            rules[place] = _requirements(rule, where)
    top.finish()
    return Policy(what, _requirements(default, f"{what}: default"), transports)


def _in_lower_case(scope: str) -> str:
    """A scope whose registry is written as in names that gear has parsed."""
    host, slash, rest = scope.partition("/")
    return f"{host.lower()}{slash}{rest}"


def _requirements(value: Any, where: str) -> Rule:
    if not isinstance(value, list) or not value:
        raise UsageError(f"{where} is not an array of at least one requirement.")
    signed, reject = [], False
    for number, item in enumerate(value):
        place = Section(item, f"{where}[{number}]")
        kind = place.text("type")
        if kind == "reject":
            reject = True
        elif kind == "signedBy":
            if place.text("keyType") != "GPGKeys":
                raise place.wrong("keyType", "is not GPGKeys")
            signed.append(_signed(place, "gpg", ("keyPath", "keyPaths", "keyData")))
        elif kind == "sigstoreSigned":
            signed.append(_signed(place, "sigstore", ("keyPath", "keyPaths", "keyData", "keyDatas")))
        elif kind == "signedBaseLayer":
            place.get("baseLayerIdentity", dict, {}, "is not a mapping")
            signed.append(Signed((), unsupported="base layers can't be verified"))
        elif kind != "insecureAcceptAnything":
            raise place.wrong("type", f"is {kind[:40]!r}, which is no requirement")
        place.finish()
    return Rule(where, tuple(signed), reject)


# What a key alone does not do: certificates, and logs of who signed.
_KEYLESS = (
    "fulcio",
    "pki",
    "rekorPublicKeyPath",
    "rekorPublicKeyPaths",
    "rekorPublicKeyData",
    "rekorPublicKeyDatas",
)


def _signed(place: Section, kind: str, members: tuple[str, ...]) -> Signed:
    keys: list[Key] = []
    given = [name for name in members if place.value.get(name) is not None]
    for name in members:
        many = name.endswith("s")
        texts = place.texts(name) if many else tuple(filter(None, (place.text(name),)))
        if name in given and not all((*texts, texts)):
            raise place.wrong(name, "is empty")
        for text in texts:
            keys.append(_data(text, kind, place, name) if "Data" in name else Key(kind, text))
    keyless = [
        name for name in _KEYLESS if kind == "sigstore" and place.get(name, object, None, "") is not None
    ]
    identity = place.value.get("signedIdentity")
    place.below("signedIdentity")
    match = Identity() if identity is None else _identity(Section(identity, f"{place.what}.signedIdentity"))
    if keyless:
        return Signed((), match, f"{keyless[0]} is not supported: gear knows keys, not certificates or logs")
    if len(given) != 1:
        raise place.wrong(", ".join(members), "have to be given exactly once")
    return Signed(tuple(keys), match)


def _data(text: str, kind: str, place: Section, name: str) -> Key:
    try:
        return Key(kind, f"{name} of {place.what}", base64.b64decode(text, validate=True) or b"\0")
    except (binascii.Error, ValueError) as error:
        raise place.wrong(name, "is not base64") from error


def _identity(place: Section) -> Identity:
    kind = place.text("type")
    value = signed = ""
    if kind == "exactReference":
        value = _checked(place, "dockerReference", _exact_reference)
    elif kind == "exactRepository":
        value = _checked(place, "dockerRepository", _repository)
    elif kind == "remapIdentity":
        value = _checked(place, "prefix", lambda text: _scope(text, place.what, plain=True))
        signed = _checked(place, "signedPrefix", lambda text: _scope(text, place.what, plain=True))
    elif kind not in ("matchExact", "matchRepoDigestOrExact", "matchRepository"):
        raise place.wrong("type", f"is {kind[:40]!r}, which is no kind of identity")
    place.finish()
    return Identity(kind, value, signed)


def _checked(place: Section, name: str, check: Callable[[str], object]) -> str:
    text = place.text(name)
    try:
        if check(text):
            return text
    except UsageError as error:
        raise place.wrong(name, f"has {text[:100]!r}, which fits no image") from error
    raise place.wrong(name, f"has {text[:100]!r}, which is of another form")


def _exact_reference(text: str) -> bool:
    name = Name.parse(text)
    return name.tag is not None or name.digest is not None


def _repository(text: str) -> bool:
    name = Name.parse(text)
    return name.tag is None and name.digest is None
