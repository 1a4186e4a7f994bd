"""The units by which PID 1 listens for a container, as pure functions of its spec.

    ctr-NAME.socket             ports of mode fd: their sockets are passed into the payload
    ctr-NAME@PORT.socket        what leads to the port PORT inside by way of a proxy
    ctr-NAME@PORT.service       that proxy: systemd-socket-proxyd(8)

`@` is in no container's name, so these are nobody else's: `listener_of` in gear/model.py.  The container's own service
is in gear/units.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from gear import unitfile
from gear.model import Layout
from gear.network import ANY4, ANY6, FD, NONE, SOCKET, Network, Port

if TYPE_CHECKING:
    from gear.spec import Spec

# What sockets that are meant for the payload are called among those that the helper gets (sd_listen_fds(3)).
PASSED = "payload"
# Starts of a proxy wait so long for something to listen inside (gear/helper/proxy.py), and PID 1 a little longer.
PATIENCE_S = 60
_START_TIMEOUT_S = PATIENCE_S + 30
# Connections of one proxy that has no limit of its own.
_CONNECTIONS = 4096


def sockets(spec: Spec) -> list[str]:
    """The socket units that *spec* has."""
    own = [f"ctr-{spec.name}.socket"] if spec.network.served_by(FD) else []
    return own + [f"ctr-{spec.name}@{port}.socket" for port in _proxied(spec.network)]


def proxies(spec: Spec) -> list[str]:
    """The services of its proxies."""
    return [f"ctr-{spec.name}@{port}.service" for port in _proxied(spec.network)]


def socket_of(spec: Spec, port: Port) -> str | None:
    """The socket unit of the published port *port*; None for one that nftables leads."""
    way = spec.network.served(port)
    return {FD: f"ctr-{spec.name}.socket", SOCKET: f"ctr-{spec.name}@{port.internal}.socket"}.get(way)


def _proxied(network: Network) -> dict[int, list[Port]]:
    """Ports by the port inside: a proxy has one destination."""
    found: dict[int, list[Port]] = {}
    for port in network.served_by(SOCKET):
        found.setdefault(port.internal, []).append(port)
    return found


def render(spec: Spec, layout: Layout, interpreter: Sequence[str], helper: str) -> dict[str, bytes]:
    """Every unit of this module that *spec* has, by its name.  *interpreter* runs what is in the directory *helper*."""
    found = {}
    if ports := spec.network.served_by(FD):
        text = _socket(spec, layout, ports, f"Ports of {spec.name}", passed=True)
        found[f"ctr-{spec.name}.socket"] = text
    for inside, group in _proxied(spec.network).items():
        what = f"Port {inside} of {spec.name}"
        found[f"ctr-{spec.name}@{inside}.socket"] = _socket(spec, layout, group, what, passed=False)
        command = [*interpreter, f"{helper}/proxy", *_arguments(spec, inside)]
        found[f"ctr-{spec.name}@{inside}.service"] = _proxy(spec, layout, inside, command)
    return found


def service_settings(spec: Spec) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """What the container's service has for its sockets: settings of [Unit] and of [Service]."""
    own, every = spec.network.served_by(FD), " ".join(sockets(spec))
    unit, service = [], []
    if every and not spec.network.on_demand:
        # A port that is taken keeps it from starting.
        unit += [("Requires", every), ("After", every)]
    if spec.network.idle_stop is not None:
        # What needs it is a proxy that runs.
        unit.append(("StopWhenUnneeded", "yes"))
    if own:
        service.append(("Sockets", f"ctr-{spec.name}.socket"))
    if running := proxies(spec):
        # A proxy without a container would turn away whoever connects, and not start it again.
        service.append(
            ("ExecStopPost", unitfile.command(["-/usr/bin/systemctl", "kill", "--signal=SIGINT", *running]))
        )
    return unit, service


def _socket(spec: Spec, layout: Layout, ports: Iterable[Port], what: str, *, passed: bool) -> bytes:
    # The kernel's word for both families at once is an IPv6 socket; where one is to have IPv6 alone, each has its own.
    split = any(port.address == ANY6 for port in ports)
    listens = []
    for port in ports:
        key = "ListenStream" if port.protocol == "tcp" else "ListenDatagram"
        for address in (ANY4, ANY6) if split and not port.address else (port.address,):
            bracketed = f"[{address}]:" if ":" in address else f"{address}:" if address else ""
            listens.append((key, f"{bracketed}{port.external}"))
    settings = [
        *listens,
        ("BindIPv6Only", "ipv6-only" if split else "both"),
        # An address may come later than the socket, as with DHCP.
        ("FreeBind", "yes"),
        # Who has gone without a word does not count as connected for ever.
        ("KeepAlive", "yes"),
    ]
    if passed:
        settings.append(("FileDescriptorName", PASSED))
    # PID 1 makes these sockets in the control group of their own unit.
    settings += address_filter(spec)
    unit = [
        ("Description", unitfile.value(what)),
        # It is started with the container, for which alone tries are counted.
        ("StartLimitIntervalSec", "0"),
    ]
    sections = [("Unit", unit), ("Socket", settings)]
    if spec.network.on_demand:
        unit.append(("PartOf", "container.target container-sockets.target"))
        sections.append(("Install", [("WantedBy", "container-sockets.target")]))
    else:
        # A port is closed with its container, as one of nftables is, also while it is restarted.
        unit.append(("PartOf", spec.unit))
    return unitfile.render(_header(spec, layout), sections).encode()


def _proxy(spec: Spec, layout: Layout, inside: int, command: Sequence[str]) -> bytes:
    socket = f"ctr-{spec.name}@{inside}.socket"
    unit = [
        ("Description", unitfile.value(f"Proxy for port {inside} of {spec.name}")),
        ("Requires", socket),
        ("After", f"{socket} {spec.unit}"),
        ("PartOf", spec.unit),
        # How often a container is tried is limited for the container.  A proxy that hits a limit would close the
        # socket for good; one that can't reach it tells clients so, and takes its time.
        ("StartLimitIntervalSec", "0"),
    ]
    if spec.network.on_demand:
        # Not Requires=: when it does not start, somebody has to tell those who wait.
        unit.append(("Wants", spec.unit))
    service = [
        ("Type", "notify"),
        ("NotifyAccess", "main"),
        ("Environment", "LC_ALL=C"),
        ("ExecStart", unitfile.command(command)),
        ("TimeoutStartSec", f"{_START_TIMEOUT_S}s"),
        ("Slice", spec.slice),
        ("SyslogIdentifier", unitfile.word(spec.name)),
        ("LimitNOFILE", str(_descriptors(spec))),
        ("DynamicUser", "yes"),
        *_rights(spec.network),
        ("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6"),
    ]
    return unitfile.render(_header(spec, layout), [("Unit", unit), ("Service", service)]).encode()


def address_filter(spec: Spec) -> list[tuple[str, str]]:
    """Whom the sockets of a unit may talk with, in whatever network they are: systemd.resource-control(5)."""
    limits = spec.network.limits
    found = (("IPAddressAllow", limits.allow), ("IPAddressDeny", limits.deny))
    return [(key, " ".join(ranges)) for key, ranges in found if ranges]


def _descriptors(spec: Spec) -> int:
    """How many descriptors a proxy needs: two sockets and two pipes for each connection."""
    return max(spec.network.limits.connections or 0, _CONNECTIONS) * 6 + 64


def _rights(network: Network) -> list[tuple[str, str]]:
    if network.mode != NONE:
        return [("CapabilityBoundingSet", "")]
    # To enter the container's network namespace; given up before anybody's data is passed on.
    needed = "CAP_SYS_ADMIN CAP_SYS_PTRACE"
    return [("CapabilityBoundingSet", needed), ("AmbientCapabilities", needed)]


def _arguments(spec: Spec, inside: int) -> list[str]:
    """Of the helper's `proxy`: UNIT PORT PATIENCE CONNECTIONS IDLE [ADDRESS...]."""
    idle = spec.network.idle_stop
    return [
        spec.unit,
        str(inside),
        str(PATIENCE_S),
        # systemd-socket-proxyd turns away who comes when there are more than that already.
        str((spec.network.limits.connections or _CONNECTIONS + 1) - 1),
        "infinity" if idle is None else str(idle),
        *destinations(spec.network),
    ]


def destinations(network: Network) -> list[str]:
    """The addresses inside that a proxy may connect to; none for a container that has loopback addresses only."""
    return [address for item in network.interfaces for address in item.addresses()]


def _header(spec: Spec, layout: Layout) -> tuple[str, ...]:
    directory = unitfile.value(str(layout.containers / spec.name))
    return (f"Rendered by gear from {directory}/spec.json; the next install overwrites changes here.",)
