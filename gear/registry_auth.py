"""Who gear is to a registry: passwords that people left on this host, and what a registry's challenge asks for.

Not the dance with a token server (gear/registry.py).  The files and helpers are those of Docker (config.json) and
of containers (containers-auth.json(5)), so whoever has logged in with one of them need not log in again.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import os
import pwd
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gear import files, process
from gear.errors import GearError, RemoteError, UsageError
from gear.patterns import pattern
from gear.records import dataclass, field
from gear.reference import HUB, registry_host

HUB_KEY = "https://index.docker.io/v1/"
HELPER_TIMEOUT_S = 30.0
_HELPER = pattern(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_LIMIT = 1 << 20
# With this for a name a helper's secret is an identity token.
_TOKEN_USER = "<token>"
# RFC 9110: a scheme, or a parameter of the scheme before it.
_PARAMETER = pattern(r'\s*,?\s*([A-Za-z0-9!#$%&\'*+.^_`|~-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))')
_SCHEME = pattern(r"\s*,?\s*([A-Za-z][A-Za-z0-9-]*)(?=\s|,|$)(?!\s*=)")


@dataclass(frozen=True)
class Credentials:
    """A name with a password, or an identity token to get tokens with."""

    username: str
    password: str = field(default="", repr=False)
    identity: str = field(default="", repr=False)

    def basic(self) -> str:
        """The header of RFC 7617."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


def auth_files(environ: Mapping[str, str]) -> list[Path]:
    """Where credentials may be, in the order of looking."""
    home = environ.get("HOME") or _home()
    runtime = environ.get("XDG_RUNTIME_DIR") or f"/run/containers/{os.geteuid()}"
    runtime_file = (
        Path(runtime, "containers/auth.json")
        if environ.get("XDG_RUNTIME_DIR")
        else Path(runtime, "auth.json")
    )
    own = environ.get("REGISTRY_AUTH_FILE")
    return [
        *([Path(own)] if own else []),
        runtime_file,
        Path(environ.get("XDG_CONFIG_HOME") or f"{home}/.config", "containers/auth.json"),
        _docker_file(environ, home),
    ]


def _home() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return "/root"


def _docker_file(environ: Mapping[str, str], home: str) -> Path:
    return Path(environ.get("DOCKER_CONFIG") or f"{home}/.docker", "config.json")


def _writable(environ: Mapping[str, str]) -> Path:
    """Where logging in writes to."""
    own = environ.get("REGISTRY_AUTH_FILE")
    return Path(own) if own else _docker_file(environ, environ.get("HOME") or _home())


def _read(path: Path) -> dict[str, Any]:
    try:
        data = files.read_bytes(path, _LIMIT)
    except GearError:
        if os.geteuid() != 0:  # another user's
            return {}
        raise
    if data is None or not data.strip():
        return {}
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(document, dict):
        raise UsageError(f"{path} is not a JSON object.")
    return document


def _member(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = document.get(name)
    return value if isinstance(value, dict) else {}


def _normal(key: str) -> str:
    """What a key of `auths` means: HOST[:PORT][/REPOSITORY]."""
    text = key.removeprefix("https://").removeprefix("http://").rstrip("/")
    text = text.removesuffix("/v1").removesuffix("/v2")
    host, slash, rest = text.partition("/")
    try:
        return registry_host(host) + slash + rest
    except UsageError:
        return ""


def find(registry: str, repository: str, environ: Mapping[str, str]) -> Credentials | None:
    """The credentials for a repository of *registry*; None when nobody left any."""
    name = f"{registry}/{repository}" if repository else registry
    for path in auth_files(environ):
        document = _read(path)
        helpers = {_normal(key): value for key, value in _member(document, "credHelpers").items()}
        helper = helpers.get(registry) or document.get("credsStore")
        if isinstance(helper, str) and helper and (found := _ask(helper, registry)) is not None:
            return found
        entries = {_normal(key): value for key, value in _member(document, "auths").items()}
        for prefix in _prefixes(name):
            if isinstance(entries.get(prefix), dict) and (found := _entry(entries[prefix], path)) is not None:
                return found
    return None


def _prefixes(name: str) -> Iterator[str]:
    while name:
        yield name
        name = name.rpartition("/")[0]


def _entry(entry: Mapping[str, Any], path: Path) -> Credentials | None:
    """One member of `auths`; empty ones stand for what a helper has."""
    username, password = entry.get("username"), entry.get("password")
    identity = entry.get("identitytoken")
    if isinstance(encoded := entry.get("auth"), str) and encoded:
        try:
            text = base64.b64decode(encoded, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise UsageError(f"{path} has an entry whose `auth` is not base64 of USER:PASSWORD.") from None
        username, _, password = text.partition(":")
        password = password.rstrip("\0")
    if isinstance(identity, str) and identity:
        return Credentials(username if isinstance(username, str) else "", identity=identity)
    if isinstance(username, str) and username and isinstance(password, str):
        return Credentials(username, password)
    return None


def _helper(name: str) -> str:
    if not _HELPER.fullmatch(name):
        raise UsageError(f"{name[:80]!r} can't be a credential helper.", hint="See ~/.docker/config.json.")
    return f"docker-credential-{name}"


def _helper_key(registry: str) -> str:
    return HUB_KEY if registry == HUB else registry


def _ask(helper: str, registry: str) -> Credentials | None:
    """What a credential helper has; None when it has nothing."""
    program = _helper(helper)
    status, answer = process.exchange([program, "get"], _helper_key(registry).encode(), HELPER_TIMEOUT_S)
    if status != 0:
        words = answer.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        if "not found" in words[0].lower():
            return None
        raise GearError(f"{program} has no credentials for {registry}: {words[0][:200]}.")
    try:
        document = json.loads(answer)
        username, secret = document["Username"], document["Secret"]
    except (ValueError, KeyError, TypeError):
        raise GearError(f"{program} answered something that is no JSON with Username and Secret.") from None
    if not isinstance(username, str) or not isinstance(secret, str):
        raise GearError(f"{program} answered something that is no JSON with Username and Secret.")
    return Credentials("", identity=secret) if username == _TOKEN_USER else Credentials(username, secret)


def save(registry: str, credentials: Credentials, environ: Mapping[str, str]) -> str:
    """Keep credentials for later; returns where: a file, or a helper when the file names one."""
    path = Path(os.path.realpath(_writable(environ)))
    document = _read(path)
    helper = _member(document, "credHelpers").get(registry) or document.get("credsStore")
    entry: dict[str, str] = {}
    if isinstance(helper, str) and helper:
        data = {
            "ServerURL": _helper_key(registry),
            "Username": credentials.username,
            "Secret": credentials.password,
        }
        status, _ = process.exchange([_helper(helper), "store"], json.dumps(data).encode(), HELPER_TIMEOUT_S)
        if status != 0:
            raise GearError(f"{_helper(helper)} did not take the credentials for {registry}.")
    else:
        entry["auth"] = credentials.basic().removeprefix("Basic ")
    entries = {key: value for key, value in _member(document, "auths").items() if _normal(key) != registry}
    _write(path, {**document, "auths": {**entries, _helper_key(registry): entry}})
    return f"the helper {helper}" if helper else str(path)


def forget(registry: str, environ: Mapping[str, str]) -> list[str]:
    """Remove the credentials for *registry* wherever they are; returns the places."""
    places = []
    for path in auth_files(environ):
        path = Path(os.path.realpath(path))
        document = _read(path)
        helper = _member(document, "credHelpers").get(registry) or document.get("credsStore")
        if isinstance(helper, str) and helper and _ask(helper, registry) is not None:
            program = _helper(helper)
            status, _ = process.exchange([program, "erase"], _helper_key(registry).encode(), HELPER_TIMEOUT_S)
            if status != 0:
                raise GearError(f"{program} did not forget the credentials for {registry}.")
            places.append(f"the helper {helper}")
        entries = _member(document, "auths")
        kept = {key: value for key, value in entries.items() if _normal(key) != registry}
        if len(kept) != len(entries):
            _write(path, {**document, "auths": kept})
            places.append(str(path))
    return places


def _write(path: Path, document: dict[str, Any]) -> None:
    files.make_directory(path.parent, 0o700)
    files.write_atomic(path, json.dumps(document, indent="\t").encode() + b"\n", 0o600)


@dataclass(frozen=True)
class Challenge:
    """One scheme of a WWW-Authenticate header, in small letters, and its parameters."""

    scheme: str
    parameters: Mapping[str, str]


def challenges(header: str) -> list[Challenge]:
    """What a registry asks for; what can't be understood is left out."""
    result: list[tuple[str, dict[str, str]]] = []
    place = 0
    header = header[:16384]
    while place < len(header):
        if match := _PARAMETER.match(header, place):
            if result:
                value = re.sub(r"\\(.)", r"\1", match[2]) if match[2] is not None else match[3]
                result[-1][1].setdefault(match[1].lower(), value)
        elif match := _SCHEME.match(header, place):
            result.append((match[1].lower(), {}))
        else:
            break
        place = match.end()
    return [Challenge(scheme, parameters) for scheme, parameters in result]


def check_realm(realm: str, registry: str, *, secure: bool, trusted: tuple[str, ...]) -> None:
    """Raise RemoteError unless credentials for *registry* (a host) may be sent to the token server *realm*.

    A registry may name any server; one of another domain gets nothing unless the configuration trusts it, and
    nothing goes over plain HTTP when the registry itself is asked over TLS.
    """
    scheme, separator, rest = realm.partition("://")
    host = rest.partition("/")[0].partition("?")[0].lower()
    if not separator or scheme not in ("https", "http") or "@" in host or not host:
        raise RemoteError(f"{registry} names a token server that can't be: {ascii(realm[:200])}.")
    if scheme == "http" and secure:
        raise RemoteError(f"{registry} names a token server without TLS, {ascii(realm[:200])}.")
    if host in trusted or _related(_bare(host), _bare(registry)):
        return
    raise RemoteError(
        f"{registry} wants the credentials for it sent to {host}, which is of another domain.",
        hint=f"If that is right, name {host} in token-servers of {registry} in registries.yaml.",
    )


def _bare(host: str) -> str:
    """A host without its port."""
    return re.sub(r":[0-9]+$", "", host).strip("[]").lower()


def _related(first: str, second: str) -> bool:
    """Whether two hosts are the same, one is below the other, or both share a domain of two labels at least."""
    if first == second:
        return True
    for host in (first, second):
        try:
            ipaddress.ip_address(host)
            return False
        except ValueError:
            continue
    one, other = first.split("."), second.split(".")
    return len(one) > 1 and len(other) > 1 and one[-2:] == other[-2:]
