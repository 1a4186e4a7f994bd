"""Networks that reach beyond a host: what definitions may say, what containers get of them, and the rules."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import unitsyntax
from hypothesis import given
from hypothesis import strategies as st
from nets import define, machine, write
from strategies import HOSTILE

from gear import attachment, connecting, defining, definitions, exposure, process, underlay, unitfile, units
from gear.definition import Definition, checked, make_subnets
from gear.errors import IntegrityError, UsageError
from gear.helper import announcing, nftables, ruleset
from gear.helper import underlay as laying
from gear.model import Layout
from gear.naming import Naming
from gear.network import Interface, Network, Port
from gear.underlay import MACVLAN, VXLAN, Underlay

SUBNETS = make_subnets(["10.1.0.0/24", "fd01::/64"], [], ["10.1.0.128/25", "fd01::8000/113"], own=True)
TUNNEL = Underlay(None, None, 7, ("192.0.2.1", "192.0.2.2"), None, 4789)
VX = Definition("vx", "gear-vx", SUBNETS, mtu=1450, driver=VXLAN, underlay=TUNNEL)
LAN = Definition("lan", "gear-lan", SUBNETS, driver=MACVLAN, underlay=Underlay("eth0.10", "bridge"))


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setattr(process, "find", lambda program: f"/usr/sbin/{program}")
    return machine(tmp_path, monkeypatch)


# ---- definitions


@pytest.mark.parametrize("wanted", [VX, LAN])
def test_definition_comes_back(wanted: Definition) -> None:
    document = json.loads(json.dumps(wanted.to_mapping()))
    assert Definition.from_mapping(document, "N") == checked(wanted) == wanted


def test_what_containers_hang_on() -> None:
    assert (VX.device, VX.tunnel) == ("gear-vx", "vx-vx")
    assert (LAN.device, LAN.tunnel) == ("eth0.10", None)
    assert laying.tunnel_of(VX.to_mapping()) == VX.tunnel
    assert [str(item.gateway) for item in SUBNETS] == ["10.1.0.129", "fd01::8001"]


@pytest.mark.parametrize(
    ("of", "changed", "fault"),
    [
        (VX, {"vni": 0}, "/vni: 0 can't be the number of a VXLAN"),
        (VX, {"vni": 1 << 24}, "/vni: 16777216 can't be the number of a VXLAN"),
        (VX, {"vni": True}, "/vni: not as expected (a whole number is wanted, not True)"),
        (VX, {"vni": None}, "A vxlan network needs a number, the same on each host"),
        (VX, {"peers": "192.0.2.1"}, "/peers: not as expected (an array is wanted, not '192.0.2.1')"),
        (VX, {"peers": ["192.0.2.1 drop"]}, "/peers: '192.0.2.1 drop' is no IP address"),
        (VX, {"peers": ["224.0.0.1"]}, "/peers: 224.0.0.1 can't be an end of a VXLAN: it is no address of one host"),
        (VX, {"peers": ["127.0.0.1"]}, "/peers: 127.0.0.1 can't be an end of a VXLAN: it is no address of one host"),
        (VX, {"peers": ["192.0.2.1", "192.0.2.1"]}, "192.0.2.1 can't be two ends of one VXLAN"),
        (VX, {"local": "192.0.2.1"}, "192.0.2.1 can't be two ends of one VXLAN"),
        (
            VX,
            {"peers": ["192.0.2.1", "2001:db8::1"]},
            "The ends of a VXLAN have addresses of IPv4, or of IPv6, and not of both",
        ),
        (
            VX,
            {"peers": ["10.1.0.9"]},
            "10.1.0.9 can't be an end of a VXLAN: it is in the network's own subnet 10.1.0.0/24",
        ),
        (VX, {"port": 0}, "/port: 0 is no port"),
        (VX, {"mode": "bridge"}, "A network of the driver vxlan has no --mode"),
        (VX, {"parent": "lo"}, "/parent: lo can't be the parent of a network: it does not lead out of this host"),
        (VX, {"parent": 'a" drop'}, "/parent: 'a\" drop' can't name an interface"),
        (VX, {"parent": "eth*"}, "/parent: 'eth*' can't name an interface"),
        (VX, {"interface": "eth0"}, "The interface of vx is called gear-vx"),
        (LAN, {"interface": "eth0.10"}, "The interface of lan is called gear-lan"),
        (LAN, {"parent": None}, "A macvlan network needs an interface of this host to hang on"),
        (LAN, {"parent": "gear-vx"}, "/parent: gear-vx can't be the parent of a network: it does not lead out of this"),
        (LAN, {"mode": "source"}, "/mode: 'source' is no mode of a macvlan"),
        (LAN, {"peers": ["192.0.2.1"]}, "A network of the driver macvlan has no --peer"),
        (LAN, {"internal": True}, "A macvlan network is as open as what its parent is connected to"),
        (LAN, {"isolate": False}, "A macvlan network is as open as what its parent is connected to"),
        (
            LAN,
            {"subnets": [{"subnet": "10.1.0.0/24", "gateway": "10.1.0.1", "range": None}]},
            "A macvlan network needs a range of addresses in each subnet: others have the rest",
        ),
    ],
)  # fmt: skip
def test_damaged_definition(of: Definition, changed: dict[str, Any], fault: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        Definition.from_mapping(of.to_mapping() | changed, "N")
    assert caught.value.message.startswith(f"N is damaged: {fault}")


@given(st.fixed_dictionaries({}, optional={
    name: HOSTILE | st.integers() | st.none() | st.lists(HOSTILE, max_size=2) for name in underlay.READERS
}))  # fmt: skip
def test_any_members_are_a_definition_or_an_error(members: dict[str, Any]) -> None:
    for of in (VX, LAN):
        try:
            found = Definition.from_mapping(of.to_mapping() | members, "N")
        except IntegrityError:
            continue
        for line in ruleset.render(found.to_mapping(), [], loopback6=True).splitlines():
            assert "\n" not in line and line.count('"') % 2 == 0


def test_what_is_asked_for_and_what_is_kept(layout: Layout) -> None:
    with pytest.raises(UsageError, match="A vxlan network needs the subnet that it has with others"):
        defining.define(layout, "vx", (), driver=VXLAN, underlay=Underlay(vni=7))
    made = defining.define(layout, "vx", SUBNETS, driver=VXLAN, underlay=Underlay(vni=7, peers=TUNNEL.peers))
    assert made == VX
    write(layout, made)
    # What it can't be without stays; peers are those that are named.
    again = defining.define(layout, "vx", (), underlay=Underlay(peers=("2001:db8::1",)))
    assert (again.subnets, again.underlay.vni, again.mtu) == (SUBNETS, 7, 1430)
    assert defining.define(layout, "vx", (), mtu=9000).underlay.peers == ()
    with pytest.raises(UsageError, match="vx has the driver vxlan, and can't get another"):
        defining.define(layout, "vx", (), driver="bridge")
    lan = defining.define(layout, "lan", SUBNETS, driver=MACVLAN, underlay=Underlay("eth0.10"))
    assert lan == LAN and lan.mtu is None
    other = defining.define(layout, "other", SUBNETS, driver=VXLAN, underlay=Underlay(vni=7))
    with pytest.raises(UsageError, match="The network vx is the VXLAN 7 already"):
        definitions.require_own_vni(layout, other)
    definitions.require_own_vni(layout, made)


def test_unit_waits_for_the_parent() -> None:
    unit = unitsyntax.parse(units.render_network("lan", Layout(), "eth-0.10").decode())["Unit"]
    device = "sys-subsystem-net-devices-eth\\x2d0.10.device"
    assert ("Wants", device) in unit and ("After", device) in unit
    assert unitfile.device_unit("a_b") == "sys-subsystem-net-devices-a_b.device"


# ---- containers


def test_start_member() -> None:
    on = (
        Interface("lan", "eth0", "10.1.0.128", "fd01::8000", "02:00:00:00:00:01"),
        Interface("vx", "eth1", "10.1.0.128", None, "02:00:00:00:00:02"),
    )
    found = attachment.start_member("web", Network("bridge", on), {"lan": LAN, "vx": VX}, Naming())[
        "interfaces"
    ]
    assert (found[0]["bridge"], found[0]["mode"], found[0]["gateways"]) == (
        "eth0.10", "bridge", ["10.1.0.129", "fd01::8001"]
    )  # fmt: skip
    assert (found[1]["bridge"], found[1]["mtu"], "mode" in found[1]) == ("gear-vx", 1450, False)


def test_the_host_is_not_called_by_a_macvlan(layout: Layout) -> None:
    from gear.link import parse_links

    links = tuple(parse_links("8000:localhost:80"))
    lan, vx = (Interface(name, f"eth{number}", "10.1.0.130", None, "02:00:00:00:00:01")
               for number, name in enumerate(("lan", "vx")))  # fmt: skip
    both, known = Network("bridge", (lan, vx), links=links), {"lan": LAN, "vx": VX}
    assert attachment.start_member("web", both, known, Naming())["gateways"] == ["10.1.0.129"]
    assert (
        attachment.start_member("web", Network("bridge", (lan,), links=links), known, Naming())["gateways"]
        == []
    )


@pytest.mark.parametrize("mode", ["nat", "socket"])
def test_ports_of_a_macvlan_are_its_own(layout: Layout, mode: str) -> None:
    write(layout, LAN)
    write(layout, define("a"))
    port = (Port("", 8080, 80, "tcp", mode),)

    def settle(*names: str) -> Network:
        asked = Network("bridge", tuple(Interface(name) for name in names), port)
        return connecting.settle(layout, "web", asked)

    for names in (("lan",), ("lan", "a")):
        with pytest.raises(UsageError, match=f"in the mode {mode}: this host can't reach it on lan"):
            settle(*names)
    assert [item.ip for item in settle("a", "lan").interfaces] == ["10.89.0.2", "10.1.0.130"]
    free = connecting.settle(
        layout, "web", Network("bridge", (Interface("lan"),), (Port("", 1, 80, "tcp", "fd"),))
    )
    assert free.ports[0].external == 1


def test_who_reaches_them() -> None:
    assert exposure.members_of(LAN) == "who is on the network of eth0.10, but not this host"
    assert "VXLAN 7 on this host 192.0.2.1 192.0.2.2" in exposure.members_of(VX)


# ---- the helper


def test_rules_of_a_vxlan() -> None:
    lines = [line.strip() for line in ruleset.render(VX.to_mapping(), [], loopback6=True).splitlines()]
    mine = "udp dport 4789 @th,96,24 7"
    assert f"ip saddr != {{ 192.0.2.1, 192.0.2.2 }} {mine} drop" in lines
    assert f"meta nfproto ipv6 {mine} drop" in lines and f'iifname "gear-*" {mine} drop' in lines
    assert 'iifname "gear-*" ip daddr { 192.0.2.1, 192.0.2.2 } udp dport 4789 drop' in lines
    changed = VX.to_mapping() | {"peers": [], "parent": "eth0"}
    alone = ruleset.render(changed, [], loopback6=True)
    assert f"meta nfproto ipv4 {mine} drop" in alone and f"meta nfproto ipv6 {mine} drop" in alone
    assert f'iifname != "eth0" {mine} drop' in alone
    assert "underlay" not in ruleset.render(define().to_mapping(), [], loopback6=True)
    assert nftables.elements({"address": "", "to": []} | {"table": "x"}, "web") == []


def test_an_answer_to_who_has_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames that are no answer are passed over; so is whatever this host sends, which such a socket hears as well."""
    asked: list[bytes] = []

    class Wire:
        def __init__(self, *_: object) -> None:
            self.waiting: list[tuple[bytes, int]] = []

        def bind(self, where: tuple[str, int]) -> None:
            assert where == ("vx-vx", 3)

        def send(self, frame: bytes) -> None:
            asked.append(frame)
            card, address = bytes.fromhex("020a00000001"), frame[38:42]
            answer = frame[6:12] + card + frame[12:20] + b"\0\x02" + card + address + frame[6:12] + bytes(4)
            own = answer[:22] + bytes.fromhex("020a00000002") + answer[28:]
            others = (b"\0" * 60, b"", answer[:28] + bytes(4) + answer[32:], answer)
            self.waiting = [(frame, 4), (own, 4), *[(other, 0) for other in others]]

        def recvfrom(self, size: int) -> tuple[bytes, tuple[str, int, int, int, bytes]]:
            frame, kind = self.waiting.pop(0)
            return frame[:size], ("vx-vx", 0x0806, kind, 1, frame[6:12])

        def close(self) -> None:
            assert not self.waiting

    monkeypatch.setattr(announcing, "socket", Wire)
    monkeypatch.setitem(sys.modules, "select", type("Select", (), {"select": lambda *_: ([1], [], [])}))
    assert announcing.owner_of("10.1.0.129", "vx-vx", 0.1) == "02:0a:00:00:00:01"
    (frame,) = asked
    assert frame[:6] == b"\xff" * 6 and frame[28:32] == bytes(4) and frame[38:42] == bytes([10, 1, 0, 129])
