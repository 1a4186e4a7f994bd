"""How containers are connected: the grammar of options, definitions of networks, and what the start helper is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rendering
import unitsyntax
from hypothesis import given
from hypothesis import strategies as st
from nets import define, machine, write
from strategies import HOSTILE

from gear import attachment, bundle, definitions, inet, network, units
from gear.definition import Definition, checked, interface_name, make_subnet, make_subnets
from gear.errors import HostError, IntegrityError, NotFoundError, UsageError
from gear.model import Layout
from gear.naming import Naming
from gear.network import Interface, Network, Port
from gear.oci import Identity

# ---- the grammar of -p, --ports and --net


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080:80", [Port("", 8080, 80)]),
        ("8080:80/tcp,nat", [Port("", 8080, 80)]),
        ("8080:80/UDP", [Port("", 8080, 80, "udp")]),
        ("80", [Port("", 0, 80)]),
        (":80", [Port("", 0, 80)]),
        ("0:80", [Port("", 0, 80)]),
        ("127.0.0.1:8080:80", [Port("127.0.0.1", 8080, 80)]),
        ("127.0.0.1::80", [Port("127.0.0.1", 0, 80)]),
        ("0.0.0.0:1:65535", [Port("0.0.0.0", 1, 65535)]),
        ("[::1]:8080:80/udp,socket", [Port("::1", 8080, 80, "udp", "socket")]),
        ("[fd00::1.2.3.4]::80,fd", [Port("fd00::102:304", 0, 80, "tcp", "fd")]),
        ("[0:0::1]:1:1", [Port("::1", 1, 1)]),
        ("8000-8002:80-82", [Port("", 8000, 80), Port("", 8001, 81), Port("", 8002, 82)]),
        ("8000-8002:80", [Port("", 0, 80, choice=(8000, 8002))]),
        ("80-81", [Port("", 0, 80), Port("", 0, 81)]),
        ("80-80:80-80", [Port("", 80, 80)]),
    ],
)
def test_publish(text: str, expected: list[Port]) -> None:
    assert list(network.parse_publish(text)) == expected


@pytest.mark.parametrize(
    "text",
    ["", ":", "::", "80:", "a:80", "1:2:3", "127.0.0.1:80", "::1:80:80", "[::1]80:80", "[1.2.3.4:80:80", "80:80/",
     "80:80,", "80 :80", "-1:80", "8080:80\n", "٣:80", "256.0.0.1:80:80", "[fe80::1%lo]:80:80", "1-2-3:80",
     "80:80/tcp/udp", "[::ffff:1.2.3.4]:80:80", "65536:1", "1:65536", "1:0", "100000:1"],
)  # fmt: skip
def test_what_publishes_nothing(text: str) -> None:
    with pytest.raises(UsageError):
        network.parse_publish(text)


@given(HOSTILE | st.text("0123456789:.-/,[]tcpudna", max_size=20))
def test_publish_of_any_text_is_ports_that_read_back_or_an_error(text: str) -> None:
    try:
        found = network.parse_publish(text)
    except UsageError as error:
        assert error.message.endswith(".")
        return
    for port in found:
        again = network.parse_publish(str(port))
        assert again == (replace(port, choice=None),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80:8080", [Port("", 8080, 80)]),
        ("80:,443:0", [Port("", 0, 80), Port("", 0, 443)]),
    ],
)
def test_ports_as_geard_spells_them(text: str, expected: list[Port]) -> None:
    assert list(network.parse_ports(text)) == expected


def test_interfaces_of_net() -> None:
    assert network.parse_net("a:ip=10.0.0.2,ip6=FD00:0::2,mac=02-00-00-00-00-AA") == Interface(
        "a", "", "10.0.0.2", "fd00::2", "02:00:00:00:00:aa"
    )
    assert network.parse_net("none") == "none"
    assert network.parse_net("container:ctr-db.service") == "container:db"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (Port("", 80, 1), Port("", 80, 2), True),
        (Port("", 80, 1), Port("", 81, 1), False),
        (Port("", 80, 1), Port("", 80, 1, "udp"), False),
        (Port("", 80, 1), Port("10.0.0.1", 80, 1), True),
        (Port("", 80, 1), Port("::1", 80, 1), True),
        (Port("0.0.0.0", 80, 1), Port("::1", 80, 1), False),
        (Port("0.0.0.0", 80, 1), Port("::", 80, 1), False),
        (Port("0.0.0.0", 80, 1), Port("127.0.0.1", 80, 1), True),
        (Port("10.0.0.1", 80, 1), Port("10.0.0.2", 80, 1), False),
    ],
)
def test_which_ports_overlap(one: Port, other: Port, expected: bool) -> None:
    assert one.overlaps(other) is other.overlaps(one) is expected


def test_a_port_is_published_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[Port] = []
    overlaps = Port.overlaps
    monkeypatch.setattr(Port, "overlaps", lambda one, other: overlaps(compared.append(one) or one, other))  # type: ignore[func-returns-value]
    many = tuple(Port("", number, 80) for number in range(1, 901))
    several = (Port("127.0.0.1", 1000, 80), Port("127.0.0.2", 1000, 80), Port("", 1000, 80, "udp"))
    choice = (Port("", 0, 80), Port("", 0, 80))
    interface = (Interface("default"),)
    network.checked(Network("bridge", interface, many + several + choice))
    assert len(compared) == 1  # only those of one number
    with pytest.raises(
        UsageError, match="The port 900/tcp is published twice: 900:80/tcp and 127.0.0.1:900:81"
    ):
        network.checked(Network("bridge", interface, (*many, Port("127.0.0.1", 900, 81))))


# ---- definitions


@pytest.mark.parametrize(
    "wanted",
    [
        define(),
        define("a" * 63, "10.1.0.0/30", internal=True, isolate=False, mtu=1400),
        Definition(
            "x", "gear-x", make_subnets(["fd00::/64", "10.1.0.0/16"], ["10.1.9.9"], ["10.1.128.0/17"])
        ),
    ],
)
def test_definition_comes_back(wanted: Definition) -> None:
    document = json.loads(json.dumps(wanted.to_mapping()))
    assert Definition.from_mapping(document, "N") == wanted
    assert set(document) == {"version", "name", "driver", "interface", "subnets", "internal", "isolate", "mtu",
                             "parent", "vni", "peers"}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"version": 2}, "N is the definition of a network of version 2, not 1."),
        ({"x": 1}, "N is damaged: /x: no such member."),
        ({"name": "../x"}, "N is damaged: /name: '../x' can't name a network."),
        ({"name": "host"}, "N is damaged: /name: 'host' can't name a network."),
        ({"driver": "ipvlan"}, "N is damaged: /driver: 'ipvlan' is no kind of network."),
        ({"interface": "a/b"}, "N is damaged: /interface: 'a/b' can't name an interface."),
        (
            {"interface": "x" * 16},
            f"N is damaged: /interface: '{'x' * 16}' can't name an interface.",
        ),
        ({"subnets": []}, "N is damaged: A network has one subnet of IPv4, or one of IPv6, or one of each."),
        ({"mtu": 1000}, "N is damaged: An MTU of 1000 can't work."),
        ({"vni": 7}, "N is damaged: A network of the driver bridge has no --vni."),
        ({"internal": "no"}, "N is damaged: /internal: not as expected (true or false is wanted, not 'no')."),
    ],
)
def test_damaged_definition(changed: dict[str, Any], fault: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        Definition.from_mapping(define().to_mapping() | changed, "N")
    assert caught.value.message == fault


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("10.0.0.0",), "'10.0.0.0' is no subnet: it has no length, as in 10.1.0.0/24."),
        (("10.0.0.1/24",), "'10.0.0.1/24' is no subnet: 10.0.0.1/24 has host bits set."),
        (("10.0.0.0/31",), "10.0.0.0/31 can't be a subnet for containers."),
        (("0.0.0.0/0",), "0.0.0.0/0 can't be a subnet for containers."),
        (("fd00::/127",), "fd00::/127 can't be a subnet for containers."),
        (
            ("127.0.0.0/8",),
            "127.0.0.0/8 can't be a subnet for containers: these addresses have another meaning.",
        ),
        (("fe80::/64",), "fe80::/64 can't be a subnet for containers: these addresses have another meaning."),
        (
            ("224.0.0.0/24",),
            "224.0.0.0/24 can't be a subnet for containers: these addresses have another meaning.",
        ),
        (
            ("10.0.0.0/24", "10.0.1.1"),
            "The gateway 10.0.1.1 is no address of a host in the subnet 10.0.0.0/24.",
        ),
        (
            ("10.0.0.0/24", "10.0.0.255"),
            "The gateway 10.0.0.255 is no address of a host in the subnet 10.0.0.0/24.",
        ),
        (("10.0.0.0/24", "x"), "'x' is no address for a gateway."),
        (("10.0.0.0/24", None, "10.0.1.0/25"), "The range 10.0.1.0/25 is not in the subnet 10.0.0.0/24."),
        (("10.0.0.0/24", None, "fd00::/64"), "The range fd00::/64 is not in the subnet 10.0.0.0/24."),
    ],
)
def test_what_is_no_subnet(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_subnet(*arguments)
    assert caught.value.message == message


def test_gateways_belong_to_subnets() -> None:
    found = make_subnets(["fd00::/64", "10.0.0.0/24"], ["fd00::ff", "10.0.0.254"], [])
    assert [str(item.gateway) for item in found] == ["10.0.0.254", "fd00::ff"]
    with pytest.raises(UsageError, match="--gateway 10.0.0.1 needs a --subnet that it is in"):
        make_subnets([], ["10.0.0.1"], [])
    with pytest.raises(UsageError, match="takes one gateway"):
        make_subnets(["10.0.0.0/24"], ["10.0.0.1", "10.0.0.2"], [])
    with pytest.raises(UsageError, match="one subnet of IPv4"):
        checked(Definition("x", "gear-x", make_subnets(["10.0.0.0/24", "10.0.1.0/24"], [], [])))


def test_names_of_interfaces_are_short_and_differ() -> None:
    names = ["default", "a", "ten-chars-", "eleven-char", "x" * 62, "x" * 63]
    found = [interface_name(name) for name in names]
    assert found[:2] == ["gear-default", "gear-a"]
    assert len(set(found)) == len(names) and all(len(name) <= 15 for name in found)


# ---- subnets that nobody has


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    return machine(tmp_path, monkeypatch)


ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010000C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
br0\t0000590A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""


def test_free_subnets_avoid_routes_and_other_networks(layout: Layout) -> None:
    first = definitions.free_subnets(layout)
    assert str(first[0].subnet) == "10.89.0.0/24" and str(first[1].subnet).startswith("fd")
    assert definitions.free_subnets(layout) == first
    (definitions._PROC / "route").write_text(ROUTES)
    (definitions._PROC / "ipv6_route").write_text(
        f"{first[1].subnet.network_address.packed.hex()} 40 {'0' * 32} 00 {'0' * 32} 00000400 00000001 0 0 br0\n"
        f"fe80{'0' * 28} 40 {'0' * 32} 00 {'0' * 32} 00000400 00000001 0 0 br0\n"
        f"{'0' * 32} 00 {'0' * 32} 00 {'0' * 32} ffffffff 00000001 0 0 lo\n"
    )
    assert [str(route) for route, _ in definitions.routes()] == ["10.89.0.0/24", str(first[1].subnet)]
    second = definitions.free_subnets(layout)
    assert str(second[0].subnet) == "10.89.1.0/24" and second[1].subnet != first[1].subnet
    write(layout, Definition("other", "gear-other", second))
    assert str(definitions.free_subnets(layout)[0].subnet) == "10.89.2.0/24"


def test_without_ipv6_there_is_one_subnet(layout: Layout) -> None:
    (definitions._PROC / "if_inet6").unlink()
    assert [item.version for item in definitions.free_subnets(layout)] == [4]


def test_all_private_addresses_may_be_taken(layout: Layout) -> None:
    lines = "".join(
        f"tun0\t{word}\t0\t1\t0\t0\t0\t{mask}\n"
        for word, mask in (("0000000A", "000000FF"), ("000010AC", "0000F0FF"), ("0000A8C0", "0000FFFF"))
    )
    (definitions._PROC / "route").write_text("Iface\n" + lines)
    with pytest.raises(HostError, match="No subnet is left for a network"):
        definitions.free_subnets(layout)


def test_reading_definitions(layout: Layout) -> None:
    assert definitions.names(layout) == [] and definitions.find(layout, "a") is None
    with pytest.raises(NotFoundError, match="There is no network 'a'"):
        definitions.wanted(layout, ["a"])
    assert definitions.wanted(layout, ["default"])["default"].interface == "gear-default"
    write(layout, define("a"))
    assert definitions.names(layout) == ["a"] and definitions.get(layout, "a") == define("a")
    (layout.networks / "a").rename(layout.networks / "b")
    with pytest.raises(IntegrityError, match="is the definition of a network a"):
        definitions.get(layout, "b")


# ---- what the start helper is told


NETWORKS = {
    "inner": define("inner", "10.1.0.0/16", internal=True, mtu=1400),
    "default": define(),
}
CONNECTED = Network(
    "bridge",
    (
        Interface("inner", "eth0", "10.1.0.2", None, "02:00:00:00:00:01"),
        Interface("default", "eth1", "10.89.0.2", "fd00:1::2", "02:00:00:00:00:02"),
    ),
    (
        Port("", 8080, 80),
        Port("0.0.0.0", 53, 53, "udp"),
        Port("::1", 81, 80),
    ),
)


def test_start_member() -> None:
    found = attachment.start_member(
        "web", CONNECTED, NETWORKS, Naming((), ("192.0.2.53",), ("x",), ("ndots:2",))
    )
    assert found["resolver"] == {
        "servers": ["192.0.2.53"], "search": ["x"], "options": ["ndots:2"], "gateways": ["10.89.0.1", "fd00:1::1"],
        "host": ["10.89.0.1"],
    }  # fmt: skip
    first, second = found["interfaces"]
    assert first == {
        "network": "inner", "bridge": "gear-inner", "host": attachment.host_end("web", "eth0"), "name": "eth0",
        "mac": "02:00:00:00:00:01", "mtu": 1400, "addresses": ["10.1.0.2/16"], "gateways": [],
    }  # fmt: skip
    # The default routes go where there is a way out.
    assert second["gateways"] == ["10.89.0.1", "fd00:1::1"]
    assert second["addresses"] == ["10.89.0.2/24", "fd00:1::2/64"]
    assert first["host"] != second["host"] and len(first["host"]) <= 15
    ports = [
        (item["address"], item["protocol"], item["port"], item["to"], item["target"])
        for item in found["ports"]
    ]
    assert ports == [
        ("", "tcp", 8080, ["10.89.0.2", "fd00:1::2"], 80),
        ("0.0.0.0", "udp", 53, ["10.89.0.2"], 53),
        ("::1", "tcp", 81, ["fd00:1::2"], 80),
    ]
    assert {item["table"] for item in found["ports"]} == {"gear-default"}


def test_mac_addresses_are_stable_local_and_differ() -> None:
    found = {attachment.mac_address(name, net) for name in ("a", "b", "ab") for net in ("c", "bc")}
    assert len(found) == 6 and attachment.mac_address("a", "c") in found
    for mac in found:
        assert inet.mac_address(mac) == mac and int(mac[:2], 16) & 3 == 2


def rendered(**members: Any) -> tuple[dict[str, bytes], dict[str, list[tuple[str, str]]]]:
    """The bundle and the unit of a container."""
    spec, image = rendering.make_spec(**members), rendering.make_image()
    identity = Identity(0, 0, (), "/root")
    files = bundle.render(spec, image, identity, [], Layout(), networks=NETWORKS)
    return {path.name: data for path, data in files.items()}, unitsyntax.parse(
        units.render(spec, image, Layout()).decode()
    )


def test_bundle_and_unit_of_a_connected_container() -> None:
    files, unit = rendered(network=CONNECTED.to_mapping(), hostname="db")
    member = attachment.start_member("web", CONNECTED, NETWORKS, Naming())
    assert json.loads(files["start.json"])["network"] == member
    lines = files["hosts"].decode().splitlines()
    assert lines[2:] == ["10.1.0.2\tdb web", "10.89.0.2\tdb web", "fd00:1::2\tdb web"]
    networks = "gear-network@inner.service gear-network@default.service"
    assert ("Wants", networks) in unit["Unit"] and ("After", networks) in unit["Unit"]
    assert ("FileDescriptorStoreMax", "3") in unit["Service"]
    (unpublish,) = (value for key, value in unit["Service"] if key == "ExecStopPost")
    assert unitsyntax.command(unpublish)[3:] == [
        "/var/lib/gear/helper/current/network", "unpublish", "/var/lib/gear/containers/web"
    ]  # fmt: skip


def test_bundle_and_unit_without_ports_and_networks() -> None:
    silent = dict(rendered(network=replace(CONNECTED, ports=()).to_mapping())[1]["Service"])
    assert "ExecStopPost" in silent and "FileDescriptorStoreMax" not in silent
    files, unit = rendered()
    assert "network" not in json.loads(files["start.json"]) and "Wants" not in dict(unit["Unit"])
    assert "ExecStopPost" not in dict(unit["Service"])


def test_unit_of_a_network() -> None:
    text = units.render_network("a-b.c", Layout(state=Path("/srv/a b%")))
    sections = unitsyntax.parse(text.decode())
    service = dict(sections["Service"])
    assert (service["Type"], service["RemainAfterExit"]) == ("oneshot", "yes")
    for key, word in (("ExecStart", "up"), ("ExecReload", "up"), ("ExecStopPost", "down")):
        assert unitsyntax.command(service[key]) == [
            "/usr/bin/python3", "-I", "-S", "/srv/a b%/helper/current/network", word, "/srv/a b%/networks/a-b.c"
        ]  # fmt: skip
