"""A container's network without the right to make one: encoders, the ruleset as text, who has a port, refusals."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from gear.helper import (
    announcing,
    live,
    netlink,
    networks,
    nft,
    nftables,
    ports,
    rtnetlink,
    ruleset,
    start,
    sysctls,
)
from gear.helper.failure import Failure, Step

PORT: dict[str, Any] = {
    "table": "gear-default",
    "protocol": "tcp",
    "address": "",
    "port": 8080,
    "to": ["10.89.0.2", "fd12::2"],
    "target": 80,
}
NETWORK: dict[str, Any] = {
    "name": "default",
    "interface": "gear-default",
    "subnets": [
        {"subnet": "10.89.0.0/24", "gateway": "10.89.0.1", "range": None},
        {"subnet": "fd12::/64", "gateway": "fd12::1", "range": None},
    ],
    "internal": False,
    "isolate": True,
}


# ---- messages


def test_attributes_come_back_as_they_went() -> None:
    data = (
        netlink.text(1, "eth0")
        + netlink.u8(2, 7)
        + netlink.nest(3, netlink.u32(4, 5), netlink.attribute(5, b"abcde"))
    )
    assert len(data) % 4 == 0
    found = netlink.attributes(data)
    assert found[1] == b"eth0\0" and found[2] == b"\x07"
    assert netlink.attributes(found[3]) == {4: (5).to_bytes(4, sys.byteorder), 5: b"abcde"}


@pytest.mark.parametrize("data", [b"", b"\1", b"\0\0\0\0", b"\3\0\1\0abcd", b"\xff\xff\1\0"])
def test_damaged_attributes_end_the_reading(data: bytes) -> None:
    assert netlink.attributes(data).keys() <= {1}


def test_the_kernel_answers_without_any_right() -> None:
    """Addresses of lo, asked of this kernel; and a refusal with its number, and which message it was for."""
    routes = rtnetlink.Routes()
    assert (socket.inet_aton("127.0.0.1"), 8) in routes.addresses(rtnetlink.index_of("lo"))
    assert rtnetlink.index_of("there-is-none") == 0
    asked = netlink.Netlink(netlink.ROUTE)
    with pytest.raises(netlink.Refused) as caught:
        asked.ask(18, 0, bytes(4) + (10**6).to_bytes(4, sys.byteorder) + bytes(8))  # RTM_GETLINK
    assert caught.value.errno == 19 and caught.value.strerror == "No such device"
    # The socket is good for the next question, and a dump of all links has lo among them.
    names = {netlink.attributes(part[16:])[3] for part in asked.ask(18, netlink.DUMP, bytes(16))}
    assert b"lo\0" in names
    asked.close()
    routes.close()


def test_the_kernels_own_words_are_told() -> None:
    words = netlink.text(1, "Device is too tired")
    body = (-22).to_bytes(4, sys.byteorder, signed=True) + bytes(16) + words
    error = netlink._refusal(0x300, body)
    assert error is not None and str(error) == "[Errno 22] Invalid argument: Device is too tired"
    # Not capped: a copy of the whole message comes before the words.
    copied = netlink.message(16, 0, b"1234")
    error = netlink._refusal(0x200, body[:4] + copied + words)
    assert error is not None and error.strerror == "Invalid argument: Device is too tired"
    assert netlink._refusal(0, bytes(20)) is None


# ---- maps


def test_elements_of_each_address() -> None:
    def made(address: str, to: list[str]) -> list[tuple[str, str]]:
        return [
            (item.map, item.to) for item in nftables.elements(PORT | {"address": address, "to": to}, "web")
        ]

    both = PORT["to"]
    assert made("", both) == [("any4", "10.89.0.2"), ("any6", "fd12::2")]
    assert made("", both[:1]) == [("any4", "10.89.0.2")]
    assert made("0.0.0.0", both) == [("any4", "10.89.0.2")]
    assert made("::", both) == [("any6", "fd12::2")]
    assert made("127.0.0.1", both) == [("one4", "10.89.0.2")]
    assert made("::1", both) == [("one6", "fd12::2")]


def test_keys_are_padded_as_the_maps_types_are() -> None:
    any4, any6 = nftables.elements(PORT, "web")
    assert any4.key() == any6.key() == bytes([6, 0, 0, 0, 0x1F, 0x90, 0, 0])
    assert any4.value() == bytes([10, 89, 0, 2, 0, 80, 0, 0])
    assert any6.value() == socket.inet_pton(socket.AF_INET6, "fd12::2") + bytes([0, 80, 0, 0])
    (one,) = nftables.elements(PORT | {"address": "127.0.0.1", "protocol": "udp"}, "web")
    assert one.key() == bytes([127, 0, 0, 1, 17, 0, 0, 0, 0x1F, 0x90, 0, 0])


# ---- the ruleset


def rules(changes: dict[str, Any] | None = None, *, loopback6: bool = True) -> str:
    published = [*nftables.elements(PORT, "web"), *nftables.elements(PORT | {"address": "127.0.0.1"}, "web")]
    return ruleset.render(NETWORK | (changes or {}), published, loopback6=loopback6)


def test_the_ruleset_replaces_its_own_table_and_no_other() -> None:
    lines = rules().splitlines()
    assert lines[:3] == [
        "table inet gear-default",
        "delete table inet gear-default",
        "table inet gear-default {",
    ]
    assert not any(word in rules() for word in ("flush", "policy drop"))
    assert '            tcp . 8080 comment "web" : 10.89.0.2 . 80' in lines
    assert '            127.0.0.1 . tcp . 8080 comment "web" : 10.89.0.2 . 80' in lines
    assert '        iifname "gear-default" ip saddr != { 10.89.0.0/24 } drop' in lines


def test_internal_networks_have_no_way_out() -> None:
    text = rules({"internal": True})
    assert '        iifname "gear-default" drop\n        oifname "gear-default" drop' in text
    assert "ct status dnat accept" not in text and "oifname !=" not in text


def test_isolation_and_families() -> None:
    assert "gear-*" not in rules()
    assert 'oifname "gear-default" iifname "gear-*" accept' in rules({"isolate": False})
    assert 'iifname "gear-default" meta nfproto ipv6 drop' in rules({"subnets": NETWORK["subnets"][:1]})
    assert "ip6 daddr ::1 return" in rules(loopback6=False) and "::1 return" not in rules()


# ---- ports


@pytest.fixture
def containers(tmp_path: Path) -> Path:
    (tmp_path / "web").mkdir()
    return tmp_path


def reserve(containers: Path, **changes: Any) -> ports.Reservation:
    made = ports.Reservation()
    made.take([PORT | changes], "web", str(containers), Step())
    return made


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("address", ["", "0.0.0.0", "127.0.0.1"])
def test_nobody_else_gets_a_reserved_port(containers: Path, protocol: str, address: str) -> None:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    number = free_port(kind)
    held = reserve(containers, protocol=protocol, address=address, port=number)
    assert held.changed and len(held.sockets) == 1
    with socket.socket(socket.AF_INET, kind) as other:
        if kind == socket.SOCK_STREAM:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):  # noqa: PT012
            other.bind(("127.0.0.1", number))
            other.listen()
    # It does not answer either.
    if kind == socket.SOCK_STREAM:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", number))
    held.close()
    reserve(containers, protocol=protocol, address=address, port=number).close()


def test_who_has_a_port_is_named(containers: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        number = listening.getsockname()[1]
        name = Path("/proc/self/comm").read_text().strip()
        with pytest.raises(Failure) as caught:
            reserve(containers, port=number)
    assert caught.value.message == (
        f"can't publish port {number}/tcp: it is taken by {name} (pid {os.getpid()})"
    )


def test_a_container_that_runs_is_named(containers: Path) -> None:
    (containers / "db").mkdir()
    taken = {"interfaces": [{"host": "lo"}], "ports": [PORT | {"address": "127.0.0.1"}]}
    (containers / "db" / "start.json").write_text(json.dumps({"network": taken}))
    (containers / "damaged").mkdir()
    (containers / "damaged" / "start.json").write_text("{")
    assert ports.owner_of(PORT, "web", str(containers)) == "the container db"
    assert ports.container_with(PORT, "db", str(containers)) == ""
    taken["interfaces"][0]["host"] = "there-is-none"
    (containers / "db" / "start.json").write_text(json.dumps({"network": taken}))
    assert ports.container_with(PORT, "web", str(containers)) == ""


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("", "127.0.0.1", True),
        ("", "::", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("0.0.0.0", "::1", False),
        ("::", "::1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("::1", "::1", True),
    ],
)
def test_which_ports_overlap(one: str, other: str, expected: bool) -> None:
    assert ports.overlaps(PORT | {"address": one}, PORT | {"address": other}) is expected
    assert ports.overlaps(PORT | {"address": other}, PORT | {"address": one}) is expected
    assert not ports.overlaps(PORT | {"address": one}, PORT | {"address": one, "port": 1})
    assert not ports.overlaps(PORT | {"address": one}, PORT | {"address": one, "protocol": "udp"})


def test_what_pid_1_has_is_not_bound_again(containers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = free_port()
    first = reserve(containers, port=number)
    monkeypatch.setattr(ports, "_inherited", lambda: list(first.sockets))
    again = reserve(containers, port=number)
    assert not again.changed and again.sockets == first.sockets
    other = reserve(containers, port=free_port())
    assert other.changed
    first.close()
    other.close()


def test_sockets_are_handed_to_pid_1_under_one_name(
    containers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        monkeypatch.setattr("posix.environ", {b"NOTIFY_SOCKET": str(tmp_path / "notify").encode()})
        held = reserve(containers, port=free_port())
        start._store(held)
        message, descriptors, _, _ = socket.recv_fds(listening, 100, 4)
    assert message == b"FDSTORE=1\nFDNAME=published\nFDPOLL=0" and len(descriptors) == 1
    for descriptor in descriptors:
        os.close(descriptor)
    held.close()


# ---- networks, and containers that run


@pytest.mark.parametrize(("mtu", "expected"), [(None, 1500), (1400, 1400)])
def test_the_bridge_has_an_mtu_of_its_own(
    mtu: int | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have followed the least of its ports, and lost IPv6 below 1280 bytes."""
    definition = {**NETWORK, "driver": "bridge", "mtu": mtu}
    for name in ("networks/default", "containers/web"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "networks/default/network.json").write_text(json.dumps(definition))
    interface = {"network": "default", "host": "ve1", "mtu": mtu}
    (tmp_path / "containers/web/start.json").write_text(json.dumps({"network": {"interfaces": [interface]}}))
    sent: list[bytes] = []
    monkeypatch.setattr(
        netlink.Netlink, "send", lambda _, *requests: sent.extend(body for *_, body in requests)
    )
    monkeypatch.setattr(nftables.Maps, "has_table", lambda *_: True)
    monkeypatch.setattr(rtnetlink.Routes, "addresses", lambda *_: set())
    monkeypatch.setattr(networks, "index_of", {"gear-default": 7, "ve1": 8}.get)
    monkeypatch.setattr(sysctls, "write", lambda *_: None)
    monkeypatch.setattr(nft, "load", lambda *_: None)
    networks.up(str(tmp_path / "networks/default"), Step())
    size = netlink.u32(4, expected)  # IFLA_MTU
    assert [int.from_bytes(body[4:8], sys.byteorder) for body in sent if size in body] == [7, 8]


def test_what_was_before_a_change_comes_on_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(live, "adjust", lambda *arguments: given.append(arguments[:3]))
    before = {"ports": [PORT] * 2000}
    kept = os.dup(0)
    try:
        for content in (json.dumps(before), "[]"):
            (tmp_path / "before").write_text(content)
            with (tmp_path / "before").open() as file:
                os.dup2(file.fileno(), 0)
            status = networks.main(["adjust", "/containers/web/", "5"])
            assert (status == 0) is (content != "[]")
    finally:
        os.dup2(kept, 0)
        os.close(kept)
    assert given == [("/containers/web", 5, before)]
    assert capsys.readouterr().err == "gear: what was before is not one JSON object\n"


# ---- announcements


def test_frames_that_announce_addresses() -> None:
    mac = bytes.fromhex("020000000007")
    assert announcing.arp(mac, "10.89.0.7").hex() == (
        "ffffffffffff0200000000070806" "0001080006040001" "0200000000070a590007" "0000000000000a590007"
    )  # fmt: skip
    frame = announcing.advertisement(mac, "fd12::7")
    assert frame[:14].hex() == "3333000000010200000000" + "0786dd"
    header, body = frame[14:54], frame[54:]
    assert header[4:8] == bytes([0, 32, 58, 255]) and len(body) == 32
    assert (body[0], body[4]) == (136, 0x20)
    # What arrives sums up to nothing, with its pseudo header (RFC 4443, section 2.3).
    data = header[8:40] + bytes([0, 0, 0, 32, 0, 0, 0, 58]) + body
    total = sum(int.from_bytes(data[place : place + 2], "big") for place in range(0, len(data), 2))
    assert total % 0xFFFF == 0
