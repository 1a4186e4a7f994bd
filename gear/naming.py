"""What names mean inside a container: the member `naming` of spec.json, and the grammar of --add-host and --dns.

Aliases belong to an interface (gear/network.py), since they hold on one network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gear import members
from gear.errors import UsageError
from gear.inet import NAME_OF_HOST, ip_address
from gear.network import BRIDGE, CONTAINER, HOST, NONE, Network
from gear.patterns import pattern
from gear.records import dataclass

# Stands for the host's address on the network that is the way out, as with Docker.
HOST_GATEWAY = "host-gateway"
# resolv.conf(5) of glibc: no more are looked at.
MOST_SERVERS = 3
# A search list of just this is an empty one, as with Docker.
NO_SEARCH = "."

_OPTION = pattern(r"[a-z0-9-]{1,40}(:[0-9]{1,5})?", re.ASCII)


@dataclass(frozen=True)
class Naming:
    """What was asked for beyond the names of its networks; what is empty is taken from the host when it starts."""

    hosts: tuple[tuple[str, str], ...] = ()  # a name, and an address or HOST_GATEWAY
    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def to_mapping(self) -> dict[str, Any]:
        """The member of spec.json."""
        return {
            "hosts": [{"name": name, "address": address} for name, address in self.hosts],
            "servers": list(self.servers),
            "search": list(self.search),
            "options": list(self.options),
        }

    @classmethod
    def read(cls, document: Any) -> Naming:
        """What *document* says; raises UsageError, TypeError, ValueError or KeyError for what is wrong with it."""
        found = members.mapping(document)
        if unknown := sorted(set(found) - {"hosts", "servers", "search", "options"}):
            raise ValueError(f"no such member: {members.shown(unknown[0])}")
        return checked(
            cls(
                tuple(_host(item) for item in members.array(found.get("hosts", []))),
                tuple(ip_address(item) for item in members.texts(found.get("servers", []))),
                tuple(search_domain(item) for item in members.texts(found.get("search", []))),
                tuple(resolver_option(item) for item in members.texts(found.get("options", []))),
            )
        )


def _host(value: Any) -> tuple[str, str]:
    item: Mapping[str, Any] = members.mapping(value)
    if set(item) - {"name", "address"}:
        raise ValueError(f"{item!r} is no name with an address")
    return parse_host(f"{members.text(item['name'])}:{members.text(item['address'])}")


def checked(naming: Naming) -> Naming:
    """*naming* if a resolver can take it; raises UsageError."""
    if len(naming.servers) > MOST_SERVERS:
        raise UsageError(f"{len(naming.servers)} name servers are too many: programs ask the first three.")
    if NO_SEARCH in naming.search and len(naming.search) > 1:
        raise UsageError(f"The search domain {NO_SEARCH} stands for none, so it goes with no other.")
    return naming


def search_domain(text: str) -> str:
    """A domain that resolvers append, or NO_SEARCH; raises UsageError."""
    if text != NO_SEARCH and not NAME_OF_HOST.fullmatch(text.removesuffix(".")):
        raise UsageError(
            f"{text[:80]!r} is no search domain.", hint=f"For example example.org; {NO_SEARCH} for none."
        )
    return text


def resolver_option(text: str) -> str:
    """An option of resolv.conf(5); raises UsageError."""
    if not _OPTION.fullmatch(text):
        raise UsageError(
            f"{text[:60]!r} is no option of a resolver.", hint="For example ndots:2; see resolv.conf(5)."
        )
    return text


def parse_host(text: str) -> tuple[str, str]:
    """`--add-host`: NAME:ADDRESS, or NAME:host-gateway; raises UsageError."""
    name, _, address = text.partition(":")
    if not NAME_OF_HOST.fullmatch(name) or not address:
        raise UsageError(
            f"{text[:80]!r} gives no name an address.",
            hint=f"Write NAME:ADDRESS, for example db.example.org:192.0.2.7, or NAME:{HOST_GATEWAY}.",
        )
    return name, address if address == HOST_GATEWAY else ip_address(
        address.removeprefix("[").removesuffix("]")
    )


def require_possible(naming: Naming, network: Network) -> None:
    """Raise UsageError for what a container with *network* can't have."""
    if network.mode == HOST or network.mode.startswith(CONTAINER):
        whose = "the host's" if network.mode == HOST else "the other container's"
        if naming != Naming():
            option = "--add-host" if naming.hosts else "--dns"
            raise UsageError(f"{option} does not go with --net {network.mode}: names are {whose} then.")
    if network.mode == NONE and (naming.servers or naming.search or naming.options):
        raise UsageError("--dns does not go with --net none: nobody can be asked.")
    if network.mode != BRIDGE and HOST_GATEWAY in dict(naming.hosts).values():
        raise UsageError(f"There is no {HOST_GATEWAY} with --net {network.mode}.")
