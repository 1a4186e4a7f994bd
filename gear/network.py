"""How a container is connected: the member `network` of spec.json, the words for it, and the grammar of the options.

Only what one container has.  What a network is, is in gear/definition.py; where addresses and free ports come from, in
gear/connecting.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from gear import durations, members
from gear.errors import UsageError
from gear.inet import PROTOCOLS, ip_address, mac_address, one_of, port_number, port_range, unique_aliases
from gear.limits import Limits
from gear.link import Link, read_link
from gear.model import NAME, container_name
from gear.patterns import pattern
from gear.records import dataclass, replace

# What a container gets that is asked for no network; made when it is first used.
DEFAULT_NETWORK = "default"

NONE, HOST, BRIDGE = "none", "host", "bridge"
# What stands before the name of a container whose network is shared.
CONTAINER = "container:"
# Words of --net that no network can have for a name.
RESERVED = (NONE, HOST, BRIDGE, "container", "private")
# By nftables, by systemd-socket-proxyd, and as descriptors of the payload.
NAT, SOCKET, FD = PORT_MODES = ("nat", "socket", "fd")
ANY4, ANY6 = "0.0.0.0", "::"

_INTERFACE = pattern(r"[A-Za-z0-9_.-]{1,15}", re.ASCII)
_PUBLISH = pattern(
    r"(?:(?P<address>\[[0-9A-Fa-f:.]+\]|[0-9.]+):(?=[^:]*:))?"
    r"(?:(?P<external>[0-9]{1,5}(?:-[0-9]{1,5})?)?:)?"
    r"(?P<internal>[0-9]{1,5}(?:-[0-9]{1,5})?)"
    r"(?:/(?P<protocol>[A-Za-z]+))?(?:,(?P<mode>[A-Za-z]+))?",
    re.ASCII,
)
_INTERNAL_EXTERNAL = pattern(r"([0-9]{1,5}):([0-9]{0,5})", re.ASCII)


@dataclass(frozen=True)
class Interface:
    """One network interface.  As long as it is only asked for, the name and MAC are empty and None stands for an
    address that is still to be chosen; once it is settled, None means that the network has none of that family."""

    network: str
    interface: str = ""
    ip: str | None = None
    ip6: str | None = None
    mac: str = ""
    aliases: tuple[str, ...] = ()  # what others on the network may call the container, beside its name

    def addresses(self) -> tuple[str, ...]:
        """Those it has."""
        return tuple(address for address in (self.ip, self.ip6) if address is not None)


@dataclass(frozen=True)
class Port:
    """A published port.  *address* is one of the host's, or empty for all.  As long as it is only asked for, *external*
    0 stands for a free one, out of *choice* (first, last) if that is given."""

    address: str
    external: int
    internal: int
    protocol: str = "tcp"
    mode: str = "nat"
    choice: tuple[int, int] | None = None

    def families(self) -> tuple[int, ...]:
        """The versions of the Internet protocol on which it is published."""
        return (4, 6) if not self.address else (6,) if ":" in self.address else (4,)

    def overlaps(self, other: Port) -> bool:
        """Whether one connection could mean both."""
        every = ("", ANY4, ANY6)
        return (
            (self.protocol, self.external) == (other.protocol, other.external)
            and bool(set(self.families()) & set(other.families()))
            and (self.address in every or other.address in every or self.address == other.address)
        )

    def __str__(self) -> str:
        address = f"[{self.address}]" if ":" in self.address else self.address
        mode = "" if self.mode == "nat" else f",{self.mode}"
        where = f"{address}:{self.external or ''}" if address else f"{self.external or ''}"
        return f"{where}:{self.internal}/{self.protocol}{mode}"


@dataclass(frozen=True)
class Network:
    """How a container is connected: *mode* is none, host, bridge (then it has interfaces) or container:NAME.

    With *on_demand* the first connection to a port starts it; with *idle_stop* it is stopped when nobody has been
    connected for so many seconds.
    """

    mode: str = NONE
    interfaces: tuple[Interface, ...] = ()
    ports: tuple[Port, ...] = ()
    on_demand: bool = False
    idle_stop: int | None = None
    links: tuple[Link, ...] = ()
    limits: Limits = Limits()

    @property
    def networks(self) -> tuple[str, ...]:
        """The names of those it is on."""
        return tuple(item.network for item in self.interfaces)

    @property
    def shared(self) -> str | None:
        """The name of the container whose network namespace it is in."""
        return self.mode.removeprefix(CONTAINER) if self.mode.startswith(CONTAINER) else None

    @property
    def words(self) -> str:
        """What --net takes for it, with blanks between."""
        return " ".join(self.networks) if self.mode == BRIDGE else self.mode

    def served(self, port: Port) -> str:
        """The mode in which *port* really is: somebody has to listen for a container that does not run, so `nat` is
        `socket` on demand."""
        return SOCKET if self.on_demand and port.mode == NAT else port.mode

    def served_by(self, way: str) -> tuple[Port, ...]:
        """The ports that really are in the mode *way*."""
        return tuple(port for port in self.ports if self.served(port) == way)

    def to_mapping(self) -> dict[str, Any]:
        """The member of spec.json."""
        return {
            "mode": self.mode,
            "interfaces": [
                {
                    "network": item.network,
                    "interface": item.interface,
                    "ip": item.ip,
                    "ip6": item.ip6,
                    "mac": item.mac,
                    "aliases": list(item.aliases),
                }
                for item in self.interfaces
            ],
            "ports": [
                {
                    "address": port.address,
                    "external": port.external,
                    "internal": port.internal,
                    "protocol": port.protocol,
                    "mode": port.mode,
                }
                for port in self.ports
            ],
            "on_demand": self.on_demand,
            "idle_stop": self.idle_stop,
            "links": [
                {
                    "address": link.address,
                    "port": link.port,
                    "host": link.host,
                    "target": link.target,
                    "protocol": link.protocol,
                }
                for link in self.links
            ],
            "limits": self.limits.to_mapping(),
        }

    @classmethod
    def read(cls, document: Any) -> Network:
        """The network in *document*; raises UsageError, TypeError, ValueError or KeyError for what is wrong with it."""
        found = members.mapping(document)
        known = {"mode", "interfaces", "ports", "on_demand", "idle_stop", "links", "limits"}
        if unknown := sorted(set(found) - known):
            raise ValueError(f"no such member: {members.shown(unknown[0])}")
        interfaces = tuple(_interface(item) for item in members.array(found.get("interfaces", [])))
        ports = tuple(_port(item) for item in members.array(found.get("ports", [])))
        on_demand = members.boolean(found.get("on_demand", False))
        idle_stop = members.optional(lambda value: idle_time(members.integer(value)))(found.get("idle_stop"))
        links = tuple(read_link(item) for item in members.array(found.get("links", [])))
        limits = Limits.read(found.get("limits", {}))
        how = mode(members.text(found["mode"]))
        return checked(cls(how, interfaces, ports, on_demand, idle_stop, links, limits))


def checked(network: Network) -> Network:
    """*network* if its parts go together; raises UsageError."""
    if (network.mode == BRIDGE) != bool(network.interfaces):
        raise UsageError("The mode bridge and interfaces belong together.")
    for port in network.ports:
        _require_servable(network, port)
    if network.on_demand and not network.ports:
        raise UsageError(
            "A container without published ports can't be started on demand.",
            hint="Connections start it: publish one with -p.",
        )
    if network.idle_stop is not None and (not network.on_demand or network.served_by(FD)):
        what = "of mode fd are the payload's own" if network.on_demand else "do not start it: add --on-demand"
        raise UsageError(f"A container can't be stopped for being idle when connections {what}.")
    for what, values in (
        ("the network", network.networks),
        ("the interface", [item.interface for item in network.interfaces if item.interface]),
    ):
        if twice := next((value for value in values if list(values).count(value) > 1), None):
            raise UsageError(f"A container can't have {what} {twice} twice.")
    _require_different(network.ports)
    if network.links and network.mode != BRIDGE:
        raise UsageError(f"With --net {network.mode} a container has no links: they are for networks.")
    _require_limitable(network)
    for number, link in enumerate(network.links):
        if other_link := next((item for item in network.links[:number] if link.overlaps(item)), None):
            raise UsageError(f"Two links have the same local port: {other_link} and {link}.")
    return network


def _require_different(ports: tuple[Port, ...]) -> None:
    """Raise UsageError for two of *ports* that one connection could mean."""
    before: dict[tuple[str, int], list[Port]] = {}
    for port in ports:
        # Thousands are compared with those of the same number only.
        same = before.setdefault((port.protocol, port.external), [])
        if port.external and (other := next((item for item in same if port.overlaps(item)), None)):
            raise UsageError(
                f"The port {port.external}/{port.protocol} is published twice: {other} and {port}."
            )
        same.append(port)


def _require_servable(network: Network, port: Port) -> None:
    """Raise UsageError unless *network* can have *port* in its mode."""
    way = network.served(port)
    if port.protocol == "udp" and way == SOCKET:
        raise UsageError(
            f"The port {port} can't be published with a proxy: systemd-socket-proxyd passes on TCP only.",
            hint="UDP on demand needs ,fd" if network.on_demand else "Use ,nat or ,fd for UDP.",
        )
    if network.mode == BRIDGE or way == FD or (way == SOCKET and network.mode == NONE):
        return
    hint = "Of the modes of a port there is ,fd for it, and with --net none ,socket."
    if network.mode == HOST:
        hint = "Leave -p out: what listens inside listens on the host."
    raise UsageError(f"With --net {network.mode} no port can be published in the mode {way}.", hint=hint)


def _require_limitable(network: Network) -> None:
    """Raise UsageError for limits that nothing would carry out."""
    if network.limits.shapes and network.mode != BRIDGE:
        raise UsageError(
            f"With --net {network.mode} there is no interface whose traffic could be limited.",
            hint="--net-rate, --net-priority and --net-connections are for containers on networks.",
        )
    counted = any(port.protocol == "tcp" for port in network.ports)
    if network.limits.connections is not None and (not counted or network.served_by(FD)):
        raise UsageError(
            "--net-connections is for published TCP ports of mode nat or socket.",
            hint="Sockets of mode fd are the payload's own, and UDP has no connections.",
        )
    if network.limits.connections == 1 and network.served_by(SOCKET):
        raise UsageError("systemd-socket-proxyd knows no limit of one connection.", hint="Give 2 or more.")


def _interface(value: Any) -> Interface:
    item = members.mapping(value)
    if set(item) - {"network", "interface", "ip", "ip6", "mac", "aliases"}:
        raise ValueError(f"{item!r} is no interface")
    name, mac = members.text(item.get("interface", "")), members.text(item.get("mac", ""))
    if name and (not _INTERFACE.fullmatch(name) or name in ("lo", ".", "..")):
        raise ValueError(f"{name!r} can't name an interface")
    return Interface(
        network_name(members.text(item["network"])),
        name,
        members.optional(lambda text: ip_address(members.text(text), 4))(item.get("ip")),
        members.optional(lambda text: ip_address(members.text(text), 6))(item.get("ip6")),
        mac and mac_address(mac),
        unique_aliases(members.texts(item.get("aliases", []))),
    )


def _port(value: Any) -> Port:
    item = members.mapping(value)
    if set(item) - {"address", "external", "internal", "protocol", "mode"}:
        raise ValueError(f"{item!r} is no port")
    external, internal = members.integer(item["external"]), members.integer(item["internal"])
    return Port(
        members.text(item["address"]) and ip_address(members.text(item["address"])),
        external and port_number(external),
        port_number(internal),
        one_of(members.text(item["protocol"]), PROTOCOLS, "protocol"),
        one_of(members.text(item["mode"]), PORT_MODES, "mode of a port"),
    )


def mode(text: str) -> str:
    """One of none, host, bridge, and container:NAME; raises UsageError."""
    if text.startswith(CONTAINER):
        return CONTAINER + container_name(text.removeprefix(CONTAINER))
    return one_of(text, (NONE, HOST, BRIDGE), "mode of a network")


def network_name(text: str) -> str:
    """*text* if it may name a network; raises UsageError otherwise."""
    if not NAME.fullmatch(text) or text in RESERVED:
        hint = "Use 1 to 63 letters, digits, '_', '.' or '-', and begin with a letter or digit."
        if text in RESERVED:
            hint = f"{', '.join(RESERVED)} have a meaning of their own."
        raise UsageError(f"{text[:80]!r} can't name a network.", hint=hint)
    return text


def unit_name(network: str) -> str:
    """The unit that makes the network *network* on the host."""
    return f"gear-network@{network}.service"


def idle_time(value: int) -> int:
    """Seconds, 1 to a year; raises UsageError."""
    if not 1 <= value <= 366 * 86400:
        raise UsageError(f"{value} seconds are no time to be idle.", hint="Give 1s to 366d.")
    return value


def parse_idle(text: str) -> int:
    """`--idle-stop` in seconds; raises UsageError."""
    return idle_time(durations.whole(text))


def parse_net(text: str) -> str | Interface:
    """`--net`: none, host, container:NAME, or NETWORK[:ip=ADDRESS,ip6=ADDRESS,mac=ADDRESS,alias=NAME]; raises
    UsageError."""
    if text in (NONE, HOST) or text.startswith(CONTAINER):
        return mode(text)
    name, _, rest = text.partition(":")
    wanted = Interface(network_name(name))
    readers: dict[str, Callable[[str], str]] = {
        "ip": lambda value: ip_address(value, 4),
        "ip6": lambda value: ip_address(value, 6),
        "mac": mac_address,
    }
    for word in rest.split(",") if rest else ():
        key, _, value = word.partition("=")
        if key == "alias":
            wanted = replace(wanted, aliases=unique_aliases((*wanted.aliases, value)))
        elif key in readers:
            found: Any = {key: readers[key](value)}
            wanted = replace(wanted, **found)
        else:
            raise UsageError(
                f"{word[:60]!r} says nothing about an interface.",
                hint="There are ip=, ip6=, mac= and alias=.",
            )
    return wanted


def parse_publish(text: str) -> tuple[Port, ...]:
    """`-p`: [IP:]EXT:INT[/tcp|udp][,MODE], where EXT may be empty, 0 or left out with its colon for a free port, and
    each may be a range FIRST-LAST; raises UsageError."""
    match = _PUBLISH.fullmatch(text)
    if not match:
        raise UsageError(
            f"{text[:80]!r} publishes no port.",
            hint="Write [ADDRESS:][EXTERNAL:]INTERNAL[/tcp|udp][,nat|socket|fd], as 8080:80 or [::1]:8080:80.",
        )
    address = ip_address(match["address"].strip("[]")) if match["address"] else ""
    protocol = one_of((match["protocol"] or "tcp").lower(), PROTOCOLS, "protocol of a published port")
    how = one_of((match["mode"] or "nat").lower(), PORT_MODES, "mode of a published port")
    low, high = port_range(match["internal"])
    external = match["external"] or "0"
    if not external.strip("0"):
        return tuple(Port(address, 0, number, protocol, how) for number in range(low, high + 1))
    first, last = port_range(external)
    if low == high and first < last:  # Docker's way to say: any of these
        return (Port(address, 0, low, protocol, how, (first, last)),)
    if last - first != high - low:
        raise UsageError(
            f"{text[:80]!r} does not fit: {external} and {match['internal']} are not of one length."
        )
    return tuple(Port(address, first + step, low + step, protocol, how) for step in range(high - low + 1))


def parse_ports(text: str) -> tuple[Port, ...]:
    """`--ports`, geard's spelling: INTERNAL:EXTERNAL,..., where EXTERNAL may be 0 or empty; raises UsageError."""
    found = []
    for word in text.split(","):
        match = _INTERNAL_EXTERNAL.fullmatch(word)
        if not match:
            raise UsageError(
                f"{word[:40]!r} publishes no port.", hint="Write INTERNAL:EXTERNAL, for example 80:8080."
            )
        external = int(match[2] or 0)
        found.append(Port("", external and port_number(external), port_number(int(match[1]))))
    return tuple(found)
