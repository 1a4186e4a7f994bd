"""What is configured about registries: short names, mirrors, TLS.

Not credentials (gear/registry_auth.py), and nothing is asked of the network.  Two files are read, both optional:

/etc/gear/registries.yaml, gear's own, where an unknown member is an error:

    search: [docker.io]                  # where short names are looked for, in this order
    aliases: {nginx: docker.io/library/nginx}
    timeout: 30                          # seconds without a single byte after which a registry counts as hanging
    retries: 4                           # how often a request is tried again
    parallel: 4                          # layers at once
    registries:
      docker.io:                         # a registry, or a prefix of references such as quay.io/team
        mirrors: [mirror.example:5000, cache.example/hub]     # asked first, in this order
        location: hub.example/library    # what stands for the prefix itself
        insecure: false                  # true: any certificate, and HTTP if it speaks no TLS
        ca: /etc/gear/example-ca.pem     # besides the system's authorities
        certificate: /etc/gear/client.pem
        key: /etc/gear/client.key
        blocked: false
        token-servers: [auth.example]    # hosts of other domains that credentials may be sent to

/etc/containers/registries.conf and registries.conf.d (containers-registries.conf(5), version 2), of which
unqualified-search-registries, aliases and registry tables are used.  gear's own file counts more.
Certificates for a host are also found in /etc/containers/certs.d and /etc/docker/certs.d.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gear import files, yamlfile
from gear.errors import GearError, UsageError
from gear.model import Layout
from gear.records import dataclass, field, replace
from gear.reference import HUB, HUB_API, Remote, registry_host
from gear.settings import Section

CONTAINERS_CONF = Path("/etc/containers/registries.conf")
CERTS_D = (Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))
_LIMIT = 1 << 20


@dataclass(frozen=True)
class Rule:
    """What holds for references that begin with a prefix."""

    mirrors: tuple[str, ...] = ()
    location: str = ""
    insecure: bool = False
    blocked: bool = False
    ca: str = ""
    certificate: str = ""
    key: str = ""
    token_servers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Endpoint:
    """One place where the repository of an image is: a host and the repository's name there."""

    registry: str  # as in references, HOST[:PORT]
    repository: str
    rule: Rule
    mirror: bool = False

    @property
    def host(self) -> str:
        """Where its API is."""
        return HUB_API if self.registry == HUB else self.registry


@dataclass(frozen=True)
class Registries:
    """Everything that is configured."""

    search: tuple[str, ...] = (HUB,)
    aliases: Mapping[str, str] = field(default_factory=dict)
    rules: Mapping[str, Rule] = field(default_factory=dict)
    timeout: float = 30.0
    retries: int = 4
    parallel: int = 4

    def rule(self, name: str) -> tuple[str, Rule]:
        """The longest prefix of *name* that something is configured for, and what; "" when nothing is."""
        prefix = name
        while prefix:
            if prefix in self.rules:
                return prefix, self.rules[prefix]
            prefix = prefix.rpartition("/")[0]
        host = name.partition("/")[0]
        while "." in host:
            host = host.partition(".")[2]
            if f"*.{host}" in self.rules:
                return f"*.{host}", self.rules[f"*.{host}"]
        return "", Rule()

    def endpoint(self, name: str, *, mirror: bool = False) -> Endpoint:
        """REGISTRY/REPOSITORY as it is, with the rule for it."""
        registry, _, repository = name.partition("/")
        return Endpoint(registry, repository, self.rule(name)[1], mirror)

    def endpoints(self, remote: Remote) -> list[Endpoint]:
        """Where to get *remote* from, mirrors first; raises GearError when that is forbidden."""
        prefix, rule = self.rule(remote.name)
        if rule.blocked:
            raise GearError(
                f"{prefix} is blocked, so nothing is pulled from or pushed to it.", hint=str(_own())
            )
        rest = (
            remote.name.removeprefix(prefix)
            if prefix and not prefix.startswith("*.")
            else f"/{remote.repository}"
        )
        places = [self.endpoint(f"{mirror}{rest}", mirror=True) for mirror in rule.mirrors]
        return [*places, self.target(remote)]

    def target(self, remote: Remote) -> Endpoint:
        """Where *remote* itself is, not its mirrors."""
        prefix, rule = self.rule(remote.name)
        if not rule.location:
            return Endpoint(remote.registry, remote.repository, rule)
        rest = remote.name.removeprefix(prefix) if not prefix.startswith("*.") else f"/{remote.repository}"
        moved = self.endpoint(f"{rule.location}{rest}")
        # What is said of the prefix holds for where it leads, unless that has a rule of its own.
        return moved if moved.rule != Rule() else replace(moved, rule=rule)


def _own() -> Path:
    return Path("registries.yaml")


def load(layout: Layout) -> Registries:
    """What is configured on this host; raises UsageError for a file that is wrong."""
    result = _containers(CONTAINERS_CONF, Registries())
    path = layout.config / "registries.yaml"
    data = files.read_bytes(path, yamlfile.LIMIT)
    if data is None:
        return result
    document = yamlfile.parse(data, str(path))
    if document is None:
        return result
    return _merge(result, Section(document, str(path)))


def _merge(old: Registries, top: Section) -> Registries:
    """The file of gear's own on top of what was there."""
    search = tuple(_checked(registry_host, host, top, "search") for host in top.texts("search"))
    aliases = top.below("aliases")
    for name, target in aliases.items():
        if not isinstance(target, str):
            raise top.wrong(f"aliases.{name}", "is not a text")
        _checked(Remote.parse, target, top, f"aliases.{name}")
    rules = {}
    for prefix, value in top.below("registries").items():
        place = Section({} if value is None else value, f"{top.what}: registries.{prefix}")
        rules[_prefix(prefix, top, "registries")] = _rule(place)
        place.finish()
    result = Registries(
        search or old.search,
        {**old.aliases, **aliases},
        {**old.rules, **rules},
        top.number("timeout", old.timeout, 1, 3600),
        int(top.number("retries", old.retries, 0, 20)),
        int(top.number("parallel", old.parallel, 1, 16)),
    )
    top.finish()
    return result


def _checked(parse: Callable[[str], Any], text: str, top: Section, name: str) -> Any:
    try:
        return parse(text)
    except UsageError as error:
        raise top.wrong(name, f"has {text[:100]!r}, which can't be: {error.message.rstrip('.')}") from error


def _prefix(text: str, top: Section, name: str) -> str:
    """A registry, with or without the beginning of a repository, or *.DOMAIN."""
    host, slash, rest = text.partition("/")
    if host.startswith("*."):
        if slash:
            raise top.wrong(name, f"has {text[:100]!r}, where nothing may follow the domain")
        return f"*.{_checked(registry_host, host[2:], top, name)}"
    return f"{_checked(registry_host, host, top, name)}{slash}{rest}".rstrip("/")


def _rule(place: Section) -> Rule:
    rule = Rule(
        tuple(_prefix(mirror, place, "mirrors") for mirror in place.texts("mirrors")),
        _prefix(place.text("location"), place, "location") if place.text("location") else "",
        place.flag("insecure"),
        place.flag("blocked"),
        place.path("ca"),
        place.path("certificate"),
        place.path("key"),
        tuple(_checked(registry_host, host, place, "token-servers") for host in place.texts("token-servers")),
    )
    if rule.key and not rule.certificate:
        raise place.wrong("key", "is given without certificate")
    return rule


def _containers(path: Path, result: Registries) -> Registries:
    """What containers' registries.conf says, with its drop-ins; unknown members are other programs' matter."""
    for place in [path, *_drop_ins(path.with_name(f"{path.name}.d"))]:
        data = files.read_bytes(place, _LIMIT)
        if data is None:
            continue
        try:
            top = Section(tomllib.loads(data.decode()), str(place))
        except ValueError as error:
            raise UsageError(f"{place} is not valid TOML: {error}.") from error
        rules = dict(result.rules)
        for number, value in enumerate(top.get("registry", list, [], "is not an array of tables")):
            table = Section(value, f"{place}: registry[{number}]")
            prefix = table.text("prefix") or table.text("location")
            if prefix:
                rules[_prefix(prefix, table, "prefix")] = _table(table, prefix, rules)
        search = [
            _checked(registry_host, host, top, "search")
            for host in top.texts("unqualified-search-registries")
        ]
        aliases = {
            name: target
            for name, target in top.below("aliases").items()
            if isinstance(target, str) and target
        }
        result = replace(
            result, search=tuple(search) or result.search, aliases={**result.aliases, **aliases}, rules=rules
        )
    return result


def _drop_ins(directory: Path) -> list[Path]:
    try:
        return sorted(directory / name for name in os.listdir(directory) if name.endswith(".conf"))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _table(table: Section, prefix: str, rules: dict[str, Rule]) -> Rule:
    """One [[registry]]; an insecure mirror becomes a rule for the mirror."""
    mirrors = []
    for number, value in enumerate(table.get("mirror", list, [], "is not an array of tables")):
        mirror = Section(value, f"{table.what}.mirror[{number}]")
        location = _prefix(mirror.text("location"), mirror, "location")
        mirrors.append(location)
        if mirror.flag("insecure"):
            rules[location] = replace(rules.get(location, Rule()), insecure=True)
    location = table.text("location")
    return Rule(
        tuple(mirrors),
        "" if location == prefix or not location else _prefix(location, table, "location"),
        table.flag("insecure"),
        table.flag("blocked"),
    )


def certificates(host: str, rule: Rule) -> tuple[list[str], str, str]:
    """Files of the authorities, the client's certificate and its key for *host*, besides the system's."""
    authorities, certificate, key = [rule.ca] if rule.ca else [], rule.certificate, rule.key
    for directory in CERTS_D:
        try:
            names = sorted(os.listdir(directory / host))
        except (FileNotFoundError, NotADirectoryError):
            continue
        authorities += [str(directory / host / name) for name in names if name.endswith(".crt")]
        for name in names:
            pair = directory / host / (name.removesuffix(".cert") + ".key")
            if name.endswith(".cert") and pair.exists() and not certificate:
                certificate, key = str(directory / host / name), str(pair)
    return authorities, certificate, key
