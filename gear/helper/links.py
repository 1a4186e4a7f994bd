"""Links of a container: addresses and ports of its own that lead elsewhere, by nftables in its network namespace.

The same rules whether they are made at the start or for a container that runs.  Where a link leads is found then: an
address is taken as it is, another container is looked up in its spec.json, any other name is resolved by the host.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, SOCK_STREAM, getaddrinfo, inet_ntop, inet_pton

from gear.helper import conntrack, nft, ruleset, sockets
from gear.helper.bundle import load_json
from gear.helper.failure import Failure, Step
from gear.helper.joined import within
from gear.helper.nftables import Element, Maps
from gear.helper.rtnetlink import Routes, index_of
from gear.helper.sysctls import has_ipv6, write

# The host itself; a loopback address means it as well.
HOST = ("host", "localhost")
_TCP = 6
# errno.h
_EACCES, _ENODEV, _ENETDOWN = 13, 19, 100


def make(network: int, wanted: dict, name: str, containers: str, step: Step) -> list[str]:  # type: ignore[type-arg]
    """Make the links of *wanted* (`network` of start.json), and no others, in the namespace *network* of the container
    *name*.  Returns a sentence for each that leads nowhere; raises Failure and OSError."""
    elements: list[Element] = []
    problems = []
    for item in wanted.get("links", ()):
        try:
            to = resolve(item, wanted, name, containers)
        except Failure as failure:
            problems.append(f"the link {shown(item)} of {name} leads nowhere: {failure.message}")
            continue
        for protocol in [item["protocol"]] if item["protocol"] else ["tcp", "udp"]:
            entry = {"protocol": protocol, "address": item["address"], "port": item["port"]}
            elements.append(Element(ruleset.LINKS, entry | {"target": item["target"]}, to, name))
    step.doing = f"make the links of {name}"
    names = [item["name"] for item in wanted.get("interfaces", ())]
    within(network, lambda: _make(elements, names, step), step)
    return problems


def _make(elements: list[Element], interfaces: list[str], step: Step) -> None:
    maps = Maps()
    before = maps.content(ruleset.LINKS, "one4") | maps.content(ruleset.LINKS, "one6")
    if elements:
        nft.load(ruleset.render_links(elements), step)
    for name in interfaces:
        try:
            # What comes back from elsewhere is for a loopback address, once it is translated.
            local = any(item.address.startswith("127.") for item in elements)
            write(f"ipv4/conf/{name}/route_localnet", str(int(local)))
        except FileNotFoundError:
            pass  # the container may have called it otherwise
    if not elements:
        maps.delete_table(ruleset.LINKS)
    maps.close()
    if any(item.address == "::1" for item in elements) and has_ipv6():
        _route_loopback(interfaces)
    _end_others(before, {item.key(): item.value() for item in elements})


def _route_loopback(interfaces: list[str]) -> None:
    """As at the start, where the container itself does it when its interfaces are up."""
    routes = Routes()
    for name in interfaces:
        index = index_of(name)
        try:
            if index:
                routes.route_loopback(index)
        except OSError as error:
            # Not yet up at the start, or taken down by the container, which may also have done without IPv6 there, or
            # removed it just now.
            if error.errno not in (_ENETDOWN, _EACCES, _ENODEV):
                raise
    routes.close()


def _end_others(before: dict[bytes, bytes], after: dict[bytes, bytes]) -> None:
    """End what came by a link that leads elsewhere now: who uses it is to notice, and to go the new way."""
    changed = {key for key, value in before.items() if after.get(key) != value}
    if not changed:
        return
    for family in (AF_INET, AF_INET6):
        for key, value, source, port, tuple_, number in conntrack.translated(family):
            if key not in changed or value == after.get(key):
                continue
            if key[-8] == _TCP:
                # First of all, so that the reset still gets to the other end.
                sockets.end_connection(source, port, key[:-8], int.from_bytes(key[-4:-2], "big"))
            conntrack.delete(family, tuple_, number)


def shown(item: dict) -> str:  # type: ignore[type-arg]
    """A link as people write it."""
    local, host = [f"[{word}]" if ":" in word else word for word in (item["address"], item["host"])]
    protocol = f"/{item['protocol']}" if item["protocol"] else ""
    return f"{local}:{item['port']}:{host}:{item['target']}{protocol}"


def resolve(item: dict, wanted: dict, name: str, containers: str) -> str:  # type: ignore[type-arg]
    """The address that a link of the container *name* leads to now; raises Failure with the reason if there is none."""
    family, host = AF_INET6 if ":" in item["address"] else AF_INET, item["host"]
    if host in HOST:
        return _own_host(wanted, family)
    for kind in (AF_INET, AF_INET6):
        try:
            packed = inet_pton(kind, host)
        except OSError:
            continue
        return _own_host(wanted, family) if _is_loopback(packed) else host
    try:
        spec = load_json(f"{containers}/{host}/spec.json")
    except OSError:
        return _by_name(host, wanted, family)
    return _of_container(spec, wanted, name, containers, family)


def _is_loopback(packed: bytes) -> bool:
    return packed[:1] == b"\x7f" if len(packed) == 4 else packed == inet_pton(AF_INET6, "::1")


def _version(family: int) -> str:
    return "IPv6" if family == AF_INET6 else "IPv4"


def _matching(addresses: list[str], family: int) -> str | None:
    for address in addresses:
        if (":" in address) == (family == AF_INET6):
            return address
    return None


def _own_host(wanted: dict, family: int) -> str:  # type: ignore[type-arg]
    """The host's address on the network that the container goes out by."""
    found = _matching(wanted.get("gateways", []), family)
    if found is None:
        raise Failure(f"the host has no {_version(family)} address on its network")
    return found


def _by_name(host: str, wanted: dict, family: int) -> str:  # type: ignore[type-arg]
    try:
        found = getaddrinfo(host.encode(), None, family, SOCK_STREAM)
    except OSError as error:
        raise Failure(f"{host} is no container, and can't be resolved: {error.strerror}") from error
    packed = inet_pton(family, str(found[0][4][0]))
    # As Debian has the host's own name in /etc/hosts.
    return _own_host(wanted, family) if _is_loopback(packed) else inet_ntop(family, packed)


def _of_container(spec: dict, wanted: dict, name: str, containers: str, family: int) -> str:  # type: ignore[type-arg]
    """The address of another container on a network that both are on, or on one that lets others in."""
    other, network = spec.get("name"), spec.get("network") or {}
    mode = network.get("mode")
    if mode == "host":
        return _own_host(wanted, family)
    if isinstance(mode, str) and mode.startswith("container:"):
        shared = load_json(f"{containers}/{mode.removeprefix('container:')}/spec.json")
        if str((shared.get("network") or {}).get("mode")).startswith("container:"):
            raise Failure(f"{other} shares the network of one that shares another's")
        return _of_container(shared, wanted, name, containers, family)
    mine = [item["network"] for item in wanted["interfaces"]]
    theirs = network.get("interfaces", [])
    near = [item for item in theirs if item["network"] in mine]
    if not near and any(_is_open(network_, containers) for network_ in mine):
        near = [item for item in theirs if _is_open(item["network"], containers)]
    if not near:
        raise Failure(f"{other} is on no network of {name}")
    key = "ip6" if family == AF_INET6 else "ip"
    found = _matching([item[key] for item in near if item.get(key)], family)
    if found is None:
        raise Failure(f"{other} has no {_version(family)} address on {near[0]['network']}")
    return found


def _is_open(network: str, containers: str) -> bool:
    """Whether a network reaches others of gear, and is reached by them."""
    try:
        definition = load_json(f"{containers.rpartition('/')[0]}/networks/{network}/network.json")
    except OSError:
        return False
    return not definition.get("isolate", True) and not definition.get("internal", False)
