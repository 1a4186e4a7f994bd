"""The units by which PID 1 listens for a container, and the proxy's choice of an address."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest
import rendering
import unitsyntax

from gear import activation, boot, network, units
from gear.errors import UsageError
from gear.helper import activation as passing
from gear.helper import proxy
from gear.helper.failure import Failure
from gear.model import Layout, listener_of
from gear.network import Network, Port
from gear.spec import Spec

ETH0 = {
    "network": "default",
    "interface": "eth0",
    "ip": "10.89.0.2",
    "ip6": "fd00::2",
    "mac": "02:00:00:00:00:01",
}
COMMAND = ["/usr/bin/python3", "-I", "-S", "/var/lib/gear/helper/current/proxy", "ctr-web.service"]


def spec(*ports: str, lone: bool = False, **members: Any) -> Spec:
    """A container with published *ports*, on a network or with loopback addresses only."""
    asked = Network("none", (), tuple(port for text in ports for port in network.parse_publish(text)))
    document = asked.to_mapping() | ({} if lone else {"mode": "bridge", "interfaces": [ETH0]}) | members
    return rendering.make_spec(network=document)


def rendered(wanted: Spec) -> dict[str, dict[str, list[tuple[str, str]]]]:
    """The parsed units by name."""
    found = units.render_sockets(wanted, Layout())
    return {name: unitsyntax.parse(text.decode()) for name, text in found.items()}


def values(settings: list[tuple[str, str]], *keys: str) -> list[str]:
    """What *settings* have for any of *keys*, in their order."""
    return [value for key, value in settings if key in keys]


def test_proxies_have_one_destination_each() -> None:
    found = rendered(spec("8080:80,socket", "127.0.0.1:8081:80,socket", "[::1]:8082:81,socket", "1:2,nat"))
    assert list(found) == [
        "ctr-web@80.socket",
        "ctr-web@80.service",
        "ctr-web@81.socket",
        "ctr-web@81.service",
    ]
    assert values(found["ctr-web@80.socket"]["Socket"], "ListenStream", "BindIPv6Only") == [
        "8080", "127.0.0.1:8081", "both"
    ]  # fmt: skip
    assert values(found["ctr-web@81.socket"]["Socket"], "ListenStream") == ["[::1]:8082"]
    service = found["ctr-web@80.service"]
    (line,) = values(service["Service"], "ExecStart")
    assert unitsyntax.command(line) == [*COMMAND, "80", "60", "4096", "infinity", "10.89.0.2", "fd00::2"]
    assert values(service["Service"], "CapabilityBoundingSet", "AmbientCapabilities") == [""]
    # It starts nothing, and goes with the container; so do the sockets.
    assert values(service["Unit"], "Wants", "PartOf") == ["ctr-web.service"]
    assert values(found["ctr-web@80.socket"]["Unit"], "PartOf") == ["ctr-web.service"]
    assert "Install" not in found["ctr-web@80.socket"]


def test_a_proxy_enters_a_container_without_addresses() -> None:
    (_, service) = rendered(spec("8080:80,socket", lone=True)).values()
    (line,) = values(service["Service"], "ExecStart")
    assert unitsyntax.command(line) == [*COMMAND, "80", "60", "4096", "infinity"]
    assert values(service["Service"], "AmbientCapabilities") == ["CAP_SYS_ADMIN CAP_SYS_PTRACE"]


def test_on_demand_sockets_start_the_container() -> None:
    wanted = spec("8080:80", "8081:81,fd", lone=False, on_demand=True)
    found = rendered(wanted)
    assert activation.sockets(wanted) == ["ctr-web.socket", "ctr-web@80.socket"]
    assert values(found["ctr-web@80.service"]["Unit"], "Wants", "PartOf") == ["ctr-web.service"] * 2
    for unit in activation.sockets(wanted):
        assert found[unit]["Install"] == [("WantedBy", "container-sockets.target")]
        assert boot.link(unit).parent.name == "container-sockets.target.wants"
    assert (
        values(found["ctr-web.socket"]["Socket"], "FileDescriptorName")
        == [passing.PASSED]
        == [activation.PASSED]
    )
    idle = rendered(spec("8080:80", on_demand=True, idle_stop=90))["ctr-web@80.service"]
    (line,) = values(idle["Service"], "ExecStart")
    assert unitsyntax.command(line)[8] == "90"


def test_one_for_ipv6_alone_parts_the_families() -> None:
    found = rendered(spec("8080:80,fd", "[::]:8081:81,fd", "53:53/udp,fd", "0.0.0.0:1:1/udp,fd", lone=True))
    assert values(found["ctr-web.socket"]["Socket"], "ListenStream", "ListenDatagram", "BindIPv6Only") == [
        "0.0.0.0:8080", "[::]:8080", "[::]:8081", "0.0.0.0:53", "[::]:53", "0.0.0.0:1", "ipv6-only"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("unit", "name"),
    [
        ("ctr-web.socket", "web"),
        ("ctr-web@80.socket", "web"),
        ("ctr-a.b-c@65535.service", "a.b-c"),
        ("ctr-web.service", None),
        ("ctr-web@.service", None),
        ("ctr-web@80.timer", None),
        ("ctr-web@x.socket", None),
        ("other.socket", None),
        ("ctr-web@80.socket\n", None),
    ],
)
def test_owner(unit: str, name: str | None) -> None:
    assert listener_of(unit) == name


@pytest.mark.parametrize(
    ("ports", "members", "said"),
    [
        ((), {"on_demand": True}, "can't be started on demand"),
        (("1:1/udp,socket",), {}, "TCP only"),
        (("1:1/udp",), {"on_demand": True}, "TCP only"),
        (("1:1",), {"idle_stop": 5}, "add --on-demand"),
        (("1:1,fd",), {"on_demand": True, "idle_stop": 5}, "the payload's own"),
        (("1:1",), {"mode": "none", "interfaces": []}, "in the mode nat"),
        (("1:1,socket",), {"mode": "host", "interfaces": []}, "in the mode socket"),
        (("1:1",), {"on_demand": True, "idle_stop": 0}, "no time to be idle"),
    ],
)
def test_what_does_not_go_together(ports: tuple[str, ...], members: dict[str, Any], said: str) -> None:
    found = tuple(port for text in ports for port in network.parse_publish(text))
    document = Network("bridge", (), found).to_mapping() | {"interfaces": [ETH0]} | members
    with pytest.raises(UsageError, match=said):
        Network.read(document)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10min", 600), ("2h", 7200), ("1d", 86400)]
)
def test_idle_time(text: str, seconds: int) -> None:
    assert network.parse_idle(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5s", "1y", "1min\n", "999999999d", "٣"])
def test_what_is_no_idle_time(text: str) -> None:
    with pytest.raises(UsageError):
        network.parse_idle(text)


def test_a_spec_without_these_members_is_read() -> None:
    found = Network.read({"mode": "none", "ports": []})
    assert (found.on_demand, found.idle_stop) == (False, None)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (set(), ""),
        ({"0.0.0.0"}, "10.89.0.2"),
        ({"10.89.0.2"}, "10.89.0.2"),
        ({"127.0.0.1"}, ""),
        ({"::"}, "fd00::2"),
        ({"fd00::2"}, "fd00::2"),
        ({"::1", "10.89.0.3"}, ""),
    ],
)
def test_the_proxy_goes_where_something_listens(found: set[str], expected: str) -> None:
    assert proxy.choose(["10.89.0.2", "fd00::2"], {proxy.table_form(item) for item in found}) == expected


def test_what_listens_here_is_seen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert proxy.listening(os.getpid(), port) == {proxy.table_form("127.0.0.1")}
    assert proxy.listening(os.getpid(), port) == set()


def test_descriptors_that_systemd_has_not_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [{"name": "80/tcp", "protocol": "tcp", "address": "", "port": 8080}]
    with pytest.raises(Failure, match="systemd does not listen on it; see systemctl status ctr-web.socket"):
        passing.find(wanted, "ctr-web.socket")


def test_ports_are_served_by_a_proxy_on_demand() -> None:
    ports = (Port("", 1, 1), Port("", 2, 2, "tcp", "fd"))
    assert [Network("bridge", (), ports, True).served(port) for port in ports] == ["socket", "fd"]
    assert [Network("bridge", (), ports).served(port) for port in ports] == ["nat", "fd"]
